//! Error numbers.

/// Whether the kernel is temporarily short of memory or busy. The refusal says nothing about the
/// request.
pub(crate) fn is_shortage(errno: i32) -> bool {
    matches!(
        errno,
        libc::ENOBUFS | libc::ENOMEM | libc::EBUSY | libc::EAGAIN | libc::EINTR
    )
}
