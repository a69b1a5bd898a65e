//! Constants of the kernel that libc lacks, or has with another type.

use super::Family;

/// Table ids (linux/rtnetlink.h, `enum rt_class_t`).
pub(crate) const TABLE_MAIN: u32 = libc::RT_TABLE_MAIN as u32;
pub(crate) const TABLE_LOCAL: u32 = libc::RT_TABLE_LOCAL as u32;

/// The metric of an IPv6 route that user space adds without a metric
/// (`IP6_RT_PRIO_USER`, linux/ipv6_route.h).
pub(crate) const IP6_USER_METRIC: u32 = 1024;

/// The metric of a route that user space adds without one. IPv4 leaves it out.
pub(crate) const fn user_metric(family: Family) -> u32 {
    match family {
        Family::V4 => 0,
        Family::V6 => IP6_USER_METRIC,
    }
}

/// The metric of the kernel's prefix route of an address without a metric of its own
/// (`IP6_RT_PRIO_ADDRCONF`, linux/ipv6_route.h).
pub(crate) const IP6_PREFIX_METRIC: u32 = 256;

/// Route and address flags that libc lacks (linux/rtnetlink.h, linux/if_addr.h).
pub(crate) const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
pub(crate) const RTM_F_FIB_MATCH: u32 = 0x2000;
pub(crate) const IFA_F_NODAD: u32 = 0x02;
pub(crate) const IFA_F_OPTIMISTIC: u32 = 0x04;
pub(crate) const IFA_F_DADFAILED: u32 = 0x08;
pub(crate) const IFA_F_HOMEADDRESS: u32 = 0x10;
pub(crate) const IFA_F_DEPRECATED: u32 = 0x20;
pub(crate) const IFA_F_TENTATIVE: u32 = 0x40;
pub(crate) const IFA_F_MANAGETEMPADDR: u32 = 0x100;
pub(crate) const IFA_F_NOPREFIXROUTE: u32 = 0x200;
pub(crate) const IFA_F_MCAUTOJOIN: u32 = 0x400;
