//! A plan changes nothing; its script ends where `reconcile` ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
#[path = "common/caps.rs"]
mod caps;
mod common;
#[path = "common/rules.rs"]
mod rules;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use broken::{OTHER_V4, PROTOCOLS, Random, State, put};
use common::{
    NODE_V4, NODE_V6, Net, PROTO_KERNEL, RouteWatcher, Snapshot, VIP_LINK, Want, vips, vips_v4,
    vips_v6,
};
use ipnet::IpNet;
use rules::Diversion;
use serde_json::Value;
use viproute::{
    Action, Binding, Cause, Claim, Drift, ErrorKind, Likelihood, LinkKind, Plan, PlannedStep,
    Reason, RejectReason, SourceAvoidance, Vip, VipManager, VipManagerBuilder,
};

const BINDINGS: [Binding; 2] = [Binding::Address, Binding::Route];

/// Another link, with things of its own.
const OTHER: &str = "other0";

fn builder(protocol: u8, binding: Binding) -> VipManagerBuilder {
    broken::builder(VIP_LINK, protocol).binding(binding)
}

/// Plans a call, and checks that planning changes nothing.
#[track_caller]
fn planned(
    manager: &mut VipManager,
    plan: impl FnOnce(&mut VipManager) -> Result<Plan, viproute::Error>,
) -> Plan {
    let before = Snapshot::read(&[]);
    let watcher = RouteWatcher::new();
    let plan = plan(manager).unwrap();
    let heard = watcher.drain();
    assert!(heard.is_empty(), "planning changed something: {heard:#?}");
    before.assert_same(&Snapshot::read(&[]));
    plan
}

#[track_caller]
fn plan(manager: &mut VipManager, claim: &Claim, desired: &[IpAddr]) -> Plan {
    planned(manager, |manager| manager.plan(claim, desired))
}

/// Runs the printed script in the calling thread's namespace.
#[track_caller]
fn run(plan: &Plan) {
    let script = plan.to_string();
    let mut shell = Command::new("sh")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = shell.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // A shell that stops early reads no more: what it says tells why.
        scope.spawn(|| {
            let _ = input.write_all(script.as_bytes());
            drop(input);
        });
        shell.wait_with_output().unwrap()
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.is_empty() && output.stdout.is_empty(),
        "{}: {said}{}\n{script}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
    );
}

/// What a script would run: its lines without comments and functions.
fn commands(plan: &Plan) -> Vec<String> {
    plan.steps
        .iter()
        .map(|step| step.action.to_string())
        .collect()
}

/// Panics unless all these VIPs are in the single-route state of the binding.
#[track_caller]
fn assert_good(net: &Net, vips: &[IpAddr], protocol: u8, binding: Binding) {
    match binding {
        Binding::Route => net.local_state().assert_single_route(
            vips,
            &Want {
                protocol,
                address: false,
                ..Want::default()
            },
        ),
        _ => broken::assert_single_route(net, vips, protocol),
    }
}

/// What differs between two nodes that is not by chance: link addresses are drawn.
fn comparable() -> Vec<String> {
    let snapshot = Snapshot::read(&[]);
    let by_chance = |line: &&String| line.starts_with("link ") || line.contains("\"fe80:");
    let lines = snapshot.lines().iter().filter(|line| !by_chance(line));
    lines.cloned().collect()
}

#[track_caller]
fn assert_same_lines(script: &[String], reconciled: &[String]) {
    let mut diff = String::new();
    for line in script.iter().filter(|line| !reconciled.contains(line)) {
        writeln!(diff, "only by the script: {line}").unwrap();
    }
    for line in reconciled.iter().filter(|line| !script.contains(line)) {
        writeln!(diff, "only by reconcile: {line}").unwrap();
    }
    assert!(
        diff.is_empty() && script.len() == reconciled.len(),
        "{diff}"
    );
}

/// VIPs in every state, from these on.
fn in_every_state(v4: &[IpAddr], v6: &[IpAddr]) -> Vec<(IpAddr, State)> {
    let v4 = v4.iter().copied().zip(State::V4);
    let v6 = v6.iter().copied().zip(State::V6);
    v4.chain(v6).collect()
}

fn names(vips: &[(IpAddr, State)]) -> Vec<IpAddr> {
    vips.iter().map(|(vip, _)| *vip).collect()
}

/// A node with VIPs of all kinds.
struct Scene {
    net: Net,
    desired: Vec<IpAddr>,
    /// On the link and in the ranges, but not desired.
    stale: Vec<IpAddr>,
    /// On the link, neither desired nor in the ranges.
    unclaimed: Vec<IpAddr>,
}

fn ranges() -> [IpNet; 2] {
    ["10.96.0.0/17", "2001:db8:42::/64"].map(|range| range.parse().unwrap())
}

