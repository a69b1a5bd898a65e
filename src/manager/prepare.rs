//! The preparation of a call, before its first write to a VIP.

use ipnet::Ipv6Net;

use super::VipManager;
use super::builder::VipManagerBuilder;
use super::ready::{bring_up, check_vrf, find_link, make, may_bring_up, no_link};
use crate::base::{
    Count, Family, NO_LINK, PerFamily, Protocol, RouteKey, SourcePolicy, TABLE_LOCAL, Vip,
};
use crate::core::VipFilter;
use crate::core::{Binding, Goal};
use crate::core::{Done, Facts, Row, Rows};
use crate::engine::lookup::{LOOKUP_MAX, Lookup, Notified, lookups_suffice};
use crate::engine::{Buffers, Call, Setup, lookup_groups};
use crate::link::label::{self, Labelling};
use crate::link::trouble::{self, Trouble, Troubles};
use crate::link::{self, LinkChanges, LinkState};
use crate::netlink::connection::{Connection, Groups};
use crate::netlink::decode::Label;
use crate::outcome::{Cancelled, Claim, Error, ErrorKind};

/// The VIPs of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope<'a> {
    /// The VIPs that the caller named.
    Given(Goal),
    /// The VIPs on the link, with their present binding.
    Link,
    /// The VIPs on the link, to get another binding.
    Rebind,
    /// The named VIPs, and the claimed VIPs on the link.
    Claimed(Leaving<'a>),
    /// The claimed VIPs on the link.
    Wipe(Leaving<'a>),
    /// The named VIPs. Of the VIPs to release, only the claimed ones.
    Lookup(Leaving<'a>),
}

/// The VIPs that a call releases because they are not desired.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaving<'a> {
    /// The VIPs that the caller may release.
    pub(crate) claim: &'a Claim,
    /// The VIPs that the caller releases by name, sorted. Neither the claim, nor its bound, nor the guard
    /// of an empty family applies to them.
    pub(crate) named: &'a [Vip],
    /// Whether only the named VIPs are released.
    pub(crate) only_named: bool,
    /// The families with a desired VIP. In another family no VIP is released for not being desired.
    pub(crate) desired: PerFamily<bool>,
}

impl<'a> Leaving<'a> {
    fn names(&self, vip: Vip) -> bool {
        self.named.binary_search(&vip).is_ok()
    }

    /// Whether this VIP, seen on the link, is released.
    fn takes(&self, row: &Row, filter: &VipFilter) -> bool {
        row.facts.on_link() && self.covers(row.vip, row.facts.contains(Facts::MARKED), filter)
    }

    /// Whether this unread VIP may have to be released.
    fn may_take(&self, row: &Row, filter: &VipFilter) -> bool {
        row.facts.is_unread() && self.covers(row.vip, true, filter)
    }

    fn covers(&self, vip: Vip, marked: bool, filter: &VipFilter) -> bool {
        let reaches = filter.is_for(vip.family()) || self.claim.names_ranges();
        self.names(vip) || !self.only_named && reaches && self.claim.covers(vip, marked)
    }

    /// Releases every claimed VIP.
    pub(crate) fn all(claim: &'a Claim) -> Self {
        Self {
            claim,
            named: &[],
            only_named: false,
            desired: PerFamily::splat(true),
        }
    }
}

/// The purpose of the preparation.
pub(crate) enum Mode<'a> {
    /// Run the call, and observe the whole link.
    Act,
    /// Run the call, and observe only its rows, with these notifications.
    Mend(Vec<(Vip, Notified)>),
    /// Do not run the call: note the changes of the link here.
    Preview(&'a mut LinkChanges),
}

impl VipManager {
    /// Prepares a call, up to its first write to a VIP.
    ///
    /// A fault of one family fails the VIPs of that family. There are four checks: source and link,
    /// before the link is created or brought up; the link, after its creation; source and link, for a
    /// family whose VIPs were only discovered; the address labels, once their VIPs are known.
    pub(crate) fn prepare<'m>(
        &'m mut self,
        scope: Scope<'_>,
        mode: Mode<'_>,
    ) -> Result<Call<'m>, Error> {
        let mut preparation = Preparation::begin(self, scope)?;
        let found = preparation.find_link()?;
        let mut labels = None;
        let (link, lookup) = match mode {
            Mode::Act => (preparation.change_link(found)?, preparation.lookup()),
            Mode::Mend(all_notified) => {
                let link = preparation.change_link(found)?;
                (link, Some(Lookup { all_notified }))
            }
            Mode::Preview(changes) => {
                let link = preparation.preview_link(found, changes)?;
                labels = Some(&mut changes.labels);
                (link, None)
            }
        };
        preparation.observe(&link, lookup, labels)
    }

    /// The faults that would keep these families from being served, if these VIPs were desired.
    pub(crate) fn troubles(
        &mut self,
        families: PerFamily<bool>,
        vips: impl Iterator<Item = Vip> + Clone,
    ) -> Result<Troubles, Error> {
        let link = find_link(&mut self.connection, &self.config)?;
        let mut troubles = Troubles::default();
        let site = Site {
            config: &self.config,
            filter: &self.filter,
        };
        for family in Family::ALL.iter().filter(|f| families[**f]) {
            troubles[*family] = site.trouble_of(*family, &mut self.connection, Some(&link))?;
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

/// What a call does to the link itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LinkUse {
    /// It assigns VIPs, so it may create the link and bring it up.
    Create,
    /// It repairs VIPs on the link, so it may bring the link up.
    Repair,
    /// It releases VIPs, and takes the link as it is.
    Release,
}

impl LinkUse {
    fn of(scope: Scope<'_>, rows: &Rows) -> Self {
        let all_are = |goal| rows.len() > 0 && rows.iter().all(|row| row.goal == goal);
        match scope {
            Scope::Wipe(_) | Scope::Given(Goal::Release) => Self::Release,
            // Also a call without an admissible VIP.
            Scope::Given(Goal::Assign) => Self::Create,
            _ if all_are(Goal::Release) => Self::Release,
            _ if rows.iter().any(|row| row.goal == Goal::Assign) => Self::Create,
            _ => Self::Repair,
        }
    }
}

/// A call during its preparation.
struct Preparation<'m, 's> {
    site: Site<'m>,
    connection: &'m mut Connection,
    cancelled: &'m Cancelled,
    buffers: &'m mut Buffers,
    labelled: &'m mut Vec<Label>,
    scope: Scope<'s>,
    link_use: LinkUse,
    /// The families with VIPs to assign or to normalize, of those that the caller named.
    needed: PerFamily<bool>,
}

impl<'m, 's> Preparation<'m, 's> {
    /// Rejects the VIPs that cannot be served, and checks the scope.
    fn begin(manager: &'m mut VipManager, mut scope: Scope<'s>) -> Result<Self, Error> {
        let VipManager {
            config,
            filter,
            connection,
            cancelled,
            buffers,
            labelled,
        } = manager;
        connection
            .listen_to(Groups::empty())
            .map_err(Error::listening)?;
        let Buffers { rows, rejected, .. } = &mut *buffers;
        rows.sort();
        rows.reject(|row| filter.reject(row), rejected);
        if let Scope::Claimed(leaving) | Scope::Wipe(leaving) | Scope::Lookup(leaving) = &scope {
            check_claim(leaving.claim, config, &filter.sources)?;
        }
        let needed = needs(rows);
        if let Scope::Claimed(leaving) = &mut scope {
            if rows.len() == 0 {
                return Err(no_admissible_vip());
            }
            leaving.desired = needed;
        }
        Ok(Self {
            link_use: LinkUse::of(scope, rows),
            site: Site { config, filter },
            connection,
            cancelled,
            buffers,
            labelled,
            scope,
            needed,
        })
    }

    /// Finds the link, unless the call may create it, and checks it for the families of the named VIPs.
    fn find_link(&mut self) -> Result<Option<LinkState>, Error> {
        let config = self.site.config;
        let creates = self.link_use == LinkUse::Create && config.create.is_some();
        let found = match find_link(self.connection, config) {
            Err(error) if creates && error.kind() == ErrorKind::LinkNotFound => None,
            found => Some(found?),
        };
        if let Some(link) = found.as_ref().filter(|_| self.link_use != LinkUse::Release) {
            check_vrf(link)?;
        }
        // The link's creation is the first change: check before it.
        let (site, needed) = (self.site, self.needed);
        site.exclude(self.connection, self.buffers, needed, found.as_ref())?;
        Ok(found)
    }

    /// Whether the call may change the link: not if no VIP is left to assign.
    fn may_change_link(&self) -> bool {
        let is_left = !self.needed.any() || needs(&self.buffers.rows).any();
        self.link_use != LinkUse::Release && is_left
    }

    /// Notes what [`change_link`](Self::change_link) would do.
    fn preview_link(
        &mut self,
        found: Option<LinkState>,
        changes: &mut LinkChanges,
    ) -> Result<LinkState, Error> {
        let config = self.site.config;
        let may_change = self.may_change_link();
        changes.create = config.create.filter(|_| found.is_none() && may_change);
        let link = found.unwrap_or_else(|| no_link(config));
        changes.bring_up = !link.up && may_change && may_bring_up(config);
        if changes.bring_up && link.index != NO_LINK {
            changes.broadcasts = link::broadcasts(self.connection, link.index)?;
        }
        changes.name.clone_from(&link.name);
        changes.label = config.label;
        Ok(link)
    }

    /// Creates the link and brings it up, if that is needed and allowed.
    fn change_link(&mut self, found: Option<LinkState>) -> Result<LinkState, Error> {
        let Site { config, filter } = self.site;
        let may_change = self.may_change_link();
        let mut link = match found {
            None if may_change => {
                let link = make(self.connection, config)?;
                let needed = needs(&self.buffers.rows);
                let site = self.site;
                site.exclude(self.connection, self.buffers, needed, Some(&link))?;
                link
            }
            found => found.unwrap_or_else(|| no_link(config)),
        };
        if may_change && !link.up && may_bring_up(config) {
            if let Scope::Claimed(leaving) = self.scope {
                // Bringing the link up is a change: check the claim's bound before it.
                let setup = self.site.setup(&link);
                let mut call = Call::new(setup, self.connection, self.buffers, self.cancelled);
                observe(&mut call, self.scope, filter)?;
                keep_claimed(self.buffers, leaving, filter)?;
            }
            bring_up(self.connection, config, &mut link)?;
        }
        Ok(link)
    }

    /// The first observation by look-ups, if they are cheaper than dumps, and suffice.
    fn lookup(&self) -> Option<Lookup> {
        let rows = &self.buffers.rows;
        let suffices = matches!(self.scope, Scope::Given(_))
            && (1..=LOOKUP_MAX).contains(&rows.len())
            && rows
                .iter()
                .all(|row| lookups_suffice(row, self.site.config.binding));
        suffices.then(|| Lookup::unknown(rows))
    }

    /// Observes the VIPs, and keeps those of the scope. Labels their addresses, or notes the labels.
    fn observe(
        self,
        link: &LinkState,
        lookup: Option<Lookup>,
        labels: Option<&mut Vec<Ipv6Net>>,
    ) -> Result<Call<'m>, Error> {
        let Self {
            site,
            connection,
            cancelled,
            buffers,
            labelled,
            scope,
            needed,
            ..
        } = self;
        if lookup.is_some() {
            connection
                .listen_to(lookup_groups(&buffers.rows))
                .map_err(Error::listening)?;
        }
        let mut call = Call::new(site.setup(link), connection, buffers, cancelled);
        if let Some(lookup) = lookup {
            call.observe_by_lookups_from_now(lookup);
        }
        observe(&mut call, scope, site.filter)?;
        keep_own(call.buffers, scope, site.filter)?;
        let found = needs(&call.buffers.rows);
        let only_found = PerFamily::from_fn(|f| found[f] && !needed[f]);
        site.exclude(call.connection, call.buffers, only_found, Some(link))?;
        if let Some(number) = site.config.labels() {
            // Only IPv6 has address labels.
            let done = label(&mut call, link, number, labels, labelled);
            if let Some(trouble) = trouble::only(Family::V6, done)? {
                call.buffers.exclude_family(trouble);
            }
        }
        Ok(call)
    }
}

