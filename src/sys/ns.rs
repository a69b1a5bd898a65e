//! Namespaces of the calling thread and process.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The kind of namespace that a descriptor refers to, as a `CLONE_NEW*` flag (ioctl_ns(2)).
pub(crate) fn kind(ns: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: this ioctl takes no argument and writes nothing. It fails on a descriptor that is no
    // namespace.
    let kind = unsafe { libc::ioctl(ns.as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(kind)
}

/// Moves the caller into new namespaces of the given kinds (`unshare(2)`).
///
/// A new user namespace moves the whole process, which must be single-threaded (`EINVAL` otherwise). A
/// new network namespace moves only the calling thread.
#[cfg(any(test, feature = "sandbox"))]
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare takes no pointer. With the flags used here (CLONE_NEWUSER, CLONE_NEWNET) it
    // changes only the namespaces and credentials of the caller, on which no memory safety rests;
    // in particular it does not unshare the descriptor table.
    check(unsafe { libc::unshare(flags) })
}

/// Moves the calling thread into the network namespace that `ns` refers to.
pub(crate) fn set_netns(ns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes no pointer, the descriptor is open for as long as it is borrowed, and
    // CLONE_NEWNET makes the kernel refuse a descriptor of any other kind.
    check(unsafe { libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// The effective user and group. The kernel compares a one-line id mapping with them
/// (`new_idmap_permitted`, kernel/user_namespace.c).
#[cfg(any(test, feature = "sandbox"))]
pub(crate) fn effective_ids() -> (libc::uid_t, libc::gid_t) {
    // SAFETY: geteuid and getegid take nothing and cannot fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
