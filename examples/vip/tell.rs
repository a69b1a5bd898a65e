//! Results as text and JSON.

use std::fmt;
use std::io::{self, ErrorKind as IoErrorKind, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use viproute::{Cause, Drift, Error, ErrorKind, Failure, RejectReason, Report};

/// What became of a call.
pub(crate) struct Outcome<'a> {
    pub(crate) command: &'static str,
    pub(crate) link: &'a str,
    pub(crate) elapsed: Duration,
    pub(crate) result: Result<Report, Error>,
}

impl Outcome<'_> {
    /// Tells it: failures on standard error, one line or document on standard output.
    pub(crate) fn tell(&self, json: bool) -> ExitCode {
        let report = match &self.result {
            Ok(report) => Some(report),
            Err(error) => error.report(),
        };
        let failures = report.map_or(&[][..], |report| &report.failures);
        for failure in failures {
            complain(format_args!("{failure}"));
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
        let written = if json {
            print_line(format_args!("{:#}", self.document(report)))
        } else if let Some(report) = report {
            let ms = self.elapsed.as_secs_f64() * 1e3;
            print_line(format_args!("{}: {report} in {ms:.1} ms", self.link))
        } else {
            Ok(())
        };
        code_of(&written, code)
    }

    /// The JSON document. Without a report nothing was written for any VIP, so zeros are true.
    fn document(&self, report: Option<&Report>) -> Value {
        let none = Report::default();
        let report = report.unwrap_or(&none);
        let mut document = self::report(report);
        document["command"] = json!(self.command);
        document["link"] = json!(self.link);
        document["verified"] = json!(self.result.is_ok());
        document["elapsed_seconds"] = json!(self.elapsed.as_secs_f64());
        document["error"] = json!(self.result.as_ref().err().map(error));
        document
    }
}

pub(crate) fn report(report: &Report) -> Value {
    json!({
        "assigned": report.assigned,
        "repaired": report.repaired,
        "released": report.released,
        "unchanged": report.unchanged,
        "writes": report.writes,
        "retries": report.retries,
        "failures": failures(&report.failures),
    })
}

pub(crate) fn failures(failures: &[Failure]) -> Value {
    failures.iter().map(failure).collect()
}

/// The time, in seconds of the Unix epoch.
pub(crate) fn now() -> Value {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    json!(now.unwrap_or_default().as_secs_f64())
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
    complain(format_args!("hint: {hint}"));
}

/// Says why a command failed as a whole, with the option that would have helped, where there is
/// one.
pub(crate) fn failed(command: &str, error: &Error) -> ExitCode {
    complain(format_args!("{error}"));
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
    match error.kind() {
        ErrorKind::InvalidConfig => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

/// The exit code of a command that wrote its result.
pub(crate) fn code_of(written: &io::Result<()>, code: ExitCode) -> ExitCode {
    match written {
        // The reader has closed it and wants no more. The exit code still counts.
        Err(error) if error.kind() != IoErrorKind::BrokenPipe => {
            complain(format_args!("cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
        _ => code,
    }
}

pub(crate) fn error(error: &Error) -> Value {
    json!({
        "kind": token(error.kind()),
        "message": error.to_string(),
        "errno": error.raw_os_error(),
        "text": error.kernel_text(),
    })
}

fn failure(failure: &Failure) -> Value {
    let (cause, reason) = match failure.cause {
        Cause::Rejected(why) => ("rejected".to_owned(), Some(token(why))),
        Cause::Missing(what) => ("missing".to_owned(), Some(token(what))),
        cause => (token(cause), None),
    };
    json!({
        "vip": failure.vip.to_string(),
        "cause": cause,
        "reason": reason,
        "operation": failure.operation.map(token),
        "errno": failure.errno,
        "text": failure.text,
        "detail": failure.detail,
        "drift": drift(failure.drift),
        "message": failure.to_string(),
    })
}

pub(crate) fn drift(drift: Drift) -> Vec<String> {
    drift
        .iter_names()
        .map(|(name, _)| name.to_lowercase())
        .collect()
}

/// The name of an enumeration's variant as a token: `NotReached` is `not_reached`. So that a
/// variant to come has one too.
pub(crate) fn token(variant: impl fmt::Debug) -> String {
    let mut token = String::new();
    for letter in format!("{variant:?}").chars() {
        if letter.is_ascii_uppercase() && !token.is_empty() {
            token.push('_');
        }
        token.push(letter.to_ascii_lowercase());
    }
    token
}

/// `println!`, but for the panic where standard output is closed.
pub(crate) fn print_line(line: fmt::Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// `eprintln!`, but for the panic where standard error is closed.
pub(crate) fn complain(line: fmt::Arguments<'_>) {
    // There is nowhere left to say so.
    let _ = writeln!(io::stderr().lock(), "vip: {line}");
}
