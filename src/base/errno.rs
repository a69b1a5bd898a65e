//! Error numbers.

/// Whether the kernel has looked, and has no such IPv6 address (`inet6_rtm_getaddr`, net/ipv6/addrconf.c). A kernel
/// without IPv6 has no look-up of addresses.
pub(crate) fn means_no_address(errno: i32) -> bool {
    matches!(
        errno,
        libc::EADDRNOTAVAIL | libc::EOPNOTSUPP | libc::EAFNOSUPPORT
    )
}

/// Whether the kernel is temporarily short of memory or busy. The refusal says nothing about the
/// request.
pub(crate) fn is_shortage(errno: i32) -> bool {
    matches!(
        errno,
        libc::ENOBUFS | libc::ENOMEM | libc::EBUSY | libc::EAGAIN | libc::EINTR
    )
}
