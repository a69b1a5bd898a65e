//! The whole life of a VIP: `cargo bench -p compare --bench life`.
//!
//! Every state in which a call finds VIPs, and the call that ends it; beside it the cheapest known list of
//! kernel operations to the same end state, as one `ip -batch` and as encoded messages. The three run in
//! turn. A second process reads table local all the while: it says when the first VIP, half of the VIPs and
//! the last VIP were right, and stayed so. Needs no privilege.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod local;
mod operations;
mod output;
mod states;
mod watch;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use common::floor::{self, Floor, Messages};
use common::time::timed;
use common::{FAMILIES, LINK, Node, Vips, manager};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteMessage;
use operations::{DESIRED, FORMER_V4, FORMER_V6, Group, Op, Op::*, Other};
use output::Output;
use viproute::{Binding, Claim, Protocol, Report, VipManager, VipManagerBuilder};
use watch::{End, Progress};

/// Compares viproute with the cheapest way to the same end state, at every step of a VIP's life.
#[derive(Parser)]
struct Options {
    /// Only the works whose name contains this
    work: Option<String>,
    /// Only VIPs of this family
    #[arg(long, value_parser = ["IPv4", "IPv6"])]
    family: Option<String>,
    /// Numbers of VIPs
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 10_000])]
    sizes: Vec<u32>,
    /// Numbers of other routes of the node
    #[arg(long, value_delimiter = ',', default_values_t = [0, 50_000])]
    others: Vec<u32>,
    /// Runs of each, or one run where it takes more than a second
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Larger numbers of VIPs are left out after a run of so many seconds
    #[arg(long, default_value_t = 3)]
    patience: u64,
    #[command(flatten)]
    output: Output,
    /// The second process
    #[command(subcommand)]
    watch: Option<watch::Role>,
}

/// After this time no address is recent.
const GROWN_UP: Duration = Duration::from_millis(1600);

/// The VIPs of a run.
struct Set {
    link: u32,
    vips: Vec<IpAddr>,
}

impl Set {
    fn is_v6(&self) -> bool {
        self.vips[0].is_ipv6()
    }

    fn first_half(&self) -> &[IpAddr] {
        &self.vips[..self.vips.len() / 2]
    }

    fn second_half(&self) -> &[IpAddr] {
        &self.vips[self.vips.len() / 2..]
    }

    fn send(&self, operations: impl IntoIterator<Item = Op>, vips: &[IpAddr]) {
        let operations: Vec<Op> = operations.into_iter().collect();
        let group = Group::each(vips, &operations);
        Floor::new().send(&group.encode(self.link));
    }
}

/// A state, the call that ends it, and the operations that do the same.
struct Work {
    name: &'static str,
    binding: Binding,
    prepare: fn(&Set),
    call: fn(&mut VipManager, &Set) -> Report,
    operations: fn(&Set) -> Vec<Group>,
    /// IPv6, where the operations above are not safe: the cheapest ones that are. A deletion by protocol may hit the
    /// only route of a VIP if another writer was faster. If the route with the mark goes before the address, and
    /// the process is killed in between, nobody knows whose the address is.
    guarded: fn(&Set) -> Vec<Group>,
    end: fn(&Set) -> End,
}

fn all_right(set: &Set) -> End {
    End::Right(0..set.vips.len())
}

fn all_gone(set: &Set) -> End {
    End::Gone(0..set.vips.len())
}

fn half_gone(set: &Set) -> End {
    End::Gone(0..set.vips.len() / 2)
}

fn assign(manager: &mut VipManager, set: &Set) -> Report {
    manager.assign(&set.vips).unwrap()
}

fn normalize(manager: &mut VipManager, _: &Set) -> Report {
    manager.normalize().unwrap()
}

fn release_half(manager: &mut VipManager, set: &Set) -> Report {
    manager.release(set.first_half()).unwrap()
}

fn release_all(manager: &mut VipManager, _: &Set) -> Report {
    manager.release_all(&Claim::link()).unwrap()
}

/// The second half is desired.
fn reconcile(manager: &mut VipManager, set: &Set) -> Report {
    manager
        .reconcile(&Claim::link(), set.second_half())
        .unwrap()
}

