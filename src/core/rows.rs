//! The VIPs of a call, and how observations join into them.

use std::net::IpAddr;

use super::matching::{MatchContext, is_recent, key_of, meaning};
use super::{Cause, Facts, Goal, Row};
use crate::base::{
    AddressAttrs, Family, IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_HOMEADDRESS,
    IFA_F_MANAGETEMPADDR, IFA_F_MCAUTOJOIN, IFA_F_NODAD, IFA_F_NOPREFIXROUTE, IFA_F_TENTATIVE,
    IP6_USER_METRIC, RouteKey, TABLE_LOCAL, TABLE_MAIN, Vip,
};
use crate::netlink::decode::{Address, Route};

/// The VIPs of a call, sorted, and what was seen of them. All buffers are kept between calls.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    rows: Vec<Row>,
    /// Routes that are not as wanted.
    others: Vec<(Vip, RouteKey)>,
    /// What an update of an address must repeat, of those that expire; and of those with a metric
    /// of their own.
    address_attrs: Vec<(Vip, AddressAttrs)>,
    /// The other ends of IPv4 addresses, where one of the VIP's has a peer; the others' is the VIP.
    peers: Vec<(Vip, IpAddr)>,
    /// What a discovery found that is no row yet.
    discovered: Vec<Row>,
    /// VIPs, no rows yet, that are on the link with another prefix length.
    other_prefixes: Vec<Vip>,
    /// The last wanted route that had more to it, and what (see [`Route::metrics_digest`]).
    more: Option<(Vip, u32)>,
    /// The last host that a route led to which showed no VIP.
    passed: Option<Vip>,
    /// Whether such a one was found after all: of it this observation does not know all.
    by_route: bool,
    cursor: usize,
    seen: u32,
    /// IPv4 addresses of the link that are no row's.
    unmanaged_v4: usize,
}

/// What a look-up says of table local.
///
/// Look-ups follow the node's routing rules (`fib_rules_lookup`, net/core/fib_rules.c), and a rule
/// before the one for table local may answer instead.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// This route of table local is the one that is used.
    Local(Route),
    /// No route of table local leads there; one of a later table may.
    NotLocal(Option<Route>),
    /// Nothing.
    Unknown,
}

/// Which VIPs a discovery admits, and what for.
pub(crate) type Admit<'a> = &'a dyn Fn(Vip) -> Option<Goal>;

