//! viproute against the floor (`common/floor.rs`): `cargo bench -p compare --bench ratio`.
//!
//! Runs are interleaved and the medians compared, so that a busy machine is as unjust to one as to
//! the other. Works that make something new begin with a link that was just made, in a private
//! network namespace, and end with a look at the link by `ip`: how many VIPs came out wrong is in
//! the table. A second table says which targets are met: by the medians, by the fastest runs, and by
//! the CPU time of the calling thread, the kernel's work for it included, which suffers least from a
//! busy machine. None of them fails anything. Needs no privilege.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod contest;

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use common::floor::{self, Floor};
use common::time::{Time, timed};
use common::{Node, Vips, manager};
use contest::{Contestant, Figures, contestant, floor, race, ratio};
use viproute::{Binding, Claim, VipManager};

/// Compares viproute with the kernel's own cost.
#[derive(Parser)]
struct Options {
    /// Only the works whose name contains this
    work: Option<String>,
    /// Only the contestants whose name contains this
    #[arg(long)]
    who: Option<String>,
    /// VIPs, instead of each work's own sizes
    #[arg(long)]
    size: Option<u32>,
    /// Runs of each
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Routes of the node beside the VIPs, per family, where that is measured
    #[arg(long, default_value_t = 200_000)]
    others: u32,
    /// Leave out the look at the end state: for a profile
    #[arg(long)]
    unwitnessed: bool,
    /// Write the tables to this file, too
    #[arg(long)]
    out: Option<String>,
    /// Each work once and small, for its function only
    #[arg(long)]
    test: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

/// After how long no address is young any more.
const GROWN_UP: Duration = Duration::from_secs(3);

/// What a work shall reach: a contestant compared with another one, or with the cheapest floor.
struct Target {
    of: &'static str,
    to: Option<&'static str>,
    ratio: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

const fn at_most(ratio: f64) -> Target {
    Target {
        of: "viproute",
        to: None,
        ratio: Bound::AtMost(ratio),
    }
}

#[expect(clippy::too_many_lines, reason = "one measurement, step by step")]
fn main() {
    let mut options = Options::parse();
    if options.test {
        options.runs = 0;
        options.size = Some(50);
        options.others = 50;
    }
    viproute::sandbox::enter().expect("a private namespace");
    let mut bench = Bench {
        options,
        table: table(&[
            "work",
            "VIPs",
            "who",
            "median",
            "per VIP",
            "fastest",
            "slowest",
            "ratio",
            "(fastest)",
            "(CPU)",
            "wrong",
        ]),
        targets: table(&[
            "work",
            "VIPs",
            "compared with",
            "target",
            "ratio",
            "(fastest)",
            "(CPU)",
            "met",
        ]),
    };
    for column in [1, 3, 4, 5, 6, 7, 8, 9, 10] {
        let column = bench.table.column_mut(column).unwrap();
        column.set_cell_alignment(CellAlignment::Right);
    }
    let only = bench.options.size;
    let sizes = |own: &[u32]| only.map_or(own.to_vec(), |size| vec![size]);
    for (family, vips) in common::FAMILIES {
        for size in sizes(&[1_000, 10_000]) {
            bench.assign(family, size, vips);
        }
        for size in sizes(&[10_000, 100_000]) {
            bench.route_only(family, size, vips);
        }
        for size in sizes(&[10_000]) {
            bench.bindings(family, size, vips);
            bench.read(family, size, vips, bench.options.others);
            bench.read(family, size, vips, 0);
            bench.one_change(family, size, vips);
            bench.one_comes(family, size, vips);
            bench.one_goes(family, size, vips);
            bench.normalize(family, size, vips);
        }
        for size in sizes(&[5_000]) {
            bench.release(family, size, vips);
        }
    }
    let text = format!("{}\n\n{}\n", bench.targets, bench.table);
    println!("{text}");
    if let Some(out) = &bench.options.out {
        std::fs::write(out, text).unwrap();
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header);
    table
}

struct Bench {
    options: Options,
    table: Table,
    targets: Table,
}

/// Who looks at the end state.
#[derive(Clone, Copy)]
struct Witness {
    looks: bool,
}

impl Witness {
    fn wrong(self, set: &[IpAddr], with_address: bool) -> usize {
        if self.looks {
            common::wrong(set, with_address)
        } else {
            0
        }
    }

