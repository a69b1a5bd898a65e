//! All of a call that happens before its first write to a VIP.

use std::net::IpAddr;

use ipnet::Ipv6Net;

use super::VipManager;
use super::builder::VipManagerBuilder;
use super::ready::{bring_up, check_vrf, find_link, is_to_be_made, make, may_bring_up, no_link};
use crate::base::{Family, PerFamily, Protocol, RouteKey, TABLE_LOCAL, Vip};
use crate::core::VipFilter;
use crate::core::{Binding, Goal};
use crate::core::{Done, Facts, Row, Rows};
use crate::engine::lookup::{LOOKUP_MAX, Lookup, Notified, lookups_suffice};
use crate::engine::{Buffers, Call, lookup_groups};
use crate::link::label::{self, Labelling};
use crate::link::trouble::{self, Trouble, Troubles};
use crate::link::{self, LinkChanges, LinkState};
use crate::netlink::connection::{Connection, Groups};
use crate::outcome::Claim;
use crate::outcome::{Error, ErrorKind};

/// Whose VIPs a call is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope<'a> {
    /// The caller named them.
    Given(Goal),
    /// All that are on the link, as they are bound.
    Link,
    /// All that are on the link, to be bound anew.
    Rebind,
    /// Those named, and those on the link that are claimed.
    Claimed(Leaving<'a>),
    /// Those on the link that are claimed.
    Wipe(Leaving<'a>),
    /// Those named; of those to be released, the claimed ones.
    Lookup(Leaving<'a>),
}

/// Which VIPs go that are not desired.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaving<'a> {
    /// What is ours to remove.
    pub(crate) claim: &'a Claim,
    /// What the caller removes by name, sorted: no claim, no bound and no guard stops that.
    pub(crate) named: &'a [Vip],
    /// Whether those named are the only ones to go.
    pub(crate) only_named: bool,
    /// Of which families a VIP is desired. Of another nothing goes for not being desired.
    pub(crate) desired: PerFamily<bool>,
}

impl<'a> Leaving<'a> {
    fn names(&self, vip: Vip) -> bool {
        self.named.binary_search(&vip).is_ok()
    }

    /// Whether a VIP goes that is seen on the link.
    fn takes(&self, row: &Row, filter: &VipFilter<'_>) -> bool {
        row.facts.on_link() && self.covers(row.vip, row.facts.contains(Facts::MARKED), filter)
    }

    /// Whether a VIP that could not be read may be one that goes.
    fn may_take(&self, row: &Row, filter: &VipFilter<'_>) -> bool {
        row.facts.is_unread() && self.covers(row.vip, true, filter)
    }

    fn covers(&self, vip: Vip, marked: bool, filter: &VipFilter<'_>) -> bool {
        let reaches = filter.is_for(vip.family()) || self.claim.names_ranges();
        self.names(vip) || !self.only_named && reaches && self.claim.covers(vip, marked)
    }

    /// Every VIP that is claimed.
    pub(crate) fn all(claim: &'a Claim) -> Self {
        Self {
            claim,
            named: &[],
            only_named: false,
            desired: PerFamily::splat(true),
        }
    }
}

/// In what way a call is prepared.
pub(crate) enum Mode<'a> {
    /// To be run, with the whole link looked at.
    Act,
    /// To be run, with only its rows looked at; notifications told this of them.
    Mend(Vec<(Vip, Notified)>),
    /// Not to be run: what would be done to the link is noted here, and not done.
    Preview(&'a mut LinkChanges),
}

impl VipManager {
    /// Everything of a call that happens before its first write.
    ///
    /// What one family lacks takes out the VIPs of that family, in four places: its source and the
    /// link as it is, before the link is made or brought up; the link, once it is made; both, for a
    /// family of which VIPs were only found; the address labels, when it is known for whom.
    pub(crate) fn prepare(&mut self, scope: Scope<'_>, mode: Mode<'_>) -> Result<Call<'_>, Error> {
        let Self {
            config,
            sources,
            connection,
            cancelled,
            buffers,
        } = self;
        let (config, sources) = (&*config, &*sources);
        connection
            .listen_to(Groups::empty())
            .map_err(|error| Error::listening(&error))?;
        let filter = config.filter(*sources);
        let Buffers { rows, rejected, .. } = &mut *buffers;
        rows.sort();
        rows.reject(|row| filter.reject(row), rejected);
        if let Scope::Claimed(leaving) | Scope::Wipe(leaving) | Scope::Lookup(leaving) = &scope {
            check_claim(leaving.claim, config)?;
        }
        if matches!(scope, Scope::Claimed(_)) && rows.len() == 0 {
            return Err(Error::new(
                ErrorKind::EmptySet,
                "the desired set has no admissible VIP: to take all claimed VIPs off the link is \
                 another call",
            ));
        }
        let releases = matches!(scope, Scope::Wipe(_) | Scope::Given(Goal::Release))
            || rows.len() > 0 && rows.iter().all(|row| row.goal == Goal::Release);
        let asked = needs(rows);
        let scope = match scope {
            Scope::Claimed(leaving) => Scope::Claimed(Leaving {
                desired: asked,
                ..leaving
            }),
            scope => scope,
        };
        // To assign nothing is a way to make the link.
        let creates = matches!(scope, Scope::Given(Goal::Assign))
            || rows.iter().any(|row| row.goal == Goal::Assign);
        let admit = |vip: Vip| {
            let goal = match scope {
                Scope::Given(_) | Scope::Lookup(_) => return None,
                Scope::Link => Goal::Normalize,
                Scope::Rebind => Goal::Assign,
                Scope::Claimed(_) | Scope::Wipe(_) => Goal::Release,
            };
            filter.is_on_link(vip).then_some(goal)
        };
        let found = match find_link(connection, config) {
            Err(error) if creates && is_to_be_made(&error, config) => None,
            found => Some(found?),
        };
        if let Some(link) = found.as_ref().filter(|_| !releases) {
            check_vrf(link)?;
        }
        // Before the first change, to which the link's creation belongs.
        exclude(config, sources, connection, buffers, asked, found.as_ref())?;
        // Where no VIP is left to put on the link, nothing is done to it either.
        let acts = !releases && (!asked.any() || needs(&buffers.rows).any());
        let mut labels = None;
        let (link, lookup) = match mode {
            Mode::Preview(link_changes) => {
                link_changes.create = config.create.filter(|_| found.is_none() && acts);
                let link = found.unwrap_or_else(|| no_link(config));
                link_changes.bring_up = !link.up && acts && may_bring_up(config);
                if link_changes.bring_up && link.index != link::NONE {
                    link_changes.broadcasts = link::broadcasts(connection, link.index)?;
                }
                link_changes.name.clone_from(&link.name);
                link_changes.label = config.label;
                labels = Some(&mut link_changes.labels);
                (link, None)
            }
            Mode::Act | Mode::Mend(_) => {
                let mut link = match found {
                    None if acts => {
                        let link = make(connection, config)?;
                        let families = needs(&buffers.rows);
                        exclude(config, sources, connection, buffers, families, Some(&link))?;
                        link
                    }
                    found => found.unwrap_or_else(|| no_link(config)),
                };
                if acts && !link.up && may_bring_up(config) {
                    if let Scope::Claimed(leaving) = scope {
                        // To bring the link up is a change, too: not before the claim's bound was
                        // checked.
                        let mut call = Call::new(
                            config.setup(sources, link.index),
                            connection,
                            buffers,
                            cancelled,
                        );
                        call.observe_first(Some(&admit))?;
                        keep_claimed(call.buffers, leaving, &filter)?;
                    }
                    bring_up(connection, config, &mut link)?;
                }
                let lookup = match mode {
                    Mode::Mend(all_notified) => Some(Lookup { all_notified }),
                    _ => are_few(&buffers.rows, scope, config)
                        .then(|| Lookup::unknown(&buffers.rows)),
                };
                if lookup.is_some() {
                    connection
                        .listen_to(lookup_groups(&buffers.rows))
                        .map_err(|error| Error::listening(&error))?;
                }
                (link, lookup)
            }
        };
        let given = matches!(scope, Scope::Given(_) | Scope::Lookup(_));
        let mut call = Call::new(
            config.setup(sources, link.index),
            connection,
            buffers,
            cancelled,
        );
        if let Some(lookup) = lookup {
            call.observe_by_lookups_from_now(lookup);
        }
        call.observe_first((!given).then_some(&admit))?;
        keep_own(call.buffers, scope, &filter)?;
        let found = needs(&call.buffers.rows);
        let only_found = PerFamily::from_fn(|f| found[f] && !asked[f]);
        let Call {
            connection,
            buffers,
            ..
        } = &mut call;
        exclude(
            config,
            sources,
            connection,
            buffers,
            only_found,
            Some(&link),
        )?;
        if let Some(number) = config.labels() {
            // They are IPv6's alone.
            let labelled = label(&mut call, &link, number, labels);
            if let Some(trouble) = trouble::only(Family::V6, labelled)? {
                call.buffers.exclude_family(trouble);
            }
        }
        Ok(call)
    }

    /// What keeps these families from being served now, were these VIPs desired.
    pub(crate) fn troubles(
        &mut self,
        families: PerFamily<bool>,
        vips: impl Iterator<Item = Vip> + Clone,
    ) -> Result<Troubles, Error> {
        let link = find_link(&mut self.connection, &self.config)?;
        let mut troubles = Troubles::default();
        for family in Family::ALL.iter().filter(|f| families[**f]) {
            troubles[*family] = trouble_of(
                *family,
                &self.config,
                &self.sources,
                &mut self.connection,
                Some(&link),
            )?;
        }
        let v6 = Family::V6;
        if families[v6]
            && troubles[v6].is_none()
            && let Some(label) = self.config.labels()
        {
            let how = Labelling {
                link: link.index,
                name: &link.name,
                label,
            };
            let seen = label::preview(&mut self.connection, how, vips);
            troubles[v6] = trouble::only(Family::V6, seen)?;
        }
        Ok(troubles)
    }
}