impl Scene {
    fn new(protocol: u8) -> Self {
        let net = Net::new();
        let (v4, v6) = (vips_v4(100), vips_v6(100));
        let broken = in_every_state(&v4, &v6);
        let stale = in_every_state(&v4[40..], &v6[40..]);
        let unclaimed: Vec<IpAddr> = ["10.97.0.1", "10.97.0.2", "2001:db8:43::1", "2001:db8:43::2"]
            .map(|vip| vip.parse().unwrap())
            .to_vec();
        let there = unclaimed.iter().map(|vip| (*vip, State::KernelOnly));
        let all: Vec<_> = broken.iter().chain(&stale).copied().chain(there).collect();
        put(&net, &all, protocol);
        let fresh = v4[80..85].iter().chain(&v6[80..85]).copied();
        let desired: Vec<_> = names(&broken).into_iter().chain(fresh).collect();
        let stale = names(&stale);
        // Other writers' objects, some of them about the VIPs.
        net.add_link(OTHER);
        net.ip_batch([
            "addr add 198.51.100.1/24 dev other0",
            "addr add 2001:db8:1::1/64 dev other0 nodad",
            "addr add 203.0.113.130/25 dev kube-dummy-if",
            "addr add 2001:db8:4::1/64 dev kube-dummy-if nodad",
        ]);
        let deadline = Instant::now() + Duration::from_secs(10);
        for own in ["2001:db8:1::1", "2001:db8:4::1"] {
            while net.try_ip(&format!("-6 route get fibmatch {own}")).is_err()
                || net.local_state().routes_of(own.parse().unwrap()).is_empty()
            {
                assert!(Instant::now() < deadline, "the kernel's routes never came");
            }
        }
        let about = desired.iter().chain(&stale).flat_map(|vip| match vip {
            IpAddr::V4(_) => [
                format!("route append {vip} dev kube-dummy-if table 100"),
                format!("route append local {vip} dev kube-dummy-if table 100 metric 7"),
                format!("route append {vip} via 198.51.100.2 dev other0 metric 10"),
            ],
            IpAddr::V6(_) => [
                format!("route append {vip} dev kube-dummy-if table 100"),
                format!("route append local {vip} dev kube-dummy-if table 100 metric 7"),
                format!("route append {vip} via 2001:db8:1::2 dev other0 metric 10"),
            ],
        });
        net.ip_batch(about);
        RouteWatcher::new().rest();
        Self {
            net,
            desired,
            stale,
            unclaimed,
        }
    }

    /// What of the node's addresses and routes is none of the VIPs' on the link.
    fn foreign(&self) -> Vec<String> {
        let is_of_the_plan = |line: &String| {
            let vips = self.desired.iter().chain(&self.stale);
            let named = |vip: &IpAddr| {
                line.contains(&format!("\"dst\":\"{vip}\""))
                    || line.contains(&format!("\"local\":\"{vip}\""))
            };
            line.contains(&format!("\"dev\":\"{VIP_LINK}\""))
                && !line.contains("\"table\":\"100\"")
                && vips.clone().any(named)
        };
        let snapshot = Snapshot::read(&[]);
        let lines = snapshot.lines().iter().filter(|line| !is_of_the_plan(line));
        lines.cloned().collect()
    }
}

#[test]
fn script_ends_where_reconcile_ends() {
    let cases = [
        (PROTO_KERNEL, Binding::Address, Claim::ranges(ranges())),
        (PROTO_KERNEL, Binding::Route, Claim::link()),
        (201, Binding::Address, Claim::link()),
        (201, Binding::Route, Claim::ranges(ranges())),
    ];
    common::side_by_side(cases, |(protocol, binding, claim)| {
        println!("{protocol} {binding:?} {claim:?}");
        let scene = Scene::new(protocol);
        let foreign = scene.foreign();
        let mut manager = builder(protocol, binding).open().unwrap();
        let plan = plan(&mut manager, &claim, &scene.desired);
        assert!(plan.failures.is_empty(), "{:?}", plan.failures);
        run(&plan);
        assert_good(&scene.net, &scene.desired, protocol, binding);
        let state = scene.net.local_state();
        for vip in &scene.stale {
            let on_link = state
                .routes_of(*vip)
                .iter()
                .any(|route| route.dev == VIP_LINK && route.table != 100);
            assert!(!on_link && state.addresses_of(*vip).is_empty(), "{vip}");
        }
        if claim == Claim::link() {
            scene.net.assert_absent(&scene.unclaimed);
            let unclaimed = |line: &String| {
                let named = |vip: &IpAddr| line.contains(&format!("\"{vip}\""));
                scene.unclaimed.iter().any(named)
            };
            let mut foreign = foreign;
            foreign.retain(|line| !unclaimed(line));
            assert_same_lines(&scene.foreign(), &foreign);
        } else {
            assert_same_lines(&scene.foreign(), &foreign);
        }
        let again = manager.plan(&claim, &scene.desired).unwrap();
        assert!(again.is_empty(), "{again}");
        let report = manager.reconcile(&claim, &scene.desired).unwrap();
        assert_eq!(report.writes, 0, "{report}");
        let by_script = comparable();
        drop(scene);

        let scene = Scene::new(protocol);
        let mut manager = builder(protocol, binding).open().unwrap();
        let report = manager.reconcile(&claim, &scene.desired).unwrap();
        assert!(report.writes > 0);
        assert_same_lines(&by_script, &comparable());
    });
}

/// As for `reconcile`, but what is not named stays.
#[test]
fn scripts_of_assign_and_release_end_where_the_calls_end() {
    let cases = [(PROTO_KERNEL, Binding::Address), (201, Binding::Route)];
    common::side_by_side(cases, |(protocol, binding)| {
        println!("{protocol} {binding:?}");
        let scene = Scene::new(protocol);
        let mut manager = builder(protocol, binding).open().unwrap();
        let assign = planned(&mut manager, |m| m.plan_assign(&scene.desired));
        assert!(assign.failures.is_empty(), "{:?}", assign.failures);
        run(&assign);
        assert_good(&scene.net, &scene.desired, protocol, binding);
        let again = manager.plan_assign(&scene.desired).unwrap();
        assert!(again.is_empty(), "{again}");
        assert_eq!(manager.assign(&scene.desired).unwrap().writes, 0);
        let assigned = comparable();
        // VIPs that the link never had are nothing to release.
        let gone = [&scene.stale[..], &scene.desired[..10], &vips_v4(90)[88..]].concat();
        let release = planned(&mut manager, |m| m.plan_release(&gone));
        run(&release);
        assert!(manager.plan_release(&gone).unwrap().is_empty());
        assert_eq!(manager.release(&gone).unwrap().writes, 0);
        assert_good(&scene.net, &scene.desired[10..], protocol, binding);
        let released = comparable();
        drop(scene);

        let scene = Scene::new(protocol);
        let mut manager = builder(protocol, binding).open().unwrap();
        assert!(manager.assign(&scene.desired).unwrap().writes > 0);
        assert_same_lines(&assigned, &comparable());
        assert!(manager.release(&gone).unwrap().writes > 0);
        assert_same_lines(&released, &comparable());
    });
}