    fn left(self, set: &[IpAddr]) -> usize {
        if self.looks { common::left(set) } else { 0 }
    }
}

/// Assigns and expects all of it to be new.
fn assign(manager: &mut VipManager, set: &[IpAddr]) -> Time {
    timed(|| {
        let report = manager.assign(set).unwrap();
        assert_eq!(report.assigned, set.len());
    })
}

fn release(manager: &mut VipManager, set: &[IpAddr]) -> Time {
    timed(|| {
        let report = manager.release(set).unwrap();
        assert_eq!(report.released, set.len());
    })
}

impl Bench {
    fn witness(&self) -> Witness {
        Witness {
            looks: !self.options.unwitnessed,
        }
    }

    /// While the addresses of a call before are young, all of them are looked at twice.
    fn wait_until_grown_up(&self) {
        if !self.options.test {
            std::thread::sleep(GROWN_UP);
        }
    }

    fn is_asked(&self, work: &str) -> bool {
        work.contains(self.options.work.as_deref().unwrap_or_default())
    }

    /// Fresh VIPs, verified.
    fn assign(&mut self, family: &str, size: u32, vips: Vips) {
        let work = format!("assign {family}");
        if !self.is_asked(&work) {
            return;
        }
        let set = vips(size);
        let witness = self.witness();
        let node = Node::new();
        let mut subject = manager(Binding::Address);
        let (mut first, mut second) = (Floor::new(), Floor::new());
        let mut contestants = vec![contestant("viproute", |_| {
            let time = assign(&mut subject, &set);
            (time, witness.wrong(&set, true))
        })];
        if set[0].is_ipv4() {
            contestants.push(contestant("floor: append, delete", |link| {
                let messages = floor::assign_v4_append(link, &set);
                let time = timed(|| first.send(&messages));
                (time, witness.wrong(&set, true))
            }));
            contestants.push(contestant("floor: replace", |link| {
                let messages = floor::assign_v4_replace(link, &set);
                let time = timed(|| second.send(&messages));
                (time, witness.wrong(&set, true))
            }));
        } else {
            contestants.push(contestant("floor: addresses first", |link| {
                let messages = floor::AssignV6::encode(link, &set);
                let time = timed(|| messages.addresses_first(&mut first));
                (time, witness.wrong(&set, true))
            }));
            contestants.push(contestant("floor: send by send", |link| {
                let messages = floor::AssignV6::encode(link, &set);
                let time = timed(|| messages.send_by_send(&mut second));
                (time, witness.wrong(&set, true))
            }));
        }
        // The same operations. To replace is one message less, and takes the first route in the
        // place, whosever it is.
        let to = set[0].is_ipv4().then_some("floor: append, delete");
        let target = Target {
            to,
            ..at_most(1.10)
        };
        self.compare(Some(&node), &work, size, contestants, &[target]);
    }

    /// Fresh VIPs without addresses, verified.
    fn route_only(&mut self, family: &str, size: u32, vips: Vips) {
        let work = format!("assign route-only {family}");
        if !self.is_asked(&work) {
            return;
        }
        let set = vips(size);
        let witness = self.witness();
        let node = Node::new();
        let mut subject = manager(Binding::Route);
        let (mut first, mut second) = (Floor::new(), Floor::new());
        let contestants = vec![
            contestant("viproute", |_| {
                let time = assign(&mut subject, &set);
                (time, witness.wrong(&set, false))
            }),
            contestant("floor", |link| {
                let messages = floor::assign_route_only(link, &set);
                let time = timed(|| first.send(&messages));
                (time, witness.wrong(&set, false))
            }),
            // The least that it takes to see them afterwards.
            contestant("the same, and a dump of them", |link| {
                let messages = floor::assign_route_only(link, &set);
                let dump = floor::dump_of_local_routes(link, floor::family(&set[0]));
                let mut read = 0;
                let time = timed(|| {
                    second.send(&messages);
                    read = second.read(&dump);
                });
                assert!(read > set.len() * 32);
                (time, witness.wrong(&set, false))
            }),
        ];
        self.compare(Some(&node), &work, size, contestants, &[at_most(1.15)]);
    }

