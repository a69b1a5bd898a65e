//! Observing rows one by one, by look-ups and notifications, without reading the rest of the link.

use super::arrival::note_arrival;
use super::read::Observer;
use crate::base::{Family, IP6_USER_METRIC, PerFamily, TABLE_MAIN, Vip, means_no_address};
use crate::core::{Binding, Done, Facts, Goal, Policy, Row, Rows};
use crate::netlink::connection::{Dumped, Failed};
use crate::netlink::decode::{Address, Message, Route};
use crate::netlink::encode::get_address_message;

/// The most VIPs that a call observes by look-ups, which take some system calls each, instead of
/// dumps.
pub(crate) const LOOKUP_MAX: usize = 16;

/// The most routes to one VIP that are remembered. A VIP with more is read by dumps.
pub(crate) const ROUTES_MAX: usize = 64;

/// What notifications reported of a VIP.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notified {
    /// Whether the VIP's address is on the link, as a host prefix. `None`: unknown.
    pub(crate) address: Option<bool>,
    /// The address has a lifetime. An IPv4 address must then be read, for its update repeats its
    /// attributes.
    pub(crate) expires: bool,
    /// The VIP was not verified before these notifications. Look-ups then suffice only if the VIP is
    /// new to the link or is released.
    pub(crate) unverified: bool,
    /// Added routes to the VIP through the link, except the desired route. If there are more than
    /// [`ROUTES_MAX`], some are not here.
    pub(crate) routes: Vec<Route>,
}

impl Notified {
    /// Notes a notification of the VIP's address.
    pub(crate) fn note_address(&mut self, address: &Address, added: bool) {
        self.address = Some(added);
        self.expires = added && address.valid != u32::MAX;
    }

    /// Whether the VIP was verified, and its address has not changed since.
    pub(crate) fn keeps_verified_address(&self) -> bool {
        !self.unverified && self.address.is_none()
    }

    /// Whether all routes that notifications reported are remembered.
    fn remembers_routes(&self) -> bool {
        self.routes.len() <= ROUTES_MAX
    }

    /// Notes that a route to the VIP was added through the link.
    pub(crate) fn note_added(&mut self, route: &Route) {
        if self.remembers_routes() && !self.routes.iter().any(|other| is_same(other, route)) {
            self.routes.push(*route);
        }
    }

    /// Notes that a route to the VIP was deleted.
    pub(crate) fn note_deleted(&mut self, route: &Route) {
        if self.remembers_routes() {
            self.routes.retain(|other| !is_same(other, route));
        }
    }
}

/// Whether two routes to the same VIP are one, as far as notifications show.
fn is_same(one: &Route, other: &Route) -> bool {
    let key = |route: &Route| {
        (
            route.table,
            route.metric,
            route.protocol,
            route.tos,
            route.prefsrc,
        )
    };
    key(one) == key(other)
}

/// The state of a call that observes by look-ups.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    /// What notifications reported of each VIP.
    pub(crate) all_notified: Vec<(Vip, Notified)>,
}

impl Lookup {
    /// For rows without any notification.
    pub(crate) fn unknown(rows: &Rows) -> Self {
        let unknown = Notified {
            unverified: true,
            ..Notified::default()
        };
        let all_notified = rows.iter().map(|row| (row.vip, unknown.clone()));
        Self {
            all_notified: all_notified.collect(),
        }
    }

    fn notified(&self, vip: Vip) -> Option<&Notified> {
        let notified = self.all_notified.iter().find(|(of, _)| *of == vip);
        notified.map(|(_, notified)| notified)
    }

    fn is_unverified(&self, vip: Vip) -> bool {
        self.notified(vip)
            .is_none_or(|notified| notified.unverified)
    }

    /// Notes a notification of an IPv4 address, which RTM_GETADDR cannot ask for.
    fn note_address(&mut self, message: &Message<'_>, link: u32) {
        let added = match message.kind {
            libc::RTM_NEWADDR => true,
            libc::RTM_DELADDR => false,
            _ => return,
        };
        let Ok(Some(address)) = message.address() else {
            return;
        };
        let vip = Vip::from(address.addr);
        if vip.family() == Family::V4
            && address.link == link
            && address.prefix_length == Family::V4.host_bits()
            && let Some((_, notified)) = self.all_notified.iter_mut().find(|(of, _)| *of == vip)
        {
            notified.note_address(&address, added);
        }
    }
}

