//! The library's kinds as numbers. A number, once given, keeps its meaning.

use std::ffi::{CStr, c_char};

/// What became of a call: 0, or why it failed. Later versions may add codes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Code {
    /// The call did all that it was asked for.
    #[default]
    Ok = 0,
    /// An argument is NULL that must not be, a VIP has an unknown family, or a length is
    /// impossible. Nothing was done.
    InvalidArgument = 1,
    /// A fault of the library stopped the call. The handle can only be freed.
    Panic = 2,
    /// Some VIPs failed: the report has them. The other VIPs are verified.
    Incomplete = 3,
    /// The call was cancelled. The report, if there is one, says what was done.
    Cancelled = 4,
    /// The configuration or the claim cannot work as given.
    InvalidConfig = 5,
    /// The desired set is empty, or has no VIP of a family.
    EmptySet = 6,
    /// More VIPs would be released than the claim's `at_most` allows. Nothing was written.
    TooManyReleases = 7,
    /// The file is no network namespace.
    InvalidNetns = 8,
    /// The link does not exist.
    LinkNotFound = 9,
    /// The link is down.
    LinkDown = 10,
    /// The link is enslaved to a VRF.
    LinkInVrf = 11,
    /// The link has no IPv6.
    Ipv6Disabled = 12,
    /// A source is no address of this node.
    SourceNotOnNode = 13,
    /// Duplicate address detection of a source has not ended, or has failed.
    SourceTentative = 14,
    /// The table of address labels has another entry in the place.
    LabelConflict = 15,
    /// The process lacks CAP_NET_ADMIN or CAP_SYS_ADMIN.
    PermissionDenied = 16,
    /// The handle was opened before a fork, in the parent process.
    OtherProcess = 17,
    /// The operating system failed in another way: see errno and the message.
    System = 18,
    /// The keeper's thread has ended. The message says why. Only a Rust program meets this code.
    KeeperStopped = 19,
}

/// Why one VIP is not as desired. Later versions may add causes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cause {
    /// A cause that this library does not know.
    #[default]
    Unknown = 0,
    /// The address cannot be a VIP: `reason` says why.
    Rejected = 1,
    /// The VIP's family lacks something: `missing` says what.
    Missing = 2,
    /// Another device, or a route that a deletion could hit, stands in the place of the desired
    /// route.
    Conflict = 3,
    /// The address is on the link with another prefix length.
    OtherPrefixLength = 4,
    /// Duplicate address detection found the VIP in use on another node.
    DadFailed = 5,
    /// The VIP's routes are on the link without its address.
    StaleRoute = 6,
    /// The VIP's address has a finite valid lifetime.
    ExpiringAddress = 7,
    /// The VIP is not on the link, and the call adds none.
    NotOnLink = 8,
    /// The kernel refused an operation: `operation` and `error_number` say which and why.
    Kernel = 9,
    /// The kernel did not finish in time. The same call later continues.
    Pending = 10,
    /// Another writer kept undoing what the call did.
    Contended = 11,
    /// The VIP could not be read, because other writers kept changing the tables.
    Unread = 12,
    /// The call ended before it came to this VIP. The same call later continues.
    NotReached = 13,
}

/// Why an address cannot be a VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RejectReason {
    /// The VIP was not rejected, or for a reason that this library does not know.
    #[default]
    None = 0,
    /// `::`, or an address in 0.0.0.0/8.
    Unspecified = 1,
    /// In 127.0.0.0/8, or `::1`.
    Loopback = 2,
    /// A multicast address.
    Multicast = 3,
    /// A link-local address.
    LinkLocal = 4,
    /// 255.255.255.255.
    Broadcast = 5,
    /// An IPv4-mapped IPv6 address.
    V4Mapped = 6,
    /// A source of this manager.
    IsSource = 7,
    /// Outside every allowed range.
    OutsideAllowed = 8,
    /// In a denied range.
    Denied = 9,
    /// No source of its family is configured.
    NoSource = 10,
}