/// A fresh VIP with an address.
fn fresh(vips: &[IpAddr]) -> Vec<Group> {
    if vips[0].is_ipv4() {
        return vec![Group::each(vips, &[AddAddress, Route(NLM_F_REPLACE)])];
    }
    // `ip -batch` cannot wait, so the addresses come first: the kernel's routes are late.
    let addresses = Group::each(vips, &[AddAddress]);
    let rest = vips.chunks(floor::BATCH).flat_map(|vips| {
        [
            Group::late(vips, &[DeleteKernels]),
            Group::each(vips, &[Route(NLM_F_EXCL)]),
        ]
    });
    std::iter::once(addresses).chain(rest).collect()
}

/// The routes, then the addresses from the head of the kernel's list.
fn release(vips: &[IpAddr]) -> Vec<Group> {
    let mut head_first = vips.to_vec();
    if vips[0].is_ipv6() {
        head_first.reverse();
    }
    vec![
        Group::each(vips, &[DeleteRoute]),
        Group::each(&head_first, &[DeleteAddress]),
    ]
}

fn put_right(set: &Set) {
    manager(Binding::Address).assign(&set.vips).unwrap();
    grow_up(set);
}

fn put_routes(set: &Set) {
    manager(Binding::Route).assign(&set.vips).unwrap();
}

fn put_with_former_source(set: &Set, binding: Binding) {
    let mut before = VipManager::builder(LINK)
        .source(FORMER_V4)
        .source(FORMER_V6.parse::<IpAddr>().unwrap())
        .binding(binding)
        .open()
        .unwrap();
    before.assign(&set.vips).unwrap();
}

/// The kernel's IPv6 routes are late.
fn await_kernels(set: &Set) {
    while set.is_v6() && common::late(&set.vips) {}
    grow_up(set);
}

fn grow_up(set: &Set) {
    if set.is_v6() && set.vips.len() > 50 {
        std::thread::sleep(GROWN_UP);
    }
}

/// Addresses and nothing else, as kube-proxy adds them: the kernel's routes are there.
fn put_as_kube_proxy(set: &Set) {
    set.send([AddPlainAddress], &set.vips);
    await_kernels(set);
}

/// Addresses and replaced routes. In IPv6 the kernel's two routes are there, too.
fn put_as_kube_router(set: &Set) {
    Floor::new().send(&floor::as_kube_router_leaves(set.link, &set.vips));
    await_kernels(set);
}

fn nothing(_: &Set) {}

fn none(_: &Set) -> Vec<Group> {
    Vec::new()
}

/// The protocol of routes that have the manager's mark.
const MARK: u8 = 99;
const MARKED: Other = Other {
    protocol: MARK,
    ..DESIRED
};

fn marked() -> VipManagerBuilder {
    let mark = Protocol::new(MARK).unwrap();
    common::builder().protocol(mark)
}