#[test]
fn plans_of_assign_and_release_fail_where_the_calls_fail() {
    let net = Net::bare();
    let mut manager = builder(PROTO_KERNEL, Binding::Address).open().unwrap();
    for plan in [manager.plan_assign(vips(1)), manager.plan_release(vips(1))] {
        assert_eq!(plan.unwrap_err().kind(), ErrorKind::LinkNotFound);
    }
    drop(net);
    let _net = Net::new();
    let mut manager = builder(PROTO_KERNEL, Binding::Address).open().unwrap();
    let bad: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), vips_v4(1)[0]];
    let plan = manager.plan_assign(bad).unwrap();
    let rejected = Cause::Rejected(RejectReason::Loopback);
    let failed: Vec<_> = plan.failures.iter().map(|f| (f.vip, f.cause)).collect();
    assert_eq!(failed, [(bad[0].into(), rejected)]);
    assert!(!plan.is_empty());
}

#[test]
fn script_takes_the_kind_of_link_that_the_kernel_knows() {
    let net = Net::bare();
    net.add_link(OTHER);
    net.add_node_addresses(OTHER);
    net.wait_for_kernel();
    let mut manager = builder(PROTO_KERNEL, Binding::Address)
        .create_link(LinkKind::Auto)
        .open()
        .unwrap();
    let plan = planned(&mut manager, |m| m.plan_assign(vips(2)));
    assert_eq!(
        commands(&plan)[0],
        "ip link add dev kube-dummy-if arp off type dummy 2>/dev/null || \
         ip link add dev kube-dummy-if arp off type bridge"
    );
    run(&plan);
    net.assert_single_route(&vips(2), PROTO_KERNEL);
    assert_eq!(manager.assign(vips(2)).unwrap().writes, 0);
}

#[test]
fn script_waits_for_a_tentative_address() {
    let net = Net::bare();
    net.add_link(OTHER);
    net.add_node_addresses(OTHER);
    net.wait_for_kernel();
    // With ARP, so that duplicate address detection takes its second.
    net.ip(&format!(
        "link add dev {VIP_LINK} type veth peer name peer0"
    ));
    net.ip("link set dev peer0 up");
    net.ip(&format!("link set dev {VIP_LINK} up"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while !net
        .ip(&format!("-6 addr show dev {VIP_LINK} tentative"))
        .is_empty()
    {
        assert!(Instant::now() < deadline, "the link never got ready");
        std::thread::sleep(Duration::from_millis(20));
    }
    let vip = vips_v6(1);
    let mut manager = builder(PROTO_KERNEL, Binding::Address).open().unwrap();
    net.ip(&format!("-6 addr add {} dev {VIP_LINK}", vip[0]));
    let plan = manager.plan(&Claim::link(), &vip).unwrap();
    assert!(
        matches!(
            plan.steps[0].action,
            Action::AwaitRoute {
                likelihood: Likelihood::Certain,
                ..
            }
        ),
        "{plan}"
    );
    run(&plan);
    broken::assert_single_route(&net, &vip, PROTO_KERNEL);
    let report = manager.reconcile(&Claim::link(), &vip).unwrap();
    assert_eq!(report.writes, 0, "{report}");
}

#[test]
fn script_that_no_longer_fits_stops() {
    let net = Net::new();
    let mut manager = builder(PROTO_KERNEL, Binding::Address).open().unwrap();
    let plan = plan(&mut manager, &Claim::link(), &vips(3));
    manager.assign(vips(3)).unwrap();
    let before = Snapshot::read(&[]);
    let mut shell = Command::new("sh")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = shell.stdin.take().unwrap();
    input.write_all(plan.to_string().as_bytes()).unwrap();
    drop(input);
    assert!(!shell.wait().unwrap().success());
    before.assert_same(&Snapshot::read(&[]));
    assert_good(&net, &vips(3), PROTO_KERNEL, Binding::Address);
}

/// Found by a route alone, in whichever family.
#[test]
fn plan_releases_routes_without_addresses() {
    for stale in [vips_v4(3), vips_v6(3), vips(3)] {
        let net = Net::new();
        let mut manager = builder(PROTO_KERNEL, Binding::Address).open().unwrap();
        for vip in &stale {
            net.ip(&format!("route add local {vip} dev {VIP_LINK} table local"));
        }
        let drift = manager.audit().unwrap().vips;
        assert_eq!(drift.len(), stale.len());
        assert!(drift.iter().all(|vip| vip.drift.contains(Drift::STALE)));
        let desired = [vips_v4(9)[8], vips_v6(9)[8]];
        let plan = plan(&mut manager, &Claim::link(), &desired);
        run(&plan);
        net.assert_absent(&stale);
        assert_good(&net, &desired, PROTO_KERNEL, Binding::Address);
        let report = manager.reconcile(&Claim::link(), desired).unwrap();
        assert_eq!(report.writes, 0, "{report}");
    }
}

/// In IPv4 many routes may stand in one place, in an order that no observation keeps, and a
/// deletion may match several.
#[test]
#[expect(
    clippy::too_many_lines,
    reason = "random routes, their plan, and the run of the plan"
)]
fn plan_deletes_ipv4_duplicates_in_any_order() {
    let mut random = Random::new();
    for (protocol, binding) in PROTOCOLS
        .into_iter()
        .zip([Binding::Route, Binding::Address])
    {
        let net = Net::new();
        net.ip(&format!("addr add {OTHER_V4}/32 dev node0"));
        net.ip(&format!("addr add 203.0.113.130/25 dev {VIP_LINK}"));
        let mut manager = builder(protocol, binding).open().unwrap();
        manager.assign(vips_v4(1)).unwrap();
        let all = vips_v4(120);
        let lines = all[1..].iter().flat_map(|vip| {
            let route =
                |rest: &str| format!("route append local {vip} dev {VIP_LINK} table local {rest}");
            let mut kinds = vec![
                route(&format!("proto {protocol} src {NODE_V4}")),
                route(&format!("proto {protocol}"))
                    .replace("local", "unicast")
                    .replace("table unicast", "table local"),
                route(&format!("proto {protocol} src {OTHER_V4}")),
                route(&format!("proto {protocol}")),
                route("proto 2"),
                route("proto 186"),
                route(&format!("proto 186 src {NODE_V4}")),
                route(&format!("proto {protocol} metric 7")),
                route(&format!("proto {protocol} metric 7 src {NODE_V4}")),
                route(&format!("proto {protocol} tos 0x10")),
            ];
            if random.below(3) > 0 {
                // And its address, which brings a route of its own.
                kinds.push(format!("addr add {vip}/32 dev {VIP_LINK} scope link"));
            }
            if protocol == PROTO_KERNEL {
                // The same as another one.
                kinds.remove(4);
            }
            let count = 1 + random.below(4);
            (0..count)
                .map(|_| kinds.remove(random.below(kinds.len())))
                .collect::<Vec<_>>()
        });
        let lines: Vec<_> = lines.collect();
        net.ip_batch(&lines);
        let desired = &all[..80];
        RouteWatcher::new().rest();
        let plan = plan(&mut manager, &Claim::link(), desired);
        assert!(plan.failures.is_empty(), "{:?}", plan.failures);
        run(&plan);
        let about = |vip: &IpAddr| {
            let named = |text: &&String| text.contains(&format!(" {vip}"));
            let lines: Vec<_> = lines.iter().filter(named).collect();
            let steps = commands(&plan);
            format!(
                "{lines:#?} {:#?}",
                steps.iter().filter(named).collect::<Vec<_>>()
            )
        };
        let report = match manager.plan(&Claim::link(), desired).unwrap() {
            plan if plan.is_empty() => manager.reconcile(&Claim::link(), desired).unwrap(),
            again => panic!("{again}\n{}", about(&again.steps[0].vip.unwrap().addr())),
        };
        assert_eq!(report.writes, 0, "{report}");
        assert_good(&net, desired, protocol, binding);
        // What has only a unicast route is no VIP.
        let is_vip = |vip: &&IpAddr| {
            let address = format!("addr add {vip}/");
            let route = format!("route append local {vip} ");
            let begins = |line: &String| line.starts_with(&address) || line.starts_with(&route);
            lines.iter().any(begins)
        };
        let released: Vec<_> = all[80..].iter().filter(is_vip).copied().collect();
        net.assert_absent(&released);
    }
}