/// A change that the kernel was asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operation {
    /// No operation failed, or an operation that this library does not know.
    #[default]
    None = 0,
    /// Add the VIP's address.
    AddAddress = 1,
    /// Make the VIP's address permanent.
    UpdateAddress = 2,
    /// Delete the VIP's address.
    DeleteAddress = 3,
    /// Add the desired route.
    AddRoute = 4,
    /// Replace a route by the desired route.
    ReplaceRoute = 5,
    /// Delete a route.
    DeleteRoute = 6,
}

/// What a call did for a VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutcomeKind {
    /// Nothing.
    #[default]
    None = 0,
    /// The VIP was not on the link.
    Assigned = 1,
    /// The VIP was on the link, and had drifted.
    Repaired = 2,
    /// The VIP was removed.
    Released = 3,
}

/// The state of the link for the VIPs of one family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// A state that this library does not know.
    #[default]
    Unknown = 0,
    /// The link is up, and the family works on it.
    Up = 1,
    /// The link is down.
    Down = 2,
    /// The link is enslaved to a VRF.
    InVrf = 3,
    /// IPv6 is disabled on the link.
    Ipv6Disabled = 4,
    /// The link has no IPv6, because its MTU is below 1280.
    MtuTooSmall = 5,
    /// The kernel has no IPv6.
    Ipv6Unsupported = 6,
}

/// The state of the source of one family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceState {
    /// A state that this library does not know.
    #[default]
    Unknown = 0,
    /// The source is an address of the node.
    Present = 1,
    /// Duplicate address detection has not ended.
    Tentative = 2,
    /// Duplicate address detection found the source on another node.
    DadFailed = 3,
    /// The source is on a link that is down.
    LinkDown = 4,
    /// The source is no address of the node.
    Missing = 5,
    /// No source is configured.
    NotGiven = 6,
    /// The family keeps the kernel's route.
    Kernel = 7,
}

/// What a watcher saw.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventKind {
    /// Nothing has happened.
    #[default]
    None = 0,
    /// A VIP changed. Several changes of one VIP in one burst are one event.
    Vip = 1,
    /// An address of the node outside the link was added or changed: perhaps a source.
    NodeAddressSet = 2,
    /// An address of the node outside the link was removed: perhaps a source.
    NodeAddressRemoved = 3,
    /// The link exists and is up.
    LinkUp = 4,
    /// The link exists and is down.
    LinkDown = 5,
    /// The link does not exist any more.
    LinkGone = 6,
    /// Notifications were lost: audit or reconcile.
    Resync = 7,
}

/// The name of each value, which is the library's name for machines.
pub(crate) trait Named: Copy + 'static {
    const NAMES: &'static [(Self, &'static CStr)];

    fn number(self) -> i32;

    fn named(name: &str) -> Option<Self> {
        let mut names = Self::NAMES.iter();
        let entry = names.find(|entry| entry.1.to_bytes() == name.as_bytes());
        entry.map(|entry| entry.0)
    }

    fn name_of(number: i32) -> *const c_char {
        let mut names = Self::NAMES.iter();
        let entry = names.find(|entry| entry.0.number() == number);
        entry.map_or(std::ptr::null(), |entry| entry.1.as_ptr())
    }
}

/// The names, and the way from the library's kind to the number.
macro_rules! names {
    ($type:ident from $kind:ty, else $other:ident: $($variant:ident $name:literal),* $(,)?) => {
        impl Named for $type {
            const NAMES: &'static [(Self, &'static CStr)] = &[$((Self::$variant, $name)),*];

            fn number(self) -> i32 {
                self as i32
            }
        }

        impl From<$kind> for $type {
            fn from(kind: $kind) -> Self {
                Self::named(kind.as_str()).unwrap_or(Self::$other)
            }
        }
    };
}