const WORKS: [Work; 18] = [
    Work {
        name: "fresh: assign",
        binding: Binding::Address,
        prepare: nothing,
        call: assign,
        operations: |set| fresh(&set.vips),
        guarded: none,
        end: all_right,
    },
    Work {
        name: "fresh, route-only: assign",
        binding: Binding::Route,
        prepare: nothing,
        call: assign,
        operations: |set| vec![Group::each(&set.vips, &[Route(NLM_F_EXCL)])],
        guarded: none,
        end: all_right,
    },
    Work {
        name: "right: assign",
        binding: Binding::Address,
        prepare: put_right,
        call: assign,
        operations: none,
        guarded: none,
        end: all_right,
    },
    Work {
        name: "right, route-only: assign",
        binding: Binding::Route,
        prepare: put_routes,
        call: assign,
        operations: none,
        guarded: none,
        end: all_right,
    },
    Work {
        name: "kube-proxy's: normalize",
        binding: Binding::Address,
        prepare: put_as_kube_proxy,
        call: normalize,
        operations: |set| {
            let steps: &[Op] = match set.is_v6() {
                false => &[Route(NLM_F_REPLACE)],
                true => &[Route(NLM_F_EXCL), DeleteKernels, DeletePrefixRoute],
            };
            vec![Group::each(&set.vips, steps)]
        },
        guarded: |set| {
            let steps = [
                StagedRoute,
                StagedRoute,
                DeleteKernels,
                Route(NLM_F_REPLACE),
                DeletePrefixRoute,
            ];
            vec![Group::each(&set.vips, &steps)]
        },
        end: all_right,
    },
    Work {
        name: "kube-router's: normalize",
        binding: Binding::Address,
        prepare: put_as_kube_router,
        call: normalize,
        operations: |set| {
            let steps: &[Op] = match set.is_v6() {
                false => &[],
                true => &[DeleteKernels, DeletePrefixRoute],
            };
            vec![Group::each(&set.vips, steps)]
        },
        guarded: |set| {
            let steps = [
                StagedRoute,
                DeleteKernels,
                Route(NLM_F_REPLACE),
                DeletePrefixRoute,
            ];
            vec![Group::each(&set.vips, &steps)]
        },
        end: all_right,
    },
    Work {
        name: "half stale, half new: reconcile",
        binding: Binding::Address,
        prepare: |set| {
            manager(Binding::Address).assign(set.first_half()).unwrap();
            grow_up(set);
        },
        call: reconcile,
        operations: |set| {
            let mut groups = fresh(set.second_half());
            groups.extend(release(set.first_half()));
            groups
        },
        guarded: none,
        end: |set| End::Right(set.vips.len() / 2..set.vips.len()),
    },
    Work {
        name: "half stale, half new, route-only: reconcile",
        binding: Binding::Route,
        prepare: |set| {
            manager(Binding::Route).assign(set.first_half()).unwrap();
        },
        call: reconcile,
        operations: |set| {
            vec![
                Group::each(set.second_half(), &[Route(NLM_F_EXCL)]),
                Group::each(set.first_half(), &[DeleteRoute]),
            ]
        },
        guarded: none,
        end: |set| End::Right(set.vips.len() / 2..set.vips.len()),
    },
    Work {
        name: "after a link flap: assign",
        binding: Binding::Address,
        prepare: |set| {
            put_right(set);
            assert!(common::ip(&format!("link set {LINK} down")));
            assert!(common::ip(&format!("link set {LINK} up")));
        },
        call: assign,
        // In IPv4 the kernel's routes came back. The IPv6 addresses went with the link.
        operations: |set| match set.is_v6() {
            false => vec![Group::each(&set.vips, &[DeleteKernels])],
            true => fresh(&set.vips),
        },
        guarded: none,
        end: all_right,
    },
    Work {
        name: "another source: assign",
        binding: Binding::Address,
        prepare: |set| {
            put_with_former_source(set, Binding::Address);
            grow_up(set);
        },
        call: assign,
        operations: |set| vec![Group::each(&set.vips, &[Route(NLM_F_REPLACE)])],
        guarded: none,
        end: all_right,
    },
    Work {
        name: "another source, route-only: assign",
        binding: Binding::Route,
        prepare: |set| put_with_former_source(set, Binding::Route),
        call: assign,
        operations: |set| vec![Group::each(&set.vips, &[Route(NLM_F_REPLACE)])],
        guarded: none,
        end: all_right,
    },
    Work {
        name: "route-only to address: assign",
        binding: Binding::Address,
        prepare: put_routes,
        call: assign,
        operations: |set| match set.is_v6() {
            false => vec![Group::each(&set.vips, &[AddAddress, DeleteKernels])],
            true => vec![
                Group::each(&set.vips, &[StagedRoute, AddAddress]),
                Group::late(&set.vips, &[DeleteKernels]),
                Group::each(&set.vips, &[Route(NLM_F_REPLACE)]),
            ],
        },
        guarded: none,
        end: all_right,
    },
    Work {
        name: "address to route-only: assign",
        binding: Binding::Route,
        prepare: put_right,
        call: assign,
        // With the last IPv4 address of the link all its IPv4 routes go.
        operations: |set| match set.is_v6() {
            false => vec![
                Group::each(&set.vips, &[DeleteAddress]),
                Group::each(&set.vips, &[Route(NLM_F_APPEND)]),
            ],
            true => {
                let newest_first: Vec<_> = set.vips.iter().rev().copied().collect();
                vec![Group::each(&newest_first, &[DeleteAddress])]
            }
        },
        guarded: none,
        end: all_right,
    },
    Work {
        name: "right: release of half",
        binding: Binding::Address,
        prepare: put_right,
        call: release_half,
        operations: |set| release(set.first_half()),
        guarded: none,
        end: half_gone,
    },
    Work {
        name: "right: release of all",
        binding: Binding::Address,
        prepare: put_right,
        call: release_all,
        operations: |set| release(&set.vips),
        guarded: none,
        end: all_gone,
    },
    Work {
        name: "right, route-only: release of half",
        binding: Binding::Route,
        prepare: put_routes,
        call: release_half,
        operations: |set| vec![Group::each(set.first_half(), &[DeleteRoute])],
        guarded: none,
        end: half_gone,
    },
    Work {
        name: "right, route-only: release of all",
        binding: Binding::Route,
        prepare: put_routes,
        call: release_all,
        operations: |set| vec![Group::each(&set.vips, &[DeleteRoute])],
        guarded: none,
        end: all_gone,
    },
    Work {
        name: "half by mark: release of the half",
        binding: Binding::Address,
        prepare: |set| {
            let mut marked = marked().open().unwrap();
            marked.assign(set.first_half()).unwrap();
            manager(Binding::Address).assign(set.second_half()).unwrap();
            grow_up(set);
        },
        // The manager of the run has no mark. The opening of the marked manager is a part of the time.
        call: |_, set| {
            let mut marked = marked().open().unwrap();
            let report = marked.release_all(&Claim::mark()).unwrap();
            assert_eq!(report.released, set.first_half().len());
            report
        },
        operations: |set| {
            let mut head_first = set.first_half().to_vec();
            if set.is_v6() {
                head_first.reverse();
            }
            vec![
                Group::each(set.first_half(), &[Take(MARKED)]),
                Group::each(&head_first, &[DeleteAddress]),
            ]
        },
        guarded: |set| {
            let newest_first: Vec<_> = set.first_half().iter().rev().copied().collect();
            vec![Group::each(&newest_first, &[DeleteAddress, Take(MARKED)])]
        },
        end: half_gone,
    },
];

