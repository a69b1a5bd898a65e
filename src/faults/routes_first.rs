//! Many new IPv4 VIPs: their routes come before their addresses. Between the two, other writers change the link,
//! or the call ends.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{
    LINK, NEWADDR, NEWROUTE, NODE_V4, builder, failed, ip, kind, node, on_link, shared, split, v4,
};
use crate::{ErrorKind, VipManager};

const MANY: usize = 2100;

/// The numbers of sent RTM_NEWADDR and RTM_NEWROUTE.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    addresses: usize,
    routes: usize,
}

/// The destinations of routes in table local, those that end in this way.
fn in_local(end: &str) -> BTreeSet<IpAddr> {
    let text = ip(&format!("-4 route show table local dev {LINK}"));
    let lines = text.lines().filter(|line| line.trim_end().ends_with(end));
    lines
        .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
        .collect()
}

/// The VIPs to which table local has the desired route.
fn with_route() -> BTreeSet<IpAddr> {
    in_local(&format!(" src {NODE_V4}"))
}

/// The VIPs with an address on the link, but without any local route.
fn unreachable() -> Vec<IpAddr> {
    on_link().difference(&in_local("")).copied().collect()
}

/// Counts the messages. Before each send, `act` gets what was sent before it, and what is sent with it.
fn watch(
    vips: &mut VipManager,
    mut act: impl FnMut(Sent, Sent) + Send + Sync + 'static,
) -> &'static Mutex<Sent> {
    let all = shared::<Mutex<Sent>>();
    vips.connection.tamper = Some(Box::new(move |batch| {
        let before = *all.lock().unwrap();
        let mut then = before;
        for message in split(batch) {
            then.addresses += usize::from(kind(message) == NEWADDR);
            then.routes += usize::from(kind(message) == NEWROUTE);
        }
        act(before, then);
        *all.lock().unwrap() = then;
    }));
    all
}

/// The routes have been sent, and the second address is about to be.
fn is_at_addresses(before: Sent, then: Sent) -> bool {
    before.addresses == 1 && then.addresses > 1
}

#[test]
fn routes_of_many_new_vips_stand_before_the_second_address() {
    let _node = node();
    let set = v4(MANY);
    let expected: BTreeSet<IpAddr> = set.iter().copied().collect();
    let mut vips = builder().open().unwrap();
    let seen = shared::<AtomicUsize>();
    let sent = watch(&mut vips, move |before, then| {
        if then.routes > 1 {
            assert!(before.addresses > 0, "{before:?}: the link has no address");
        }
        if is_at_addresses(before, then) {
            assert_eq!(with_route(), expected);
            seen.fetch_add(1, Ordering::Relaxed);
        }
    });
    let report = vips.assign(&set).unwrap();
    assert_eq!((report.assigned, report.writes), (MANY, 3 * MANY as u64));
    assert_eq!(seen.load(Ordering::Relaxed), 1);
    assert_eq!(sent.lock().unwrap().routes, MANY);
    assert_eq!(vips.assign(&set).unwrap().writes, 0);
}

/// With the link's last address the kernel deletes every route of the link, and notifies nobody.
#[test]
fn vips_whose_routes_another_writer_flushed_silently_keep_the_kernels_route() {
    let _node = node();
    let set = v4(MANY);
    let first = set[0];
    let mut vips = builder().open().unwrap();
    let flushed = shared::<AtomicUsize>();
    let wrong = shared::<Mutex<Vec<IpAddr>>>();
    watch(&mut vips, move |before, then| {
        if is_at_addresses(before, then) {
            ip(&format!("addr del {first}/32 dev {LINK}"));
            assert_eq!(with_route(), BTreeSet::new());
            flushed.fetch_add(1, Ordering::Relaxed);
        }
        wrong.lock().unwrap().extend(unreachable());
    });
    let report = vips.assign(&set).unwrap();
    assert_eq!(report.assigned, MANY, "{report}");
    assert_eq!(flushed.load(Ordering::Relaxed), 1);
    assert_eq!(*wrong.lock().unwrap(), Vec::<IpAddr>::new());
    assert_eq!(with_route(), set.iter().copied().collect());
}

#[test]
fn routes_survive_another_writers_address_that_comes_and_goes() {
    let _node = node();
    let set = v4(MANY);
    let expected: BTreeSet<IpAddr> = set.iter().copied().collect();
    let mut vips = builder().open().unwrap();
    let still = expected.clone();
    let sent = watch(&mut vips, move |before, then| {
        if is_at_addresses(before, then) {
            ip(&format!("addr add 198.51.100.9/32 dev {LINK}"));
            ip(&format!("addr del 198.51.100.9/32 dev {LINK}"));
            assert_eq!(with_route(), still);
        }
    });
    let report = vips.assign(&set).unwrap();
    assert_eq!(report.assigned, MANY, "{report}");
    // A deletion of an address ends the order: the other VIPs get address and route together.
    assert!(sent.lock().unwrap().routes > MANY);
    assert_eq!((with_route(), on_link()), (expected.clone(), expected));
}

/// The call ends before the addresses, and another writer has added the address of one VIP.
fn ends_early(mut vips: VipManager, kind: ErrorKind, end: impl Fn() + Send + Sync + 'static) {
    let set = v4(MANY);
    let others = set[MANY - 1];
    watch(&mut vips, move |before, then| {
        if is_at_addresses(before, then) {
            ip(&format!("addr add {others}/32 dev {LINK}"));
            end();
        }
    });
    let report = failed(vips.assign(&set), kind, MANY);
    assert_eq!(report.failures.len(), MANY);
    let left = on_link();
    assert!(left.contains(&others) && left.len() < MANY, "{left:?}");
    assert_eq!(with_route(), left);
    vips.connection.tamper = None;
    assert_eq!(vips.assign(&set).unwrap().failures.len(), 0);
    assert_eq!(with_route(), set.into_iter().collect());
}

#[test]
fn cancelled_call_leaves_no_route_without_an_address() {
    let _node = node();
    let vips = builder().open().unwrap();
    let canceller = vips.canceller();
    ends_early(vips, ErrorKind::Cancelled, move || canceller.cancel());
}

#[test]
fn call_without_more_time_leaves_no_route_without_an_address() {
    let _node = node();
    let time = Duration::from_secs(5);
    let vips = builder().total_timeout(time).open().unwrap();
    ends_early(vips, ErrorKind::Incomplete, move || {
        std::thread::sleep(time);
    });
}
