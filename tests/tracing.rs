//! The spans and events of the feature `tracing`. `src/faults/trace.rs` has those of faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/collector.rs"]
mod collector;
mod common;

use std::time::Duration;

use collector::{Collected, collect};
use common::{NODE_LINK, NODE_V4, NODE_V6, Net, VIP_LINK, vip};
use tracing::Level;
use viproute::{Claim, Keeper, LinkIndex, LinkRef, VipManager, VipManagerBuilder};

fn builder(link: impl Into<LinkRef>) -> VipManagerBuilder {
    VipManager::builder(link).source(NODE_V4).source(NODE_V6)
}

/// Name and fields of the only span, which is around every event.
fn only_span(collected: &Collected) -> (&str, [&str; 2]) {
    let [span] = &*collected.spans else {
        panic!("{:#?}", collected.spans);
    };
    let name = [span.name.clone()];
    let is_within = |event: &collector::Seen| event.within == name;
    assert!(collected.events.iter().all(is_within), "{collected:#?}");
    span.with(["link", "vips"])
}

#[test]
fn assign_of_a_new_and_a_right_vip_gives_one_span_and_one_outcome() {
    let net = Net::new();
    let mut manager = builder(VIP_LINK).open().unwrap();
    let [right, new] = [vip("10.96.0.10"), vip("10.96.0.11")];
    manager.assign([right]).unwrap();
    let (collected, report) = collect(|| manager.assign([right, new]).unwrap());
    assert_eq!(only_span(&collected), ("assign", [VIP_LINK, "2"]));
    let [outcome, done] = &*collected.events else {
        panic!("{:#?}", collected.events);
    };
    let expected = ("outcome", ["10.96.0.11", "assigned", ""]);
    assert_eq!(outcome.with(["vip", "kind", "cured"]), expected);
    assert_eq!(outcome.level, Level::DEBUG);
    let counts = ["assigned", "repaired", "unchanged", "failed", "writes"];
    let writes = report.writes.to_string();
    assert_eq!(done.with(counts), ("done", ["1", "0", "1", "0", &writes]));
    assert_eq!(done.level, Level::INFO);
    // What was cured.
    net.ip(&format!("route del local {new} dev {VIP_LINK} table local"));
    let (collected, _) = collect(|| manager.assign([right, new]).unwrap());
    let expected = ("outcome", ["10.96.0.11", "repaired", "missing route"]);
    assert_eq!(collected.events[0].with(["vip", "kind", "cured"]), expected);
}

#[test]
fn every_call_has_a_span_with_its_name_and_link() {
    let net = Net::new();
    let index = LinkIndex::new(net.vip_index()).unwrap();
    let mut manager = builder(index).open().unwrap();
    let index = index.to_string();
    let vips = [vip("10.96.0.10"), vip("2001:db8:42::1")];
    let mut call = |act: &mut dyn FnMut(&mut VipManager)| {
        let (collected, ()) = collect(|| act(&mut manager));
        let (name, [link, vips]) = only_span(&collected);
        assert_eq!(link, index);
        let last = collected.events.last().map(|event| event.name.clone());
        (name.to_owned(), vips.to_owned(), last.unwrap_or_default())
    };
    let mut check = |name: &str, vips: &str, last: &str, act: &mut dyn FnMut(&mut VipManager)| {
        let expected = (name.to_owned(), vips.to_owned(), last.to_owned());
        assert_eq!(call(act), expected);
    };
    check("assign", "2", "done", &mut |m| {
        drop(m.assign(vips).unwrap())
    });
    check("normalize", "0", "done", &mut |m| {
        drop(m.normalize().unwrap())
    });
    check("normalize", "2", "done", &mut |m| {
        drop(m.normalize_only(vips).unwrap())
    });
    check("audit", "0", "audited", &mut |m| drop(m.audit().unwrap()));
    check("audit", "2", "audited", &mut |m| {
        drop(m.audit_only(vips).unwrap())
    });
    check("plan", "2", "", &mut |m| drop(m.plan_assign(vips).unwrap()));
    let claim = Claim::link();
    check("reconcile", "1", "done", &mut |m| {
        drop(m.reconcile(&claim, [vips[0]]).unwrap_err())
    });
    check("set_binding", "0", "done", &mut |m| {
        drop(m.set_binding(viproute::Binding::Route).unwrap());
    });
    check("release", "1", "done", &mut |m| {
        drop(m.release([vips[0]]).unwrap())
    });
    check("release_all", "0", "done", &mut |m| {
        drop(m.release_all(&claim).unwrap())
    });
    net.ip(&format!("link del {VIP_LINK}"));
    check("normalize", "0", "error", &mut |m| {
        drop(m.normalize().unwrap_err())
    });
}

fn keeper(receive_buffer: usize) -> Keeper {
    let manager = builder(VIP_LINK).receive_buffer(receive_buffer);
    let mut keeper = manager.open().unwrap().into_keeper(Claim::link()).unwrap();
    keeper.set_desired([vip("10.96.0.10")]);
    dispatch(&mut keeper);
    keeper
}

fn dispatch(keeper: &mut Keeper) {
    while keeper.dispatch(usize::MAX).unwrap().more {}
}

