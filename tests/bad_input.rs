//! Bad input is a clear, typed error before anything is written. A bad VIP fails alone; a bad configuration
//! fails the whole call.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/caps.rs"]
mod caps;
mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{
    NODE_V4, NODE_V6, Net, PROTO_KERNEL, VIP_LINK, Want, builder, vips, vips_v4, vips_v6,
};
use viproute::{
    Binding, Cause, Drift, Error, ErrorKind, Family, RejectReason, Report, Vip, VipManager,
};

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Nothing on the node differs after `call`, which fails with `kind` and says `text`.
fn refused<T: std::fmt::Debug>(
    net: &Net,
    kind: ErrorKind,
    text: &str,
    call: impl FnOnce() -> Result<T, Error>,
) -> String {
    let before = net.snapshot_without(&[]);
    let error = call().expect_err("it was taken");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(text), "{error}");
    assert!(
        error
            .report()
            .is_none_or(|report| report.writes == 0 || kind == ErrorKind::PermissionDenied)
    );
    before.assert_same(&net.snapshot_without(&[]));
    error.to_string()
}

/// Nothing on the node differs after `call`, whose VIPs fail because their family lacks `kind`; says
/// `text`.
fn lacks(
    net: &Net,
    kind: ErrorKind,
    text: &str,
    call: impl FnOnce() -> Result<Report, Error>,
) -> String {
    refused(net, ErrorKind::Incomplete, text, || {
        call().inspect_err(|error| {
            let failures = &error.report().unwrap().failures;
            assert!(!failures.is_empty());
            for failure in failures {
                assert_eq!(failure.cause, Cause::Missing(kind), "{failure}");
                assert!(failure.to_string().contains(text), "{failure}");
            }
        })
    })
}

/// The IPv6 ones among `vips(2)` fail because their family lacks `kind`, and say `text`; the IPv4 ones
/// are done.
#[track_caller]
fn serves_ipv4_only(
    net: &Net,
    kind: ErrorKind,
    text: &str,
    result: Result<Report, Error>,
) -> String {
    let error = result.expect_err("nothing was missing");
    assert_eq!(error.kind(), ErrorKind::Incomplete, "{error}");
    let failures = &error.report().unwrap().failures;
    let failed: Vec<IpAddr> = failures.iter().map(|failure| failure.vip.addr()).collect();
    assert_eq!(failed, vips_v6(2), "{error}");
    for failure in failures {
        assert_eq!(failure.cause, Cause::Missing(kind), "{failure}");
        assert!(failure.to_string().contains(text), "{failure}");
    }
    net.assert_single_route(&vips_v4(2), PROTO_KERNEL);
    net.assert_absent(&vips_v6(2));
    error.to_string()
}

#[test]
fn inadmissible_vip_is_rejected_and_others_proceed() {
    let net = Net::new();
    let mut manager = builder().open().unwrap();
    let bad = [
        ("0.0.0.0", RejectReason::Unspecified),
        ("0.9.9.9", RejectReason::Unspecified),
        ("127.0.0.7", RejectReason::Loopback),
        ("169.254.20.10", RejectReason::LinkLocal),
        ("224.0.0.9", RejectReason::Multicast),
        ("255.255.255.255", RejectReason::Broadcast),
        ("192.0.2.10", RejectReason::IsSource),
        ("::", RejectReason::Unspecified),
        ("::1", RejectReason::Loopback),
        ("fe80::9", RejectReason::LinkLocal),
        ("ff02::9", RejectReason::Multicast),
        ("::ffff:10.96.0.1", RejectReason::V4Mapped),
        ("2001:db8::10", RejectReason::IsSource),
    ];
    let good = vips(20);
    let others = net.snapshot_without(&good);
    let all: Vec<IpAddr> = bad
        .iter()
        .map(|(text, _)| addr(text))
        .chain(good.iter().copied())
        .collect();
    let error = manager.assign(&all).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incomplete);
    let report = error.into_report().unwrap();
    assert_eq!(report.assigned, good.len());
    assert_eq!(report.failures.len(), bad.len());
    for (text, why) in bad {
        let vip = Vip::from(addr(text));
        let failure = report.failures.iter().find(|f| f.vip == vip).unwrap();
        assert_eq!(failure.cause, Cause::Rejected(why), "{text}");
        assert_eq!((failure.operation, failure.errno), (None, None));
    }
    net.assert_single_route(&good, PROTO_KERNEL);
    others.assert_same(&net.snapshot_without(&good));
    // The same set again: the bad ones fail again, and nothing is written.
    let report = manager.assign(&all).unwrap_err().into_report().unwrap();
    assert_eq!((report.unchanged, report.writes), (good.len(), 0));
    assert_eq!(report.failures.len(), bad.len());
}

