//! Puts VIPs on a link, repairs them, and takes them off: `viproute` as a command.
//!
//! ```text
//! cargo run --example vip -- assign --link kube-dummy-if --create-link \
//!     --source 192.0.2.10 --source 2001:db8::10 10.96.0.10 2001:db8:42:1::d45a
//! ```
//!
//! It needs `CAP_NET_ADMIN`; to try it without, run it in `unshare --user --map-root-user --net`.
//!
//! A further command is a variant of [`Command`], with what it does in [`Command::run`]; what all
//! of them share is in [`Common`], [`Wanted`] and [`Outcome`].

use std::fmt;
use std::io::{self, BufRead, ErrorKind as IoErrorKind, Write};
use std::net::IpAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::error::ErrorKind as UsageKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use serde_json::{Value, json};
use viproute::{
    Builder, Cause, Error, ErrorKind, Failure, LinkKind, ParseVipError, Protocol, Report, Vip,
    VipManager,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  every VIP was seen in the kernel as wanted
  1  some VIP fell short, or the call failed; standard error says which and why
  2  wrong usage; nothing was written";

const EXAMPLES: &str = "\
Examples:
  vip assign --link kube-dummy-if --create-link --source 192.0.2.10 10.96.0.10
  kubectl get services -A -o jsonpath='{range .items[*]}{.spec.clusterIP}{\"\\n\"}{end}' \\
    | grep -v None | vip assign --link kube-dummy-if --source 192.0.2.10 -
  vip normalize --link kube-dummy-if --source 192.0.2.10 --source 2001:db8::10
  vip release --link kube-dummy-if --json 10.96.0.10";

/// Service VIPs on a link, each with exactly one route, whose preferred source is the node.
#[derive(Debug, Parser)]
#[command(name = "vip", version, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put VIPs on the link; repair those that are there in another state
    #[command(
        after_help = EXIT_CODES,
        mut_arg("source", |arg| arg.required(true)),
        mut_arg("vips", |arg| arg.required(true))
    )]
    Assign(Assign),
    /// Repair VIPs that are on the link: those given, or else all of them
    ///
    /// A VIP that is given but not on the link fails; it is not put there.
    #[command(after_help = EXIT_CODES, mut_arg("source", |arg| arg.required(true)))]
    Normalize(Normalize),
    /// Take VIPs off the link: their addresses and every route of it to them
    ///
    /// Needs no --source; one that is given is never taken for a VIP.
    #[command(after_help = EXIT_CODES, mut_arg("vips", |arg| arg.required(true)))]
    Release(Release),
}

#[derive(Debug, Args)]
struct Assign {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    wanted: Wanted,
    /// Create the link if there is none
    ///
    /// A dummy link, or if the kernel has no such driver a bridge without ports and ARP, which
    /// holds VIPs as well. With =dummy or =bridge that kind and no other.
    #[arg(
        long,
        value_name = "KIND",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "auto"
    )]
    create_link: Option<Create>,
}

#[derive(Debug, Args)]
struct Normalize {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    wanted: Wanted,
}

#[derive(Debug, Args)]
struct Release {
    #[command(flatten)]
    common: Common,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Common {
    /// The link that holds the VIPs
    #[arg(long, value_name = "NAME")]
    link: String,
    /// The node's own address, with which the node's traffic to VIPs of its family shall leave;
    /// one for each family
    #[arg(long, value_name = "IP")]
    source: Vec<IpAddr>,
    /// The protocol of the VIPs' routes (rtm_protocol), 1 to 255; 2 is `kernel`
    #[arg(long, value_name = "NUMBER", default_value = "2", value_parser = protocol)]
    protocol: Protocol,
    /// Take for VIPs only addresses in this range, or in another one given; required on `lo`
    #[arg(long, value_name = "PREFIX")]
    allow: Vec<IpNet>,
    /// Give up on VIPs after so long without a sign of progress from the kernel [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    stall_timeout: Option<Duration>,
    /// Give up after so long altogether [default: while the kernel makes progress, never]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    total_timeout: Option<Duration>,
    /// Print one JSON document instead of a line
    #[arg(long)]
    json: bool,
    /// Addresses, alone or as /32 or /128; `-` reads them from standard input, one a line, where
    /// `#` begins a comment
    #[arg(value_name = "VIP")]
    vips: Vec<Item>,
}

/// What the commands take that bring VIPs into their single-route state.
#[derive(Debug, Args)]
struct Wanted {
    /// Bring the link up if it is down; without this a link that is down is an error
    #[arg(long)]
    bring_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Create {
    /// A dummy link, or else a bridge
    Auto,
    /// A dummy link
    Dummy,
    /// A bridge without ports and without ARP
    Bridge,
}

/// A VIP of the command line.
#[derive(Clone, Debug)]
enum Item {
    Vip(Vip),
    StandardInput,
}

impl FromStr for Item {
    type Err = ParseVipError;

