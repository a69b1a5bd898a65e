//! What comes from the kernel is lost, late, strange or damaged, or says that it cannot.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::kit::Random;
use super::{
    FLAGS_AT, LINK, NODE_V4, assert_accounted, builder, failed, flags, ip, kind, names, node,
    on_link, shared, split, spoil_address, v4, v6,
};
use crate::netlink::decode::{NLMSG_DONE, NLMSG_ERROR};
use crate::netlink::encode::HEADER;
use crate::sys::fault::{Found, Line};
use crate::sys::{Socket, Strictness};
use crate::{
    Audited, Binding, Cause, Claim, Drift, ErrorKind, Family, Keeper, Report, Vip, VipManager,
};

/// Hears in its own way.
struct Hear<F>(F);

impl<F: FnMut(&mut dyn FnMut() -> Found) -> Found + Send> Line for Hear<F> {
    fn receive(&mut self, kernel: &mut dyn FnMut() -> Found) -> Found {
        (self.0)(kernel)
    }
}

pub(super) fn hear(
    socket: &Socket,
    how: impl FnMut(&mut dyn FnMut() -> Found) -> Found + Send + 'static,
) {
    socket.fault.put(Hear(how));
}

/// What a socket finds in the place of each datagram.
pub(super) fn find(socket: &Socket, mut how: impl FnMut(Vec<u8>) -> Found + Send + 'static) {
    hear(socket, move |kernel| match kernel() {
        Found::Datagram(bytes) => how(bytes),
        found => found,
    });
}

/// Sends in its own way.
struct Say<F>(F);

impl<F: FnMut(&[u8]) -> Option<std::io::Result<()>> + Send> Line for Say<F> {
    fn send(&mut self, bytes: &[u8]) -> Option<std::io::Result<()>> {
        (self.0)(bytes)
    }
}

pub(super) fn say(
    socket: &Socket,
    how: impl FnMut(&[u8]) -> Option<std::io::Result<()>> + Send + 'static,
) {
    socket.fault.put(Say(how));
}

pub(super) fn both(n: usize) -> Vec<IpAddr> {
    v4(n).into_iter().chain(v6(n)).collect()
}

/// However busy the machine.
pub(super) fn patient() -> VipManager {
    builder().open().unwrap()
}

/// Soon tired, where a call may well fall short.
fn hasty() -> VipManager {
    builder()
        .stall_timeout(Duration::from_millis(50))
        .open()
        .unwrap()
}

fn is_write(message: &[u8]) -> bool {
    matches!(
        kind(message),
        libc::RTM_NEWADDR | libc::RTM_DELADDR | libc::RTM_NEWROUTE | libc::RTM_DELROUTE
    )
}

/// An error reply to the message with this sequence number, capped as the replies to our requests are.
pub(super) fn refusal(sequence: u32, errno: i32) -> Vec<u8> {
    let length = u32::try_from(HEADER + 4 + HEADER).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(NLMSG_ERROR.to_ne_bytes());
    bytes.extend(netlink_packet_core::NLM_F_CAPPED.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend((-errno).to_ne_bytes());
    bytes.resize(length as usize, 0);
    bytes
}

pub(super) fn sequence(message: &[u8]) -> u32 {
    u32::from_ne_bytes(message[8..12].try_into().unwrap())
}

/// What the kernel has, by a manager that hears well.
pub(super) fn wrong(vips: &[IpAddr]) -> Vec<String> {
    let audit = patient().audit().unwrap();
    let good: BTreeSet<IpAddr> = audit
        .vips
        .iter()
        .filter(|audited| audited.drift.is_empty())
        .map(|audited| audited.vip.addr())
        .collect();
    let missing = vips.iter().filter(|vip| !good.contains(*vip));
    missing.map(|vip| format!("{vip}")).collect()
}

/// What happens to a datagram.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    /// Nothing is there, and nothing comes in its place.
    Lost,
    /// The receive buffer was full.
    Overflowed,
    /// It comes after the next one, or in a later call. Not so a part of a dump: the kernel never
    /// sends it behind the end, and a dump whose end has come is whole.
    Late,
    Twice,
    /// Behind a copy that is meant for another request.
    OtherSequence,
    /// Behind a message of a type that nobody knows.
    UnknownType,
    Truncated,
    /// An attribute, or a message, says that it is longer than what it stands in.
    NestedWrongly,
    /// Any byte is another one.
    Damaged,
}

const MISHAPS: [Mishap; 9] = [
    Mishap::Lost,
    Mishap::Overflowed,
    Mishap::Late,
    Mishap::Twice,
    Mishap::OtherSequence,
    Mishap::UnknownType,
    Mishap::Truncated,
    Mishap::NestedWrongly,
    Mishap::Damaged,
];