/// A way to the end state.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Viproute,
    IpBatch,
    Messages,
    /// [`Work::guarded`]
    Guarded,
}

impl Way {
    const ALL: [Self; 4] = [Self::Viproute, Self::IpBatch, Self::Messages, Self::Guarded];

    fn is_of(self, work: &Work, set: &Set) -> bool {
        self != Self::Guarded || set.is_v6() && !(work.guarded)(set).is_empty()
    }

    fn groups(self, work: &Work, set: &Set) -> Vec<Group> {
        match self {
            Self::Viproute => Vec::new(),
            Self::IpBatch | Self::Messages => (work.operations)(set),
            Self::Guarded => (work.guarded)(set),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Viproute => "viproute",
            Self::IpBatch => "`ip -batch`",
            Self::Messages => "messages",
            Self::Guarded => "guarded messages",
        }
    }
}

/// What one run took, and the VIPs that it left wrong.
struct Run {
    total: Duration,
    /// Of the total, what this thread did not spend on a core.
    waited: Duration,
    /// To read the addresses and routes of the family on the link, before and after.
    readings: Duration,
    progress: Progress,
    wrong: usize,
    /// Messages that write.
    writes: usize,
}

/// Whether the second process reads during the run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Witness {
    Reads,
    Absent,
}

fn run(work: &Work, way: Way, set: &Set, witness: Witness) -> Run {
    (work.prepare)(set);
    let end = (work.end)(set);
    let before = read(set);
    let mut watcher =
        (witness == Witness::Reads).then(|| watch::Watcher::start(set.link, set.is_v6(), &end));
    let mut begin = || {
        if let Some(watcher) = &mut watcher {
            watcher.begin();
        }
    };
    let groups = way.groups(work, set);
    let mut writes = groups.iter().map(|group| group.all().count()).sum();
    let total = match way {
        Way::Viproute => {
            let mut manager = manager(work.binding);
            begin();
            timed(|| writes = usize::try_from((work.call)(&mut manager, set).writes).unwrap())
        }
        Way::IpBatch => {
            let lines = operations::lines(&groups);
            begin();
            common::batch::ip_batch(&lines)
        }
        Way::Messages | Way::Guarded => {
            let mut floor = Floor::new();
            let encoded: Vec<(bool, Messages)> = groups
                .iter()
                .map(|group| (group.is_late, group.encode(set.link)))
                .collect();
            begin();
            timed(|| {
                for (is_late, messages) in &encoded {
                    match is_late {
                        true => floor.delete_late(messages),
                        false => floor.send(messages),
                    }
                }
            })
        }
    };
    let progress = watcher.map(watch::Watcher::end).unwrap_or_default();
    let readings = before + read(set);
    let wrong = match &end {
        End::Right(range) => {
            common::wrong(&set.vips[range.clone()], work.binding == Binding::Address)
        }
        End::Gone(range) => {
            common::left(&set.vips).saturating_sub(2 * (set.vips.len() - range.len()))
        }
    };
    Run {
        total: total.wall,
        waited: total.wall.saturating_sub(total.cpu),
        readings,
        progress,
        wrong,
        writes,
    }
}