    fn from_str(text: &str) -> Result<Self, ParseVipError> {
        match text {
            "-" => Ok(Self::StandardInput),
            _ => text.parse().map(Self::Vip),
        }
    }
}

fn protocol(text: &str) -> Result<Protocol, &'static str> {
    text.parse()
        .ok()
        .and_then(Protocol::new)
        .ok_or("give a number from 1 to 255")
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    // Some 30 years, so that no deadline is beyond what the clock can say.
    const MAX: Duration = Duration::from_secs(1_000_000_000);
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| !time.is_zero() && *time <= MAX)
        .ok_or("give a number of seconds, like 10 or 0.5")
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return print_usage(&error),
    };
    match cli.command.run() {
        Ok(code) => code,
        Err(Stop::Usage(text)) => cli.command.usage(&text),
        Err(Stop::Input(error)) => {
            complain(format_args!("cannot read standard input: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Why a command ended before its call.
#[derive(Debug)]
enum Stop {
    Usage(String),
    Input(io::Error),
}

impl Command {
    fn name(&self) -> &'static str {
        match self {
            Self::Assign(_) => "assign",
            Self::Normalize(_) => "normalize",
            Self::Release(_) => "release",
        }
    }

    fn run(&self) -> Result<ExitCode, Stop> {
        let begun = Instant::now();
        let (common, result) = match self {
            Self::Assign(args) => {
                let vips = args.common.vips()?;
                (&args.common, args.assign(&vips))
            }
            Self::Normalize(Normalize { common, wanted }) => {
                let vips = common.vips()?;
                let manager = wanted.builder(common).open();
                let result = manager.and_then(|mut manager| {
                    // Not `vips.is_empty()`: an empty list must never mean the whole link.
                    if common.vips.is_empty() {
                        manager.normalize()
                    } else {
                        manager.normalize_only(&vips)
                    }
                });
                (common, result)
            }
            Self::Release(Release { common }) => {
                let vips = common.vips()?;
                let manager = common.builder().open();
                (common, manager.and_then(|mut m| m.release(&vips)))
            }
        };
        let outcome = Outcome {
            command: self.name(),
            link: &common.link,
            elapsed: begun.elapsed(),
            result,
        };
        Ok(outcome.tell(common.json))
    }

    /// Says what is wrong with the usage of this command, the way clap does.
    fn usage(&self, text: &str) -> ExitCode {
        let mut root = Cli::command();
        root.build();
        let error = match root.find_subcommand_mut(self.name()) {
            Some(command) => command.error(UsageKind::ValueValidation, text),
            None => root.error(UsageKind::ValueValidation, text),
        };
        print_usage(&error)
    }
}

impl Common {
    fn builder(&self) -> Builder {
        let mut builder = VipManager::builder(&self.link).protocol(self.protocol);
        for source in &self.source {
            builder = builder.source(*source);
        }
        for range in &self.allow {
            builder = builder.allow(*range);
        }
        if let Some(time) = self.stall_timeout {
            builder = builder.stall_timeout(time);
        }
        if let Some(time) = self.total_timeout {
            builder = builder.total_timeout(time);
        }
        builder
    }

    /// The VIPs of the command line and of standard input.
    fn vips(&self) -> Result<Vec<Vip>, Stop> {
        let mut vips = Vec::new();
        let mut read = false;
        for item in &self.vips {
            match item {
                Item::Vip(vip) => vips.push(*vip),
                Item::StandardInput if read => {
                    return Err(Stop::Usage("`-` is given more than once".into()));
                }
                Item::StandardInput => {
                    read = true;
                    read_vips(io::stdin().lock(), &mut vips)?;
                }
            }
        }
        if read && vips.is_empty() {
            return Err(Stop::Usage("there is no VIP on standard input".into()));
        }
        Ok(vips)
    }
}

/// Reads VIPs, one a line; everything from a `#` on is a comment.
fn read_vips(input: impl BufRead, vips: &mut Vec<Vip>) -> Result<(), Stop> {
    for (at, line) in input.split(b'\n').enumerate() {
        let line = line.map_err(Stop::Input)?;
        // What is not UTF-8 is no address either, except in a comment.
        let line = String::from_utf8_lossy(&line);
        let text = line.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        match text.parse() {
            Ok(vip) => vips.push(vip),
            Err(error) => {
                let text = format!("standard input, line {}: {error}", at + 1);
                return Err(Stop::Usage(text));
            }
        }
    }
    Ok(())
}

impl Wanted {
    fn builder(&self, common: &Common) -> Builder {
        let builder = common.builder();
        if self.bring_up {
            builder.bring_up()
        } else {
            builder
        }
    }
}

impl Assign {
    fn assign(&self, vips: &[Vip]) -> Result<Report, Error> {
        let builder = || self.wanted.builder(&self.common);
        let kind = match self.create_link {
            None => return builder().open()?.assign(vips),
            Some(Create::Auto | Create::Dummy) => LinkKind::Dummy,
            Some(Create::Bridge) => LinkKind::Bridge,
        };
        let result = builder().create_link(kind).open()?.assign(vips);
        match &result {
            Err(error) if self.create_link == Some(Create::Auto) && lacks_driver(error) => {
                complain(format_args!(
                    "this kernel makes no dummy link: taking a bridge without ports and without \
                     ARP as {}",
                    self.common.link
                ));
                builder().create_link(LinkKind::Bridge).open()?.assign(vips)
            }
            _ => result,
        }
    }
}

/// Whether the kernel does not know the kind of link that it was to create (`rtnl_newlink`,
/// net/core/rtnetlink.c).
fn lacks_driver(error: &Error) -> bool {
    error.report().is_none() && error.raw_os_error() == Some(libc::EOPNOTSUPP)
}

/// What became of a call.
struct Outcome<'a> {
    command: &'static str,
    link: &'a str,
    elapsed: Duration,
    result: Result<Report, Error>,
}

impl Outcome<'_> {
    /// Tells it: failures on standard error, one line or document on standard output.
    fn tell(&self, json: bool) -> ExitCode {
        let report = match &self.result {
            Ok(report) => Some(report),
            Err(error) => error.report(),
        };
        let failures = report.map_or(&[][..], |report| &report.failures);
        for failure in failures {
            complain(format_args!("{failure}"));
        }
        let mut code = match &self.result {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) if error.kind() == ErrorKind::InvalidConfig => ExitCode::from(2),
            Err(_) => ExitCode::FAILURE,
        };
        match &self.result {
            // Every failure was named.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Incomplete => {}
            Err(error) => {
                complain(format_args!("{error}"));
                if let Some(hint) = self.hint(error.kind()) {
                    complain(format_args!("hint: {hint}"));
                }
            }
        }
        let written = if json {
            print_line(format_args!("{:#}", self.document(report)))
        } else if let Some(report) = report {
            let ms = self.elapsed.as_secs_f64() * 1e3;
            print_line(format_args!("{}: {report} in {ms:.1} ms", self.link))
        } else {
            Ok(())
        };
        match written {
            // Whoever closed it does not want to know; the exit code still tells.
            Err(error) if error.kind() != IoErrorKind::BrokenPipe => {
                complain(format_args!("cannot write to standard output: {error}"));
                code = ExitCode::FAILURE;
            }
            _ => {}
        }
        code
    }

    /// The option that would have helped, where there is one.
    fn hint(&self, kind: ErrorKind) -> Option<&'static str> {
        match kind {
            ErrorKind::LinkNotFound if self.command == "assign" => {
                Some("--create-link creates the link")
            }
            ErrorKind::LinkDown => Some("--bring-up brings the link up"),
            ErrorKind::PermissionDenied => {
                Some("to try it without privileges: unshare --user --map-root-user --net")
            }
            _ => None,
        }
    }

    /// The JSON document. Without a report nothing was written for any VIP, so zeros are true.
    fn document(&self, report: Option<&Report>) -> Value {
        let none = Report::default();
        let report = report.unwrap_or(&none);
        let error = self.result.as_ref().err().map(|error| {
            json!({
                "kind": token(error.kind()),
                "message": error.to_string(),
                "errno": error.raw_os_error(),
                "text": error.kernel_text(),
            })
        });
        json!({
            "command": self.command,
            "link": self.link,
            "verified": self.result.is_ok(),
            "elapsed_seconds": self.elapsed.as_secs_f64(),
            "assigned": report.assigned,
            "repaired": report.repaired,
            "released": report.released,
            "unchanged": report.unchanged,
            "writes": report.writes,
            "retries": report.retries,
            "failures": report.failures.iter().map(failure).collect::<Vec<_>>(),
            "error": error,
        })
    }
}