impl Rows {
    /// Begins a call: forgets all rows.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.discovered.clear();
        self.other_prefixes.clear();
    }

    /// Adds a VIP; [`settle`](Self::settle) must follow.
    pub(crate) fn push(&mut self, vip: Vip, goal: Goal) {
        self.rows.push(Row::new(vip, goal));
    }

    /// Sorts the rows and drops repetitions. A torn dump may have found a VIP twice.
    pub(crate) fn sort(&mut self) {
        self.rows.sort_unstable_by_key(|row| row.vip);
        let peers = &mut self.peers;
        self.rows.dedup_by(|again, row| {
            let same = again.vip == row.vip;
            if same {
                // One of its addresses was found with a peer, and another one without.
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

    /// Takes out the rows that `why` gives a reason for.
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

    /// Keeps only the rows that `desired` says yes to.
    pub(crate) fn retain(&mut self, mut desired: impl FnMut(&Row) -> bool) {
        let unmanaged_v4 = &mut self.unmanaged_v4;
        self.rows.retain(|row| {
            let desired = desired(row);
            // Its address stays on the link, but is no row's any more.
            let address = row.vip.family() == Family::V4 && row.facts.contains(Facts::ADDRESS);
            *unmanaged_v4 += usize::from(address && !desired);
            desired
        });
    }

    /// Gives back memory beyond `rows` VIPs.
    pub(crate) fn shrink_to(&mut self, rows: usize) {
        self.clear();
        self.others.clear();
        self.address_attrs.clear();
        self.peers.clear();
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

    pub(crate) fn as_mut_slice(&mut self) -> &mut [Row] {
        &mut self.rows
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
        // Sorted: IPv4 first.
        match family {
            Family::V4 => self.rows.first(),
            Family::V6 => self.rows.last(),
        }
        .is_some_and(|row| row.vip.family() == family)
    }

    /// Whether a VIP of this family is to be put on the link or kept there.
    pub(crate) fn needs_source(&self, family: Family) -> bool {
        self.rows.iter().any(|row| row.needs_source(family))
    }

    /// The routes to a VIP that are not as wanted.
    pub(crate) fn others(&self, vip: Vip) -> impl Iterator<Item = &RouteKey> {
        of_vip(&self.others, vip)
    }

    /// What updates of a VIP's addresses must repeat: in IPv4 it may have several, each with another
    /// peer.
    pub(crate) fn address_attrs(&self, vip: Vip) -> impl Iterator<Item = &AddressAttrs> {
        of_vip(&self.address_attrs, vip)
    }

    /// The other ends of a VIP's addresses, where one of those has a peer.
    pub(crate) fn peers(&self, vip: Vip) -> impl Iterator<Item = &IpAddr> {
        of_vip(&self.peers, vip)
    }

    /// How many IPv4 addresses the link has that are none of the rows'.
    pub(crate) fn unmanaged_v4(&self) -> usize {
        self.unmanaged_v4
    }

    /// Begins an observation of everything: forgets the facts.
    pub(crate) fn begin(&mut self) {
        self.begin_routes(|_| Facts::empty());
        self.address_attrs.clear();
        self.peers.clear();
        self.other_prefixes.clear();
        self.seen = 0;
        self.unmanaged_v4 = 0;
    }

    /// Begins an observation of routes alone: of the other facts stays what `kept` says.
    pub(crate) fn begin_routes(&mut self, kept: impl Fn(&Row) -> Facts) {
        for row in &mut self.rows {
            row.facts = kept(row);
        }
        self.others.clear();
        self.more = None;
        self.passed = None;
        self.by_route = false;
        self.cursor = 0;
    }

    /// Ends an observation.
    pub(crate) fn finish(&mut self) {
        // A torn dump may have told the same route twice.
        self.others.sort_unstable();
        self.others.dedup();
        self.address_attrs
            .sort_unstable_by_key(|(vip, keep)| (*vip, keep.end));
        self.address_attrs
            .dedup_by_key(|(vip, keep)| (*vip, keep.end));
        self.peers.sort_unstable();
        self.peers.dedup();
    }

    /// The row of an address. Dumps come nearly sorted, upward or (IPv6 addresses, newest first)
    /// downward, so the neighbours of the last one are tried first.
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

    /// The same for one that is nowhere near. Not inlined: it would make the near ones dearer.
    #[inline(never)]
    fn search(&mut self, vip: Vip) -> Option<usize> {
        let at = self.rows.binary_search_by_key(&vip, |row| row.vip).ok()?;
        self.cursor = at;
        Some(at)
    }

    /// The row of an address, as the steps of a batch name it.
    pub(crate) fn index_of(&mut self, addr: IpAddr) -> Option<u32> {
        self.find(addr).and_then(|at| u32::try_from(at).ok())
    }

    /// Joins one address of an address dump. With `admit`, one that is no row yet may become one:
    /// see [`adopt`](Self::adopt).
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
        let is_host = address.prefix_length == vip.family().host_bits();
        let row = match self.find(address.addr) {
            Some(at) => &mut self.rows[at],
            None => {
                let goal = admit.filter(|_| is_host).and_then(|admit| admit(vip));
                let Some(goal) = goal else {
                    if admit.is_some() && !is_host {
                        // It may be there as a host, too, further on in the dump.
                        self.other_prefixes.push(vip);
                    }
                    self.unmanaged_v4 += usize::from(vip.family() == Family::V4);
                    return;
                };
                self.discovered.push(Row::new(vip, goal));
                let last = self.discovered.len() - 1;
                &mut self.discovered[last]
            }
        };
        if !is_host {
            row.facts |= Facts::OTHER_LENGTH;
            self.unmanaged_v4 += usize::from(vip.family() == Family::V4);
            return;
        }
        let has = |flag| address.flags & flag != 0;
        if vip.family() == Family::V4 && (address.peer.is_some() || row.facts.contains(Facts::PEER))
        {
            // A deletion names the other end.
            if row.facts & (Facts::ADDRESS | Facts::PEER) == Facts::ADDRESS {
                self.peers.push((vip, vip.addr()));
            }
            row.facts |= Facts::PEER;
            self.peers.push((vip, address.peer.unwrap_or(vip.addr())));
        }
        row.order = self.seen;
        row.facts |= Facts::ADDRESS;
        row.facts.set(Facts::TENTATIVE, has(IFA_F_TENTATIVE));
        row.facts.set(Facts::DAD_FAILED, has(IFA_F_DADFAILED));
        row.facts
            .set(Facts::RECENT, is_recent(address.created, context.now));
        let mark = context.desired[vip.family()].address_protocol;
        if mark.is_some() && address.protocol == mark {
            row.facts |= Facts::MARKED | Facts::ADDRESS_MARKED;
        }
        let no_prefix_route = vip.family() == Family::V4 || has(IFA_F_NOPREFIXROUTE);
        row.facts.set(Facts::NO_PREFIX_ROUTE, no_prefix_route);
        let expires = address.valid != u32::MAX;
        if expires {
            row.facts |= Facts::EXPIRES;
        }
        if expires || address.rt_priority.is_some() {
            let settable =
                IFA_F_NODAD | IFA_F_HOMEADDRESS | IFA_F_MANAGETEMPADDR | IFA_F_MCAUTOJOIN;
            let keep = AddressAttrs {
                flags: address.flags & settable,
                end: address.peer.unwrap_or(vip.addr()),
                expires,
                deprecated: has(IFA_F_DEPRECATED) || address.preferred == 0,
                protocol: address.protocol,
                rt_priority: address.rt_priority,
            };
            self.address_attrs.push((vip, keep));
        }
    }

    /// Joins an IPv4 address that is known to be on the link.
    pub(crate) fn join_known_address(&mut self, vip: Vip) {
        if let Some(at) = self.find(vip.addr()) {
            self.rows[at].facts |= Facts::ADDRESS | Facts::NO_PREFIX_ROUTE;
        }
    }

    /// Joins one route of a dump. Returns whether it is one of the link in table main, to be
    /// looked at again after a write.
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

    /// Finds a VIP by a local route of the link that is there without its address. The kernel's own
    /// routes are there for addresses. What other routes to it mean counts too: a dump tells all
    /// that lead to one destination in a row.
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
            let shows = route.link == Some(context.link)
                && route.kind == libc::RTN_LOCAL
                && !route.is_kernels_own();
            let Some(goal) = admit(vip).filter(|_| shows) else {
                self.passed = Some(vip);
                return;
            };
            self.discovered.push(Row::new(vip, goal));
            self.by_route |= self.passed == Some(vip);
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

    /// Whether a wanted IPv4 route stands beside another one, which differs only in what we do not
    /// compare: then it is a further one. Of `facts` is what was told before. A torn dump may have
    /// told the same one twice.
    #[inline]
    fn duplicate(
        &mut self,
        vip: Vip,
        facts: Facts,
        fact: Facts,
        route: &Route,
        context: &MatchContext<'_>,
    ) -> Facts {
        let told = facts & fact & (Facts::DESIRED | Facts::KERNEL);
        if told.is_empty() && route.metrics_digest == 0 || route.family != Family::V4 {
            return Facts::empty();
        }
        if !fact.contains(context.desired_fact(Family::V4)) {
            return Facts::empty();
        }
        let before = self.more.filter(|(of, _)| *of == vip);
        self.more = Some((vip, route.metrics_digest));
        if !told.is_empty() && before.map_or(0, |(_, more)| more) != route.metrics_digest {
            Facts::EXTRA
        } else {
            Facts::empty()
        }
    }

    /// Remembers a route that is not as wanted, by what it means.
    fn note_other(&mut self, vip: Vip, route: &Route, fact: Facts) {
        if fact.intersects(Facts::SAME_KEY | Facts::EXTRA | Facts::PREFIX) {
            self.others.push((vip, key_of(route)));
        }
    }

    /// Makes what was found rows of the call.
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

    /// Whether this observation found VIPs that only a route told of, behind others that it has not
    /// joined.
    pub(crate) fn found_by_route(&self) -> bool {
        self.by_route
    }

    /// Joins the answer of a look-up for one row: what it says is so now, whatever a dump said.
    pub(crate) fn join_look_up(&mut self, row: u32, answer: &Answer, context: &MatchContext<'_>) {
        let Some(Row { vip, facts, .. }) = self.get(row).copied() else {
            return;
        };
        let (local, route) = match answer {
            Answer::Local(route) => (Some(route), Some(route)),
            Answer::NotLocal(route) => (None, route.as_ref()),
            Answer::Unknown => {
                if let Some(row) = self.get_mut(row) {
                    row.facts
                        .set(Facts::UNREAD_ROUTE, !facts.intersects(Facts::IN_LOCAL));
                }
                return;
            }
        };
        let fact = route
            .and_then(|route| self.classify(route, context))
            .map(|(_, fact)| fact)
            .unwrap_or_default();
        let further = Facts::PREFIX | Facts::EXTRA;
        // The route of a prefix whose source is the VIP tells of its address, with that length.
        let of_prefix = |route: &Route| route.host().is_none() && route.prefsrc == Some(vip.addr());
        // Behind a host route of a later table, routes of ours in table main may stand.
        let is_later = |route: &Route| route.table != TABLE_MAIN || route.host().is_some();
        let inconclusive = fact.intersects(further)
            || route.is_some_and(of_prefix)
            || local.is_none() && route.is_some_and(is_later);
        let fact = if local.is_some() {
            fact - further
        } else {
            Facts::empty()
        };
        // Behind a route that comes before the wanted one a look-up cannot see, and what was seen
        // there stays. IPv4 can have several routes in the place of the wanted one.
        let hides = local.is_some_and(|route| match route.family {
            Family::V4 => route.metric == 0,
            Family::V6 => {
                route.metric <= IP6_USER_METRIC
                    && !fact.intersects(Facts::DESIRED | Facts::SAME_KEY)
            }
        });
        if let Some(route) = local.filter(|_| fact.contains(Facts::SAME_KEY)) {
            let other = (vip, key_of(route));
            if let Err(place) = self.others.binary_search(&other) {
                self.others.insert(place, other);
            }
        }
        let Some(row) = self.get_mut(row) else { return };
        let seen = row
            .facts
            .intersects(Facts::DESIRED | Facts::SAME_KEY | Facts::KERNEL);
        if route.is_none() && vip.family() == Family::V6 && seen {
            // The kernel's own route, put in once more after it was deleted (`arp on`, `arp off`),
            // is marked as being destroyed, and IPv6 answers "unreachable" for it, to packets too
            // (`fib6_destroying`, net/ipv6/route.c; seen on 6.18). Only that hides what was seen:
            // table local answered, and no rule.
            // Where it is the wanted one it counts as missing: it serves nobody.
            row.facts
                .set(Facts::KERNEL, !context.keeps_kernels(vip.family()));
            row.facts.remove(Facts::WINS);
            return;
        }
        if !hides {
            row.facts.remove(Facts::LOOKED_UP);
        }
        let desired = context.desired_fact(vip.family());
        row.facts.set(Facts::WINS, fact.contains(desired));
        row.facts.set(Facts::LOOKUP_INCONCLUSIVE, inconclusive);
        row.facts.remove(Facts::UNREAD_ROUTE);
        row.facts |= fact;
    }

    /// Whose route this is and what it means there.
    fn classify(&mut self, route: &Route, context: &MatchContext<'_>) -> Option<(usize, Facts)> {
        let at = self.find(route.host()?)?;
        Some((at, meaning(route, context)?))
    }
}

/// What a sorted list has of one VIP.
fn of_vip<T>(list: &[(Vip, T)], vip: Vip) -> impl Iterator<Item = &T> {
    let from = list.partition_point(|(of, _)| *of < vip);
    list[from..]
        .iter()
        .take_while(move |(of, _)| *of == vip)
        .map(|(_, what)| what)
}
