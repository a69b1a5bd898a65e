//! Make before break: during ten thousand random repairs no probe fails, and a replay of the kernel's
//! notifications shows no VIP without a local route (probes alone would miss short gaps).
//!
//! Another number of repairs by one command:
//!
//! ```text
//! VIPROUTE_REPAIRS=100000 cargo test --test gapless -- --nocapture
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
mod common;
#[path = "common/lookups.rs"]
mod lookups;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage::{DelRoute, NewRoute};

use broken::{Random, State, builder, put, report};
use common::example::eventually;
use common::raw::{self, CREATE_EXCL, CREATE_REPLACE, Raw};
use common::{
    NODE_LINK, NODE_V4, NODE_V6, Net, PROTO_KERNEL, RouteWatcher, VIP_LINK, Want,
    never_without_local_route, vips,
};
use lookups::{LookUps, Of};
use viproute::{Binding, Cause, Claim, Report, VipManagerBuilder};

/// VIPs of each family in one batch, at the most and at the least.
const MOST_PAIRS: usize = 250;
const LEAST_PAIRS: usize = 50;
/// The same where a keeper mends them one by one.
const KEEPER_PAIRS: usize = 12;

fn repairs() -> usize {
    common::number("VIPROUTE_REPAIRS", 10_000, 2000)
}

/// A thread that connects to a listener on each VIP in turn, without pause.
struct Connects {
    stop: Arc<AtomicBool>,
    passes: Arc<AtomicU64>,
    thread: JoinHandle<(u64, Vec<String>)>,
}

impl Connects {
    /// Starts with VIPs that can be connected to now, and returns after the first pass over all
    /// of them.
    fn start(vips: &[IpAddr]) -> Self {
        let (stop, passes) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let listeners = [
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap(),
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap(),
        ];
        let vips = vips.to_vec();
        let thread = std::thread::spawn({
            let (stop, passes) = (Arc::clone(&stop), Arc::clone(&passes));
            move || {
                let connect = |vip: &IpAddr| connect(*vip, &listeners[usize::from(vip.is_ipv6())]);
                let (mut count, mut wrong) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    for vip in &vips {
                        count += 1;
                        if let Err(error) = connect(vip) {
                            wrong.push(format!("{vip}: {error}"));
                        }
                        if stop.load(Ordering::Relaxed) && passes.load(Ordering::Relaxed) > 0 {
                            break;
                        }
                    }
                    passes.fetch_add(1, Ordering::Relaxed);
                }
                (count, wrong)
            }
        });
        let this = Self {
            stop,
            passes,
            thread,
        };
        eventually("the first pass", || {
            this.passes.load(Ordering::Relaxed) > 0 || this.thread.is_finished()
        });
        this
    }

    fn stop(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// One connection, taken at the other end too. A segment that had to be sent twice was lost.
fn connect(vip: IpAddr, listener: &TcpListener) -> Result<(), String> {
    let to = SocketAddr::new(vip, listener.local_addr().unwrap().port());
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(20));
    let stream = stream.map_err(|error| error.to_string())?;
    let (taken, _) = listener.accept().map_err(|error| error.to_string())?;
    let resent = resent(&stream).max(resent(&taken));
    // No port waits for late segments.
    linger_not(&stream);
    drop(stream);
    drop(taken);
    if resent > 0 {
        return Err(format!("{resent} segments were sent again"));
    }
    Ok(())
}

#[allow(unsafe_code)]
fn resent(stream: &TcpStream) -> u32 {
    // SAFETY: all zeroes is a value of this structure of numbers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = u32::try_from(size_of::<libc::tcp_info>()).unwrap();
    // SAFETY: the kernel writes at most `length` bytes to `info`, which has them.
    let got = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
    info.tcpi_total_retrans
}

#[allow(unsafe_code)]
fn linger_not(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let length = u32::try_from(size_of::<libc::linger>()).unwrap();
    // SAFETY: the kernel reads `length` bytes of `linger`, which has them.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// All that watches over VIPs while they are repaired.
struct Watch<'a> {
    vips: &'a [IpAddr],
    link: u32,
    before: common::LocalState,
    watcher: &'a RouteWatcher,
    look_ups: LookUps,
    /// Of IPv6 VIPs whose only local route is replaced in place, which is not quite free of gaps in
    /// the kernel.
    only_routes: Option<LookUps>,
    connects: Connects,
}

