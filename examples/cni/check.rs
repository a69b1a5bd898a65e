//! What CHECK and STATUS read from the kernel.

use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rscni_plugin::error::Error;
use viproute::{Audit, Audited, Drift, SourceStatus, Vip, VipManager};

use crate::config::Config;
use crate::failure;
use crate::links::Attachment;

/// How long CHECK waits for VIPs that another program is changing.
const CONVERGENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// Fails unless every VIP is in its single-route state, now or soon.
pub(crate) fn await_vips(config: &Config, attachment: &Attachment) -> Result<(), Error> {
    let mut manager = config.manager(attachment)?;
    let end = Instant::now() + CONVERGENCE;
    loop {
        let audit = manager.audit_only(&config.vips).map_err(failure::of_call)?;
        let wrong: Vec<_> = config
            .vips
            .iter()
            .filter_map(|vip| difference(&audit, *vip))
            .collect();
        if wrong.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(failure::differs(&wrong));
        }
        thread::sleep(PAUSE);
    }
}

/// What is wrong with a VIP.
fn difference(audit: &Audit, vip: Vip) -> Option<String> {
    let family = vip.family();
    let absent = Drift::MISSING_ADDRESS | Drift::MISSING_ROUTE;
    let on_link = |audited: &&Audited| !audited.drift.contains(absent);
    let Some(audited) = audit.get(vip).filter(on_link) else {
        return Some(format!("{vip}: not on the link"));
    };
    if !audited.drift.is_empty() {
        return Some(audited.to_string());
    }
    let unusable = || {
        let (link, source) = (audit.link(family), audit.source(family));
        format!("{vip}: link {link}, source {source}")
    };
    (!audit.is_usable(family)).then(unusable)
}

/// The sources that VIPs cannot have now, each with the reason.
pub(crate) fn unusable_sources(config: &Config) -> Result<Vec<String>, Error> {
    // An audit of any link reads the state of the sources. A manager of `lo` needs ranges.
    let ranges = config.sources.iter().map(|source| IpNet::from(*source));
    let builder = ranges.fold(VipManager::builder("lo"), |builder, range| {
        builder.allow(range)
    });
    let audit = config.open(builder)?.audit().map_err(failure::of_call)?;
    let unusable = config.sources.iter().filter_map(|source| {
        let status = audit.source(Vip::from(*source).family());
        (status != SourceStatus::Present).then(|| format!("source {source}: {status}"))
    });
    Ok(unusable.collect())
}
