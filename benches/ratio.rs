//! Ours against the floor (`common/floor.rs`) and against `ip -batch`, side by side:
//! `cargo bench --bench ratio`.
//!
//! Runs are interleaved and the medians compared, so that a busy machine is as unjust to one as to
//! the other. Every run begins with a link that was just made, in a private network namespace, and
//! ends with a look at the link by `ip`: how many VIPs came out wrong is in the table. Needs no
//! privilege.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use common::floor::{self, Floor};
use common::{LINK, NODE_V4, NODE_V6, Node, source};
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
    runs: u32,
    /// Routes of the node beside the VIPs, per family, where that is measured
    #[arg(long, default_value_t = 200_000)]
    others: u32,
    /// Leave out the look at the end state: for a profile
    #[arg(long)]
    unwitnessed: bool,
    /// Each work once and small, for its function only
    #[arg(long)]
    test: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

/// One run: what it took, and how many VIPs came out wrong.
type Run = (Duration, usize);

/// Someone who does the work: on a fresh link of this index.
struct Contestant<'a> {
    name: &'static str,
    run: Box<dyn FnMut(u32) -> Run + 'a>,
    /// One of the floor's ways: the cheapest of them is what the others are compared with.
    is_floor: bool,
}

fn contestant<'a>(name: &'static str, run: impl FnMut(u32) -> Run + 'a) -> Contestant<'a> {
    Contestant {
        name,
        run: Box::new(run),
        is_floor: name.starts_with("floor"),
    }
}

fn main() {
    let mut options = Options::parse();
    if options.test {
        options.runs = 1;
        options.size = Some(50);
        options.others = 50;
    }
    viproute::sandbox::enter().expect("a private namespace");
    let mut bench = Bench {
        options,
        table: Table::new(),
    };
    bench.table.load_style(presets::ASCII_MARKDOWN);
    bench.table.set_header([
        "work",
        "VIPs",
        "who",
        "median",
        "per VIP",
        "fastest",
        "slowest",
        "ratio",
        "(fastest)",
        "wrong",
    ]);
    for column in [1, 3, 4, 5, 6, 7, 8, 9] {
        let column = bench.table.column_mut(column).unwrap();
        column.set_cell_alignment(CellAlignment::Right);
    }
    let sizes: &[u32] = match bench.options.size {
        Some(_) => &[0],
        None => &[1_000, 10_000],
    };
    for &size in sizes {
        bench.assign("IPv4", size, common::v4);
        bench.assign("IPv6", size, common::v6);
    }
    bench.route_only("IPv4", 10_000, common::v4);
    bench.route_only("IPv6", 10_000, common::v6);
    bench.look("IPv4", 10_000, common::v4);
    bench.look("IPv6", 10_000, common::v6);
    bench.release("IPv4", 5_000, common::v4);
    bench.release("IPv6", 5_000, common::v6);
    println!("{}", bench.table);
}

struct Bench {
    options: Options,
    table: Table,
}

