//! The VIPs of a call as a sorted table, and the joins of observations into it.

use std::net::IpAddr;

use super::matching::{MatchContext, attrs_to_repeat, key_of, meaning, meaning_of_address};
use super::{Cause, Facts, Goal, Row};
use crate::base::{AddressAttrs, Family, IP6_USER_METRIC, RouteKey, TABLE_LOCAL, TABLE_MAIN, Vip};
use crate::netlink::decode::{Address, Route};

/// The VIPs of a call, sorted, with their facts. All buffers are kept between calls.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    rows: Vec<Row>,
    /// Routes other than the desired ones.
    others: Vec<(Vip, RouteKey)>,
    /// The attributes that an update must repeat, of addresses that expire or have a metric.
    address_attrs: Vec<(Vip, AddressAttrs)>,
    /// The peers of IPv4 addresses, of VIPs that have an address with a peer. An address without a
    /// peer has the VIP here.
    peers: Vec<(Vip, IpAddr)>,
    /// The flags of addresses, if they are kept (see [`MatchContext::keeps_flags`]).
    address_flags: Vec<(Vip, u32)>,
    /// Rows that a discovery found and [`adopt`](Self::adopt) adds.
    discovered: Vec<Row>,
    /// VIPs without a row that are on the link with another prefix length.
    other_prefixes: Vec<Vip>,
    /// The last desired route that had metrics, and their digest (see [`Route::metrics_digest`]).
    last_digest: Option<(Vip, u32)>,
    /// The last host whose route was skipped, because it showed no VIP.
    skipped: Option<Vip>,
    /// Whether a later route showed that the skipped host is a VIP. This observation lacks the skipped
    /// route.
    has_skipped_route: bool,
    cursor: usize,
    seen: u32,
    /// Number of IPv4 addresses of the link without a row.
    unmanaged_v4: usize,
}

/// What a look-up proves of table local.
///
/// Look-ups follow the node's routing rules (`fib_rules_lookup`, net/core/fib_rules.c). A rule before
/// the rule for table local may answer instead.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// The kernel uses this route of table local.
    Local(Route),
    /// Table local has no route to the VIP. The route, if any, is a later table's.
    NotLocal(Option<Route>),
    /// The look-up proves nothing.
    Unknown,
}

/// Returns the goal of a VIP that a discovery found, or `None` if the VIP is not of this call.
pub(crate) type Admit<'a> = &'a dyn Fn(Vip) -> Option<Goal>;