fn is_of_dump(datagram: &[u8]) -> bool {
    flags(datagram) & netlink_packet_core::NLM_F_MULTIPART != 0
}

impl Mishap {
    /// Puts it on a socket, for one datagram of `odds` behind the first `spared`; returns how often
    /// it has happened.
    fn befall(self, socket: &Socket, seed: u64, spared: u64, odds: usize) -> &'static AtomicUsize {
        let count = shared::<AtomicUsize>();
        let mut random = Random::seeded(seed);
        let mut spared = spared;
        let mut queue = VecDeque::new();
        hear(socket, move |kernel| {
            if let Some(found) = queue.pop_front() {
                return found;
            }
            let found = kernel();
            let Found::Datagram(bytes) = found else {
                return found;
            };
            if spared > 0 || random.below(odds) > 0 {
                spared = spared.saturating_sub(1);
                return Found::Datagram(bytes);
            }
            if matches!(self, Self::Late) && is_of_dump(&bytes) {
                return Found::Datagram(bytes);
            }
            count.fetch_add(1, Ordering::Relaxed);
            self.happen(bytes, &mut random, &mut queue, kernel)
        });
        count
    }

    /// What the socket finds instead of this datagram. What it finds afterwards goes into the queue.
    fn happen(
        self,
        mut bytes: Vec<u8>,
        random: &mut Random,
        queue: &mut VecDeque<Found>,
        kernel: &mut dyn FnMut() -> Found,
    ) -> Found {
        match self {
            Self::Lost => return Found::Nothing,
            Self::Overflowed => return Found::Overflow,
            Self::Late => {
                queue.push_back(Found::Datagram(bytes));
                return kernel();
            }
            Self::Twice => queue.push_back(Found::Datagram(bytes.clone())),
            Self::OtherSequence => {
                queue.push_back(Found::Datagram(bytes.clone()));
                for message in split(&mut bytes) {
                    let other = sequence(message).wrapping_add(1000);
                    message[8..12].copy_from_slice(&other.to_ne_bytes());
                }
            }
            Self::UnknownType => {
                let mut strange = refusal(sequence(&bytes).wrapping_sub(1), libc::EIO);
                strange[4..6].copy_from_slice(&999_u16.to_ne_bytes());
                strange.append(&mut bytes);
                bytes = strange;
            }
            Self::Truncated => bytes.truncate(random.below(bytes.len())),
            Self::NestedWrongly => {
                // The length of the message, or what is the length of the first attribute in an
                // address, a route or a link.
                let places = [0, HEADER + 8, HEADER + 12, HEADER + 16];
                let at = places[random.below(places.len())];
                if let Some(length) = bytes.get_mut(at..at + 2) {
                    length.copy_from_slice(&40_000_u16.to_ne_bytes());
                }
            }
            Self::Damaged => {
                let at = random.below(bytes.len());
                bytes[at] = bytes[at].wrapping_add(1 + u8::try_from(random.below(255)).unwrap());
            }
        }
        Found::Datagram(bytes)
    }

    /// Whether what is heard may be believed, where it is heard at all.
    fn leaves_the_truth(self) -> bool {
        !matches!(self, Self::Damaged | Self::NestedWrongly | Self::Truncated)
    }
}

/// Whether all that is amiss is that the kernel did not finish in time.
fn is_pending(error: &crate::Error) -> bool {
    let report = error.report();
    report.is_some_and(|r| r.failures.iter().all(|f| f.cause == Cause::Pending))
}

/// The outcome that every call of this round must reach in the end.
fn assert_reached(round: i32, set: &[IpAddr], context: &str) {
    match round {
        2 => assert_eq!(on_link(), BTreeSet::new(), "{context}"),
        _ => assert_eq!(wrong(set), [""; 0], "{context}"),
    }
}

/// The same call with nothing in the way. A hasty manager does not wait for a busy machine.
fn repeat(vips: &mut VipManager, round: i32, set: &[IpAddr]) -> Result<Report, crate::Error> {
    let mut call = || match round {
        2 => vips.release(set),
        _ => vips.assign(set),
    };
    let mut result = call();
    for _ in 0..100 {
        match &result {
            Err(error) if is_pending(error) => result = call(),
            _ => break,
        }
    }
    result
}

/// Of each call the report adds up, or nothing was written; `Ok` is true; and once all is well
/// again, the next call brings about what this one did not.
#[test]
fn no_mishap_loses_a_vip() {
    let heard: usize = std::thread::scope(|scope| {
        let each = MISHAPS.map(|mishap| scope.spawn(move || calls_with(mishap)));
        each.map(|one| one.join().unwrap()).iter().sum()
    });
    // Whether a call must listen is up to the kernel's workers.
    assert!(heard > 3, "{heard} notifications met a mishap");
}

