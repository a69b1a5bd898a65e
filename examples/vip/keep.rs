//! `vip keep`: VIPs held against whatever happens to them.

use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use viproute::{Canceller, Cause, Counters, Dispatched, Failure};

use crate::Stop;
use crate::args::{Claiming, Common, Desired, Making};
use crate::progress;
use crate::tell::{self, complain, print_line};
use crate::until::Until;

#[derive(Debug, Args)]
pub(crate) struct Keep {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    desired: Desired,
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    claiming: Claiming,
    #[command(flatten)]
    until: Until,
}

impl Keep {
    pub(crate) fn run(&self) -> Result<ExitCode, Stop> {
        let vips = self.common.vips()?;
        self.claiming.complain_of_unclaimed(&vips);
        let mut log = Log::new(self);
        let end = Arc::new(End::default());
        // Begun when the first round is over.
        let mut until = None;
        // Another round of this where the link could not be created: that shows only when there is
        // a VIP to put on it.
        let kept = self.making.run(&self.common, &self.desired, |manager| {
            let mut keeper = manager.into_keeper(self.claiming.claim())?;
            keeper.set_desired(&vips);
            end.shall_cancel(keeper.canceller());
            log.tell(&progress::during("keep", || keeper.dispatch(usize::MAX))?);
            let begun = until.get_or_insert_with(|| {
                let end = Arc::clone(&end);
                self.until.then(move || end.now())
            });
            if begun.is_err() {
                return Ok(());
            }
            let canceller = keeper.canceller();
            let kept = keeper.run(|done| {
                log.tell(done);
                if log.written.is_err() {
                    canceller.cancel();
                }
            });
            log.counters = Some(keeper.counters());
            kept
        });
        if let Some(Err(error)) = until {
            return Err(Stop::Signals(error));
        }
        log.end();
        let code = match &kept {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => tell::failed("keep", error),
        };
        Ok(tell::code_of(&log.written, code))
    }
}

/// The end, which may come between two keepers.
#[derive(Default)]
struct End(Mutex<(bool, Option<Canceller>)>);

impl End {
    fn shall_cancel(&self, canceller: Canceller) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 {
            canceller.cancel();
        }
        state.1 = Some(canceller);
    }

    fn now(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        if let Some(canceller) = &state.1 {
            canceller.cancel();
        }
    }
}

/// Prints what changes, and nothing twice.
struct Log<'a> {
    link: &'a str,
    json: bool,
    counters: Option<Counters>,
    written: io::Result<()>,
}

impl<'a> Log<'a> {
    fn new(keep: &'a Keep) -> Self {
        Self {
            link: &keep.common.link,
            json: keep.common.json,
            counters: None,
            written: Ok(()),
        }
    }

    fn tell(&mut self, done: &Dispatched) {
        // One line says what a whole family lacks.
        let is_own = |failure: &&Failure| !matches!(failure.cause, Cause::Missing(_));
        for failure in done.new_failures.iter().filter(is_own) {
            complain(format_args!("{failure}"));
        }
        for failure in done.recovered.iter().filter(is_own) {
            complain(format_args!("{}: fails no longer", failure.vip));
        }
        if self.written.is_ok() {
            self.written = if self.json {
                tell::print_json_line(done)
            } else {
                print_line(format_args!("{}: {done}", self.link))
            };
        }
    }

    fn end(&mut self) {
        if let Some(counters) = self.counters
            && self.written.is_ok()
        {
            self.written = if self.json {
                tell::print_json_line(&counters)
            } else {
                print_line(format_args!("{}: ended after {counters}", self.link))
            };
        }
    }
}
