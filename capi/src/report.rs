//! The report of a call.

use std::ffi::{CString, c_char, c_int};

use serde::{Serialize, Serializer};

use crate::boundary::{Text, fill, fill_array, free, guard, owned_text, text_of};
use crate::names::{Cause, Code, Operation, OutcomeKind, RejectReason};
use crate::vip::Vip;

/// What a call did, VIP by VIP. Immutable, so several threads may read it at once.
#[derive(Debug)]
pub struct Report {
    done: Done,
    /// Of each failure.
    messages: Vec<CString>,
    json: Text,
}

/// What a call or a dispatch returned.
#[derive(Debug)]
enum Done {
    Call(viproute::Report),
    Dispatch(Box<viproute::Dispatched>),
}

impl Done {
    fn report(&self) -> &viproute::Report {
        match self {
            Self::Call(report) => report,
            Self::Dispatch(done) => &done.report,
        }
    }
}

impl Serialize for Done {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Call(report) => report.serialize(to),
            Self::Dispatch(done) => done.serialize(to),
        }
    }
}

impl From<Done> for Report {
    fn from(done: Done) -> Self {
        let failures = done.report().failures.iter();
        let messages = failures.map(|failure| owned_text(failure.to_string()));
        Self {
            messages: messages.collect(),
            done,
            json: Text::default(),
        }
    }
}

impl From<viproute::Report> for Report {
    fn from(report: viproute::Report) -> Self {
        Done::Call(report).into()
    }
}

impl From<viproute::Dispatched> for Report {
    fn from(done: viproute::Dispatched) -> Self {
        Done::Dispatch(Box::new(done)).into()
    }
}

/// How many VIPs a call served, and how.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// VIPs that were not on the link.
    pub assigned: u64,
    /// VIPs that were on the link, and had drifted.
    pub repaired: u64,
    /// VIPs that were removed.
    pub released: u64,
    /// VIPs that were already as desired.
    pub unchanged: u64,
    /// Messages that write, sent to the kernel.
    pub writes: u64,
    /// Steps that were repeated.
    pub retries: u64,
    /// How many outcomes the report has: one for each assigned, repaired or released VIP.
    pub outcomes: u64,
    /// How many failures the report has.
    pub failures: u64,
}

/// A VIP that a call brought into the desired state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// The VIP.
    pub vip: Vip,
    /// What was done.
    pub kind: OutcomeKind,
    /// The drift that a repair ended: flags VIPROUTE_DRIFT_*.
    pub cured: u32,
}

/// A VIP that is not in the desired state, and why.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// The VIP.
    pub vip: Vip,
    /// Why it failed.
    pub cause: Cause,
    /// Why it was rejected, if it was.
    pub reason: RejectReason,
    /// What its family lacks, if the cause is VIPROUTE_CAUSE_MISSING; else VIPROUTE_CODE_OK.
    pub missing: Code,
    /// The operation that failed.
    pub operation: Operation,
    /// The kernel's errno, or 0.
    pub error_number: c_int,
    /// What the call had begun to do for the VIP.
    pub begun: OutcomeKind,
    /// How the VIP differed when it was last seen: flags VIPROUTE_DRIFT_*.
    pub drift: u32,
    /// The failure in words, with the VIP. The report owns the text.
    pub message: *const c_char,
}

impl Report {
    fn failures(&self) -> impl Iterator<Item = Failure> {
        let failures = self.done.report().failures.iter();
        failures.zip(&self.messages).map(Failure::from)
    }

    fn counts(&self) -> Counts {
        let report = self.done.report();
        Counts {
            assigned: report.assigned as u64,
            repaired: report.repaired as u64,
            released: report.released as u64,
            unchanged: report.unchanged as u64,
            writes: report.writes,
            retries: report.retries,
            outcomes: report.outcomes.len() as u64,
            failures: report.failures.len() as u64,
        }
    }
}

impl From<&viproute::Outcome> for Outcome {
    fn from(outcome: &viproute::Outcome) -> Self {
        Self {
            vip: outcome.vip.into(),
            kind: outcome.kind.into(),
            cured: outcome.cured.bits(),
        }
    }
}

impl From<(&viproute::Failure, &CString)> for Failure {
    fn from((failure, message): (&viproute::Failure, &CString)) -> Self {
        let (reason, missing) = match failure.cause {
            viproute::Cause::Rejected(why) => (why.into(), Code::Ok),
            viproute::Cause::Missing(what) => (RejectReason::None, what.into()),
            _ => (RejectReason::None, Code::Ok),
        };
        Self {
            vip: failure.vip.into(),
            cause: failure.cause.into(),
            reason,
            missing,
            operation: failure.operation.map_or(Operation::None, Operation::from),
            error_number: failure.errno.unwrap_or(0),
            begun: failure.begun.map_or(OutcomeKind::None, OutcomeKind::from),
            drift: failure.drift.bits(),
            message: message.as_ptr(),
        }
    }
}

/// Copies the report's counts to `*counts`. `size` is `sizeof *counts`. NULL as `counts`: does
/// nothing. NULL as `report`: all counts are 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_report_counts(
    report: *const Report,
    counts: *mut Counts,
    size: usize,
) {
    guard(|| {
        // SAFETY: NULL or a report that lives, by the contract.
        let report = unsafe { report.as_ref() };
        let value = report.map(Report::counts).unwrap_or_default();
        // SAFETY: NULL or a place of this size, by the contract.
        unsafe { fill(counts, size, &value) };
    });
}

/// Copies at most `count` outcomes, from the outcome number `first` on, to the array `outcomes`.
/// They are in the order of their addresses, IPv4 first. `size` is `sizeof *outcomes`. Returns how
/// many were copied. NULL as `report` or `outcomes`: 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_report_outcomes(
    report: *const Report,
    first: usize,
    outcomes: *mut Outcome,
    size: usize,
    count: usize,
) -> usize {
    guard(|| {
        // SAFETY: NULL or a report that lives, by the contract.
        let report = unsafe { report.as_ref() };
        let all = report
            .into_iter()
            .flat_map(|report| &report.done.report().outcomes);
        // SAFETY: NULL or an array of this size, by the contract.
        unsafe { fill_array(outcomes, size, count, all.skip(first).map(Outcome::from)) }
    })
    .unwrap_or(0)
}

/// As viproute_report_outcomes, for the failures. Their messages live as long as the report.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_report_failures(
    report: *const Report,
    first: usize,
    failures: *mut Failure,
    size: usize,
    count: usize,
) -> usize {
    guard(|| {
        // SAFETY: NULL or a report that lives, by the contract.
        let report = unsafe { report.as_ref() };
        let all = report.into_iter().flat_map(Report::failures).skip(first);
        // SAFETY: NULL or an array of this size, by the contract.
        unsafe { fill_array(failures, size, count, all) }
    })
    .unwrap_or(0)
}

/// The report as JSON, as the library's feature `serde` defines it; of a dispatch, all of the
/// dispatch, with the report in the field "report". The report owns the text. NULL: NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_report_json(report: *const Report) -> *const c_char {
    // SAFETY: NULL or a report that lives, by the contract.
    unsafe { text_of(report, |report| report.json.json(&report.done)) }
}

/// Frees a report, its JSON and the messages of its failures. NULL: does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_report_free(report: *mut Report) {
    // SAFETY: NULL or a report that the caller owns, by the contract.
    unsafe { free(report) };
}
