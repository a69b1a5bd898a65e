//! Why a VIP falls short, and what was being done for it.

use crate::base::{RejectReason, named};
use crate::core::ErrorKind;

/// Why a VIP is not in the desired state.
///
/// ```
#[doc = include_str!("../keeper/example.txt")]
/// use viproute::{Cause, RejectReason};
///
/// # let mut vips = manager;
/// let report = vips.assign([Ipv4Addr::LOCALHOST]).unwrap_err().into_report().unwrap_or_default();
/// assert_eq!(report.failures[0].cause, Cause::Rejected(RejectReason::Loopback));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The address cannot be a VIP of this manager. Nothing was written for it.
    Rejected(RejectReason),
    /// The VIP's family lacks something, and this says what; the other family does not suffer.
    /// [`ErrorKind::SourceNotOnNode`], [`ErrorKind::SourceTentative`]: its source.
    /// [`ErrorKind::LinkDown`], [`ErrorKind::Ipv6Disabled`], [`ErrorKind::LabelConflict`]: IPv6 alone.
    /// [`ErrorKind::EmptySet`]: a desired VIP; the VIP is claimed, and was not released. The failure's
    /// `detail` says it in full. Nothing was written for the VIP once that was seen.
    Missing(ErrorKind),
    /// Another device holds a local route for the VIP, and taking it would steal it (the failure's
    /// `detail` names the route and its device); or a route to
    /// it through a nexthop object, a gateway or several links stands where a deletion could hit it.
    /// Nothing was written for it once that was seen.
    Conflict,
    /// The VIP's address is on the link with another prefix length than /32 or /128. The routes serve
    /// that address too. Remove it, or release the VIP there.
    OtherPrefixLength,
    /// Duplicate address detection found the VIP in use elsewhere (RFC 4862, 5.4). The kernel serves
    /// no VIP in this state. Find the other node, or release the VIP here.
    DadFailed,
    /// The VIP's routes are on the link without its address, and no caller named the VIP as desired.
    /// [Assign](crate::VipManager::assign) or [release](crate::VipManager::release) it.
    StaleRoute,
    /// The VIP's address has a finite valid lifetime, and no caller named the VIP as desired: another
    /// tool may renew the address. [`assign`](crate::VipManager::assign) makes it permanent.
    ExpiringAddress,
    /// The VIP is not on the link, and the call puts none there.
    NotOnLink,
    /// The kernel refused an operation; `operation`, `errno` and `text` say which and why.
    Kernel,
    /// The kernel did not finish in time: the address stays tentative, or its own route was still
    /// to come when the stall time-out passed. The same call later continues.
    Pending,
    /// Another writer kept undoing what this call did for the VIP, until the call gave up on it.
    /// Find that writer; two that want different states never converge.
    Contended,
    /// The VIP could not be read. Other writers kept changing the tables, so every dump was interrupted, and an
    /// interrupted dump can omit routes. If only table main is unread, the call has repaired what it saw, and the
    /// VIP may be right except for a further route there: look-ups do not show that table. If a routing rule
    /// precedes the rule for table local, look-ups are inconclusive, and nothing is written for a VIP that no
    /// dump showed.
    Unread,
    /// The call ended before it saw this VIP in the desired state: it was cancelled, ran out of time, or
    /// the link disappeared. Earlier writes for the VIP stay, and the same call continues later.
    NotReached,
}

named! { Cause:
    Self::Rejected(why) => "rejected", "rejected: {why}";
    Self::Missing(what) => "missing", "{what}";
    Self::Conflict => "conflict", "another device holds a route for it";
    Self::OtherPrefixLength => "other_prefix_length", "its address has another prefix length";
    Self::DadFailed => "dad_failed", "duplicate address detection found it in use elsewhere";
    Self::StaleRoute => "stale_route", "its routes are there without its address";
    Self::ExpiringAddress => "expiring_address", "its address expires";
    Self::NotOnLink => "not_on_link", "it is not on the link";
    Self::Kernel => "kernel", "the kernel refused";
    Self::Pending => "pending", "the kernel did not finish in time";
    Self::Contended => "contended", "another writer keeps undoing it";
    Self::Unread => "unread", "it could not be read: the table keeps changing";
    Self::NotReached => "not_reached", "the call ended before it was done";
}

impl Cause {
    /// Whether the VIP is in a form that the call must not change.
    pub(crate) const fn is_not_ours_to_change(self) -> bool {
        matches!(
            self,
            Self::OtherPrefixLength
                | Self::DadFailed
                | Self::StaleRoute
                | Self::ExpiringAddress
                | Self::NotOnLink
        )
    }
}

/// A change that the kernel was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Add the VIP's address (RTM_NEWADDR).
    AddAddress,
    /// Make an address that is there permanent (RTM_NEWADDR, replace).
    UpdateAddress,
    /// Delete the VIP's address (RTM_DELADDR).
    DeleteAddress,
    /// Add the desired route (RTM_NEWROUTE, exclusive).
    AddRoute,
    /// Replace a route by the desired route (RTM_NEWROUTE, replace).
    ReplaceRoute,
    /// Delete a route (RTM_DELROUTE).
    DeleteRoute,
}

named! { Operation:
    Self::AddAddress => "add_address", "add address";
    Self::UpdateAddress => "update_address", "update address";
    Self::DeleteAddress => "delete_address", "delete address";
    Self::AddRoute => "add_route", "add route";
    Self::ReplaceRoute => "replace_route", "replace route";
    Self::DeleteRoute => "delete_route", "delete route";
}
