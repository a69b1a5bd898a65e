//! SIGKILL in the middle of bulk assign, normalize, reconcile and release: whatever is left, the
//! next call converges, and nothing of others has changed.
//!
//! 500 kills; another number by one command:
//!
//! ```text
//! VIPROUTE_KILLS=5000 cargo test --test kill -- --nocapture
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/seen.rs"]
mod seen;

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage::{DelRoute, NewAddress, NewRoute};
use netlink_packet_route::address::AddressFlags;

use broken::{OTHER_V4, OTHER_V6, Random};
use child::{Other, Pairs, Setting, Verb, call};
use common::example::eventually;
use common::raw::{self, CREATE_APPEND, CREATE_REPLACE, Raw};
use common::{Net, PROTO_KERNEL, SOURCES, VIP_LINK, Want};
use seen::{Seen, index_of};

/// VIPs of each family.
const PAIRS: usize = 100;

const VERBS: [Verb; 4] = [
    Verb::Assign,
    Verb::Normalize,
    Verb::Reconcile,
    Verb::Release,
];

const ALL: Pairs = Pairs { from: 0, to: PAIRS };
/// What `reconcile` desires; before it [`EARLIER`] are there.
const LATER: Pairs = Pairs {
    from: PAIRS / 3,
    to: PAIRS,
};
const EARLIER: Pairs = Pairs {
    from: 0,
    to: 2 * PAIRS / 3,
};

fn settings() -> [Setting; 4] {
    [
        (PROTO_KERNEL, false),
        (201, false),
        (PROTO_KERNEL, true),
        (201, true),
    ]
    .map(|(protocol, route_only)| Setting {
        protocol,
        address_protocol: 0,
        route_only,
        // Small batches, so that there are many moments to die between two of them.
        receive_kib: 16,
    })
}

fn kills() -> usize {
    common::number("VIPROUTE_KILLS", 500, 80)
}

/// Things of others, on the link and elsewhere, about the VIPs too.
fn others(net: &Net, vips: &[IpAddr]) {
    net.set_sysctl(&format!("ipv6/conf/{VIP_LINK}/keep_addr_on_down"), "1");
    net.add_link("other0");
    net.ip_batch([
        "addr add 198.51.100.1/31 dev kube-dummy-if",
        "addr add 2001:db8:3::77/64 dev kube-dummy-if nodad",
        "addr add 198.51.100.9/24 dev other0",
        "addr add 2001:db8:1::9/64 dev other0 nodad",
        "addr add 192.0.2.99/32 dev node0",
        "addr add 2001:db8::99/128 dev node0 nodad",
    ]);
    net.ip_batch(
        vips.iter()
            .map(|vip| format!("route append {vip} dev other0 metric 50")),
    );
    others_on_the_link(net, vips);
    net.wait_for_kernel();
}

/// Routes that go with the link.
fn others_on_the_link(net: &Net, vips: &[IpAddr]) {
    net.ip_batch([
        "route replace 192.168.2.0/24 dev kube-dummy-if",
        "route replace 2001:db8:11::/48 dev kube-dummy-if",
        "route replace local 192.168.5.0/24 dev kube-dummy-if table local",
    ]);
    net.ip_batch(
        vips.iter()
            .map(|vip| format!("route replace {vip} dev kube-dummy-if table 100")),
    );
}

/// An address of another's on the link, whose route the kernel puts back late.
const STRANGER: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 0x77));

fn wait_for_the_stranger(link: u32) {
    eventually("the kernel's route is back", || {
        let seen = Seen::read(link);
        seen.routes.iter().any(|route| route.is_of(STRANGER, link))
    });
}

/// All lines but those of the VIPs on the link, in tables local and main.
fn foreign(seen: &Seen, vips: &HashSet<IpAddr>, link: u32) -> Vec<String> {
    let lines = seen.lines().into_iter().filter(|line| {
        let may_change = line.in_scope
            && line.link == Some(link)
            && line.host.is_some_and(|host| vips.contains(&host));
        !may_change && !line.is_link_local()
    });
    lines.map(|line| line.text).collect()
}

