//! The spans and events of the feature `tracing`. Without the feature, each function here is empty, and
//! [`span!`] evaluates nothing. The crate's documentation lists the names and fields.

#![cfg_attr(not(feature = "tracing"), allow(unused_variables))]

#[cfg(feature = "tracing")]
use std::fmt;
use std::time::Duration;

use crate::base::{Family, Vip};
use crate::core::Operation;
#[cfg(feature = "tracing")]
use crate::link::LinkRef;
use crate::outcome::{Audit, Error, ErrorKind, Failure, Report};

/// The span of a call, open until this is dropped.
pub(crate) struct Span {
    #[cfg(feature = "tracing")]
    pub(crate) _entered: tracing::span::EnteredSpan,
}

/// Opens the span of a call that serves this link and was given so many VIPs.
macro_rules! span {
    ($call:literal, $link:expr, $vips:expr) => {
        $crate::trace::Span {
            #[cfg(feature = "tracing")]
            _entered: {
                let link = $crate::trace::link(&$link);
                tracing::info_span!(target: "viproute", $call, link, vips = $vips).entered()
            },
        }
    };
}
pub(crate) use span;

/// The link as a field: its name, or its index.
#[cfg(feature = "tracing")]
pub(crate) fn link(link: &LinkRef) -> tracing::field::DisplayValue<&dyn fmt::Display> {
    tracing::field::display(match link {
        LinkRef::Name(name) => name,
        LinkRef::Index(index) => index,
    })
}

/// An event; its message is its name.
macro_rules! event {
    ($level:ident, $name:literal $(, $($field:tt)*)?) => {
        #[cfg(feature = "tracing")]
        tracing::$level!(target: "viproute", $($($field)*,)? $name)
    };
}

/// What is read again because the kernel did not give all of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lost {
    Notifications,
    Dump,
    Replies,
    Requests,
}

impl Lost {
    #[cfg(feature = "tracing")]
    fn as_str(self) -> &'static str {
        match self {
            Self::Notifications => "notifications",
            Self::Dump => "dump",
            Self::Replies => "replies",
            Self::Requests => "requests",
        }
    }
}

pub(crate) fn lost(what: Lost) {
    event!(info, "lost", what = what.as_str());
}

/// The end of a call that writes.
pub(crate) fn ended(result: Result<Report, Error>) -> Result<Report, Error> {
    #[cfg(feature = "tracing")]
    match &result {
        Ok(report) => done(report, &report.failures),
        Err(failed) => {
            if let Some(report) = failed.report() {
                done(report, &report.failures);
            }
            if failed.kind() != ErrorKind::Incomplete {
                error(failed);
            }
        }
    }
    result
}

/// What a call did: its outcomes, and of its failures those that are new.
pub(crate) fn done(report: &Report, failures: &[Failure]) {
    #[cfg(feature = "tracing")]
    for outcome in &report.outcomes {
        let kind = outcome.kind.as_str();
        event!(debug, "outcome", vip = %outcome.vip, kind, cured = %outcome.cured);
    }
    #[cfg(feature = "tracing")]
    for failure in failures {
        event!(
            warn,
            "failure",
            vip = %failure.vip,
            cause = failure.cause.as_str(),
            operation = failure.operation.map(Operation::as_str),
            errno = failure.errno,
            text = failure.text.as_deref(),
            detail = failure.detail.as_deref(),
            drift = %failure.drift
        );
    }
    event!(
        info,
        "done",
        assigned = report.assigned,
        repaired = report.repaired,
        released = report.released,
        unchanged = report.unchanged,
        failed = report.failures.len(),
        writes = report.writes,
        retries = report.retries
    );
}

pub(crate) fn audited(audit: &Audit) {
    event!(
        info,
        "audited",
        vips = audit.vips.len(),
        drifted = audit.drifted().count()
    );
}

/// A failure of the whole call.
pub(crate) fn error(error: &Error) {
    event!(
        warn,
        "error",
        kind = error.kind().as_str(),
        detail = error.detail()
    );
}

/// A keeper releases no VIP any more but by name, if that `is_new`.
pub(crate) fn refused(is_new: bool, why: Option<&(ErrorKind, Box<str>)>) {
    #[cfg(feature = "tracing")]
    if let Some((kind, detail)) = why.filter(|_| is_new) {
        event!(warn, "refused", kind = kind.as_str(), detail);
    }
}

/// A keeper's failures that ended.
pub(crate) fn recovered(failures: &[Failure]) {
    #[cfg(feature = "tracing")]
    for failure in failures {
        event!(info, "recovered", vip = %failure.vip, cause = failure.cause.as_str());
    }
}

/// A call waits until the kernel is done with so many VIPs.
pub(crate) fn wait(vips: usize) {
    event!(debug, "wait", vips);
}

/// A call, or a keeper for this VIP, for the link or for the whole of it, does nothing for this time.
pub(crate) fn pause(vip: Option<Vip>, time: Duration) {
    event!(
        debug,
        "pause",
        vip = vip.map(tracing::field::display),
        seconds = time.as_secs_f64()
    );
}

/// A call repeats an earlier write, if `repeats`.
pub(crate) fn retry(repeats: bool, vip: Vip, operation: Operation) {
    #[cfg(feature = "tracing")]
    if repeats {
        event!(debug, "retry", vip = %vip, operation = operation.as_str());
    }
}

/// A keeper reads its whole link.
pub(crate) fn resync() {
    event!(debug, "resync");
}

/// What a keeper lacks: of one family or of both, what, and in full.
pub(crate) type Lack<'a> = (Option<Family>, ErrorKind, &'a str);

/// What a keeper lacks now, and lacked before.
pub(crate) fn lacks<'a>(
    before: impl Iterator<Item = Lack<'a>> + Clone,
    now: impl Iterator<Item = Lack<'a>> + Clone,
) {
    #[cfg(feature = "tracing")]
    {
        for lack in before
            .clone()
            .filter(|lack| !now.clone().any(|other| other == *lack))
        {
            let (family, kind, _) = lack;
            event!(
                info,
                "available",
                family = family.map(Family::as_str),
                kind = kind.as_str()
            );
        }
        for lack in now.filter(|lack| !before.clone().any(|other| other == *lack)) {
            let (family, kind, detail) = lack;
            let family = family.map(Family::as_str);
            event!(warn, "missing", family, kind = kind.as_str(), detail);
        }
    }
}
