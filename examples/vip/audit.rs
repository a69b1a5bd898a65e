//! `vip audit`: what is on the link, against what should be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use ipnet::IpNet;
use viproute::{Claim, Drift, Error, Family, LinkStatus, SourceStatus, Vip, VipManager};

use crate::Stop;
use crate::args::Common;
use crate::progress;
use crate::tell::{self, complain, print_line};

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

/// A VIP; `None` if it is not on the link.
type Found = (Vip, Option<Seen>);

/// What was seen of a VIP.
#[derive(Clone, Copy)]
struct Seen {
    drift: Drift,
    is_judged: bool,
}

/// What was found of the VIPs that the audit is about, and what those of their families rest on.
struct Findings {
    /// Without the VIPs that are not asked for.
    audit: viproute::Audit,
    vips: Vec<Found>,
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
        self.vips.iter().filter(|found| drifted(found)).count()
    }

    fn is_broken(&self) -> bool {
        self.drifted() > 0 || self.bases.iter().any(|basis| !basis.is_usable)
    }

    fn is_judged(&self) -> bool {
        !self.vips.iter().any(not_judged)
    }
}

/// The exit code where nothing is known to be wrong, and not all could be judged.
const NOT_JUDGED: u8 = 3;

impl Audit {
    pub(crate) fn run(&self) -> Result<ExitCode, Stop> {
        let asked: BTreeSet<_> = self.common.vips()?.into_iter().collect();
        let begun = Instant::now();
        let found = progress::during("audit", || self.look(&asked));
        let elapsed = begun.elapsed();
        let code = match &found {
            Ok(found) if found.is_broken() => ExitCode::FAILURE,
            Ok(found) if !found.is_judged() => ExitCode::from(NOT_JUDGED),
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => tell::failed("audit", error),
        };
        let written = match &found {
            Ok(found) if self.common.json => print_json(found),
            Err(error) if self.common.json => tell::print_json(error),
            Ok(found) => self.table(found, elapsed),
            Err(_) => Ok(()),
        };
        Ok(tell::code_of(&written, code))
    }

    /// The VIPs on the link, or those asked for, in order of address.
    fn look(&self, asked: &BTreeSet<Vip>) -> Result<Findings, Error> {
        let mut manager = self.common.builder()?.open()?;
        let mut audit = if self.deep {
            manager.audit_deep()?
        } else {
            manager.audit()?
        };
        // Not `asked.is_empty()`: an empty list must never mean the whole link.
        let all = self.common.vips.is_empty();
        let is_asked = |vip: &Vip| all || asked.contains(vip);
        audit.vips.retain(|seen| is_asked(&seen.vip));
        let on_link = audit.vips.iter();
        let mut vips: Vec<Found> = on_link
            .map(|seen| {
                let found = Seen {
                    drift: seen.drift,
                    is_judged: seen.is_judged,
                };
                (seen.vip, Some(found))
            })
            .collect();
        let seen: BTreeSet<_> = vips.iter().map(|(vip, _)| *vip).collect();
        let absent: Vec<Vip> = asked.difference(&seen).copied().collect();
        if !absent.is_empty() {
            let strange = with_another_length(&mut manager, &absent);
            let drift = |vip| {
                strange.get(vip).map(|drift| Seen {
                    drift: *drift,
                    is_judged: true,
                })
            };
            vips.extend(absent.iter().map(|vip| (*vip, drift(vip))));
            vips.sort_unstable_by_key(|(vip, _)| *vip);
        }
        let concerned = [Family::V4, Family::V6]
            .into_iter()
            .filter(|family| all || vips.iter().any(|(vip, _)| vip.family() == *family));
        let bases = concerned.map(|family| Basis {
            family,
            link: audit.link(family),
            source: audit.source(family),
            is_usable: audit.is_usable(family),
        });
        let bases = bases.collect();
        Ok(Findings { audit, vips, bases })
    }

    fn shown<'a>(&self, found: &'a [Found]) -> impl Iterator<Item = &'a Found> {
        let all = self.all;
        found
            .iter()
            .filter(move |found| all || drifted(found) || not_judged(found))
    }

    fn table(&self, found: &Findings, elapsed: Duration) -> io::Result<()> {
        let mut table = Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED)
            .set_header(["VIP", "state", "drift"]);
        for (vip, seen) in self.shown(&found.vips) {
            table.add_row([
                vip.to_string(),
                state(*seen).to_owned(),
                drift(*seen).to_string(),
            ]);
        }
        if !table.is_empty() {
            for line in table.to_string().lines() {
                print_line(format_args!("{}", line.trim_end()))?;
            }
        }
        let link = &self.common.link;
        for basis in &found.bases {
            if self.all || !basis.is_usable {
                print_line(format_args!(
                    "{link}: {}: link: {}; source: {}",
                    basis.family, basis.link, basis.source
                ))?;
            }
        }
        let unjudged = found.vips.iter().filter(|found| not_judged(found)).count();
        let unjudged = match unjudged {
            0 => String::new(),
            vips => format!(", {vips} not judged for want of --source"),
        };
        print_line(format_args!(
            "{link}: {}, {} drifted{unjudged} in {:.1} ms",
            count_vips(found.vips.len()),
            found.drifted(),
            elapsed.as_secs_f64() * 1e3
        ))
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

/// The library's audit. Says on standard error which of the VIPs asked for it has not.
fn print_json(found: &Findings) -> io::Result<()> {
    let seen = &found.audit.vips;
    let is_seen = |vip: &Vip| seen.binary_search_by_key(vip, |seen| seen.vip).is_ok();
    for (vip, seen) in found.vips.iter().filter(|(vip, _)| !is_seen(vip)) {
        let why = seen.map_or("not on link".to_owned(), |seen| seen.drift.to_string());
        complain(format_args!("{vip}: {why}"));
    }
    tell::print_json(&found.audit)
}

fn count_vips(vips: usize) -> String {
    let noun = if vips == 1 { "VIP" } else { "VIPs" };
    format!("{vips} {noun}")
}

/// Whether the VIP is not as desired. A VIP that was asked for is desired.
fn drifted((_, seen): &Found) -> bool {
    seen.is_none_or(|seen| !seen.drift.is_empty())
}

/// Whether nothing is known to be wrong with it, and not all could be judged.
fn not_judged((_, seen): &Found) -> bool {
    seen.is_some_and(|seen| seen.drift.is_empty() && !seen.is_judged)
}

fn drift(seen: Option<Seen>) -> Drift {
    seen.map(|seen| seen.drift).unwrap_or_default()
}

fn state(seen: Option<Seen>) -> &'static str {
    match seen {
        None => "not on link",
        Some(seen) if !seen.drift.is_empty() => "drifted",
        Some(seen) if seen.is_judged => "as desired",
        Some(_) => "not judged",
    }
}
