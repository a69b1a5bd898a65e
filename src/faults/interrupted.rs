//! Which changes of a routing table interrupt a dump: those that can hide a route from it.

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::forged::{both, find, patient};
use super::{LINK, dumps_routes, failed, ip, kind, manager, node, shared, split, v4, v6};
use crate::engine::decide::AGES;
use crate::netlink::decode;
use crate::sys::fault::{Found, Line};
use crate::{Cause, Claim, Drift, Error, ErrorKind, Report, VipManager};

/// How many VIPs: their dump has many parts.
const MANY: usize = 2_000;

/// What a call asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    dumps: usize,
    look_ups: usize,
}

/// Counts the dumps and look-ups of routes. Before it receives a part of a dump of routes, something
/// happens, by the number of the part.
struct Beside<F> {
    asked: &'static Mutex<Asked>,
    parts: usize,
    happen: F,
}

impl<F: FnMut(usize) + Send> Line for Beside<F> {
    fn send(&mut self, bytes: &[u8]) -> Option<std::io::Result<()>> {
        let mut asked = self.asked.lock().unwrap();
        for message in split(&mut bytes.to_vec()) {
            if dumps_routes(message) {
                asked.dumps += 1;
            } else if kind(message) == libc::RTM_GETROUTE {
                asked.look_ups += 1;
            }
        }
        None
    }

    fn receive(&mut self, kernel: &mut dyn FnMut() -> Found) -> Found {
        let mut found = kernel();
        if let Found::Datagram(bytes) = &mut found
            && split(bytes).any(|message| kind(message) == libc::RTM_NEWROUTE)
        {
            self.parts += 1;
            (self.happen)(self.parts);
        }
        found
    }
}

/// A manager of VIPs that are on the link for so long that no call waits for a late route.
fn aged(set: &[IpAddr]) -> VipManager {
    let mut vips = manager(1 << 20);
    vips.assign(set).unwrap();
    std::thread::sleep(AGES);
    vips
}

/// The requests of a call that finds all VIPs right, while something happens.
#[track_caller]
fn asked(
    vips: &mut VipManager,
    set: &[IpAddr],
    happen: impl FnMut(usize) + Send + 'static,
    call: impl FnOnce(&mut VipManager) -> Result<Report, Error>,
) -> Asked {
    let asked = shared::<Mutex<Asked>>();
    let line = Beside {
        asked,
        parts: 0,
        happen,
    };
    vips.connection.requests().fault.put(line);
    let report = call(vips).unwrap();
    vips.connection.requests().fault.clear();
    assert_eq!((report.unchanged, report.writes), (set.len(), 0));
    *asked.lock().unwrap()
}

/// The requests of a `reconcile`.
#[track_caller]
fn reconcile(
    vips: &mut VipManager,
    set: &[IpAddr],
    happen: impl FnMut(usize) + Send + 'static,
) -> Asked {
    asked(vips, set, happen, |vips| {
        vips.reconcile(&Claim::link(), set)
    })
}

/// Another program changes a route of the node, and changes it back.
fn flap(route: &str) {
    ip(&format!("route add {route}"));
    ip(&format!("route del {route}"));
}

fn batch(lines: impl Iterator<Item = String>) {
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: Vec<String> = lines.collect();
    let mut input = ip.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, lines.join("\n").as_bytes()).unwrap();
    drop(input);
    assert!(ip.wait().unwrap().success());
}

/// Not even IPv4 routes to the VIPs themselves: they come behind those of table local.
#[test]
fn change_in_table_main_interrupts_no_dump_of_table_local() {
    let cases = [
        (v6(MANY), "2001:db8:9::1/128 dev node0"),
        (v6(MANY), "2001:db8:42::7/128 dev node0"),
        (v4(MANY), "198.51.100.9/32 dev node0"),
        (v4(MANY), "10.96.0.7/32 dev node0"),
        (v4(MANY), "blackhole 198.51.100.9/32"),
    ];
    for (set, route) in cases {
        let _node = node();
        let mut vips = aged(&set);
        let quiet = reconcile(&mut vips, &set, |_| {});
        let happened = shared::<AtomicUsize>();
        let beside = reconcile(&mut vips, &set, move |_| {
            flap(route);
            happened.fetch_add(1, Ordering::Relaxed);
        });
        assert!(happened.load(Ordering::Relaxed) > 2, "{route}");
        assert_eq!(beside, quiet, "{route}");
        // At most that of the source.
        assert!(quiet.look_ups <= 1, "{quiet:?}");
    }
}