#[test]
fn plan_with_a_claim_by_mark_releases_marked_vips() {
    for binding in BINDINGS {
        let net = Net::new();
        let (marked, others) = (vips(3), [vips_v4(20)[19], vips_v6(20)[19]]);
        put(
            &net,
            &marked
                .iter()
                .map(|vip| (*vip, State::Fine))
                .collect::<Vec<_>>(),
            201,
        );
        for vip in others {
            let nodad = if vip.is_ipv6() { "nodad" } else { "" };
            net.ip(&format!("addr add {vip} dev {VIP_LINK} {nodad}"));
        }
        net.wait_for_routes_of(&others);
        let mut manager = builder(201, binding).open().unwrap();
        let plan = plan(&mut manager, &Claim::mark(), &marked[..2]);
        let released = plan
            .steps
            .iter()
            .filter(|step| step.reason == Reason::NotDesired)
            .filter_map(|step| step.vip)
            .collect::<std::collections::BTreeSet<_>>();
        assert_eq!(
            released,
            marked[2..].iter().map(Vip::from).collect(),
            "{plan}"
        );
        run(&plan);
        assert_good(&net, &marked[..2], 201, binding);
        net.assert_absent(&marked[2..]);
        let state = net.local_state();
        assert!(
            others
                .iter()
                .all(|vip| !state.addresses_of(*vip).is_empty())
        );
        let report = manager.reconcile(&Claim::mark(), &marked[..2]).unwrap();
        assert_eq!(report.writes, 0, "{report}");
    }
}

trait WaitForRoutes {
    fn wait_for_routes_of(&self, vips: &[IpAddr]);
}

impl WaitForRoutes for Net {
    /// Waits for the kernel's routes of the given VIPs.
    fn wait_for_routes_of(&self, vips: &[IpAddr]) {
        broken::wait_for_kernel_routes(vips);
        RouteWatcher::new().rest();
    }
}

#[test]
fn plan_lists_the_steps_of_a_new_vip() {
    let _net = Net::new();
    let mut manager = builder(PROTO_KERNEL, Binding::Address).open().unwrap();
    let set = vips(1);
    let plan = plan(&mut manager, &Claim::link(), &set);
    let (v4, v6) = (set[0], set[1]);
    assert_eq!(
        commands(&plan),
        [
            "ip -4 addr add 10.96.0.1/32 dev kube-dummy-if scope link",
            "ip -4 route append local 10.96.0.1 dev kube-dummy-if table 255 proto 2 scope host \
             src 192.0.2.10",
            "ip -4 route del local 10.96.0.1 dev kube-dummy-if table 255 proto 2 scope nowhere \
             src 10.96.0.1",
            "ip -6 addr add 2001:db8:42::1/128 dev kube-dummy-if nodad noprefixroute",
            "ip -6 route show table local exact 2001:db8:42::1 dev kube-dummy-if",
            "ip -6 route del local 2001:db8:42::1 dev kube-dummy-if table 255 proto 2",
            "ip -6 route add local 2001:db8:42::1 dev kube-dummy-if table 255 proto 2 metric 1024 \
             src 2001:db8::10",
        ]
    );
    let of = |vip: IpAddr| {
        plan.steps
            .iter()
            .filter(move |step| step.vip == Some(vip.into()))
    };
    assert_eq!(of(v4).count(), 3);
    let reasons: Vec<_> = of(v6).map(|step| step.reason).collect();
    assert_eq!(
        reasons,
        [
            Reason::Drift(Drift::MISSING_ADDRESS),
            Reason::LateRoute,
            Reason::Drift(Drift::KERNEL_LOCAL_ROUTE),
            Reason::Drift(Drift::MISSING_ROUTE),
        ]
    );
    let waits = |step: &&viproute::PlannedStep| {
        matches!(
            step.action,
            Action::AwaitRoute {
                likelihood: Likelihood::Certain,
                ..
            }
        )
    };
    assert_eq!(plan.steps.iter().filter(waits).count(), 1);
    assert!(
        plan.to_string()
            .contains("\ncame 2001:db8:42::1 kube-dummy-if\n")
    );
}