/// How many notifications met it.
fn calls_with(mishap: Mishap) -> usize {
    let set = both(6);
    let _node = node();
    let mut counts = [0; 2];
    let (mut good, mut short) = (0, 0);
    for seed in 0..9 {
        let mut vips = hasty();
        // Replies, notifications, and both.
        let befall = |vips: &mut VipManager| {
            let connection = &mut vips.connection;
            let request =
                (seed % 3 != 1).then(|| mishap.befall(&connection.requests(), seed, seed, 3));
            let listen = (seed % 3 != 0).then(|| mishap.befall(connection.monitor(), seed, 0, 1));
            [request, listen]
        };
        for round in 0..3 {
            let happened = befall(&mut vips);
            let result = match round {
                0 => vips.assign(&set),
                1 => vips.normalize_only(&set),
                _ => vips.release(&set),
            };
            for (count, happened) in counts.iter_mut().zip(happened.iter().flatten()) {
                *count += happened.load(Ordering::Relaxed);
            }
            vips.connection.requests().fault.clear();
            vips.connection.monitor().fault.clear();
            let context = format!("{mishap:?}, seed {seed}, round {round}: {result:?}");
            println!("{context}");
            match &result {
                Ok(report) => {
                    good += 1;
                    assert_accounted(report, set.len());
                    if mishap.leaves_the_truth() {
                        assert_reached(round, &set, &context);
                    }
                }
                Err(error) => {
                    short += 1;
                    if let Some(report) = error.report() {
                        assert_accounted(report, set.len());
                    }
                }
            }
            let report = repeat(&mut vips, round, &set);
            assert_accounted(&report.expect(&context), set.len());
            assert_reached(round, &set, &context);
        }
    }
    println!("{mishap:?}: {counts:?} times, {good} calls good, {short} short");
    assert!(counts[0] > 5, "{mishap:?}: {counts:?}");
    counts[1]
}

/// The smallest receive buffer that there is, through every call.
#[test]
fn the_smallest_receive_buffer_serves() {
    let _node = node();
    let mut vips = builder().receive_buffer(1).open().unwrap();
    assert!(vips.connection.reply_capacity() < 8);
    let set = both(300);
    let mut watcher = vips.watcher().unwrap();
    assert_eq!(vips.assign(&set).unwrap().assigned, 600);
    // Its own is as small.
    let mut events = Vec::new();
    watcher.read(&mut events).unwrap();
    assert!(events.contains(&crate::Event::Resync));
    assert_eq!(vips.normalize().unwrap().unchanged, 600);
    assert_eq!(vips.audit().unwrap().vips.len(), 600);
    assert_eq!(vips.audit_deep().unwrap().vips.len(), 600);
    for vip in &set[..100] {
        ip(&format!("route del local {vip} dev {LINK} table local"));
    }
    assert_eq!(vips.normalize().unwrap().repaired, 100);
    let claim = Claim::link();
    let report = vips.reconcile(&claim, &set[..450]).unwrap();
    assert_eq!((report.unchanged, report.released), (450, 150));
    let mut keeper = vips.into_keeper(claim.clone()).unwrap();
    keeper.set_desired(&set);
    assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.assigned, 150);
    let mut vips = keeper.into_manager();
    assert_eq!(vips.release_all(&claim).unwrap().released, 600);
}

/// Makes the kernel pass over the messages of a batch for which `which` gives an error number, and
/// answers them with that.
pub(super) fn refuse(
    vips: &mut VipManager,
    mut which: impl FnMut(&[u8]) -> Option<i32> + Send + Sync + 'static,
) -> &'static AtomicUsize {
    const NOOP: u16 = 1;
    let count = shared::<AtomicUsize>();
    let replies = shared::<Mutex<VecDeque<_>>>();
    let connection = &mut vips.connection;
    connection.tamper = Some(Box::new(move |batch| {
        for message in split(batch) {
            if let Some(errno) = which(message) {
                count.fetch_add(1, Ordering::Relaxed);
                let reply = refusal(sequence(message), errno);
                replies.lock().unwrap().push_back(reply);
                message[4..6].copy_from_slice(&NOOP.to_ne_bytes());
                message[FLAGS_AT..FLAGS_AT + 2].copy_from_slice(&[0; 2]);
            }
        }
    }));
    hear(&connection.requests(), move |kernel| {
        let replies = replies.lock().unwrap().pop_front();
        replies.map_or_else(kernel, Found::Datagram)
    });
    count
}