#[test]
fn vip_outside_the_allowed_ranges_is_rejected() {
    let net = Net::new();
    let mut manager = builder()
        .allow("10.96.0.0/16".parse::<ipnet::IpNet>().unwrap())
        .allow("2001:db8:42::/64".parse::<ipnet::IpNet>().unwrap())
        .open()
        .unwrap();
    let inside = [addr("10.96.7.7"), addr("2001:db8:42::7")];
    let outside = [addr("10.97.0.1"), addr("2001:db8:43::7")];
    let report = manager
        .assign(inside.iter().chain(&outside))
        .unwrap_err()
        .into_report()
        .unwrap();
    assert_eq!(report.assigned, 2);
    let rejected: Vec<_> = report
        .failures
        .iter()
        .map(|f| (f.vip.addr(), f.cause))
        .collect();
    assert_eq!(
        rejected,
        outside.map(|vip| (vip, Cause::Rejected(RejectReason::OutsideAllowed)))
    );
    net.assert_single_route(&inside, PROTO_KERNEL);
    net.assert_absent(&outside);
    // What stands outside them on the link is no VIP of this manager.
    net.ip(&format!("addr add 10.97.0.1/32 dev {VIP_LINK}"));
    let before = net.snapshot_without(&inside);
    let report = manager.normalize().unwrap();
    assert_eq!((report.unchanged, report.writes), (2, 0));
    before.assert_same(&net.snapshot_without(&inside));
}

#[test]
fn vips_of_a_family_without_a_source_are_rejected() {
    let net = Net::new();
    let mut manager = VipManager::builder(VIP_LINK)
        .source(NODE_V4)
        .open()
        .unwrap();
    let set = vips(3);
    let report = manager.assign(&set).unwrap_err().into_report().unwrap();
    assert_eq!(report.assigned, 3);
    assert!(
        report
            .failures
            .iter()
            .all(|f| f.cause == Cause::Rejected(RejectReason::NoSource))
    );
    assert_eq!(report.failures.len(), 3);
    let v6: Vec<IpAddr> = set.iter().copied().filter(IpAddr::is_ipv6).collect();
    net.assert_absent(&v6);
    // Nor is one found on the link passed over in silence.
    net.ip(&format!("addr add {}/128 dev {VIP_LINK} nodad", v6[0]));
    net.wait_for_kernel();
    let report = manager.normalize().unwrap_err().into_report().unwrap();
    assert_eq!(report.unchanged, 3);
    assert_eq!(report.failures.len(), 1);
    assert_eq!(
        report.failures[0].cause,
        Cause::Rejected(RejectReason::NoSource)
    );
}

#[test]
fn impossible_link_names_are_refused() {
    let net = Net::new();
    for name in ["", "sixteen-bytes-xx", "a/b", "a b", ".", "..", "a\0b"] {
        refused(
            &net,
            ErrorKind::InvalidConfig,
            "no link can be named",
            || VipManager::builder(name).source(NODE_V4).open(),
        );
    }
}

#[test]
fn impossible_sources_are_refused() {
    let net = Net::new();
    for source in [
        "0.0.0.0",
        "127.0.0.1",
        "::",
        "::1",
        "ff02::1",
        "fe80::1",
        "224.0.0.1",
    ] {
        refused(&net, ErrorKind::InvalidConfig, source, || {
            VipManager::builder(VIP_LINK).source(addr(source)).open()
        });
    }
    refused(
        &net,
        ErrorKind::InvalidConfig,
        "more than one IPv4 source",
        || builder().source(Ipv4Addr::new(192, 0, 2, 11)).open(),
    );
}

