//! viproute beside what a user would take instead, and beside the floor: `cargo bench -p compare --bench peers`.
//!
//! Who: viproute; the floor (`common/floor.rs`); the crate `rtnetlink` with 64 VIPs in flight;
//! `ip -batch`; and kube-router's method (`common/peers.rs`). The runs are interleaved, each on a
//! link that was just made, in a private network namespace. After each run `ip` says how many VIPs
//! are not in their single-route state. Needs no privilege.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod contest;
mod others;
mod output;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use common::floor::{self, Floor};
use common::time::{Time, timed};
use common::{Node, Vips, manager};
use contest::{Contestant, Figures, contestant, floor, race, ratio};
use others::Rtnetlink;
use output::Output;
use viproute::{Binding, VipManager};

/// Compares viproute with what a user would take instead.
#[derive(Parser)]
struct Options {
    /// Numbers of VIPs
    #[arg(long, value_delimiter = ',', default_values_t = [100, 300, 1_000, 3_000, 10_000])]
    sizes: Vec<u32>,
    /// Numbers of VIPs without addresses
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 10_000, 100_000])]
    route_only: Vec<u32>,
    /// Runs of each
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Who would take longer than so many seconds for one run is left out
    #[arg(long, default_value_t = 10)]
    patience: u32,
    #[command(flatten)]
    output: Output,
    /// Write the medians to this file, for the plots
    #[arg(long)]
    data: Option<String>,
}

struct Bench {
    options: Options,
    table: Table,
    data: String,
    notes: Vec<String>,
}

