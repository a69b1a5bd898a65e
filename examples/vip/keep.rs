//! `vip keep`: VIPs held against whatever happens to them.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use viproute::{Counters, Dispatched, ErrorKind, Vip};

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
        let begun = progress::during("keep", || {
            self.making.run(&self.common, &self.wanted, |manager| {
                let mut keeper = manager.into_keeper(self.claiming.claim())?;
                keeper.set_desired(&vips);
                let first = keeper.dispatch(usize::MAX)?;
                Ok((keeper, first))
            })
        });
        let (mut keeper, first) = match begun {
            Ok(begun) => begun,
            Err(error) => return Ok(tell::failed("keep", &error)),
        };
        let canceller = keeper.canceller();
        self.until
            .then(move || canceller.cancel())
            .map_err(Stop::Signals)?;
        let mut log = Log::new(self);
        log.tell(&first);
        let canceller = keeper.canceller();
        let kept = keeper.run(|done| {
            log.tell(done);
            if log.written.is_err() {
                canceller.cancel();
            }
        });
        log.end(keeper.counters());
        let code = match &kept {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => tell::failed("keep", error),
        };
        Ok(tell::code_of(&log.written, code))
    }
}

/// Says what changes, and nothing twice.
struct Log<'a> {
    link: &'a str,
    json: bool,
    any: bool,
    missing: Option<ErrorKind>,
    failures: BTreeMap<Vip, String>,
    written: io::Result<()>,
}

impl<'a> Log<'a> {
    fn new(keep: &'a Keep) -> Self {
        Self {
            link: &keep.common.link,
            json: keep.common.json,
            any: false,
            missing: None,
            failures: BTreeMap::new(),
            written: Ok(()),
        }
    }

    fn tell(&mut self, done: &Dispatched) {
        let report = &done.report;
        let mut is_news = !self.any || report.writes > 0 || done.missing != self.missing;
        if report.is_complete() && report.writes > 0 {
            self.failures.clear();
        }
        // What is missing says it for all.
        let told = done.missing.is_none().then_some(&report.failures);
        for failure in told.into_iter().flatten() {
            let text = failure.to_string();
            if self.failures.get(&failure.vip) != Some(&text) {
                complain(format_args!("{text}"));
                self.failures.insert(failure.vip, text);
                is_news = true;
            }
        }
        (self.any, self.missing) = (true, done.missing);
        if is_news && self.written.is_ok() {
            self.written = if self.json {
                let mut line = tell::report(report);
                line["time"] = tell::now();
                line["missing"] = json!(done.missing.map(tell::token));
                line["detail"] = json!(done.detail);
                print_line(format_args!("{line}"))
            } else {
                print_line(format_args!("{}: {done}", self.link))
            };
        }
    }

    fn end(&mut self, counters: Counters) {
        if self.written.is_ok() {
            self.written = if self.json {
                let counters = json!({
                    "events": counters.events,
                    "looks": counters.looks,
                    "repairs": counters.repairs,
                    "resyncs": counters.resyncs,
                    "fights": counters.fights,
                });
                let line = json!({ "time": tell::now(), "counters": counters });
                print_line(format_args!("{line}"))
            } else {
                print_line(format_args!("{}: ended after {counters}", self.link))
            };
        }
    }
}