#[test]
fn missing_link_is_reported_before_any_write() {
    let net = Net::new();
    let mut manager = VipManager::builder("absent0")
        .source(NODE_V4)
        .open()
        .unwrap();
    for call in [
        VipManager::assign::<Vec<IpAddr>>,
        VipManager::release,
        VipManager::normalize_only,
    ] {
        refused(&net, ErrorKind::LinkNotFound, "absent0", || {
            call(&mut manager, vips(2))
        });
    }
    refused(&net, ErrorKind::LinkNotFound, "there is no link", || {
        manager.normalize()
    });
}

#[test]
fn link_that_is_down_fails_ipv6_vips_only() {
    for binding in [Binding::Address, Binding::Route] {
        let net = Net::new();
        net.ip(&format!("link set {VIP_LINK} down"));
        let before = net.snapshot_without(&vips(2));
        let mut manager = builder().binding(binding).open().unwrap();
        let (kind, text) = (ErrorKind::LinkDown, "is down");
        let want = Want {
            address: binding == Binding::Address,
            ..Want::default()
        };
        for _ in 0..2 {
            let error = manager.assign(vips(2)).unwrap_err();
            for failure in &error.report().unwrap().failures {
                assert_eq!(failure.cause, Cause::Missing(kind), "{failure}");
                assert!(failure.to_string().contains(text), "{failure}");
            }
            net.local_state().assert_single_route(&vips_v4(2), &want);
        }
        lacks(&net, kind, text, || manager.assign(vips_v6(2)));
        assert_eq!(manager.normalize().unwrap().unchanged, 2);
        // It serves: the kernel answers with the node's address.
        let used = net.ip(&format!("route get {}", vips_v4(1)[0]));
        assert!(used.contains(&format!("src {NODE_V4} ")), "{used}");
        before.assert_same(&net.snapshot_without(&vips(2)));
        // With the caller's leave it is brought up.
        let mut manager = builder().binding(binding).bring_up().open().unwrap();
        assert_eq!(manager.assign(vips(2)).unwrap().assigned, 2);
        net.local_state().assert_single_route(&vips(2), &want);
    }
}

#[test]
fn disabled_ipv6_fails_ipv6_vips_only() {
    let net = Net::new();
    net.set_sysctl(&format!("ipv6/conf/{VIP_LINK}/disable_ipv6"), "1");
    net.ip(&format!("link set {VIP_LINK} down"));
    let mut manager = builder().bring_up().open().unwrap();
    let sysctl = format!("net/ipv6/conf/{VIP_LINK}/disable_ipv6");
    let kind = ErrorKind::Ipv6Disabled;
    lacks(&net, kind, &sysctl, || manager.assign(vips_v6(2)));
    let result = manager.assign(vips(2));
    serves_ipv4_only(&net, kind, &sysctl, result);
}

#[test]
fn mtu_below_1280_is_reported_as_the_reason() {
    let net = Net::new();
    net.ip(&format!("link set {VIP_LINK} mtu 1279"));
    let mut manager = builder().open().unwrap();
    let result = manager.assign(vips(2));
    let error = serves_ipv4_only(&net, ErrorKind::Ipv6Disabled, "MTU", result);
    // There is no such file.
    assert!(!error.contains("disable_ipv6"), "{error}");
    net.ip(&format!("link set {VIP_LINK} mtu 1280"));
    assert_eq!(manager.assign(vips(2)).unwrap().assigned, 2);
    net.assert_single_route(&vips(2), PROTO_KERNEL);
}

/// Panics unless a call has assigned, repaired and released so many, and VIPs of `losers` fail for want
/// of their source.
#[track_caller]
fn assert_fails_only(
    what: &str,
    result: Result<Report, Error>,
    done: [usize; 3],
    losers: &[IpAddr],
) {
    let error = result.expect_err(what);
    assert_eq!(error.kind(), ErrorKind::Incomplete, "{what}: {error}");
    let report = error.into_report().unwrap();
    let counts = [report.assigned, report.repaired, report.released];
    assert_eq!(counts, done, "{what}: {report}");
    for failure in &report.failures {
        let missing = Cause::Missing(ErrorKind::SourceNotOnNode);
        assert_eq!(failure.cause, missing, "{what}: {failure}");
        assert!(losers.contains(&failure.vip.addr()), "{what}: {failure}");
    }
    assert!(!report.failures.is_empty(), "{what}");
}