    /// The same VIPs with addresses and without.
    fn bindings(&mut self, family: &str, size: u32, vips: Vips) {
        let work = format!("address against route-only {family}");
        if !self.is_asked(&work) {
            return;
        }
        let set = vips(size);
        let witness = self.witness();
        let node = Node::new();
        let mut by_address = manager(Binding::Address);
        let mut by_route = manager(Binding::Route);
        let contestants = vec![
            contestant("viproute, by address", |_| {
                let time = assign(&mut by_address, &set);
                (time, witness.wrong(&set, true))
            }),
            contestant("viproute, route-only", |_| {
                let time = assign(&mut by_route, &set);
                (time, witness.wrong(&set, false))
            }),
        ];
        let target = Target {
            of: "viproute, by address",
            to: Some("viproute, route-only"),
            ratio: Bound::AtLeast(50.0),
        };
        // IPv4 is shown beside it; nothing was asked of it.
        let targets = if set[0].is_ipv6() { &[target][..] } else { &[] };
        self.compare(Some(&node), &work, size, contestants, targets);
    }

    /// Reads VIPs that are right, on a node with so many other routes.
    #[expect(clippy::too_many_lines, reason = "one measurement, step by step")]
    fn read(&mut self, family: &str, size: u32, vips: Vips, others: u32) {
        let work = match others {
            0 => format!("look, no other routes, {family}"),
            _ => format!("look {family}"),
        };
        if !self.is_asked(&work) {
            return;
        }
        let set = vips(size);
        let node = Node::new();
        let link = node.fresh_link();
        let mut auditor = manager(Binding::Address);
        auditor.assign(&set).unwrap();
        let mut floor = Floor::new();
        // Away from the VIPs.
        let others = vips(others + 1_000_000);
        let node_link = common::index_of("node0");
        let others = others[1_000_000..].iter();
        floor.send(&floor::Messages::encode(
            others.map(|to| floor::other_route(node_link, to)),
        ));
        let requests = floor::dumps(link);
        let mut reconciler = manager(Binding::Address);
        let mut assigner = manager(Binding::Address);
        let claim = Claim::link();
        self.wait_until_grown_up();
        let contestants = vec![
            contestant("viproute: audit", |_| {
                let mut audit = None;
                let time = timed(|| audit = Some(auditor.audit().unwrap()));
                let audit = audit.unwrap();
                let clean = audit.vips.len() - audit.drifted().count();
                (time, set.len() - clean)
            }),
            contestant("viproute: reconcile", |_| {
                let time = timed(|| {
                    let report = reconciler.reconcile(&claim, &set).unwrap();
                    assert_eq!((report.unchanged, report.writes), (set.len(), 0));
                });
                (time, 0)
            }),
            contestant("viproute: assign", |_| {
                let time = timed(|| {
                    let report = assigner.assign(&set).unwrap();
                    assert_eq!((report.unchanged, report.writes), (set.len(), 0));
                });
                (time, 0)
            }),
            contestant("floor: the same dumps", |_| {
                let mut read = 0;
                let time = timed(|| {
                    for request in &requests {
                        read += floor.read(request);
                    }
                });
                assert!(read > set.len() * 64);
                (time, 0)
            }),
        ];
        let targets = [
            Target {
                of: "viproute: audit",
                ..at_most(1.30)
            },
            Target {
                of: "viproute: reconcile",
                to: Some("viproute: audit"),
                ..at_most(1.05)
            },
        ];
        self.compare(None, &work, size, contestants, &targets);
    }