/// What the kernel is short of comes back: each message is refused once.
#[test]
fn a_shortage_that_passes_is_outlasted() {
    for errno in [
        libc::ENOMEM,
        libc::ENOBUFS,
        libc::EBUSY,
        libc::EAGAIN,
        libc::EINTR,
    ] {
        let _node = node();
        let mut vips = patient();
        let mut seen = BTreeSet::new();
        let count = refuse(&mut vips, move |message| {
            // All of the message but its sequence number and flags.
            let is_new = seen.insert((kind(message), message[HEADER..].to_vec()));
            is_new.then_some(errno)
        });
        let set = both(20);
        let report = vips.assign(&set).unwrap();
        assert_eq!(report.assigned, 40, "{errno}: {report}");
        assert!(report.retries > 0);
        assert!(count.load(Ordering::Relaxed) >= 80);
        assert_eq!(wrong(&set), [""; 0]);
        assert_eq!(vips.release(&set).unwrap().released, 40);
        assert_eq!(on_link(), BTreeSet::new());
    }
}

/// What does not come back fails the VIPs that it hits, with its number, and no other.
#[test]
fn lasting_shortage_fails_only_affected_vips() {
    for errno in [libc::ENOMEM, libc::EBUSY, libc::ENOSPC, libc::EDQUOT] {
        let _node = node();
        let mut vips = patient();
        let set = v4(20);
        let bad = set[7];
        let count = refuse(&mut vips, move |message| {
            names(message, &bad).then_some(errno)
        });
        let report = failed(vips.assign(&set), ErrorKind::Incomplete, 20);
        assert_eq!(report.assigned, 19);
        let failure = &report.failures[0];
        assert_eq!(failure.vip, Vip::from(bad));
        assert_eq!(
            (failure.cause, failure.errno),
            (Cause::Kernel, Some(errno)),
            "{failure}"
        );
        // Bounded.
        assert!((1..=60).contains(&count.load(Ordering::Relaxed)));
        assert!(!on_link().contains(&bad));
        vips.connection.tamper = None;
        assert_eq!(vips.assign(&set).unwrap().assigned, 1);
    }
}

/// The kernel takes the first batches not at all; or none.
#[test]
fn a_send_that_fails() {
    for (errno, times, kind) in [
        (libc::ENOBUFS, 3, None),
        (libc::ENOMEM, 3, None),
        (libc::ENOMEM, usize::MAX, Some(ErrorKind::Incomplete)),
        (libc::EMSGSIZE, usize::MAX, Some(ErrorKind::System)),
        (libc::ECONNREFUSED, 1, Some(ErrorKind::System)),
    ] {
        let _node = node();
        let mut vips = patient();
        let count = shared::<AtomicUsize>();
        say(&vips.connection.requests(), move |bytes| {
            let fails = is_write(bytes) && count.fetch_add(1, Ordering::Relaxed) < times;
            fails.then(|| Err(std::io::Error::from_raw_os_error(errno)))
        });
        let set = both(20);
        let result = vips.assign(&set);
        assert!(count.load(Ordering::Relaxed) >= if times == 3 { 3 } else { 1 });
        match (kind, result) {
            (None, Ok(report)) => {
                assert_eq!(report.assigned, 40);
                assert_eq!(wrong(&set), [""; 0]);
            }
            (Some(kind), result @ Err(_)) => {
                assert_eq!(failed(result, kind, 40).failures.len(), 40);
                assert_eq!(on_link(), BTreeSet::new());
            }
            (_, result) => panic!("errno {errno}: {result:?}"),
        }
    }
}

/// Answers the dumps, those that `which` picks by their number, with an error.
fn refuse_dumps(vips: &mut VipManager, errno: i32, which: impl Fn(usize) -> bool + Send + 'static) {
    let mut count = 0;
    let mut last = None;
    find(&vips.connection.requests(), move |bytes| {
        let dump = sequence(&bytes);
        let is_dump = is_of_dump(&bytes) || kind(&bytes) == NLMSG_DONE;
        if is_dump && last.replace(dump) != Some(dump) {
            count += 1;
            if which(count) {
                return Found::Datagram(refusal(dump, errno));
            }
        }
        Found::Datagram(bytes)
    });
}

/// The link cannot be read: an error, with the report if something was written.
#[test]
fn a_dump_that_is_refused() {
    for errno in [libc::EBUSY, libc::ENOMEM] {
        let _node = node();
        let set = both(20);
        let mut vips = patient();
        refuse_dumps(&mut vips, errno, |count| count == 1);
        let error = vips.assign(&set).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::System, "{error}");
        assert_eq!(error.raw_os_error(), Some(errno));
        assert!(error.report().is_none());
        assert_eq!(on_link(), BTreeSet::new());
        // Later: the addresses are there. How many dumps come before depends on the node's quiet.
        refuse_dumps(&mut vips, errno, |_| !on_link().is_empty());
        failed(vips.assign(&set), ErrorKind::System, 40);
        assert!(!on_link().is_empty());
        vips.connection.requests().fault.clear();
        assert_accounted(&vips.assign(&set).unwrap(), 40);
        assert_eq!(wrong(&set), [""; 0]);
    }
}

