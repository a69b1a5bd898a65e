//! A keeper among random changes by others and of its own set, not dispatched at each: in the end
//! there is nothing that a `reconcile` with the same claim and set would still do, and nothing of
//! others has changed.
//!
//! What a keeper knows of a VIP it has heard, not read; `reconcile` reads all. The changes are the same
//! every time; `VIPROUTE_SEED=n` makes others, or begins with the run that a failure names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::{NODE_V4, NODE_V6, Net, Random, VIP_LINK, vips};
use viproute::{Binding, Claim, Family, Keeper, Protocol, VipManager, VipManagerBuilder};

/// Longer than the longest pause of a VIP that is fought over.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs of each test: a few seconds.
fn runs() -> u64 {
    common::full_or_quick(12, 5)
}

/// One change by another writer, as a line for `ip -batch`, whether it can be made or not.
fn change(random: &mut Random, vips: &[IpAddr]) -> String {
    let vip = random.pick(vips);
    let six = vip.is_ipv6();
    let host = common::host_bits(vip);
    let (wide, other, node) = match six {
        true => (64, "2001:db8::77", NODE_V6.to_string()),
        false => (24, "192.0.2.77", NODE_V4.to_string()),
    };
    let dev = random.pick(&[VIP_LINK, VIP_LINK, VIP_LINK, VIP_LINK, "node0"]);
    let source = random.pick(&[other, &node]);
    let protocol = random.pick(&["kernel", "99", "static"]);
    let metric = random.pick(&["", "", "metric 1024", "metric 2000", "metric 77"]);
    let verb = random.pick(&["add", "append", "replace", "del", "del"]);
    let (scope, flags) = match six {
        true => ("", random.pick(&["nodad", "nodad noprefixroute"])),
        false => (random.pick(&["scope host", "scope host", "scope link"]), ""),
    };
    // What else tells routes apart, and a life that ends long after the test.
    let more = match six {
        true => random.pick(&["", "", "mtu 1400", "expires 600"]),
        false => random.pick(&["", "", "mtu 1400", "realm 5"]),
    };
    let local = format!("local {vip} dev {dev} table local");
    match random.below(15) {
        0 | 1 => format!("addr add {vip}/{host} dev {dev} {flags}"),
        2..=4 => format!("addr del {vip}/{host} dev {dev}"),
        5 if random.once_in(2) => format!("addr add {vip}/{wide} dev {dev} {flags}"),
        5 => format!("addr del {vip}/{wide} dev {dev}"),
        6 | 7 if verb == "del" => format!("route del {local} proto {protocol} {metric}"),
        6 | 7 => {
            format!("route {verb} {local} proto {protocol} {scope} src {source} {metric} {more}")
        }
        8 if random.once_in(2) => format!("route add {local}"),
        8 | 9 => format!("route del {local}"),
        10 => format!("route {verb} {vip} dev {dev} proto {protocol} {metric} {more}"),
        11 if six => {
            format!("route {verb} local {vip} nhid 62 table local proto {protocol} {metric}")
        }
        11 => format!("route {verb} {vip} dev {dev} tos 0x10 {metric}"),
        12 if six => format!("route {verb} {vip} nhid 62 proto {protocol} {metric}"),
        12 => format!(
            "route {verb} broadcast {vip} dev {dev} table local proto {protocol} scope link"
        ),
        13 if six => format!("route {verb} {vip} via fe80::1 dev {dev} proto {protocol} {metric}"),
        13 if random.once_in(2) => format!("addr {verb} {vip} peer 10.99.0.1/32 dev {dev}"),
        13 => format!("route {verb} {vip} via 10.96.0.99 dev {dev} onlink proto {protocol}"),
        _ if random.once_in(6) => format!("link set {VIP_LINK} down\nlink set {VIP_LINK} up"),
        _ => format!("addr flush dev {VIP_LINK} to {vip}"),
    }
}

/// A keeper with a past.
struct Run {
    net: Net,
    keeper: Keeper,
    /// Another one on the link, that only looks.
    judge: VipManager,
    claim: Claim,
    vips: Vec<IpAddr>,
    desired: Vec<IpAddr>,
    past: Vec<String>,
}

impl Run {
    fn new(builder: &VipManagerBuilder, claim: &Claim) -> Self {
        let net = Net::new();
        net.ip("addr add 192.0.2.77/32 dev node0");
        net.ip("addr add 2001:db8::77/128 dev node0 nodad");
        net.ip("-6 nexthop add id 62 dev node0");
        net.wait_for_kernel();
        let vips = vips(2);
        let desired = vips[..3].to_vec();
        let mut keeper = builder
            .clone()
            .open()
            .unwrap()
            .into_keeper(claim.clone())
            .unwrap();
        keeper.set_desired(&desired);
        keeper.dispatch(usize::MAX).unwrap();
        Self {
            net,
            keeper,
            judge: builder.clone().open().unwrap(),
            claim: claim.clone(),
            vips,
            desired,
            past: Vec::new(),
        }
    }