    /// A set that is right, and one more VIP.
    fn one_change(&mut self, family: &str, size: u32, vips: Vips) {
        let work = format!("reconcile one change {family}");
        if !self.is_asked(&work) {
            return;
        }
        let all = vips(size + 1);
        let (set, new) = (&all[..all.len() - 1], &all[all.len() - 1..]);
        let node = Node::new();
        let link = node.fresh_link();
        let restorer = RefCell::new(manager(Binding::Address));
        restorer.borrow_mut().assign(set).unwrap();
        let mut reconciler = manager(Binding::Address);
        let mut auditor = manager(Binding::Address);
        let mut floor = Floor::new();
        let claim = Claim::link();
        let witness = self.witness();
        self.wait_until_grown_up();
        let contestants = vec![
            contestant("viproute", |_| {
                let time = timed(|| {
                    let report = reconciler.reconcile(&claim, &all).unwrap();
                    assert_eq!((report.unchanged, report.assigned), (set.len(), 1));
                });
                let wrong = witness.wrong(&all, true);
                release(&mut restorer.borrow_mut(), new);
                (time, wrong)
            }),
            contestant("floor: audit and one VIP", |_| {
                let one = One::encode(link, new);
                let time = timed(|| {
                    auditor.audit().unwrap();
                    one.send(&mut floor);
                });
                let wrong = witness.wrong(&all, true);
                release(&mut restorer.borrow_mut(), new);
                (time, wrong)
            }),
        ];
        self.compare(None, &work, size, contestants, &[at_most(1.10)]);
    }

    /// One VIP comes to a link that holds many: asked for, or put back after another writer took it.
    fn one_comes(&mut self, family: &str, size: u32, vips: Vips) {
        let work = format!("one VIP new {family}");
        if !self.is_asked(&work) {
            return;
        }
        let set = vips(size);
        let one = &set[set.len() / 2..][..1];
        let node = Node::new();
        let link = node.fresh_link();
        let mut keeper = manager(Binding::Address)
            .into_keeper(Claim::link())
            .unwrap();
        keeper.set_desired(&set);
        keeper.dispatch(usize::MAX).unwrap();
        let restorer = RefCell::new(manager(Binding::Address));
        let mut assigner = manager(Binding::Address);
        let (mut first, mut second) = (Floor::new(), Floor::new());
        let witness = self.witness();
        let mut taken = 0..set.len();
        let contestants = vec![
            contestant("viproute: assign", |_| {
                release(&mut restorer.borrow_mut(), one);
                (assign(&mut assigner, one), witness.wrong(one, true))
            }),
            contestant("viproute: keeper", |_| {
                // The work of the other contestants does not count here.
                while keeper.dispatch(usize::MAX).unwrap().more {}
                // Another one each time: over the same one it would be fought with, and pause.
                let one = &set[taken.next().unwrap()..][..1];
                first.send(&floor::release(link, one));
                let before = keeper.counters();
                let time = timed(|| {
                    keeper.dispatch(usize::MAX).unwrap();
                });
                let done = keeper.counters();
                assert_eq!(done.repairs, before.repairs + 1);
                assert_eq!(done.resyncs, before.resyncs);
                (time, witness.wrong(one, true))
            }),
            contestant("floor", |_| {
                release(&mut restorer.borrow_mut(), one);
                let messages = One::encode(link, one);
                let time = timed(|| messages.send(&mut second));
                (time, witness.wrong(one, true))
            }),
        ];
        let targets =
            ["viproute: assign", "viproute: keeper"].map(|of| Target { of, ..at_most(2.0) });
        self.compare(None, &work, size, contestants, &targets);
    }