#[test]
fn plan_of_a_good_state_is_empty() {
    for protocol in PROTOCOLS {
        for binding in BINDINGS {
            let net = Net::new();
            let mut manager = builder(protocol, binding).open().unwrap();
            manager.assign(vips(20)).unwrap();
            RouteWatcher::new().rest();
            let plan = plan(&mut manager, &Claim::link(), &vips(20));
            assert!(plan.is_empty() && plan.failures.is_empty(), "{plan}");
            let before = Snapshot::read(&[]);
            run(&plan);
            before.assert_same(&Snapshot::read(&[]));
            assert_good(&net, &vips(20), protocol, binding);
        }
    }
}

#[test]
fn planning_needs_no_privilege() {
    let scene = Scene::new(PROTO_KERNEL);
    let claim = Claim::link();
    // Whether an address is so new that a route may be on its way, must not differ.
    std::thread::sleep(Duration::from_secs(2));
    let mut manager = builder(PROTO_KERNEL, Binding::Address).open().unwrap();
    let with = plan(&mut manager, &claim, &scene.desired);
    assert!(!with.is_empty());
    let before = Snapshot::read(&[]);
    let (without, create) = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                caps::drop_net_admin();
                let mut manager = builder(PROTO_KERNEL, Binding::Address).open().unwrap();
                let without = manager.plan(&claim, &scene.desired).unwrap();
                let error = manager.reconcile(&claim, &scene.desired).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
                let mut manager = broken::builder("absent0", PROTO_KERNEL)
                    .create_link(LinkKind::Bridge)
                    .open()
                    .unwrap();
                (without, manager.plan(&claim, &scene.desired).unwrap())
            })
            .join()
            .unwrap()
    });
    assert_eq!(without, with);
    assert!(matches!(create.steps[0].action, Action::CreateLink { .. }));
    before.assert_same(&Snapshot::read(&[]));
}

const AVOIDANCES: [SourceAvoidance; 2] =
    [SourceAvoidance::AddressLabel, SourceAvoidance::Deprecated];

/// VIPs that the kernel labels with two prefixes.
fn vips_of_two_labels() -> Vec<IpAddr> {
    let unique_local = "fd00:42::1".parse::<IpAddr>().unwrap();
    vips(3).into_iter().chain([unique_local]).collect()
}

#[test]
fn plan_contains_source_avoidance() {
    for avoidance in AVOIDANCES {
        let desired = vips_of_two_labels();
        let open = || {
            let builder = builder(PROTO_KERNEL, Binding::Address);
            builder.avoid_as_source(avoidance).open().unwrap()
        };
        let net = Net::new();
        let labels = net.ip("addrlabel list");
        let mut manager = open();
        let plan = plan(&mut manager, &Claim::link(), &desired);
        assert_eq!(net.ip("addrlabel list"), labels, "planning wrote a label");
        let steps = commands(&plan);
        let added = "ip -6 addr add fd00:42::1/128 dev kube-dummy-if nodad noprefixroute";
        let deprecated = match avoidance {
            SourceAvoidance::AddressLabel => {
                assert_eq!(
                    steps[..2],
                    [
                        "ip addrlabel add prefix ::/0 dev kube-dummy-if label 99",
                        "ip addrlabel add prefix fc00::/7 dev kube-dummy-if label 99",
                    ]
                );
                assert!(steps.iter().any(|step| step == added), "{plan}");
                let step = &plan.steps[0];
                assert_eq!((step.vip, step.reason), (None, Reason::SourceChoice));
                0
            }
            _ => {
                let added = format!("{added} valid_lft forever preferred_lft 0");
                assert!(steps.contains(&added), "{plan}");
                4
            }
        };
        run(&plan);
        assert_good(&net, &desired, PROTO_KERNEL, Binding::Address);
        let by_script = (comparable(), net.ip("addrlabel list"));
        let lines = by_script.0.iter();
        let is_deprecated = |line: &&String| line.contains("\"deprecated\":true");
        assert_eq!(lines.filter(is_deprecated).count(), deprecated);
        let again = manager.plan(&Claim::link(), &desired).unwrap();
        assert!(again.is_empty(), "{again}");
        let report = manager.reconcile(&Claim::link(), &desired).unwrap();
        assert_eq!(report.writes, 0, "{report}");
        drop(net);

        let net = Net::new();
        open().reconcile(&Claim::link(), &desired).unwrap();
        assert_same_lines(&by_script.0, &comparable());
        assert_eq!(by_script.1, net.ip("addrlabel list"));
    }
}

#[test]
fn plan_adds_only_missing_labels() {
    let net = Net::new();
    let desired = vips_of_two_labels();
    let open = |builder: VipManagerBuilder| {
        let builder = builder.avoid_as_source(SourceAvoidance::AddressLabel);
        builder.open().unwrap()
    };
    // Bound by routes alone, or of IPv4 alone, VIPs need none.
    let is_label = |step: &viproute::PlannedStep| matches!(step.action, Action::AddLabel { .. });
    let mut by_route = open(builder(PROTO_KERNEL, Binding::Route));
    let steps = plan(&mut by_route, &Claim::link(), &desired).steps;
    assert!(!steps.iter().any(is_label));
    let mut manager = open(builder(PROTO_KERNEL, Binding::Address));
    let steps = plan(&mut manager, &Claim::link(), &vips_v4(3)).steps;
    assert!(!steps.iter().any(is_label));
    // The VIPs are there, and one of the entries.
    let mut careless = builder(PROTO_KERNEL, Binding::Address).open().unwrap();
    careless.assign(&desired).unwrap();
    net.ip(&format!(
        "addrlabel add prefix ::/0 dev {VIP_LINK} label 99"
    ));
    let plan = plan(&mut manager, &Claim::link(), &desired);
    let entry = "ip addrlabel add prefix fc00::/7 dev kube-dummy-if label 99";
    assert_eq!(commands(&plan), [entry]);
    run(&plan);
    let report = manager.reconcile(&Claim::link(), &desired).unwrap();
    assert_eq!(report.writes, 0, "{report}");
}