/// IPv6 goes on with a dump by the number of routes. If routes before that number disappear, as many are
/// left out, whatever link they are of.
#[test]
fn deletions_of_another_links_local_routes_hide_no_route() {
    let _node = node();
    let set = v6(MANY);
    let mut vips = aged(&set);
    // In front of the VIPs.
    let others =
        |act| move |at| format!("route {act} local 2001:db8:41::{at:x}/128 dev node0 table local");
    batch((1..=500).map(others("add")));
    let quiet = reconcile(&mut vips, &set, |_| {});
    let beside = reconcile(&mut vips, &set, move |part| {
        if part == 4 {
            batch((1..=500).map(others("del")));
            // An addition makes the kernel begin anew, behind as many routes as before.
            batch((1..=1).map(others("add")));
        }
    });
    assert_eq!((quiet.look_ups, beside.look_ups), (0, 0));
    assert!(beside.dumps > quiet.dumps, "{quiet:?} {beside:?}");
}

/// IPv4 goes on with a dump at the destination at which it has stopped, behind as many routes as it has passed
/// there. If that destination disappears, as many routes of the next one are left out.
#[test]
fn deletion_of_a_destination_hides_no_route_of_the_next_one() {
    let _node = node();
    let set = v4(MANY);
    let mut vips = aged(&set);
    // In front of the VIPs, one destination with the routes of several parts.
    let others = |act| {
        move |metric| {
            format!("route {act} local 10.95.255.255 dev node0 table local metric {metric}")
        }
    };
    batch((1..=MANY).map(others("add")));
    let quiet = asked(&mut vips, &set, |_| {}, |vips| vips.assign(&set));
    let single = |act| move |at| format!("route {act} local 10.94.0.{at} dev node0 table local");
    batch((1..=200).map(single("add")));
    let delete_single = move |part| {
        if part == 3 {
            batch((1..=200).map(single("del")));
        }
    };
    let beside = asked(&mut vips, &set, delete_single, |vips| vips.assign(&set));
    assert_eq!(beside, quiet);
    let deletes = move |part| {
        // The first part is the answer to the look-up of the source.
        if part == 3 {
            batch((1..=MANY).map(others("del")));
        }
    };
    let beside = asked(&mut vips, &set, deletes, |vips| vips.assign(&set));
    assert_eq!((quiet.look_ups, beside.look_ups), (1, 1));
    assert!(beside.dumps > quiet.dumps, "{quiet:?} {beside:?}");
}

/// An answer that fills the kernel's buffer may lack routes that changes have shifted. So a large answer is read
/// again while the monitor listens.
#[test]
fn large_answer_of_table_main_is_read_again_beside_the_monitor() {
    let _node = node();
    let set = v6(100);
    let mut vips = aged(&set);
    let small = reconcile(&mut vips, &set, |_| {});
    batch((1..=60).map(|at| format!("route add 2001:db8:9::{at:x}/128 dev {LINK}")));
    let large = reconcile(&mut vips, &set, |_| {});
    assert_eq!(large.dumps, small.dumps + 1);
}

/// While table main changes, no dump of it shows the route to one VIP. Returns how often it still changes.
fn hide_in_main(vips: &mut VipManager, vip: IpAddr) -> &'static AtomicUsize {
    let changes = shared::<AtomicUsize>();
    changes.store(usize::MAX, Ordering::Relaxed);
    let in_main = |message: decode::Message<'_>| {
        let route = message.route().ok().flatten();
        route.filter(|route| route.table == u32::from(libc::RT_TABLE_MAIN))
    };
    find(&vips.connection.requests(), move |mut bytes| {
        let routes = decode::messages(&bytes).map(|message| message.ok().and_then(in_main));
        let routes: Vec<_> = routes.collect();
        let left = changes.load(Ordering::Relaxed);
        if left == 0 || routes.iter().flatten().next().is_none() {
            return Found::Datagram(bytes);
        }
        changes.store(left - 1, Ordering::Relaxed);
        for (message, route) in split(&mut bytes).zip(routes) {
            if route.and_then(|route| route.host()) == Some(vip) {
                message[4..6].copy_from_slice(&1_u16.to_ne_bytes());
            }
        }
        flap("2001:db8:9:1::1/128 dev node0");
        Found::Datagram(bytes)
    });
    changes
}

