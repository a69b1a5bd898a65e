//! Makes docs/speed.md and its plots from what the other benches wrote: called by `benches/run`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use clap::Parser;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Makes the page about speed.
#[derive(Parser)]
struct Options {
    /// What the other benches wrote
    #[arg(long, default_value = "target/speed")]
    from: PathBuf,
    /// Where the page is
    #[arg(long, default_value = "docs/speed.md")]
    page: PathBuf,
    /// Where the plots go
    #[arg(long, default_value = "docs/speed")]
    plots: PathBuf,
    /// How the figures were made
    #[arg(long, default_value = "benches/run")]
    command: String,
    /// Do nothing
    #[arg(long)]
    test: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

/// The generated part of the page stands between these lines.
const BEGIN: &str = "<!-- benches/run writes what follows -->";
const END: &str = "<!-- and up to here -->";

fn main() {
    let options = Options::parse();
    if options.test {
        return;
    }
    // Paths are meant from the root of the repository; cargo starts a bench in its package.
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).unwrap();
    let data = fs::read_to_string(options.from.join("peers.tsv")).unwrap();
    fs::create_dir_all(&options.plots).unwrap();
    let mut made = String::new();
    writeln!(made, "\n## The machine\n\n{}", machine(&options.command)).unwrap();
    writeln!(made, "## Time per VIP\n").unwrap();
    for family in ["IPv4", "IPv6"] {
        let file = format!("{}.svg", family.to_lowercase());
        plot(family, &data, &options.plots.join(&file));
        let folder = options.plots.file_name().unwrap().display();
        writeln!(
            made,
            "![Time per VIP against the number of {family} VIPs, all ways to do \
             it]({folder}/{file})\n"
        )
        .unwrap();
    }
    let read = |name: &str| fs::read_to_string(options.from.join(name)).unwrap_or_default();
    for (title, name) in [
        ("Beside others", "peers.md"),
        (
            "Against the floor: the targets, and the figures",
            "ratio.md",
        ),
        (
            "The whole life of a VIP: each call, beside the cheapest known operations",
            "life.md",
        ),
        ("A day of a keeper", "day.md"),
        ("Own cost", "cost.md"),
        ("Instructions of the pure parts", "instructions.md"),
    ] {
        let table = read(name);
        if !table.is_empty() {
            writeln!(made, "## {title}\n\n{table}").unwrap();
        }
    }
    let page = fs::read_to_string(&options.page).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page's first mark");
    let (_, after) = rest.split_once(END).expect("the page's second mark");
    let page = format!("{before}{BEGIN}\n{}\n{END}{after}", made.trim_end());
    fs::write(&options.page, page).unwrap();
}

/// What the figures were made on.
fn machine(command: &str) -> String {
    let version = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("an unknown processor", |line| {
            line.trim_matches([' ', '\t', ':'])
        });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "Linux {}, {model}, {cores} cores, {}, {}. Made by `{command}`; the load (1 minute) was \
         {load} at the end, of which the benches themselves make 1 to 1.5: beyond that, figures of \
         one run are worth less than their ratios.\n",
        version("uname", "-r"),
        version("rustc", "--version"),
        version("ip", "-V").replace("ip utility, ", ""),
    )
}

/// Name, how it is drawn, and how its name is written.
const DRAWN: [(&str, RGBColor, &str); 6] = [
    (
        "kube-router's method",
        RGBColor(170, 51, 119),
        "kube-router's method",
    ),
    ("ip -batch", RGBColor(204, 119, 34), "ip -batch"),
    (
        "rtnetlink, 64 in flight",
        RGBColor(60, 140, 60),
        "rtnetlink, 64 in flight",
    ),
    ("viproute", RGBColor(31, 90, 180), "viproute"),
    ("floor", RGBColor(110, 110, 110), "the floor"),
    ("wrong", RGBColor(200, 0, 0), ""),
];

type Lines = BTreeMap<(bool, String), Vec<(f64, f64, u32)>>;