#[test]
fn plan_labels_a_created_link() {
    let net = Net::bare();
    net.add_link(OTHER);
    net.add_node_addresses(OTHER);
    net.wait_for_kernel();
    RouteWatcher::new().rest();
    let desired = vips_of_two_labels();
    let mut manager = broken::builder("absent0", PROTO_KERNEL)
        .avoid_as_source(SourceAvoidance::AddressLabel)
        .create_link(LinkKind::Bridge)
        .open()
        .unwrap();
    let plan = plan(&mut manager, &Claim::link(), &desired);
    assert_eq!(
        commands(&plan)[2..5],
        [
            "ip link set dev absent0 up",
            "ip addrlabel add prefix ::/0 dev absent0 label 99",
            "ip addrlabel add prefix fc00::/7 dev absent0 label 99",
        ]
    );
    run(&plan);
    let report = manager.reconcile(&Claim::link(), &desired).unwrap();
    assert_eq!(report.writes, 0, "{report}");
}

#[test]
fn plan_lists_vips_that_fall_short_and_leaves_them() {
    for protocol in PROTOCOLS {
        let net = Net::new();
        net.add_link(OTHER);
        let all = vips(6);
        // In conflict: another link's address; another link's route.
        for vip in &all[..2] {
            let nodad = if vip.is_ipv6() { "nodad" } else { "" };
            net.ip(&format!("addr add {vip} dev {OTHER} {nodad}"));
        }
        for vip in &all[2..4] {
            net.ip(&format!("route add local {vip} dev {OTHER} table local"));
        }
        // Another prefix length.
        net.ip(&format!("addr add {}/24 dev {VIP_LINK}", all[4]));
        net.ip(&format!("addr add {}/64 dev {VIP_LINK} nodad", all[5]));
        net.wait_for_kernel();
        RouteWatcher::new().rest();
        let before = net.snapshot_without(&all[6..]);
        let mut manager = builder(protocol, Binding::Address).open().unwrap();
        // Rejected: the source.
        let desired: Vec<_> = all.iter().copied().chain([NODE_V4.into()]).collect();
        let plan = plan(&mut manager, &Claim::link(), &desired);
        let mut causes: Vec<_> = plan
            .failures
            .iter()
            .map(|failure| (failure.vip.addr(), failure.cause))
            .collect();
        let mut expected: Vec<_> = all[..4]
            .iter()
            .map(|vip| (*vip, Cause::Conflict))
            .chain(all[4..6].iter().map(|vip| (*vip, Cause::OtherPrefixLength)))
            .chain([(NODE_V4.into(), Cause::Rejected(RejectReason::IsSource))])
            .collect();
        causes.sort_by_key(|(vip, _)| *vip);
        expected.sort_by_key(|(vip, _)| *vip);
        assert_eq!(causes, expected);
        let ordered = plan.failures.is_sorted_by_key(|failure| failure.vip);
        assert!(ordered, "{:?}", plan.failures);
        assert!(
            plan.to_string()
                .contains("# left as it is: 10.96.0.1: another device")
        );
        run(&plan);
        assert_good(&net, &all[6..], protocol, Binding::Address);
        before.assert_same(&net.snapshot_without(&all[6..]));
        let report = manager.reconcile(&Claim::link(), &desired).unwrap_err();
        let report = report.into_report().unwrap();
        assert_eq!(report.writes, 0, "{report}");
        assert_eq!(report.failures, plan.failures);
    }
}

#[test]
fn plan_fails_where_reconcile_fails() {
    let _net = Net::new();
    let mut manager = builder(PROTO_KERNEL, Binding::Address).open().unwrap();
    manager.assign(vips(3)).unwrap();
    let kind = |builder: VipManagerBuilder, claim: &Claim, desired: &[IpAddr]| {
        let mut manager = builder.open().unwrap();
        let planned = manager.plan(claim, desired).unwrap_err();
        let error = manager.reconcile(claim, desired).unwrap_err();
        assert_eq!(planned.to_string(), error.to_string());
        assert_eq!(planned.kind(), error.kind());
        planned.kind()
    };
    let one = vips(1);
    let of = |link: &str| broken::builder(link, PROTO_KERNEL);
    let before = Snapshot::read(&[]);
    assert_eq!(kind(of(VIP_LINK), &Claim::link(), &[]), ErrorKind::EmptySet);
    assert_eq!(
        kind(of(VIP_LINK), &Claim::link().at_most(3), &one),
        ErrorKind::TooManyReleases
    );
    assert_eq!(
        kind(of(VIP_LINK), &Claim::mark(), &one),
        ErrorKind::InvalidConfig
    );
    assert_eq!(
        kind(of("absent0"), &Claim::link(), &one),
        ErrorKind::LinkNotFound
    );
    before.assert_same(&Snapshot::read(&[]));
}