names!(Code from viproute::ErrorKind, else System:
    Ok c"ok", InvalidArgument c"invalid_argument", Panic c"panic", Incomplete c"incomplete",
    Cancelled c"cancelled", InvalidConfig c"invalid_config", EmptySet c"empty_set",
    TooManyReleases c"too_many_releases", InvalidNetns c"invalid_netns",
    LinkNotFound c"link_not_found", LinkDown c"link_down", LinkInVrf c"link_in_vrf",
    Ipv6Disabled c"ipv6_disabled", SourceNotOnNode c"source_not_on_node",
    SourceTentative c"source_tentative", LabelConflict c"label_conflict",
    PermissionDenied c"permission_denied", OtherProcess c"other_process", System c"system",
    KeeperStopped c"keeper_stopped",
);
names!(Cause from viproute::Cause, else Unknown:
    Rejected c"rejected", Missing c"missing", Conflict c"conflict",
    OtherPrefixLength c"other_prefix_length", DadFailed c"dad_failed", StaleRoute c"stale_route",
    ExpiringAddress c"expiring_address", NotOnLink c"not_on_link", Kernel c"kernel",
    Pending c"pending", Contended c"contended", Unread c"unread", NotReached c"not_reached",
);
names!(RejectReason from viproute::RejectReason, else None:
    Unspecified c"unspecified", Loopback c"loopback", Multicast c"multicast",
    LinkLocal c"link_local", Broadcast c"broadcast", V4Mapped c"v4_mapped",
    IsSource c"is_source", OutsideAllowed c"outside_allowed", Denied c"denied",
    NoSource c"no_source",
);
names!(Operation from viproute::Operation, else None:
    AddAddress c"add_address", UpdateAddress c"update_address", DeleteAddress c"delete_address",
    AddRoute c"add_route", ReplaceRoute c"replace_route", DeleteRoute c"delete_route",
);
names!(OutcomeKind from viproute::OutcomeKind, else None:
    Assigned c"assigned", Repaired c"repaired", Released c"released",
);
names!(LinkState from viproute::LinkStatus, else Unknown:
    Up c"up", Down c"down", InVrf c"in_vrf", Ipv6Disabled c"ipv6_disabled",
    MtuTooSmall c"mtu_too_small", Ipv6Unsupported c"ipv6_unsupported",
);
names!(SourceState from viproute::SourceStatus, else Unknown:
    Present c"present", Tentative c"tentative", DadFailed c"dad_failed", LinkDown c"link_down",
    Missing c"missing", NotGiven c"not_given", Kernel c"kernel",
);

// An event that this library does not know requires the VIPs to be read, too.
names!(EventKind from viproute::Event, else Resync:
    Vip c"vip", NodeAddressSet c"node_address_set", NodeAddressRemoved c"node_address_removed",
    LinkUp c"link_up", LinkDown c"link_down", LinkGone c"link_gone", Resync c"resync",
);

/// The name of a code, as "incomplete". Lives as long as the program. NULL for a number that is no
/// code.
#[unsafe(no_mangle)]
pub extern "C" fn viproute_code_name(code: i32) -> *const c_char {
    Code::name_of(code)
}

/// The name of a cause, as "conflict". Lives as long as the program. NULL for a number that is no
/// cause.
#[unsafe(no_mangle)]
pub extern "C" fn viproute_cause_name(cause: i32) -> *const c_char {
    Cause::name_of(cause)
}

/// The name of a reason to reject a VIP, as "loopback". Lives as long as the program. NULL for a
/// number that is no reason.
#[unsafe(no_mangle)]
pub extern "C" fn viproute_reject_reason_name(reason: i32) -> *const c_char {
    RejectReason::name_of(reason)
}

/// The name of a kind of event, as "link_up". Lives as long as the program. NULL for a number that is
/// no kind of event.
#[unsafe(no_mangle)]
pub extern "C" fn viproute_event_kind_name(kind: i32) -> *const c_char {
    EventKind::name_of(kind)
}

