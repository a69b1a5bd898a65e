//! With warm buffers, the number of heap allocations of a successful call does not depend on the
//! number of VIPs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use allocation_counter::{AllocationInfo, measure};
use common::raw::{self, CREATE_APPEND, Raw};
use common::{NODE_LINK, NODE_V4, Net, VIP_LINK};
use netlink_packet_route::RouteNetlinkMessage::NewRoute;
use std::net::IpAddr;
use viproute::{Claim, Report, VipManager};

const SMALL: usize = 100;
const MANY: usize = 10_000;

fn counted(
    call: impl FnOnce() -> Report,
    expect: impl Fn(&Report) -> usize,
    n: usize,
) -> AllocationInfo {
    let mut report = None;
    let info = measure(|| report = Some(call()));
    let report = report.unwrap();
    assert_eq!(expect(&report), n, "{report}");
    // One allocation for all outcomes: a vector that grew by push has room to spare.
    assert_eq!(report.outcomes.capacity(), report.outcomes.len());
    info
}

/// Breaks `vips` in the cheapest way: our route away, the kernel's own back. As after a link flap.
fn break_all(net: &Net, vips: &[IpAddr]) {
    let lines = vips.iter().map(|vip| {
        format!(
            "route replace local {vip} dev {VIP_LINK} table local proto 99 metric {}",
            if vip.is_ipv6() { 1024 } else { 0 }
        )
    });
    net.ip_batch(lines);
}

fn run(family: fn(usize) -> Vec<IpAddr>) {
    let net = Net::new();
    let mut manager = common::builder().open().unwrap();
    let many = family(MANY);
    let small = &many[..SMALL];
    // Warm: the buffers grow to the largest call.
    manager.assign(&many).unwrap();
    manager.normalize().unwrap();
    break_all(&net, &many);
    assert_eq!(manager.normalize().unwrap().repaired, MANY);
    manager.release(&many).unwrap();

    let mut counts = Vec::new();
    for set in [small, &many[..]] {
        let n = set.len();
        let assign = counted(|| manager.assign(set).unwrap(), |r| r.assigned, n);
        let again = counted(|| manager.assign(set).unwrap(), |r| r.unchanged, n);
        let fine = counted(|| manager.normalize().unwrap(), |r| r.unchanged, n);
        break_all(&net, set);
        let repair = counted(|| manager.normalize().unwrap(), |r| r.repaired, n);
        let only = counted(|| manager.normalize_only(set).unwrap(), |r| r.unchanged, n);
        let release = counted(|| manager.release(set).unwrap(), |r| r.released, n);
        counts.push([assign, again, fine, repair, only, release].map(|info| info.count_total));
    }
    println!(
        "allocations of assign, assign again, normalize, normalize broken, normalize_only, release:"
    );
    println!(
        "{SMALL} VIPs: {:?}\n{MANY} VIPs: {:?}",
        counts[0], counts[1]
    );
    // A call whose late routes are late waits for them, which takes a few allocations for all of them.
    for (small, large) in counts[0].iter().zip(counts[1]) {
        assert!(small.abs_diff(large) <= 10, "{counts:?}");
    }
    // And it is a handful: templates and the link's look-up.
    assert!(counts[0].iter().all(|count| *count < 200), "{counts:?}");
}

#[test]
fn ipv4_calls_allocate_nothing_per_vip() {
    run(common::vips_v4);
}

#[test]
fn ipv6_calls_allocate_nothing_per_vip() {
    run(common::vips_v6);
}

#[test]
fn shrink_to_gives_memory_back() {
    let net = Net::new();
    let mut manager = common::builder().open().unwrap();
    let many = common::vips_v4(MANY);
    let held = measure(|| {
        manager.assign(&many).unwrap();
    });
    let given = measure(|| manager.shrink_to(0));
    println!(
        "held {} bytes, given back {}",
        held.bytes_current, -given.bytes_current
    );
    // The report that the call returned is gone; what it holds now are its buffers.
    assert!(held.bytes_current > 0);
    assert_eq!(given.bytes_total, 0, "it takes none");
    assert!(-given.bytes_current > held.bytes_current * 9 / 10);
    let nothing = measure(|| manager.shrink_to(0));
    assert_eq!(nothing.bytes_current, 0, "it is all that there is");

    // The manager goes on, and so do the VIPs.
    let report = manager.assign(&many[..SMALL]).unwrap();
    assert_eq!((report.unchanged, report.writes), (SMALL, 0), "{report}");
    manager.shrink_to(SMALL);
    let again = measure(|| assert_eq!(manager.normalize().unwrap().unchanged, MANY));
    // Room for small keeps small, not what the largest call needed.
    let given = measure(|| manager.shrink_to(SMALL));
    assert!(-given.bytes_current > again.bytes_current / 2);
    assert_eq!(manager.release(&many).unwrap().released, MANY);
    net.assert_absent(&many);
}

