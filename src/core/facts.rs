//! What an observation saw of a VIP, and how that differs from what is desired.

use super::{Binding, Drift, Policy};

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
