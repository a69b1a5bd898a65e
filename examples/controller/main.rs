//! A small controller, as one embeds `viproute`: the VIPs of a file are kept on a link.
//!
//! ```text
//! cargo run -p controller --example controller -- --link kube-dummy-if --create-link \
//!     --source 192.0.2.10 --source 2001:db8::10 --file vips.txt
//! ```
//!
//! The file has one VIP a line; `#` begins a comment. It is read anew when it has changed, and on SIGHUP.
//! A writer should write another file and rename it, but a file that is missing, half-written, empty or
//! wrong changes nothing: see [`file`](mod@file). A keeper on a thread of its own repairs what others do to
//! the VIPs. SIGTERM or SIGINT ends the program; the VIPs stay, unless `--release-on-exit`.
//!
//! In a controller of your own the desired VIPs come from elsewhere, say from a watch of services; the
//! [`KeeperHandle`] is what remains.

mod file;
#[path = "../vip/parse.rs"]
mod parse;
#[path = "../vip/program.rs"]
mod program;
#[path = "../vip/target.rs"]
mod target;

use std::mem;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use clap::Parser;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use viproute::{Claim, Dispatched, Error, KeeperHandle, Vip};

use parse::Claimed;
use program::say;
use target::{Making, Target};

/// A file that has not changed for so long is taken for complete.
const REST: Duration = Duration::from_millis(100);

/// Keeps the VIPs of a file on a link, each with exactly one route, whose preferred source is the node.
#[derive(Debug, Parser)]
#[command(name = "controller", version, mut_arg("source", |arg| arg.required(true)))]
struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    making: Making,
    /// The desired VIPs, one a line; `#` begins a comment
    #[arg(long, value_name = "PATH")]
    file: PathBuf,
    /// Which VIPs on the link to release if they are not desired: all, or those in the prefixes
    #[arg(long, value_name = "link|PREFIX[,...]", value_parser = claim, default_value = "link")]
    claim: Claim,
    /// Refuse a change of the file by which more than N VIPs would be released
    #[arg(long, value_name = "N", default_value = "100", value_parser = parse::count)]
    at_most: usize,
    /// How often to look at the file
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse::seconds)]
    poll: Duration,
    /// Release the claimed VIPs at the end
    #[arg(long)]
    release_on_exit: bool,
}

/// A claim; not by marks, since this controller leaves none.
fn claim(text: &str) -> Result<Claim, String> {
    match parse::claim(text)? {
        Claimed::Mark => Err("this controller sets no mark: give `link` or prefixes".to_owned()),
        claim => Ok(claim.into()),
    }
}

fn main() -> ExitCode {
    let args = Args::try_parse().unwrap_or_else(|error| program::without_tip(error).exit());
    let Err(error) = run(args) else {
        return ExitCode::SUCCESS;
    };
    say(format_args!("{error}"));
    program::exit_code(&*error)
}

fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let manager = args.making.allow(args.target.builder()).open()?;
    let keeper = manager.into_keeper(args.claim.clone().at_most(args.at_most))?;
    let signals = program::receive(&[SIGHUP, SIGINT, SIGTERM])?;
    let (handle, thread) = keeper.spawn(tell)?;
    say(format_args!("keeping {}", args.target.link));
    let follower = thread::spawn(move || follow(&args.file, args.poll, &signals, &handle));
    // The keeper's thread ends when the follower drops the handle. After an error the program ends, too.
    let panicked = |_| "a thread panicked";
    let keeper = thread.join().map_err(panicked)??;
    follower.join().map_err(panicked)?;
    if args.release_on_exit {
        // Without the bound: that is against mistakes in the file, and this is meant.
        let released = keeper.into_manager().release_all(&args.claim)?;
        say(format_args!("{}: {released}", args.target.link));
    }
    say(format_args!("ended"));
    Ok(())
}

/// Orders the VIPs of the file when it has changed, or after SIGHUP; until another signal.
fn follow(file: &Path, poll: Duration, signals: &Receiver<i32>, handle: &KeeperHandle) {
    let order = |vips: Vec<Vip>| handle.set(vips).map_err(|why| format!("refused: {why}"));
    let mut last = None;
    let mut is_at_rest = true;
    loop {
        let now = Some(file::read(file));
        let was_at_rest = mem::replace(&mut is_at_rest, now == last);
        last = now;
        let rested = last.clone().filter(|_| is_at_rest && !was_at_rest);
        if let Some(Err(why)) = rested.map(|read| read.and_then(order)) {
            say(format_args!("{why}"));
        }
        match signals.recv_timeout(if is_at_rest { poll } else { REST }) {
            Ok(SIGHUP) => last = None,
            Err(RecvTimeoutError::Timeout) => {}
            _ => return,
        }
    }
}

/// What the keeper's thread says of its dispatches.
fn tell(done: Result<Dispatched, Error>) {
    match done {
        Err(error) => say(format_args!("refused: {error}")),
        Ok(done) => {
            program::say_failures(&done);
            say(format_args!("kept: {done}"));
        }
    }
}