/// What one family lacks fails its VIPs, in words like those of the call; the steps for the other one
/// are there.
#[test]
fn plan_lists_vips_of_a_family_that_lacks_something() {
    let net = Net::new();
    let set = vips(3);
    let of = || broken::builder(VIP_LINK, PROTO_KERNEL);
    net.ip("addrlabel add prefix 2001:db8:7::/48 label 99");
    let check = |builder: VipManagerBuilder, kind: ErrorKind, fails: &[IpAddr]| {
        let mut manager = builder.open().unwrap();
        let plan = manager.plan(&Claim::link(), &set).unwrap();
        let failed: Vec<IpAddr> = plan.failures.iter().map(|f| f.vip.addr()).collect();
        assert_eq!(failed, fails);
        assert!(
            plan.failures
                .iter()
                .all(|f| f.cause == Cause::Missing(kind))
        );
        for vip in &set {
            let is_planned = |step: &&PlannedStep| step.vip.is_some_and(|of| of.addr() == *vip);
            assert_eq!(
                plan.steps.iter().any(|step| is_planned(&step)),
                !fails.contains(vip),
                "{plan}"
            );
        }
        let error = manager.reconcile(&Claim::link(), &set).unwrap_err();
        assert_eq!(error.report().unwrap().failures, plan.failures);
        manager.release(&set).unwrap();
    };
    check(
        of().avoid_as_source(SourceAvoidance::AddressLabel),
        ErrorKind::LabelConflict,
        &vips_v6(3),
    );
    let without_v4 = VipManager::builder(VIP_LINK)
        .source(NODE_V6)
        .source([192, 0, 2, 77]);
    check(without_v4, ErrorKind::SourceNotOnNode, &vips_v4(3));
    net.ip(&format!("link set dev {VIP_LINK} down"));
    check(of(), ErrorKind::LinkDown, &vips_v6(3));
}

#[test]
fn plan_creates_a_missing_link_first() {
    for binding in BINDINGS {
        let fresh = || {
            let net = Net::bare();
            net.add_link(OTHER);
            net.add_node_addresses(OTHER);
            net.wait_for_kernel();
            RouteWatcher::new().rest();
            net
        };
        let open = || {
            // Not a word that a shell leaves alone.
            broken::builder("v'$(id);&", PROTO_KERNEL)
                .binding(binding)
                .create_link(LinkKind::Bridge)
                .open()
                .unwrap()
        };
        let net = fresh();
        // In conflict even though there is no link yet.
        let desired = vips(4);
        net.ip(&format!(
            "route add local {} dev {OTHER} table local",
            desired[7]
        ));
        let mut manager = open();
        let plan = plan(&mut manager, &Claim::link(), &desired);
        assert_eq!(
            commands(&plan)[..3],
            [
                r"ip link add dev 'v'\''$(id);&' arp off type bridge",
                r"ip link set dev 'v'\''$(id);&' addrgenmode none",
                r"ip link set dev 'v'\''$(id);&' up",
            ]
        );
        assert_eq!(plan.failures.len(), 1);
        assert_eq!(plan.failures[0].vip, Vip::from(desired[7]));
        run(&plan);
        let want = Want {
            link: "v'$(id);&",
            address: binding == Binding::Address,
            ..Want::default()
        };
        net.local_state().assert_single_route(&desired[..7], &want);
        let report = manager.reconcile(&Claim::link(), &desired[..7]).unwrap();
        assert_eq!(report.writes, 0, "{report}");
        let by_script = comparable();
        drop(net);

        let net = fresh();
        net.ip(&format!(
            "route add local {} dev {OTHER} table local",
            desired[7]
        ));
        let error = open().reconcile(&Claim::link(), &desired).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incomplete);
        assert_same_lines(&by_script, &comparable());
    }
}

#[test]
fn plan_brings_the_link_up_first() {
    for (protocol, keep) in [(PROTO_KERNEL, "0"), (PROTO_KERNEL, "1"), (201, "1")] {
        let net = Net::new();
        net.set_sysctl(&format!("ipv6/conf/{VIP_LINK}/keep_addr_on_down"), keep);
        let mut manager = builder(protocol, Binding::Address)
            .bring_up()
            .open()
            .unwrap();
        manager.assign(vips(5)).unwrap();
        for vip in vips_v6(8)[5..].iter() {
            net.ip(&format!("addr add {vip} dev {VIP_LINK} nodad"));
        }
        for vip in vips_v4(8)[5..].iter() {
            net.ip(&format!("addr add {vip} dev {VIP_LINK}"));
        }
        net.wait_for_routes_of(&vips(8)[10..]);
        net.ip(&format!("link set dev {VIP_LINK} down"));
        RouteWatcher::new().rest();
        let desired = vips(7);
        let plan = plan(&mut manager, &Claim::link(), &desired);
        assert_eq!(commands(&plan)[0], format!("ip link set dev {VIP_LINK} up"));
        assert_eq!(plan.steps[0].reason, Reason::LinkDown);
        run(&plan);
        assert_good(&net, &desired, protocol, Binding::Address);
        net.assert_absent(&vips(8)[14..]);
        let report = manager.reconcile(&Claim::link(), &desired).unwrap();
        assert_eq!(report.writes, 0, "{report}");
    }
}

/// As kube-proxy adds them: each with itself as its broadcast address.
#[test]
fn plan_deletes_broadcast_routes_that_come_with_the_link() {
    for protocol in [PROTO_KERNEL, 201] {
        for route_first in [false, true] {
            let net = Net::new();
            let desired = vips_v4(4);
            let mut manager = builder(protocol, Binding::Address)
                .bring_up()
                .open()
                .unwrap();
            for vip in &desired[..2] {
                net.ip(&format!("addr add {vip}/32 brd {vip} dev {VIP_LINK}"));
            }
            // Of an address that is no VIP.
            net.ip(&format!(
                "addr add 192.168.77.1/32 brd {} dev {VIP_LINK}",
                desired[2]
            ));
            if route_first {
                manager.assign(&desired).unwrap();
            }
            net.ip(&format!("link set dev {VIP_LINK} down"));
            let claim = Claim::ranges(["10.96.0.0/12".parse::<ipnet::IpNet>().unwrap()]);
            let plan = plan(&mut manager, &claim, &desired);
            assert!(plan.failures.is_empty(), "{plan}");
            run(&plan);
            assert_good(&net, &desired, protocol, Binding::Address);
            let report = manager.reconcile(&claim, &desired).unwrap();
            assert_eq!(report.writes, 0, "{report}");
        }
    }
}

