//! A watcher whose notifications or answers are lost, damaged or another's still follows its link.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

use super::forged::{refusal, sequence};
use super::*;
use crate::link::LinkIndex;
use crate::netlink::decode::NLMSG_ERROR;
use crate::sys::fault::Found;
use crate::sys::{Received, Woken, wait_readable};
use crate::{Event, Watcher};

/// What happens to what the kernel sends.
#[derive(Clone, Debug)]
enum Mishap {
    None,
    /// All of it is lost, and the loss is noticed. This follows.
    Lost(Box<Self>),
    /// No notification is whole.
    Damaged,
    /// There is no room for the next answer.
    NoAnswer,
    /// The kernel lacks memory for an answer.
    Refused,
    /// When the next answer has come, the link is made again, and the notifications of that are lost.
    Outdated,
    /// These come first.
    Queued(Vec<Found>),
}

/// The watcher's socket.
#[derive(Clone)]
struct Wire {
    mishap: Arc<Mutex<Mishap>>,
    /// The sequence number of the last question.
    asked: Arc<AtomicU32>,
    questions: Arc<AtomicUsize>,
    /// The next question is not sent.
    is_cut: Arc<Mutex<bool>>,
}

impl Wire {
    /// Between this watcher and the kernel.
    fn of(watcher: &Watcher) -> Self {
        let wire = Self {
            mishap: Arc::new(Mutex::new(Mishap::None)),
            asked: Arc::default(),
            questions: Arc::default(),
            is_cut: Arc::default(),
        };
        watcher.listener().socket().fault.put(wire.clone());
        wire
    }

    fn let_happen(&self, mishap: Mishap) {
        *self.mishap.lock().unwrap() = mishap;
    }

    fn is_answer(&self, datagram: &[u8]) -> bool {
        matches!(kind(datagram), libc::RTM_NEWLINK | NLMSG_ERROR)
            && sequence(datagram) == self.asked.load(Ordering::Relaxed)
    }
}