/// Draws one family: all ways by address, and route-only beside them.
#[expect(
    clippy::too_many_lines,
    reason = "one chart, from its frame to its legend"
)]
fn plot(family: &str, data: &str, file: &std::path::Path) {
    let mut lines: Lines = BTreeMap::new();
    for line in data.lines().filter(|line| line.starts_with(family)) {
        let fields: Vec<&str> = line.split('\t').collect();
        let route_only = fields[0].ends_with("route only");
        let point = (
            fields[1].parse().unwrap(),
            fields[3].parse().unwrap(),
            fields[4].parse().unwrap(),
        );
        let key = (route_only, fields[2].to_owned());
        lines.entry(key).or_default().push(point);
    }
    let all: Vec<_> = lines.values().flatten().collect();
    let most = |of: fn(&(f64, f64, u32)) -> f64| all.iter().map(|at| of(at)).fold(0.0, f64::max);
    let least = all.iter().map(|at| at.1).fold(f64::MAX, f64::min);
    let root = SVGBackend::new(file, (900, 560)).into_drawing_area();
    root.fill(&WHITE).unwrap();
    // Room on the right for the lines' names.
    let (inside, names) = root.split_horizontally(680);
    let mut chart = ChartBuilder::on(&inside)
        .caption(format!("{family}: time per VIP"), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (80.0..most(|at| at.0) * 1.2).log_scale(),
            (least / 1.5..most(|at| at.1) * 1.5).log_scale(),
        )
        .unwrap();
    chart
        .configure_mesh()
        .light_line_style(RGBColor(240, 240, 240))
        .bold_line_style(RGBColor(215, 215, 215))
        .x_desc("VIPs in one call")
        .y_desc("µs per VIP")
        .x_label_formatter(&|n| number(*n))
        .y_label_formatter(&|time| number(*time))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .draw()
        .unwrap();
    let mut labels = Vec::new();
    for ((route_only, name), points) in &lines {
        let (_, color, shown) = DRAWN.iter().find(|drawn| drawn.0 == name).unwrap();
        let at = points.iter().map(|at| (at.0, at.1));
        // The thick line is viproute, and dashes are route-only.
        let style = color.stroke_width(if name == "viproute" { 3 } else { 2 });
        if *route_only {
            chart
                .draw_series(DashedLineSeries::new(at.clone(), 7, 4, style))
                .unwrap();
        } else {
            chart
                .draw_series(LineSeries::new(at.clone(), style))
                .unwrap();
        }
        chart
            .draw_series(at.map(|at| Circle::new(at, 3, color.filled())))
            .unwrap();
        for (n, time, _) in points.iter().filter(|at| at.2 > 0) {
            let cross = Cross::new((*n, *time), 7, DRAWN[5].1.stroke_width(3));
            chart.draw_series([cross]).unwrap();
        }
        let last = points.last().unwrap();
        let (_, height) = chart.backend_coord(&(last.0, last.1));
        let shown = if *route_only {
            format!("{shown}, route only")
        } else {
            (*shown).to_owned()
        };
        labels.push((height, shown, *color, *route_only));
    }
    // Names at the height where their lines end, but not upon each other.
    labels.sort_by_key(|(height, ..)| *height);
    let mut free = 0;
    for (height, name, color, dashed) in labels {
        let y = height.max(free);
        free = y + 20;
        let style = color.stroke_width(2);
        let length = if dashed {
            vec![(2, 8), (12, 18)]
        } else {
            vec![(2, 18)]
        };
        for (from, to) in length {
            names
                .draw(&PathElement::new([(from, y), (to, y)], style))
                .unwrap();
        }
        let text = TextStyle::from(("sans-serif", 14).into_font())
            .color(&color)
            .pos(Pos::new(HPos::Left, VPos::Center));
        names.draw(&Text::new(name, (24, y), text)).unwrap();
    }
    if all.iter().any(|at| at.2 > 0) {
        let y = free + 16;
        names
            .draw(&Cross::new((10, y), 6, DRAWN[5].1.stroke_width(3)))
            .unwrap();
        let text = TextStyle::from(("sans-serif", 14).into_font())
            .color(&DRAWN[5].1)
            .pos(Pos::new(HPos::Left, VPos::Center));
        names
            .draw(&Text::new("left wrong VIPs", (24, y), text))
            .unwrap();
    }
    root.present().unwrap();
}

/// Powers of ten as people write them.
fn number(of: f64) -> String {
    if of >= 1_000.0 {
        let digits = format!("{of:.0}");
        let (thousands, rest) = digits.split_at(digits.len() - 3);
        format!("{thousands},{rest}")
    } else {
        format!("{of}")
    }
}