/// The VIP's address is not on the link.
pub const VIPROUTE_DRIFT_MISSING_ADDRESS: u32 = 1;
/// The address has another prefix length than /32 or /128.
pub const VIPROUTE_DRIFT_WRONG_PREFIX_LENGTH: u32 = 1 << 1;
/// Duplicate address detection has not ended.
pub const VIPROUTE_DRIFT_TENTATIVE: u32 = 1 << 2;
/// Duplicate address detection found the address on another node.
pub const VIPROUTE_DRIFT_DAD_FAILED: u32 = 1 << 3;
/// The kernel's prefix route of the address is in table main.
pub const VIPROUTE_DRIFT_PREFIX_ROUTE: u32 = 1 << 4;
/// The kernel's own local route exists.
pub const VIPROUTE_DRIFT_KERNEL_LOCAL_ROUTE: u32 = 1 << 5;
/// The desired route is missing.
pub const VIPROUTE_DRIFT_MISSING_ROUTE: u32 = 1 << 6;
/// The VIP's route has another preferred source, or none.
pub const VIPROUTE_DRIFT_WRONG_SOURCE: u32 = 1 << 7;
/// The VIP's route has another protocol.
pub const VIPROUTE_DRIFT_WRONG_PROTOCOL: u32 = 1 << 8;
/// A second route leads to the VIP through the link.
pub const VIPROUTE_DRIFT_DUPLICATE: u32 = 1 << 9;
/// A route exists without the address.
pub const VIPROUTE_DRIFT_STALE: u32 = 1 << 10;
/// Another device holds a local route for the VIP.
pub const VIPROUTE_DRIFT_CONFLICT: u32 = 1 << 11;
/// The address is on the link, though VIPs are bound by routes only.
pub const VIPROUTE_DRIFT_UNWANTED_ADDRESS: u32 = 1 << 12;
/// Another table has a route to the VIP through the link. Deep audits only.
pub const VIPROUTE_DRIFT_OTHER_TABLE: u32 = 1 << 13;
/// The VIP could not be read. A flag that is not set may apply, too.
pub const VIPROUTE_DRIFT_UNREAD: u32 = 1 << 14;
/// The address has a finite valid lifetime.
pub const VIPROUTE_DRIFT_EXPIRING_ADDRESS: u32 = 1 << 15;
/// The VIP's route has a lifetime.
pub const VIPROUTE_DRIFT_EXPIRING_ROUTE: u32 = 1 << 16;
/// An earlier routing rule sends the node's traffic elsewhere. Deep audits only.
pub const VIPROUTE_DRIFT_DIVERTED: u32 = 1 << 20;

/// The VIP's address was added to the link, or its flags or lifetimes changed.
pub const VIPROUTE_CHANGE_ADDRESS_SET: u32 = 1;
/// The VIP's address was removed from the link.
pub const VIPROUTE_CHANGE_ADDRESS_REMOVED: u32 = 1 << 1;
/// A route to the VIP through the link was added or replaced.
pub const VIPROUTE_CHANGE_ROUTE_SET: u32 = 1 << 2;
/// A route to the VIP through the link was removed.
pub const VIPROUTE_CHANGE_ROUTE_REMOVED: u32 = 1 << 3;
/// Another device's local route to the VIP was added, replaced or removed.
pub const VIPROUTE_CHANGE_FOREIGN_ROUTE: u32 = 1 << 4;

/// The change was made by the manager that the watcher was opened with.
pub const VIPROUTE_ORIGIN_OURS: u32 = 1;
/// The change was made by another process, or by another socket of this process.
pub const VIPROUTE_ORIGIN_OTHER: u32 = 1 << 1;
/// The change was made by the kernel itself.
pub const VIPROUTE_ORIGIN_KERNEL: u32 = 1 << 2;
/// The kernel does not say who made the change.
pub const VIPROUTE_ORIGIN_UNKNOWN: u32 = 1 << 3;
