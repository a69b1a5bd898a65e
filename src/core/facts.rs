//! The observed facts of a VIP, and how they differ from the desired state.

use super::{Binding, Drift, Policy};

bitflags::bitflags! {
    /// What the last observation showed of a VIP. No fact is inferred from an ack.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub(crate) struct Facts: u32 {
        /// The address is on the link, as /32 or /128.
        const ADDRESS = 1;
        /// The address has no prefix route. The kernel makes none for an IPv4 /32. Without this fact
        /// table main is read, and only a route that was seen is a drift.
        const NO_PREFIX_ROUTE = 1 << 1;
        const TENTATIVE = 1 << 2;
        const DAD_FAILED = 1 << 3;
        /// The address is so new that its late route may still come.
        const RECENT = 1 << 4;
        /// The address is on the link with another prefix length.
        const OTHER_LENGTH = 1 << 5;

        /// The desired route exists.
        const DESIRED = 1 << 6;
        /// Another route of the link has the key of the desired route. The flags from
        /// [`SAME_KEY_DIFFERS`](Self::SAME_KEY_DIFFERS) say how the two differ.
        const SAME_KEY = 1 << 7;
        /// That route has another source, type or scope.
        const WRONG_SOURCE = 1 << 8;
        /// That route has another protocol.
        const WRONG_PROTOCOL = 1 << 9;
        /// The kernel's own local route exists.
        const KERNEL = 1 << 10;
        /// The kernel's prefix route is in table main.
        const PREFIX = 1 << 11;
        /// Any other route through the link to the VIP is in table local or main.
        const EXTRA = 1 << 12;
        /// Table local has a route through another device, or a route of a kind that this crate never
        /// adds.
        const FOREIGN = 1 << 13;
        /// A look-up answered with the desired route (see [`Facts::desired`]).
        const WINS = 1 << 14;
        /// The VIP's address or one of its routes has the manager's mark.
        const MARKED = 1 << 15;
        /// IPv6: table local has a route with a nexthop object, or a route through the link with a
        /// gateway or several next hops. A deletion could hit it: the kernel does not compare the
        /// device of a nexthop object, nor a gateway that the request does not name (`ip6_route_del`,
        /// net/ipv6/route.c).
        const AMBIGUOUS_DELETE_LOCAL = 1 << 16;
        /// The same for table main; in IPv4 only a route with a gateway or several next hops.
        const AMBIGUOUS_DELETE_MAIN = 1 << 17;
        /// A look-up hit an extra route or another rule's table, so routes behind it are unknown.
        const LOOKUP_INCONCLUSIVE = 1 << 18;
        /// The address has the manager's mark.
        const ADDRESS_MARKED = 1 << 19;
        /// IPv4: an address of the VIP has a peer. [`Rows::peers`](super::Rows::peers) has them all.
        const PEER = 1 << 20;
        /// Table local may have a route: an interrupted dump showed none, and the look-up was
        /// inconclusive.
        const UNREAD_ROUTE = 1 << 21;
        /// The address may be on the link: an interrupted dump did not show it.
        const UNREAD_ADDRESS = 1 << 22;
        const UNREAD = Self::UNREAD_ROUTE.bits() | Self::UNREAD_ADDRESS.bits();
        /// Table main may have a route through the link that an interrupted dump did not show.
        const UNREAD_MAIN = 1 << 25;
        /// The address has a finite valid lifetime.
        const EXPIRES = 1 << 23;
        /// The route with the key of the desired route has a lifetime.
        const SAME_KEY_EXPIRES = 1 << 24;
        /// That route is a staged one: a call is at work, or did not end.
        const STAGED = 1 << 26;

        /// The routes that a release deletes.
        const ANY_ROUTE = Self::DESIRED.bits() | Self::SAME_KEY.bits() | Self::KERNEL.bits()
            | Self::PREFIX.bits() | Self::EXTRA.bits();
        /// All facts about the address.
        const OF_ADDRESS = Self::ADDRESS.bits() | Self::NO_PREFIX_ROUTE.bits()
            | Self::TENTATIVE.bits() | Self::DAD_FAILED.bits() | Self::RECENT.bits()
            | Self::OTHER_LENGTH.bits() | Self::MARKED.bits() | Self::ADDRESS_MARKED.bits()
            | Self::PEER.bits() | Self::EXPIRES.bits();
        /// The facts that each address of the VIP replaces.
        const OF_LAST_ADDRESS = Self::NO_PREFIX_ROUTE.bits() | Self::TENTATIVE.bits()
            | Self::DAD_FAILED.bits() | Self::RECENT.bits();
        /// The differences of a route with the key of the desired route.
        const SAME_KEY_DIFFERS = Self::WRONG_SOURCE.bits() | Self::WRONG_PROTOCOL.bits()
            | Self::SAME_KEY_EXPIRES.bits() | Self::STAGED.bits();
        /// All facts about that route, but for the mark.
        const OF_SAME_KEY = Self::SAME_KEY.bits() | Self::SAME_KEY_DIFFERS.bits();
        /// The facts that a look-up replaces.
        const LOOKED_UP = Self::DESIRED.bits() | Self::OF_SAME_KEY.bits()
            | Self::KERNEL.bits() | Self::WINS.bits()
            | Self::LOOKUP_INCONCLUSIVE.bits() | Self::UNREAD_ROUTE.bits();
        /// Each of these facts shows a route in table local. A dump visits all routes of a destination
        /// at once (`fib6_dump_node`, net/ipv6/ip6_fib.c; `fn_trie_dump_leaf`, net/ipv4/fib_trie.c), so
        /// a dump that showed one of them has shown all.
        const IN_LOCAL = Self::DESIRED.bits() | Self::SAME_KEY.bits() | Self::KERNEL.bits()
            | Self::FOREIGN.bits();
    }
}

impl Facts {
    /// The fact that the desired route exists.
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
            drift.set(Drift::EXPIRING_ROUTE, self.contains(Self::SAME_KEY_EXPIRES));
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
            // An unread address or route may exist.
            drift -= Drift::MISSING_ADDRESS | Drift::MISSING_ROUTE | Drift::STALE;
        }
        let is_unread = self.intersects(Self::UNREAD | Self::UNREAD_MAIN);
        drift.set(Drift::UNREAD, is_unread);
        drift
    }

    /// The differences for any source, because the desired source is unknown. The desired route may be
    /// the kernel's own, or the route with the same key. Both together are one too many.
    pub(crate) fn drift_of_any_source(self, policy: Policy) -> Drift {
        let either = self & (Self::KERNEL | Self::SAME_KEY);
        let mut drift = self.drift(policy) - Drift::KERNEL_LOCAL_ROUTE;
        drift.set(Drift::MISSING_ROUTE, either.is_empty() && !self.is_unread());
        if either == Self::KERNEL | Self::SAME_KEY {
            drift |= Drift::DUPLICATE;
        }
        drift
    }

    /// Whether the VIP has a staged route, and nothing else.
    pub(crate) fn is_staged_alone(self) -> bool {
        self.contains(Self::STAGED) && (Self::OF_SAME_KEY | Self::MARKED).contains(self)
    }

    /// Whether the VIP may have an address or routes that were not seen.
    pub(crate) fn is_unread(self) -> bool {
        self.intersects(Self::UNREAD)
    }

    /// Whether the VIP is on the link, in any state.
    pub(crate) fn on_link(self) -> bool {
        self.intersects(Self::ADDRESS | Self::OTHER_LENGTH | Self::ANY_ROUTE)
    }
}