/// Whatever the one family lacks, by every call that puts VIPs on a link or keeps them there.
#[test]
fn family_that_lacks_something_does_not_stop_the_other() {
    for family in [Family::V4, Family::V6] {
        let net = Net::new();
        let (mine, others, source) = match family {
            Family::V4 => (vips_v6(3), vips_v4(3), format!("{NODE_V4}/32")),
            Family::V6 => (vips_v4(3), vips_v6(3), format!("{NODE_V6}/128")),
        };
        let mut manager = builder().open().unwrap();
        manager.assign(&others).unwrap();
        net.ip(&format!("addr del {source} dev node0"));
        let drifts = |net: &Net| {
            let vip = &mine[0];
            net.ip(&format!("route del local {vip} dev {VIP_LINK} table local"));
        };
        let check = |what: &str, result: Result<Report, Error>, done: [usize; 3]| {
            assert_fails_only(what, result, done, &others);
        };
        let all = vips(3);
        check("assign", manager.assign(&all), [3, 0, 0]);
        drifts(&net);
        check("normalize", manager.normalize(), [0, 1, 0]);
        drifts(&net);
        check("normalize_only", manager.normalize_only(&all), [0, 1, 0]);
        drifts(&net);
        let claim = viproute::Claim::link();
        let plan = manager.plan(&claim, &all).unwrap();
        assert_eq!(plan.failures.len(), 3, "{plan}");
        assert!(
            plan.steps
                .iter()
                .all(|step| step.vip.is_none_or(|vip| mine.contains(&vip.addr())))
        );
        // A release takes no source, of whichever family.
        let desired: Vec<IpAddr> = all
            .iter()
            .filter(|vip| **vip != others[2])
            .copied()
            .collect();
        check("reconcile", manager.reconcile(&claim, desired), [0, 1, 1]);
        net.assert_single_route(&mine, PROTO_KERNEL);
        net.assert_absent(&others[2..]);
        check(
            "set_binding",
            manager.set_binding(Binding::Route),
            [0, 3, 0],
        );
        check(
            "set_binding",
            manager.set_binding(Binding::Address),
            [0, 3, 0],
        );
        net.assert_single_route(&mine, PROTO_KERNEL);
        assert_eq!(manager.release(&all).unwrap().released, 5);
        net.assert_absent(&all);
    }
}

#[test]
fn advice_names_an_existing_file_for_a_link_name_with_dots() {
    let net = Net::new();
    net.add_link("vip.100");
    net.set_sysctl("ipv6/conf/vip.100/disable_ipv6", "1");
    let mut manager = VipManager::builder("vip.100")
        .source(NODE_V6)
        .open()
        .unwrap();
    let vip = addr("2001:db8:42::1");
    let error = lacks(&net, ErrorKind::Ipv6Disabled, "net/", || {
        manager.assign([vip])
    });
    let path = error.split(' ').find(|word| word.starts_with("net/"));
    let path = path.unwrap().strip_prefix("net/").unwrap();
    net.set_sysctl(path, "0");
    assert_eq!(manager.assign([vip]).unwrap().assigned, 1);
}

#[test]
fn source_that_is_not_on_the_node_fails_its_family() {
    let net = Net::new();
    for source in ["198.51.100.1", "2001:db8:9::9"] {
        let source = addr(source);
        let mut manager = VipManager::builder(VIP_LINK).source(source).open().unwrap();
        let vip = if source.is_ipv4() {
            addr("10.96.0.1")
        } else {
            addr("2001:db8:42::1")
        };
        lacks(
            &net,
            ErrorKind::SourceNotOnNode,
            &source.to_string(),
            || manager.assign([vip]),
        );
    }
    // Nor is a link made or brought up for it.
    let missing = addr("198.51.100.1");
    let vip = addr("10.96.0.1");
    for name in ["new0", VIP_LINK] {
        net.ip(&format!("link set {VIP_LINK} down"));
        let mut manager = VipManager::builder(name)
            .source(missing)
            .create_link(viproute::LinkKind::Bridge)
            .bring_up()
            .open()
            .unwrap();
        lacks(&net, ErrorKind::SourceNotOnNode, "198.51.100.1", || {
            manager.assign([vip])
        });
        lacks(&net, ErrorKind::SourceNotOnNode, "198.51.100.1", || {
            manager.reconcile(&viproute::Claim::link(), [vip])
        });
    }
    net.ip(&format!("link set {VIP_LINK} up"));
    // A source that no VIP of the call needs is not looked at.
    let mut manager = VipManager::builder(VIP_LINK)
        .source(NODE_V4)
        .source(addr("2001:db8:9::9"))
        .open()
        .unwrap();
    assert_eq!(manager.assign([addr("10.96.0.1")]).unwrap().assigned, 1);
}