    /// One VIP leaves a link that holds many.
    fn one_goes(&mut self, family: &str, size: u32, vips: Vips) {
        let work = format!("one VIP gone {family}");
        if !self.is_asked(&work) {
            return;
        }
        let set = vips(size);
        let one = &set[set.len() / 2..][..1];
        let node = Node::new();
        let link = node.fresh_link();
        let restorer = RefCell::new(manager(Binding::Address));
        restorer.borrow_mut().assign(&set).unwrap();
        let mut releaser = manager(Binding::Address);
        let mut floor = Floor::new();
        let mut keeper = manager(Binding::Address)
            .into_keeper(Claim::link())
            .unwrap();
        keeper.set_desired(&set);
        keeper.dispatch(usize::MAX).unwrap();
        let restore = |time| {
            assign(&mut restorer.borrow_mut(), one);
            (time, 0)
        };
        let contestants = vec![
            contestant("viproute: release", |_| {
                restore(release(&mut releaser, one))
            }),
            contestant("viproute: keeper", |_| {
                // The work of the other contestants does not count here.
                keeper.add_desired(one);
                while keeper.dispatch(usize::MAX).unwrap().more {}
                let before = keeper.counters();
                let time = timed(|| {
                    keeper.remove_desired(one);
                    keeper.dispatch(usize::MAX).unwrap();
                });
                assert_eq!(keeper.counters().repairs, before.repairs + 1);
                assert_eq!(keeper.counters().resyncs, before.resyncs);
                restore(time)
            }),
            contestant("floor", |_| {
                let messages = floor::release(link, one);
                restore(timed(|| floor.send(&messages)))
            }),
        ];
        let targets =
            ["viproute: release", "viproute: keeper"].map(|of| Target { of, ..at_most(2.0) });
        self.compare(None, &work, size, contestants, &targets);
    }

    /// VIPs as kube-router before 2.6 leaves them. Its IPv4 VIPs are right.
    fn normalize(&mut self, family: &str, size: u32, vips: Vips) {
        let work = format!("normalize {family}");
        if !self.is_asked(&work) {
            return;
        }
        let set = vips(size);
        let v6 = set[0].is_ipv6();
        let witness = self.witness();
        let node = Node::new();
        let breaker = RefCell::new(Floor::new());
        let prepare = |link| {
            let messages = floor::as_kube_router_leaves(link, &set);
            breaker.borrow_mut().send(&messages);
            if v6 {
                // The last of the kernel's routes is late.
                while common::late(&set) {}
            }
        };
        let mut subject = manager(Binding::Address);
        let (mut first, mut second) = (manager(Binding::Address), manager(Binding::Address));
        let (mut fewest, mut safe) = (Floor::new(), Floor::new());
        let mut contestants = vec![contestant("viproute", |link| {
            prepare(link);
            let time = timed(|| {
                let report = subject.normalize().unwrap();
                let counted = (report.repaired, report.unchanged);
                let (all, none) = (set.len(), 0);
                assert_eq!(counted, if v6 { (all, none) } else { (none, all) });
            });
            (time, witness.wrong(&set, true))
        })];
        if v6 {
            contestants.push(contestant("fewest writes, and audit", |link| {
                prepare(link);
                let messages = floor::heal_v6(link, &set);
                let time = timed(|| {
                    fewest.send(&messages);
                    first.audit().unwrap();
                });
                (time, witness.wrong(&set, true))
            }));
        }
        let floor = match v6 {
            true => "floor: by routes alone, and audit",
            false => "floor: audit",
        };
        contestants.push(contestant(floor, |link| {
            prepare(link);
            let messages = v6.then(|| floor::heal_v6_safely(link, &set));
            let time = timed(|| {
                if let Some(messages) = &messages {
                    safe.send(messages);
                }
                second.audit().unwrap();
            });
            (time, witness.wrong(&set, true))
        }));
        let limit = if v6 { 1.3 } else { 1.15 };
        self.compare(Some(&node), &work, size, contestants, &[at_most(limit)]);
    }

    /// Everything away again, verified.
    fn release(&mut self, family: &str, size: u32, vips: Vips) {
        let work = format!("release {family}");
        if !self.is_asked(&work) {
            return;
        }
        let set = vips(size);
        let witness = self.witness();
        let node = Node::new();
        let mut subject = manager(Binding::Address);
        let assigner = RefCell::new(manager(Binding::Address));
        let prepare = || {
            assign(&mut assigner.borrow_mut(), &set);
        };
        let (mut first, mut second) = (Floor::new(), Floor::new());
        let contestants = vec![
            contestant("viproute", |_| {
                prepare();
                let time = release(&mut subject, &set);
                (time, witness.left(&set))
            }),
            contestant("floor: head first", |link| {
                prepare();
                let messages = floor::release(link, &set);
                let time = timed(|| first.send(&messages));
                (time, witness.left(&set))
            }),
            contestant("floor: tail first", |link| {
                prepare();
                let messages = floor::release_tail_first(link, &set);
                let time = timed(|| second.send(&messages));
                (time, witness.left(&set))
            }),
        ];
        self.compare(Some(&node), &work, size, contestants, &[at_most(1.10)]);
    }

