//! `vip audit`: what is on the link, against what should be.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use viproute::{Audited, Drift, Error, Family, LinkStatus, SourceStatus, Vip};

use crate::Stop;
use crate::args::Common;
use crate::progress;
use crate::tell::{self, print_line};

#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Read every route of the node, too: routes of other devices, in other tables, and routing
    /// rules that divert VIPs
    #[arg(long)]
    deep: bool,
    /// Show all VIPs, and the state of the link and of each source, not only what is wrong; JSON
    /// always has all
    #[arg(long)]
    all: bool,
}

/// What was found of the VIPs that the audit is about, and what those of their families rest on.
struct Findings {
    audit: viproute::Audit,
    bases: Vec<Basis>,
}

/// What the VIPs of one family rest on.
struct Basis {
    family: Family,
    link: LinkStatus,
    source: SourceStatus,
    is_usable: bool,
}

impl Findings {
    fn drifted(&self) -> usize {
        self.audit.drifted().count()
    }

    fn is_broken(&self) -> bool {
        self.drifted() > 0 || self.bases.iter().any(|basis| !basis.is_usable)
    }

    fn unjudged(&self) -> usize {
        self.audit.vips.iter().filter(|vip| not_judged(vip)).count()
    }
}

/// The exit code where nothing is known to be wrong, and not all could be judged.
const NOT_JUDGED: u8 = 3;

impl Audit {
    pub(crate) fn run(&self) -> Result<ExitCode, Stop> {
        let asked = self.common.vips()?;
        let begun = Instant::now();
        let found = progress::during("audit", || self.look(&asked));
        let elapsed = begun.elapsed();
        let code = match &found {
            Ok(found) if found.is_broken() => ExitCode::FAILURE,
            Ok(found) if found.unjudged() > 0 => ExitCode::from(NOT_JUDGED),
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => tell::failed("audit", error),
        };
        let written = match &found {
            Ok(found) if self.common.json => tell::print_json(&found.audit),
            Err(error) if self.common.json => tell::print_json(error),
            Ok(found) => self.table(found, elapsed),
            Err(_) => Ok(()),
        };
        Ok(tell::code_of(&written, code))
    }

    /// The VIPs on the link, or those asked for, in order of address.
    fn look(&self, asked: &[Vip]) -> Result<Findings, Error> {
        let mut manager = self.common.builder()?.open()?;
        // Not `asked.is_empty()`: an empty list must never mean the whole link.
        let all = self.common.vips.is_empty();
        let audit = match (self.deep, all) {
            (false, true) => manager.audit()?,
            (false, false) => manager.audit_only(asked)?,
            (true, true) => manager.audit_deep()?,
            (true, false) => manager.audit_deep_only(asked)?,
        };
        let concerned = [Family::V4, Family::V6].into_iter().filter(|family| {
            all || audit
                .vips
                .iter()
                .any(|audited| audited.vip.family() == *family)
        });
        let bases = concerned.map(|family| Basis {
            family,
            link: audit.link(family),
            source: audit.source(family),
            is_usable: audit.is_usable(family),
        });
        let bases = bases.collect();
        Ok(Findings { audit, bases })
    }

    fn table(&self, found: &Findings, elapsed: Duration) -> io::Result<()> {
        let mut table = Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED)
            .set_header(["VIP", "state", "drift"]);
        let vips = &found.audit.vips;
        let is_shown = |vip: &&Audited| self.all || !vip.drift.is_empty() || not_judged(vip);
        for audited in vips.iter().filter(is_shown) {
            let (state, drift) = state(audited);
            table.add_row([audited.vip.to_string(), state.to_owned(), drift.to_string()]);
        }
        if !table.is_empty() {
            for line in table.to_string().lines() {
                print_line(format_args!("{}", line.trim_end()))?;
            }
        }
        let link = &self.common.target.link;
        for basis in &found.bases {
            if self.all || !basis.is_usable {
                print_line(format_args!(
                    "{link}: {}: link: {}; source: {}",
                    basis.family, basis.link, basis.source
                ))?;
            }
        }
        let unjudged = match found.unjudged() {
            0 => String::new(),
            vips => format!(", {vips} not judged for want of --source"),
        };
        print_line(format_args!(
            "{link}: {}, {} drifted{unjudged} in {:.1} ms",
            count_vips(vips.len()),
            found.drifted(),
            elapsed.as_secs_f64() * 1e3
        ))
    }
}

fn count_vips(vips: usize) -> String {
    let noun = if vips == 1 { "VIP" } else { "VIPs" };
    format!("{vips} {noun}")
}

/// Whether nothing is known to be wrong with it, and not all could be judged.
fn not_judged(audited: &Audited) -> bool {
    audited.drift.is_empty() && !audited.is_judged
}

/// The state of a VIP in words, and the drift that says more.
fn state(audited: &Audited) -> (&'static str, Drift) {
    let absent = Drift::MISSING_ADDRESS | Drift::MISSING_ROUTE;
    match audited.drift {
        drift if drift.is_empty() && audited.is_judged => ("as desired", drift),
        drift if drift.is_empty() => ("not judged", drift),
        drift if absent.contains(drift) && audited.address.is_none() => {
            ("not on link", Drift::empty())
        }
        drift => ("drifted", drift),
    }
}