/// Breaks VIPs that are there, each in a way that their number tells.
fn break_them(net: &Net, vips: &[IpAddr], setting: Setting) {
    let link = net.vip_index();
    if !setting.route_only {
        // The kernel's routes come back beside may_change, or instead of them.
        net.ip(&format!("link set dev {VIP_LINK} down"));
        net.ip(&format!("link set dev {VIP_LINK} up"));
        others_on_the_link(net, vips);
    }
    let mut raw = Raw::new();
    let mut all = Vec::new();
    for (at, vip) in vips.iter().enumerate() {
        let (source, other) = match vip {
            IpAddr::V4(_) => (SOURCES[0], OTHER_V4.into()),
            IpAddr::V6(_) => (SOURCES[1], OTHER_V6.into()),
        };
        let route = |source, protocol| raw::local_route(*vip, link, Some(source), protocol);
        match at / 2 % 5 {
            0 => all.push((NewRoute(route(other, setting.protocol)), CREATE_REPLACE)),
            1 => all.push((NewRoute(route(source, 186)), CREATE_REPLACE)),
            2 => all.push((
                NewRoute(raw::with_metric(route(source, 186), 2000)),
                CREATE_APPEND,
            )),
            // With its prefix route; for a route-only VIP, an address that it should not have.
            3 if vip.is_ipv6() || setting.route_only => {
                let plain = raw::address(*vip, link, AddressFlags::Nodad);
                all.push((NewAddress(plain), CREATE_REPLACE));
            }
            3 => all.push((DelRoute(raw::delete_any(*vip, link)), 0)),
            _ => {}
        }
    }
    // Where the kernel is late, there is nothing to delete yet.
    raw.batch(&all);
}

/// What one kill met.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    kills: usize,
    /// Before the call had ended.
    inside: usize,
    /// And after it had written something.
    written: usize,
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one loop: a call, its death, and the next call"
)]
fn next_call_after_a_kill_converges_and_nothing_else_changes() {
    let mut random = Random::new();
    let settings = settings();
    let rounds = kills().div_ceil(settings.len());
    let mut met: BTreeMap<String, Met> = BTreeMap::new();
    for setting in settings {
        let net = Net::new();
        others(&net, &ALL.vips());
        let link = index_of(VIP_LINK).unwrap();
        // How long each call takes; the first of each is not killed.
        let mut takes: [Option<u64>; 4] = [None; 4];
        let mut at = 0;
        let mut killed = 0;
        while killed < rounds {
            let verb = VERBS[at % 4];
            let words = format!("{verb:?}, {setting:?}");
            let mut other = Other::start(setting);
            let set = if verb == Verb::Reconcile { LATER } else { ALL };
            let before = prepare(&net, setting, verb);
            other.wait_until_ready();
            other.begin(verb, set);
            match takes[at % 4] {
                None => {
                    let answer = other.end();
                    takes[at % 4] = Some(answer.micros);
                    other.kill();
                }
                Some(micros) => {
                    let most = usize::try_from(micros + micros / 16).unwrap();
                    let delay = random.below(most.max(1));
                    std::thread::sleep(Duration::from_micros(delay as u64));
                    let answer = other.kill();
                    let met = met.entry(format!("{verb:?}")).or_default();
                    met.kills += 1;
                    killed += 1;
                    match answer {
                        // The machine is not always as busy.
                        Some(answer) => takes[at % 4] = Some(u64::midpoint(answer.micros, micros)),
                        None => {
                            met.inside += 1;
                            let left = Seen::read(link);
                            met.written += usize::from(!before.diff(&left).is_empty());
                        }
                    }
                }
            }
            // At once, while the kernel still works on what the dead one sent.
            let report = call(&mut setting.manager(), verb, &set.vips())
                .unwrap_or_else(|error| panic!("{words}: {error}"));
            // What is late comes now.
            std::thread::sleep(Duration::from_millis(2));
            check(&before, setting, verb)
                .unwrap_or_else(|fault| panic!("{words}: {report}: {fault}"));
            at += 1;
        }
    }
    println!("{met:#?}");
    let total = |of: fn(&Met) -> usize| met.values().map(of).sum::<usize>();
    let (kills, inside, written) = (
        total(|met| met.kills),
        total(|met| met.inside),
        total(|met| met.written),
    );
    println!("{kills} kills, {inside} before the call's end, {written} of them amid its writes");
    // Not all: the delay reaches from before the call's first message to beyond its end.
    assert!(
        2 * inside >= kills && 5 * written >= kills && met.values().all(|met| met.written > 0),
        "too few kills were in the middle: {met:?}"
    );
}

