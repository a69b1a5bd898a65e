//! `vip check`: whether addresses are admissible as VIPs.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use viproute::{Error, RejectReason, Vip};

use crate::Stop;
use crate::args::Common;
use crate::program::say;
use crate::tell::{self, print_line};

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// The reason why each VIP is not admissible; none if it is.
type Checked = BTreeMap<Vip, Option<RejectReason>>;

impl Check {
    pub(crate) fn run(&self) -> Result<ExitCode, Stop> {
        let vips = self.common.vips()?;
        let checked = self.check(&vips);
        let rejected = || {
            checked
                .iter()
                .flatten()
                .filter_map(|(vip, why)| Some((vip, (*why)?)))
        };
        for (vip, why) in rejected() {
            say(format_args!("{vip}: {why}"));
        }
        let code = match &checked {
            Ok(_) if rejected().next().is_none() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => tell::failed("check", error),
        };
        let written = match &checked {
            Ok(checked) if self.common.json => tell::print_json(checked),
            Err(error) if self.common.json => tell::print_json(error),
            Ok(checked) => print_line(format_args!(
                "{} admissible, {} rejected",
                checked.len() - rejected().count(),
                rejected().count()
            )),
            Err(_) => Ok(()),
        };
        Ok(tell::code_of(&written, code))
    }

    fn check(&self, vips: &[Vip]) -> Result<Checked, Error> {
        let manager = self.common.builder()?.open()?;
        let checked = vips.iter().map(|vip| (*vip, manager.check(*vip).err()));
        Ok(checked.collect())
    }
}
