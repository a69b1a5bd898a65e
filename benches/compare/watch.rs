#![allow(unreachable_pub)]

//! A second process that reads the link's routes in table local again and again, and says when VIPs came to
//! their end state.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::ops::Range;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;

use crate::common;
use crate::local::{GONE, RIGHT, Watch};

/// What the second process does.
#[derive(Clone, Subcommand)]
pub enum Role {
    /// Watch VIPs until standard input ends
    Watch {
        link: u32,
        from: usize,
        to: usize,
        /// IPv6 VIPs
        #[arg(long)]
        v6: bool,
        /// Wait until nothing is left
        #[arg(long)]
        gone: bool,
    },
}

/// The end state of VIPs, which are named by their places.
#[derive(Clone)]
pub enum End {
    /// One route to the VIP in table local, the desired route.
    Right(Range<usize>),
    /// No route to the VIP in table local.
    Gone(Range<usize>),
}

/// How long it took until VIPs were in their end state and stayed there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    pub first: Duration,
    pub half: Duration,
    pub last: Duration,
}

pub struct Watcher {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    began: Duration,
    count: usize,
}

impl Watcher {
    /// Starts the second process, and returns when it has read once.
    pub fn start(link: u32, is_v6: bool, end: &End) -> Self {
        let (gone, range) = match end {
            End::Right(range) => (false, range),
            End::Gone(range) => (true, range),
        };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("watch")
            .args([link as usize, range.start, range.end].map(|number| number.to_string()))
            .args(is_v6.then_some("--v6"))
            .args(gone.then_some("--gone"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        output.read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        Self {
            child,
            input,
            output,
            began: now(),
            count: range.len(),
        }
    }

    /// The work begins now.
    pub fn begin(&mut self) {
        self.began = now();
    }

    pub fn end(mut self) -> Progress {
        drop(self.input.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success());
        let samples: Vec<(Duration, usize)> = text
            .lines()
            .map(|line| {
                let (time, count) = line.split_once(' ').unwrap();
                (
                    Duration::from_nanos(time.parse().unwrap()),
                    count.parse().unwrap(),
                )
            })
            .collect();
        // The first sample after the last one with fewer.
        let reached = |count: usize| {
            let short = samples.iter().rposition(|(_, seen)| *seen < count);
            let at = short.map_or(0, |at| at + 1).min(samples.len() - 1);
            samples[at].0.saturating_sub(self.began)
        };
        Progress {
            first: reached(1),
            half: reached(self.count.div_ceil(2)),
            last: reached(self.count),
        }
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// The second process: reads and rests, so that it takes a quarter of a core at the most.
pub fn run(role: &Role) {
    let Role::Watch {
        link,
        v6,
        gone,
        from,
        to,
    } = *role;
    let vips = if v6 { common::v6 } else { common::v4 };
    let vips = &vips(u32::try_from(to).unwrap())[from..];
    let mut watch = Watch::new(link, vips);
    let end = if gone { GONE } else { RIGHT };
    let has_ended = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&has_ended);
    let mut samples = vec![(now(), watch.count(end))];
    println!("ready");
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        ended.store(true, Ordering::Relaxed);
    });
    loop {
        let was_last = has_ended.load(Ordering::Relaxed);
        let began = now();
        let count = watch.count(end);
        samples.push((began, count));
        if was_last {
            break;
        }
        std::thread::sleep(3 * (now() - began));
    }
    let mut out = std::io::stdout().lock();
    for (time, count) in samples {
        writeln!(out, "{} {count}", time.as_nanos()).unwrap();
    }
}