/// Brings the link into the state from which the call begins; tells what there is.
fn prepare(net: &Net, setting: Setting, verb: Verb) -> Seen {
    let mut manager = setting.manager();
    let there = match verb {
        Verb::Assign => {
            manager.release(ALL.vips()).unwrap();
            None
        }
        Verb::Reconcile => {
            manager.release(ALL.vips()).unwrap();
            Some(EARLIER)
        }
        _ => Some(ALL),
    };
    if let Some(there) = there {
        manager.assign(there.vips()).unwrap();
    }
    if verb == Verb::Normalize {
        break_them(net, &ALL.vips(), setting);
    }
    let link = index_of(VIP_LINK).unwrap();
    wait_for_the_stranger(link);
    Seen::read(link)
}

/// Whether the call's promise holds and everything else is as before.
fn check(before: &Seen, setting: Setting, verb: Verb) -> Result<(), String> {
    let link = index_of(VIP_LINK).unwrap();
    let after = Seen::read(link);
    let want = Want {
        protocol: setting.protocol,
        address: !setting.route_only,
        ..Want::default()
    };
    let mut state = after.local_state();
    for address in state.addresses.values_mut().flatten() {
        address.forgive_flags();
    }
    let good = match verb {
        Verb::Release => Vec::new(),
        Verb::Reconcile => LATER.vips(),
        _ => ALL.vips(),
    };
    let wrong = state.wrong_vips(&good, &want);
    if let Some(first) = wrong.first() {
        return Err(format!("{} wrong, such as {first}", wrong.len()));
    }
    let good: HashSet<IpAddr> = good.into_iter().collect();
    let all: HashSet<IpAddr> = ALL.vips().into_iter().collect();
    let lines = after.lines();
    let left = lines.iter().find(|line| {
        let vip = line.host.filter(|host| all.contains(host));
        line.in_scope && line.link == Some(link) && vip.is_some_and(|vip| !good.contains(&vip))
    });
    if let Some(left) = left {
        return Err(format!("left: {left:?}"));
    }
    let (before, after) = (foreign(before, &all, link), foreign(&after, &all, link));
    if before != after {
        return Err(format!("of others: {before:#?} became {after:#?}"));
    }
    Ok(())
}

/// The control: what a killed call leaves is not good by itself, and others' things count.
#[test]
fn control_without_the_next_call_shows_the_kill() {
    let setting = settings()[0];
    let net = Net::new();
    others(&net, &ALL.vips());
    let mut shown = 0;
    for verb in [Verb::Assign, Verb::Release] {
        let mut takes = 0;
        // The first is not killed, and tells how long it takes; the others are, earlier and later.
        for part in 0..16 {
            let mut other = Other::start(setting);
            let before = prepare(&net, setting, verb);
            other.wait_until_ready();
            other.begin(verb, ALL);
            if part == 0 {
                takes = other.end().micros;
                other.kill();
            } else {
                std::thread::sleep(Duration::from_micros(takes * part / 16));
                let answer = other.kill();
                shown += usize::from(answer.is_none() && check(&before, setting, verb).is_err());
            }
            call(&mut setting.manager(), verb, &ALL.vips()).unwrap();
            check(&before, setting, verb).unwrap();
        }
    }
    println!("{shown} of 30 kills left what shows");
    assert!(shown > 0, "no call was killed in the middle");
    let before = prepare(&net, setting, Verb::Normalize);
    check(&before, setting, Verb::Normalize).unwrap_err();
    call(&mut setting.manager(), Verb::Normalize, &[]).unwrap();
    check(&before, setting, Verb::Normalize).unwrap();
    net.ip("route del 192.168.2.0/24 dev kube-dummy-if");
    check(&before, setting, Verb::Normalize).unwrap_err();
}