/// Observes the VIPs of the scope for the first time.
fn observe(call: &mut Call<'_>, scope: Scope<'_>, filter: &VipFilter) -> Result<(), Error> {
    let goal = match scope {
        Scope::Given(_) | Scope::Lookup(_) => return call.observe_first(None),
        Scope::Link => Goal::Normalize,
        Scope::Rebind => Goal::Assign,
        Scope::Claimed(_) | Scope::Wipe(_) => Goal::Release,
    };
    call.observe_first(Some(&|vip| filter.is_on_link(vip).then_some(goal)))
}

/// The desired set has VIPs, but none that can be served.
pub(crate) fn no_admissible_vip() -> Error {
    Error::new(
        ErrorKind::EmptySet,
        "the desired set has no admissible VIP, so nothing is released",
    )
}

/// The families with VIPs to assign or to normalize.
fn needs(rows: &Rows) -> PerFamily<bool> {
    PerFamily::from_fn(|family| rows.needs_source(family))
}

/// What the caller has chosen: see [`VipManager`].
#[derive(Clone, Copy)]
struct Site<'a> {
    config: &'a VipManagerBuilder,
    filter: &'a VipFilter,
}

impl Site<'_> {
    fn setup(self, link: &LinkState) -> Setup {
        self.config.setup(&self.filter.sources, link.index)
    }

    /// The fault that keeps a family from being served: see [`trouble::of_family`].
    fn trouble_of(
        self,
        family: Family,
        connection: &mut Connection,
        link: Option<&LinkState>,
    ) -> Result<Option<Trouble>, Error> {
        let source = self.filter.sources[family].address();
        let comes_up = may_bring_up(self.config);
        trouble::of_family(connection, family, link, comes_up, source)
    }

    /// Fails the VIPs of these families if a fault keeps the family from being served.
    fn exclude(
        self,
        connection: &mut Connection,
        buffers: &mut Buffers,
        families: PerFamily<bool>,
        link: Option<&LinkState>,
    ) -> Result<(), Error> {
        for family in Family::ALL.iter().filter(|f| families[**f]) {
            if let Some(trouble) = self.trouble_of(*family, connection, link)? {
                buffers.exclude_family(trouble);
            }
        }
        Ok(())
    }
}

