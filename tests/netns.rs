//! One process manages several network namespaces; none of its threads is moved.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use common::{NODE_V4, NODE_V6, Net, PROTO_KERNEL, VIP_LINK, vips, vips_v4};
use viproute::{Cause, ErrorKind, Netns, VipManager};

fn here() -> std::path::PathBuf {
    std::fs::read_link("/proc/thread-self/ns/net").unwrap()
}

fn manager(netns: Netns) -> VipManager {
    VipManager::builder(VIP_LINK)
        .netns(netns)
        .source(NODE_V4)
        .source(NODE_V6)
        .open()
        .unwrap()
}

#[test]
fn sandbox_is_a_namespace_for_a_manager() {
    let net = Net::new();
    let elsewhere = Net::bare();
    // Not the namespace in which the thread is now.
    let netns = Netns::try_from(net.sandbox()).unwrap();
    assert_eq!(manager(netns).assign(vips(2)).unwrap().assigned, 4);
    assert!(elsewhere.try_ip(&format!("link show {VIP_LINK}")).is_err());
    drop(elsewhere);
    net.assert_single_route(&vips(2), PROTO_KERNEL);
}

#[test]
fn two_namespaces_are_served_from_a_third() {
    let outer = Net::bare();
    let set = vips(50);
    // Each node is a thread that lives in its namespace and answers what is asked about it.
    let (from_node, nodes) = std::sync::mpsc::channel::<(u32, OwnedFd)>();
    let (checks, done): (Vec<_>, Vec<_>) = (0..2)
        .map(|_| {
            let from_node = from_node.clone();
            let (check, checked) = std::sync::mpsc::channel::<()>();
            let set = set.clone();
            let node = std::thread::spawn(move || {
                let net = Net::new();
                let fd = net.sandbox().as_fd().try_clone_to_owned().unwrap();
                // SAFETY-free way to the thread's id: its own directory in /proc.
                let id = std::fs::read_link("/proc/thread-self").unwrap();
                let id = id.file_name().unwrap().to_str().unwrap().parse().unwrap();
                from_node.send((id, fd)).unwrap();
                checked.recv().unwrap();
                net.assert_single_route(&set, PROTO_KERNEL);
            });
            (check, node)
        })
        .unzip();
    let before = here();
    let (id, _) = nodes.recv().unwrap();
    let (_, fd) = nodes.recv().unwrap();
    let mut managers = [
        manager(Netns::from_pid(id).unwrap()),
        manager(Netns::try_from(fd).unwrap()),
    ];
    for manager in &mut managers {
        assert_eq!(manager.assign(&set).unwrap().assigned, 100);
    }
    assert_eq!(here(), before, "the caller was moved");
    for check in checks {
        check.send(()).unwrap();
    }
    for node in done {
        node.join().unwrap();
    }
    assert!(outer.try_ip(&format!("link show {VIP_LINK}")).is_err());
}

#[test]
fn netns_open_refuses_other_files() {
    let net = Net::bare();
    for (path, text) in [
        ("/nowhere/at/all", "No such file"),
        ("/dev/null", "no namespace"),
        ("/proc/thread-self/ns/mnt", "another kind"),
        ("/proc/thread-self/status", "no namespace"),
    ] {
        let error = Netns::open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidNetns, "{path}: {error}");
        assert!(error.to_string().contains(text), "{path}: {error}");
        assert!(error.to_string().contains(path), "{error}");
    }
    let fd = OwnedFd::from(File::open("/dev/null").unwrap());
    assert_eq!(
        Netns::try_from(fd).unwrap_err().kind(),
        ErrorKind::InvalidNetns
    );
    // A process that has ended.
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    assert_eq!(
        Netns::from_pid(child.id()).unwrap_err().kind(),
        ErrorKind::InvalidNetns
    );
    drop(net);
}

/// In the environment of the child of the next test.
const CHILD: &str = "VIPROUTE_NETNS_CHILD";

#[test]
fn namespace_without_privilege_is_an_error_that_names_the_capability() {
    const NAME: &str = "namespace_without_privilege_is_an_error_that_names_the_capability";
    if std::env::var_os(CHILD).is_some() {
        // Our standard input is a namespace of the parent's, in whose user namespace we are nobody.
        let error = VipManager::builder(VIP_LINK)
            .netns(Netns::open("/proc/self/fd/0").unwrap())
            .open()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("CAP_SYS_ADMIN"), "{error}");
        return;
    }
    let _net = Net::bare();
    // Where the sandbox could not make a user namespace, the child cannot either.
    let inside = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    if inside.split_whitespace().nth(2) != Some("1") {
        common::skipped(NAME, "no user namespace here");
        return;
    }
    // It enters a user namespace of its own before its main function.
    let child = Command::new(std::env::current_exe().unwrap())
        .args([NAME, "--exact"])
        .env(CHILD, "")
        .stdin(File::open("/proc/thread-self/ns/net").unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

/// A named pipe is no namespace, and nobody is waited for at its other end.
#[test]
fn netns_open_refuses_a_pipe_without_waiting() {
    let path = std::env::temp_dir().join(format!("viproute-pipe-{}", std::process::id()));
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let (sender, opened) = std::sync::mpsc::channel();
    let pipe = path.clone();
    std::thread::spawn(move || drop(sender.send(Netns::open(pipe).unwrap_err())));
    let error = opened.recv_timeout(std::time::Duration::from_secs(10));
    std::fs::remove_file(path).unwrap();
    assert_eq!(error.expect("it waits").kind(), ErrorKind::InvalidNetns);
}

/// IPv4 makes its tables with the first address of the namespace, also that of `lo`
/// (`fib_new_table`, net/ipv4/fib_frontend.c). Until then, to dump one is an error.
#[test]
fn namespace_without_ipv4_tables_has_no_vip() {
    let _outer = Net::bare();
    let mut process = Command::new("unshare")
        .args(["--net", "sleep", "300"])
        .spawn()
        .unwrap();
    let inside = |command: &str| {
        let id = process.id().to_string();
        let mut words = vec!["--target", &id, "--net", "ip"];
        words.extend(command.split(' '));
        Command::new("nsenter").args(words).output().unwrap()
    };
    // It is there when it is another namespace.
    let own = here();
    let file = format!("/proc/{}/ns/net", process.id());
    while std::fs::read_link(&file).unwrap() == own {
        std::thread::yield_now();
    }
    assert!(
        inside(&format!("link add {VIP_LINK} type bridge"))
            .status
            .success()
    );
    let dump = inside("-4 route show table local");
    assert!(String::from_utf8_lossy(&dump.stderr).contains("FIB table does not exist"));
    let tried = || {
        let mut manager = manager(Netns::from_pid(process.id())?);
        assert_eq!(manager.audit()?.vips, []);
        assert_eq!(manager.release(vips(1))?.unchanged, 2);
        manager.assign(vips_v4(1))
    };
    let error = tried().unwrap_err();
    process.kill().unwrap();
    process.wait().unwrap();
    let report = error.report().expect("each VIP has its own cause");
    for failure in &report.failures {
        assert_eq!(
            failure.cause,
            Cause::Missing(ErrorKind::SourceNotOnNode),
            "{failure}"
        );
    }
    assert_eq!(report.failures.len(), 1);
}
