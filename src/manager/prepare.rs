//! All of a call that happens before its first write to a VIP.

use ipnet::Ipv6Net;

use super::VipManager;
use super::builder::{Builder, Protocol};
use super::ready::{
    check_ipv6, check_sources, find_link, find_or_make, is_to_be_made, make_ready, survey,
};
use super::screen::Screen;
use crate::claim::Claim;
use crate::error::{Error, ErrorKind};
use crate::link::LinkState;
use crate::observe::{FEW, Few, Hint, can_be_told};
use crate::plan::{Binding, Goal};
use crate::preview::Groundwork;
use crate::round::{Buffers, Call};
use crate::source::{self, Labelling, SourceAvoidance};
use crate::state::{Facts, Phase, Row};
use crate::vip::{Family, Vip};
use crate::wire::TABLE_LOCAL;
use crate::wire::encode::RouteKey;

/// Whose VIPs a call is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope<'a> {
    /// The caller named them.
    Given(Goal),
    /// All that are on the link, as they are bound.
    Link,
    /// All that are on the link, to be bound anew.
    Rebind,
    /// Those named, and those on the link that are claimed.
    Claimed(&'a Claim),
    /// Those on the link that are claimed.
    Wipe(&'a Claim),
    /// Those named; of those to be released, the claimed ones.
    Few(&'a Claim),
}

/// In what way a call is prepared.
pub(super) enum Mode<'a> {
    /// To be run, with the whole link looked at.
    Act,
    /// To be run, with only its rows looked at; notifications told this of them.
    Mend(Vec<(Vip, Hint)>),
    /// Not to be run: what would be done to the link is noted here, and not done.
    Preview(&'a mut Groundwork),
}

impl VipManager {
    /// Whether the rows are better looked at one by one than with all that is on the link.
    fn are_few(&self, scope: Scope<'_>) -> bool {
        let rows = &self.buffers.rows;
        matches!(scope, Scope::Given(_))
            && (1..=FEW).contains(&rows.len())
            && rows.iter().all(|row| can_be_told(row, self.config.binding))
    }

    /// Everything of a call that happens before its first write.
    pub(super) fn prepare(&mut self, scope: Scope<'_>, mode: Mode<'_>) -> Result<Call<'_>, Error> {
        self.talk.hear_addresses(false)?;
        let screen = self.config.screen(self.sources);
        let Buffers { rows, rejected, .. } = &mut self.buffers;
        rows.settle();
        rows.reject(|row| screen.reject(row), rejected);
        if let Scope::Claimed(claim) | Scope::Wipe(claim) | Scope::Few(claim) = scope {
            check_claim(claim, &self.config)?;
        }
        let assigns = rows.len() > 0;
        if matches!(scope, Scope::Claimed(_)) && !assigns {
            return Err(Error::new(
                ErrorKind::EmptySet,
                "the desired set has no admissible VIP: to take all claimed VIPs off the link is \
                 another call",
            ));
        }
        let releases =
            matches!(scope, Scope::Wipe(_)) || matches!(scope, Scope::Given(Goal::Release));
        let rows = &self.buffers.rows;
        let asked = Family::ALL.map(|family| rows.needs_source(family));
        // To assign nothing is a way to make the link.
        let create = matches!(scope, Scope::Given(Goal::Assign))
            || rows.iter().any(|row| row.goal == Goal::Assign);
        let admit = |vip: Vip| {
            let goal = match scope {
                Scope::Given(_) | Scope::Few(_) => return None,
                Scope::Link => Goal::Normalize,
                Scope::Rebind => Goal::Assign,
                Scope::Claimed(_) | Scope::Wipe(_) => Goal::Release,
            };
            screen.is_on_link(vip).then_some(goal)
        };
        let mut labels = None;
        let (link, few) = match mode {
            Mode::Preview(groundwork) => {
                let link = survey(&mut self.talk, &self.config, groundwork)?;
                check_sources(&mut self.talk, &self.sources, asked)?;
                labels = Some(&mut groundwork.labels);
                (link, None)
            }
            Mode::Act | Mode::Mend(_) => {
                let found = match find_link(&mut self.talk, &self.config) {
                    Err(error) if create && is_to_be_made(&error, &self.config) => None,
                    found => Some(found?),
                };
                // Before the first change, to which the link's creation belongs.
                check_sources(&mut self.talk, &self.sources, asked)?;
                let mut link = match found {
                    Some(link) => link,
                    None => find_or_make(&mut self.talk, &self.config)?,
                };
                if let Scope::Claimed(claim) = scope
                    && !link.up
                {
                    // To bring the link up is a change, too: not before the claim's bound was
                    // checked.
                    let mut call = Call::new(
                        &self.config,
                        &self.sources,
                        &mut self.talk,
                        &mut self.buffers,
                        &self.cancelled,
                        link.index,
                    );
                    call.look(Some(&admit))?;
                    keep_claimed(call.buffers, claim)?;
                }
                check_ipv6(&link, asked)?;
                if !releases {
                    link = make_ready(&mut self.talk, &self.config, link)?;
                }
                let few = match mode {
                    Mode::Mend(hints) => Some(Few { hints }),
                    _ => self
                        .are_few(scope)
                        .then(|| Few::unknown(&self.buffers.rows)),
                };
                let hears = few.is_some() && self.buffers.rows.has(Family::V4);
                self.talk.hear_addresses(hears)?;
                (link, few)
            }
        };
        let mut call = Call::new(
            &self.config,
            &self.sources,
            &mut self.talk,
            &mut self.buffers,
            &self.cancelled,
            link.index,
        );
        call.few = few;
        let given = matches!(scope, Scope::Given(_) | Scope::Few(_));
        call.look((!given).then_some(&admit))?;
        keep_own(call.buffers, scope, &screen)?;
        let found = Family::ALL.map(|family| call.buffers.rows.needs_source(family));
        if found != asked {
            check_ipv6(&link, found)?;
            check_sources(call.talk, &self.sources, found)?;
        }
        if self.config.avoidance == Some(SourceAvoidance::AddressLabel)
            && self.config.binding == Binding::Address
        {
            label(&mut call, &link, self.config.label, labels)?;
        }
        Ok(call)
    }
}

/// Leaves of what was found only the rows that the call is about.
fn keep_own(buffers: &mut Buffers, scope: Scope<'_>, screen: &Screen<'_>) -> Result<(), Error> {
    match scope {
        Scope::Given(_) => Ok(()),
        Scope::Link | Scope::Rebind => {
            let Buffers { rows, rejected, .. } = buffers;
            // What went away while it was looked for is not on the link.
            rows.retain(|row| row.facts.on_link() || row.facts.is_unread());
            rows.reject(|row| screen.reject(row), rejected);
            // To bind an address anew makes it permanent, which is for those to say who name it.
            let expiring = rows
                .iter_mut()
                .filter(|row| row.facts.contains(Facts::EXPIRES));
            expiring.for_each(|row| row.goal = Goal::Normalize);
            buffers.fail_unread(|row| row.facts.on_link());
            Ok(())
        }
        Scope::Claimed(claim) | Scope::Wipe(claim) => keep_claimed(buffers, claim),
        Scope::Few(claim) => {
            // As a discovery would find it: a route in table main alone makes no VIP, nor does one
            // that is not of type local.
            let rows = &mut buffers.rows;
            let is_shown = |row: &&Row| {
                let by_route =
                    |key: &RouteKey| key.table == TABLE_LOCAL && key.kind == libc::RTN_LOCAL;
                row.facts
                    .intersects(Facts::ADDRESS | Facts::OURS | Facts::UNREAD)
                    || rows.others(row.vip).any(by_route)
            };
            let shown: Vec<Vip> = rows.iter().filter(is_shown).map(|row| row.vip).collect();
            rows.retain(|row| row.goal != Goal::Release || shown.contains(&row.vip));
            keep_claimed(buffers, claim)
        }
    }
}

/// Labels the addresses of the VIPs that will be on the link, or notes in `preview` what would be
/// done.
fn label(
    call: &mut Call<'_>,
    link: &LinkState,
    label: u32,
    preview: Option<&mut Vec<Ipv6Net>>,
) -> Result<(), Error> {
    let rows = call.buffers.rows.iter().filter(|row| {
        row.goal == Goal::Assign || row.goal == Goal::Normalize && row.facts.on_link()
    });
    let vips = rows.map(|row| row.vip);
    let how = Labelling {
        link: link.index,
        name: &link.name,
        label,
    };
    match preview {
        Some(labels) => *labels = source::preview(call.talk, how, vips)?,
        None => call.report.writes += source::label(call.talk, how, vips)?,
    }
    Ok(())
}

/// A claim by mark needs a mark.
pub(super) fn check_claim(claim: &Claim, config: &Builder) -> Result<(), Error> {
    // The kernel's own routes bear none.
    let marks_routes = config.protocol != Protocol::KERNEL && config.kernel_source == [false; 2];
    let marks_addresses = config.address_protocol.is_some() && config.binding == Binding::Address;
    if claim.needs_mark() && !marks_routes && !marks_addresses {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            "a claim by mark needs a mark: a protocol other than kernel where no family keeps the \
             kernel's route, or an address protocol where VIPs are bound by their addresses",
        ));
    }
    Ok(())
}