fn failure(failure: &Failure) -> Value {
    let (cause, reason) = match failure.cause {
        Cause::Rejected(why) => ("rejected".to_owned(), Some(token(why))),
        cause => (token(cause), None),
    };
    let drift = failure.drift.iter_names();
    json!({
        "vip": failure.vip.to_string(),
        "cause": cause,
        "reason": reason,
        "operation": failure.operation.map(token),
        "errno": failure.errno,
        "text": failure.text,
        "drift": drift.map(|(name, _)| name.to_lowercase()).collect::<Vec<_>>(),
        "message": failure.to_string(),
    })
}

/// The name of an enumeration's variant as a token: `NotReached` is `not_reached`. So that a
/// variant to come has one too.
fn token(variant: impl fmt::Debug) -> String {
    let mut token = String::new();
    for letter in format!("{variant:?}").chars() {
        if letter.is_ascii_uppercase() && !token.is_empty() {
            token.push('_');
        }
        token.push(letter.to_ascii_lowercase());
    }
    token
}

/// Prints a usage error, or the help that was asked for.
fn print_usage(error: &clap::Error) -> ExitCode {
    // A closed stream changes nothing about the usage.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// `println!`, but for the panic where standard output is closed.
fn print_line(line: fmt::Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// `eprintln!`, but for the panic where standard error is closed.
fn complain(line: fmt::Arguments<'_>) {
    // There is nowhere left to say so.
    let _ = writeln!(io::stderr().lock(), "vip: {line}");
}