impl Observer<'_> {
    /// Observes the rows by look-ups, without reading the rest of the link. RTM_GETADDR shows an IPv6
    /// address, and RTM_GETROUTE the winning route; notifications report the rest. Returns false if
    /// a row stays unknown: then [`observe`](Self::observe).
    ///
    /// IPv4 has no RTM_GETADDR for one address, so an IPv4 row needs a notification of its address.
    /// Without one, a new call assumes that the address is absent; if it is present, the kernel refuses
    /// to add it.
    ///
    /// With `scan_main`, releases also read table main, which look-ups do not show. `scan_main` then
    /// says whether table main held a route of the link to a row.
    pub(crate) fn observe_by_lookup(
        &mut self,
        lookup: &mut Lookup,
        scan_main: &mut bool,
    ) -> Result<bool, Failed> {
        let (rows, link) = (&mut *self.rows, self.context.link);
        let heard = self.connection.notifications(|message| {
            lookup.note_address(message, link);
            note_arrival(message, rows, link);
        })?;
        self.rows.begin();
        let mut unknown = heard == Dumped::Interrupted;
        let mut notified_main = false;
        for at in 0..self.rows.len() {
            let Some(row) = self.rows.iter().nth(at).copied() else {
                break;
            };
            let notified = lookup.notified(row.vip);
            unknown |= !self.join_one_address(&row, notified)?;
            unknown |= !self.join_notified_routes(at, notified, &mut notified_main);
        }
        let is_released = |row: &Row| row.goal == Goal::Release && lookup.is_unverified(row.vip);
        if !unknown && *scan_main && self.rows.iter().any(is_released) {
            unknown = self.scan_main(Family::V6, scan_main)? == Dumped::Interrupted;
        }
        // A notification does not show which routes in table main precede its own. An IPv6 route
        // there has made the rows unknown already.
        if !unknown && notified_main {
            unknown = self.scan_main(Family::V4, &mut false)? == Dumped::Interrupted;
        }
        self.rows.finish();
        // A look-up shows the route with the desired key, so that route's notification is spent. An
        // extra route stays notified until its deletion is sent: another step may come first. A
        // deletion of a route that is gone does no harm.
        for (_, notified) in &mut lookup.all_notified {
            notified.routes.retain(is_extra);
        }
        if unknown {
            return Ok(false);
        }
        self.look_up(|_| true)?;
        Ok(self.rows.iter().all(|row| {
            if lookup.is_unverified(row.vip) {
                lookups_show_all(row)
            } else {
                !self.is_hidden(row)
            }
        }))
    }

    /// Observes the rows by look-ups, but for the addresses of IPv4, which are dumped. Returns whether that
    /// shows every row in its single-route state. A look-up does not show a route behind its answer.
    pub(crate) fn observe_given(&mut self, policies: &PerFamily<Policy>) -> Result<bool, Failed> {
        self.rows.begin();
        let mut known =
            !self.rows.has(Family::V4) || self.dump_addresses(Family::V4)? == Dumped::Complete;
        for at in 0..self.rows.len() {
            let row = self.rows.iter().nth(at).copied();
            if let Some(row) = row.filter(|row| row.vip.family() == Family::V6) {
                known &= self.join_one_address(&row, None)?;
            }
        }
        self.rows.finish();
        if !known {
            return Ok(false);
        }
        self.look_up(|_| true)?;
        Ok(self.rows.iter().all(|row| {
            row.facts.drift(policies[row.vip.family()]).is_empty()
                && row.facts.contains(Facts::WINS)
                && !row.facts.contains(Facts::LOOKUP_INCONCLUSIVE)
                && !may_have_prefix_route(row)
        }))
    }

    /// Joins the address of one row. Returns whether the address is known.
    fn join_one_address(&mut self, row: &Row, notified: Option<&Notified>) -> Result<bool, Failed> {
        let vip = row.vip;
        if vip.family() == Family::V4 {
            return Ok(match notified.and_then(|notified| notified.address) {
                Some(true) => {
                    self.rows.join_known_address(vip);
                    notified.is_some_and(|notified| !notified.expires)
                }
                Some(false) => true,
                None => !row.progress.has(Done::WRITTEN) && row.goal == Goal::Assign,
            });
        }
        let link = self.context.link;
        let asked = self.connection.get(
            |out, sequence| get_address_message(out, sequence, &vip.addr(), link),
            |message| message.address(),
        );
        match asked {
            Ok(Some(address)) => {
                self.rows.join_address(&address, &self.context, self.admit);
                Ok(true)
            }
            Ok(None) => Ok(true),
            Err(Failed::Refused(refusal)) if means_no_address(refusal.errno) => Ok(true),
            Err(Failed::Refused(refusal)) if refusal.errno != libc::ENODEV => Ok(false),
            Err(failed) => Err(failed),
        }
    }

    /// Joins the routes that notifications reported to one row. Returns whether its routes are known.
    fn join_notified_routes(
        &mut self,
        at: usize,
        notified: Option<&Notified>,
        notified_main: &mut bool,
    ) -> bool {
        if notified.is_some_and(|notified| !notified.remembers_routes()) {
            return false;
        }
        for route in notified.into_iter().flat_map(|notified| &notified.routes) {
            *notified_main |= self.rows.join_route(route, &self.context, None);
        }
        let Some(row) = self.rows.iter().nth(at) else {
            return true;
        };
        match row.vip.family() {
            // IPv4 allows routes that differ only in an attribute such as the MTU (`fib_table_insert`,
            // net/ipv4/fib_trie.c). A notification does not say whether a route stands beside another
            // or replaced it.
            Family::V4 => !row.facts.contains(self.context.desired_fact(Family::V4)),
            // IPv6 deletes by metric and protocol (`ip6_route_del`, net/ipv6/route.c). A notification
            // does not show whether a deletion could hit another route, nor whether its own is left.
            Family::V6 => !row.facts.intersects(Facts::EXTRA | Facts::PREFIX),
        }
    }

    /// Whether look-ups may hide an address or a route of a row that was verified before.
    fn is_hidden(&self, row: &Row) -> bool {
        let family = row.vip.family();
        let kernels = row.facts.contains(Facts::KERNEL);
        // A look-up shows the winning route only, so the kernel's route or another device's hides
        // routes. The kernel's route of a new address hides none yet. A kernel's route that is the
        // desired one hides none if it was verified and not written to since.
        let hidden = kernels
            && if self.context.keeps_kernels(family) {
                row.progress.has(Done::WRITTEN)
            } else {
                family == Family::V6 && !row.progress.has(Done::ADDRESS_IS_NEW)
            };
        // The VIP has a route and may have an address, which no notification reported.
        let address_unknown = family == Family::V4
            && !row.facts.contains(Facts::ADDRESS)
            && row.facts.on_link()
            && !row.progress.has(Done::WAS_ABSENT);
        row.facts
            .intersects(Facts::FOREIGN | Facts::LOOKUP_INCONCLUSIVE | Facts::UNREAD)
            || hidden
            || address_unknown
    }
}

