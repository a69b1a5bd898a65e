//! The kinds of errors that end a call or that a family's VIPs fail with.

use crate::base::named;

/// What kind of failure an [`Error`](crate::Error) is, and how to mend it.
///
/// ```
/// use viproute::{ErrorKind, VipManager};
///
/// let error = VipManager::builder("a name too long for a link").open().unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidConfig);
/// assert_eq!(error.kind().as_str(), "invalid_config");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Some VIPs failed: see [`Error::report`](crate::Error::report). The other VIPs are verified.
    Incomplete,
    /// The call was cancelled. [`Error::report`](crate::Error::report) says what was done.
    Cancelled,
    /// The configuration cannot work as given (link name, protocol, sources, ranges).
    InvalidConfig,
    /// The desired set is empty, or has no admissible VIP. To take every claimed VIP off the link, call
    /// [`release_all`](crate::VipManager::release_all). In [`Cause::Missing`](crate::Cause::Missing): no
    /// VIP of the family is desired (see [`Claim`](crate::Claim)).
    EmptySet,
    /// More VIPs would be released than [`Claim::at_most`](crate::Claim::at_most) allows.
    TooManyReleases,
    /// The given file or descriptor is no network namespace.
    InvalidNetns,
    /// The link does not exist. Create it, or call
    /// [`VipManagerBuilder::create_link`](crate::VipManagerBuilder::create_link).
    LinkNotFound,
    /// The link is down, or went down during the call. A link that is down cannot hold IPv6 VIPs. Bring
    /// it up, or call [`VipManagerBuilder::bring_up`](crate::VipManagerBuilder::bring_up).
    LinkDown,
    /// The link is enslaved to a VRF, which does not use table local. Use another link.
    LinkInVrf,
    /// The link has no IPv6. IPv6 is disabled on it (set `net/ipv6/conf/LINK/disable_ipv6` to 0), its
    /// MTU is below 1280, or the kernel has no IPv6. The message says which.
    Ipv6Disabled,
    /// A source is no address of this node. Add the address, or give another source.
    SourceNotOnNode,
    /// A source is tentative: duplicate address detection (RFC 4862 5.4) has not ended, cannot end
    /// on a link that is down, or has failed. The message says which.
    SourceTentative,
    /// The table of address labels has another label for the link's VIPs, or uses
    /// [`SourceAvoidance::LABEL`](crate::SourceAvoidance::LABEL) for other addresses. Change the entry
    /// (`ip addrlabel`), or use [`SourceAvoidance::Deprecated`](crate::SourceAvoidance::Deprecated).
    LabelConflict,
    /// The process lacks `CAP_NET_ADMIN` in the user namespace that owns the network namespace.
    PermissionDenied,
    /// The manager, keeper or watcher was opened in the parent process, before a fork. Parent and child
    /// share its sockets, so each would read the other's answers. Open another one in this process.
    OtherProcess,
    /// The thread of [`Keeper::spawn`](crate::Keeper::spawn) has ended: after an error, a panic of its
    /// callback, or a cancellation. The message says which. The thread's join returns the error or the
    /// keeper. The VIPs are as the thread left them.
    KeeperStopped,
    /// The operating system failed in another way. See the message.
    System,
}

named! { ErrorKind:
    Self::Incomplete => "incomplete", "some VIPs fell short";
    Self::Cancelled => "cancelled", "cancelled";
    Self::InvalidConfig => "invalid_config", "the configuration cannot work";
    Self::EmptySet => "empty_set", "the desired set is empty";
    Self::TooManyReleases => "too_many_releases", "too many VIPs would be released";
    Self::InvalidNetns => "invalid_netns", "no network namespace";
    Self::LinkNotFound => "link_not_found", "the link is not there";
    Self::LinkDown => "link_down", "the link is down";
    Self::LinkInVrf => "link_in_vrf", "the link is in a VRF";
    Self::Ipv6Disabled => "ipv6_disabled", "the link has no IPv6";
    Self::SourceNotOnNode => "source_not_on_node", "a source is not on the node";
    Self::SourceTentative => "source_tentative", "a source is tentative";
    Self::LabelConflict => "label_conflict", "another address label is in the way";
    Self::PermissionDenied => "permission_denied", "permission denied";
    Self::OtherProcess => "other_process", "it belongs to another process";
    Self::KeeperStopped => "keeper_stopped", "the keeper has stopped";
    Self::System => "system", "the system failed";
}
