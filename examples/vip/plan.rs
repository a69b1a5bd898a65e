//! `vip plan`: what `vip assign`, `reconcile` or `release` would do, and nothing of it done.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use viproute::{Error, Plan as Planned, Vip};

use crate::Stop;
use crate::args::{Claiming, Common, Desired};
use crate::program::say;
use crate::progress;
use crate::target::Making;
use crate::tell;

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    desired: Desired,
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    claiming: Option<Claiming>,
    /// Plan `release`, and not `assign`; needs no --source
    #[arg(long, conflicts_with_all = ["claim", "at_most", "create_link", "bring_up"])]
    release: bool,
}

impl Plan {
    pub(crate) fn run(&self) -> Result<ExitCode, Stop> {
        let vips = self.common.vips()?;
        let planned = progress::during("plan", || self.plan(&vips));
        let failures = planned.as_ref().map_or(&[][..], |plan| &plan.failures);
        for failure in failures {
            say(format_args!("{failure}"));
        }
        let code = match &planned {
            Ok(plan) if plan.failures.is_empty() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => tell::failed("plan", error),
        };
        let written = match &planned {
            Ok(plan) if self.common.json => tell::print_json(plan),
            Err(error) if self.common.json => tell::print_json(error),
            Ok(plan) => print_script(plan),
            Err(_) => Ok(()),
        };
        Ok(tell::code_of(&written, code))
    }

    fn plan(&self, vips: &[Vip]) -> Result<Planned, Error> {
        let mut manager = self.desired.open(&self.common, &self.making)?;
        match &self.claiming {
            Some(claiming) => {
                claiming.give_hints(&self.common, vips);
                manager.plan(&claiming.claim(), vips)
            }
            None if self.release => manager.plan_release(vips),
            None => manager.plan_assign(vips),
        }
    }
}

/// The script, with an end of its last line, and one flush.
fn print_script(plan: &Planned) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    write!(out, "{plan}")?;
    out.flush()
}