/// Dumps are said to be interrupted, and are: half of their entries are missing. The flag alone tells.
pub(super) fn interrupt_dumps(vips: &mut VipManager, times: usize) -> &'static AtomicUsize {
    let count = shared::<AtomicUsize>();
    find(&vips.connection.requests(), move |mut bytes| {
        let is_dump = |kind| matches!(kind, libc::RTM_NEWADDR | libc::RTM_NEWROUTE);
        if !is_dump(kind(&bytes)) || !is_of_dump(&bytes) || count.load(Ordering::Relaxed) >= times {
            return Found::Datagram(bytes);
        }
        count.fetch_add(1, Ordering::Relaxed);
        for (at, message) in split(&mut bytes).enumerate() {
            message[FLAGS_AT] |= u8::try_from(netlink_packet_core::NLM_F_DUMP_INTR).unwrap();
            if at % 2 == 0 && is_dump(kind(message)) {
                message[4..6].copy_from_slice(&1_u16.to_ne_bytes());
            }
        }
        Found::Datagram(bytes)
    });
    count
}

#[test]
fn dump_with_interrupted_flag_is_repeated() {
    let _node = node();
    let set = both(40);
    let mut vips = patient();
    vips.assign(&set).unwrap();
    for times in [1, 2, 3] {
        let interrupted = interrupt_dumps(&mut vips, times);
        let audit = vips.audit().unwrap();
        assert_eq!(audit.vips.len(), 80, "interrupted {times} times");
        assert_eq!(audit.drifted().count(), 0, "interrupted {times} times");
        assert_eq!(interrupted.load(Ordering::Relaxed), times);
        let interrupted = interrupt_dumps(&mut vips, times);
        let report = vips.normalize().unwrap();
        assert_eq!((report.unchanged, report.writes), (80, 0));
        assert_eq!(interrupted.load(Ordering::Relaxed), times);
    }
    // For ever. IPv6 is asked for each address, so nothing is touched; IPv4 cannot be asked, and
    // what its dump leaves out is tried, refused and reported.
    let interrupted = interrupt_dumps(&mut vips, usize::MAX);
    assert_eq!(vips.assign(&set[40..]).unwrap().unchanged, 40);
    let audit = vips.audit().unwrap();
    let is_v6 = |vip: &Vip| vip.addr().is_ipv6();
    assert!(audit.drifted().all(|audited| !is_v6(&audited.vip)));
    assert_eq!(vips.release(&set[60..]).unwrap().released, 20);
    assert_eq!(on_link().len(), 60);
    let report = failed(vips.assign(&set[..60]), ErrorKind::Incomplete, 60);
    assert_eq!(report.unchanged, 40);
    assert!(interrupted.load(Ordering::Relaxed) > 3);
    assert_eq!(wrong(&set[..60]), [""; 0]);
}

/// Where a rule comes before the one for table local, nothing but the dumps can tell, and what an
/// interrupted one does not show is not known.
#[test]
fn what_interrupted_dumps_do_not_show_is_not_written_to_under_a_rule() {
    for rule in ["unreachable", "lookup main"] {
        let _node = node();
        let set = both(40);
        let mut vips = patient();
        vips.assign(&set).unwrap();
        for family in ["-4", "-6"] {
            ip(&format!("{family} rule add pref 100 lookup local"));
            ip(&format!("{family} rule del pref 0"));
            ip(&format!("{family} rule add pref 99 {rule}"));
        }
        let interrupted = interrupt_dumps(&mut vips, usize::MAX);
        let audit = vips.audit().unwrap();
        let unread = |drift: Drift| drift == Drift::UNREAD;
        assert!(audit.drifted().all(|vip| unread(vip.drift)), "{audit:?}");
        for releases in [false, true] {
            let result = match releases {
                false => vips.assign(&set),
                true => vips.release(&set),
            };
            let report = failed(result, ErrorKind::Incomplete, set.len());
            // What a dump showed is a fact: those rows go or are seen to be right. Of the others
            // nothing is known.
            assert_eq!(report.assigned + report.repaired, 0, "{report}");
            for failure in &report.failures {
                assert_eq!(failure.cause, Cause::Unread, "{failure}");
                assert!(failure.drift.contains(Drift::UNREAD), "{failure}");
            }
            assert!(!report.failures.is_empty());
        }
        assert!(interrupted.load(Ordering::Relaxed) > 3);
    }
}

