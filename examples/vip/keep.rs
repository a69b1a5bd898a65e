//! `vip keep`: VIPs held against whatever happens to them.

use std::io;
use std::process::ExitCode;

use clap::Args;
use viproute::{Counters, Dispatched, Error, Keeper, Vip};

use crate::Stop;
use crate::args::{Claiming, Common, Desired};
use crate::program;
use crate::progress;
use crate::target::Making;
use crate::tell::{self, print_line};
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
        self.claiming.give_hints(&self.common, &vips);
        let mut log = Log::new(self);
        let kept = self.keep(&vips, &mut log)?;
        log.end();
        let code = match &kept {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => tell::failed("keep", error),
        };
        Ok(tell::code_of(&log.written, code))
    }

    fn keep(&self, vips: &[Vip], log: &mut Log<'_>) -> Result<Result<(), Error>, Stop> {
        let mut keeper = match self.begin(vips, log) {
            Ok(keeper) => keeper,
            Err(error) => return Ok(Err(error)),
        };
        let canceller = keeper.canceller();
        // Begun when the first round is over.
        let end = canceller.clone();
        self.until
            .then(move || end.cancel())
            .map_err(Stop::Signals)?;
        let kept = keeper.run(|done| {
            log.tell(done);
            if log.written.is_err() {
                canceller.cancel();
            }
        });
        log.counters = Some(keeper.counters());
        Ok(kept)
    }

    /// The first round.
    fn begin(&self, vips: &[Vip], log: &mut Log<'_>) -> Result<Keeper, Error> {
        let manager = self.desired.open(&self.common, &self.making)?;
        let mut keeper = manager.into_keeper(self.claiming.claim())?;
        keeper.set_desired(vips);
        log.tell(&progress::during("keep", || keeper.dispatch(usize::MAX))?);
        Ok(keeper)
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
            link: &keep.common.target.link,
            json: keep.common.json,
            counters: None,
            written: Ok(()),
        }
    }

    fn tell(&mut self, done: &Dispatched) {
        program::say_failures(done);
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