    /// Runs the contestants and tells what came of it.
    #[expect(clippy::too_many_lines, reason = "one measurement, step by step")]
    fn compare(
        &mut self,
        node: Option<&Node>,
        work: &str,
        size: u32,
        mut contestants: Vec<Contestant<'_>>,
        targets: &[Target],
    ) {
        if let Some(who) = &self.options.who {
            contestants.retain(|one| one.name.contains(who.as_str()));
        }
        let figures = race(node, self.options.runs, contestants);
        let floor = floor(&figures);
        let ratios = |of: &Figures, to: &Figures| {
            [
                ratio(of.median(), to.median()),
                ratio(of.fastest(), to.fastest()),
                ratio(of.cpu(), to.cpu()),
            ]
        };
        for one in &figures {
            let millis = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
            let per_vip = one.median().as_secs_f64() * 1e6 / f64::from(size);
            let [median, fastest, cpu] = floor.map_or(Default::default(), |floor| {
                ratios(one, floor).map(|ratio| format!("{ratio:.2}"))
            });
            let row = [
                work.to_owned(),
                size.to_string(),
                one.name.to_owned(),
                millis(one.median()),
                format!("{per_vip:.2} µs"),
                millis(one.fastest()),
                millis(one.slowest()),
                median,
                fastest,
                cpu,
                one.wrong.to_string(),
            ];
            eprintln!("{}", row.join(" | "));
            self.table.add_row(row);
        }
        for target in targets {
            let named = |name: &str| figures.iter().find(|one| one.name == name);
            let to = target.to.map_or(floor, named);
            let (Some(of), Some(to)) = (named(target.of), to) else {
                continue;
            };
            let ratios = ratios(of, to);
            let (bound, met) = match target.ratio {
                Bound::AtMost(most) => (format!("≤ {most:.2}"), ratios.map(|got| got <= most)),
                Bound::AtLeast(least) => (format!("≥ {least:.0}"), ratios.map(|got| got >= least)),
            };
            let by = ["the median", "the fastest", "CPU"];
            let by: Vec<_> = by.into_iter().zip(met).filter(|(_, met)| *met).collect();
            let met = match by.len() {
                0 => "no".to_owned(),
                3 => "yes".to_owned(),
                _ => format!(
                    "by {}",
                    by.iter().map(|(by, _)| *by).collect::<Vec<_>>().join(", ")
                ),
            };
            let mut work = work.to_owned();
            if let Some((_, what)) = of.name.split_once(": ") {
                write!(work, ", {what}").unwrap();
            }
            let row = [
                work,
                size.to_string(),
                to.name.to_owned(),
                bound,
                format!("{:.2}", ratios[0]),
                format!("{:.2}", ratios[1]),
                format!("{:.2}", ratios[2]),
                met,
            ];
            eprintln!("    {}", row.join(" | "));
            self.targets.add_row(row);
        }
    }
}

/// The floor of one fresh VIP.
enum One {
    V4(floor::Messages),
    V6(floor::AssignV6),
}

impl One {
    fn encode(link: u32, vip: &[IpAddr]) -> Self {
        if vip[0].is_ipv4() {
            Self::V4(floor::assign_v4_replace(link, vip))
        } else {
            Self::V6(floor::AssignV6::encode(link, vip))
        }
    }

    fn send(&self, floor: &mut Floor) {
        match self {
            Self::V4(messages) => floor.send(messages),
            Self::V6(messages) => messages.addresses_first(floor),
        }
    }
}