impl Rows {
    /// Begins a call: removes all rows.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.discovered.clear();
        self.other_prefixes.clear();
    }

    /// Adds a VIP. [`sort`](Self::sort) must follow.
    pub(crate) fn push(&mut self, vip: Vip, goal: Goal) {
        self.rows.push(Row::new(vip, goal));
    }

    /// Adds a VIP of which something is known.
    pub(crate) fn push_row(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Sorts the rows and merges duplicates. An interrupted dump may have shown a VIP twice.
    pub(crate) fn sort(&mut self) {
        self.rows.sort_unstable_by_key(|row| row.vip);
        let peers = &mut self.peers;
        self.rows.dedup_by(|again, row| {
            let same = again.vip == row.vip;
            if same {
                // One address of the VIP has a peer, and another has none.
                if (row.facts ^ again.facts).contains(Facts::PEER)
                    && (row.facts & again.facts).contains(Facts::ADDRESS)
                {
                    peers.push((row.vip, row.vip.addr()));
                }
                row.facts |= again.facts;
            }
            same
        });
    }

    /// Removes the rows for which `why` returns a cause.
    pub(crate) fn reject(
        &mut self,
        why: impl Fn(&Row) -> Option<Cause>,
        rejected: &mut Vec<(Vip, Cause)>,
    ) {
        self.retain(|row| match why(row) {
            Some(why) => {
                rejected.push((row.vip, why));
                false
            }
            None => true,
        });
    }

    /// Keeps only the rows for which `is_kept` returns true.
    pub(crate) fn retain(&mut self, mut is_kept: impl FnMut(&Row) -> bool) {
        let unmanaged_v4 = &mut self.unmanaged_v4;
        self.rows.retain(|row| {
            let kept = is_kept(row);
            // The address of a removed row stays on the link without a row.
            let address = row.vip.family() == Family::V4 && row.facts.contains(Facts::ADDRESS);
            *unmanaged_v4 += usize::from(address && !kept);
            kept
        });
    }

    /// Gives back memory beyond `rows` VIPs.
    pub(crate) fn shrink_to(&mut self, rows: usize) {
        self.clear();
        self.others.clear();
        self.address_attrs.clear();
        self.peers.clear();
        self.address_flags = Vec::new();
        self.rows.shrink_to(rows);
        self.others.shrink_to(rows);
        self.address_attrs.shrink_to(rows);
        self.peers.shrink_to(rows);
        self.discovered.shrink_to(rows);
        self.other_prefixes.shrink_to(rows);
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Row> {
        self.rows.iter()
    }

    pub(crate) fn as_slice(&self) -> &[Row] {
        &self.rows
    }

    pub(crate) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Row> {
        self.rows.iter_mut()
    }

    pub(crate) fn get(&self, row: u32) -> Option<&Row> {
        self.rows.get(usize::try_from(row).ok()?)
    }

    pub(crate) fn get_mut(&mut self, row: u32) -> Option<&mut Row> {
        self.rows.get_mut(usize::try_from(row).ok()?)
    }

    /// Whether a VIP of this family is among the rows.
    pub(crate) fn has(&self, family: Family) -> bool {
        // IPv4 sorts first.
        match family {
            Family::V4 => self.rows.first(),
            Family::V6 => self.rows.last(),
        }
        .is_some_and(|row| row.vip.family() == family)
    }

    /// Whether the goal of a row needs a source of this family.
    pub(crate) fn needs_source(&self, family: Family) -> bool {
        self.rows.iter().any(|row| row.needs_source(family))
    }

    /// The routes to a VIP other than the desired one.
    pub(crate) fn others(&self, vip: Vip) -> impl Iterator<Item = &RouteKey> {
        of_vip(&self.others, vip)
    }

    pub(crate) fn nth_other(&self, vip: Vip, place: usize) -> Option<RouteKey> {
        nth_of_vip(&self.others, vip, place)
    }

    /// The attributes that updates of a VIP's addresses must repeat. An IPv4 VIP may have several
    /// addresses, each with another peer.
    pub(crate) fn address_attrs(&self, vip: Vip) -> impl Iterator<Item = &AddressAttrs> {
        of_vip(&self.address_attrs, vip)
    }

    /// The flags of a VIP's address, if they were kept.
    pub(crate) fn address_flags(&self, vip: Vip) -> Option<u32> {
        nth_of_vip(&self.address_flags, vip, 0)
    }

    /// The peers of a VIP's addresses, if any of the addresses has a peer.
    pub(crate) fn peers(&self, vip: Vip) -> impl Iterator<Item = &IpAddr> {
        of_vip(&self.peers, vip)
    }

    pub(crate) fn nth_peer(&self, vip: Vip, place: usize) -> Option<IpAddr> {
        nth_of_vip(&self.peers, vip, place)
    }

    /// Number of IPv4 addresses of the link without a row.
    pub(crate) fn unmanaged_v4(&self) -> usize {
        self.unmanaged_v4
    }

    /// Begins an observation of addresses and routes: clears the facts.
    pub(crate) fn begin(&mut self) {
        self.begin_routes(|_| Facts::empty());
        self.address_attrs.clear();
        self.peers.clear();
        self.address_flags.clear();
        self.other_prefixes.clear();
        self.seen = 0;
        self.unmanaged_v4 = 0;
    }

    /// Begins an observation of routes only. Each row keeps the facts that `kept` returns.
    pub(crate) fn begin_routes(&mut self, kept: impl Fn(&Row) -> Facts) {
        for row in &mut self.rows {
            row.facts = kept(row);
        }
        self.others.clear();
        self.last_digest = None;
        self.skipped = None;
        self.has_skipped_route = false;
        self.cursor = 0;
    }

    /// Ends an observation.
    pub(crate) fn finish(&mut self) {
        // An interrupted dump may have repeated a route.
        self.others.sort_unstable();
        self.others.dedup();
        self.address_attrs
            .sort_unstable_by_key(|(vip, attrs)| (*vip, attrs.end));
        self.address_attrs
            .dedup_by_key(|(vip, attrs)| (*vip, attrs.end));
        self.peers.sort_unstable();
        self.peers.dedup();
        self.address_flags.sort_unstable();
    }

    /// The row of an address. Dumps are nearly sorted, ascending or (IPv6 addresses, newest first)
    /// descending, so the neighbours of the last row come first.
    fn find(&mut self, addr: IpAddr) -> Option<usize> {
        let vip = Vip::from(addr);
        for at in [self.cursor + 1, self.cursor.wrapping_sub(1), self.cursor] {
            if self.rows.get(at).is_some_and(|row| row.vip == vip) {
                self.cursor = at;
                return Some(at);
            }
        }
        self.search(vip)
    }

    /// Binary search for the row of a VIP. Not inlined, because that would slow down [`find`](Self::find).
    #[inline(never)]
    fn search(&mut self, vip: Vip) -> Option<usize> {
        let at = self.rows.binary_search_by_key(&vip, |row| row.vip).ok()?;
        self.cursor = at;
        Some(at)
    }

    /// The index of an address's row, the tag of its messages in a batch.
    pub(crate) fn index_of(&mut self, addr: IpAddr) -> Option<u32> {
        self.find(addr).and_then(|at| u32::try_from(at).ok())
    }

    /// Joins one address of a dump. With `admit`, an address without a row may become a row (see
    /// [`adopt`](Self::adopt)).
    pub(crate) fn join_address(
        &mut self,
        address: &Address,
        context: &MatchContext<'_>,
        admit: Option<Admit<'_>>,
    ) {
        if address.link != context.link {
            return;
        }
        self.seen += 1;
        let vip = Vip::from(address.addr);
        if address.prefix_length != vip.family().host_bits() {
            return self.join_other_length(vip, admit.is_some());
        }
        let row = match self.find(address.addr) {
            Some(at) => &mut self.rows[at],
            None => {
                let Some(goal) = admit.and_then(|admit| admit(vip)) else {
                    self.unmanaged_v4 += usize::from(vip.family() == Family::V4);
                    return;
                };
                self.discovered.push(Row::new(vip, goal));
                let last = self.discovered.len() - 1;
                &mut self.discovered[last]
            }
        };
        if vip.family() == Family::V4 && (address.peer.is_some() || row.facts.contains(Facts::PEER))
        {
            // A deletion must name the peer.
            if row.facts & (Facts::ADDRESS | Facts::PEER) == Facts::ADDRESS {
                self.peers.push((vip, vip.addr()));
            }
            row.facts |= Facts::PEER;
            self.peers.push((vip, address.peer.unwrap_or(vip.addr())));
        }
        if context.keeps_flags {
            self.address_flags.push((vip, address.flags));
        }
        row.order = self.seen;
        row.facts.remove(Facts::OF_LAST_ADDRESS);
        row.facts |= meaning_of_address(address, context);
        if let Some(attrs) = attrs_to_repeat(address) {
            self.address_attrs.push((vip, attrs));
        }
    }

    /// Joins an address that is no host's. With `discovers`, the dump may show the same address as a
    /// host later.
    fn join_other_length(&mut self, vip: Vip, discovers: bool) {
        self.unmanaged_v4 += usize::from(vip.family() == Family::V4);
        match self.find(vip.addr()) {
            Some(at) => self.rows[at].facts |= Facts::OTHER_LENGTH,
            None if discovers => self.other_prefixes.push(vip),
            None => {}
        }
    }

    /// Joins an IPv4 address that is known to be on the link, without reading it.
    pub(crate) fn join_known_address(&mut self, vip: Vip) {
        if let Some(at) = self.find(vip.addr()) {
            self.rows[at].facts |= Facts::ADDRESS | Facts::NO_PREFIX_ROUTE;
        }
    }

    /// Joins one route of a dump. Returns whether the route is in table main and goes through the link,
    /// so that it must be read again after a write.
    pub(crate) fn join_route(
        &mut self,
        route: &Route,
        context: &MatchContext<'_>,
        admit: Option<Admit<'_>>,
    ) -> bool {
        let Some((at, fact)) = self.classify(route, context) else {
            if let Some(admit) = admit {
                self.discover(route, context, admit);
            }
            return false;
        };
        let Row { vip, facts, .. } = self.rows[at];
        let fact = fact | self.duplicate(vip, facts, fact, route, context);
        self.rows[at].facts |= fact;
        self.note_other(vip, route, fact);
        route.table == TABLE_MAIN
    }

    /// Discovers a VIP by a local route through the link without an address. The kernel's own routes
    /// belong to addresses and do not count. A dump shows all routes to one destination in succession,
    /// so the facts of the VIP's other routes are joined, too.
    fn discover(&mut self, route: &Route, context: &MatchContext<'_>, admit: Admit<'_>) {
        let Some(host) = route.host() else { return };
        let vip = Vip::from(host);
        if route.table != TABLE_LOCAL || self.find(host).is_some() {
            return;
        }
        let Some(fact) = meaning(route, context) else {
            return;
        };
        let is_last = self.discovered.last().is_some_and(|row| row.vip == vip);
        if !is_last {
            let shows_vip = route.link == Some(context.link)
                && route.kind == libc::RTN_LOCAL
                && !route.is_kernels_own();
            let Some(goal) = admit(vip).filter(|_| shows_vip) else {
                self.skipped = Some(vip);
                return;
            };
            self.discovered.push(Row::new(vip, goal));
            self.has_skipped_route |= self.skipped == Some(vip);
        }
        let facts = self
            .discovered
            .last()
            .map(|row| row.facts)
            .unwrap_or_default();
        let fact = fact | self.duplicate(vip, facts, fact, route, context);
        if let Some(row) = self.discovered.last_mut() {
            row.facts |= fact;
        }
        self.note_other(vip, route, fact);
    }

    /// Whether the VIP has two desired IPv4 routes, which differ only in their metrics or realms: the
    /// second one is an extra route. `facts` are those of the routes before. An interrupted dump may
    /// repeat the same route, with the same digest.
    #[inline]
    fn duplicate(
        &mut self,
        vip: Vip,
        facts: Facts,
        fact: Facts,
        route: &Route,
        context: &MatchContext<'_>,
    ) -> Facts {
        let seen_before = facts & fact & (Facts::DESIRED | Facts::KERNEL);
        if seen_before.is_empty() && route.metrics_digest == 0 || route.family != Family::V4 {
            return Facts::empty();
        }
        if !fact.contains(context.desired_fact(Family::V4)) {
            return Facts::empty();
        }
        let before = self.last_digest.filter(|(of, _)| *of == vip);
        self.last_digest = Some((vip, route.metrics_digest));
        let digest = before.map_or(0, |(_, digest)| digest);
        if !seen_before.is_empty() && digest != route.metrics_digest {
            Facts::EXTRA
        } else {
            Facts::empty()
        }
    }

    /// Remembers a route that is not the desired one.
    fn note_other(&mut self, vip: Vip, route: &Route, fact: Facts) {
        if fact.intersects(Facts::SAME_KEY | Facts::EXTRA | Facts::PREFIX) {
            self.others.push((vip, key_of(route)));
        }
    }

    /// Adds the discovered VIPs to the rows.
    pub(crate) fn adopt(&mut self) {
        if !self.discovered.is_empty() {
            self.rows.append(&mut self.discovered);
            self.sort();
        }
        for place in 0..self.other_prefixes.len() {
            if let Some(at) = self.find(self.other_prefixes[place].addr()) {
                self.rows[at].facts |= Facts::OTHER_LENGTH;
            }
        }
    }

    /// Whether this observation discovered a VIP by a route after it had skipped another route to the
    /// same VIP.
    pub(crate) fn has_skipped_route(&self) -> bool {
        self.has_skipped_route
    }

    /// Joins the answer to a row's look-up. The answer is newer than any dump.
    pub(crate) fn join_look_up(&mut self, row: u32, answer: &Answer, context: &MatchContext<'_>) {
        let Some(Row { vip, facts, .. }) = self.get_mut(row) else {
            return;
        };
        let vip = *vip;
        let (is_local, route) = match answer {
            Answer::Local(route) => (true, route),
            Answer::NotLocal(Some(route)) => (false, route),
            Answer::NotLocal(None) => {
                return join_no_route(facts, vip.family(), context);
            }
            Answer::Unknown => {
                return facts.set(Facts::UNREAD_ROUTE, !facts.intersects(Facts::IN_LOCAL));
            }
        };
        let shown = self
            .classify(route, context)
            .map(|(_, fact)| fact)
            .unwrap_or_default();
        let extra = Facts::PREFIX | Facts::EXTRA;
        // A prefix route whose preferred source is the VIP shows an address of another length.
        let of_prefix = route.host().is_none() && route.prefsrc == Some(vip.addr());
        // A host route of a later table may hide routes through the link in table main.
        let is_later = route.table != TABLE_MAIN || route.host().is_some();
        let inconclusive = shown.intersects(extra) || of_prefix || !is_local && is_later;
        let fact = if is_local {
            shown - extra
        } else {
            Facts::empty()
        };
        if fact.contains(Facts::SAME_KEY) {
            let other = (vip, key_of(route));
            if let Err(place) = self.others.binary_search(&other) {
                self.others.insert(place, other);
            }
        }
        let Some(row) = self.get_mut(row) else { return };
        // A look-up does not show the routes behind its answer. If they include the desired route,
        // the facts seen before stay. IPv4 can have several routes of the same key.
        let hides = match vip.family() {
            Family::V4 => route.metric == 0,
            Family::V6 => {
                route.metric <= IP6_USER_METRIC
                    && !fact.intersects(Facts::DESIRED | Facts::SAME_KEY)
            }
        };
        if !(is_local && hides) {
            row.facts.remove(Facts::LOOKED_UP);
        }
        let desired = context.desired_fact(vip.family());
        row.facts.set(Facts::WINS, fact.contains(desired));
        row.facts.set(Facts::LOOKUP_INCONCLUSIVE, inconclusive);
        row.facts.remove(Facts::UNREAD_ROUTE);
        row.facts |= fact;
    }

    /// The row that has this route through the link in table main, if any.
    pub(crate) fn row_in_main(
        &mut self,
        route: &Route,
        context: &MatchContext<'_>,
    ) -> Option<&mut Row> {
        let (at, _) = self.classify(route, context)?;
        (route.table == TABLE_MAIN).then(|| &mut self.rows[at])
    }

    /// The row of a route's destination, and the facts that the route shows of it.
    fn classify(&mut self, route: &Route, context: &MatchContext<'_>) -> Option<(usize, Facts)> {
        let at = self.find(route.host()?)?;
        Some((at, meaning(route, context)?))
    }
}

/// Joins the answer that no route leads to the VIP.
fn join_no_route(facts: &mut Facts, family: Family, context: &MatchContext<'_>) {
    facts.remove(Facts::WINS);
    let seen = facts.intersects(Facts::DESIRED | Facts::SAME_KEY | Facts::KERNEL);
    if family == Family::V6 && seen {
        // The kernel's own route was deleted and inserted again (`arp on`, `arp off`). It is still
        // marked as being destroyed, so IPv6 answers "unreachable" for it, also to packets
        // (`fib6_destroying`, net/ipv6/route.c; seen on 6.18). No other case hides the route: table
        // local answered, and no rule. As the desired route it counts as missing, because it delivers
        // nothing.
        facts.set(Facts::KERNEL, !context.keeps_kernels(family));
    } else {
        facts.remove(Facts::LOOKED_UP | Facts::LOOKUP_INCONCLUSIVE | Facts::UNREAD_ROUTE);
    }
}

/// The values of one VIP in a sorted list.
fn of_vip<T>(list: &[(Vip, T)], vip: Vip) -> impl Iterator<Item = &T> {
    entries_of(list, vip).iter().map(|(_, what)| what)
}

/// One value of one VIP in a sorted list, without a walk through the values before it.
fn nth_of_vip<T: Copy>(list: &[(Vip, T)], vip: Vip, place: usize) -> Option<T> {
    entries_of(list, vip).get(place).map(|(_, what)| *what)
}

fn entries_of<T>(list: &[(Vip, T)], vip: Vip) -> &[(Vip, T)] {
    let list = &list[list.partition_point(|(of, _)| *of < vip)..];
    &list[..list.partition_point(|(of, _)| *of == vip)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A walk from the first value to each of them would take hours.
    #[test]
    fn many_routes_to_one_vip_are_reached_without_walks() {
        let vip = Vip::from(IpAddr::from([10, 96, 0, 1]));
        // Miri takes minutes for a million.
        let count = if cfg!(miri) { 1_000 } else { 1_000_000 };
        let list: Vec<(Vip, u32)> = (0..count).map(|at| (vip, at)).collect();
        for (_, at) in &list {
            assert_eq!(nth_of_vip(&list, vip, *at as usize), Some(*at));
        }
        assert_eq!(nth_of_vip(&list, vip, list.len()), None);
    }
}