#[test]
fn lost_notifications_make_a_keeper_resync() {
    let net = Net::new();
    let mut keeper = keeper(1);
    net.notify_in_vain();
    let (collected, ()) = collect(|| dispatch(&mut keeper));
    let names: Vec<_> = collected.events.iter().map(|event| &*event.name).collect();
    assert_eq!(names[..2], ["lost", "resync"], "{:#?}", collected.events);
    assert_eq!(collected.events[0].field("what"), "notifications");
    assert_eq!(only_span(&collected), ("dispatch", [VIP_LINK, "1"]));
}

#[test]
fn a_repair_that_is_undone_again_and_again_gives_a_pause() {
    let net = Net::new();
    let mut keeper = keeper(1 << 20);
    let paused = |collected: &Collected| {
        let pauses = collected.named("pause");
        let fields = pauses
            .iter()
            .map(|pause| pause.with(["vip"]).1[0].to_owned());
        fields.collect::<Vec<_>>()
    };
    for repair in 1.. {
        net.ip(&format!("addr del 10.96.0.10/32 dev {VIP_LINK}"));
        let (collected, ()) = collect(|| dispatch(&mut keeper));
        let cured = collected.named("outcome");
        assert_eq!(cured.len(), 1, "{:#?}", collected.events);
        if keeper.counters().backoffs == 0 {
            assert_eq!(paused(&collected), [""; 0]);
            assert!(repair < 10);
            continue;
        }
        assert_eq!(paused(&collected), ["10.96.0.10"]);
        let seconds: f64 = collected.named("pause")[0]
            .field("seconds")
            .parse()
            .unwrap();
        assert!(seconds > 0.0 && seconds < 30.0, "{seconds}");
        break;
    }
}

#[test]
fn what_a_keeper_lacks_is_missing_and_then_available() {
    let net = Net::new();
    let mut keeper = keeper(1 << 20);
    let source = format!("{NODE_V4}/32 dev {NODE_LINK}");
    net.ip(&format!("addr del {source}"));
    let (collected, ()) = collect(|| dispatch(&mut keeper));
    let [missing] = *collected.named("missing") else {
        panic!("{:#?}", collected.events);
    };
    let expected = ("missing", ["ipv4", "source_not_on_node"]);
    assert_eq!(missing.with(["family", "kind"]), expected);
    assert_eq!(missing.level, Level::WARN);
    // The same is said once.
    std::thread::sleep(Duration::from_millis(1100));
    let (collected, ()) = collect(|| dispatch(&mut keeper));
    assert_eq!(collected.named("missing"), [] as [&collector::Seen; 0]);
    net.ip(&format!("addr add {source}"));
    let (collected, ()) = collect(|| dispatch(&mut keeper));
    let [available] = *collected.named("available") else {
        panic!("{:#?}", collected.events);
    };
    let expected = ("available", ["ipv4", "source_not_on_node"]);
    assert_eq!(available.with(["family", "kind"]), expected);
}

#[test]
fn a_keepers_failure_and_refusal_are_told_once_and_so_is_their_end() {
    let net = Net::new();
    let mut keeper = keeper(1 << 20);
    let [right, conflict, v6] = ["10.96.0.10", "10.96.0.11", "2001:db8:42::1"].map(vip);
    let other = format!("{conflict}/32 dev {NODE_LINK}");
    net.ip(&format!("addr add {other}"));
    keeper.set_desired([right, conflict, v6]);
    let mut events = |names: [&str; 3], act: &mut dyn FnMut(&mut Keeper)| {
        act(&mut keeper);
        let (collected, ()) = collect(|| dispatch(&mut keeper));
        let mut seen = Vec::new();
        for event in names
            .map(|name| collected.named(name))
            .into_iter()
            .flatten()
        {
            seen.push(format!("{} {}", event.name, event.field("vip")));
            assert_eq!(event.level == Level::INFO, event.name == "recovered");
        }
        seen
    };
    let names = ["failure", "recovered", "refused"];
    assert_eq!(events(names, &mut |_| ()), ["failure 10.96.0.11"]);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(events(names, &mut |_| ()), [""; 0]);
    net.ip(&format!("addr del {other}"));
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(events(names, &mut |_| ()), ["recovered 10.96.0.11"]);
    let without_v6 = &mut |keeper: &mut Keeper| keeper.set_desired([right, conflict]);
    let said = events(names, without_v6);
    assert_eq!(said, ["failure 2001:db8:42::1", "refused "]);
    assert_eq!(events(names, &mut |_| ()), [""; 0]);
}

/// The kernel may still add its own route to a new IPv6 address.
#[test]
fn a_wait_for_the_kernel_is_an_event() {
    let net = Net::new();
    let mut manager = builder(VIP_LINK).open().unwrap();
    let vip = "2001:db8:42::1";
    let route = format!("local {vip} dev {VIP_LINK} table local");
    // A machine may be so slow that the address is old when the link is read.
    for _ in 0..20 {
        net.ip(&format!(
            "addr add {vip}/128 dev {VIP_LINK} nodad noprefixroute"
        ));
        while net.try_ip(&format!("route del {route}")).is_err() {}
        net.ip(&format!(
            "route add {route} proto kernel metric 1024 src {NODE_V6}"
        ));
        let (collected, _) = collect(|| manager.normalize().unwrap());
        manager.release([common::vip(vip)]).unwrap();
        if let [wait, ..] = *collected.named("wait") {
            assert_eq!(wait.with(["vips"]).1, ["1"]);
            return;
        }
    }
    panic!("no call waited");
}