/// Whether the route has neither the desired route's key nor is the kernel's own local route.
fn is_extra(route: &Route) -> bool {
    let same_key = match route.family {
        Family::V4 => route.tos == 0 && route.metric == 0,
        Family::V6 => matches!(route.metric, 0 | IP6_USER_METRIC),
    };
    route.table == TABLE_MAIN || !same_key
}

/// Whether the kernel may have made a prefix route for an address without `IFA_F_NOPREFIXROUTE`. Only
/// table main shows that route.
pub(super) fn may_have_prefix_route(row: &Row) -> bool {
    row.vip.family() == Family::V6
        && row.facts.contains(Facts::ADDRESS)
        && !row.facts.contains(Facts::NO_PREFIX_ROUTE)
}

/// Whether look-ups show all of a row that was not verified before. Without a winning local route there
/// is no local route, and this call's own route is seen. A route that predates the call may hide
/// others.
fn lookups_show_all(row: &Row) -> bool {
    let is_new = row.progress.has(Done::WAS_ABSENT);
    let begins = !row.progress.has(Done::WRITTEN);
    let further = Facts::FOREIGN
        | Facts::LOOKUP_INCONCLUSIVE
        | Facts::OTHER_LENGTH
        | Facts::SAME_KEY
        | Facts::UNREAD;
    if row.facts.intersects(further) || may_have_prefix_route(row) {
        return false;
    }
    match row.goal {
        // Without a local route, the IPv4 address is assumed absent. If it is present, the kernel
        // refuses to add it.
        Goal::Assign => is_new || begins && !row.facts.on_link(),
        // Once the winning route is deleted, a look-up shows the next. But IPv4 look-ups without a
        // type of service do not find a route with one.
        Goal::Release => row.vip.family() == Family::V6 && (begins || !row.facts.on_link()),
        Goal::Normalize | Goal::Look => false,
    }
}

/// Whether look-ups will show the outcome of this row, judged by its present facts.
pub(crate) fn lookups_suffice(row: &Row, binding: Binding) -> bool {
    match (row.goal, row.vip.family()) {
        // Only a dump shows whether a VIP with a route-only binding has an address.
        (Goal::Assign, Family::V4) => binding == Binding::Address && !row.facts.on_link(),
        (Goal::Assign, Family::V6) => !row.facts.on_link(),
        // Only a dump shows whether a released IPv4 VIP has an address with another prefix length,
        // which must keep its routes.
        (Goal::Release, Family::V6) => true,
        _ => false,
    }
}