/// A link that does duplicate address detection and has no carrier, because its peer is down: like
/// a tap that nobody holds, but an ordinary user may make it too.
fn without_carrier(net: &Net) {
    net.ip("link add idle0 type veth peer name peer0");
    net.ip("link set idle0 up");
}

#[test]
fn tentative_source_fails_its_family() {
    let net = Net::new();
    // Without a carrier its addresses stay tentative for ever.
    without_carrier(&net);
    net.ip("addr add 2001:db8:9::9/64 dev idle0");
    let mut manager = VipManager::builder(VIP_LINK)
        .source(addr("2001:db8:9::9"))
        .open()
        .unwrap();
    lacks(&net, ErrorKind::SourceTentative, "tentative", || {
        manager.assign([addr("2001:db8:42::1")])
    });
}

fn with_source_v6(source: &str) -> VipManager {
    VipManager::builder(VIP_LINK)
        .source(addr(source))
        .open()
        .unwrap()
}

#[test]
fn source_that_is_usable_on_any_link_is_accepted() {
    // Which of the two the kernel answers with goes by the order in which they were added.
    for tentative_first in [false, true] {
        let net = Net::new();
        without_carrier(&net);
        net.ip("link set lo up");
        let mut adds = [
            "addr add 2001:db8:9::9/128 dev lo nodad",
            "addr add 2001:db8:9::9/64 dev idle0",
        ];
        if tentative_first {
            adds.reverse();
        }
        adds.iter().for_each(|add| {
            net.ip(add);
        });
        let vip = addr("2001:db8:42::1");
        let report = with_source_v6("2001:db8:9::9").assign([vip]).unwrap();
        assert_eq!(report.assigned, 1);
        // Without the usable one, it is tentative.
        net.ip("addr del 2001:db8:9::9/128 dev lo");
        let mut manager = with_source_v6("2001:db8:9::9");
        lacks(&net, ErrorKind::SourceTentative, "tentative: wait", || {
            manager.assign([addr("2001:db8:42::2")])
        });
    }
}

#[test]
fn optimistic_source_is_accepted() {
    let net = Net::new();
    without_carrier(&net);
    net.set_sysctl("ipv6/conf/idle0/optimistic_dad", "1");
    net.ip("addr add 2001:db8:9::9/64 dev idle0 optimistic");
    let shown = net.ip("addr show dev idle0");
    assert!(
        shown.contains("tentative") && shown.contains("optimistic"),
        "{shown}"
    );
    let vip = addr("2001:db8:42::1");
    let report = with_source_v6("2001:db8:9::9").assign([vip]).unwrap();
    assert_eq!(report.assigned, 1);
}

#[test]
fn advice_does_not_wait_for_a_source_on_a_link_that_is_down() {
    let net = Net::new();
    net.ip("link add idle0 type veth peer name peer0");
    net.ip("addr add 2001:db8:9::9/64 dev idle0");
    let mut manager = with_source_v6("2001:db8:9::9");
    let error = lacks(&net, ErrorKind::SourceTentative, "its link is down", || {
        manager.assign([addr("2001:db8:42::1")])
    });
    assert!(!error.contains("wait"), "{error}");
}