/// The VIP's address has a prefix route in table main, where its link has many other routes.
fn give_prefix_route(vip: IpAddr) {
    batch((1..=60).map(|at| format!("route add 2001:db8:9::{at:x}/128 dev {LINK}")));
    ip(&format!("addr change {vip}/128 dev {LINK}"));
}

/// A VIP's address has a prefix route in table main, and the link has so many other routes there that the
/// kernel may answer in parts. Without these, and for IPv4, a dump of table main cannot be interrupted.
#[test]
fn route_in_main_that_interrupted_dumps_do_not_show_is_unread() {
    let _node = node();
    let set = both(3);
    let vip = v6(3)[1];
    let mut vips = patient();
    vips.assign(&set).unwrap();
    give_prefix_route(vip);
    let changes = hide_in_main(&mut vips, vip);

    let audit = vips.audit().unwrap();
    let drifts = |drift: Drift| {
        let of = audit.drifted().filter(|audited| audited.drift == drift);
        of.map(|audited| audited.vip.addr()).collect::<Vec<_>>()
    };
    assert_eq!(
        (drifts(Drift::UNREAD), audit.drifted().count()),
        (vec![vip], 1)
    );

    // What makes a VIP work is written all the same.
    let broken = v6(3)[0];
    ip(&format!(
        "route del local {broken} dev {LINK} table local metric 1024"
    ));
    let report = failed(vips.normalize(), ErrorKind::Incomplete, set.len());
    assert_eq!(report.unchanged, 3, "{report}");
    for failure in &report.failures {
        assert_eq!(failure.cause, Cause::Unread, "{failure}");
        let is_broken = failure.vip.addr() == broken;
        assert_eq!(failure.begun.is_some(), is_broken, "{failure}");
    }
    assert!(changes.load(Ordering::Relaxed) < usize::MAX);

    changes.store(0, Ordering::Relaxed);
    let audit = vips.audit().unwrap();
    let drifted: Vec<_> = audit
        .drifted()
        .map(|audited| (audited.vip.addr(), audited.drift))
        .collect();
    assert_eq!(drifted, [(vip, Drift::PREFIX_ROUTE)]);
    // The table changes during a few dumps more.
    changes.store(10, Ordering::Relaxed);
    let report = vips.normalize().unwrap();
    assert_eq!((report.unchanged, report.repaired), (5, 1), "{report}");
    assert!(vips.audit().unwrap().is_clean());
}

/// Every dump of table main is interrupted, and shows the prefix route all the same.
#[test]
fn prefix_route_that_an_interrupted_dump_shows_is_no_longer_unread() {
    let _node = node();
    let [vip, absent] = [v6(2)[0], v6(2)[1]];
    let mut vips = patient();
    vips.assign([vip]).unwrap();
    give_prefix_route(vip);
    let changes = hide_in_main(&mut vips, absent);
    let audit = vips.audit().unwrap();
    let drifts = audit.drifted().map(|audited| audited.drift);
    assert_eq!(drifts.collect::<Vec<_>>(), [Drift::PREFIX_ROUTE]);
    assert!(changes.load(Ordering::Relaxed) < usize::MAX);
}

/// The deletion could hit a route of another device, so all devices' routes are read. In IPv6, a dump that shows
/// a route has shown what the deletion could hit, whatever else has changed.
#[test]
fn prefix_route_is_deleted_while_table_main_changes() {
    let _node = node();
    let vip = v6(1)[0];
    let mut vips = patient();
    vips.assign([vip]).unwrap();
    batch((1..=MANY).map(|at| format!("route add 2001:db8:9::{at:x}/128 dev node0")));
    ip(&format!("addr change {vip}/128 dev {LINK}"));
    let happened = shared::<AtomicUsize>();
    vips.connection.requests().fault.put(Beside {
        asked: shared(),
        parts: 0,
        happen: move |_| {
            flap("2001:db8:9:1::1/128 dev node0");
            happened.fetch_add(1, Ordering::Relaxed);
        },
    });
    let report = vips.normalize().unwrap();
    vips.connection.requests().fault.clear();
    assert_eq!(report.repaired, 1, "{report}");
    assert!(happened.load(Ordering::Relaxed) > 10);
    assert!(vips.audit().unwrap().is_clean());
}
