//! viproute against the floor (`common/floor.rs`): `cargo bench -p compare --bench ratio`.
//!
//! Runs are interleaved and the medians compared, so that a busy machine is as unjust to one as to
//! the other. Works that make something new begin with a link that was just made, in a private
//! network namespace, and end with a look at the link by `ip`: how many VIPs came out wrong is in
//! the table. A second table says which targets are met: by the medians, by the fastest runs, and by
//! the CPU time of the calling thread, the kernel's work for it included, which suffers least from a
//! busy machine. None of them fails anything. Needs no privilege.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

#[path = "../common/mod.rs"]
mod common;
mod contest;
mod output;
mod targets;
mod works;

use std::net::IpAddr;
use std::time::Duration;

use clap::Parser;
use common::{Node, Vips};
use contest::{Contestant, race};
use output::Output;
use targets::{Tables, Target};
use works::Witness;

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
    #[command(flatten)]
    output: Output,
}

/// After how long no address is recent any more.
const GROWN_UP: Duration = Duration::from_secs(3);

/// A work: with its name in the tables, and its VIPs.
type Work = fn(&mut Bench, &str, &[IpAddr]);

fn main() {
    let mut options = Options::parse();
    if options.output.test {
        options.runs = 0;
        options.size = Some(50);
        options.others = 50;
    }
    viproute::sandbox::enter().expect("a private namespace");
    let mut bench = Bench {
        options,
        tables: Tables::new(),
    };
    for (family, vips) in common::FAMILIES {
        let mut run = |what: &str, sizes: &[u32], work: Work| {
            bench.run(&format!("{what} {family}"), sizes, vips, work);
        };
        run("assign", &[1_000, 10_000], Bench::assign);
        run("assign route-only", &[10_000, 100_000], Bench::route_only);
        let many = &[10_000];
        run("address against route-only", many, Bench::bindings);
        run("look", many, Bench::read_beside_others);
        run("look, no other routes,", many, Bench::read_alone);
        run("reconcile one change", many, Bench::one_change);
        run("one VIP new", many, Bench::one_comes);
        run("one VIP gone", many, Bench::one_goes);
        run("normalize", many, Bench::normalize);
        run("release", &[5_000], Bench::release);
    }
    bench.options.output.write(&bench.tables.to_string());
}

struct Bench {
    options: Options,
    tables: Tables,
}

impl Bench {
    /// Does a work with each size, if it is asked for.
    fn run(&mut self, name: &str, own: &[u32], vips: Vips, work: Work) {
        if !name.contains(self.options.work.as_deref().unwrap_or_default()) {
            return;
        }
        let only = self.options.size.map(|size| vec![size]);
        for size in only.as_deref().unwrap_or(own) {
            work(self, name, &vips(*size));
        }
    }

    fn witness(&self) -> Witness {
        Witness {
            looks: !self.options.unwitnessed,
        }
    }

    /// While the addresses of a call before are recent, all of them are looked at twice.
    fn wait_until_grown_up(&self) {
        if !self.options.output.test {
            std::thread::sleep(GROWN_UP);
        }
    }

    /// Lets the contestants race, and notes their figures.
    fn compare(
        &mut self,
        node: Option<&Node>,
        work: &str,
        vips: usize,
        mut contestants: Vec<Contestant<'_>>,
        targets: &[Target],
    ) {
        if let Some(who) = &self.options.who {
            contestants.retain(|one| one.name.contains(who.as_str()));
        }
        let figures = race(node, self.options.runs, contestants);
        self.tables.add(work, vips, &figures, targets);
    }
}
