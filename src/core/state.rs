//! What was seen of each VIP: rows, the facts in them, and how observations join into them.

use std::fmt;
use std::net::IpAddr;

use crate::base::{
    AddressAttrs, DesiredRoute, Family, IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_HOMEADDRESS,
    IFA_F_MANAGETEMPADDR, IFA_F_MCAUTOJOIN, IFA_F_NODAD, IFA_F_NOPREFIXROUTE, IFA_F_TENTATIVE,
    IP6_USER_METRIC, RouteKey, TABLE_LOCAL, TABLE_MAIN, Vip,
};
use crate::core::Cause;
use crate::core::{Binding, Goal, Policy, Row};
use crate::netlink::decode::{Address, Route};

bitflags::bitflags! {
    /// How a VIP differs from its single-route state. Empty: it does not.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Drift: u32 {
        /// The VIP's address is not on the link.
        const MISSING_ADDRESS = 1;
        /// The address is on the link with another prefix length than /32 or /128.
        const WRONG_PREFIX_LENGTH = 1 << 1;
        /// The address is tentative: duplicate address detection has not ended (RFC 4862 5.4).
        const TENTATIVE = 1 << 2;
        /// Duplicate address detection found the address in use elsewhere.
        const DAD_FAILED = 1 << 3;
        /// The kernel's prefix route of the address is in table main. IPv6 only.
        const PREFIX_ROUTE = 1 << 4;
        /// The kernel's own local route is there and has the VIP as its source. Not where the
        /// family [keeps it](crate::VipManagerBuilder::kernel_source): there it is the wanted route.
        const KERNEL_LOCAL_ROUTE = 1 << 5;
        /// The wanted route is not there.
        const MISSING_ROUTE = 1 << 6;
        /// The VIP's route has another preferred source than the wanted one, or none.
        const WRONG_SOURCE = 1 << 7;
        /// The VIP's route has another protocol than the wanted one.
        const WRONG_PROTOCOL = 1 << 8;
        /// There is a further route to the VIP through the link.
        const DUPLICATE = 1 << 9;
        /// A route to the VIP is there without its address: the node swallows its traffic.
        const STALE = 1 << 10;
        /// Another device holds a local route for the VIP.
        const CONFLICT = 1 << 11;
        /// The address is on the link, though the VIPs are bound by their routes only
        /// ([`Binding::Route`](crate::Binding::Route)).
        const UNWANTED_ADDRESS = 1 << 12;
        /// A further table has a route to the VIP through the link. Only a deep audit looks.
        const OTHER_TABLE = 1 << 13;
        /// The VIP could not be read: other hands kept changing the tables, so that every dump was
        /// interrupted, and no look-up could tell, because of the node's routing rules. What else is
        /// said of the VIP was seen; what is not said may be so all the same.
        const UNREAD = 1 << 14;
        /// The address has a finite valid lifetime: the kernel will delete it.
        const EXPIRING_ADDRESS = 1 << 15;
        /// The VIP's route has a lifetime. IPv6 only.
        const EXPIRING_ROUTE = 1 << 16;
        /// Table local holds the wanted route, and a routing rule that comes before it (`ip rule`)
        /// sends the node's own traffic to the VIP elsewhere. Only a deep audit looks.
        const DIVERTED = 1 << 20;
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_names(f, self.iter_names().map(|(name, _)| name))
    }
}

/// The names of flags as words: `WRONG_SOURCE` is "wrong source".
pub(crate) fn write_names<'n>(
    f: &mut fmt::Formatter<'_>,
    names: impl Iterator<Item = &'n str>,
) -> fmt::Result {
    for (at, name) in names.enumerate() {
        if at > 0 {
            f.write_str(", ")?;
        }
        for letter in name.chars() {
            let letter = if letter == '_' {
                ' '
            } else {
                letter.to_ascii_lowercase()
            };
            fmt::Write::write_char(f, letter)?;
        }
    }
    Ok(())
}