    fn dispatch(&mut self, most: usize) -> bool {
        // What names a VIP is the keeper's, but for what is another device's.
        let others = |net: &Net| {
            let mut all = net.ip("-4 route show table all") + &net.ip("-6 route show table all");
            all += &net.ip("-o addr show dev node0");
            let lines = all.lines().map(str::to_owned);
            let mut lines: Vec<String> = lines.filter(|line| !line.contains(VIP_LINK)).collect();
            lines.sort();
            lines
        };
        let before = others(&self.net);
        let done = self.keeper.dispatch(most).unwrap();
        let after = others(&self.net);
        assert_eq!(before, after, "of others, after {:#?}: {done:?}", self.past);
        self.past.push(format!("dispatch({most}): {done:?}"));
        done.more
    }

    fn go_on(&mut self, random: &mut Random) {
        let vip = random.pick(&self.vips);
        match random.below(8) {
            0 => {
                self.past.push(format!("add_desired({vip})"));
                self.keeper.add_desired([vip]);
                self.desired.retain(|desired| *desired != vip);
                self.desired.push(vip);
            }
            // An empty set keeps nothing.
            1 if self.desired != [vip] => {
                self.past.push(format!("remove_desired({vip})"));
                self.keeper.remove_desired([vip]);
                self.desired.retain(|desired| *desired != vip);
            }
            2 => {
                // Late routes of the kernel are nobody's change.
                std::thread::sleep(Duration::from_millis(20));
                let most = random.pick(&[1, usize::MAX]);
                self.dispatch(most);
            }
            _ => {
                let count = 1 + random.below(5);
                let changes: Vec<String> = (0..count).map(|_| change(random, &self.vips)).collect();
                self.past.extend_from_slice(&changes);
                common::net::ip_batch_forced(&changes.join("\n"));
            }
        }
    }

    /// What a reconcile would do.
    fn left(&mut self) -> Vec<String> {
        let plan = self.judge.plan(&self.claim, &self.desired).unwrap();
        plan.steps.iter().map(|step| format!("{step:?}")).collect()
    }

    /// Lets the keeper do its work, and says whether it had any.
    fn end(&mut self) -> bool {
        std::thread::sleep(Duration::from_millis(20));
        let had_any = !self.left().is_empty();
        let began = Instant::now();
        let mut good = 0;
        while good < 2 {
            while self.dispatch(usize::MAX) {}
            let left = self.left();
            good = if left.is_empty() { good + 1 } else { 0 };
            let in_time = began.elapsed() < PATIENCE;
            assert!(in_time, "left: {left:#?}, after {:#?}", self.past);
            std::thread::sleep(Duration::from_millis(40));
        }
        had_any
    }
}

fn run(builder: &VipManagerBuilder, claim: &Claim) {
    let seed = std::env::var("VIPROUTE_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut worked = 0;
    for seed in seed..seed + runs() {
        println!("VIPROUTE_SEED={seed}");
        let mut random = Random::seeded(seed);
        let mut run = Run::new(builder, claim);
        for _ in 0..3 + random.below(10) {
            run.go_on(&mut random);
        }
        worked += u64::from(run.end());
    }
    assert!(worked > 0, "nothing ever broke");
}

fn builder() -> VipManagerBuilder {
    common::builder().stall_timeout(Duration::from_secs(1))
}

#[test]
fn random_changes_are_repaired_with_address_binding() {
    run(&builder(), &Claim::link());
}

#[test]
fn random_changes_are_repaired_with_route_only_binding() {
    run(&builder().binding(Binding::Route), &Claim::link());
}

#[test]
fn random_changes_are_repaired_with_a_claim_by_mark() {
    let protocol = |number| Protocol::new(number).unwrap();
    let builder = builder().protocol(protocol(99));
    run(&builder, &Claim::mark());
    run(&builder.address_protocol(protocol(77)), &Claim::mark());
}

#[test]
fn random_changes_are_repaired_with_the_kernels_source() {
    let builder = VipManager::builder(VIP_LINK).stall_timeout(Duration::from_secs(1));
    let four = builder.clone().source(NODE_V4).kernel_source(Family::V6);
    run(&four, &Claim::link());
    let six = builder.source(NODE_V6).kernel_source(Family::V4);
    run(&six, &Claim::link());
}
