//! A plan as data: its steps, their actions and reasons, and the VIPs that would fail.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::Ipv6Net;

use crate::base::{Metric, Protocol, RouteType, Table, Vip, named};
use crate::core::Drift;
use crate::link::LinkKind;
use crate::outcome::Failure;

/// What [`reconcile`](crate::VipManager::reconcile) would do, from the state that
/// [`VipManager::plan`](crate::VipManager::plan) observed.
///
/// Read a plan at once and do not keep it. The node's state changes, and a planned deletion may later
/// hit another route. Therefore no call executes a plan; call `reconcile`.
///
/// ```no_run
/// # use std::net::IpAddr;
/// # use viproute::{Claim, VipManager};
/// # let mut vips = VipManager::builder("kube-dummy-if").source([192, 0, 2, 10]).open()?;
/// # let desired: [IpAddr; 1] = ["10.96.0.10".parse()?];
/// let plan = vips.plan(&Claim::link(), desired)?;
/// for step in &plan.steps {
///     println!("{}  # {}", step.action, step.reason);
/// }
/// print!("{plan}"); // the script
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `{}` prints the plan as a POSIX shell script of `ip` commands. The script reaches the end state of
/// `reconcile` if nothing else changes the VIPs. It stops at the first command that fails, except for
/// a deletion that finds nothing. The script was tried with iproute2 6.1, which lacks `proto` of an
/// address; a script with that word stops there.
///
/// A script does not observe the kernel again. `reconcile` does, and repairs the changes of other
/// writers and of late routes, above all if the plan brings up a link with IPv6 addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Plan {
    /// The steps, in this order.
    pub steps: Vec<PlannedStep>,
    /// The VIPs that would fail, sorted: rejected, in conflict, unrepaired, or of a family that cannot be
    /// served ([`Cause::Missing`](crate::Cause::Missing)).
    pub failures: Vec<Failure>,
}

impl Plan {
    /// Whether the plan has no step. [`failures`](Self::failures) may still hold VIPs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// One step of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PlannedStep {
    /// The VIP of the step; `None` for a step of the whole link.
    // An action on a VIP has a field `vip` of its own.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub vip: Option<Vip>,
    /// The action.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub action: Action,
    /// The reason for the action.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub reason: Reason,
}

/// Why a step is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The VIP has this drift at the time of the step.
    Drift(Drift),
    /// The VIP is claimed and not desired.
    NotDesired,
    /// The kernel inserts its own local route after the ack of the address. An earlier deletion would miss
    /// the route.
    LateRoute,
    /// The route is staged, so that deleting the kernel's route cannot match it.
    Staged,
    /// The link does not exist, and the manager may create it.
    NoLink,
    /// The link is down, and the manager may bring it up.
    LinkDown,
    /// With the link's last IPv4 address, the kernel would delete every IPv4 route through the link.
    LastAddress,
    /// The kernel might choose a VIP as the source of traffic to other destinations, which
    /// [`VipManagerBuilder::avoid_as_source`](crate::VipManagerBuilder::avoid_as_source) forbids.
    SourceChoice,
}

named! { Reason:
    Self::Drift(drift) => "drift", "{drift}";
    Self::NotDesired => "not_desired", "not desired";
    Self::LateRoute => "late_route", "the kernel's own route comes late";
    Self::Staged => "staged", "so that deleting the kernel's route cannot hit it";
    Self::NoLink => "no_link", "there is no such link";
    Self::LinkDown => "link_down", "the link is down";
    Self::LastAddress => "last_address",
        "with the last IPv4 address all IPv4 routes of the link would go";
    Self::SourceChoice => "source_choice",
        "so that no VIP is chosen as the source of other traffic";
}