bitflags::bitflags! {
    /// What the last observation saw of a VIP. Nothing here is inferred from an ack.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub(crate) struct Facts: u32 {
        /// The address is on the link as a host prefix…
        const ADDRESS = 1;
        /// …and makes no prefix route (always so in IPv4, whose kernel makes none for a /32). Without
        /// this, table main is read; the route is a drift only where it is seen.
        const NO_PREFIX_ROUTE = 1 << 1;
        const TENTATIVE = 1 << 2;
        const DAD_FAILED = 1 << 3;
        /// …and is so new that the kernel's route may still be on its way.
        const RECENT = 1 << 4;
        /// The address is on the link with another prefix length.
        const OTHER_LENGTH = 1 << 5;

        /// The wanted route, exactly.
        const DESIRED = 1 << 6;
        /// Another route of the link in the place that the wanted one would take…
        const SAME_KEY = 1 << 7;
        /// …with another source (or type, or scope)…
        const WRONG_SOURCE = 1 << 8;
        /// …with another protocol.
        const WRONG_PROTOCOL = 1 << 9;
        /// The kernel's own local route.
        const KERNEL = 1 << 10;
        /// The kernel's prefix route in table main.
        const PREFIX = 1 << 11;
        /// Any other route of the link to the VIP, in table local or main.
        const EXTRA = 1 << 12;
        /// A route in table local that is another device's, or of a kind that we never make.
        const FOREIGN = 1 << 13;
        /// A look-up answered with the wanted route (see [`Facts::desired`]).
        const WINS = 1 << 14;
        /// Its address or a route of it bears the manager's mark…
        const MARKED = 1 << 15;
        /// IPv6: the route of a nexthop object stands in table local, or one through our link that
        /// has a gateway or several next hops. The kernel compares no device with the one, and no
        /// gateway with the others (`ip6_route_del`, net/ipv6/route.c), so a deletion could hit it.
        const AMBIGUOUS_DELETE_LOCAL = 1 << 16;
        /// A deletion in table main would hit such a route, in IPv4 one of the latter kind.
        const AMBIGUOUS_DELETE_MAIN = 1 << 17;
        /// A look-up was answered by a further route, or by what may hide one.
        const LOOKUP_INCONCLUSIVE = 1 << 18;
        /// …its address does.
        const ADDRESS_MARKED = 1 << 19;
        /// IPv4: there is one with a peer, and [`Rows::ends`] has all of the VIP's.
        const PEER = 1 << 20;
        /// A route in table local may be there all the same: an interrupted dump showed none, and
        /// no look-up could tell.
        const UNREAD_ROUTE = 1 << 21;
        /// So may its address.
        const UNREAD_ADDRESS = 1 << 22;
        const UNREAD = Self::UNREAD_ROUTE.bits() | Self::UNREAD_ADDRESS.bits();
        /// The address has a finite valid lifetime.
        const EXPIRES = 1 << 23;
        /// The route in the place of the wanted one has a lifetime.
        const SLOT_EXPIRES = 1 << 24;

        /// What there is to release.
        const ANY_ROUTE = Self::DESIRED.bits() | Self::SAME_KEY.bits() | Self::KERNEL.bits()
            | Self::PREFIX.bits() | Self::EXTRA.bits();
        /// What is known of the address.
        const OF_ADDRESS = Self::ADDRESS.bits() | Self::NO_PREFIX_ROUTE.bits()
            | Self::TENTATIVE.bits() | Self::DAD_FAILED.bits() | Self::RECENT.bits()
            | Self::OTHER_LENGTH.bits() | Self::MARKED.bits() | Self::ADDRESS_MARKED.bits()
            | Self::PEER.bits() | Self::EXPIRES.bits();
        /// In what the route in the place of the wanted one differs.
        const SLOT_KIND = Self::WRONG_SOURCE.bits() | Self::WRONG_PROTOCOL.bits()
            | Self::SLOT_EXPIRES.bits();
        /// What a look-up answers afresh.
        const LOOKED_UP = Self::DESIRED.bits() | Self::SAME_KEY.bits() | Self::SLOT_KIND.bits()
            | Self::KERNEL.bits() | Self::WINS.bits()
            | Self::LOOKUP_INCONCLUSIVE.bits() | Self::UNREAD_ROUTE.bits();
        /// What a route in table local shows. A dump visits all routes of a destination at once
        /// (`fib6_dump_node`, net/ipv6/ip6_fib.c; `fn_trie_dump_leaf`, net/ipv4/fib_trie.c), so one
        /// that showed any has shown the others.
        const IN_LOCAL = Self::DESIRED.bits() | Self::SAME_KEY.bits() | Self::KERNEL.bits()
            | Self::FOREIGN.bits();
    }
}

