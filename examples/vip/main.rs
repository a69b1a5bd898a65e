//! Puts VIPs on a link, audits and repairs them, and takes them off: `viproute` as a command.
//!
//! ```text
//! cargo run -p vip --example vip -- assign --link kube-dummy-if --create-link \
//!     --source 192.0.2.10 --source 2001:db8::10 10.96.0.10 2001:db8:42:1::d45a
//! ```
//!
//! It needs `CAP_NET_ADMIN`; to try it without, run it in `unshare --user --map-root-user --net`.
//!
//! A further command is a variant of [`Command`] with what it does in [`Command::run`]. A command
//! that ends in a report is a [`Call`] there; any other has a module, like [`audit`].

mod args;
mod audit;
mod check;
mod keep;
mod parse;
mod plan;
mod program;
mod progress;
mod target;
mod tell;
mod until;
mod watch;

use std::io;
use std::process::ExitCode;
use std::time::Instant;

use clap::error::ErrorKind as UsageKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use viproute::{Error, Report, Vip};

use args::{Claiming, Common, Desired};
use audit::Audit;
use check::Check;
use keep::Keep;
use plan::Plan;
use program::say;
use target::Making;
use tell::Outcome;
use watch::Watch;

const EXIT_CODES: &str = "\
Exit codes:
  0  every VIP was seen in the kernel as desired
  1  some VIP fell short, or the call failed; standard error says which and why
  2  wrong usage; nothing was written";

const AUDIT_EXIT_CODES: &str = "\
Exit codes:
  0  every VIP was seen in the kernel as desired, and so were the link and the sources
  1  some VIP drifted, the link or a source does not let VIPs be reached, or the link could not be read
  2  wrong usage
  3  nothing is known to be wrong, but some VIP was not judged, because its --source was not given";

const PLAN_EXIT_CODES: &str = "\
Exit codes:
  0  the script brings about the desired state
  1  some VIP would fall short, or there is no plan; standard error says which and why
  2  wrong usage";

const CHECK_EXIT_CODES: &str = "\
Exit codes:
  0  every address is admissible
  1  some address is not; standard error says which and why
  2  wrong usage";

const UNTIL_EXIT_CODES: &str = "\
Exit codes:
  0  it was asked to end, or had no reader any more
  1  it could not go on; standard error says why
  2  wrong usage";

const EXAMPLES: &str = "\
Examples:
  vip assign --link kube-dummy-if --create-link --source 192.0.2.10 10.96.0.10
  kubectl get services -A -o jsonpath='{range .items[*]}{.spec.clusterIP}{\"\\n\"}{end}' \\
    | grep -v None | vip reconcile --link kube-dummy-if --source 192.0.2.10 \\
      --claim 10.96.0.0/12 --at-most 20 -
  vip normalize --link kube-dummy-if --source 192.0.2.10 --source 2001:db8::10
  vip audit --link kube-dummy-if --source 192.0.2.10 --source 2001:db8::10 --deep
  vip watch --link kube-dummy-if --json --for 60
  vip plan --link kube-dummy-if --source 192.0.2.10 --claim link 10.96.0.10 | less
  vip plan --link kube-dummy-if --release 10.96.0.10 | less
  vip check --link kube-dummy-if --source 192.0.2.10 --allow 10.96.0.0/12 10.96.0.10
  vip keep --link kube-dummy-if --source 192.0.2.10 --claim link 10.96.0.10
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
    /// Needs no --source; a source that is given is never treated as a VIP.
    #[command(after_help = EXIT_CODES, mut_arg("vips", |arg| arg.required(true)))]
    Release(Release),
    /// Assign VIPs and repair them, and release those that are claimed and not given
    #[command(
        after_help = EXIT_CODES,
        mut_arg("source", |arg| arg.required(true)),
        mut_arg("vips", |arg| arg.required(true))
    )]
    Reconcile(Reconcile),
    /// Print what `assign` would do, as a shell script of `ip` commands; do nothing of it
    ///
    /// With --claim, what `reconcile` would do; with --release, what `release` would do.
    #[command(
        after_help = PLAN_EXIT_CODES,
        mut_arg("source", |arg| arg.required_unless_present("release")),
        mut_arg("claim", |arg| arg.required(false)),
        mut_arg("vips", |arg| arg.required(true))
    )]
    Plan(Plan),
    /// Reconcile, and repair what happens to the VIPs from then on, until asked to end
    ///
    /// Prints a line for each change. The VIPs stay.
    #[command(
        after_help = UNTIL_EXIT_CODES,
        mut_arg("source", |arg| arg.required(true)),
        mut_arg("vips", |arg| arg.required(true))
    )]
    Keep(Keep),
    /// Say how VIPs differ from their single-route state: those given, or else all on the link
    ///
    /// A VIP that is given but not on the link has drifted. Says, too, if the link or a source does
    /// not let VIPs be reached. Writes nothing.
    #[command(after_help = AUDIT_EXIT_CODES)]
    Audit(Audit),
    /// Say whether addresses are admissible as VIPs, for these sources and ranges
    ///
    /// Reads nothing of the kernel, so the link need not be there.
    #[command(after_help = CHECK_EXIT_CODES, mut_arg("vips", |arg| arg.required(true)))]
    Check(Check),
    /// Print what happens to the VIPs, one event a line: to those given, or else to all of the link
    ///
    /// The link need not be there yet. VIPs that are there already are not listed.
    #[command(after_help = UNTIL_EXIT_CODES)]
    Watch(Watch),
}

