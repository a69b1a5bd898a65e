//! One VIP of a call: its facts, its progress, and the transitions of both.

use crate::base::{Family, Vip};
use crate::core::{Facts, Goal, Step};

bitflags::bitflags! {
    /// What this call did for a VIP. Each flag is independent of the others.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub(crate) struct Done: u16 {
        /// The kernel acked the creation of the address by this call. Unless the VIP had a route before, no program uses
        /// it yet.
        const ADDRESS_IS_NEW = 1;
        /// The VIP was not on the link when the call began.
        const WAS_ABSENT = 1 << 1;
        /// This call sent a message that changes the VIP.
        const WRITTEN = 1 << 2;
        /// The VIP failed. The report has the cause.
        const FAILED = 1 << 3;
        /// This call added the route in the same send as the address, or before the address (IPv4).
        const APPENDED = 1 << 4;
        /// This call deleted the address to add it again.
        const RENEWED = 1 << 5;
        /// The VIP is released because of its mark, which must be deleted last.
        const BY_MARK = 1 << 6;
        /// The call ended before time had proven the VIP right. The caller looks at it again.
        const POSTPONED = 1 << 7;
        /// The route comes before the address (IPv4), until the next observation.
        const ROUTE_FIRST = 1 << 8;
        /// The VIP was seen in its single-route state before this call, and no notification of its address
        /// has come since. So the late route of the address has come, or the VIP still rests for it.
        const WAS_VERIFIED = 1 << 9;
        /// The kernel acked the addition of the staged route, and nothing was observed since.
        const STAGED = 1 << 10;
        /// This call replaced a staged route. A call that did not end may have left it, and the late route of that
        /// call's address may still come.
        const REPLACED_STAGED = 1 << 11;
    }
}

/// What this call knows of the kernel's own local route for an IPv6 address, the *late route*: the
/// kernel inserts it from a work queue, after the address was acked (`addrconf_dad_work`,
/// net/ipv6/addrconf.c).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum LateRoute {
    /// Nothing is known.
    #[default]
    Unknown,
    /// The VIP was absent, or had a staged route alone. The kernel acked its address, and nothing was observed
    /// since: the late route exists or will come.
    Unobserved,
    /// A blind deletion was sent. It may have deleted the route, or another writer's route instead.
    DeletionUnknown,
    /// The route was seen, or its deletion was echoed or notified. It will not come again.
    Seen,
}

/// What this call did for a VIP, and what it knows of the late route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Progress {
    pub(crate) done: Done,
    pub(crate) late_route: LateRoute,
}

impl Progress {
    /// Whether all of these flags are set.
    #[inline]
    pub(crate) fn has(self, done: Done) -> bool {
        self.done.contains(done)
    }

    /// Whether the late route was seen, or a deletion of it was sent.
    #[inline]
    pub(crate) fn knows_late_route(self) -> bool {
        matches!(
            self.late_route,
            LateRoute::Seen | LateRoute::DeletionUnknown
        )
    }

    /// Whether the staged route stands beside the kernel's route, which may now be deleted without an
    /// observation in between.
    #[inline]
    pub(crate) fn is_staged(self, facts: Facts) -> bool {
        self.has(Done::STAGED) && facts.contains(Facts::KERNEL)
    }

    /// Whether a release deletes the address before its routes: only a route has the mark by which the VIP is
    /// released. If that route went first, a call that ends in between would leave an address without a mark.
    #[inline]
    pub(crate) fn releases_address_first(self, facts: Facts) -> bool {
        self.has(Done::BY_MARK)
            && facts.contains(Facts::ADDRESS)
            && !facts.contains(Facts::ADDRESS_MARKED)
    }

    /// After an observation with these facts.
    #[inline]
    pub(crate) fn observed(&mut self, facts: Facts) {
        self.done.remove(Done::ROUTE_FIRST | Done::STAGED);
        self.late_route = match self.late_route {
            _ if facts.contains(Facts::KERNEL) => LateRoute::Seen,
            LateRoute::Unobserved => LateRoute::Unknown,
            // The next address, from any writer, gets a late route of its own.
            LateRoute::Seen if !facts.contains(Facts::ADDRESS) => LateRoute::Unknown,
            same => same,
        };
    }