/// How long the kernel takes for the dumps by which a call finds what is wrong, and verifies its result.
fn read(set: &Set) -> Duration {
    let mut floor = Floor::new();
    let mut received = Vec::new();
    let dumps = floor::dumps(set.link);
    let of_family = if set.is_v6() {
        &dumps[2..]
    } else {
        &dumps[..2]
    };
    let main = |link| floor::dump_of_routes(TABLE_MAIN, link, floor::family(&set.vips[0]));
    let (of_link, of_all) = (main(Some(set.link)), main(None));
    let time = timed(|| {
        for dump in of_family {
            floor.read_into(dump, &mut received);
        }
        // A deletion of an IPv6 route may hit one of a nexthop object of any device (`ip6_route_del`,
        // net/ipv6/route.c), so all of table main is read where it has routes to VIPs.
        if floor.read(&of_link) > OTHERS_OF_LINK && set.is_v6() {
            floor.read_into(&of_all, &mut received);
        }
    });
    time.wall
}

const TABLE_MAIN: u8 = 254;
/// The link's own routes in table main, those of no VIP, are fewer bytes.
const OTHERS_OF_LINK: usize = 1024;
/// Works with a run that takes longer run once.
const SLOW: Duration = Duration::from_secs(1);
/// A run that waited so long waited for quiet.
const QUIET: std::ops::Range<Duration> = Duration::from_millis(450)..Duration::from_millis(600);
/// Messages that are none take less.
const NOTHING: Duration = Duration::from_micros(5);
/// What a row may take, against the messages.
const BOUND: f64 = 1.15;
/// What the system calls of one call take, at the most.
const CALLS: Duration = Duration::from_millis(1);

const BEHIND: &str = "
Rows that are not ahead of `ip -batch`, or above 1.15 of the messages, and the reason. The messages verify nothing.

A *reading* is the dumps of the link's addresses and of its routes in tables local and main (`inet_dump_ifaddr`,
`inet6_dump_addr`, `inet_dump_fib`, `inet6_dump_fib`), as the kernel answers them before and after the run. Where VIPs
have IPv6 routes in table main, it includes all routes of that table, because a deletion may hit a route of a nexthop
object of any device (`ip6_route_del`).

*Without the second process*: its dumps hold the lock of an IPv6 table (`fib6_dump_table`), for which each writer
waits. A row that had no other reason was measured again without it.

*Guarded messages* are safe where the messages are not. In IPv6 no deletion can name the kernel's own route alone:
`ip6_route_del` compares no source, and takes metric 0 for any. If another writer has just deleted that route, the
deletion hits the desired one. So viproute stages a route of another protocol first. In a release by mark, the route
has the mark, so the address goes before it: a process that is killed in between leaves no address without a mark. The
kernel searches all routes that are left for each address (`rt6_remove_prefsrc`), and more are left then than behind
the messages, which delete all routes first.

| work | number | VIPs | other routes | reason |
|------|-------:|------|-------------:|--------|
";

/// What is known if the second process does not read.
fn alone(runs: &[Vec<Run>; 4]) -> String {
    let [own, _, messages, _] = runs.each_ref().map(|runs| median(runs, |run| run.total));
    let why = match reason(runs) {
        None => "it is not behind".to_owned(),
        Some(Some(known)) => known,
        Some(None) => {
            let readings = median(&runs[0], |run| run.readings);
            let safe = match runs[3].is_empty() {
                true => messages,
                false => median(&runs[3], |run| run.total),
            };
            let rest = own.saturating_sub(safe + readings);
            format!(
                "two readings take {}, and the call's own work for {} messages {}",
                millis(readings),
                runs[0][0].writes,
                millis(rest)
            )
        }
    };
    format!(
        "without the second process {} against {}: {why}",
        millis(own),
        millis(messages)
    )
}