#[derive(Debug, Args)]
struct Assign {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    desired: Desired,
    #[command(flatten)]
    making: Making,
}

#[derive(Debug, Args)]
struct Normalize {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    desired: Desired,
}

#[derive(Debug, Args)]
struct Release {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Reconcile {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    desired: Desired,
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    claiming: Claiming,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return print_usage(&program::without_tip(error)),
    };
    match cli.command.run() {
        Ok(code) => code,
        Err(Stop::Usage(text)) => cli.command.usage(&text),
        Err(Stop::Input(error)) => {
            say(format_args!("cannot read standard input: {error}"));
            ExitCode::FAILURE
        }
        Err(Stop::Signals(error)) => {
            say(format_args!("cannot listen to signals: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Why a command ended before its call.
#[derive(Debug)]
enum Stop {
    Usage(String),
    Input(io::Error),
    Signals(io::Error),
}

impl Command {
    fn name(&self) -> &'static str {
        match self {
            Self::Assign(_) => Assign::NAME,
            Self::Normalize(_) => Normalize::NAME,
            Self::Release(_) => Release::NAME,
            Self::Reconcile(_) => Reconcile::NAME,
            Self::Plan(_) => "plan",
            Self::Keep(_) => "keep",
            Self::Audit(_) => "audit",
            Self::Check(_) => "check",
            Self::Watch(_) => "watch",
        }
    }

    fn run(&self) -> Result<ExitCode, Stop> {
        match self {
            Self::Assign(args) => args.run(),
            Self::Normalize(args) => args.run(),
            Self::Release(args) => args.run(),
            Self::Reconcile(args) => args.run(),
            Self::Plan(args) => args.run(),
            Self::Keep(args) => args.run(),
            Self::Audit(args) => args.run(),
            Self::Check(args) => args.run(),
            Self::Watch(args) => args.run(),
        }
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

/// A command that is one call of the library and ends in its report.
trait Call {
    const NAME: &'static str;

    fn common(&self) -> &Common;

    fn call(&self, vips: &[Vip]) -> Result<Report, Error>;

    fn run(&self) -> Result<ExitCode, Stop> {
        let common = self.common();
        let vips = common.vips()?;
        let begun = Instant::now();
        let result = progress::during(Self::NAME, || self.call(&vips));
        let outcome = Outcome {
            command: Self::NAME,
            link: &common.target.link,
            elapsed: begun.elapsed(),
            result,
        };
        Ok(outcome.tell(common.json))
    }
}

impl Call for Assign {
    const NAME: &'static str = "assign";

    fn common(&self) -> &Common {
        &self.common
    }

    fn call(&self, vips: &[Vip]) -> Result<Report, Error> {
        self.desired.open(&self.common, &self.making)?.assign(vips)
    }
}

impl Call for Normalize {
    const NAME: &'static str = "normalize";

    fn common(&self) -> &Common {
        &self.common
    }

    fn call(&self, vips: &[Vip]) -> Result<Report, Error> {
        let mut manager = self.desired.builder(&self.common)?.open()?;
        // Not `vips.is_empty()`: an empty list must never mean the whole link.
        if self.common.vips.is_empty() {
            manager.normalize()
        } else {
            manager.normalize_only(vips)
        }
    }
}

impl Call for Release {
    const NAME: &'static str = "release";

    fn common(&self) -> &Common {
        &self.common
    }

    fn call(&self, vips: &[Vip]) -> Result<Report, Error> {
        self.common.builder()?.open()?.release(vips)
    }
}

impl Call for Reconcile {
    const NAME: &'static str = "reconcile";

    fn common(&self) -> &Common {
        &self.common
    }

    fn call(&self, vips: &[Vip]) -> Result<Report, Error> {
        self.claiming.give_hints(&self.common, vips);
        let claim = self.claiming.claim();
        let mut manager = self.desired.open(&self.common, &self.making)?;
        manager.reconcile(&claim, vips)
    }
}

/// Prints a usage error, or the help that was asked for.
fn print_usage(error: &clap::Error) -> ExitCode {
    // A closed stream changes nothing about the usage.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
