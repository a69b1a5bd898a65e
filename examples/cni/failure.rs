//! Errors of the library as errors of CNI.

use std::fmt::Display;

use rscni_plugin::error::Error;
use viproute::{Cause, ErrorKind, Failure};

// The specification leaves the codes from 100 to plugins.

/// A call failed in a way that no repetition cures.
const FAILED: u32 = 100;
/// CHECK found differences.
const DIFFERS: u32 = 101;
/// ADD for an attachment that has its link.
const EXISTS: u32 = 102;

/// The number of VIPs that an error names.
const NAMED: usize = 10;

/// A failed call.
pub(crate) fn of_call(error: viproute::Error) -> Error {
    let failures = error.report().map_or(&[][..], |report| &report.failures);
    let text = match failures {
        [] => error.to_string(),
        failures => list(failures),
    };
    let is_rejected = |failure: &Failure| matches!(failure.cause, Cause::Rejected(_));
    let is_lasting = |failure: &Failure| {
        let lacks_ipv6 = Cause::Missing(ErrorKind::Ipv6Disabled);
        failure.cause == Cause::Kernel || failure.cause == lacks_ipv6
    };
    match error.kind() {
        ErrorKind::InvalidConfig => Error::InvalidNetworkConfig(text),
        ErrorKind::Incomplete if failures.iter().any(is_rejected) => {
            Error::InvalidNetworkConfig(text)
        }
        // Another device has the VIP, another writer interferes, or the source is yet to come.
        ErrorKind::Incomplete if !failures.iter().any(is_lasting) => Error::TryAgainLater(text),
        // ADD has just created it: another program deleted it.
        ErrorKind::LinkNotFound => Error::TryAgainLater(text),
        _ => Error::Custom(FAILED, "Cannot hold the VIPs".into(), text),
    }
}

/// CHECK's error.
pub(crate) fn differs(wrong: &[String]) -> Error {
    Error::Custom(
        DIFFERS,
        "VIPs are not in their single-route state".into(),
        list(wrong),
    )
}

pub(crate) fn exists(link: &str) -> Error {
    Error::Custom(
        EXISTS,
        "The attachment exists".into(),
        format!("DEL has not deleted its link {link}"),
    )
}

/// An error, and the error of the attempt to undo what came before it.
pub(crate) fn both(error: &Error, undoing: &Error) -> Error {
    let text = format!("{}; cannot roll back: {undoing}", error.details());
    Error::Custom(error.into(), error.msg().into(), text)
}

fn list(lines: &[impl Display]) -> String {
    let named = lines.iter().take(NAMED).map(ToString::to_string);
    let mut text = named.collect::<Vec<_>>().join("; ");
    if let Some(more @ 1..) = lines.len().checked_sub(NAMED) {
        text += &format!("; and {more} more");
    }
    text
}