impl Line for Wire {
    fn send(&mut self, bytes: &[u8]) -> Option<io::Result<()>> {
        if std::mem::take(&mut *self.is_cut.lock().unwrap()) {
            return Some(Err(io::Error::from_raw_os_error(libc::EIO)));
        }
        self.asked.store(sequence(bytes), Ordering::Relaxed);
        self.questions.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn receive(&mut self, kernel: &mut dyn FnMut() -> Found) -> Found {
        let mut mishap = self.mishap.lock().unwrap();
        let is_lost = |found: &Found| matches!(found, Found::Datagram(_));
        if let Mishap::Lost(next) = &*mishap {
            *mishap = (**next).clone();
            while is_lost(&kernel()) {}
            return Found::Overflow;
        }
        if let Mishap::Queued(first) = &mut *mishap {
            match first.is_empty() {
                true => *mishap = Mishap::None,
                false => return first.remove(0),
            }
        }
        let mut found = kernel();
        let Found::Datagram(bytes) = &mut found else {
            return found;
        };
        match (&*mishap, self.is_answer(bytes)) {
            (Mishap::Damaged, false) => bytes.truncate(HEADER / 2),
            (Mishap::NoAnswer, true) => {
                *mishap = Mishap::None;
                return Found::Overflow;
            }
            (Mishap::Refused, true) => {
                let port = bytes[12..16].to_vec();
                *bytes = refusal(sequence(bytes), libc::ENOBUFS);
                bytes[12..16].copy_from_slice(&port);
            }
            (Mishap::Outdated, true) => {
                make_again("");
                while is_lost(&kernel()) {}
                *mishap = Mishap::Queued(vec![found]);
                return Found::Overflow;
            }
            _ => {}
        }
        found
    }
}

fn index(link: &str) -> LinkIndex {
    LinkIndex::new(ip_index(link)).unwrap()
}

fn ip_index(link: &str) -> u32 {
    let line = ip(&format!("-o link show dev {link}"));
    line.split(':').next().unwrap().parse().unwrap()
}

/// Another link gets the name of the VIP link. Returns the other's index.
fn make_again(options: &str) -> LinkIndex {
    ip(&format!("link del {LINK}"));
    add_link(LINK, options);
    index(LINK)
}

fn read(watcher: &mut Watcher) -> Vec<Event> {
    let mut events = Vec::new();
    watcher.read(&mut events).unwrap();
    events
}

/// A node with a watcher, on whose link made again the kernel makes no address, whose notifications come late.
fn wired_watcher() -> (Sandbox, Watcher, Wire) {
    let node = node();
    std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
    let mut watcher = manager(1 << 20).watcher().unwrap();
    // Until the kernel has nothing left to say.
    loop {
        read(&mut watcher);
        let woken = wait_readable(&watcher, &watcher, Duration::from_millis(100)).unwrap();
        if woken == Woken::TimedOut {
            let wire = Wire::of(&watcher);
            return (node, watcher, wire);
        }
    }
}

#[test]
fn watcher_asks_for_the_link_until_it_is_answered() {
    let (_node, mut watcher, wire) = wired_watcher();
    let before = watcher.link();
    let link = make_again("");
    wire.let_happen(Mishap::Lost(Box::new(Mishap::Refused)));
    assert_eq!(read(&mut watcher), [Event::Resync]);
    assert_eq!(
        watcher.link(),
        before,
        "the kernel has said nothing of the link"
    );
    // While the link is unknown, each may be the one.
    assert_eq!(watcher.listener().interest().link, None);
    wire.let_happen(Mishap::None);
    let events = read(&mut watcher);
    assert!(events.contains(&Event::LinkUp(link)), "{events:?}");
    assert_eq!(watcher.link(), Some(link));
    // It is known now.
    let questions = wire.questions.load(Ordering::Relaxed);
    read(&mut watcher);
    assert_eq!(wire.questions.load(Ordering::Relaxed), questions);
    assert_eq!(watcher.listener().interest().link, Some(link.get()));
}

#[test]
fn one_read_survives_a_lost_answer() {
    let (_node, mut watcher, wire) = wired_watcher();
    let link = make_again("");
    wire.let_happen(Mishap::Lost(Box::new(Mishap::NoAnswer)));
    assert_eq!(read(&mut watcher), [Event::Resync, Event::LinkUp(link)]);
}

#[test]
fn damaged_notification_may_be_of_the_link() {
    let (_node, mut watcher, wire) = wired_watcher();
    let link = make_again("");
    wire.let_happen(Mishap::Damaged);
    let events = read(&mut watcher);
    assert!(events.contains(&Event::Resync), "{events:?}");
    assert_eq!(watcher.link(), Some(link), "{events:?}");
}

#[test]
fn answer_from_before_a_loss_does_not_count() {
    let (_node, mut watcher, wire) = wired_watcher();
    make_again("");
    wire.let_happen(Mishap::Lost(Box::new(Mishap::Outdated)));
    let events = read(&mut watcher);
    assert_eq!(watcher.link(), Some(index(LINK)), "{events:?}");
}

/// A notification of another link bears the port id or the sequence number of the answer, by chance, or
/// both when the watcher has not asked.
#[test]
fn notification_is_no_answer() {
    let (_node, mut watcher, wire) = wired_watcher();
    let socket = Socket::open(1 << 20, Strictness::Preferred).unwrap();
    let mut request = Vec::new();
    link::get_link_message(&mut request, 1, &index("node0").into());
    socket.send(&request).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let Received::Datagram(answer) = socket.receive(&mut buffer).unwrap() else {
        panic!("no answer");
    };
    let of_others = |port: u32, sequence: u32| {
        let mut bytes = answer.to_vec();
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes[12..16].copy_from_slice(&port.to_ne_bytes());
        Found::Datagram(bytes)
    };
    wire.let_happen(Mishap::Lost(Box::new(Mishap::None)));
    assert_eq!(read(&mut watcher), [Event::Resync]);
    let (port, asked) = (
        watcher.listener().socket().port(),
        wire.asked.load(Ordering::Relaxed),
    );
    let link = watcher.link();
    for (lost, port, sequence) in [
        (true, port + 1, asked),
        (true, port, asked + 1),
        (false, port, asked),
    ] {
        let mut queued = vec![of_others(port, sequence)];
        let mut expected = Vec::new();
        if lost {
            queued.insert(0, Found::Overflow);
            expected.push(Event::Resync);
        }
        wire.let_happen(Mishap::Queued(queued));
        assert_eq!(read(&mut watcher), expected, "{lost} {port} {sequence}");
        assert_eq!(watcher.link(), link);
    }
}

/// What happened to the new link until the question could be sent is lost, and the watcher says so.
#[test]
fn question_that_could_not_be_sent_is_sent_by_the_next_read() {
    let (_node, mut watcher, wire) = wired_watcher();
    let link = make_again("");
    *wire.is_cut.lock().unwrap() = true;
    let mut events = Vec::new();
    let error = watcher.read(&mut events).expect_err(&format!("{events:?}"));
    assert_eq!(error.kind(), ErrorKind::System);
    watcher.read(&mut events).unwrap();
    let end = [Event::LinkUp(link), Event::Resync];
    assert!(events.ends_with(&end), "{events:?}");
}

/// The answer is of another link with the same index.
#[test]
fn index_that_another_link_has_is_not_followed() {
    let _node = node();
    let first = index(LINK);
    let manager = VipManager::builder(first).source(NODE_V4).open();
    let mut watcher = manager.unwrap().watcher().unwrap();
    let wire = Wire::of(&watcher);
    assert_eq!(make_again(&format!("index {first}")), first);
    wire.let_happen(Mishap::Lost(Box::new(Mishap::None)));
    assert_eq!(read(&mut watcher), [Event::Resync, Event::LinkGone]);
    assert_eq!(watcher.link(), None);
}