/// Whether the rows are better looked at one by one than with all that is on the link.
fn are_few(rows: &Rows, scope: Scope<'_>, config: &VipManagerBuilder) -> bool {
    matches!(scope, Scope::Given(_))
        && (1..=LOOKUP_MAX).contains(&rows.len())
        && rows.iter().all(|row| lookups_suffice(row, config.binding))
}

/// Which families have VIPs to be put on the link or kept there.
fn needs(rows: &Rows) -> PerFamily<bool> {
    PerFamily::from_fn(|family| rows.needs_source(family))
}

/// What keeps a family from being served: see [`trouble::of_family`].
fn trouble_of(
    family: Family,
    config: &VipManagerBuilder,
    sources: &PerFamily<Option<IpAddr>>,
    connection: &mut Connection,
    link: Option<&LinkState>,
) -> Result<Option<Trouble>, Error> {
    let source = sources[family];
    trouble::of_family(connection, family, link, may_bring_up(config), source)
}

/// Takes out the VIPs of these families, where something keeps them from being served.
fn exclude(
    config: &VipManagerBuilder,
    sources: &PerFamily<Option<IpAddr>>,
    connection: &mut Connection,
    buffers: &mut Buffers,
    families: PerFamily<bool>,
    link: Option<&LinkState>,
) -> Result<(), Error> {
    for family in Family::ALL.iter().filter(|f| families[**f]) {
        if let Some(trouble) = trouble_of(*family, config, sources, connection, link)? {
            buffers.exclude_family(trouble);
        }
    }
    Ok(())
}

