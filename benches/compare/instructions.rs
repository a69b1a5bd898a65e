//! Instructions of the pure parts, counted by callgrind, so that they do not depend on the machine's
//! mood: `cargo bench -p compare --bench instructions`. Needs valgrind.
//!
//! Compares with `benches/compare/instructions.txt` and fails where a count is more than 5 % above it.
//! `-- --renew` writes that file anew. Another rustc brings another standard library and other
//! optimisations: the file names the one it was made with, and a difference is reported.
//!
//! Every work runs in a process of its own: this program, started again under valgrind, which
//! counts inside of one function only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod output;

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use output::Output;
use viproute::bench::{Pure, State};

/// How much worse, in percent, fails.
const ALLOWED: f64 = 5.0;

/// Counts the instructions of the pure parts.
#[derive(Parser)]
struct Options {
    /// Make these counts the ones to compare with
    #[arg(long)]
    renew: bool,
    #[command(flatten)]
    output: Output,
    /// Do one work, for valgrind to look at
    #[arg(long, hide = true)]
    only: Option<String>,
}

/// One thing to count.
struct Work {
    name: &'static str,
    vips: u32,
    make: common::Vips,
    prepare: fn(&mut Pure, &[IpAddr]) -> Vec<Vec<u8>>,
    run: fn(&mut Pure, &[Vec<u8>]) -> usize,
}

const WORKS: [Work; 8] = [
    encode("encode IPv4", common::v4),
    encode("encode IPv6", common::v6),
    plan("plan clean IPv4", common::v4, State::Clean),
    plan("plan clean IPv6", common::v6, State::Clean),
    plan("plan broken IPv4", common::v4, State::Broken),
    plan("plan broken IPv6", common::v6, State::Broken),
    decode("decode IPv4", common::v4),
    decode("decode IPv6", common::v6),
];

const fn encode(name: &'static str, make: common::Vips) -> Work {
    Work {
        name,
        vips: 1_000,
        make,
        // Once before: the buffers have grown.
        prepare: |pure, _| {
            black_box(pure.encode());
            Vec::new()
        },
        run: |pure, _| measured(|| pure.encode()),
    }
}

const fn plan(name: &'static str, make: common::Vips, state: State) -> Work {
    Work {
        name,
        vips: 10_000,
        make,
        prepare: match state {
            State::Clean => |pure, _| {
                pure.set(usize::MAX, State::Clean);
                Vec::new()
            },
            State::Broken => |pure, _| {
                pure.set(usize::MAX, State::Broken);
                Vec::new()
            },
        },
        run: |pure, _| measured(|| pure.plan()),
    }
}

const fn decode(name: &'static str, make: common::Vips) -> Work {
    Work {
        name,
        vips: 10_000,
        make,
        prepare: |_, vips| common::dump::dump(vips),
        run: |pure, dump| measured(|| pure.decode(dump.iter().map(Vec::as_slice))),
    }
}

/// What valgrind counts in, by this name.
#[inline(never)]
fn measured(work: impl FnOnce() -> usize) -> usize {
    black_box(work())
}

impl Work {
    fn run(&self) {
        let vips = (self.make)(self.vips);
        let mut pure = common::pure(&vips);
        let dump = (self.prepare)(&mut pure, &vips);
        black_box((self.run)(&mut pure, &dump));
    }

    fn count(&self) -> u64 {
        let out =
            std::env::temp_dir().join(format!("viproute-instructions-{}", std::process::id()));
        let output = Command::new("valgrind")
            .args([
                "--tool=callgrind",
                "--toggle-collect=instructions::measured*",
            ])
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(std::env::current_exe().unwrap())
            .args(["--only", self.name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .expect("valgrind must be installed");
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{printed}");
        let counts = std::fs::read_to_string(&out).unwrap();
        std::fs::remove_file(&out).unwrap();
        let count = counts
            .lines()
            .find_map(|line| line.strip_prefix("totals: "))
            .unwrap_or_else(|| panic!("callgrind gave no total: {printed}"));
        let count = count.trim().parse().unwrap();
        assert_ne!(
            count, 0,
            "callgrind did not see the function that is measured"
        );
        count
    }
}

/// The counts beside those of before, and the works that are worse than allowed.
fn compare(counts: &[u64], before: &[(&str, f64)]) -> (Table, Vec<&'static str>) {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["work", "VIPs", "instructions", "per VIP", "change"]);
    for column in 1..5 {
        let column = table.column_mut(column).unwrap();
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut worse = Vec::new();
    for (work, count) in WORKS.iter().zip(counts) {
        let before = before.iter().find(|(name, _)| *name == work.name);
        let change = before.map(|(_, before)| (*count as f64 / before - 1.0) * 100.0);
        if change.is_none_or(|change| change > ALLOWED) {
            worse.push(work.name);
        }
        table.add_row([
            work.name.to_owned(),
            work.vips.to_string(),
            count.to_string(),
            (count / u64::from(work.vips)).to_string(),
            change.map_or("no count before".to_owned(), |change| {
                format!("{change:+.1} %")
            }),
        ]);
    }
    (table, worse)
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(only) = &options.only {
        WORKS.iter().find(|work| work.name == only).unwrap().run();
        return ExitCode::SUCCESS;
    }
    if options.output.test {
        WORKS.iter().for_each(Work::run);
        return ExitCode::SUCCESS;
    }
    let rustc = rustc();
    let counts: Vec<u64> = WORKS.iter().map(Work::count).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt");
    if options.renew {
        let mut text = format!("{rustc}\n");
        for (work, count) in WORKS.iter().zip(&counts) {
            writeln!(text, "{count:>12} {}", work.name).unwrap();
        }
        std::fs::write(&path, text).unwrap();
    }
    let baseline =
        std::fs::read_to_string(&path).expect("benches/compare/instructions.txt: --renew makes it");
    let mut lines = baseline.lines();
    let made_with = lines.next().unwrap_or_default();
    let before: Vec<(&str, f64)> = lines
        .filter_map(|line| line.trim().split_once(' '))
        .map(|(count, name)| (name, count.parse().unwrap()))
        .collect();

    let (table, worse) = compare(&counts, &before);
    options.output.write(&format!("{table}\n"));
    if made_with != rustc {
        println!(
            "\n!!! The counts to compare with were made with another compiler:\n!!!   {made_with}\n\
             !!!   {rustc} is this one.\n!!! A change above may be the compiler's. Renew them: \
             cargo bench -p compare --bench instructions -- --renew\n"
        );
    }
    if worse.is_empty() {
        println!("None is more than {ALLOWED} % above benches/compare/instructions.txt.");
        return ExitCode::SUCCESS;
    }
    println!(
        "More than {ALLOWED} % above benches/compare/instructions.txt: {}.\nIf that is meant, renew it: \
         cargo bench -p compare --bench instructions -- --renew",
        worse.join(", ")
    );
    ExitCode::FAILURE
}

/// The compiler that cargo uses.
fn rustc() -> String {
    let rustc = std::env::var("RUSTC").unwrap_or("rustc".to_owned());
    let output = Command::new(rustc).arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