/// Of the VIPs on the link that are not desired, only the claimed ones are of the call.
fn keep_claimed(buffers: &mut Buffers, claim: &Claim) -> Result<(), Error> {
    let Buffers { rows, rejected, .. } = buffers;
    // Taken out of the sorted rows, in their order.
    let is_rejected = |vip| rejected.binary_search_by_key(&vip, |(of, _)| *of).is_ok();
    let is_claimed =
        |row: &Row| row.facts.on_link() && claim.covers(row.vip, row.facts.contains(Facts::MARKED));
    let may_be_claimed = |row: &Row| row.facts.is_unread() && claim.covers(row.vip, true);
    rows.retain(|row| {
        // What went away while it was looked for is not on the link. And one that is desired, and
        // rejected for want of a source, is found there like one that nobody desires.
        row.goal != Goal::Release
            || (is_claimed(row) || may_be_claimed(row)) && !is_rejected(row.vip)
    });
    if claim.needs_mark() {
        let released = rows.iter_mut().filter(|row| row.goal == Goal::Release);
        released.for_each(|row| row.phase |= Phase::BY_MARK);
    }
    let releases = rows.iter().filter(|row| row.goal == Goal::Release).count();
    if releases > claim.bound() {
        return Err(Error::new(
            ErrorKind::TooManyReleases,
            format!(
                "the release of {releases} would pass the bound of the claim, {} at once: raise it if \
                 that is meant",
                claim.bound()
            ),
        ));
    }
    buffers.fail_unread(|row| row.goal != Goal::Release || is_claimed(row));
    Ok(())
}