#[test]
fn advice_does_not_wait_for_a_source_that_failed_dad() {
    let net = Net::new();
    net.ip("link add dup0 type veth peer name peer0");
    // The kernel's own addresses would end their detection at any moment.
    net.ip("link set dup0 addrgenmode none");
    net.ip("link set peer0 addrgenmode none up");
    // The other end answers for the address.
    net.set_sysctl("ipv6/conf/all/forwarding", "1");
    net.set_sysctl("ipv6/conf/peer0/proxy_ndp", "1");
    net.set_sysctl("ipv6/neigh/peer0/proxy_delay", "0");
    net.ip("addr add fe80::77/64 dev peer0 nodad");
    net.ip("neigh add proxy 2001:db8:9::9 dev peer0");
    net.ip("link set dup0 up");
    net.ip("addr add 2001:db8:9::9/64 dev dup0");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !net.ip("addr show dev dup0").contains("dadfailed") {
        assert!(std::time::Instant::now() < deadline, "it never failed");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let mut manager = with_source_v6("2001:db8:9::9");
    let error = lacks(&net, ErrorKind::SourceTentative, "in use", || {
        manager.assign([addr("2001:db8:42::1")])
    });
    assert!(!error.contains("wait"), "{error}");
}

#[test]
fn range_within_169_254_admits_its_vips() {
    let net = Net::new();
    // That of node-local-dns.
    let vip = addr("169.254.20.10");
    let allowing = |ranges: &[&str]| {
        let ranges = ranges.iter().map(|range| range.parse().unwrap());
        ranges.fold(builder(), |builder, range: ipnet::IpNet| {
            builder.allow(range)
        })
    };
    for ranges in [
        &[][..],
        &["169.254.20.11/32"],
        // It does not name link-local addresses, it only holds them.
        &["0.0.0.0/0"],
        &["169.0.0.0/8", "169.254.0.0/20"],
    ] {
        let mut manager = allowing(ranges).open().unwrap();
        let error = manager.assign([vip]).unwrap_err();
        let failures = &error.report().unwrap().failures;
        assert_eq!(
            failures[0].cause,
            Cause::Rejected(RejectReason::LinkLocal),
            "{ranges:?}"
        );
    }
    for range in ["169.254.20.10/32", "169.254.0.0/16"] {
        let mut manager = allowing(&["10.96.0.0/12", range]).open().unwrap();
        assert_eq!(manager.assign([vip]).unwrap().assigned, 1);
        net.assert_single_route(&[vip], PROTO_KERNEL);
        // It is found, and goes, like any other.
        assert_eq!(manager.normalize().unwrap().unchanged, 1);
        assert_eq!(manager.audit().unwrap().vips.len(), 1);
        assert_eq!(
            manager
                .release_all(&viproute::Claim::link())
                .unwrap()
                .released,
            1
        );
    }
}

/// `check` says before the call what the call says of each address.
#[test]
fn check_agrees_with_assign() {
    let net = Net::new();
    let range = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
    let sourced = || VipManager::builder(VIP_LINK).source(NODE_V4);
    let addresses = [
        "10.96.0.10",
        "10.97.0.10",
        "10.96.1.1",
        "192.0.2.10",
        "0.0.0.1",
        "127.0.0.1",
        "224.0.0.1",
        "169.254.20.10",
        "255.255.255.255",
        "2001:db8:42::1",
        "::",
        "::1",
        "ff02::1",
        "fe80::1",
        "::ffff:10.96.0.10",
    ];
    for builder in [
        sourced(),
        sourced()
            .allow(range("10.96.0.0/16"))
            .deny(range("10.96.1.0/24")),
        sourced().source(NODE_V6).allow(range("169.254.20.0/24")),
        VipManager::builder(VIP_LINK).kernel_source(viproute::Family::V6),
    ] {
        let mut manager = builder.open().unwrap();
        for address in addresses {
            let vip: viproute::Vip = address.parse().unwrap();
            let checked = manager.check(vip).map_err(Cause::Rejected);
            let called = match manager.assign([vip]) {
                Ok(_) => Ok(()),
                Err(error) => Err(error.report().unwrap().failures[0].cause),
            };
            assert_eq!(checked, called, "{address}");
            // Of an address that can be no VIP at all, `Vip` says so itself.
            if vip.check().is_err() && address != "169.254.20.10" {
                assert_eq!(vip.check().map_err(Cause::Rejected), checked, "{address}");
            }
            manager.release([vip]).ok();
        }
    }
    net.assert_absent(&common::vips(1));
}

#[test]
fn denied_range_is_never_touched() {
    let net = Net::new();
    let nodes = "10.96.7.0/24".parse::<ipnet::IpNet>().unwrap();
    let nodes_v6 = "2001:db8:42:7::/64".parse::<ipnet::IpNet>().unwrap();
    let mut manager = builder()
        .allow("10.96.0.0/12".parse::<ipnet::IpNet>().unwrap())
        .allow("2001:db8:42::/48".parse::<ipnet::IpNet>().unwrap())
        .deny(nodes)
        .deny(nodes_v6)
        .open()
        .unwrap();
    let good = [addr("10.96.0.1"), addr("2001:db8:42::1")];
    let denied = [addr("10.96.7.1"), addr("2001:db8:42:7::1")];
    let check = |result: Result<viproute::Report, Error>| {
        let report = result.unwrap_err().into_report().unwrap();
        let causes: Vec<_> = report.failures.iter().map(|f| (f.vip, f.cause)).collect();
        let expected = denied.map(|vip| (Vip::from(vip), Cause::Rejected(RejectReason::Denied)));
        assert_eq!(causes, expected);
    };
    check(manager.assign(good.iter().chain(&denied)));
    net.assert_single_route(&good, PROTO_KERNEL);
    net.assert_absent(&denied);
    // Nor if it is there, whatever is claimed.
    for vip in denied {
        net.ip(&format!("addr add {vip} dev {VIP_LINK}"));
    }
    net.wait_for_kernel();
    let before = net.snapshot_without(&good);
    check(manager.release(denied));
    manager.normalize().unwrap();
    manager.reconcile(&viproute::Claim::link(), good).unwrap();
    assert_eq!(manager.audit().unwrap().vips.len(), 2);
    manager.release_all(&viproute::Claim::link()).unwrap();
    before.assert_same(&net.snapshot_without(&good));
}

#[test]
fn loopback_link_needs_ranges() {
    let net = Net::new();
    let mut manager = VipManager::builder("lo").source(NODE_V4).open().unwrap();
    refused(&net, ErrorKind::InvalidConfig, "allow", || {
        manager.normalize()
    });
    refused(&net, ErrorKind::InvalidConfig, "allow", || {
        manager.assign(vips_v4(2))
    });
    let mut manager = VipManager::builder("lo")
        .source(NODE_V4)
        .allow("10.96.0.0/12".parse::<ipnet::IpNet>().unwrap())
        .open()
        .unwrap();
    assert_eq!(manager.assign(vips_v4(2)).unwrap().assigned, 2);
    assert_eq!(manager.normalize().unwrap().unchanged, 2);
    assert_eq!(manager.release(vips_v4(2)).unwrap().released, 2);
}

#[test]
fn call_without_privilege_writes_nothing() {
    let net = Net::new();
    // Raises no privilege again: this thread drops CAP_NET_ADMIN for good.
    let before = net.snapshot_without(&[]);
    let (error, read) = std::thread::spawn(|| {
        caps::drop_net_admin();
        let mut manager = builder().open().unwrap();
        let error = manager.assign(vips(200)).unwrap_err();
        // Looking needs none: there is nothing on the link to repair.
        (error, manager.normalize())
    })
    .join()
    .unwrap();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    // What `unwrap`, or a `main` that returns it, prints.
    let printed = format!("{error:?}");
    assert!(printed.starts_with("Error { kind: PermissionDenied, "));
    let report = error.report().unwrap();
    assert_eq!(report.failures.len(), 400);
    assert!(report.failures.iter().all(|f| f.cause == Cause::NotReached));
    assert_eq!(read.unwrap().writes, 0);
    before.assert_same(&net.snapshot_without(&[]));
}

#[test]
fn vip_with_another_prefix_length_is_reported_and_left() {
    let net = Net::new();
    net.ip(&format!("addr add 2001:db8:42::1/64 dev {VIP_LINK} nodad"));
    net.ip(&format!("addr add 10.96.0.1/24 dev {VIP_LINK}"));
    net.wait_for_kernel();
    let mut manager = builder().open().unwrap();
    let set = vips(2);
    let wrong = &set[..2];
    let before = net.snapshot_without(&set[2..]);
    for call in [VipManager::assign::<&[IpAddr]>, VipManager::normalize_only] {
        let _ = manager.assign(&set[2..]).unwrap();
        let report = call(&mut manager, &set).unwrap_err().into_report().unwrap();
        assert_eq!(report.failures.len(), 2);
        assert_eq!(report.unchanged, 2);
        for (failure, vip) in report.failures.iter().zip(wrong) {
            assert_eq!(failure.vip, Vip::from(vip));
            assert_eq!(failure.cause, Cause::OtherPrefixLength);
            assert!(
                failure.drift.contains(Drift::WRONG_PREFIX_LENGTH),
                "{failure}"
            );
            assert!(
                failure.to_string().contains("wrong prefix length"),
                "{failure}"
            );
        }
    }
    before.assert_same(&net.snapshot_without(&set[2..]));
    // An ordinary address of the link is no VIP of it.
    assert_eq!(manager.normalize().unwrap().unchanged, 2);
}

#[test]
fn address_that_stays_tentative_is_pending() {
    let net = Net::new();
    without_carrier(&net);
    let vip = addr("2001:db8:42::1");
    let other = addr("2001:db8:42::2");
    // Put there by another writer, with duplicate address detection, which cannot end.
    net.ip(&format!("addr add {vip}/128 dev idle0"));
    let stall = Duration::from_millis(700);
    let mut manager = VipManager::builder("idle0")
        .source(NODE_V6)
        .stall_timeout(stall)
        .open()
        .unwrap();
    let began = Instant::now();
    let error = manager.assign([vip, other]).unwrap_err();
    assert!(
        began.elapsed() >= stall,
        "gave up after {:?}",
        began.elapsed()
    );
    let report = error.into_report().unwrap();
    // The library adds its address without detection, so the VIP is good.
    assert_eq!(report.assigned, 1);
    assert_eq!(report.failures.len(), 1);
    let failure = &report.failures[0];
    assert_eq!(
        (failure.vip, failure.cause),
        (Vip::from(vip), Cause::Pending)
    );
    assert!(failure.drift.contains(Drift::TENTATIVE));
    // When the obstacle goes, the same call succeeds.
    net.ip(&format!("addr del {vip}/128 dev idle0"));
    let report = manager.assign([vip, other]).unwrap();
    assert_eq!((report.assigned, report.unchanged), (1, 1));
}

#[test]
fn assign_waits_for_duplicate_address_detection() {
    let net = Net::bare();
    net.add_node_addresses(&{
        net.add_link("node0");
        "node0".to_owned()
    });
    net.ip("link add veth0 type veth peer name veth1");
    net.ip("link set veth1 up");
    net.ip("link set veth0 up");
    let vip = Ipv6Addr::new(0x2001, 0xdb8, 0x42, 0, 0, 0, 0, 1);
    net.ip(&format!("addr add {vip}/128 dev veth0"));
    let shown = net.ip("-6 addr show dev veth0 tentative");
    assert!(
        shown.contains(&vip.to_string()),
        "detection should have begun: {shown}"
    );
    let mut manager = VipManager::builder("veth0").source(NODE_V6).open().unwrap();
    let report = manager.assign([vip]).unwrap();
    assert_eq!(report.repaired, 1);
    let routes = net.ip("-6 route show table all dev veth0");
    let of_vip: Vec<&str> = routes
        .lines()
        .filter(|l| l.contains("2001:db8:42::1"))
        .collect();
    assert_eq!(of_vip.len(), 1, "{routes}");
    assert!(of_vip[0].contains("src 2001:db8::10"), "{routes}");
}

#[test]
fn a_link_in_a_vrf() {
    let net = Net::new();
    let made = Command::new("ip")
        .args("link add vrf0 type vrf table 10".split(' '))
        .output()
        .unwrap();
    if !made.status.success() {
        let why = String::from_utf8_lossy(&made.stderr);
        common::skipped(
            "a_link_in_a_vrf",
            &format!("this kernel has no VRF: {}", why.trim()),
        );
        return;
    }
    net.ip("link set vrf0 up");
    net.ip(&format!("link set {VIP_LINK} master vrf0"));
    let mut manager = builder().open().unwrap();
    refused(&net, ErrorKind::LinkInVrf, "VRF", || {
        manager.assign(vips(2))
    });
}