fn manager(binding: Binding) -> VipManager {
    VipManager::builder(LINK)
        .source(NODE_V4)
        .source(NODE_V6)
        .binding(binding)
        .open()
        .unwrap()
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
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

impl Bench {
    fn witness(&self) -> Witness {
        Witness {
            looks: !self.options.unwitnessed,
        }
    }

    /// The VIPs of a work, if it was asked for.
    fn set(&self, work: &str, size: u32, vips: fn(u32) -> Vec<IpAddr>) -> Option<Vec<IpAddr>> {
        let asked = self.options.work.as_deref().unwrap_or_default();
        work.contains(asked)
            .then(|| vips(self.options.size.unwrap_or(size)))
    }

    /// Fresh VIPs, verified.
    fn assign(&mut self, family: &str, size: u32, vips: fn(u32) -> Vec<IpAddr>) {
        let work = format!("assign {family}");
        let Some(set) = self.set(&work, size, vips) else {
            return;
        };
        let witness = self.witness();
        let node = Node::new();
        let mut ours = manager(Binding::Address);
        let mut floors = (Floor::new(), Floor::new());
        let mut contestants = vec![
            contestant("viproute", |_| {
                let time = timed(|| {
                    let report = ours.assign(&set).unwrap();
                    assert_eq!(report.assigned, set.len());
                });
                (time, witness.wrong(&set, true))
            }),
            contestant("ip -batch", |_| {
                let time = ip_batch(&assign_by_ip(&set));
                (time, witness.wrong(&set, true))
            }),
        ];
        let (first, second) = (&mut floors.0, &mut floors.1);
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
                let time = timed(|| messages.addresses_first(first));
                (time, witness.wrong(&set, true))
            }));
            contestants.push(contestant("floor: send by send", |link| {
                let messages = floor::AssignV6::encode(link, &set);
                let time = timed(|| messages.send_by_send(second));
                (time, witness.wrong(&set, true))
            }));
        }
        self.compare(&node, &work, set.len(), contestants);
    }

    /// Fresh VIPs without addresses, verified.
    fn route_only(&mut self, family: &str, size: u32, vips: fn(u32) -> Vec<IpAddr>) {
        let work = format!("assign route-only {family}");
        let Some(set) = self.set(&work, size, vips) else {
            return;
        };
        let witness = self.witness();
        let node = Node::new();
        let mut ours = manager(Binding::Route);
        let mut floor = Floor::new();
        let contestants = vec![
            contestant("viproute", |_| {
                let time = timed(|| {
                    let report = ours.assign(&set).unwrap();
                    assert_eq!(report.assigned, set.len());
                });
                (time, witness.wrong(&set, false))
            }),
            contestant("floor", |link| {
                let messages = floor::assign_route_only(link, &set);
                let time = timed(|| floor.send(&messages));
                (time, witness.wrong(&set, false))
            }),
        ];
        self.compare(&node, &work, set.len(), contestants);
    }

    /// A look at VIPs that are as wanted, on a node with many other routes.
    fn look(&mut self, family: &str, size: u32, vips: fn(u32) -> Vec<IpAddr>) {
        let work = format!("look {family}");
        let Some(set) = self.set(&work, size, vips) else {
            return;
        };
        let node = Node::new();
        let mut ours = manager(Binding::Address);
        let link = node.fresh_link();
        ours.assign(&set).unwrap();
        let mut floor = Floor::new();
        let others = vips(self.options.others + 1_000_000);
        let others = &others[1_000_000..];
        let node_link = common::index_of("node0");
        let routes = others.iter().map(|to| floor::other_route(node_link, to));
        floor.send(&floor::Messages::encode(routes));
        let requests = floor::dumps(link);
        let mut reconciler = manager(Binding::Address);
        let mut assigner = manager(Binding::Address);
        let claim = Claim::link();
        let contestants = vec![
            contestant("viproute: audit", |_| {
                let mut audit = None;
                let time = timed(|| audit = Some(ours.audit().unwrap()));
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
        self.compare_on(None, &work, set.len(), contestants);
    }

    /// Everything away again, verified.
    fn release(&mut self, family: &str, size: u32, vips: fn(u32) -> Vec<IpAddr>) {
        let work = format!("release {family}");
        let Some(set) = self.set(&work, size, vips) else {
            return;
        };
        let witness = self.witness();
        let node = Node::new();
        let mut ours = manager(Binding::Address);
        let mut assigner = manager(Binding::Address);
        let assigner = std::cell::RefCell::new(&mut assigner);
        let prepare = || {
            assigner.borrow_mut().assign(&set).unwrap();
        };
        let mut floors = (Floor::new(), Floor::new());
        let contestants = vec![
            contestant("viproute", |_| {
                prepare();
                let time = timed(|| {
                    let report = ours.release(&set).unwrap();
                    assert_eq!(report.released, set.len());
                });
                (time, witness.left(&set))
            }),
            contestant("floor: head first", |link| {
                prepare();
                let messages = floor::release(link, &set);
                let time = timed(|| floors.0.send(&messages));
                (time, witness.left(&set))
            }),
            contestant("floor: tail first", |link| {
                prepare();
                let messages = floor::release_tail_first(link, &set);
                let time = timed(|| floors.1.send(&messages));
                (time, witness.left(&set))
            }),
        ];
        self.compare(&node, &work, set.len(), contestants);
    }

    fn compare(&mut self, node: &Node, work: &str, size: usize, contestants: Vec<Contestant<'_>>) {
        self.compare_on(Some(node), work, size, contestants);
    }

    /// Runs the contestants in turn, each on a fresh link where there is a `node` to make it on.
    fn compare_on(
        &mut self,
        node: Option<&Node>,
        work: &str,
        size: usize,
        mut contestants: Vec<Contestant<'_>>,
    ) {
        if let Some(who) = &self.options.who {
            contestants.retain(|one| one.name.contains(who.as_str()));
        }
        let count = contestants.len();
        let mut times = vec![Vec::new(); count];
        let mut worst = vec![0; count];
        // The first round only warms.
        let rounds = if self.options.test {
            0..1
        } else {
            0..self.options.runs as usize + 1
        };
        for round in rounds {
            for place in 0..count {
                // Nobody is always behind the same one.
                let place = if round % 2 == 0 {
                    place
                } else {
                    count - 1 - place
                };
                let link = node.map_or(0, Node::fresh_link);
                let (time, wrong) = (contestants[place].run)(link);
                worst[place] = worst[place].max(wrong);
                if round > 0 || self.options.test {
                    times[place].push(time);
                }
            }
        }
        for times in &mut times {
            times.sort_unstable();
        }
        let median = |place: usize| times[place][times[place].len() / 2];
        let floor = (0..count)
            .filter(|place| contestants[*place].is_floor)
            .min_by_key(|place| median(*place));
        let ratio = |of: Duration, to: Option<Duration>| {
            to.map_or(String::new(), |to| {
                format!("{:.2}", of.as_secs_f64() / to.as_secs_f64())
            })
        };
        for (place, one) in contestants.iter().enumerate() {
            let all = &times[place];
            let millis = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
            let per_vip = median(place).as_secs_f64() * 1e6 / size as f64;
            let row = [
                work.to_owned(),
                size.to_string(),
                one.name.to_owned(),
                millis(median(place)),
                format!("{per_vip:.2} µs"),
                millis(all[0]),
                millis(all[all.len() - 1]),
                ratio(median(place), floor.map(median)),
                ratio(all[0], floor.map(|floor| times[floor][0])),
                worst[place].to_string(),
            ];
            eprintln!("{}", row.join(" | "));
            self.table.add_row(row);
        }
    }
}

/// What `ip -batch` needs to be told: the addresses; then the kernel's IPv6 routes away, and ours.
fn assign_by_ip(vips: &[IpAddr]) -> String {
    let mut lines = String::new();
    let (v4, v6): (Vec<_>, Vec<_>) = vips.iter().partition(|vip| vip.is_ipv4());
    for vip in v4 {
        let source = source(vip);
        writeln!(
            lines,
            "addr add {vip}/32 dev {LINK} scope link\nroute replace local {vip} dev {LINK} table \
             local proto kernel scope host src {source}"
        )
        .unwrap();
    }
    for vip in &v6 {
        writeln!(lines, "addr add {vip}/128 dev {LINK} nodad noprefixroute").unwrap();
    }
    for vip in &v6 {
        let source = source(vip);
        writeln!(
            lines,
            "route del local {vip} dev {LINK} table local proto kernel\nroute add local {vip} dev \
             {LINK} table local proto kernel metric 1024 src {source}"
        )
        .unwrap();
    }
    lines
}

/// Runs the lines by one process. Refusals are left for the end state to tell.
fn ip_batch(lines: &str) -> Duration {
    let mut file = tempfile();
    file.1.write_all(lines.as_bytes()).unwrap();
    let time = timed(|| {
        Command::new("ip")
            .args(["-force", "-batch", &file.0])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
    });
    std::fs::remove_file(&file.0).unwrap();
    time
}

fn tempfile() -> (String, std::fs::File) {
    let path = std::env::temp_dir().join(format!("viproute-ratio-{}", std::process::id()));
    let file = std::fs::File::create(&path).unwrap();
    (path.to_str().unwrap().to_owned(), file)
}
