//! The system calls of `vip` under strace, against docs/privilege.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::example::{Running, example};
use common::{NODE_V4, NODE_V6, Net, VIP_LINK, skipped, vips};
use viproute::VipManager;

/// Two VIPs that are right and two that are not, and a second source.
fn node() -> Net {
    let net = Net::new();
    net.ip("addr add 192.0.2.11/32 dev node0");
    let mut manager = VipManager::builder(VIP_LINK)
        .source(NODE_V4)
        .source(NODE_V6)
        .open()
        .unwrap();
    manager.assign(vips(1)).unwrap();
    for vip in &vips(2)[2..] {
        net.ip(&format!("addr add {vip} dev {VIP_LINK}"));
    }
    net
}

/// The system calls of a table of docs/privilege.md that stands behind these words.
fn documented(behind: &str) -> BTreeSet<String> {
    let text = include_str!("../../../docs/privilege.md");
    let (_, text) = text.split_once(behind).expect("the words before the table");
    let table = text.lines().skip_while(|line| !line.starts_with('|'));
    let rows = table.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let name = row.split('|').nth(1).unwrap().trim();
        name.trim_matches('`').to_owned()
    })
    .collect()
}

/// The system calls of a trace from its first netlink socket on, by all threads.
fn called(trace: &str) -> BTreeSet<String> {
    let from = trace
        .find("socket(AF_NETLINK")
        .expect("the trace has a netlink socket");
    let begin = trace[..from].rfind('\n').map_or(0, |at| at + 1);
    let mut names = BTreeSet::new();
    for line in trace[begin..].lines() {
        // PID NAME(ARGUMENTS, or PID <... NAME resumed>; signals and ends stand between --- and +++.
        let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let line = line.strip_prefix("<... ").unwrap_or(line);
        let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let name = &line[..end.unwrap_or(line.len())];
        if !name.is_empty() {
            names.insert(name.to_owned());
        }
    }
    names
}

/// `vip` under strace.
fn traced(trace: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-o"])
        .arg(trace)
        .arg(example("vip"))
        .args(words)
        .stdin(Stdio::null());
    command
}

/// Why no program can be traced here, if so.
fn cannot_trace() -> Option<String> {
    let tried = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .output();
    match tried {
        Err(error) => Some(format!("strace: {error}")),
        Ok(output) if !output.status.success() => {
            Some(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
        Ok(_) => None,
    }
}

#[test]
#[allow(unsafe_code)]
#[expect(
    clippy::too_many_lines,
    reason = "every command runs once under one trace"
)]
fn system_calls_are_the_documented_ones() {
    if let Some(why) = cannot_trace() {
        skipped("system_calls_are_the_documented_ones", &why);
        return;
    }
    let net = node();
    let file = |name: &str| -> PathBuf {
        std::env::temp_dir().join(format!("viproute-{}-{name}.strace", std::process::id()))
    };
    let sources = ["--source", "192.0.2.10", "--source", "2001:db8::10"];
    let link = ["--link", VIP_LINK];
    let given: Vec<String> = vips(40).iter().map(ToString::to_string).collect();
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let netns = format!("/proc/{}/ns/net", own_thread());
    let mut seen = BTreeSet::new();
    let mut of_library = BTreeSet::new();
    for (name, words) in [
        ("assign", [&link[..], &sources, &given].concat()),
        ("normalize", [&link[..], &sources].concat()),
        (
            "audit",
            [&link[..], &sources, &["--netns", &netns]].concat(),
        ),
        (
            "plan",
            [&link[..], &sources, &["--claim", "link"], &given].concat(),
        ),
        ("release", [&link[..], &given].concat()),
    ] {
        let trace = file(name);
        let ran = traced(&trace, &[&[name][..], &words].concat())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        let text = std::fs::read_to_string(&trace).unwrap();
        let _ = std::fs::remove_file(&trace);
        assert!(ran.status.success(), "{name}: {said}");
        assert!(!text.contains("fork("), "{name} makes a process");
        let execs = text.matches("execve(").count();
        assert_eq!(execs, 1, "{name} executes another program");
        seen.extend(called(&text));
    }
    // A keeper, which has something to keep, and is stopped by a signal.
    let trace = file("keep");
    let words = [&["keep"][..], &link, &sources, &["--claim", "link"], &given].concat();
    let running = Running::start(&mut traced(&trace, &words));
    running.says("80 assigned");
    net.ip(&format!("addr del {}/32 dev {VIP_LINK}", given[0]));
    running.says("1 repaired");
    // Not strace, which would let it go untraced. The first line is of its first thread.
    let text = std::fs::read_to_string(&trace).unwrap();
    let id: i32 = text.split(' ').next().unwrap().parse().unwrap();
    // SAFETY: kill(2) touches no memory; strace waits for its program, so the id is still its.
    assert_eq!(unsafe { libc::kill(id, libc::SIGTERM) }, 0);
    let _ = running.wait_for_end();
    seen.extend(called(&std::fs::read_to_string(&trace).unwrap()));
    let _ = std::fs::remove_file(&trace);

    let library = documented("Of the library:");
    let others = documented("and of the example itself:");
    of_library.extend(library.intersection(&seen).cloned());
    let known: BTreeSet<String> = library.union(&others).cloned().collect();
    let new: Vec<&String> = seen.difference(&known).collect();
    assert!(
        new.is_empty(),
        "system calls that docs/privilege.md does not list: {new:?}"
    );
    // What is listed is called, but for what only some machines need.
    let unseen: Vec<&String> = library
        .difference(&seen)
        .filter(|name| !SELDOM.contains(&name.as_str()))
        .collect();
    assert!(unseen.is_empty(), "listed and never called: {unseen:?}");
    println!("{} of the library: {of_library:?}", of_library.len());
    let of_others: Vec<&String> = seen.difference(&library).collect();
    println!("of the rest: {of_others:?}");
}

/// Listed, but not called by every machine or version of Rust, or before the first socket.
const SELDOM: [&str; 4] = ["clock_gettime", "openat", "read", "write"];

/// The id of this thread, whose namespace it is.
fn own_thread() -> String {
    let path = std::fs::read_link("/proc/thread-self").unwrap();
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// The control: from a trace, a call that is not listed is reported.
#[test]
fn control_undocumented_system_call_is_found() {
    let trace = "7 execve(\"vip\")\n7 openat(1)\n7 socket(AF_NETLINK, 3, 0) = 3\n\
                 8 <... poll resumed>) = 1\n7 ptrace(0)\n7 --- SIGTERM ---\n7 +++ exited +++\n";
    let names = called(trace);
    assert_eq!(
        names.iter().collect::<Vec<_>>(),
        ["poll", "ptrace", "socket"]
    );
    let listed = documented("Of the library:");
    assert!(listed.contains("poll") && listed.contains("socket"));
    assert!(!listed.contains("ptrace") && !documented("example itself:").contains("ptrace"));
}