/// How much was looked at.
#[derive(Debug, Default)]
struct Probed {
    look_ups: u64,
    of_only_routes: u64,
    connects: u64,
    notifications: usize,
}

impl<'a> Watch<'a> {
    /// Watches VIPs, of which some are local now, of those some by one IPv6 route that is to be
    /// replaced, and some can be connected to.
    fn begin(
        net: &Net,
        watcher: &'a RouteWatcher,
        vips: &'a [IpAddr],
        local: &[IpAddr],
        replaced: &[IpAddr],
        answering: &[IpAddr],
    ) -> Self {
        Self::begin_on(
            net.vip_index(),
            net,
            watcher,
            vips,
            local,
            replaced,
            answering,
        )
    }

    /// The same on a link of any name.
    fn begin_on(
        link: u32,
        net: &Net,
        watcher: &'a RouteWatcher,
        vips: &'a [IpAddr],
        local: &[IpAddr],
        replaced: &[IpAddr],
        answering: &[IpAddr],
    ) -> Self {
        let (replaced, others): (Vec<IpAddr>, Vec<IpAddr>) =
            local.iter().partition(|vip| replaced.contains(vip));
        watcher.rest();
        Self {
            vips,
            link,
            before: net.local_state(),
            look_ups: LookUps::start(&others),
            only_routes: (!replaced.is_empty())
                .then(|| LookUps::start_of(&replaced, Of::OnlyRoute)),
            connects: Connects::start(answering),
            watcher,
        }
    }

    /// What was seen to fail: look-ups, connections, the replay.
    fn end(self, probed: &mut Probed) -> [Vec<String>; 3] {
        let (count, connects) = self.connects.stop();
        probed.connects += count;
        let (count, mut look_ups) = self.look_ups.stop();
        probed.look_ups += count;
        if let Some(only_routes) = self.only_routes {
            let (count, mut wrong) = only_routes.stop();
            probed.of_only_routes += count;
            look_ups.append(&mut wrong);
        }
        let events = self.watcher.drain();
        probed.notifications += events.len();
        let replay = never_without_local_route(&events, &self.before, self.vips, self.link);
        [look_ups, connects, replay.err().unwrap_or_default()]
    }
}

/// Who repairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Assign,
    Normalize,
    Reconcile,
    /// A keeper that reads its notifications.
    Keeper,
}

#[test]
fn ten_thousand_repairs_leave_no_gap() {
    let random = Random::new();
    let began = Instant::now();
    // Side by side: each waits a lot, for addresses of others to grow old.
    let threads: Vec<_> = [
        (PROTO_KERNEL, false),
        (201, false),
        (PROTO_KERNEL, true),
        (201, true),
    ]
    .into_iter()
    .enumerate()
    .map(|(at, (protocol, route_only))| {
        let mut random = random.clone();
        for _ in 0..at {
            random.below(2);
        }
        std::thread::spawn(move || quarter(protocol, route_only, random))
    })
    .collect();
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
    println!("all of them in {:?}", began.elapsed());
}

/// A quarter of the repairs, with one configuration.
fn quarter(protocol: u8, route_only: bool, mut random: Random) {
    let net = Net::new();
    let watcher = RouteWatcher::new();
    // So that the notifications of a batch fit the watcher's buffer.
    let pairs = (watcher.capacity() / 12).clamp(LEAST_PAIRS, MOST_PAIRS);
    let mut probed = Probed::default();
    let mut done: BTreeMap<By, usize> = BTreeMap::new();
    let mut count = 0;
    for by in [
        By::Assign,
        By::Keeper,
        By::Normalize,
        By::Reconcile,
        By::Keeper,
    ]
    .into_iter()
    .cycle()
    {
        if count >= repairs().div_ceil(4) {
            break;
        }
        let pairs = if by == By::Keeper {
            KEEPER_PAIRS
        } else {
            pairs
        };
        let setting = (by, protocol, route_only);
        let repaired = one_batch(&net, &watcher, setting, pairs, &mut random, &mut probed);
        *done.entry(by).or_default() += repaired;
        count += repaired;
    }
    println!("protocol {protocol}, route only {route_only}: {count} repairs: {done:?}, {probed:?}");
    assert!(probed.look_ups > count as u64 && probed.connects > 0);
    assert!(probed.notifications >= count, "{probed:?}");
}