#[test]
fn plan_adds_a_placeholder_before_the_last_ipv4_address_goes() {
    let net = Net::new();
    let mut manager = builder(PROTO_KERNEL, Binding::Address).open().unwrap();
    manager.assign(vips(5)).unwrap();
    let mut manager = builder(PROTO_KERNEL, Binding::Route).open().unwrap();
    let plan = plan(&mut manager, &Claim::link(), &vips(4));
    let placeholders = plan
        .steps
        .iter()
        .filter(|step| matches!(step.action, Action::AddPlaceholder { .. }));
    assert_eq!(placeholders.count(), 1, "{plan}");
    run(&plan);
    assert_good(&net, &vips(4), PROTO_KERNEL, Binding::Route);
    net.assert_absent(&vips(5)[8..]);
    let report = manager.reconcile(&Claim::link(), vips(4)).unwrap();
    assert_eq!(report.writes, 0, "{report}");
}

/// The VIP's address as `ip` shows it.
fn shown(vip: IpAddr) -> Value {
    let state = common::net::ip_json(&format!("addr show dev {VIP_LINK} to {vip}"));
    // What the filter leaves out stands there as an empty object.
    let Value::Array(found) = state[0]["addr_info"].clone() else {
        panic!("no addresses: {state}");
    };
    let is_vip = |address: &Value| address["local"] == vip.to_string();
    found.into_iter().find(is_vip).unwrap()
}

#[test]
fn plan_makes_an_expiring_address_permanent_and_keeps_its_attributes() {
    let (v4, v6) = (vips_v4(9), vips_v6(9));
    let peer = "192.0.2.77";
    for (vip, peer, rest, expires) in [
        (v6[0], None, "valid_lft 5000 preferred_lft 4000", true),
        (
            v6[1],
            None,
            "valid_lft 5000 preferred_lft 0 metric 300 nodad home",
            true,
        ),
        (
            v6[2],
            None,
            "valid_lft forever preferred_lft 0 metric 300",
            false,
        ),
        (v6[3], None, "nodad home", false),
        (
            v4[0],
            None,
            "valid_lft 5000 preferred_lft 4000 metric 300",
            true,
        ),
        (v4[1], Some(peer), "valid_lft 5000 preferred_lft 0", true),
        (v4[2], None, "valid_lft forever preferred_lft 0", false),
    ] {
        let net = Net::new();
        let peer = peer.map(|peer| format!(" peer {peer}")).unwrap_or_default();
        net.ip(&format!("addr add {vip}{peer} dev {VIP_LINK} {rest}"));
        // One like it is not desired.
        let stale = if vip.is_ipv4() { v4[8] } else { v6[8] };
        net.ip(&format!("addr add {stale} dev {VIP_LINK} {rest}"));
        net.wait_for_routes_of(&[vip, stale]);
        let before = shown(vip);
        let mut manager = builder(PROTO_KERNEL, Binding::Address).open().unwrap();
        let plan = plan(&mut manager, &Claim::link(), &[vip]);
        let is_update = |step: &PlannedStep| matches!(step.action, Action::UpdateAddress { .. });
        let updates = plan.steps.iter().filter(|step| is_update(step));
        assert_eq!(updates.count(), usize::from(expires), "{plan}");
        run(&plan);
        let after = shown(vip);
        if expires && vip.is_ipv6() {
            assert_eq!(after["noprefixroute"], true, "{after}");
        }
        for key in ["nodad", "home", "metric", "deprecated"] {
            assert_eq!(before[key], after[key], "{rest}: {key}");
        }
        let forever = Value::from(u32::MAX);
        assert_eq!(after["valid_life_time"], forever, "{rest}");
        if before["deprecated"] != true {
            assert_eq!(after["preferred_life_time"], forever, "{rest}");
        }
        broken::assert_single_route(&net, &[vip], PROTO_KERNEL);
        net.assert_absent(&[stale]);
        let report = manager.reconcile(&Claim::link(), [vip]).unwrap();
        assert_eq!(report.writes, 0, "{report}");
    }
}

#[test]
fn plan_of_ten_thousand_vips() {
    let net = Net::new();
    let mut manager = builder(PROTO_KERNEL, Binding::Address).open().unwrap();
    let mut times = Vec::new();
    for count in [1_000, 10_000] {
        let desired = vips_v6(count);
        let began = Instant::now();
        let plan = manager.plan(&Claim::link(), &desired).unwrap();
        let script = plan.to_string();
        times.push(began.elapsed());
        assert_eq!(plan.steps.len(), 4 * count);
        assert!(script.lines().count() > 8 * count);
    }
    // Ten times as many take ten times as long, not a hundred times: to be read, not asserted.
    println!("fresh: {times:?}");
    // All of them with leftovers that are deleted one by one.
    let there: Vec<_> = vips_v4(1000)
        .into_iter()
        .map(|vip| (vip, State::FourInOnePlace))
        .collect();
    put(&net, &there, PROTO_KERNEL);
    net.ip(&format!("addr add {OTHER_V4}/25 dev {VIP_LINK}"));
    let began = Instant::now();
    let plan = manager.plan(&Claim::link(), vips_v4(1000)).unwrap();
    println!("broken: {:?}, {} steps", began.elapsed(), plan.steps.len());
    assert!(plan.failures.is_empty() && plan.steps.len() > 3 * 1000);
}

#[test]
fn script_waits_for_table_local_under_any_rule() {
    for diversion in Diversion::ALL {
        let net = Net::new();
        if !diversion.put(&net) {
            continue;
        }
        let desired = vips(2);
        let mut manager = builder(PROTO_KERNEL, Binding::Address).open().unwrap();
        let plan = plan(&mut manager, &Claim::link(), &desired);
        let waits = |step: &viproute::PlannedStep| matches!(step.action, Action::AwaitRoute { .. });
        assert!(plan.steps.iter().any(waits));
        run(&plan);
        assert_good(&net, &desired, PROTO_KERNEL, Binding::Address);
    }
}
