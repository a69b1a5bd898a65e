//! The committed corpus of the fuzzer (`fuzz/corpus`): recorded from a real kernel, and run by every
//! `cargo test`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::{LINK, ip, node, shared};
use crate::fuzzing::{self, CALLS, converse, record};
use crate::netlink::decode::messages;
use crate::sys::Socket;
use crate::sys::fault::{Found, Line};

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 6] = [
    ("wire", fuzzing::wire),
    ("link", fuzzing::link),
    ("batch", fuzzing::batch),
    ("join", fuzzing::join),
    ("call", fuzzing::call),
    ("watch", fuzzing::watch),
];

fn directory(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

#[test]
fn the_corpus_is_run() {
    let _node = node();
    if !directory("").exists() {
        // Past libtest's capture.
        let mut out = std::io::stderr();
        let _ = std::io::Write::write_all(
            &mut out,
            b"\n*** SKIPPED the_corpus_is_run: fuzz/corpus is not part of the package\n\n",
        );
        return;
    }
    for (target, run) in TARGETS {
        let mut count = 0;
        for file in std::fs::read_dir(directory(target)).unwrap() {
            let path = file.unwrap().path();
            println!("{}", path.display());
            run(&std::fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 0, "{target} has no corpus");
    }
}

/// Where a call sends another message than when it was recorded, it reads the answers at the wrong
/// places and ends early. A third ends early anyway: by the time-out, or with the error recorded.
#[test]
fn recorded_calls_are_replayed_to_their_end() {
    let _node = node();
    if !directory("").exists() {
        return;
    }
    let files = std::fs::read_dir(directory("call")).unwrap();
    let (done, early): (Vec<_>, Vec<_>) = files
        .map(|file| file.unwrap().path())
        .partition(|path| fuzzing::call_succeeds(&std::fs::read(path).unwrap()));
    assert!(
        done.len() > early.len(),
        "{} were, but not {early:#?}",
        done.len()
    );
}

/// Writes down what comes.
struct Recorder(&'static Mutex<Vec<u8>>);

impl Line for Recorder {
    fn receive(&mut self, kernel: &mut dyn FnMut() -> Found) -> Found {
        let found = kernel();
        record(&found, &mut self.0.lock().unwrap());
        found
    }
}

/// The datagrams of a script.
fn datagrams(mut script: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some((tag, rest)) = script.split_first_chunk::<2>() {
        script = rest;
        let length = usize::from(u16::from_le_bytes(*tag));
        if length < 0x8000 {
            let (datagram, rest) = rest.split_at(length);
            all.push(datagram);
            script = rest;
        }
    }
    all
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    std::fs::write(directory(target).join(name), bytes).unwrap();
}

/// `-max_len` of `fuzz/run`: the fuzzer cuts what is longer.
const LONGEST: usize = 16384;

/// What is on the link before the call.
const BEFORE: [(&str, fn()); 3] = [
    ("fresh", || ()),
    ("plain", || {
        for vip in fuzzing::vips() {
            ip(&format!("addr add {vip} dev {LINK}"));
        }
    }),
    ("good", || {
        let mut vips = super::manager(1 << 20);
        vips.assign(fuzzing::vips()).unwrap();
    }),
];

#[test]
#[ignore = "writes fuzz/corpus anew: cargo test --lib record_the_corpus -- --ignored"]
fn record_the_corpus() {
    for (target, _) in TARGETS {
        let _ = std::fs::remove_dir_all(directory(target));
        std::fs::create_dir_all(directory(target)).unwrap();
    }
    let mut kinds = BTreeSet::new();
    for call in 0..CALLS {
        // A bit each for the manager's options, see `fuzzing::manager`.
        for options in [0, 1, 2, 4, 8, 16] {
            for (state, prepare) in BEFORE {
                if state != "fresh" && !matches!(options, 0 | 1) {
                    continue;
                }
                let _node = node();
                ip("addr add 192.0.2.11/32 dev node0");
                if options == 16 {
                    ip(&format!("link del {LINK}"));
                } else {
                    prepare();
                }
                let heard = shared::<Mutex<Vec<u8>>>();
                let put = |socket: &Socket| socket.fault.put(Recorder(heard));
                if converse(call, options, false, &put).is_none() {
                    continue;
                }
                let heard = heard.lock().unwrap();
                let name = format!("{call:02}-{options:02}-{state}");
                let script = [&[call, options][..], &heard].concat();
                fuzzing::call(&script);
                // Longer ones are slow to mutate, and say nothing that these do not.
                if script.len() < LONGEST && (options == 0 || call % 4 == 0) {
                    write("call", &name, &script);
                }
                sort(&heard, &name, &mut kinds);
            }
        }
    }
    watch();
}

/// Gives each datagram to the targets that it suits, one of a kind.
fn sort(script: &[u8], name: &str, kinds: &mut BTreeSet<(u16, u16, usize)>) {
    for (at, datagram) in datagrams(script).into_iter().enumerate() {
        let all: Vec<_> = messages(datagram).flatten().collect();
        let Some(first) = all.first() else { continue };
        if !kinds.insert((first.kind, first.flags, datagram.len() / 64)) {
            continue;
        }
        let name = format!("{name}-{at:02}");
        write("wire", &name, datagram);
        match first.kind {
            libc::RTM_NEWLINK => write("link", &name, &datagram[32..]),
            2 => {
                let count = u8::try_from(all.len()).unwrap();
                let head = [&[count][..], &first.sequence.to_le_bytes()].concat();
                write("batch", &name, &[&head, datagram].concat());
            }
            libc::RTM_NEWADDR | libc::RTM_NEWROUTE => {
                for options in [8, 9] {
                    let data = [&[options, 0][..], datagram].concat();
                    write("join", &format!("{name}-{options}"), &data);
                }
            }
            _ => {}
        }
    }
}

/// Notifications of much that can happen.
fn watch() {
    for (name, happen) in [
        ("assign", BEFORE[2].1),
        ("plain", BEFORE[1].1),
        ("wide", || {
            ip(&format!("addr add 10.0.0.1/24 dev {LINK}"));
            ip(&format!("addr del 10.0.0.1/24 dev {LINK}"));
        }),
        ("link", || {
            ip(&format!("link set {LINK} down"));
            ip(&format!("link set {LINK} up"));
            ip(&format!("link del {LINK}"));
        }),
        ("foreign", || {
            ip("route add local 10.96.0.1 dev node0 table local");
            ip("addr del 192.0.2.10/32 dev node0");
        }),
    ] {
        let _node = node();
        let socket = Socket::open(1 << 20, crate::sys::Strictness::Preferred).unwrap();
        for group in crate::netlink::listener::GROUPS {
            socket.join(group).unwrap();
        }
        happen();
        let heard = shared::<Mutex<Vec<u8>>>();
        socket.fault.put(Recorder(heard));
        let mut buffer = vec![0; 1 << 16];
        while let crate::sys::Received::Datagram(_) = socket.receive(&mut buffer).unwrap() {}
        let heard = heard.lock().unwrap();
        fuzzing::watch(&heard);
        write("watch", name, &heard);
    }
}