/// Puts VIPs in random states and has them repaired; tells how many were.
#[expect(
    clippy::too_many_lines,
    reason = "one batch from its states to its judgement, by four ways to repair"
)]
fn one_batch(
    net: &Net,
    watcher: &RouteWatcher,
    (by, protocol, route_only): (By, u8, bool),
    pairs: usize,
    random: &mut Random,
    probed: &mut Probed,
) -> usize {
    let all = vips(pairs);
    let mut states: Vec<(IpAddr, State)> = all
        .iter()
        .map(|vip| match vip {
            IpAddr::V4(_) => (*vip, random.pick(&State::V4)),
            IpAddr::V6(_) => (*vip, random.pick(&State::V6)),
        })
        .collect();
    let mut manager = builder(VIP_LINK, protocol)
        .binding(if route_only {
            Binding::Route
        } else {
            Binding::Address
        })
        .open()
        .unwrap();
    let mut keeper = None;
    if by == By::Keeper {
        // It has kept them before, and is notified of what happens then.
        let mut other = builder(VIP_LINK, protocol).open().unwrap();
        let mut new = manager.into_keeper(Claim::link()).unwrap();
        new.set_desired(&all);
        calm(&mut new);
        other.release(&all).unwrap();
        manager = other;
        keeper = Some(new);
    }
    put(net, &states, protocol);
    if by == By::Normalize && !route_only {
        // Without an address it is left alone.
        states.retain(|(_, state)| *state != State::Stale);
    }
    let repaired: Vec<IpAddr> = states.iter().map(|(vip, _)| *vip).collect();
    let those = |which: fn(&State) -> bool| -> Vec<IpAddr> {
        let states = states.iter().filter(|(_, state)| which(state));
        states.map(|(vip, _)| *vip).collect()
    };
    let local = those(|state| state.is_local());
    // With a source that is gone there is no connection to lose.
    let answering = those(|state| state.is_local() && *state != State::SourceGone);
    let replaced: Vec<IpAddr> = states
        .iter()
        .filter(|(vip, state)| vip.is_ipv6() && state.only_route_is_replaced())
        .map(|(vip, _)| *vip)
        .collect();
    let watch = Watch::begin(net, watcher, &repaired, &local, &replaced, &answering);
    let report = match (by, &mut keeper) {
        (By::Assign, _) => manager.assign(&all).unwrap(),
        (By::Reconcile, _) => manager.reconcile(&Claim::link(), &all).unwrap(),
        (By::Normalize, _) => {
            let report = report(manager.normalize());
            let stale = all.len() - repaired.len();
            // Route-only VIPs that were not there in any form are not on the link.
            assert!(report.failures.len() == stale, "{report:?}");
            assert!(
                report
                    .failures
                    .iter()
                    .all(|f| matches!(f.cause, Cause::StaleRoute | Cause::NotOnLink))
            );
            report
        }
        (By::Keeper, Some(keeper)) => calm(keeper),
        (By::Keeper, None) => unreachable!(),
    };
    let failed = watch.end(probed);
    assert!(
        failed.iter().all(Vec::is_empty),
        "{by:?}, protocol {protocol}, route only {route_only}: {report}: {failed:#?}; {states:?}"
    );
    let want = Want {
        protocol,
        address: !route_only,
        ..Want::default()
    };
    let mut state = net.local_state();
    for address in state.addresses.values_mut().flatten() {
        address.forgive_flags();
    }
    state.assert_single_route(&repaired, &want);
    // For the next batch.
    drop(keeper);
    builder(VIP_LINK, protocol)
        .open()
        .unwrap()
        .release(&all)
        .unwrap();
    net.assert_absent(&all);
    report.repaired + report.assigned
}

