//! Results as text, and in the JSON of the library.

use std::fmt;
use std::io::{self, ErrorKind as IoErrorKind, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use viproute::{Cause, Error, ErrorKind, Failure, RejectReason, Report};

use crate::program::{self, say};

/// What became of a call.
pub(crate) struct Outcome<'a> {
    pub(crate) command: &'static str,
    pub(crate) link: &'a str,
    pub(crate) elapsed: Duration,
    pub(crate) result: Result<Report, Error>,
}

impl Outcome<'_> {
    /// Failures on standard error; one line, or the report as JSON, on standard output. Without a report,
    /// the JSON is that of the error.
    pub(crate) fn tell(&self, json: bool) -> ExitCode {
        let report = match &self.result {
            Ok(report) => Some(report),
            Err(error) => error.report(),
        };
        let failures = report.map_or(&[][..], |report| &report.failures);
        for failure in failures {
            say(format_args!("{failure}"));
        }
        let code = match &self.result {
            Ok(_) => ExitCode::SUCCESS,
            // Every failure was named.
            Err(error) if error.kind() == ErrorKind::Incomplete => {
                give_hints(failures);
                ExitCode::FAILURE
            }
            Err(error) => failed(self.command, error),
        };
        let written = match (report, &self.result) {
            (Some(report), _) if json => print_json(report),
            (None, Err(error)) if json => print_json(error),
            (Some(report), _) => {
                let ms = self.elapsed.as_secs_f64() * 1e3;
                print_line(format_args!("{}: {report} in {ms:.1} ms", self.link))
            }
            (None, _) => Ok(()),
        };
        code_of(&written, code)
    }
}

/// The option that would have helped, once for each cause.
fn give_hints(failures: &[Failure]) {
    let hints = [
        (
            Cause::Missing(ErrorKind::LinkDown),
            "--bring-up brings the link up",
        ),
        (
            Cause::Rejected(RejectReason::NoSource),
            "--source gives the node's own address, once for each family",
        ),
        (
            Cause::Rejected(RejectReason::OutsideAllowed),
            "--allow admits a range",
        ),
        (Cause::Missing(ErrorKind::EmptySet), RELEASE),
    ];
    let given = |cause: Cause| failures.iter().any(|failure| failure.cause == cause);
    for (_, hint) in hints.iter().filter(|(cause, _)| given(*cause)) {
        give_hint(hint);
    }
}

const RELEASE: &str = "`vip release VIP...` takes VIPs off the link";

fn give_hint(hint: &str) {
    say(format_args!("hint: {hint}"));
}

/// Says why a command failed as a whole, with the option that would have helped, where there is
/// one.
pub(crate) fn failed(command: &str, error: &Error) -> ExitCode {
    say(format_args!("{error}"));
    let hint = match error.kind() {
        ErrorKind::LinkNotFound if matches!(command, "assign" | "reconcile" | "plan" | "keep") => {
            Some("--create-link creates the link")
        }
        ErrorKind::LinkNotFound => Some("`ip link` lists the links"),
        ErrorKind::EmptySet => Some(RELEASE),
        ErrorKind::PermissionDenied => {
            Some("to try it without privileges: unshare --user --map-root-user --net")
        }
        ErrorKind::TooManyReleases => Some("--at-most is the bound"),
        _ => None,
    };
    if let Some(hint) = hint {
        give_hint(hint);
    }
    program::exit_code(error)
}

/// The exit code of a command that wrote its result.
pub(crate) fn code_of(written: &io::Result<()>, code: ExitCode) -> ExitCode {
    match written {
        // The reader has closed it and wants no more. The exit code still counts.
        Err(error) if error.kind() != IoErrorKind::BrokenPipe => {
            say(format_args!("cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
        _ => code,
    }
}

/// `println!`, but for the panic where standard output is closed.
pub(crate) fn print_line(line: fmt::Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// A value of the library, in the JSON of its feature `serde`, as a document.
pub(crate) fn print_json(value: &impl Serialize) -> io::Result<()> {
    print_line(format_args!("{}", serde_json::to_string_pretty(value)?))
}

/// The same in one line.
pub(crate) fn print_json_line(value: &impl Serialize) -> io::Result<()> {
    print_line(format_args!("{}", serde_json::to_string(value)?))
}