/// The place of `rtm_table` in a message about a route (linux/rtnetlink.h).
const TABLE_AT: usize = 20;

/// Look-ups say that there is no route, as they do while the kernel's own route is being destroyed in front
/// of the desired route. The dumps show the desired route.
#[test]
fn look_up_without_a_route_hides_no_route_that_an_interrupted_dump_showed() {
    let _node = node();
    let set = v6(40);
    let hidden = set[0];
    let mut vips = patient();
    vips.assign(&set).unwrap();
    let denied = shared::<AtomicUsize>();
    find(&vips.connection.requests(), move |mut bytes| {
        let is_route = kind(&bytes) == libc::RTM_NEWROUTE;
        if is_of_dump(&bytes) && is_route && bytes[TABLE_AT] == libc::RT_TABLE_LOCAL {
            for message in split(&mut bytes) {
                message[FLAGS_AT] |= u8::try_from(netlink_packet_core::NLM_F_DUMP_INTR).unwrap();
            }
        } else if is_route && names(&bytes, &hidden) {
            denied.fetch_add(1, Ordering::Relaxed);
            bytes = refusal(sequence(&bytes), libc::ENETUNREACH);
        }
        Found::Datagram(bytes)
    });
    let report = vips.release(&set).unwrap();
    assert_eq!(report.released, set.len(), "{report}");
    assert!(denied.load(Ordering::Relaxed) > 0, "no look-up");
    assert_eq!(ip(&format!("-6 route show table local {hidden}")), "");
}

/// A rule answers the look-up that is to show that a released VIP's routes are gone, while another
/// writer adds a route. The rule comes behind the look at the rules; either it is gone again before the
/// next look, or its notification has not come yet.
#[test]
fn look_up_proves_nothing_while_a_rule_comes_or_goes() {
    let vip = v6(1)[0];
    let route = format!("local {vip} dev {LINK} table local metric 7");
    for goes in [true, false] {
        let _node = node();
        let mut vips = patient();
        vips.assign([vip]).unwrap();
        ip("-6 rule add pref 100 lookup local");
        ip("-6 rule add pref 99 unreachable");
        let stands = shared::<AtomicBool>();
        let came = shared::<AtomicUsize>();
        let again = route.clone();
        let connection = &mut vips.connection;
        connection.tamper_look_up = Some(Box::new(move |bytes| {
            if kind(bytes) != libc::RTM_GETROUTE {
                return;
            }
            if stands.swap(true, Ordering::Relaxed) {
                return;
            }
            ip("-6 rule del pref 0");
            if came.fetch_add(1, Ordering::Relaxed) == 0 {
                ip(&format!("-6 route add {again}"));
            }
        }));
        if goes {
            hear(&connection.requests(), move |kernel| {
                if stands.swap(false, Ordering::Relaxed) {
                    ip("-6 rule add pref 0 lookup local");
                }
                kernel()
            });
        } else {
            hear(connection.rules_socket(), |_| Found::Nothing);
        }
        let report = vips.release([vip]).unwrap();
        assert_eq!(report.released, 1, "{report}");
        assert!(came.load(Ordering::Relaxed) > 0, "no look-up met the rule");
        assert_eq!(ip(&format!("-6 route show table local {vip}")), "");
    }
}

/// No answer to a look-up is not an answer.
#[test]
fn a_look_up_whose_reply_is_lost_does_not_say_that_there_is_no_route() {
    let _node = node();
    let set = v6(2);
    for binding in [Binding::Address, Binding::Route] {
        let mut vips = builder().binding(binding).open().unwrap();
        vips.assign(&set).unwrap();
        vips.connection.tamper_look_up = Some(Box::new(|bytes| {
            for message in split(bytes).filter(|message| kind(message) == libc::RTM_GETROUTE) {
                // NLMSG_NOOP, which the kernel passes over.
                message[4..6].copy_from_slice(&1_u16.to_ne_bytes());
            }
        }));
        let report = vips.release(&set).unwrap();
        assert_eq!((report.released, report.unchanged), (2, 0), "{report}");
        vips.connection.tamper_look_up = None;
        assert_eq!(vips.audit().unwrap().vips, []);
    }
}

/// An answer that cannot be read ends the call, not the socket: the rest of the dump is not left
/// for the next one.
#[test]
fn a_dump_that_cannot_be_read_to_its_end() {
    let _node = node();
    let set = both(3000);
    let mut vips = patient();
    vips.assign(&set).unwrap();
    // No attribute fits, or no message.
    for (at, damage) in [(1, HEADER + 8), (3, HEADER + 8), (2, 0)] {
        let mut count = 0;
        find(&vips.connection.requests(), move |mut bytes| {
            count += usize::from(kind(&bytes) == libc::RTM_NEWADDR);
            if count == at && kind(&bytes) == libc::RTM_NEWADDR {
                bytes[damage..damage + 2].copy_from_slice(&2_u16.to_ne_bytes());
            }
            Found::Datagram(bytes)
        });
        let error = vips.audit().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::System, "{error}");
        vips.connection.requests().fault.clear();
        let audit = vips.audit().expect("the next call is as good as any");
        assert_eq!((audit.vips.len(), audit.drifted().count()), (6000, 0));
    }
}

