//! What the works of `ratio` shall reach, and the rows of both tables.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use crate::contest::{Figures, floor, ratio};

/// What a work shall reach: a contestant compared with another one, or with the cheapest floor.
pub struct Target {
    pub of: &'static str,
    pub to: Option<&'static str>,
    pub ratio: Bound,
}

#[derive(Clone, Copy)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

pub const fn at_most(ratio: f64) -> Target {
    Target {
        of: "viproute",
        to: None,
        ratio: Bound::AtMost(ratio),
    }
}

impl Bound {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
        }
    }
}

/// Two figures compared: by their medians, their fastest runs, and their CPU time.
fn ratios(of: &Figures, to: &Figures) -> [f64; 3] {
    [
        ratio(of.median(), to.median()),
        ratio(of.fastest(), to.fastest()),
        ratio(of.cpu(), to.cpu()),
    ]
}

/// The figures of all works, and whether they meet the targets.
pub struct Tables {
    figures: Table,
    targets: Table,
}

impl Tables {
    pub fn new() -> Self {
        let table = |header: &str| {
            let mut table = Table::new();
            table.load_style(presets::ASCII_MARKDOWN);
            table.set_header(header.split(" | "));
            table
        };
        let mut figures = table(
            "work | VIPs | who | median | per VIP | fastest | slowest | ratio | (fastest) | (CPU) | wrong",
        );
        for column in [1, 3, 4, 5, 6, 7, 8, 9, 10] {
            let column = figures.column_mut(column).unwrap();
            column.set_cell_alignment(CellAlignment::Right);
        }
        let targets =
            table("work | VIPs | compared with | target | ratio | (fastest) | (CPU) | met");
        Self { figures, targets }
    }

    /// Adds the figures of a work, and prints them.
    pub fn add(&mut self, work: &str, vips: usize, all: &[Figures], targets: &[Target]) {
        let floor = floor(all);
        for one in all {
            let row = figures_row(work, vips, one, floor);
            eprintln!("{}", row.join(" | "));
            self.figures.add_row(row);
        }
        for target in targets {
            let named = |name: &str| all.iter().find(|one| one.name == name);
            let to = target.to.map_or(floor, named);
            if let (Some(of), Some(to)) = (named(target.of), to) {
                let row = target_row(work, vips, target.ratio, of, to);
                eprintln!("    {}", row.join(" | "));
                self.targets.add_row(row);
            }
        }
    }
}

impl std::fmt::Display for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n\n{}", self.targets, self.figures)
    }
}

fn figures_row(work: &str, vips: usize, one: &Figures, floor: Option<&Figures>) -> [String; 11] {
    let millis = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    let per_vip = one.median().as_secs_f64() * 1e6 / vips as f64;
    let [median, fastest, cpu] = floor.map_or(Default::default(), |floor| {
        ratios(one, floor).map(|ratio| format!("{ratio:.2}"))
    });
    [
        work.to_owned(),
        vips.to_string(),
        one.name.to_owned(),
        millis(one.median()),
        format!("{per_vip:.2} µs"),
        millis(one.fastest()),
        millis(one.slowest()),
        median,
        fastest,
        cpu,
        one.wrong.to_string(),
    ]
}

fn target_row(work: &str, vips: usize, bound: Bound, of: &Figures, to: &Figures) -> [String; 8] {
    let ratios = ratios(of, to);
    let by = ["the median", "the fastest", "CPU"].into_iter().zip(ratios);
    let by: Vec<_> = by
        .filter(|(_, ratio)| bound.is_met(*ratio))
        .map(|(by, _)| by)
        .collect();
    let met = match by.len() {
        0 => "no".to_owned(),
        3 => "yes".to_owned(),
        _ => format!("by {}", by.join(", ")),
    };
    let bound = match bound {
        Bound::AtMost(most) => format!("≤ {most:.2}"),
        Bound::AtLeast(least) => format!("≥ {least:.0}"),
    };
    let work = match of.name.split_once(": ") {
        Some((_, what)) => format!("{work}, {what}"),
        None => work.to_owned(),
    };
    let [median, fastest, cpu] = ratios.map(|ratio| format!("{ratio:.2}"));
    [
        work,
        vips.to_string(),
        to.name.to_owned(),
        bound,
        median,
        fastest,
        cpu,
        met,
    ]
}
