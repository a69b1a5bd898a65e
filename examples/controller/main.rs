//! A small controller, as one embeds `viproute`: the VIPs of a file are kept on a link.
//!
//! ```text
//! cargo run -p controller --example controller -- --link kube-dummy-if --create-link \
//!     --source 192.0.2.10 --source 2001:db8::10 --file vips.txt
//! ```
//!
//! The file has one VIP a line; `#` begins a comment. It is read anew when it has changed, and on
//! SIGHUP. A writer should write another file and rename it, but a file that is missing,
//! half-written, empty or wrong changes nothing: see [`file`](mod@file). What others do to the VIPs is
//! repaired by a keeper on a thread of its own. SIGTERM or SIGINT ends it; the VIPs stay, unless
//! `--release-on-exit`.
//!
//! In a controller of your own the desired VIPs come from elsewhere, say from a watch of services; the
//! [`KeeperHandle`](viproute::KeeperHandle) is what remains.

mod file;
#[path = "../vip/news.rs"]
mod news;
#[path = "../vip/parse.rs"]
mod parse;
#[path = "../vip/usage.rs"]
mod usage;

use std::fmt;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use clap::Parser;
use ipnet::IpNet;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use viproute::{Claim, Dispatched, Error, ErrorKind, LinkKind, VipManager, VipManagerBuilder};

use file::Desired;
use parse::Claimed;

/// Keeps the VIPs of a file on a link, each with exactly one route, whose preferred source is the
/// node.
#[derive(Debug, Parser)]
#[command(name = "controller", version)]
struct Args {
    /// The link that holds the VIPs
    #[arg(long, value_name = "NAME")]
    link: String,
    /// The node's own address, the source of its traffic to VIPs; once for each family
    #[arg(long, value_name = "IP", required = true, value_parser = parse::source)]
    source: Vec<IpAddr>,
    /// The desired VIPs, one a line; `#` begins a comment
    #[arg(long, value_name = "PATH")]
    file: PathBuf,
    /// Which VIPs on the link to release if they are not desired: all of the link, or those in the
    /// prefixes
    #[arg(
        long,
        value_name = "link|PREFIX[,PREFIX...]",
        value_parser = claim,
        default_value = "link"
    )]
    claim: Claimed,
    /// Refuse a change of the file by which more than N VIPs would be released
    #[arg(long, value_name = "N", default_value = "100", value_parser = parse::count)]
    at_most: usize,
    /// Create the link if there is none, and bring it up
    #[arg(long)]
    create_link: bool,
    /// Allow only VIPs in this range; may be repeated
    #[arg(long, value_name = "PREFIX", value_parser = parse::range)]
    allow: Vec<IpNet>,
    /// Refuse VIPs in this range, even if --allow admits them; may be repeated
    #[arg(long, value_name = "PREFIX", value_parser = parse::range)]
    deny: Vec<IpNet>,
    /// How often to look at the file
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse::seconds)]
    poll: Duration,
    /// Release the claimed VIPs at the end
    #[arg(long)]
    release_on_exit: bool,
}

impl Args {
    fn builder(&self) -> VipManagerBuilder {
        let builder = VipManager::builder(&self.link);
        let builder = self.source.iter().fold(builder, |b, ip| b.source(*ip));
        let builder = self.allow.iter().fold(builder, |b, range| b.allow(*range));
        let builder = self.deny.iter().fold(builder, |b, range| b.deny(*range));
        match self.create_link {
            true => builder.create_link(LinkKind::Auto),
            false => builder,
        }
    }
}

/// A claim; not by marks, since this controller leaves none.
fn claim(text: &str) -> Result<Claimed, String> {
    match parse::claim(text)? {
        Claimed::Mark => Err("this controller sets no mark: give `link` or prefixes".to_owned()),
        claim => Ok(claim),
    }
}

fn main() -> ExitCode {
    let args = Args::try_parse().unwrap_or_else(|error| usage::without_tip(error).exit());
    let Err(error) = run(&args) else {
        return ExitCode::SUCCESS;
    };
    log(format_args!("{error}"));
    match error.downcast_ref::<Error>().map(Error::kind) {
        Some(ErrorKind::InvalidConfig) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let claim = Claim::from(args.claim.clone());
    let manager = args.builder().open()?;
    let keeper = manager.into_keeper(claim.clone().at_most(args.at_most))?;
    let (send, signals) = mpsc::channel();
    listen_to_signals(send.clone())?;
    let (handle, thread) = keeper.spawn(tell)?;
    let thread = thread::spawn(move || {
        let ended = thread.join();
        // After an error the program ends, too.
        let _ = send.send(SIGTERM);
        ended
    });
    log(format_args!("keeping {}", args.link));
    let mut desired = Desired::new(&args.file);
    loop {
        match desired.look() {
            None => {}
            Some(Err(why)) => log(format_args!("{}: {why}", args.file.display())),
            Some(Ok(vips)) => match handle.set(vips) {
                Ok(()) => {}
                Err(error) => log(format_args!("refused: {error}")),
            },
        }
        match signals.recv_timeout(desired.wait().min(args.poll)) {
            Ok(SIGHUP) => desired.reread(),
            Err(RecvTimeoutError::Timeout) => {}
            _ => break,
        }
    }
    // Without a handle, the keeper's thread ends.
    drop(handle);
    let ended = thread.join().and_then(|ended| ended);
    let keeper = ended.map_err(|_| "the keeper's thread panicked")??;
    if args.release_on_exit {
        // Without the bound: that is against mistakes in the file, and this is meant.
        let released = keeper.into_manager().release_all(&claim)?;
        log(format_args!("{}: {released}", args.link));
    }
    log(format_args!("ended"));
    Ok(())
}

/// What the keeper's thread says of its dispatches.
fn tell(done: Result<Dispatched, Error>) {
    match done {
        Err(error) => log(format_args!("refused: {error}")),
        Ok(done) => {
            news::lines(&done).for_each(|line| log(format_args!("{line}")));
            log(format_args!("kept: {done}"));
        }
    }
}

/// Sends the signals: SIGHUP rereads the file; SIGTERM or SIGINT ends the program.
fn listen_to_signals(send: Sender<i32>) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    thread::spawn(move || signals.forever().try_for_each(|signal| send.send(signal)));
    Ok(())
}

/// A line for the log, on standard error; `eprintln!`, but for the panic where that is closed.
fn log(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "controller: {line}");
}
