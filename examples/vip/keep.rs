//! `vip keep`: VIPs held against whatever happens to them.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use serde_json::{Value, json};
use viproute::{Canceller, Cause, Counters, Dispatched, Failure, Missing, Vip};

use crate::Stop;
use crate::args::{Claiming, Common, Making, Wanted};
use crate::progress;
use crate::tell::{self, complain, print_line};
use crate::until::Until;

#[derive(Debug, Args)]
pub(crate) struct Keep {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    wanted: Wanted,
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
        let mut log = Log::new(self);
        let end = Arc::new(End::default());
        // Begun when the first round is over.
        let mut until = None;
        // Another round of this where the link could not be created: that shows only when there is
        // a VIP to put on it.
        let kept = self.making.run(&self.common, &self.wanted, |manager| {
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

/// Says what changes, and nothing twice.
struct Log<'a> {
    link: &'a str,
    json: bool,
    any: bool,
    missing: Vec<Missing>,
    failures: BTreeMap<Vip, String>,
    counters: Option<Counters>,
    written: io::Result<()>,
}

impl<'a> Log<'a> {
    fn new(keep: &'a Keep) -> Self {
        Self {
            link: &keep.common.link,
            json: keep.common.json,
            any: false,
            missing: Vec::new(),
            failures: BTreeMap::new(),
            counters: None,
            written: Ok(()),
        }
    }

    fn tell(&mut self, done: &Dispatched) {
        let report = &done.report;
        let mut is_news = !self.any || report.writes > 0 || done.missing != self.missing;
        if report.is_complete() && report.writes > 0 {
            self.failures.clear();
        }
        // What is missing, or refused, says it for all.
        let is_own = |failure: &&Failure| !matches!(failure.cause, Cause::Missing(_));
        let is_link_there = done.missing.iter().all(|missing| missing.family.is_some());
        let told = is_link_there.then_some(&report.failures);
        for failure in told.into_iter().flatten().filter(is_own) {
            let text = failure.to_string();
            if self.failures.get(&failure.vip) != Some(&text) {
                complain(format_args!("{text}"));
                self.failures.insert(failure.vip, text);
                is_news = true;
            }
        }
        self.any = true;
        self.missing.clone_from(&done.missing);
        if is_news && self.written.is_ok() {
            self.written = if self.json {
                let mut line = tell::report(report);
                line["time"] = tell::now();
                line["missing"] = done.missing.iter().map(missing).collect();
                line["refused"] = json!(done.refused.map(tell::token));
                line["detail"] = json!(done.detail);
                print_line(format_args!("{line}"))
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
                let counters = json!({
                    "events": counters.events,
                    "looks": counters.looks,
                    "repairs": counters.repairs,
                    "resyncs": counters.resyncs,
                    "backoffs": counters.backoffs,
                });
                let line = json!({ "time": tell::now(), "counters": counters });
                print_line(format_args!("{line}"))
            } else {
                print_line(format_args!("{}: ended after {counters}", self.link))
            };
        }
    }
}

fn missing(missing: &Missing) -> Value {
    json!({
        "family": missing.family.map(|family| family.to_string()),
        "kind": tell::token(missing.kind),
        "detail": missing.detail,
    })
}