/// Dispatches until nothing is due; sums up.
fn calm(keeper: &mut viproute::Keeper) -> Report {
    let mut sum = Report::default();
    loop {
        let done = keeper.dispatch(usize::MAX).unwrap();
        assert!(
            done.missing.is_empty() && done.refused.is_none(),
            "{done:?}"
        );
        sum.assigned += done.report.assigned;
        sum.repaired += done.report.repaired;
        sum.writes += done.report.writes;
        if let Some(at) = keeper.next_deadline() {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
        } else if !done.more {
            return sum;
        }
    }
}

/// The VIPs of a node that moves over, and two that no service has any more.
fn moving() -> (Vec<IpAddr>, Vec<IpAddr>) {
    let all = vips(10);
    let is_old = |vip: &IpAddr| *vip == all[0] || *vip == all[10];
    all.iter().partition(|vip| !is_old(vip))
}

/// Moves a node over, while the VIPs are watched, and releases those that are not desired.
fn move_over(
    net: &Net,
    link: &str,
    prepare: impl FnOnce(),
    how: impl FnOnce(VipManagerBuilder) -> VipManagerBuilder,
) {
    let (desired, old) = moving();
    let watcher = RouteWatcher::new();
    let index = net.index(link);
    let watch = Watch::begin_on(index, net, &watcher, &desired, &desired, &[], &desired);
    prepare();
    let mut manager = how(builder(VIP_LINK, PROTO_KERNEL)).open().unwrap();
    let report = manager.reconcile(&Claim::link(), &desired).unwrap();
    assert_eq!(net.vip_index(), index);
    assert_eq!(report.released, old.len(), "{report}");
    assert!(report.repaired > 0 && report.assigned == 0, "{report}");
    let mut probed = Probed::default();
    let failed = watch.end(&mut probed);
    assert!(failed.iter().all(Vec::is_empty), "{report}: {failed:#?}");
    assert!(probed.look_ups > 0 && probed.connects > 0 && probed.notifications > 0);
    let mut state = net.local_state();
    for address in state.addresses.values_mut().flatten() {
        address.forgive_flags();
    }
    state.assert_single_route(&desired, &Want::default());
    net.assert_absent(&old);
}

/// The state is that of its `ipAddrAdd` (pkg/controllers/proxy/linux_networking.go): address, replaced
/// route, and in IPv6 the other routes deleted, which the kernel's late route of some VIPs outlives.
#[test]
fn node_moves_over_from_kube_router_without_a_gap() {
    let net = Net::new();
    for (at, vip) in vips(10).into_iter().enumerate() {
        let (bits, source) = match vip {
            IpAddr::V4(_) => (32, IpAddr::from(NODE_V4)),
            IpAddr::V6(_) => (128, NODE_V6.into()),
        };
        net.ip(&format!("addr add {vip}/{bits} dev {VIP_LINK} scope link"));
        net.wait_for_kernel();
        let route = format!("local {vip}/{bits} dev {VIP_LINK} table local proto kernel");
        net.ip(&format!("route replace {route} scope host src {source}"));
        if vip.is_ipv6() && at % 2 == 0 {
            net.ip(&format!("-6 route del {route} metric 0"));
            net.ip(&format!(
                "-6 route del {vip}/{bits} dev {VIP_LINK} table main"
            ));
        }
    }
    move_over(&net, VIP_LINK, || (), |builder| builder);
}

/// The state is that of its `EnsureAddressBind` (pkg/proxy/ipvs/netlink_linux.go): addresses on a dummy
/// link that stays down. A link that is down can be renamed, so that a kube-proxy that starts in another
/// mode does not delete it.
#[test]
fn node_moves_over_from_kube_proxy_ipvs_without_a_gap() {
    let net = Net::bare();
    net.add_link(NODE_LINK);
    net.add_node_addresses(NODE_LINK);
    net.add_link_down("kube-ipvs0");
    for vip in vips(10) {
        let bits = if vip.is_ipv4() { 32 } else { 128 };
        net.ip(&format!("addr add {vip}/{bits} dev kube-ipvs0"));
    }
    net.wait_for_kernel();
    let rename = || drop(net.ip(&format!("link set dev kube-ipvs0 name {VIP_LINK}")));
    move_over(&net, "kube-ipvs0", rename, VipManagerBuilder::bring_up);
}