/// Why viproute is not ahead of `ip -batch`, or above [`BOUND`] of the messages, if that is known; `None` if it is
/// ahead of both.
fn reason(runs: &[Vec<Run>; 4]) -> Option<Option<String>> {
    let [own, batch, messages, guarded] = runs.each_ref().map(|runs| median(runs, |run| run.total));
    if own < batch && own <= messages.mul_f64(BOUND) {
        return None;
    }
    let readings = median(&runs[0], |run| run.readings);
    if own <= messages.mul_f64(BOUND) && own >= batch + readings {
        return Some(Some(format!(
            "noise: `ip -batch` and the messages send the same requests ({} and {})",
            millis(batch),
            millis(messages)
        )));
    }
    if runs[3].is_empty() {
        return Some(excess(runs, own, messages));
    }
    let guard = format!(
        "the messages are not safe, and guarded ones take {}",
        millis(guarded)
    );
    Some(match own <= guarded.mul_f64(BOUND) {
        true => Some(guard),
        false => excess(runs, own, guarded).map(|excess| format!("{guard}; {excess}")),
    })
}

/// Why viproute takes longer than these messages.
fn excess(runs: &[Vec<Run>; 4], own: Duration, messages: Duration) -> Option<String> {
    let readings = median(&runs[0], |run| run.readings);
    let waited = median(&runs[0], |run| run.waited);
    let times = |runs: &[Run]| runs.iter().map(|run| run.total).collect::<Vec<_>>();
    let fastest = times(&runs[0]).into_iter().min().unwrap_or_default();
    let slowest = times(&runs[2]).into_iter().max().unwrap_or_default();
    Some(if messages < NOTHING {
        format!(
            "nothing is to be sent; the call reads, and two readings take {}",
            millis(readings)
        )
    } else if own <= (messages + readings).mul_f64(BOUND) {
        format!(
            "the call reads before and after its writes, which takes {}",
            millis(readings)
        )
    } else if own <= messages + readings + CALLS {
        let rest = own.saturating_sub(messages + readings);
        format!(
            "two readings take {}, and system calls {}",
            millis(readings),
            millis(rest)
        )
    } else if own <= messages + readings * 3 / 2 + CALLS {
        format!(
            "the call reads before, between and after two rounds of writes, which takes {}",
            millis(readings * 3 / 2)
        )
    } else if QUIET.contains(&waited) {
        "the call added a local route to an old address, and waits half a second without a change: the address may have \
         returned with its link (`keep_addr_on_down`), and then its late route comes"
            .to_owned()
    } else if waited > own / 2 {
        format!(
            "the call waits {}: for late routes (`addrconf_dad_work`), for the RTNL, or for a core",
            millis(waited)
        )
    } else if fastest <= slowest.mul_f64(BOUND) {
        format!(
            "noise: runs overlap ({} and {})",
            millis(fastest),
            millis(slowest)
        )
    } else {
        return None;
    })
}

fn main() {
    let mut options = Options::parse();
    if let Some(role) = &options.watch {
        return watch::run(role);
    }
    if options.output.test {
        options.sizes = vec![30];
        options.others = vec![30];
        options.runs = 1;
    }
    viproute::sandbox::enter().expect("a private namespace");
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "work",
        "VIPs",
        "number",
        "other routes",
        "who",
        "total",
        "first",
        "half",
        "last",
        "ratio",
        "wrong",
    ]);
    for column in [2, 3, 5, 6, 7, 8, 9, 10] {
        let column = table.column_mut(column).unwrap();
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut behind = BEHIND.to_owned();
    let asked = options.work.clone().unwrap_or_default();
    let is_asked = |work: &&Work| work.name.contains(&asked);
    let of_family = |(_, family): &(_, (&str, _))| {
        options
            .family
            .as_deref()
            .is_none_or(|asked| asked == family.0)
    };
    let families = [&states::V4[..], &states::V6[..]].into_iter().zip(FAMILIES);
    for (states, family) in families.filter(of_family) {
        for work in WORKS
            .iter()
            .chain(&states::BOTH)
            .chain(states)
            .filter(is_asked)
        {
            for others in &options.others {
                compare(&options, &mut table, &mut behind, work, family, *others);
            }
        }
    }
    let text = format!("{table}\n{behind}");
    options.output.write(&text);
}