/// A look-up that fails for want of memory says nothing of the route. Where the VIPs keep the
/// kernel's, "no route" would cost the address.
#[test]
fn a_look_up_that_fails_is_no_answer() {
    for errno in [libc::ENOMEM, libc::ENOBUFS, libc::EBUSY] {
        let _node = node();
        let mut vips = VipManager::builder(LINK)
            .source(NODE_V4)
            .kernel_source(Family::V6)
            .stall_timeout(Duration::from_secs(60))
            .open()
            .unwrap();
        let set = both(20);
        vips.assign(&set).unwrap();
        let failed = shared::<AtomicUsize>();
        let mut interrupted = 0;
        find(&vips.connection.requests(), move |bytes| {
            match kind(&bytes) {
                // Every dump is in doubt.
                NLMSG_DONE if interrupted < 100 => {
                    interrupted += 1;
                    Found::Overflow
                }
                libc::RTM_NEWROUTE if !is_of_dump(&bytes) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    Found::Datagram(refusal(sequence(&bytes), errno))
                }
                _ => Found::Datagram(bytes),
            }
        });
        // One source's look-up is before the VIPs': only from then on.
        let report = match vips.assign(&set[20..]) {
            Ok(report) => report,
            Err(error) => error.into_report().unwrap(),
        };
        assert_accounted(&report, 20);
        assert!(failed.load(Ordering::Relaxed) >= 20, "no look-up failed");
        assert_eq!(report.writes, 0, "written on no answer: {report}");
    }
}

/// A look-up of an address that fails says nothing of the address: "no address" would cost the route.
#[test]
fn look_up_of_an_address_that_fails_is_no_answer() {
    for errno in [libc::ENOMEM, libc::EPERM, libc::EINVAL] {
        // Of few VIPs the addresses are looked up at once; of many only if the dumps are in doubt.
        for size in [1, 40] {
            let _node = node();
            let mut vips = builder()
                .stall_timeout(Duration::from_secs(60))
                .open()
                .unwrap();
            let set = v6(size);
            vips.assign(&set).unwrap();
            let failed = shared::<AtomicUsize>();
            find(&vips.connection.requests(), move |bytes| {
                match (kind(&bytes), is_of_dump(&bytes)) {
                    (libc::RTM_NEWADDR, true) if size > 1 => Found::Overflow,
                    // The first is the source's.
                    (libc::RTM_NEWADDR, false) if failed.fetch_add(1, Ordering::Relaxed) > 0 => {
                        Found::Datagram(refusal(sequence(&bytes), errno))
                    }
                    _ => Found::Datagram(bytes),
                }
            });
            let report = match vips.assign(&set) {
                Ok(report) => report,
                Err(error) => error.into_report().unwrap(),
            };
            assert_accounted(&report, set.len());
            assert!(failed.load(Ordering::Relaxed) > 1, "no look-up failed");
            assert_eq!(report.writes, 0, "{errno}: written on no answer: {report}");
        }
    }
}

/// A look-up of the source that fails does not say that the node lacks the source.
#[test]
fn look_up_of_a_source_that_fails_is_no_missing_source() {
    for errno in [libc::EPERM, libc::EINVAL] {
        let _node = node();
        let mut vips = builder().open().unwrap();
        vips.assign(v6(2)).unwrap();
        let failed = shared::<AtomicUsize>();
        find(&vips.connection.requests(), move |bytes| {
            if kind(&bytes) == libc::RTM_NEWADDR && !is_of_dump(&bytes) {
                failed.fetch_add(1, Ordering::Relaxed);
                return Found::Datagram(refusal(sequence(&bytes), errno));
            }
            Found::Datagram(bytes)
        });
        let error = vips.assign(v6(2)).unwrap_err();
        assert_eq!(failed.load(Ordering::Relaxed), 1, "no look-up failed");
        assert_ne!(error.kind(), ErrorKind::Incomplete, "{error}");
        assert_ne!(error.kind(), ErrorKind::SourceNotOnNode, "{error}");
        assert_eq!(error.raw_os_error(), Some(errno), "{error}");
    }
}