    /// After a step was sent.
    #[inline]
    pub(crate) fn sent(&mut self, step: Step) {
        self.done |= Done::WRITTEN;
        match step {
            Step::RenewAddress => self.done |= Done::RENEWED,
            Step::DeleteKernelBlind => self.late_route = LateRoute::DeletionUnknown,
            _ => {}
        }
    }

    /// After the kernel acked a step.
    #[inline]
    pub(crate) fn acked(&mut self, step: Step) {
        match step {
            Step::AddAddress => {
                self.done |= Done::ADDRESS_IS_NEW;
                // An earlier late route belonged to an earlier address.
                self.late_route = LateRoute::Unknown;
            }
            Step::AppendRoute => self.done |= Done::APPENDED,
            Step::AddStaged => self.done |= Done::STAGED,
            _ => {}
        }
    }

    /// After the kernel refused a step.
    pub(crate) fn refused(&mut self, step: Step) {
        if step == Step::DeleteKernelBlind {
            // It deleted nothing: the late route exists or will come.
            self.late_route = LateRoute::Unobserved;
        }
    }

    /// After the echo of a blind deletion showed the late route.
    pub(crate) fn deleted_late_route(&mut self) {
        self.late_route = LateRoute::Seen;
    }
}

/// One VIP of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) vip: Vip,
    pub(crate) goal: Goal,
    pub(crate) progress: Progress,
    pub(crate) facts: Facts,
    /// The facts right before the first message that writes was sent for the VIP.
    pub(crate) before: Facts,
    /// The kinds of steps that were sent (see [`Step::bit`]).
    pub(crate) sent: u16,
    /// Number of rounds in which a step was sent.
    pub(crate) attempts: u16,
    /// Position in the kernel's list of addresses. The lists of the two families run in opposite
    /// directions; only the neighbourhood of addresses matters.
    pub(crate) order: u32,
}

impl Row {
    pub(crate) fn new(vip: Vip, goal: Goal) -> Self {
        Self {
            vip,
            goal,
            progress: Progress::default(),
            facts: Facts::empty(),
            before: Facts::empty(),
            sent: 0,
            attempts: 0,
            order: 0,
        }
    }

    pub(crate) fn is_of(&self, family: Family) -> bool {
        self.vip.family() == family
    }

    /// Whether the row's goal needs a source of this family.
    pub(crate) fn needs_source(&self, family: Family) -> bool {
        self.goal.is_threatened() && self.is_of(family)
    }

    #[inline]
    pub(crate) fn has_failed(&self) -> bool {
        self.progress.has(Done::FAILED)
    }

    /// Notes that a step was sent. Returns whether this call has sent it before.
    #[inline]
    pub(crate) fn note_sent(&mut self, step: Step) -> bool {
        // One plan may have a replacement twice. Only another round repeats it. A blind deletion is repeated because
        // it came too early, not because of another writer.
        let repeats =
            self.sent & step.bit() != 0 && self.attempts > 1 && step != Step::DeleteKernelBlind;
        self.sent |= step.bit();
        self.progress.sent(step);
        if step == Step::ReplaceRoute && self.facts.contains(Facts::STAGED) {
            self.progress.done |= Done::REPLACED_STAGED;
        }
        repeats
    }

    /// Whether the VIP may have an address or routes that were not seen, in any table.
    #[inline]
    pub(crate) fn is_unread(&self) -> bool {
        self.facts.intersects(Facts::UNREAD | Facts::UNREAD_MAIN)
    }