/// A VIP that the keeper does not look at for a while, because another link has it, gets 5,000 routes.
#[test]
fn keeper_remembers_only_some_routes_to_one_vip() {
    const ROUTES: u32 = 5_000;
    let net = Net::new();
    let link = net.vip_index();
    let vip = common::vips_v4(1)[0];
    net.ip(&format!("addr add {vip}/32 dev {NODE_LINK}"));
    let manager = VipManager::builder(VIP_LINK).source(NODE_V4);
    let mut keeper = manager.open().unwrap().into_keeper(Claim::link()).unwrap();
    keeper.set_desired([vip]);
    let mut raw = Raw::new();
    // A busy machine may look again in between, and read all routes.
    for _ in 0..10 {
        net.ip(&format!("route flush {vip} dev {VIP_LINK} table local"));
        assert_eq!(keeper.dispatch(usize::MAX).unwrap().report.writes, 0);
        let before = keeper.counters();
        let held = measure(|| {
            for some in (1..=ROUTES).step_by(100) {
                let routes = (some..some + 100).map(|metric| {
                    let route = raw::local_route(vip, link, None, 99);
                    (NewRoute(raw::with_metric(route, metric)), CREATE_APPEND)
                });
                raw.batch_ok(&routes.collect::<Vec<_>>());
                keeper.dispatch(usize::MAX).unwrap();
            }
        });
        let done = keeper.counters() - before;
        if (done.looks, done.resyncs) == (0, 0) {
            assert!(done.events >= u64::from(ROUTES), "{done}");
            println!("{ROUTES} routes: {} bytes", held.bytes_current);
            return assert!(held.bytes_current < 50_000, "{}", held.bytes_current);
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    panic!("never were so many routes notified between two looks");
}

/// Half of the set is another one each time.
#[test]
fn keeper_of_a_set_that_flaps_does_not_grow() {
    let _net = Net::new();
    let all = common::vips_v4(300);
    let manager = VipManager::builder(VIP_LINK).source(NODE_V4);
    let mut keeper = manager.open().unwrap().into_keeper(Claim::link()).unwrap();
    let mut flap = |times: usize| {
        for _ in 0..times {
            for set in [&all[..200], &all[100..]] {
                keeper.set_desired(set);
                while keeper.dispatch(usize::MAX).unwrap().more {}
            }
        }
    };
    flap(3);
    let grown = measure(|| flap(20));
    println!("{} bytes after 40 sets", grown.bytes_current);
    assert!(grown.bytes_current < 10_000, "{}", grown.bytes_current);
}

/// Each set has new VIPs, and another link holds one VIP of each family.
#[test]
fn keeper_of_ever_new_vips_does_not_grow() {
    for (size, sets) in [(10, 100), (100, 25)] {
        let net = Net::new();
        let mut keeper = common::builder()
            .open()
            .unwrap()
            .into_keeper(Claim::link())
            .unwrap();
        let warm_up = 5;
        let count = warm_up + sets;
        let all = [common::vips_v4(count * size), common::vips_v6(count * size)];
        let mut each = (0..count).map(|at| all.each_ref().map(|vips| &vips[at * size..][..size]));
        let mut renew = |times: usize| {
            for set in each.by_ref().take(times) {
                let taken = set.map(|vips| vips[0]);
                let act = |verb: &str| {
                    let line = |vip| format!("addr {verb} {vip} dev {NODE_LINK} nodad");
                    net.ip_batch(taken.map(line));
                };
                act("add");
                keeper.set_desired(set.concat());
                while keeper.dispatch(usize::MAX).unwrap().more {}
                assert_eq!(keeper.failing().len(), 2);
                act("del");
            }
        };
        renew(warm_up);
        let grown = measure(|| renew(sets)).bytes_current;
        println!("{grown} bytes after {sets} sets of {size}");
        // A buffer may grow when many notifications come together. What was remembered of each VIP, or of
        // each failure, would be more.
        assert!(grown < 8192, "{grown}");
    }
}

/// A watcher remembers the addresses of the link that are no VIPs while they are there.
#[test]
fn watcher_of_ever_new_addresses_does_not_grow() {
    const ADDRESSES: usize = 2_000;
    let net = Net::new();
    let mut watcher = common::builder().open().unwrap().watcher().unwrap();
    let mut events = Vec::new();
    let mut renew = |from: usize| {
        for some in (from..from + ADDRESSES).step_by(50) {
            let lines = (some..some + 50).flat_map(|at| {
                let addresses = [format!("fe80::{at:x}"), format!("2001:db8:7:{at:x}::1")];
                addresses.map(|addr| format!("{addr}/64 dev {VIP_LINK} nodad"))
            });
            let lines: Vec<_> = lines.collect();
            for verb in ["add", "del"] {
                net.ip_batch(lines.iter().map(|line| format!("addr {verb} {line}")));
                watcher.read(&mut events).unwrap();
                events.clear();
            }
        }
    };
    renew(1);
    let grown = measure(|| renew(1 + ADDRESSES)).bytes_current;
    println!("{grown} bytes after {ADDRESSES} addresses");
    assert!(grown < 10_000, "{grown}");
}

#[test]
fn printed_text_does_not_grow_with_the_number_of_vips() {
    let _net = Net::new();
    let mut manager = VipManager::builder(VIP_LINK)
        .source(NODE_V4)
        .open()
        .unwrap();
    let before = format!("{manager:?}");
    manager.assign(common::vips_v4(SMALL)).unwrap();
    assert_eq!(format!("{manager:?}"), before);
    let mut keeper = manager.into_keeper(Claim::link()).unwrap();
    keeper.set_desired(common::vips_v4(SMALL));
    let printed = format!("{keeper:?}");
    assert!(
        printed.contains(VIP_LINK) && printed.len() < 2_000,
        "{printed}"
    );
}

#[test]
fn allocation_counter_counts() {
    let info = measure(|| drop(std::hint::black_box(vec![1_u8; 100])));
    assert_eq!(info.count_total, 1);
}
