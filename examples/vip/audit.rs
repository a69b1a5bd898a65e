//! `vip audit`: what is on the link, against what should be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use ipnet::IpNet;
use serde_json::{Value, json};
use viproute::{Claim, Drift, Error, Vip, VipManager};

use crate::Stop;
use crate::args::Common;
use crate::progress;
use crate::tell::{self, print_line};

#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Look for what other devices hold and into further tables too, which reads every route of
    /// the node
    #[arg(long)]
    deep: bool,
    /// Show all VIPs, not only those that drifted
    #[arg(long)]
    all: bool,
}

/// A VIP; `None` if it is not on the link.
type Found = (Vip, Option<Drift>);

impl Audit {
    pub(crate) fn run(&self) -> Result<ExitCode, Stop> {
        let asked: BTreeSet<_> = self.common.vips()?.into_iter().collect();
        let begun = Instant::now();
        let found = progress::during("audit", || self.look(&asked));
        let elapsed = begun.elapsed();
        let code = match &found {
            Ok(found) if !found.iter().any(drifted) => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => tell::failed("audit", error),
        };
        let written = match &found {
            found if self.common.json => {
                print_line(format_args!("{:#}", self.document(found, elapsed)))
            }
            Ok(found) => self.table(found, elapsed),
            Err(_) => Ok(()),
        };
        Ok(tell::code_of(&written, code))
    }

    /// The VIPs on the link, or those asked for, in order of address.
    fn look(&self, asked: &BTreeSet<Vip>) -> Result<Vec<Found>, Error> {
        let mut manager = self.common.builder()?.open()?;
        let audit = if self.deep {
            manager.audit_deep()?
        } else {
            manager.audit()?
        };
        let on_link = audit.vips.iter().map(|seen| (seen.vip, Some(seen.drift)));
        // Not `asked.is_empty()`: an empty list must never mean the whole link.
        if self.common.vips.is_empty() {
            return Ok(on_link.collect());
        }
        let mut found: Vec<_> = on_link.filter(|(vip, _)| asked.contains(vip)).collect();
        let seen: BTreeSet<_> = found.iter().map(|(vip, _)| *vip).collect();
        let absent: Vec<Vip> = asked.difference(&seen).copied().collect();
        let strange = with_another_length(&mut manager, &absent);
        found.extend(absent.iter().map(|vip| (*vip, strange.get(vip).copied())));
        found.sort_unstable_by_key(|(vip, _)| *vip);
        Ok(found)
    }

    fn shown<'a>(&self, found: &'a [Found]) -> impl Iterator<Item = &'a Found> {
        let all = self.all;
        found.iter().filter(move |found| all || drifted(found))
    }

    fn table(&self, found: &[Found], elapsed: Duration) -> io::Result<()> {
        let mut table = Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED)
            .set_header(["VIP", "state", "drift"]);
        for (vip, drift) in self.shown(found) {
            table.add_row([
                vip.to_string(),
                state(*drift).replace('_', " "),
                drift.unwrap_or_default().to_string(),
            ]);
        }
        if !table.is_empty() {
            for line in table.to_string().lines() {
                print_line(format_args!("{}", line.trim_end()))?;
            }
        }
        print_line(format_args!(
            "{}: {} VIPs, {} drifted in {:.1} ms",
            self.common.link,
            found.len(),
            found.iter().filter(|found| drifted(found)).count(),
            elapsed.as_secs_f64() * 1e3
        ))
    }

    fn document(&self, found: &Result<Vec<Found>, Error>, elapsed: Duration) -> Value {
        let all = found.as_deref().unwrap_or_default();
        let vip = |(vip, drift): &Found| {
            json!({
                "vip": vip.to_string(),
                "state": state(*drift),
                "drift": tell::drift(drift.unwrap_or_default()),
            })
        };
        json!({
            "command": "audit",
            "link": self.common.link,
            "clean": found.is_ok() && !all.iter().any(drifted),
            "elapsed_seconds": elapsed.as_secs_f64(),
            "total": all.len(),
            "drifted": all.iter().filter(|found| drifted(found)).count(),
            "vips": self.shown(all).map(vip).collect::<Vec<_>>(),
            "error": found.as_ref().err().map(tell::error),
        })
    }
}

/// Those whose address is on the link with another prefix length. To an audit they are no VIPs; a
/// plan that claims nothing tells of them, and writes nothing. Where there can be no plan, because
/// a source is missing, say, they are taken for absent.
fn with_another_length(manager: &mut VipManager, absent: &[Vip]) -> BTreeMap<Vip, Drift> {
    let nothing = Claim::ranges(Vec::<IpNet>::new());
    let failures = match manager.plan(&nothing, absent) {
        Ok(plan) => plan.failures,
        Err(_) => return BTreeMap::new(),
    };
    let drifts = failures.iter().map(|failure| (failure.vip, failure.drift));
    drifts
        .filter(|(_, drift)| drift.contains(Drift::WRONG_PREFIX_LENGTH))
        .collect()
}

/// Whether it is not as wanted. One that was asked for is wanted.
fn drifted((_, drift): &Found) -> bool {
    drift.is_none_or(|drift| !drift.is_empty())
}

fn state(drift: Option<Drift>) -> &'static str {
    match drift {
        None => "not_on_link",
        Some(drift) if drift.is_empty() => "as_wanted",
        Some(_) => "drifted",
    }
}