fn main() {
    let mut options = Options::parse();
    if options.output.test {
        options.sizes = vec![30];
        options.route_only = vec![30];
        options.runs = 0;
    }
    viproute::sandbox::enter().expect("a private namespace");
    let mut bench = Bench {
        options,
        table: Table::new(),
        data: String::new(),
        notes: Vec::new(),
    };
    bench.table.load_style(presets::ASCII_MARKDOWN);
    bench.table.set_header([
        "VIPs",
        "number",
        "who",
        "median",
        "per VIP",
        "ratio to the floor",
        "(fastest)",
        "ours is faster",
        "wrong",
    ]);
    for column in [1, 3, 4, 5, 6, 7, 8] {
        let column = bench.table.column_mut(column).unwrap();
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (family, vips) in common::FAMILIES {
        bench.by_address(family, vips);
    }
    for (family, vips) in common::FAMILIES {
        bench.route_only(family, vips);
    }
    let mut text = format!("{}\n", bench.table);
    for note in &bench.notes {
        writeln!(text, "\n{note}").unwrap();
    }
    bench.options.output.write(&text);
    if let Some(data) = &bench.options.data {
        std::fs::write(data, &bench.data).unwrap();
    }
}

/// How many came out wrong, once the kernel has done what it does late.
fn wrong(set: &[IpAddr], with_address: bool) -> usize {
    std::thread::sleep(Duration::from_millis(50));
    common::wrong(set, with_address)
}

fn library<'a>(manager: &'a mut VipManager, set: &'a [IpAddr], binding: Binding) -> Contestant<'a> {
    contestant("viproute", move |_| {
        let time = timed(|| {
            let report = manager.assign(set).unwrap();
            assert_eq!(report.assigned, set.len());
        });
        (time, wrong(set, binding == Binding::Address))
    })
}

impl Bench {
    fn by_address(&mut self, family: &str, vips: Vips) {
        let mut slow: Option<(u32, Duration)> = None;
        for n in self.options.sizes.clone() {
            let node = Node::new();
            let set = vips(n);
            let mut manager = manager(Binding::Address);
            let (mut first, mut second, mut third) = (Floor::new(), Floor::new(), Floor::new());
            let rtnetlink = Rtnetlink::new();
            let mut contestants = vec![
                library(&mut manager, &set, Binding::Address),
                contestant("rtnetlink, 64 in flight", |link| {
                    let time = rtnetlink.assign(link, &set);
                    (time, wrong(&set, true))
                }),
                contestant("ip -batch", |_| {
                    let time = common::batch::ip_batch(&others::lines_for_ip(&set));
                    (time, wrong(&set, true))
                }),
            ];
            let way = if set[0].is_ipv4() {
                ["floor: replace", "floor: append, delete"]
            } else {
                ["floor: send by send", "floor: addresses first"]
            };
            contestants.push(contestant(way[0], |link| {
                let time = run_floor(link, &set, &mut first, true);
                (time, wrong(&set, true))
            }));
            contestants.push(contestant(way[1], |link| {
                let time = run_floor(link, &set, &mut second, false);
                (time, wrong(&set, true))
            }));
            // It reads all routes for each VIP: the cost is quadratic, at the least.
            let expected = slow.map(|(size, time)| time * (n / size).pow(2));
            let patience = Duration::from_secs(self.options.patience.into());
            match expected.filter(|expected| *expected > patience) {
                Some(expected) => self.leave_out(format!(
                    "kube-router's method is left out at {n} {family} VIPs: one run would take some \
                     {} s.",
                    expected.as_secs()
                )),
                None => contestants.push(contestant("kube-router's method", |link| {
                    let time = others::kube_router(&mut third, link, &set);
                    (time, wrong(&set, true))
                })),
            }
            let figures = race(Some(&node), self.options.runs, contestants);
            slow = figures
                .iter()
                .find(|one| one.name.starts_with("kube-router"))
                .map(|one| (n, one.median()))
                .or(slow);
            self.tell(&format!("{family}, by address"), n, &figures);
        }
    }

    fn route_only(&mut self, family: &str, vips: Vips) {
        for n in self.options.route_only.clone() {
            let node = Node::new();
            let set = vips(n);
            let mut manager = manager(Binding::Route);
            let mut floor = Floor::new();
            let contestants = vec![
                library(&mut manager, &set, Binding::Route),
                contestant("floor: routes", |link| {
                    let messages = floor::assign_route_only(link, &set);
                    let time = timed(|| floor.send(&messages));
                    (time, wrong(&set, false))
                }),
            ];
            let figures = race(Some(&node), self.options.runs, contestants);
            self.tell(&format!("{family}, route only"), n, &figures);
        }
    }

    fn leave_out(&mut self, note: String) {
        eprintln!("!!! {note}");
        self.notes.push(note);
    }

    fn tell(&mut self, what: &str, n: u32, figures: &[Figures]) {
        let floor = floor(figures).unwrap();
        let library = figures.iter().find(|one| one.name == "viproute").unwrap();
        for one in figures {
            let per_vip = one.median().as_secs_f64() * 1e6 / f64::from(n);
            let faster = if one.is_floor() || one.name == "viproute" {
                String::new()
            } else {
                format!("{:.1} times", ratio(one.median(), library.median()))
            };
            let row = [
                what.to_owned(),
                n.to_string(),
                one.name.to_owned(),
                format!("{:.2} ms", one.median().as_secs_f64() * 1e3),
                format!("{per_vip:.2} µs"),
                format!("{:.2}", ratio(one.median(), floor.median())),
                format!("{:.2}", ratio(one.fastest(), floor.fastest())),
                faster,
                one.wrong.to_string(),
            ];
            eprintln!("{}", row.join(" | "));
            self.table.add_row(row);
            // Of the floor's ways only the cheaper one is drawn.
            if !one.is_floor() || one.name == floor.name {
                let name = one.name.split(':').next().unwrap();
                writeln!(self.data, "{what}\t{n}\t{name}\t{per_vip}\t{}", one.wrong).unwrap();
            }
        }
    }
}

/// The floor, in the first of its two ways or in the other.
fn run_floor(link: u32, set: &[IpAddr], floor: &mut Floor, first: bool) -> Time {
    if set[0].is_ipv4() {
        let messages = if first {
            floor::assign_v4_replace(link, set)
        } else {
            floor::assign_v4_append(link, set)
        };
        return timed(|| floor.send(&messages));
    }
    let messages = floor::AssignV6::encode(link, set);
    timed(|| {
        if first {
            messages.send_by_send(floor);
        } else {
            messages.addresses_first(floor);
        }
    })
}
