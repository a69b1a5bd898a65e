//! Which changes of a routing table interrupt a dump: those that can hide a route from it.

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{LINK, dumps_routes, ip, kind, manager, node, shared, split, v4, v6};
use crate::engine::decide::AGES;
use crate::sys::fault::{Found, Line};
use crate::{Claim, VipManager};

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

/// What a `reconcile` asks for that finds all VIPs right, while something happens.
#[track_caller]
fn reconcile(
    vips: &mut VipManager,
    set: &[IpAddr],
    happen: impl FnMut(usize) + Send + 'static,
) -> Asked {
    let asked = shared::<Mutex<Asked>>();
    let line = Beside {
        asked,
        parts: 0,
        happen,
    };
    vips.connection.requests().fault.put(line);
    let report = vips.reconcile(&Claim::link(), set).unwrap();
    vips.connection.requests().fault.clear();
    assert_eq!((report.unchanged, report.writes), (set.len(), 0));
    *asked.lock().unwrap()
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