/// The messages that add so many routes through another link, and those that delete them.
fn other_routes(vips: Vips, number: u32) -> [Messages; 2] {
    const BEHIND: u32 = 1_000_000;
    let away = vips(number + BEHIND);
    let link = common::index_of("node0");
    let kinds: [fn(RouteMessage) -> RouteNetlinkMessage; 2] =
        [RouteNetlinkMessage::NewRoute, RouteNetlinkMessage::DelRoute];
    kinds.map(|kind| {
        let routes = away[BEHIND as usize..].iter();
        Messages::encode(routes.map(|to| match floor::other_route(link, to) {
            (RouteNetlinkMessage::NewRoute(route), flags) => (kind(route), flags),
            _ => unreachable!(),
        }))
    })
}

/// All sizes of one work, each way in turn.
fn compare(
    options: &Options,
    table: &mut Table,
    behind: &mut String,
    work: &Work,
    (family, vips): (&str, Vips),
    others: u32,
) {
    let node = Node::new();
    assert!(common::ip("addr add 192.0.2.11/32 dev node0"));
    assert!(common::ip("addr add 2001:db8::11/128 dev node0 nodad"));
    let mut floor = Floor::new();
    let [come, go] = other_routes(vips, others);
    floor.send(&come);
    for size in &options.sizes {
        let slowest = |runs: &[Vec<Run>; 4]| runs.iter().flatten().map(|run| run.total).max();
        let mut measure = |witness| {
            let mut runs: [Vec<Run>; 4] = Default::default();
            for round in 0..options.runs {
                if slowest(&runs) > Some(SLOW) {
                    break;
                }
                for place in 0..Way::ALL.len() {
                    // Nobody is always behind the same one.
                    let place = (place + round) % Way::ALL.len();
                    let way = Way::ALL[place];
                    // With each address of the last run's link, the kernel walks the other routes
                    // (`rt6_remove_prefsrc`, net/ipv6/route.c).
                    floor.send(&go);
                    let set = Set {
                        link: node.fresh_link(),
                        vips: vips(*size),
                    };
                    floor.send(&come);
                    if way.is_of(work, &set) {
                        runs[place].push(run(work, way, &set, witness));
                    }
                }
            }
            runs
        };
        let runs = measure(Witness::Reads);
        rows(
            options,
            table,
            work,
            [family, &size.to_string(), &others.to_string()],
            &runs,
        );
        let reason = reason(&runs).map(|reason| match reason {
            Some(known) => known,
            None => alone(&measure(Witness::Absent)),
        });
        if let Some(reason) = reason {
            let row = format!(
                "| {} | {size} | {family} | {others} | {reason} |",
                work.name
            );
            eprintln!("{row}");
            writeln!(behind, "{row}").unwrap();
        }
        if slowest(&runs) > Some(Duration::from_secs(options.patience)) {
            return;
        }
    }
}

/// A row for each way.
fn rows(
    options: &Options,
    table: &mut Table,
    work: &Work,
    [family, size, others]: [&str; 3],
    runs: &[Vec<Run>; 4],
) {
    let best = median(&runs[2], |run| run.total);
    let ways = Way::ALL.into_iter().zip(runs);
    for (way, runs) in ways.filter(|(_, runs)| !runs.is_empty()) {
        let total = median(runs, |run| run.total);
        let wrong = runs.iter().map(|run| run.wrong).max().unwrap_or_default();
        // `ip -batch` cannot wait for the kernel's late route.
        let must_be_right = options.output.test && way != Way::IpBatch;
        assert!(
            !must_be_right || wrong == 0,
            "{}, {family}, {}: {wrong} VIPs are wrong",
            work.name,
            way.name()
        );
        let row = [
            work.name.to_owned(),
            family.to_owned(),
            size.to_owned(),
            others.to_owned(),
            way.name().to_owned(),
            millis(total),
            millis(median(runs, |run| run.progress.first)),
            millis(median(runs, |run| run.progress.half)),
            millis(median(runs, |run| run.progress.last)),
            match best < NOTHING {
                true => String::new(),
                false => format!("{:.2}", total.as_secs_f64() / best.as_secs_f64()),
            },
            wrong.to_string(),
        ];
        eprintln!("{}", row.join(" | "));
        table.add_row(row);
    }
}

fn median(runs: &[Run], what: impl Fn(&Run) -> Duration) -> Duration {
    let mut times: Vec<Duration> = runs.iter().map(what).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
