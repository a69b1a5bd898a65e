//! `vip` as a program: its exit codes, its output and what it left in the kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../tests/common/broken.rs"]
mod broken;
#[path = "../../../tests/common/mod.rs"]
mod common;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use common::example::{Ran, Running, eventually, example};
use common::{LocalState, NODE_LINK, NODE_V4, NODE_V6, Net, PROTO_KERNEL, VIP_LINK, Want, vips};
use netlink_packet_route::address::AddressAttribute;
use serde_json::{Value, json};
use viproute::{Claim, VipManager};

// ---------------------------------------------------------------------------------------------
// Running it

fn command(args: &str) -> Command {
    let mut command = Command::new(example("vip"));
    command
        .args(args.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs `vip` with exactly these words.
fn vip(args: &str) -> Ran {
    Ran::from(command(args).output().unwrap())
}

/// The link and both sources.
fn usual(subcommand: &str) -> String {
    format!("{subcommand} --link {VIP_LINK} --source {NODE_V4} --source {NODE_V6}")
}

/// Runs a subcommand of `vip` on the usual link, with the usual sources.
fn usually(subcommand: &str, args: &str) -> Ran {
    vip(&format!("{} {args}", usual(subcommand)))
}

fn with_input(args: &str, input: &[u8]) -> Ran {
    let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
    // It may end without having read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    Ran::from(child.wait_with_output().unwrap())
}

fn addrs(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

const BOTH: &str = "10.96.0.10 2001:db8:42:1::d45a";

fn both() -> Vec<IpAddr> {
    addrs(&BOTH.split(' ').collect::<Vec<_>>())
}

// ---------------------------------------------------------------------------------------------
// What it does

#[test]
fn assigns_both_families_and_then_leaves_them_alone() {
    let net = Net::new();
    let others = net.snapshot_without(&both());
    usually("assign", BOTH).exits(0).counts(2, 0, 0, 0).quiet();
    net.assert_single_route(&both(), PROTO_KERNEL);
    usually("assign", BOTH)
        .exits(0)
        .counts(0, 0, 0, 2)
        .quiet()
        .out
        .find("(0 writes,")
        .expect("nothing was written");
    usually("normalize", "").exits(0).counts(0, 0, 0, 2);
    net.assert_single_route(&both(), PROTO_KERNEL);
    assert_eq!(net.snapshot_without(&both()), others);
}

#[test]
fn takes_prefixes_of_hosts_and_repetitions() {
    let net = Net::new();
    usually("assign", "10.96.0.10/32 10.96.0.10 2001:db8:42:1::d45a/128")
        .exits(0)
        .counts(2, 0, 0, 0);
    net.assert_single_route(&both(), PROTO_KERNEL);
}

#[test]
fn reads_a_thousand_vips_from_standard_input() {
    let net = Net::new();
    let vips = vips(500);
    let mut input = String::from("# services\n\n   # indented\n");
    for vip in &vips {
        input += &format!("{vip} # a comment\r\n");
    }
    // The last line without its end, and one of the command line beside.
    input += "10.200.0.1";
    let all = [vips, addrs(&["10.200.0.1", "10.200.0.2"])].concat();
    let args = format!("{} 10.200.0.2 -", usual("assign"));
    with_input(&args, input.as_bytes())
        .exits(0)
        .counts(1002, 0, 0, 0)
        .quiet();
    net.assert_single_route(&all, PROTO_KERNEL);

    let args = format!("release --link {VIP_LINK} 10.200.0.2 -");
    with_input(&args, input.as_bytes())
        .exits(0)
        .counts(0, 0, 1002, 0);
    net.assert_absent(&all);
}

#[test]
fn normalizes_all_or_only_those_given() {
    let net = Net::new();
    for vip in ["10.96.0.10/32", "10.96.0.11/32", "2001:db8:42:1::d45a/128"] {
        net.ip(&format!("addr add {vip} dev {VIP_LINK}"));
    }
    net.wait_for_kernel();
    usually("normalize", "10.96.0.10")
        .exits(0)
        .counts(0, 1, 0, 0);
    net.assert_single_route(&addrs(&["10.96.0.10"]), PROTO_KERNEL);
    let rest = addrs(&["10.96.0.11", "2001:db8:42:1::d45a"]);
    assert_eq!(net.wrong_vips(&rest, PROTO_KERNEL).len(), 2);

    usually("normalize", "").exits(0).counts(0, 2, 0, 1);
    let all = addrs(&["10.96.0.10", "10.96.0.11", "2001:db8:42:1::d45a"]);
    // Another program added the IPv6 address. Its flags are no drift, and stay.
    assert_eq!(
        net.wrong_vips(&all, PROTO_KERNEL),
        ["2001:db8:42:1::d45a: address without noprefixroute; address without nodad"]
    );
}

#[test]
fn normalize_puts_no_vip_on_the_link() {
    let net = Net::new();
    usually("normalize", BOTH)
        .exits(1)
        .counts(0, 0, 0, 0)
        .complains(&["vip: 10.96.0.10: ", "vip: 2001:db8:42:1::d45a: "]);
    net.assert_absent(&both());
    // An empty list is not the whole link.
    net.ip(&format!("addr add 10.96.0.10/32 dev {VIP_LINK}"));
    with_input(&format!("{} -", usual("normalize")), b"# none\n").exits(2);
    assert_eq!(
        net.wrong_vips(&addrs(&["10.96.0.10"]), PROTO_KERNEL).len(),
        1
    );
}

#[test]
fn releases_without_a_source() {
    let net = Net::new();
    usually("assign", &format!("{BOTH} 10.96.0.11")).exits(0);
    let args = format!("release --link {VIP_LINK} {BOTH}");
    vip(&args).exits(0).counts(0, 0, 2, 0).quiet();
    net.assert_absent(&both());
    net.assert_single_route(&addrs(&["10.96.0.11"]), PROTO_KERNEL);
    vip(&args).exits(0).counts(0, 0, 0, 2).quiet();
}

#[test]
fn routes_have_the_given_protocol() {
    let net = Net::new();
    usually("assign", &format!("--protocol 201 {BOTH}"))
        .exits(0)
        .counts(2, 0, 0, 0);
    net.assert_single_route(&both(), 201);
    usually("normalize", "").exits(0).counts(0, 2, 0, 0);
    net.assert_single_route(&both(), PROTO_KERNEL);
}

#[test]
fn creates_the_link_only_on_request() {
    let net = Net::bare();
    net.add_link(NODE_LINK);
    net.add_node_addresses(NODE_LINK);
    net.wait_for_kernel();
    usually("assign", BOTH)
        .exits(1)
        .complains(&["no link", VIP_LINK, "--create-link"]);
    let dummies = net.try_ip("link add dev probe type dummy").is_ok();

    usually("assign", &format!("--create-link {BOTH}"))
        .exits(0)
        .counts(2, 0, 0, 0)
        .quiet();
    net.assert_single_route(&both(), PROTO_KERNEL);
    let link = &net.ip_json(&format!("link show dev {VIP_LINK}"))[0];
    let kind = if dummies { "dummy" } else { "bridge" };
    assert_eq!(link["linkinfo"]["info_kind"], kind);
    let flags = link["flags"].as_array().unwrap();
    assert!(flags.iter().any(|flag| flag == "NOARP"), "{flags:?}");

    // It is there now.
    usually("assign", &format!("--create-link {BOTH}"))
        .exits(0)
        .counts(0, 0, 0, 2)
        .quiet();
    // That kind and no other.
    let other = format!("assign --link other --source {NODE_V4}");
    vip(&format!("{other} --create-link=bridge 10.99.0.1"))
        .exits(0)
        .quiet();
    let want = Want {
        link: "other",
        ..Want::default()
    };
    LocalState::read().assert_single_route(&addrs(&["10.99.0.1"]), &want);
    if !dummies {
        vip(&other.replace("other", "third"))
            .exits(2)
            .complains(&["VIP"]);
        let args = format!(
            "{} --create-link=dummy 10.99.0.2",
            other.replace("other", "third")
        );
        vip(&args)
            .exits(1)
            .complains(&["third", "Unknown device type"]);
    }
}

#[test]
fn brings_the_link_up_only_on_request() {
    let net = Net::new();
    net.ip(&format!("link set {VIP_LINK} down"));
    usually("assign", BOTH)
        .exits(1)
        .complains(&[VIP_LINK, "down", "--bring-up"]);
    // IPv4 works on a link that is down.
    let held: Vec<_> = both().into_iter().filter(|vip| vip.is_ipv4()).collect();
    net.assert_single_route(&held, PROTO_KERNEL);
    usually("release", BOTH).exits(0);
    usually("assign", &format!("--bring-up {BOTH}"))
        .exits(0)
        .counts(2, 0, 0, 0);
    net.assert_single_route(&both(), PROTO_KERNEL);
}

// ---------------------------------------------------------------------------------------------
// Audit

#[test]
fn audit_prints_drift() {
    let net = Net::new();
    let bare = usually("audit", "").exits(0).quiet();
    assert!(bare.out.contains(": 0 VIPs, 0 drifted in "), "{bare:?}");
    usually("assign", &format!("{BOTH} 10.96.0.11")).exits(0);
    let clean = usually("audit", "").exits(0).quiet();
    assert!(clean.out.contains(": 3 VIPs, 0 drifted in "), "{clean:?}");
    assert_eq!(clean.out.lines().count(), 1, "{clean:?}");

    net.ip(&format!(
        "route del local 10.96.0.10 dev {VIP_LINK} table local"
    ));
    // It looks and leaves it at that.
    for _ in 0..2 {
        let drifted = usually("audit", "").exits(1).quiet();
        assert!(
            drifted.out.contains(": 3 VIPs, 1 drifted in "),
            "{drifted:?}"
        );
        assert_row(&drifted, &["10.96.0.10", "drifted", "missing route"]);
        assert!(!drifted.out.contains("d45a"), "{drifted:?}");
    }
    let all = usually("audit", "--all").exits(1);
    assert_row(&all, &["10.96.0.10", "drifted", "missing route"]);
    assert_row(&all, &["2001:db8:42:1::d45a", "as desired", ""]);
    assert_row(&all, &["10.96.0.11", "as desired", ""]);

    // Only those asked for, of which one is nowhere.
    usually("audit", "10.96.0.11 2001:db8:42:1::d45a").exits(0);
    let some = usually("audit", "10.96.0.11 10.96.0.99").exits(1);
    assert!(some.out.contains(": 2 VIPs, 1 drifted in "), "{some:?}");
    assert_row(&some, &["10.96.0.99", "not on link", ""]);
    // And a VIP that is there with another prefix length.
    net.ip(&format!("addr add 10.96.0.98/24 dev {VIP_LINK}"));
    let other = usually("audit", "10.96.0.98").exits(1);
    assert!(other.out.contains("wrong prefix length"), "{other:?}");
    assert!(!other.out.contains("not on link"), "{other:?}");
    with_input(&format!("{} -", usual("audit")), b"10.96.0.11\n").exits(0);
    with_input(&format!("{} -", usual("audit")), b"# none\n").exits(2);
}

/// A row of the table has these cells.
#[track_caller]
fn assert_row(ran: &Ran, cells: &[&str]) {
    let rows: Vec<Vec<_>> = ran
        .out
        .lines()
        .map(|line| {
            let line = line.trim_matches(['│', ' ']);
            line.split('┆').map(str::trim).collect()
        })
        .collect();
    assert!(
        rows.iter().any(|row| row == cells),
        "no {cells:?} in {rows:?}"
    );
}

#[test]
fn audit_in_json() {
    let net = Net::new();
    usually("assign", BOTH).exits(0);
    let document = usually("audit", "--json").exits(0).quiet().json();
    let row = |at: usize| document["vips"][at]["vip"].as_str().unwrap();
    assert_eq!([row(0), row(1)], ["10.96.0.10", "2001:db8:42:1::d45a"]);
    assert_eq!(document["vips"][0]["drift"], json!([]));
    assert_eq!(document["link"], json!({ "ipv4": "up", "ipv6": "up" }));

    net.ip(&format!(
        "-6 route del local 2001:db8:42:1::d45a dev {VIP_LINK} table local"
    ));
    // Only those asked for, also those that are not there.
    net.ip(&format!("addr add 10.96.0.98/24 dev {VIP_LINK}"));
    let ran = usually("audit", "--json 2001:db8:42:1::d45a 10.96.0.98 10.96.0.99").exits(1);
    let drift = json!(["missing_route"]);
    let row = json!({
        "vip": "2001:db8:42:1::d45a", "drift": drift, "is_judged": true, "source": null,
        "protocol": null, "address": ["no_dad", "permanent", "no_prefix_route"],
    });
    let document = ran.quiet().json();
    assert_eq!(document["vips"].as_array().unwrap().len(), 3);
    assert_eq!(document["vips"][2], row);
    let drift = |at: usize| document["vips"][at]["drift"].clone();
    let other_length = drift(0)
        .as_array()
        .unwrap()
        .contains(&json!("wrong_prefix_length"));
    assert!(other_length, "{document:#}");
    assert_eq!(drift(1), json!(["missing_address", "missing_route"]));

    let ran = vip("audit --link nix --json")
        .exits(1)
        .complains(&["there is no link nix"]);
    assert_eq!(ran.json()["kind"], "link_not_found");
}

/// What `ip route get` says of a VIP, with the node's own source.
fn answers(net: &Net, vip: &str) -> bool {
    net.try_ip(&format!("route get {vip}"))
        .is_ok_and(|answer| answer.starts_with("local "))
}

#[test]
fn audit_fails_where_the_source_is_gone() {
    for (family, source) in [
        ("IPv4", format!("{NODE_V4}/32")),
        ("IPv6", format!("{NODE_V6}/128")),
    ] {
        let net = Net::new();
        usually("assign", BOTH).exits(0);
        usually("audit", "").exits(0);
        net.ip(&format!("addr del {source} dev {NODE_LINK}"));
        let ran = usually("audit", "").exits(1);
        let line = format!("{VIP_LINK}: {family}: link: up; source: no address of this node");
        assert!(ran.out.contains(&line), "{ran:?}");
        let document = usually("audit", "--json").exits(1).json();
        let (gone, other) = if family == "IPv4" { (0, 1) } else { (1, 0) };
        let of = |at: usize| document["source"][["ipv4", "ipv6"][at]].clone();
        assert_eq!(of(gone), "missing");
        assert_eq!(of(other), "present");
        // Who asks for VIPs of the other family only is not bothered.
        let vip = ["2001:db8:42:1::d45a", "10.96.0.10"][gone];
        usually("audit", vip).exits(0);
    }
}

#[test]
fn audit_fails_where_the_link_has_no_ipv6() {
    let net = Net::new();
    usually("assign", BOTH).exits(0);
    for (break_it, mend_it, text, token) in [
        (
            format!("link set {VIP_LINK} down"),
            format!("link set {VIP_LINK} up"),
            "IPv6: link: down",
            "down",
        ),
        (
            format!("link set {VIP_LINK} mtu 1279"),
            format!("link set {VIP_LINK} mtu 1500"),
            "IPv6: link: no IPv6, because the MTU is below 1280",
            "mtu_too_small",
        ),
    ] {
        net.ip(&break_it);
        // The IPv6 VIP is gone, so nothing on the link shows a fault.
        let ran = usually("audit", "").exits(1);
        assert!(ran.out.contains(text), "{ran:?}");
        assert!(ran.out.contains(": 1 VIP, 0 drifted in "), "{ran:?}");
        let document = usually("audit", "--json").exits(1).json();
        assert_eq!(document["link"]["ipv6"], token);
        // IPv4 works all the same.
        assert!(answers(&net, "10.96.0.10"));
        usually("audit", "10.96.0.10").exits(0);
        net.ip(&mend_it);
        usually("assign", BOTH).exits(0);
        usually("audit", "").exits(0);
    }
    net.set_sysctl(&format!("ipv6/conf/{VIP_LINK}/disable_ipv6"), "1");
    let ran = usually("audit", "").exits(1);
    assert!(ran.out.contains("IPv6: link: IPv6 is disabled"), "{ran:?}");
}

#[test]
fn audit_without_a_source_judges_no_source() {
    let net = Net::new();
    usually("assign", &format!("{BOTH} 10.96.0.11")).exits(0);
    let audit = |more: &str| vip(&format!("audit --link {VIP_LINK} {more}"));
    let ran = audit("").exits(3).quiet();
    assert_row(&ran, &["10.96.0.10", "not judged", ""]);
    assert!(
        ran.out
            .contains(": 3 VIPs, 0 drifted, 3 not judged for want of --source in "),
        "{ran:?}"
    );
    let document = audit("--json").exits(3).json();
    assert_eq!(document["vips"][0]["is_judged"], false);
    // What is wrong with every source shows all the same.
    net.ip(&format!(
        "route del local 10.96.0.10 dev {VIP_LINK} table local"
    ));
    let ran = audit("").exits(1);
    assert_row(&ran, &["10.96.0.10", "drifted", "missing route"]);
    audit("10.96.0.11").exits(3);
    audit(&format!("--source {NODE_V4} 10.96.0.11")).exits(0);
}

#[test]
fn deep_audit_reports_other_devices_and_tables() {
    let net = Net::new();
    usually("assign", BOTH).exits(0);
    net.ip(&format!("route add 10.96.0.10/32 dev {VIP_LINK} table 100"));
    usually("audit", "").exits(0);
    let deep = usually("audit", "--deep").exits(1);
    assert_row(&deep, &["10.96.0.10", "drifted", "other table"]);
    // The given VIPs alone, also those that are not on the link.
    net.ip("route add local 10.96.0.99 dev node0 table local");
    let given = usually("audit", "--deep 10.96.0.10 10.96.0.98 10.96.0.99").exits(1);
    assert_row(&given, &["10.96.0.10", "drifted", "other table"]);
    assert_row(&given, &["10.96.0.98", "not on link", ""]);
    let drift = "missing address, missing route, conflict";
    assert_row(&given, &["10.96.0.99", "drifted", drift]);
    assert!(given.out.contains(": 3 VIPs, 3 drifted in "), "{given:?}");
    net.ip("route flush table 100");
    usually("audit", "--deep").exits(0);
}

// ---------------------------------------------------------------------------------------------
// Reconcile

#[test]
fn reconcile_releases_what_is_claimed_and_not_desired() {
    let net = Net::new();
    usually("assign", &format!("{BOTH} 10.96.0.11 10.97.0.1")).exits(0);
    usually(
        "reconcile",
        "--claim 10.96.0.0/16,2001:db8:42::/48 10.96.0.10 10.96.0.12 2001:db8:42:1::1",
    )
    .exits(0)
    .counts(2, 0, 2, 1)
    .quiet();
    net.assert_absent(&addrs(&["10.96.0.11", "2001:db8:42:1::d45a"]));
    let held = addrs(&["10.96.0.10", "10.96.0.12", "10.97.0.1", "2001:db8:42:1::1"]);
    net.assert_single_route(&held, PROTO_KERNEL);

    // With a list of standard input, and its JSON.
    let args = format!("{} --claim link --json -", usual("reconcile"));
    let document = with_input(&args, b"10.96.0.10\n10.96.0.12\n2001:db8:42:1::1\n")
        .exits(0)
        .json();
    assert_eq!(document["released"], 1);
    assert_eq!(document["unchanged"], 3);
    net.assert_absent(&addrs(&["10.97.0.1"]));

    // Of a family of which none is given, what is claimed stays, and is reported.
    let ran = usually("reconcile", "--claim link --json 10.96.0.10").exits(1);
    let ran = ran.complains(&["2001:db8:42:1::1: no IPv6 VIP is desired"]);
    assert_eq!(ran.json()["failures"][0]["cause"], "missing");
    assert_eq!(ran.json()["failures"][0]["reason"], "empty_set");
    assert_eq!(ran.json()["released"], 1);
    let held = addrs(&["10.96.0.10", "2001:db8:42:1::1"]);
    net.assert_single_route(&held, PROTO_KERNEL);
}

#[test]
fn reconcile_claims_by_mark() {
    let net = Net::new();
    usually("assign", "10.96.0.11").exits(0);
    usually("assign", "--protocol 201 10.96.0.12 2001:db8:42:1::1").exits(0);
    let desired = "10.96.0.10 2001:db8:42:1::2";
    usually(
        "reconcile",
        &format!("--claim mark --protocol 201 {desired}"),
    )
    .exits(0)
    .counts(2, 0, 2, 0);
    net.assert_single_route(&addrs(&["10.96.0.10", "2001:db8:42:1::2"]), 201);
    net.assert_single_route(&addrs(&["10.96.0.11"]), PROTO_KERNEL);
    net.assert_absent(&addrs(&["10.96.0.12", "2001:db8:42:1::1"]));

    // Without a mark there is none to go by.
    usually("reconcile", "--claim mark 10.96.0.10")
        .exits(2)
        .complains(&["hint: --address-protocol sets a mark", "needs a mark"]);
    net.assert_single_route(&addrs(&["10.96.0.11"]), PROTO_KERNEL);
}

#[test]
fn reconcile_claims_by_the_protocol_of_addresses() {
    let net = Net::new();
    usually("assign", "10.96.0.11").exits(0);
    usually("assign", "--address-protocol 99 10.96.0.12").exits(0);
    // Not by `ip`: 6.1.0 does not tell it.
    let address = broken::address_of(addrs(&["10.96.0.12"])[0], net.vip_index());
    let marked = address
        .attributes
        .contains(&AddressAttribute::Protocol(99.into()));
    if !marked {
        let name = "reconcile_claims_by_the_protocol_of_addresses";
        common::skipped(name, "this kernel knows no protocol of addresses");
        return;
    }
    usually("reconcile", "--claim mark --address-protocol 99 10.96.0.10")
        .exits(0)
        .counts(1, 0, 1, 0);
    net.assert_single_route(&addrs(&["10.96.0.10", "10.96.0.11"]), PROTO_KERNEL);
    net.assert_absent(&addrs(&["10.96.0.12"]));
}

#[test]
fn reconcile_releases_no_more_than_at_most() {
    let net = Net::new();
    usually("assign", &format!("{BOTH} 10.96.0.11")).exits(0);
    let ran = usually(
        "reconcile",
        "--claim link --at-most 1 10.96.0.10 2001:db8:42:1::1",
    )
    .exits(1)
    .complains(&["2 VIPs would be released", "bound of 1", "--at-most"]);
    assert_eq!(ran.out, "");
    net.assert_single_route(&both(), PROTO_KERNEL);
    net.assert_absent(&addrs(&["2001:db8:42:1::1"]));
    let args = "--claim link --at-most 2 10.96.0.10 2001:db8:42:1::1";
    usually("reconcile", args).exits(0).counts(1, 0, 2, 1);
}

#[test]
fn reconcile_never_empties_the_link_by_a_mistake() {
    let net = Net::new();
    usually("assign", BOTH).exits(0);
    let args = format!("{} --claim link -", usual("reconcile"));
    with_input(&args, b"# the services\n").exits(2);
    // None that is admissible is as good as none.
    with_input(&args, b"127.0.0.1\n")
        .exits(1)
        .complains(&["no admissible VIP"]);
    net.assert_single_route(&both(), PROTO_KERNEL);
}

#[test]
fn reconcile_creates_the_link() {
    let net = Net::bare();
    net.add_link(NODE_LINK);
    net.add_node_addresses(NODE_LINK);
    net.wait_for_kernel();
    usually("reconcile", &format!("--claim link {BOTH}"))
        .exits(1)
        .complains(&["no link", "--create-link"]);
    usually("reconcile", &format!("--claim link --create-link {BOTH}"))
        .exits(0)
        .counts(2, 0, 0, 0);
    net.assert_single_route(&both(), PROTO_KERNEL);
}

// ---------------------------------------------------------------------------------------------
// Bindings and namespaces

#[test]
fn binds_by_routes_alone() {
    let net = Net::new();
    usually("assign", &format!("--route-only {BOTH}"))
        .exits(0)
        .counts(2, 0, 0, 0);
    let bound = Want {
        address: false,
        ..Want::default()
    };
    net.local_state().assert_single_route(&both(), &bound);
    usually("audit", "--route-only").exits(0);
    // The same state under the other binding.
    let ran = usually("audit", "").exits(1);
    assert_row(&ran, &["10.96.0.10", "drifted", "missing address, stale"]);
    let args = "--route-only --claim 2001:db8::/32 10.96.0.10 2001:db8:42:1::1";
    usually("reconcile", args).exits(0).counts(1, 0, 1, 1);
    usually("release", "--route-only 2001:db8:42:1::1").exits(0);
    vip(&format!(
        "release --link {VIP_LINK} --route-only 10.96.0.10"
    ))
    .exits(0)
    .counts(0, 0, 1, 0);
    net.assert_absent(&both());
}

#[test]
fn works_in_another_namespace() {
    let outer = Net::bare();
    let (sender, receiver) = std::sync::mpsc::channel::<(String, u32)>();
    let (done, until_done) = std::sync::mpsc::channel::<()>();
    let node = std::thread::spawn(move || {
        let net = Net::new();
        // The thread by its file, and a process in the same namespace by its id.
        let thread = std::fs::read_link("/proc/thread-self").unwrap();
        let file = format!("/proc/{}/ns/net", thread.display());
        let mut process = Command::new("sleep").arg("300").spawn().unwrap();
        sender.send((file, process.id())).unwrap();
        // Also where the other thread panics.
        let ended = until_done.recv();
        process.kill().unwrap();
        process.wait().unwrap();
        if ended.is_ok() {
            net.assert_single_route(&both(), PROTO_KERNEL);
        }
    });
    let (file, process) = receiver.recv().unwrap();
    usually("assign", &format!("--netns {file} {BOTH} 10.96.0.11"))
        .exits(0)
        .counts(3, 0, 0, 0);
    usually("audit", &format!("--netns {process}")).exits(0);
    usually(
        "reconcile",
        &format!("--netns {process} --claim link {BOTH}"),
    )
    .exits(0)
    .counts(0, 0, 1, 2);
    // None of it was here.
    assert!(outer.try_ip(&format!("link show {VIP_LINK}")).is_err());
    usually("assign", BOTH).exits(1).complains(&["no link"]);
    done.send(()).unwrap();
    node.join().unwrap();

    usually("assign", &format!("--netns /dev/null {BOTH}"))
        .exits(1)
        .complains(&["/dev/null is no namespace"]);
}

// ---------------------------------------------------------------------------------------------
// Watch

fn watch(args: &str) -> Running {
    let watching = Running::start(&mut command(&format!("watch --link {VIP_LINK} {args}")));
    watching.complains(&format!("watching {VIP_LINK}\n"));
    watching
}

#[test]
fn watch_prints_changes_of_other_writers() {
    let net = Net::new();
    usually("assign", "10.96.0.11").exits(0);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let watching = watch("");
        net.ip(&format!("addr add 10.96.0.10/32 dev {VIP_LINK}"));
        watching.says(&format!("{VIP_LINK}: 10.96.0.10: address set"));
        net.ip(&format!("addr del 10.96.0.10/32 dev {VIP_LINK}"));
        watching.says("address removed");
        net.ip(&format!("addr add 192.0.2.77/32 dev {NODE_LINK}"));
        watching.says("node address 192.0.2.77 set\n");
        net.ip(&format!("addr del 192.0.2.77/32 dev {NODE_LINK}"));
        watching.says("node address 192.0.2.77 removed\n");
        net.ip(&format!("link set {VIP_LINK} down"));
        watching.says(&format!("{VIP_LINK}: the link is down"));
        net.ip(&format!("link set {VIP_LINK} up"));
        watching.says(&format!("{VIP_LINK}: the link is up"));
        watching.signal(signal);
        let ran = watching.wait_for_end().exits(0);
        assert_eq!(ran.err, format!("vip: watching {VIP_LINK}\n"));
    }
}

#[test]
fn watch_in_json_of_some_vips() {
    let net = Net::new();
    let watching = watch("--json 10.96.0.10");
    for vip in ["10.96.0.11", "10.96.0.10"] {
        net.ip(&format!("addr add {vip}/32 dev {VIP_LINK}"));
    }
    net.ip(&format!(
        "route del local 10.96.0.10 dev {VIP_LINK} table local"
    ));
    watching.says("route_removed");
    watching.signal(libc::SIGTERM);
    let ran = watching.wait_for_end().exits(0);
    let events: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut changes = Vec::new();
    for event in &events {
        assert_eq!(event["event"], "vip", "{events:#?}");
        assert_eq!(event["vip"], "10.96.0.10");
        assert!(!event["origin"].as_array().unwrap().is_empty());
        changes.extend(event["change"].as_array().unwrap().clone());
    }
    for change in ["address_set", "route_set", "route_removed"] {
        assert!(changes.iter().any(|seen| seen == change), "{events:#?}");
    }
}

#[test]
fn watch_waits_for_a_link_and_ends_in_time() {
    let net = Net::bare();
    let watching = watch("");
    net.add_link(VIP_LINK);
    watching.says(&format!("{VIP_LINK}: the link is up"));
    net.ip(&format!("link del {VIP_LINK}"));
    watching.says(&format!("{VIP_LINK}: the link is gone\n"));
    watching.signal(libc::SIGTERM);
    watching.wait_for_end().exits(0);
    // Nothing happens.
    let ran = vip(&format!("watch --link {VIP_LINK} --for 0.1 --json")).exits(0);
    assert_eq!(ran.out, "");
}

#[test]
fn watch_ends_with_its_reader() {
    let net = Net::new();
    let mut child = command(&format!("watch --link {VIP_LINK} --for 60"))
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    // Until it notices: it may not be listening yet.
    let mut host = 0;
    eventually("it ends", || {
        host += 1;
        net.ip(&format!(
            "addr add 10.98.{}.{}/32 dev {VIP_LINK}",
            host / 256,
            host % 256
        ));
        child.try_wait().unwrap().is_some()
    });
    Ran::from(child.wait_with_output().unwrap()).exits(0);
}

// ---------------------------------------------------------------------------------------------
// Plan

#[test]
fn plan_prints_a_script_that_does_what_reconcile_would() {
    let net = Net::new();
    usually("assign", "10.96.0.11 10.96.0.12").exits(0);
    let before = net.snapshot_without(&[]);
    let args = format!("--claim link 10.96.0.11 {BOTH}");
    let planned = usually("plan", &args).exits(0).quiet();
    assert_eq!(net.snapshot_without(&[]), before);
    assert!(planned.out.starts_with("#!/bin/sh\n"), "{planned:?}");

    let mut shell = Command::new("sh")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = shell.stdin.take().unwrap();
    input.write_all(planned.out.as_bytes()).unwrap();
    drop(input);
    assert!(shell.wait().unwrap().success(), "{planned:?}");
    net.assert_absent(&addrs(&["10.96.0.12"]));
    let held = [both(), addrs(&["10.96.0.11"])].concat();
    net.assert_single_route(&held, PROTO_KERNEL);

    let planned = usually("plan", &args).exits(0);
    assert!(
        planned.out.contains("# Nothing is to be done."),
        "{planned:?}"
    );
}

#[test]
fn plan_in_json_lists_vips_that_fall_short() {
    let net = Net::new();
    net.ip(&format!("addr add 10.96.0.12/32 dev {NODE_LINK}"));
    let ran = usually("plan", &format!("--claim link --json 10.96.0.12 {BOTH}"))
        .exits(1)
        .complains(&["vip: 10.96.0.12: another device"]);
    let document = ran.json();
    assert_eq!(document["failures"][0]["vip"], "10.96.0.12");
    assert_eq!(document["failures"][0]["cause"], "conflict");
    let steps = document["steps"].as_array().unwrap();
    assert_eq!(steps[0]["action"], "add_address", "{document:#}");
    assert_eq!(steps[0]["vip"], "10.96.0.10");
    net.assert_absent(&both());

    usually("assign", BOTH).exits(0);
    let ran = usually(
        "plan",
        "--claim link --at-most 1 --json 10.96.0.99 2001:db8:42:1::1",
    )
    .exits(1)
    .complains(&["2 VIPs would be released"]);
    assert_eq!(ran.json()["kind"], "too_many_releases");
}

#[test]
fn plan_prints_what_assign_or_release_would_do() {
    let net = Net::new();
    net.ip(&format!("addr add 10.96.0.99/32 dev {VIP_LINK}"));
    let before = net.snapshot_without(&[]);
    let plan = |args: &str| usually("plan", &format!("--json {args}")).exits(0).json();
    let mut manager = VipManager::builder(VIP_LINK)
        .source(NODE_V4)
        .source(NODE_V6)
        .open()
        .unwrap();
    assert_eq!(plan(BOTH), json!(manager.plan_assign(both()).unwrap()));
    let script = vip(&format!("plan --link {VIP_LINK} --release 10.96.0.99"))
        .exits(0)
        .quiet();
    assert_eq!(net.snapshot_without(&[]), before);
    // It does not claim the VIP that is not given.
    assert!(!plan(BOTH).to_string().contains("10.96.0.99"));
    assert!(script.out.contains("addr del"), "{script:?}");
    let planned = manager.plan_release(addrs(&["10.96.0.99"])).unwrap();
    assert_eq!(plan("--release 10.96.0.99"), json!(planned));
    usually("plan", "--release --claim link 10.96.0.99")
        .exits(2)
        .complains(&["--claim"]);
    usually("plan", "--at-most 1 10.96.0.99")
        .exits(2)
        .complains(&["--claim <"]);
    vip(&format!("plan --link {VIP_LINK} 10.96.0.99"))
        .exits(2)
        .complains(&["--source"]);
}

// ---------------------------------------------------------------------------------------------
// Check

#[test]
fn check_names_each_address_that_is_not_admissible() {
    let _net = Net::bare();
    let check = |args: &str| vip(&format!("check --link nix --source {NODE_V4} {args}"));
    let ran = check("10.96.0.10").exits(0).quiet();
    assert_eq!(ran.out, "1 admissible, 0 rejected\n");
    let many =
        format!("--deny 10.97.0.0/16 10.96.0.10 10.97.0.1 127.0.0.1 2001:db8:42::1 {NODE_V4}");
    let ran = check(&many).exits(1);
    assert_eq!(ran.out, "1 admissible, 4 rejected\n");
    assert_eq!(
        ran.err,
        "vip: 10.97.0.1: it is in a denied range\n\
         vip: 127.0.0.1: a loopback address names every host itself\n\
         vip: 192.0.2.10: it is the source, not a VIP\n\
         vip: 2001:db8:42::1: no source address of its family was given\n"
    );
    let reasons = json!({
        "10.96.0.10": null, "10.97.0.1": "denied", "127.0.0.1": "loopback",
        "192.0.2.10": "is_source", "2001:db8:42::1": "no_source",
    });
    assert_eq!(check(&format!("--json {many}")).exits(1).json(), reasons);
    check("").exits(2);
    check("--source 192.0.2.11 10.96.0.10").exits(2);
}

// ---------------------------------------------------------------------------------------------
// Keep

fn keep(args: &str) -> Running {
    Running::start(&mut command(&format!("{} {args}", usual("keep"))))
}

#[test]
fn keep_repairs_changes_of_other_writers() {
    let net = Net::new();
    net.ip(&format!("addr add 10.96.0.11/32 dev {VIP_LINK}"));
    let keeping = keep(&format!("--claim link {BOTH}"));
    keeping.says(&format!("{VIP_LINK}: 2 assigned, 0 repaired, 1 released, "));
    net.assert_single_route(&both(), PROTO_KERNEL);
    for breakage in [
        format!("route del local 10.96.0.10 dev {VIP_LINK} table local"),
        format!("addr del 2001:db8:42:1::d45a/128 dev {VIP_LINK}"),
    ] {
        net.ip(&breakage);
        eventually("repaired", || {
            net.wrong_vips(&both(), PROTO_KERNEL).is_empty()
        });
    }
    net.ip(&format!("link set {VIP_LINK} down"));
    keeping.says("waiting for IPv6: link kube-dummy-if is down");
    net.ip(&format!("link set {VIP_LINK} up"));
    eventually("repaired", || {
        net.wrong_vips(&both(), PROTO_KERNEL).is_empty()
    });
    keeping.signal(libc::SIGTERM);
    let ran = keeping.wait_for_end().exits(0).quiet();
    let last = ran.out.lines().last().unwrap();
    assert!(
        last.starts_with(&format!("{VIP_LINK}: ended after ")),
        "{ran:?}"
    );
    assert!(last.contains(" repairs, "), "{ran:?}");
    net.assert_single_route(&both(), PROTO_KERNEL);
}

#[test]
fn keep_in_json_and_for_a_time() {
    let net = Net::new();
    net.ip(&format!("addr add 10.96.0.12/32 dev {NODE_LINK}"));
    let args = format!("--claim link --json --for 0.2 10.96.0.12 {BOTH}");
    let ran = keep(&args)
        .wait_for_end()
        .exits(0)
        .complains(&["vip: 10.96.0.12: another device holds"]);
    let lines: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["report"]["assigned"], 2, "{lines:#?}");
    assert_eq!(lines[0]["new_failures"][0]["vip"], "10.96.0.12");
    assert_eq!(lines[0]["missing"], json!([]));
    let counters = lines.last().unwrap();
    assert_eq!(counters["repairs"], 2, "{lines:#?}");
    net.assert_single_route(&both(), PROTO_KERNEL);
}

#[test]
fn keep_says_a_lasting_failure_once_and_its_end_once() {
    for json in ["", "--json"] {
        let net = Net::new();
        net.ip(&format!("addr add 10.96.0.12/32 dev {NODE_LINK}"));
        let keeping = keep(&format!("--claim link {json} 10.96.0.12 {BOTH}"));
        keeping.complains("vip: 10.96.0.12: another device holds");
        // Other VIPs are repaired beside it.
        for _ in 0..3 {
            net.ip(&format!("addr del 10.96.0.10/32 dev {VIP_LINK}"));
            eventually("repaired", || {
                net.wrong_vips(&both(), PROTO_KERNEL).is_empty()
            });
        }
        net.ip(&format!("addr del 10.96.0.12/32 dev {NODE_LINK}"));
        keeping.complains("vip: 10.96.0.12: fails no longer");
        keeping.signal(libc::SIGTERM);
        let ran = keeping.wait_for_end().exits(0);
        assert_eq!(ran.err.lines().count(), 2, "{ran:?}");
        if !json.is_empty() {
            let lines = ran
                .out
                .lines()
                .map(|line| serde_json::from_str(line).unwrap());
            let new = |line: &Value| line["new_failures"].as_array().map_or(0, Vec::len);
            assert_eq!(lines.map(|line| new(&line)).sum::<usize>(), 1, "{ran:?}");
        }
    }
}

/// Whether the kernel makes dummy links shows only when there is a VIP to put on one.
#[test]
fn keep_creates_the_link_when_the_nodes_address_comes() {
    let net = Net::bare();
    net.add_link(NODE_LINK);
    net.wait_for_kernel();
    let keeping = keep(&format!("--claim link --create-link {BOTH}"));
    keeping.says("waiting for IPv4: source 192.0.2.10 is no address of this node");
    net.add_node_addresses(NODE_LINK);
    eventually("created", || {
        net.try_ip(&format!("link show dev {VIP_LINK}")).is_ok()
            && net.wrong_vips(&both(), PROTO_KERNEL).is_empty()
    });
    keeping.signal(libc::SIGINT);
    keeping.wait_for_end().exits(0);
}

#[test]
fn keep_creates_the_link_and_respects_at_most() {
    let net = Net::bare();
    net.add_link(NODE_LINK);
    net.add_node_addresses(NODE_LINK);
    net.wait_for_kernel();
    let keeping = keep(&format!("--claim link --create-link {BOTH}"));
    keeping.says("2 assigned");
    net.ip(&format!("link del {VIP_LINK}"));
    eventually("created again", || {
        net.wrong_vips(&both(), PROTO_KERNEL).is_empty()
    });
    keeping.signal(libc::SIGINT);
    keeping.wait_for_end().exits(0);
    let ran = keep("--claim link --at-most 1 10.96.0.99 2001:db8:42:1::1")
        .wait_for_end()
        .exits(1);
    ran.complains(&["2 VIPs would be released"]);
    net.assert_single_route(&both(), PROTO_KERNEL);
}

// ---------------------------------------------------------------------------------------------
// What falls short: exit code 1

#[test]
fn names_each_rejected_vip_and_assigns_the_others() {
    let net = Net::new();
    usually("assign", &format!("127.0.0.1 {BOTH} fe80::1 {NODE_V4}"))
        .exits(1)
        .counts(2, 0, 0, 0)
        .complains(&[
            "vip: 127.0.0.1: rejected: a loopback address",
            "vip: fe80::1: rejected: a link-local address",
            &format!("vip: {NODE_V4}: rejected: it is the source"),
        ]);
    net.assert_single_route(&both(), PROTO_KERNEL);

    let ran = usually("assign", &format!("--allow 10.96.0.0/12 10.96.0.11 {BOTH}")).exits(1);
    let lines: Vec<_> = ran.err.lines().collect();
    assert_eq!(
        lines,
        [
            "vip: 2001:db8:42:1::d45a: rejected: it is outside the allowed ranges",
            "vip: hint: --allow admits a range"
        ]
    );
    net.assert_single_route(&addrs(&["10.96.0.11"]), PROTO_KERNEL);
}

#[test]
fn a_family_without_source_is_an_error() {
    let net = Net::new();
    vip(&format!(
        "assign --link {VIP_LINK} --source {NODE_V4} {BOTH}"
    ))
    .exits(1)
    .counts(1, 0, 0, 0)
    .complains(&["vip: 2001:db8:42:1::d45a: rejected: no source"]);
    net.assert_single_route(&both()[..1], PROTO_KERNEL);
    net.assert_absent(&both()[1..]);
}

#[test]
fn a_conflict_is_named_and_left_alone() {
    let net = Net::new();
    net.ip(&format!("addr add 10.96.0.10/32 dev {NODE_LINK}"));
    usually("assign", BOTH)
        .exits(1)
        .counts(1, 0, 0, 0)
        .complains(&["vip: 10.96.0.10: another device holds a route for it"]);
    net.assert_absent(&both()[..1]);
    net.assert_single_route(&both()[1..], PROTO_KERNEL);
}

#[test]
fn missing_link_or_source_is_an_error() {
    let net = Net::new();
    for subcommand in ["assign", "normalize", "release"] {
        let args = format!("{subcommand} --link nix --source {NODE_V4} 10.96.0.10");
        let ran = vip(&args).exits(1).complains(&["there is no link nix"]);
        assert_eq!(ran.out, "");
    }
    vip(&format!(
        "assign --link {VIP_LINK} --source 192.0.2.99 10.96.0.10"
    ))
    .exits(1)
    .complains(&["192.0.2.99", "no address of this node"]);
    net.assert_absent(&addrs(&["10.96.0.10"]));
}

#[test]
fn a_total_timeout_ends_the_call() {
    let net = Net::new();
    let ran = usually(
        "assign",
        &format!("--total-timeout 0.000000001 --json {BOTH}"),
    )
    .exits(1);
    let document = ran.json();
    for failure in document["failures"].as_array().unwrap() {
        let cause = failure["cause"].as_str().unwrap();
        assert!(["pending", "not_reached"].contains(&cause), "{document:#}");
    }
    // What it did not come to is done by the same call later.
    usually("assign", BOTH).exits(0);
    net.assert_single_route(&both(), PROTO_KERNEL);
}

// ---------------------------------------------------------------------------------------------
// JSON

/// The same as this library says in this process.
#[test]
fn json_is_that_of_the_library() {
    let net = Net::new();
    let manager = || {
        VipManager::builder(VIP_LINK)
            .source(NODE_V4)
            .source(NODE_V6)
            .open()
    };
    let same = |args: String, code: i32, library: Value| {
        assert_eq!(vip(&format!("{args} --json")).exits(code).json(), library);
    };
    let set = [both(), addrs(&["10.96.0.12", "127.0.0.1"])].concat();
    net.ip(&format!("addr add 10.96.0.12/32 dev {NODE_LINK}"));
    let given: Vec<String> = set.iter().map(ToString::to_string).collect();
    let given = given.join(" ");

    let plan = manager().unwrap().plan(&Claim::link(), &set).unwrap();
    let args = format!("{} --claim link {given}", usual("plan"));
    same(args, 1, json!(plan));
    let error = manager().unwrap().assign(&set).unwrap_err();
    manager().unwrap().release(both()).unwrap();
    same(
        format!("{} {given}", usual("assign")),
        1,
        json!(error.report()),
    );
    let audit = manager().unwrap().audit().unwrap();
    assert_eq!(audit.vips.len(), 2);
    same(usual("audit"), 0, json!(audit));
    same(format!("{} --deep", usual("audit")), 0, json!(audit));
    let set = addrs(&["10.96.0.10", "10.96.0.99"]);
    let audit = manager().unwrap().audit_only(&set).unwrap();
    let args = "10.96.0.10 10.96.0.99";
    same(format!("{} {args}", usual("audit")), 1, json!(audit));
    same(format!("{} --deep {args}", usual("audit")), 1, json!(audit));
    let report = manager().unwrap().normalize().unwrap();
    same(usual("normalize"), 0, json!(report));
    let error = VipManager::builder("nix").open().unwrap().normalize();
    let args = format!("normalize --link nix --source {NODE_V4}");
    same(args, 1, json!(error.unwrap_err()));
    let report = manager().unwrap().release(both()).unwrap();
    manager().unwrap().assign(both()).unwrap();
    same(format!("{} {BOTH}", usual("release")), 0, json!(report));
}

// ---------------------------------------------------------------------------------------------
// Wrong usage: exit code 2, and nothing is written

#[test]
fn wrong_usage_is_an_error() {
    let net = Net::new();
    let link = format!("--link {VIP_LINK}");
    let source = format!("--source {NODE_V4}");
    let right = format!("assign {link} {source} 10.96.0.10");
    for (args, word) in [
        (String::new(), "Usage"),
        ("frobnicate".into(), "frobnicate"),
        (format!("assign {link} {source}"), "VIP"),
        (format!("release {link}"), "VIP"),
        (format!("assign {source} 10.96.0.10"), "--link"),
        (format!("assign {link} 10.96.0.10"), "--source"),
        (format!("normalize {link}"), "--source"),
        (format!("reconcile {link} {source} 10.96.0.10"), "--claim"),
        (
            format!("reconcile {link} {source} --claim all 10.96.0.10"),
            "give `link`",
        ),
        (
            format!("reconcile {link} {source} --claim link --at-most some 10.96.0.10"),
            "--at-most",
        ),
        (format!("reconcile {link} {source} --claim link"), "VIP"),
        (format!("audit {link} {source} --claim link"), "--claim"),
        (format!("watch {link} --for 0"), "--for"),
        (format!("{right} --address-protocol 0"), "1 to 255"),
        (format!("{right} 10.96.0"), "'10.96.0'"),
        (format!("{right} 10.96.1.0/24"), "'10.96.1.0/24'"),
        (format!("{right} --protocol 0"), "1 to 255"),
        (format!("{right} --protocol 256"), "1 to 255"),
        (format!("{right} --allow 10.96.0.0/33"), "--allow"),
        (format!("{right} --stall-timeout soon"), "--stall-timeout"),
        (format!("{right} --stall-timeout 0"), "--stall-timeout"),
        (format!("{right} --total-timeout -1"), "--total-timeout"),
        (format!("{right} --total-timeout 1e300"), "--total-timeout"),
        (format!("{right} --create-link=veth"), "veth"),
        (format!("{right} --source 192.0.2.11"), "IPv4 source"),
        (format!("{right} --source ::1"), "::1"),
        (right.replace(VIP_LINK, "sixteen-bytes-xx"), "sixteen"),
        (right.replace(VIP_LINK, "lo"), "lo"),
        (format!("{right} -"), "standard input"),
        (
            format!("{right} - -").replace(" 10.96.0.10", ""),
            "more than once",
        ),
    ] {
        // Nothing is on standard input; with a VIP of the command line that is enough.
        let expected = if args.ends_with("10.96.0.10 -") { 0 } else { 2 };
        let ran = vip(&args).exits(expected);
        if expected == 2 {
            assert_eq!(ran.out, "", "{args}");
            ran.complains(&[word]);
            net.assert_absent(&addrs(&["10.96.0.10"]));
        } else {
            vip(&format!("release {link} 10.96.0.10")).exits(0);
        }
    }
}

/// Each message says what is wrong with the input, and how to mend it.
const MISTAKES: &[(&str, &str)] = &[
    ("10.96.0.10:80", "it has a port: give 10.96.0.10"),
    ("[2001:db8::1]", "it has brackets: give 2001:db8::1"),
    (
        "[2001:db8::1]:443",
        "it has a port and brackets: give 2001:db8::1",
    ),
    (
        "http://10.96.0.10/",
        "it has a scheme and a slash: give 10.96.0.10",
    ),
    ("2001:db8::1%eth0", "it has a zone: give 2001:db8::1"),
    (
        "fe80::1%eth0",
        "a link-local address can be neither a VIP nor a source",
    ),
    (
        "\"10.96.0.10\",",
        "it has a comma and quotes: give 10.96.0.10",
    ),
    (
        "\u{feff}10.96.0.10",
        "it has a byte order mark: give 10.96.0.10",
    ),
    (
        "10.96.0.10/24",
        "it has a prefix length other than /32 or /128: give 10.96.0.10",
    ),
    (
        "2001:db8::1/129",
        "it has a prefix length other than /32 or /128: give 2001:db8::1",
    ),
    ("10.96.0.0/24", "it is a range: give each address by itself"),
    (
        "10.96.0.10-10.96.0.12",
        "it is a range: give each address by itself",
    ),
    (
        "10.96.0.10,10.96.0.11",
        "it is a list: give each address by itself",
    ),
    ("10.96.0", "an IPv4 address has four numbers, this has 3"),
    ("10.96.0.300", "300 is more than 255"),
    (
        "10.96.0.010",
        "a number that begins with 0 is octal to some programs: give 10.96.0.10",
    ),
    ("None", "a headless service has no cluster IP: leave it out"),
    ("kubernetes.default", "names are not looked up"),
    (
        "dummy",
        "the kind of a link follows `=`: write --create-link=dummy",
    ),
    (
        "2001:db8::x",
        "give an IPv4 or IPv6 address, alone or as /32",
    ),
];

#[test]
fn mistakes_around_an_address_are_named_with_their_mending() {
    let net = Net::new();
    let source = format!("assign --link {VIP_LINK} 10.96.0.10 --source");
    for (text, message) in MISTAKES {
        for args in [usual("assign"), source.clone()] {
            let ran = vip(&format!("{args} {text}")).exits(2);
            let said = format!(": {message}");
            assert_eq!(ran.err.matches(&said).count(), 1, "{text}: {ran:?}");
            let said = format!("'{text}'");
            assert_eq!(ran.err.matches(&said).count(), 1, "{text}: {ran:?}");
        }
        let line = format!("# services\n{text}\n");
        with_input(&format!("{} -", usual("assign")), line.as_bytes())
            .exits(2)
            .complains(&["standard input, line 2", &format!("`{text}`: {message}")]);
    }
    net.assert_absent(&addrs(&["10.96.0.10"]));
    // With the length of a host, a source is a source.
    vip(&format!("{source} {NODE_V4}/32")).exits(0).quiet();
}

#[test]
fn mistakes_in_options_are_named_with_their_mending() {
    let net = Net::new();
    let assign = format!("{} 10.96.0.10", usual("assign"));
    let reconcile = format!("{} 10.96.0.10", usual("reconcile"));
    for (args, message) in [
        (
            format!("{reconcile} --claim all"),
            ": to claim every VIP on the link, give `link`\n",
        ),
        (
            format!("{reconcile} --claim 10.96.0.0"),
            ": it has no prefix length: for this address alone, give 10.96.0.0/32\n",
        ),
        (
            format!("{reconcile} --claim 10.96.0.0/12,lnk"),
            ": `lnk`: give `link`, `mark`, or prefixes with commas between, like",
        ),
        (
            format!("{reconcile} --claim link --at-most x"),
            ": give a number of VIPs, like 20\n",
        ),
        (
            format!("{reconcile} --claim mark"),
            "vip: a claim by mark needs a mark: a protocol of routes",
        ),
        (
            format!("{assign} --allow 10.96.0.0/33"),
            ": give a range, like 10.96.0.0/12 or",
        ),
        (
            format!("{assign} --deny 10.96.0.0/12,10.0.0.0/8"),
            ": it is a list: give the option once for each range\n",
        ),
        (
            format!("{assign} --create-link dummy"),
            ": the kind of a link follows `=`: write --create-link=dummy\n",
        ),
        (
            format!("{assign} --nosuch 192.0.2.10"),
            "error: unexpected argument '--nosuch' found\n\nUsage: ",
        ),
    ] {
        let ran = vip(&args).exits(2);
        assert_eq!(ran.err.matches(message).count(), 1, "{args}: {ran:?}");
        assert!(!ran.err.contains("tip:"), "{args}: {ran:?}");
    }
    net.assert_absent(&addrs(&["10.96.0.10"]));
}

#[test]
fn hint_names_the_option_that_helps() {
    let net = Net::new();
    usually("assign", BOTH).exits(0);
    let one = format!("--link {VIP_LINK} --source {NODE_V4}");
    for (args, lines) in [
        (
            "release --link nix 10.96.0.10".to_owned(),
            "vip: there is no link nix\nvip: hint: `ip link` lists the links\n",
        ),
        (
            format!("plan --link nix --source {NODE_V4} --claim link 10.96.0.10"),
            "vip: there is no link nix\nvip: hint: --create-link creates the link\n",
        ),
        (
            format!("assign {one} 2001:db8:42:1::1 2001:db8:42:1::2"),
            "vip: 2001:db8:42:1::1: rejected: no source address of its family was given\n\
             vip: 2001:db8:42:1::2: rejected: no source address of its family was given\n\
             vip: hint: --source gives the node's own address, once for each family\n",
        ),
        (
            format!("assign {one} --allow 10.97.0.0/16 10.96.0.10"),
            "vip: 10.96.0.10: rejected: it is outside the allowed ranges\n\
             vip: hint: --allow admits a range\n",
        ),
        (
            format!("{} --claim link 127.0.0.1", usual("reconcile")),
            "vip: the desired set has no admissible VIP, so nothing is released\n\
             vip: hint: `vip release VIP...` takes VIPs off the link\n",
        ),
        (
            format!("reconcile {one} --claim link --at-most 0 10.96.0.11"),
            "vip: 1 VIP would be released, more than the claim's bound of 0\n\
             vip: hint: --at-most is the bound\n",
        ),
        (
            format!("reconcile {one} --claim 10.97.0.0/16 10.96.0.10 127.0.0.1 127.0.0.2"),
            "vip: hint: --claim does not cover 10.96.0.10 and 2 other VIPs: to release what is not \
             claimed, use `vip release`\n\
             vip: 127.0.0.1: rejected: a loopback address names every host itself\n\
             vip: 127.0.0.2: rejected: a loopback address names every host itself\n",
        ),
    ] {
        assert_eq!(vip(&args).exits(1).err, lines, "{args}");
    }
    // The same VIP twice is one VIP.
    usually("assign", &format!("{BOTH} {BOTH}"))
        .exits(0)
        .counts(0, 0, 0, 2)
        .quiet();
    net.assert_single_route(&both(), PROTO_KERNEL);
}

#[test]
fn one_is_singular_in_every_line() {
    let net = Net::new();
    let one = format!("--link {VIP_LINK} --source {NODE_V4}");
    let ran = vip(&format!("assign {one} --route-only 10.96.0.10")).exits(0);
    assert!(ran.out.contains("(1 write, 0 retries) in "), "{ran:?}");
    let ran = vip(&format!("audit {one} --route-only")).exits(0);
    assert!(ran.out.contains(": 1 VIP, 0 drifted in "), "{ran:?}");
    let ran = vip(&format!(
        "keep {one} --route-only --claim link --for 0.1 10.96.0.10"
    ))
    .exits(0);
    assert!(ran.out.contains(" 1 resync, "), "{ran:?}");
    drop(net);
}

#[test]
fn a_bad_line_of_standard_input_is_named() {
    let net = Net::new();
    let args = format!("{} -", usual("assign"));
    with_input(&args, b"10.96.0.10\n# fine\n\n10.96.0.300\n10.96.0.11\n")
        .exits(2)
        .complains(&["line 4", "`10.96.0.300`", "Usage: vip assign"]);
    with_input(&args, b"10.96.0.10\n\xff\xfe\n")
        .exits(2)
        .complains(&["line 2"]);
    with_input(&args, b"\n# none\n")
        .exits(2)
        .complains(&["no VIP on standard input"]);
    net.assert_absent(&addrs(&["10.96.0.10", "10.96.0.11"]));
    // Bytes that are no text do no harm in a comment.
    with_input(&args, b"10.96.0.10 # \xff\xfe\n").exits(0);
}

#[test]
fn help_lists_exit_codes_and_examples() {
    for args in [
        "--help",
        "assign --help",
        "normalize --help",
        "release -h",
        "reconcile --help",
        "audit -h",
        "watch --help",
        "keep --help",
        "plan -h",
        "check -h",
    ] {
        let ran = vip(args).exits(0).quiet();
        assert!(ran.out.contains("Exit codes:"), "{args}: {}", ran.out);
    }
    assert!(vip("--help").out.contains("Examples:"));
}

// ---------------------------------------------------------------------------------------------
// Closed and full streams

#[test]
fn closed_standard_output_or_error_causes_no_panic() {
    let net = Net::new();
    let closing = |args: &str, out: bool, err: bool| {
        let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
        // It reads to the end of its input before it writes anything.
        if out {
            drop(child.stdout.take());
        }
        if err {
            drop(child.stderr.take());
        }
        let mut input = child.stdin.take().unwrap();
        writeln!(input, "127.0.0.1\n10.96.0.10").unwrap();
        drop(input);
        Ran::from(child.wait_with_output().unwrap())
    };
    for args in ["-", "--json -"] {
        let args = format!("{} {args}", usual("assign"));
        closing(&args, true, false)
            .exits(1)
            .complains(&["vip: 127.0.0.1: "]);
        // 101 would be a panic, none a signal.
        closing(&args, false, true).exits(1);
        closing(&args, true, true).exits(1);
    }
    net.assert_single_route(&addrs(&["10.96.0.10"]), PROTO_KERNEL);

    // The exit code still tells that all is well.
    let mut child = command(&format!("{} -", usual("assign")))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    writeln!(child.stdin.take().unwrap(), "10.96.0.10").unwrap();
    Ran::from(child.wait_with_output().unwrap())
        .exits(0)
        .quiet();
}

#[test]
fn a_full_standard_output_is_an_error() {
    let _net = Net::new();
    let full: File = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(&format!("{} --json {BOTH}", usual("assign")))
        .stdout(full)
        .output()
        .unwrap();
    Ran::from(output)
        .exits(1)
        .complains(&["cannot write to standard output"]);
}