impl Facts {
    /// What says that the route is there that shall be the only one.
    pub(crate) fn desired(kernel_source: bool) -> Self {
        if kernel_source {
            Self::KERNEL
        } else {
            Self::DESIRED
        }
    }

    /// How these facts differ from the single-route state.
    pub(crate) fn drift(self, policy: Policy) -> Drift {
        let address = self.contains(Self::ADDRESS);
        let mut drift = Drift::empty();
        match policy.binding {
            Binding::Address => {
                drift.set(Drift::MISSING_ADDRESS, !address);
                drift.set(Drift::STALE, !address && self.intersects(Self::ANY_ROUTE));
                drift.set(Drift::TENTATIVE, self.contains(Self::TENTATIVE));
                drift.set(Drift::DAD_FAILED, self.contains(Self::DAD_FAILED));
            }
            Binding::Route => drift.set(Drift::UNWANTED_ADDRESS, address),
        }
        drift.set(
            Drift::WRONG_PREFIX_LENGTH,
            self.contains(Self::OTHER_LENGTH),
        );
        drift.set(Drift::EXPIRING_ADDRESS, self.contains(Self::EXPIRES));
        drift.set(Drift::PREFIX_ROUTE, self.contains(Self::PREFIX));
        if policy.kernel_source {
            drift.set(Drift::MISSING_ROUTE, !self.contains(Self::KERNEL));
            let further = Self::DESIRED | Self::SAME_KEY | Self::EXTRA;
            drift.set(Drift::DUPLICATE, self.intersects(further));
        } else {
            drift.set(Drift::KERNEL_LOCAL_ROUTE, self.contains(Self::KERNEL));
            drift.set(Drift::MISSING_ROUTE, !self.contains(Self::DESIRED));
            drift.set(Drift::WRONG_SOURCE, self.contains(Self::WRONG_SOURCE));
            drift.set(Drift::WRONG_PROTOCOL, self.contains(Self::WRONG_PROTOCOL));
            drift.set(Drift::EXPIRING_ROUTE, self.contains(Self::SLOT_EXPIRES));
            drift.set(
                Drift::DUPLICATE,
                self.contains(Self::EXTRA) || self.contains(Self::DESIRED | Self::SAME_KEY),
            );
        }
        drift.set(
            Drift::CONFLICT,
            self.contains(Self::FOREIGN) && !self.contains(Self::WINS),
        );
        if self.is_unread() {
            // What was not seen may be there.
            drift -= Drift::MISSING_ADDRESS | Drift::MISSING_ROUTE | Drift::STALE;
            drift |= Drift::UNREAD;
        }
        drift
    }

    /// The same where the wanted source is not known: what differs whichever it is. The kernel's own
    /// route may be the wanted one, or the one in the place of ours; both are one too many.
    pub(crate) fn drift_of_any_source(self, policy: Policy) -> Drift {
        let either = self & (Self::KERNEL | Self::SAME_KEY);
        let mut drift = self.drift(policy) - Drift::KERNEL_LOCAL_ROUTE;
        drift.set(Drift::MISSING_ROUTE, either.is_empty() && !self.is_unread());
        if either == Self::KERNEL | Self::SAME_KEY {
            drift |= Drift::DUPLICATE;
        }
        drift
    }

    /// Whether more may be there than was seen.
    pub(crate) fn is_unread(self) -> bool {
        self.intersects(Self::UNREAD)
    }

    /// Whether the VIP is on the link at all, in whatever state.
    pub(crate) fn on_link(self) -> bool {
        self.intersects(Self::ADDRESS | Self::OTHER_LENGTH | Self::ANY_ROUTE)
    }
}

/// What an observation is compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatchContext<'a> {
    /// The link that holds the VIPs.
    pub(crate) link: u32,
    /// The wanted route of each family: IPv4, IPv6.
    pub(crate) desired: &'a [DesiredRoute; 2],
    /// Hundredths of a second since boot.
    pub(crate) now: u32,
}

