//! The identity of a process, across forks.

#![allow(unsafe_code)]

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The identity of a process, different from that of every ancestor.
///
/// A process id is not enough: a new pid namespace repeats ids, and `getpid` is a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u64);

/// A page with the number of this process. The kernel fills it with zeros in a forked child
/// (`MADV_WIPEONFORK`, Linux 4.14).
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// The last number that this process or an ancestor has used. A child inherits it.
static LAST: AtomicU64 = AtomicU64::new(0);

impl Process {
    /// The calling process.
    pub(crate) fn current() -> io::Result<Self> {
        let number = page()?;
        let known = number.load(Ordering::Relaxed);
        if known != 0 {
            return Ok(Self(known));
        }
        let new = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        // Another thread may have been faster.
        let set = number.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
        Ok(Self(set.map_or_else(|other| other, |_| new)))
    }
}

/// The page. The first call maps it, without a lock, which a fork could leave locked.
fn page() -> io::Result<&'static AtomicU64> {
    const LENGTH: usize = size_of::<AtomicU64>();
    let mut page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        // SAFETY: an anonymous mapping at a place of the kernel's choice aliases no memory.
        let new = unsafe {
            libc::mmap(
                ptr::null_mut(),
                LENGTH,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if new == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping was made just now, and nothing refers to it. Both calls round the
        // length up to a page, as mmap did.
        let unmap = || unsafe { libc::munmap(new, LENGTH) };
        // SAFETY: as before; the advice changes only what a child finds there.
        if unsafe { libc::madvise(new, LENGTH, libc::MADV_WIPEONFORK) } != 0 {
            let error = io::Error::last_os_error();
            unmap();
            return Err(error);
        }
        let new = new.cast::<AtomicU64>();
        page = match PAGE.compare_exchange(
            ptr::null_mut(),
            new,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(_) => new,
            Err(other) => {
                unmap();
                other
            }
        };
    }
    // SAFETY: the pointer is that of a mapping of at least this size, page-aligned, never unmapped
    // once it is in `PAGE`, and used by nothing but atomic operations. Zeros are a valid value.
    Ok(unsafe { &*page })
}

/// Why a child process cannot use its parent's socket: both would share the receive queue and the
/// sequence numbers of answers.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "its sockets belong to another process, from which this one was forked: open a manager in this \
     process"
)]
pub(crate) struct OtherProcess;
