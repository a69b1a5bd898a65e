//! What the programs `vip` and `controller` have in common: standard error, exit codes, signals.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use clap::error::{ContextKind, ContextValue, ErrorKind as UsageKind};
use signal_hook::iterator::Signals;
use viproute::{Cause, Dispatched, ErrorKind, Failure};

/// A line on standard error, after the program's name; `eprintln!`, but for the panic where that is closed.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    // There is nowhere left to say so.
    let _ = writeln!(io::stderr().lock(), "{}: {line}", env!("CARGO_PKG_NAME"));
}

/// A line for each failure that is new or has ended. What a whole family lacks, the dispatch itself says.
pub(crate) fn say_failures(done: &Dispatched) {
    let is_own = |failure: &&Failure| !matches!(failure.cause, Cause::Missing(_));
    for failure in done.new_failures.iter().filter(is_own) {
        say(format_args!("{failure}"));
    }
    for failure in done.recovered.iter().filter(is_own) {
        say(format_args!("{}: fails no longer", failure.vip));
    }
}

/// The exit code of a program that this error ends: 2 for a wrong configuration, as for wrong usage.
pub(crate) fn exit_code(error: &(dyn Error + 'static)) -> ExitCode {
    match error.downcast_ref().map(viproute::Error::kind) {
        Some(ErrorKind::InvalidConfig) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

/// An error of usage, without clap's tip to pass an unknown option as a value: no VIP begins with `-`.
pub(crate) fn without_tip(mut error: clap::Error) -> clap::Error {
    if error.kind() == UsageKind::UnknownArgument {
        error.insert(ContextKind::Suggested, ContextValue::None);
    }
    error
}

/// Receives these signals from now on.
pub(crate) fn receive(signals: &[i32]) -> io::Result<Receiver<i32>> {
    let mut signals = Signals::new(signals)?;
    let (send, received) = mpsc::channel();
    thread::spawn(move || signals.forever().try_for_each(|signal| send.send(signal)));
    Ok(received)
}