impl MatchContext<'_> {
    /// Whether the VIPs of a family keep the kernel's own route.
    pub(crate) fn keeps_kernels(&self, family: Family) -> bool {
        self.desired[family as usize].kernel_source
    }

    /// What says that a VIP of this family has the route that it shall have.
    pub(crate) fn desired_fact(&self, family: Family) -> Facts {
        Facts::desired(self.keeps_kernels(family))
    }
}

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
    /// The last wanted route that had more to it, and what (see [`Route::more`]).
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
        let mark = context.desired[vip.family() as usize].address_protocol;
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
        if told.is_empty() && route.more == 0 || route.family != Family::V4 {
            return Facts::empty();
        }
        if !fact.contains(context.desired_fact(Family::V4)) {
            return Facts::empty();
        }
        let before = self.more.filter(|(of, _)| *of == vip);
        self.more = Some((vip, route.more));
        if !told.is_empty() && before.map_or(0, |(_, more)| more) != route.more {
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

/// What a route means for the host that it leads to.
fn meaning(route: &Route, context: &MatchContext<'_>) -> Option<Facts> {
    if route.cloned || !matches!(route.table, TABLE_LOCAL | TABLE_MAIN) {
        return None;
    }
    if route.link != Some(context.link) || route.indirect {
        // The links of several next hops are not told here.
        let through_ours = route.indirect && route.link.is_none_or(|link| link == context.link);
        let other = route.family == Family::V6 && (route.by_object || through_ours);
        let fact = if other {
            Facts::FOREIGN | Facts::AMBIGUOUS_DELETE_LOCAL
        } else {
            Facts::FOREIGN
        };
        return (route.table == TABLE_LOCAL).then_some(fact);
    }
    Some(classify_on_link(
        route,
        &context.desired[route.family as usize],
    ))
}

/// What a direct route of the link, in table local or main, means for its VIP.
fn classify_on_link(route: &Route, desired: &DesiredRoute) -> Facts {
    if route.table == TABLE_MAIN {
        // Its metric is 256, or the address's own.
        let prefix = route.family == Family::V6 && route.protocol == libc::RTPROT_KERNEL;
        return if prefix { Facts::PREFIX } else { Facts::EXTRA };
    }
    if route.is_kernels_own() {
        return Facts::KERNEL;
    }
    if route.family == Family::V6 && route.metric == 0 {
        // The kernel's, but no local one (an anycast address): not ours to judge.
        return Facts::FOREIGN;
    }
    let (slot, scope_fits) = match route.family {
        Family::V4 => (
            route.tos == 0 && route.metric == 0,
            route.scope == libc::RT_SCOPE_HOST,
        ),
        Family::V6 => (route.metric == IP6_USER_METRIC, true),
    };
    if !slot {
        return Facts::EXTRA;
    }
    let local = route.kind == libc::RTN_LOCAL;
    // Where no source is wanted none is wrong, but nothing is as wanted either.
    let from_source = desired.source.is_none() || route.prefsrc == desired.source;
    let mut fact = Facts::empty();
    let form_fits = local && scope_fits;
    fact.set(Facts::WRONG_SOURCE, !form_fits || !from_source);
    fact.set(Facts::SLOT_EXPIRES, route.expires);
    fact.set(Facts::WRONG_PROTOCOL, route.protocol != desired.protocol);
    let marked = route.protocol == desired.protocol && desired.protocol != libc::RTPROT_KERNEL;
    let mark = if marked {
        Facts::MARKED
    } else {
        Facts::empty()
    };
    if fact.is_empty() && desired.source.is_some() {
        Facts::DESIRED | mark
    } else {
        fact | Facts::SAME_KEY | mark
    }
}

fn key_of(route: &Route) -> RouteKey {
    RouteKey {
        table: route.table,
        metric: route.metric,
        protocol: route.protocol,
        kind: route.kind,
        tos: route.tos,
        prefsrc: route.prefsrc,
    }
}

/// How long after an address was made its local route may still be on its way to the table, in
/// hundredths of a second. It comes within microseconds, or milliseconds under load.
const RECENT_FOR: u32 = 150;

/// How far the kernel's clock of ticks may run ahead of ours, in hundredths of a second.
const CLOCKS_DIFFER: u32 = 100;

fn is_recent(created: u32, now: u32) -> bool {
    now.wrapping_sub(created).wrapping_add(CLOCKS_DIFFER) < RECENT_FOR + CLOCKS_DIFFER
}
