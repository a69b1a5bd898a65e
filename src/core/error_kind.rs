//! What kind of error ends a call, or keeps a family from being served.

use std::fmt;

/// What kind of failure an [`Error`](crate::Error) is, and what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Some VIPs fell short: see [`Error::report`](crate::Error::report). Everything else was done and verified.
    Incomplete,
    /// The call was cancelled: see [`Error::report`](crate::Error::report) for how far it came.
    Cancelled,
    /// The configuration cannot work as given (link name, protocol, sources, ranges).
    InvalidConfig,
    /// The desired set is empty. To take every claimed VIP off the link, call
    /// [`release_all`](crate::VipManager::release_all). In [`Cause::Missing`](crate::Cause::Missing): no
    /// VIP of the family is desired (see [`Claim`](crate::Claim)).
    EmptySet,
    /// More VIPs would be released than [`Claim::at_most`](crate::Claim::at_most) allows.
    TooManyReleases,
    /// A network namespace was given that is none. Give the file or descriptor of one.
    InvalidNetns,
    /// There is no such link. Create it, or let [`VipManagerBuilder::create_link`](crate::VipManagerBuilder::create_link).
    LinkNotFound,
    /// The link is down, or went down during the call, which keeps IPv6 from it, not IPv4. Bring it up,
    /// or let [`VipManagerBuilder::bring_up`](crate::VipManagerBuilder::bring_up).
    LinkDown,
    /// The link is enslaved to a VRF, where the routes of table local are not used. Take another.
    LinkInVrf,
    /// The link has no IPv6: it is disabled there (set `net/ipv6/conf/LINK/disable_ipv6` to 0), the
    /// MTU is below 1280, or the kernel has none. The message says which.
    Ipv6Disabled,
    /// A source is no address of this node. Add it, or give the right one.
    SourceNotOnNode,
    /// A source is tentative: duplicate address detection (RFC 4862 5.4) has not ended, cannot end
    /// on a link that is down, or has failed. The message says which.
    SourceTentative,
    /// The table of address labels has a label for the link's VIPs, or uses
    /// [`SourceAvoidance::LABEL`](crate::SourceAvoidance::LABEL), in another way than
    /// [`SourceAvoidance::AddressLabel`](crate::SourceAvoidance::AddressLabel) needs. Change the
    /// entry (`ip addrlabel`), or take
    /// [`SourceAvoidance::Deprecated`](crate::SourceAvoidance::Deprecated).
    LabelConflict,
    /// The kernel refused for lack of privilege: `CAP_NET_ADMIN` in the user namespace that owns
    /// the network namespace.
    PermissionDenied,
    /// The manager, keeper or watcher was opened in another process, from which this one was forked.
    /// Parent and child share its sockets, and each would take the other's answers. Open one in this
    /// process.
    OtherProcess,
    /// The kernel or the operating system failed in another way; see the message.
    System,
}

impl ErrorKind {
    /// A stable name for machines, in snake_case: `incomplete`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Cancelled => "cancelled",
            Self::InvalidConfig => "invalid_config",
            Self::EmptySet => "empty_set",
            Self::TooManyReleases => "too_many_releases",
            Self::InvalidNetns => "invalid_netns",
            Self::LinkNotFound => "link_not_found",
            Self::LinkDown => "link_down",
            Self::LinkInVrf => "link_in_vrf",
            Self::Ipv6Disabled => "ipv6_disabled",
            Self::SourceNotOnNode => "source_not_on_node",
            Self::SourceTentative => "source_tentative",
            Self::LabelConflict => "label_conflict",
            Self::PermissionDenied => "permission_denied",
            Self::OtherProcess => "other_process",
            Self::System => "system",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Incomplete => "some VIPs fell short",
            Self::Cancelled => "cancelled",
            Self::InvalidConfig => "the configuration cannot work",
            Self::EmptySet => "the desired set is empty",
            Self::TooManyReleases => "too many VIPs would be released",
            Self::InvalidNetns => "no network namespace",
            Self::LinkNotFound => "the link is not there",
            Self::LinkDown => "the link is down",
            Self::LinkInVrf => "the link is in a VRF",
            Self::Ipv6Disabled => "the link has no IPv6",
            Self::SourceNotOnNode => "a source is not on the node",
            Self::SourceTentative => "a source is tentative",
            Self::LabelConflict => "another address label is in the way",
            Self::PermissionDenied => "permission denied",
            Self::OtherProcess => "it belongs to another process",
            Self::System => "the system failed",
        })
    }
}
