//! Which process this is, across forks.

#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// A process, told from every one that it descends from.
///
/// A process id would not do: a new pid namespace repeats them, and to ask for it is a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u64);

/// A page that holds the number of this process. The kernel hands it to a child full of zeros,
/// however that was forked (`MADV_WIPEONFORK`, Linux 4.14).
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// The last number given out in this process and those that it descends from. A child inherits it.
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

/// The page, mapped by the first call. Without a lock, which a fork could leave locked.
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

/// Why a socket cannot be used: parent and child share its queue, and the sequence numbers by which
/// answers are told apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OtherProcess;

impl fmt::Display for OtherProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "its sockets belong to another process, from which this one was forked: open a manager \
             in this process",
        )
    }
}

impl std::error::Error for OtherProcess {}