    /// Goes on from an acked step without an observation. Returns whether that is safe: nothing but the
    /// late route may be what a blind deletion finds.
    #[inline]
    pub(crate) fn trust_ack(&mut self) -> bool {
        if self.goal == Goal::Release {
            // The kernel deleted its own routes with the address.
            self.facts -= Facts::OF_ADDRESS | Facts::KERNEL | Facts::PREFIX;
            return true;
        }
        if self.vip.family() == Family::V4 {
            self.facts = Facts::DESIRED;
            if self.progress.has(Done::ADDRESS_IS_NEW) {
                // The kernel's route came with the address, behind the desired route (`fib_add_ifaddr`,
                // net/ipv4/fib_frontend.c).
                self.facts |= Facts::ADDRESS | Facts::NO_PREFIX_ROUTE | Facts::KERNEL;
            }
            return true;
        }
        if self.progress.is_staged(self.facts) {
            return true;
        }
        if self.progress.late_route == LateRoute::Unknown {
            if !self.progress.has(Done::WAS_ABSENT) && !self.facts.is_staged_alone() {
                return false;
            }
            self.progress.late_route = LateRoute::Unobserved;
        }
        self.facts = self.known_of_address() | self.facts & Facts::OF_SAME_KEY;
        true
    }

    /// The facts of the address directly after the ack of its creation.
    #[inline]
    pub(crate) fn known_of_address(&self) -> Facts {
        if self.has_new_v6_address() {
            Facts::ADDRESS | Facts::NO_PREFIX_ROUTE
        } else {
            self.facts & Facts::OF_ADDRESS
        }
    }

    #[inline]
    fn has_new_v6_address(&self) -> bool {
        self.progress.has(Done::ADDRESS_IS_NEW) && self.vip.family() == Family::V6
    }

    /// Whether this call made the address, and the desired route is still missing.
    #[inline]
    pub(crate) fn is_in_the_making(&self) -> bool {
        self.has_new_v6_address() && !self.facts.contains(Facts::DESIRED)
    }

    /// Whether this call made the address, and its late route is still to come.
    #[inline]
    pub(crate) fn awaits_kernel(&self) -> bool {
        self.is_in_the_making()
            && !self.has_failed()
            && !self.progress.knows_late_route()
            && !self.facts.contains(Facts::KERNEL)
    }

    /// Whether a row that looks as desired may still get a late route: this call did not see the late
    /// route, and it made the address, added a missing local route, or replaced a staged route or the route of a
    /// recent address.
    ///
    /// The address does not show whether a late route will come. A late route comes when an old address
    /// returns with its link (`keep_addr_on_down`; `fixup_permanent_addr`, net/ipv6/addrconf.c), or
    /// after another writer has added the desired route to the address that this call just made.
    #[inline]
    pub(crate) fn may_still_get_kernels(&self) -> bool {
        let added = Step::AddRoute.bit() | Step::AddStaged.bit();
        let replaced = Step::ReplaceRoute.bit();
        self.vip.family() == Family::V6
            && self.facts.contains(Facts::ADDRESS | Facts::DESIRED)
            && !self.facts.contains(Facts::KERNEL)
            && self.progress.late_route != LateRoute::Seen
            && !self.has_failed()
            && (self
                .progress
                .done
                .intersects(Done::ADDRESS_IS_NEW | Done::REPLACED_STAGED)
                || self.sent & added != 0
                || self.facts.contains(Facts::RECENT) && self.sent & replaced != 0)
    }

    /// Whether this call added the route, and has no ack of the address.
    pub(crate) fn may_have_orphan_route(&self) -> bool {
        self.progress.has(Done::APPENDED) && !self.progress.has(Done::ADDRESS_IS_NEW)
    }

    /// Whether this call added the route, but the VIP has no address: the kernel refused the address, or
    /// the call ends before it. The route of a failed VIP must not stay. Returns true once.
    pub(crate) fn take_orphan_route(&mut self) -> bool {
        let alone = self.facts.contains(Facts::DESIRED)
            && !self
                .facts
                .intersects(Facts::ADDRESS | Facts::UNREAD_ADDRESS);
        let orphan = alone && self.progress.has(Done::APPENDED);
        if orphan {
            self.progress.done.remove(Done::APPENDED);
        }
        orphan
    }
}