/// Keeps only the rows of the call's scope.
fn keep_own(buffers: &mut Buffers, scope: Scope<'_>, filter: &VipFilter) -> Result<(), Error> {
    match scope {
        Scope::Given(_) => Ok(()),
        Scope::Link | Scope::Rebind => {
            let Buffers { rows, rejected, .. } = buffers;
            // A VIP that disappeared during the observation is not on the link.
            rows.retain(|row| row.facts.on_link() || row.facts.is_unread());
            rows.reject(|row| filter.reject(row), rejected);
            // Rebinding would make an expiring address permanent. Only a caller that names the VIP may do
            // that.
            let expiring = rows
                .iter_mut()
                .filter(|row| row.facts.contains(Facts::EXPIRES));
            expiring.for_each(|row| row.goal = Goal::Normalize);
            buffers.fail_unread(|row| row.facts.on_link());
            Ok(())
        }
        Scope::Claimed(leaving) | Scope::Wipe(leaving) => keep_leaving(buffers, leaving, filter),
        Scope::Lookup(leaving) => {
            // The same rule as for a discovery: a route in table main alone makes no VIP, and neither
            // does a route of another type than local.
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

/// Labels the addresses of the VIPs that will be on the link. With `preview`, only notes the labels.
fn label(
    call: &mut Call<'_>,
    link: &LinkState,
    label: u32,
    preview: Option<&mut Vec<Ipv6Net>>,
    added: &mut Vec<Label>,
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
        None => call.report.writes += label::label(call.connection, how, vips, added)?,
    }
    Ok(())
}

/// Refuses a claim by mark of a manager that sets no mark.
pub(crate) fn check_claim(
    claim: &Claim,
    config: &VipManagerBuilder,
    sources: &PerFamily<SourcePolicy>,
) -> Result<(), Error> {
    // The kernel's own routes have no mark.
    let marks_routes =
        config.protocol != Protocol::KERNEL && !sources.contains(&SourcePolicy::Kernel);
    let marks_addresses = config.address_protocol.is_some() && config.binding == Binding::Address;
    if claim.needs_mark() && !marks_routes && !marks_addresses {
        return Err(Error::config(
            "a claim by mark needs a mark: a protocol of routes other than kernel, if no family keeps \
             the kernel's route, or a protocol of addresses, if VIPs are bound by addresses",
        ));
    }
    Ok(())
}

/// As [`keep_claimed`], and fails the VIPs that could not be read.
fn keep_leaving(
    buffers: &mut Buffers,
    leaving: Leaving<'_>,
    filter: &VipFilter,
) -> Result<(), Error> {
    keep_claimed(buffers, leaving, filter)?;
    buffers.fail_unread(|row| row.goal != Goal::Release || leaving.takes(row, filter));
    Ok(())
}

/// Keeps, of the VIPs that are not desired, the named and the claimed ones. In a family without a desired
/// VIP, no claimed VIP is released.
fn keep_claimed(
    buffers: &mut Buffers,
    leaving: Leaving<'_>,
    filter: &VipFilter,
) -> Result<(), Error> {
    let Leaving { claim, desired, .. } = leaving;
    let Buffers { rows, rejected, .. } = &mut *buffers;
    let is_rejected = |vip| rejected.binary_search_by_key(&vip, |(of, _)| *of).is_ok();
    rows.retain(|row| {
        // A VIP that disappeared during the observation is not on the link. A desired VIP that was
        // rejected, for lack of a source, is discovered on the link but must stay.
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
                "{} would be released, more than the claim's bound of {}",
                Count(releases, "VIP", "VIPs"),
                claim.bound()
            ),
        ));
    }
    Ok(())
}

/// The fault of a claimed VIP that stays because its family has no desired VIP.
fn guard(family: Family) -> Trouble {
    Trouble {
        family,
        kind: ErrorKind::EmptySet,
        detail: format!(
            "no {family} VIP is desired, so the claimed VIPs stay: to take them off the link, release \
             them by name"
        )
        .into(),
    }
}