/// The kernel's own short gap: no other answer than to a look-up that met the replacement is excused.
#[test]
fn look_up_that_loses_a_route_replaced_in_place_met_its_replacement() {
    let net = Net::new();
    let link = net.vip_index();
    let all = common::vips_v6(40);
    let mut raw = Raw::new();
    let [one, other] = [PROTO_KERNEL, 201].map(|protocol| -> Vec<_> {
        let route = |vip| raw::local_route(vip, link, Some(NODE_V6.into()), protocol);
        all.iter()
            .map(|vip| (NewRoute(route(*vip)), CREATE_REPLACE))
            .collect()
    });
    raw.batch_ok(&one);
    let look_ups = LookUps::start_of(&all, Of::OnlyRoute);
    let mut rounds = 0;
    // On a busy machine the look-ups are slower than the replacements.
    while rounds < common::full_or_quick(2_000, 400) || look_ups.passes() < 30 {
        raw.batch_ok(&other);
        raw.batch_ok(&one);
        rounds += 1;
    }
    let (count, not_local) = look_ups.stop();
    assert!(not_local.is_empty(), "{not_local:#?}");
    assert!(count > 1_000, "{count}");
}

/// The control: a repair that breaks before it makes is caught, by each of the three.
#[test]
fn control_gap_is_seen() {
    let net = Net::new();
    let watcher = RouteWatcher::new();
    let all = vips(10);
    builder(VIP_LINK, PROTO_KERNEL)
        .open()
        .unwrap()
        .assign(&all)
        .unwrap();
    let link = net.vip_index();
    let mut raw = Raw::new();
    let source = |vip: &IpAddr| match vip {
        IpAddr::V4(_) => IpAddr::from(NODE_V4),
        IpAddr::V6(_) => NODE_V6.into(),
    };
    let delete = |vip: &IpAddr| (DelRoute(raw::delete_any(*vip, link)), 0);
    let add = |vip: &IpAddr| {
        let route = raw::local_route(*vip, link, Some(source(vip)), PROTO_KERNEL);
        (NewRoute(route), CREATE_EXCL)
    };
    let mut probed = Probed::default();

    // Back to back, which a probe hardly sees, and the replay always.
    let watch = Watch::begin(&net, &watcher, &all, &all, &[], &all);
    let steps: Vec<_> = all.iter().flat_map(|vip| [delete(vip), add(vip)]).collect();
    raw.batch_ok(&steps);
    let [_, _, replay] = watch.end(&mut probed);
    assert_eq!(replay.len(), all.len(), "{replay:#?}");

    // With a moment between.
    let mut watch = Watch::begin(&net, &watcher, &all, &all, &[], &all);
    let passes = |watch: &Watch<'_>| {
        (
            watch.look_ups.passes(),
            watch.connects.passes.load(Ordering::Relaxed),
        )
    };
    raw.batch_ok(&all.iter().map(delete).collect::<Vec<_>>());
    let from = passes(&watch);
    eventually("the probes pass", || {
        let now = passes(&watch);
        now.0 > from.0 + 2 && now.1 > from.1 + 2
    });
    raw.batch_ok(&all.iter().map(add).collect::<Vec<_>>());
    watch.vips = &all;
    let [look_ups, connects, replay] = watch.end(&mut probed);
    assert!(look_ups.len() >= all.len(), "{look_ups:#?}");
    assert!(connects.len() >= all.len(), "{connects:#?}");
    assert_eq!(replay.len(), all.len(), "{replay:#?}");

    // And nothing of it where nothing happens.
    let watch = Watch::begin(&net, &watcher, &all, &all, &[], &all);
    std::thread::sleep(Duration::from_millis(20));
    let nothing = watch.end(&mut probed);
    assert!(nothing.iter().all(Vec::is_empty), "{nothing:#?}");
}
