//! Work in another network namespace, without moving the caller.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use crate::outcome::{Error, ErrorKind};
use crate::sys::ns;

/// A network namespace, for [`VipManagerBuilder::netns`](crate::VipManagerBuilder::netns).
///
/// A short-lived thread enters the namespace and opens the manager's sockets there. The caller's threads
/// stay where they are. Entering needs `CAP_SYS_ADMIN` in the caller's user namespace and in the user
/// namespace that owns the network namespace (setns(2)). The manager's calls need `CAP_NET_ADMIN` in
/// the latter, as always.
///
/// ```no_run
/// use viproute::{Netns, VipManager};
///
/// let mut vips = VipManager::builder("kube-dummy-if")
///     .netns(Netns::open("/run/netns/blue")?)
///     .source([192, 0, 2, 10])
///     .open()?;
/// println!("{}", vips.normalize()?);
/// # Ok::<(), viproute::Error>(())
/// ```
#[derive(Debug)]
pub struct Netns(OwnedFd);

/// Stack size of that thread: far more than opening a socket needs.
const STACK: usize = 128 * 1024;

impl Netns {
    /// Opens a namespace by its file: `/run/netns/NAME` of `ip netns`, a container runtime's bind
    /// mount, or `/proc/PID/ns/net`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidNetns`] if the file does not exist or is no network namespace.
    /// [`ErrorKind::PermissionDenied`] if the process may not open it, and [`ErrorKind::System`] if the
    /// process lacks descriptors or memory.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let cannot = format!("cannot open {}", path.display());
        // Without O_NONBLOCK, opening a named pipe would wait for a writer.
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path);
        let file = opened.map_err(|error| match error.raw_os_error() {
            // These errors say nothing about the file.
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Error::io(cannot, &error),
            Some(libc::EACCES | libc::EPERM) => {
                Error::io_as(ErrorKind::PermissionDenied, cannot, &error)
            }
            _ => invalid(&cannot, &error),
        })?;
        Self::checked(file.into(), &path.display().to_string())
    }

    /// Opens the namespace of a process, or of a thread by its id.
    ///
    /// The kernel reuses the id of a process that has ended and was waited for, and the namespace is
    /// then another one. An id is safe for a child that the caller has not waited for. Otherwise open
    /// the namespace's file, or take a descriptor of it
    /// ([`TryFrom<OwnedFd>`](#impl-TryFrom<OwnedFd>-for-Netns)), while the process is known to live.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn from_pid(id: u32) -> Result<Self, Error> {
        Self::open(format!("/proc/{id}/ns/net"))
    }

    fn checked(fd: OwnedFd, name: &str) -> Result<Self, Error> {
        match ns::kind(fd.as_fd()) {
            Ok(libc::CLONE_NEWNET) => Ok(Self(fd)),
            Ok(_) => Err(Error::new(
                ErrorKind::InvalidNetns,
                format!("{name} is a namespace of another kind than network"),
            )),
            Err(error) => Err(invalid(&format!("{name} is no namespace"), &error)),
        }
    }

    /// Runs `work` on a thread that lives in the namespace, and waits for it.
    pub(crate) fn run<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> Result<io::Result<T>, Error> {
        let inside = thread::scope(|scope| {
            // Without a given size std reads one from the environment (RUST_MIN_STACK).
            let thread = thread::Builder::new().stack_size(STACK);
            let thread = thread.spawn_scoped(scope, || {
                ns::set_netns(self.as_fd())?;
                Ok(work())
            })?;
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))
        });
        inside.map_err(|error: io::Error| {
            let needs = match error.raw_os_error() {
                Some(libc::EPERM) => {
                    ": CAP_SYS_ADMIN is needed, here and in the user namespace that owns it"
                }
                _ => "",
            };
            Error::io(format!("cannot enter the network namespace{needs}"), &error)
        })
    }
}

fn invalid(what: &str, error: &io::Error) -> Error {
    Error::io_as(ErrorKind::InvalidNetns, what, error)
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl TryFrom<OwnedFd> for Netns {
    type Error = Error;

    /// Uses a descriptor of a network namespace.
    fn try_from(fd: OwnedFd) -> Result<Self, Error> {
        Self::checked(fd, "the descriptor")
    }
}
