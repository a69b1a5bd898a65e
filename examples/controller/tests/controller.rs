//! The example `controller` as a program: what it makes of its file, of signals, and of what others
//! do to the VIPs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../tests/common/mod.rs"]
mod common;

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::example::{Running, eventually, example};
use common::{NODE_LINK, NODE_V4, NODE_V6, Net, PROTO_KERNEL, VIP_LINK};

const STAY: &str = "the VIPs stay as they are";

/// A network and a file of VIPs, of the test of this name.
struct Node {
    net: Net,
    file: PathBuf,
}

impl Node {
    fn new(test: &str, vips: &str) -> Self {
        Self::within(Net::new(), test, vips)
    }

    fn within(net: Net, test: &str, vips: &str) -> Self {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("controller-{}-{test}.txt", std::process::id()));
        let node = Self { net, file };
        node.write(vips);
        node
    }

    /// Puts another file in the place of the file, as one should.
    fn write(&self, vips: &str) {
        let new = self.file.with_extension("new");
        fs::write(&new, vips).unwrap();
        fs::rename(&new, &self.file).unwrap();
    }

    /// Starts it with these words besides; unless they say otherwise, it looks at the file often.
    fn start(&self, args: &str) -> Running {
        let poll: &[&str] = match args.contains("--poll") {
            true => &[],
            false => &["--poll", "0.05"],
        };
        let controller = Running::start(
            Command::new(example("controller"))
                .args(["--link", VIP_LINK])
                .args(["--source", &NODE_V4.to_string()])
                .args(["--source", &NODE_V6.to_string()])
                .arg("--file")
                .arg(&self.file)
                .args(poll)
                .args(args.split_whitespace()),
        );
        controller.complains(&format!("keeping {VIP_LINK}\n"));
        controller
    }

    /// Waits until the link holds these VIPs, each in its single-route state.
    #[track_caller]
    fn await_vips(&self, vips: &[&str]) {
        let vips = addrs(vips);
        let wrong = || self.net.wrong_vips(&vips, PROTO_KERNEL);
        eventually(&format!("{vips:?} on the link"), || wrong().is_empty());
    }

    #[track_caller]
    fn assert_vips(&self, vips: &[&str]) {
        self.net.assert_single_route(&addrs(vips), PROTO_KERNEL);
    }

    #[track_caller]
    fn assert_absent(&self, vips: &[&str]) {
        self.net.assert_absent(&addrs(vips));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

fn addrs(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Ends it by this signal, and says what it said.
#[track_caller]
fn end(controller: Running, signal: i32) -> String {
    controller.signal(signal);
    let ran = controller.wait_for_end().exits(0);
    assert_eq!(ran.out, "");
    assert!(ran.err.ends_with("controller: ended\n"), "{}", ran.err);
    ran.err
}

#[test]
fn file_changes_are_applied_and_vips_stay_at_the_end() {
    let node = Node::new(
        "applies",
        "# services\n10.96.0.10\n2001:db8:42:1::1 # dns\n2001:db8:42:1::2\n",
    );
    let vips = ["10.96.0.10", "10.96.0.11", "2001:db8:42:1::2"];
    let controller = node.start("");
    controller.complains("kept: 3 assigned, 0 repaired, 0 released, 0 unchanged, 0 failed");
    node.assert_vips(&["10.96.0.10", "2001:db8:42:1::1", "2001:db8:42:1::2"]);
    node.write("10.96.0.10\n10.96.0.11\n2001:db8:42:1::2\n");
    controller.complains("kept: 1 assigned, 0 repaired, 1 released, 0 unchanged, 0 failed");
    node.assert_vips(&vips);
    node.assert_absent(&["2001:db8:42:1::1"]);
    let said = end(controller, libc::SIGTERM);
    assert_eq!(said.matches("kept: ").count(), 2, "{said}");
    node.assert_vips(&vips);

    // The next one takes over what it finds.
    let controller = node.start("");
    controller.complains("kept: 0 assigned, 0 repaired, 0 released, 3 unchanged, 0 failed");
    // Without any IPv6 VIP in the set the last one stays, and that is reported.
    node.write("10.96.0.10\n");
    controller.complains("refused: no IPv6 VIP is desired");
    end(controller, libc::SIGINT);
    node.assert_vips(&["10.96.0.10", "2001:db8:42:1::2"]);
}

#[test]
fn sighup_rereads_at_once() {
    let node = Node::new("hangup", "10.96.0.10\n");
    // It would look at the file in an hour only.
    let controller = node.start("--poll 3600");
    controller.complains("kept: 1 assigned");
    node.write("10.96.0.10\n10.96.0.11\n10.96.0.12\n");
    controller.signal(libc::SIGHUP);
    controller.complains("kept: 2 assigned, 0 repaired, 0 released, 0 unchanged");
    // Also without a change.
    controller.signal(libc::SIGHUP);
    controller.complains("kept: 0 assigned, 0 repaired, 0 released, 0 unchanged");
    end(controller, libc::SIGTERM);
    node.assert_vips(&["10.96.0.10", "10.96.0.11", "10.96.0.12"]);
}

#[test]
fn empty_file_releases_nothing() {
    let node = Node::new("guards", "10.96.0.10\n10.96.0.11\n10.96.0.12\n");
    let both = ["10.96.0.10", "10.96.0.11", "10.96.0.12"];
    let controller = node.start("--at-most 1");
    controller.complains("kept: 3 assigned");
    for (text, why) in [
        ("", "there is no VIP in it"),
        ("# none\n", "there is no VIP in it"),
        ("10.96.0.10\n10.96.0.1", "its last line is not ended"),
        ("10.96.0.10\n10.96.\n", "line 2: `10.96.`"),
        (
            "\u{feff}10.96.0.10\n",
            "line 1: `\u{feff}10.96.0.10`: it has a byte order mark: give 10.96.0.10: the VIPs stay",
        ),
        (
            "10.96.0.10:80\n",
            "it has a port: give 10.96.0.10: the VIPs",
        ),
        ("10.96.0.10\n", "2 VIPs would be released"),
        ("127.0.0.1\n", "no admissible VIP"),
    ] {
        node.write(text);
        controller.complains(why);
        node.assert_vips(&both);
    }
    fs::remove_file(&node.file).unwrap();
    controller.complains(&format!("No such file or directory (os error 2): {STAY}"));
    node.assert_vips(&both);
    // It comes back, and earlier changes are repaired.
    node.write("10.96.0.10\n10.96.0.11\n");
    controller.complains("0 assigned, 0 repaired, 1 released, 0 unchanged");
    let said = end(controller, libc::SIGTERM);
    assert!(said.matches(STAY).count() >= 4, "{said}");
    // A refused change is no change.
    assert_eq!(said.matches("kept: ").count(), 2, "{said}");
}

#[test]
fn unreadable_file_releases_nothing() {
    let node = Node::new("unreadable", "10.96.0.10\n");
    let controller = node.start("");
    controller.complains("kept: 1 assigned");
    fs::set_permissions(&node.file, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&node.file).is_ok() {
        let name = "unreadable_file_releases_nothing";
        common::skipped(name, "here one may read everything");
    }
    controller.signal(libc::SIGHUP);
    fs::set_permissions(&node.file, fs::Permissions::from_mode(0o600)).unwrap();
    node.write("10.96.0.10\n10.96.0.11\n");
    controller.complains("1 assigned, 0 repaired, 0 released, 0 unchanged");
    end(controller, libc::SIGTERM);
}

#[test]
fn controller_repairs_changes_of_other_writers() {
    let vips = ["10.96.0.10", "10.96.0.11", "2001:db8:42:1::1"];
    let node = Node::new("repairs", &(vips.join("\n") + "\n"));
    // The file has nothing to do with it.
    let controller = node.start("--poll 3600");
    controller.complains("kept: 3 assigned");
    let link = VIP_LINK;
    for breakage in [
        format!("route del local 10.96.0.10 dev {link} table local"),
        format!("-6 route del local 2001:db8:42:1::1 dev {link} table local"),
        format!("addr del 10.96.0.11/32 dev {link}"),
        format!("addr del 2001:db8:42:1::1/128 dev {link}"),
        format!("route replace local 10.96.0.10 dev {link} table local proto 99 scope host"),
    ] {
        node.net.ip(&breakage);
        node.await_vips(&vips);
    }
    // What is claimed and not desired goes, whichever program added it.
    node.net.ip(&format!("addr add 10.96.0.77/32 dev {link}"));
    eventually("10.96.0.77 is gone", || {
        node.net
            .local_state()
            .addresses_of(addrs(&["10.96.0.77"])[0])
            .is_empty()
    });
    // The link itself.
    node.net.ip(&format!("link set {link} down"));
    controller.complains("waiting for IPv6: link kube-dummy-if is down");
    node.net.ip(&format!("link set {link} up"));
    node.await_vips(&vips);
    node.net.ip(&format!("link del {link}"));
    controller.complains("waiting: there is no link kube-dummy-if");
    node.net.add_link(link);
    node.await_vips(&vips);
    end(controller, libc::SIGTERM);
    node.assert_vips(&vips);
}

#[test]
fn conflict_is_reported_once_and_repaired_when_it_ends() {
    conflict("conflict-v6", "2001:db8:42:1::1");
}

#[test]
fn ipv4_conflict_is_reported_once_and_repaired_when_it_ends() {
    conflict("conflict-v4", "10.96.0.10");
}

fn conflict(test: &str, vip: &str) {
    let node = Node::new(test, &format!("{vip}\n10.96.0.11\n"));
    node.net
        .ip(&format!("addr add {vip} dev {NODE_LINK} nodad"));
    let controller = node.start("");
    let line = format!("controller: {vip}: another device holds a route for it");
    controller.complains("1 assigned, 0 repaired, 0 released, 0 unchanged, 1 failed");
    // Another VIP is repaired more than once.
    for _ in 0..3 {
        node.assert_vips(&["10.96.0.11"]);
        node.net
            .ip(&format!("addr del 10.96.0.11/32 dev {VIP_LINK}"));
        node.await_vips(&["10.96.0.11"]);
    }
    controller.complains("kept: 1 assigned");
    node.net.ip(&format!("addr del {vip} dev {NODE_LINK}"));
    node.await_vips(&[vip, "10.96.0.11"]);
    controller.complains(&format!("controller: {vip}: fails no longer"));
    let said = end(controller, libc::SIGTERM);
    assert_eq!(said.matches(&line).count(), 1, "{said}");
    assert_eq!(said.matches("fails no longer").count(), 1, "{said}");
}

#[test]
fn claims_limit_releases_and_the_end_may_release() {
    let node = Node::new("claims", "10.96.0.10\n");
    node.net
        .ip(&format!("addr add 10.97.0.1/32 dev {VIP_LINK}"));
    node.net
        .ip(&format!("addr add 10.96.0.11/32 dev {VIP_LINK}"));
    let controller = node.start("--claim 10.96.0.0/16 --release-on-exit");
    controller.complains("kept: 1 assigned, 0 repaired, 1 released");
    node.assert_absent(&["10.96.0.11"]);
    let said = end(controller, libc::SIGTERM);
    assert!(said.contains("1 released"), "{said}");
    node.assert_absent(&["10.96.0.10"]);
    let left = node.net.local_state();
    assert_eq!(left.addresses_of(addrs(&["10.97.0.1"])[0]).len(), 1);
}

#[test]
fn controller_creates_the_link_on_request() {
    let net = Net::bare();
    net.add_link(NODE_LINK);
    net.add_node_addresses(NODE_LINK);
    net.wait_for_kernel();
    let node = Node::within(net, "creates", "10.96.0.10\n");
    let controller = node.start("--create-link");
    controller.complains("kept: 1 assigned");
    node.assert_vips(&["10.96.0.10"]);
    end(controller, libc::SIGTERM);
}

#[test]
fn wrong_usage_is_an_error() {
    let net = Net::new();
    let usual = "--link kube-dummy-if --source 192.0.2.10 --file x";
    for (args, message) in [
        ("--file x", "provided:\n  --link <NAME>"),
        (
            "--link kube-dummy-if --file x",
            "provided:\n  --source <IP>",
        ),
        (
            "--link kube-dummy-if --source 192.0.2.10",
            "provided:\n  --file <PATH>",
        ),
        (
            &format!("{usual} --source 192.0.2.11"),
            "more than one IPv4 source: give one",
        ),
        (
            &format!("{usual} --source 192.0.2.10/24"),
            "/32 or /128: give 192.0.2.10\n",
        ),
        (
            &format!("{usual} --claim mark"),
            "this controller sets no mark: give `link` or prefixes\n",
        ),
        (
            &format!("{usual} --claim all"),
            "to claim every VIP on the link, give `link`\n",
        ),
        (
            &format!("{usual} --at-most x"),
            "give a number of VIPs, like 20\n",
        ),
        (
            &format!("{usual} --allow 10.96.0.10"),
            "it has no prefix length: for this address alone, give 10.96.0.10/32\n",
        ),
        (
            &format!("{usual} --nosuch"),
            "unexpected argument '--nosuch' found\n\nUsage: ",
        ),
    ] {
        let mut command = Command::new(example("controller"));
        let ran = Running::start(command.args(args.split_whitespace())).wait_for_end();
        let ran = ran.exits(2);
        assert_eq!(ran.err.matches(message).count(), 1, "{args}: {}", ran.err);
    }
    drop(net);
}