/// A look-up that fails for want of memory does not say that a routing rule diverts the VIP.
#[test]
fn failed_look_up_diverts_no_vip() {
    let _node = node();
    let mut vips = builder().open().unwrap();
    vips.assign(both(3)).unwrap();
    for family in ["-4", "-6"] {
        ip(&format!("{family} rule add pref 100 lookup local"));
        ip(&format!("{family} rule add pref 50 lookup main"));
        ip(&format!("{family} rule del pref 0"));
    }
    assert_eq!(vips.audit_deep().unwrap().drifted().count(), 0);
    let failed = shared::<AtomicUsize>();
    find(&vips.connection.requests(), move |bytes| {
        let is_look_up = kind(&bytes) == libc::RTM_NEWROUTE && !is_of_dump(&bytes);
        // The first is the source's.
        if is_look_up && failed.fetch_add(1, Ordering::Relaxed) > 0 {
            return Found::Datagram(refusal(sequence(&bytes), libc::ENOBUFS));
        }
        Found::Datagram(bytes)
    });
    let audit = vips.audit_deep().unwrap();
    assert!(failed.load(Ordering::Relaxed) > 1, "no look-up failed");
    let diverted = |vip: &&Audited| vip.drift.contains(Drift::DIVERTED);
    assert_eq!(audit.vips.iter().filter(diverted).count(), 0, "{audit:?}");
}

/// A keeper whose notifications are lost, or cannot be read, looks at everything.
#[test]
fn a_keeper_that_cannot_hear_looks() {
    for damage in [true, false] {
        let _node = node();
        let vips = patient();
        let socket = Socket::open(1 << 20, Strictness::Preferred).unwrap();
        let heard = shared::<AtomicUsize>();
        find(&socket, move |mut bytes| {
            heard.fetch_add(1, Ordering::Relaxed);
            if !damage {
                return Found::Overflow;
            }
            bytes.truncate(HEADER + 2);
            bytes[..4].copy_from_slice(&18_u32.to_ne_bytes());
            Found::Datagram(bytes)
        });
        let mut keeper = Keeper::new(vips, Claim::link(), socket).unwrap();
        let set = both(20);
        keeper.set_desired(&set);
        let report: Report = keeper.dispatch(usize::MAX).unwrap().report;
        assert_eq!(report.assigned, 40);
        while keeper.dispatch(usize::MAX).unwrap().more {}
        let resyncs = keeper.counters().resyncs;
        ip(&format!("addr del {}/32 dev {LINK}", set[0]));
        ip(&format!(
            "route del local {} dev {LINK} table local",
            set[30]
        ));
        let mut repaired = 0;
        for _ in 0..10 {
            let done = keeper.dispatch(usize::MAX).unwrap();
            repaired += done.report.assigned + done.report.repaired;
        }
        assert_eq!(repaired, 2);
        assert!(keeper.counters().resyncs > resyncs);
        assert!(heard.load(Ordering::Relaxed) > 0);
        assert_eq!(wrong(&set), [""; 0]);
    }
}

/// EPERM to one message of many is that VIP's; to every message it is the caller's want of privilege.
#[test]
fn one_refusal_for_want_of_privilege_is_of_one_vip() {
    let _node = node();
    let set = v4(300);
    let victim = set[77];
    let mut vips = patient();
    vips.connection.tamper = Some(Box::new(move |batch| {
        for message in split(batch).filter(|message| names(message, &victim)) {
            if kind(message) == libc::RTM_NEWADDR {
                spoil_address(message);
            }
        }
    }));
    find(&vips.connection.requests(), |mut bytes| {
        let errno = HEADER..HEADER + 4;
        if kind(&bytes) == NLMSG_ERROR && bytes[errno.clone()] == (-libc::EINVAL).to_ne_bytes() {
            bytes[errno].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        }
        Found::Datagram(bytes)
    });
    let report = failed(vips.assign(&set), ErrorKind::Incomplete, set.len());
    assert_eq!((report.assigned, report.failures.len()), (299, 1));
    assert_eq!(report.failures[0].cause, Cause::Kernel);
    assert_eq!(report.failures[0].errno, Some(libc::EPERM));
}

/// Nor does it say that a source is missing.
#[test]
fn a_source_that_cannot_be_looked_up_is_not_missing() {
    let _node = node();
    for answer in [libc::RTM_NEWROUTE, libc::RTM_NEWADDR] {
        let mut vips = patient();
        find(&vips.connection.requests(), move |mut bytes| {
            if kind(&bytes) == answer {
                bytes = refusal(sequence(&bytes), libc::ENOMEM);
            }
            Found::Datagram(bytes)
        });
        let error = vips.assign(both(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::System, "{error}");
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
        assert!(error.report().is_none());
        assert_eq!(on_link(), BTreeSet::new());
    }
}
