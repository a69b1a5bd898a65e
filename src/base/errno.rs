//! Error numbers.

/// Whether the kernel is short of something that comes back: such a refusal says nothing of what was
/// asked for.
pub(crate) fn is_shortage(errno: i32) -> bool {
    matches!(
        errno,
        libc::ENOBUFS | libc::ENOMEM | libc::EBUSY | libc::EAGAIN | libc::EINTR
    )
}
