//! Makes docs/speed.md and its plots from what the other benches wrote: called by `benches/run`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

mod plot;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use clap::Parser;

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
        plot::draw(family, &data, &options.plots.join(&file));
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
        ("How long new IPv6 VIPs have the kernel's route", "late.md"),
        ("A day of a keeper", "day.md"),
        ("A keeper on a busy node", "storm.md"),
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