/// The action of a step. `Display` prints one `ip` command, or two for [`LinkKind::Auto`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(tag = "action", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Action {
    /// Create the link, without ARP.
    #[non_exhaustive]
    CreateLink {
        /// Its name.
        link: Arc<str>,
        /// Its kind.
        kind: LinkKind,
    },
    /// Keep the kernel from generating an IPv6 address for the link (`addrgenmode none`).
    #[non_exhaustive]
    NoOwnAddress {
        /// The link's name.
        link: Arc<str>,
    },
    /// Bring the link up.
    #[non_exhaustive]
    BringUp {
        /// The link's name.
        link: Arc<str>,
    },
    /// Give the link's addresses in a prefix an address label of their own
    /// ([`SourceAvoidance::AddressLabel`](crate::SourceAvoidance::AddressLabel)).
    #[non_exhaustive]
    AddLabel {
        /// The link's name.
        link: Arc<str>,
        /// The prefix.
        prefix: Ipv6Net,
        /// The label.
        label: u32,
    },
    /// Add a placeholder address, which stays on the link.
    #[non_exhaustive]
    AddPlaceholder {
        /// The link's name.
        link: Arc<str>,
        /// The address.
        address: IpAddr,
    },
    /// Add the VIP's address.
    #[non_exhaustive]
    AddAddress {
        /// The link's name.
        link: Arc<str>,
        /// The VIP.
        vip: Vip,
        /// The address's mark (`IFA_PROTO`).
        protocol: Option<Protocol>,
        /// Whether the address is deprecated: preferred lifetime 0, valid lifetime infinite
        /// ([`SourceAvoidance::Deprecated`](crate::SourceAvoidance::Deprecated)). IPv6 only.
        deprecated: bool,
    },
    /// Make the VIP's address permanent, and keep its other attributes. An IPv6 address also gets
    /// `IFA_F_NOPREFIXROUTE`.
    #[non_exhaustive]
    UpdateAddress {
        /// The link's name.
        link: Arc<str>,
        /// The VIP.
        vip: Vip,
        /// The flags to keep (`IFA_F_*`, linux/if_addr.h).
        flags: u32,
        /// Whether the address stays deprecated: preferred lifetime 0.
        deprecated: bool,
        /// The other end, where the address has one.
        peer: Option<IpAddr>,
        /// The metric of its prefix route (`IFA_RT_PRIORITY`) to keep.
        metric: Option<Metric>,
        /// The mark to keep (`IFA_PROTO`).
        protocol: Option<Protocol>,
    },
    /// Delete the VIP's address.
    #[non_exhaustive]
    DeleteAddress {
        /// The link's name.
        link: Arc<str>,
        /// The VIP.
        vip: Vip,
        /// The other end, where the address has one. IPv4 only.
        peer: Option<IpAddr>,
    },
    /// Wait until the kernel has put in its own local route of an IPv6 address. Printed, it is the
    /// look-up that tells: `metric 0`.
    #[non_exhaustive]
    AwaitRoute {
        /// The link's name.
        link: Arc<str>,
        /// The VIP.
        vip: Vip,
        /// Whether it will come.
        likelihood: Likelihood,
    },
    /// Add a route. Fails if a route with the same key exists.
    AddRoute(PlannedRoute),
    /// Add a route behind the routes with the same key. IPv4 only.
    AppendRoute(PlannedRoute),
    /// Replace the route with the same key, or add it.
    ReplaceRoute(PlannedRoute),
    /// Delete a route.
    DeleteRoute(PlannedRoute),
}

impl Action {
    /// A stable name for machines, in snake_case: `create_link`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::CreateLink { .. } => "create_link",
            Self::NoOwnAddress { .. } => "no_own_address",
            Self::BringUp { .. } => "bring_up",
            Self::AddLabel { .. } => "add_label",
            Self::AddPlaceholder { .. } => "add_placeholder",
            Self::AddAddress { .. } => "add_address",
            Self::UpdateAddress { .. } => "update_address",
            Self::DeleteAddress { .. } => "delete_address",
            Self::AwaitRoute { .. } => "await_route",
            Self::AddRoute(..) => "add_route",
            Self::AppendRoute(..) => "append_route",
            Self::ReplaceRoute(..) => "replace_route",
            Self::DeleteRoute(..) => "delete_route",
        }
    }
}

/// Whether the kernel's own local route of an address will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Likelihood {
    /// It will come.
    Certain,
    /// It may come: the address is so new that the kernel may not have inserted it yet.
    Possible,
}

named! { Likelihood:
    Self::Certain => "certain";
    Self::Possible => "possible";
}

/// A route to a VIP, as a step adds or deletes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PlannedRoute {
    /// The link's name.
    pub link: Arc<str>,
    /// The destination.
    pub vip: Vip,
    /// The table.
    pub table: Table,
    /// The metric. In a deletion 0 means any.
    pub metric: Metric,
    /// The protocol. `None`, in a deletion: any.
    pub protocol: Option<Protocol>,
    /// The type.
    pub kind: RouteType,
    /// The type of service, in IPv4.
    pub tos: u8,
    /// The preferred source. A deletion has it in IPv4 only, where the kernel compares it; there
    /// `None` means any.
    pub source: Option<IpAddr>,
    /// How long it lives, in seconds; `None`: for ever.
    pub lifetime: Option<u32>,
}