/// Leaves of what was found only the rows that the call is about.
fn keep_own(buffers: &mut Buffers, scope: Scope<'_>, filter: &VipFilter<'_>) -> Result<(), Error> {
    match scope {
        Scope::Given(_) => Ok(()),
        Scope::Link | Scope::Rebind => {
            let Buffers { rows, rejected, .. } = buffers;
            // What went away while it was looked for is not on the link.
            rows.retain(|row| row.facts.on_link() || row.facts.is_unread());
            rows.reject(|row| filter.reject(row), rejected);
            // To bind an address anew makes it permanent, which is for those to say who name it.
            let expiring = rows
                .iter_mut()
                .filter(|row| row.facts.contains(Facts::EXPIRES));
            expiring.for_each(|row| row.goal = Goal::Normalize);
            buffers.fail_unread(|row| row.facts.on_link());
            Ok(())
        }
        Scope::Claimed(leaving) | Scope::Wipe(leaving) => keep_leaving(buffers, leaving, filter),
        Scope::Lookup(leaving) => {
            // As a discovery would find it: a route in table main alone makes no VIP, nor does one
            // that is not of type local.
            let rows = &mut buffers.rows;
            let is_shown = |row: &&Row| {
                let by_route =
                    |key: &RouteKey| key.table == TABLE_LOCAL && key.kind == libc::RTN_LOCAL;
                row.facts
                    .intersects(Facts::ADDRESS | Facts::DESIRED | Facts::UNREAD)
                    || rows.others(row.vip).any(by_route)
            };
            let shown: Vec<Vip> = rows.iter().filter(is_shown).map(|row| row.vip).collect();
            rows.retain(|row| row.goal != Goal::Release || shown.contains(&row.vip));
            keep_leaving(buffers, leaving, filter)
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
        Some(labels) => *labels = label::preview(call.connection, how, vips)?,
        None => call.report.writes += label::label(call.connection, how, vips)?,
    }
    Ok(())
}

/// A claim by mark needs a mark.
pub(crate) fn check_claim(claim: &Claim, config: &VipManagerBuilder) -> Result<(), Error> {
    // The kernel's own routes bear none.
    let marks_routes = config.protocol != Protocol::KERNEL && !config.kernel_source.any();
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

/// As [`keep_claimed`]; whether some go could not be read.
fn keep_leaving(
    buffers: &mut Buffers,
    leaving: Leaving<'_>,
    filter: &VipFilter<'_>,
) -> Result<(), Error> {
    keep_claimed(buffers, leaving, filter)?;
    buffers.fail_unread(|row| row.goal != Goal::Release || leaving.takes(row, filter));
    Ok(())
}

/// Of the VIPs on the link that are not desired, only those named and those claimed are of the call.
/// Of a family of which no VIP is desired, none is released for not being desired.
fn keep_claimed(
    buffers: &mut Buffers,
    leaving: Leaving<'_>,
    filter: &VipFilter<'_>,
) -> Result<(), Error> {
    let Leaving { claim, desired, .. } = leaving;
    let Buffers { rows, rejected, .. } = &mut *buffers;
    let is_rejected = |vip| rejected.binary_search_by_key(&vip, |(of, _)| *of).is_ok();
    rows.retain(|row| {
        // What went away while it was looked for is not on the link. And one that is desired, and
        // rejected for want of a source, is found there like one that nobody desires.
        let may_go = leaving.takes(row, filter) || leaving.may_take(row, filter);
        row.goal != Goal::Release || may_go && !is_rejected(row.vip)
    });
    if claim.needs_mark() {
        let released = rows.iter_mut().filter(|row| row.goal == Goal::Release);
        released.for_each(|row| row.progress.done |= Done::BY_MARK);
    }
    let is_claimed = |row: &Row| row.goal == Goal::Release && !leaving.names(row.vip);
    for family in Family::ALL.into_iter().filter(|f| !desired[*f]) {
        let is_guarded = |row: &Row| row.vip.family() == family && is_claimed(row);
        if desired.any() && filter.is_for(family) {
            buffers.exclude(guard(family), is_guarded);
        } else {
            buffers.rows.retain(|row| !is_guarded(row));
        }
    }
    let releases = buffers.rows.iter().filter(|row| is_claimed(row)).count();
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
    Ok(())
}

/// Why a claimed VIP stays.
fn guard(family: Family) -> Trouble {
    Trouble {
        family,
        kind: ErrorKind::EmptySet,
        detail: format!(
            "claimed and not desired, but no {family} VIP is desired at all: to take it off the \
             link, release it by its name"
        )
        .into(),
    }
}
