//! Working in another network namespace without moving the caller.

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
/// A manager's sockets are opened in it by a thread of their own that ends at once; no thread of
/// the caller is moved. Entering needs `CAP_SYS_ADMIN` in the caller's user namespace and in the
/// one that owns the network namespace (setns(2)); what the manager does there afterwards needs
/// `CAP_NET_ADMIN` in the latter, as everywhere.
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

/// Far more than it takes to open a socket.
const STACK: usize = 128 * 1024;

impl Netns {
    /// Opens a namespace by its file: `/run/netns/NAME` of `ip netns`, a container runtime's bind
    /// mount, or `/proc/PID/ns/net`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidNetns`] if there is no such file, or if it is no network namespace;
    /// [`ErrorKind::PermissionDenied`] or [`ErrorKind::System`] if it cannot be opened for want of a
    /// right, or of descriptors or memory.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let cannot = format!("cannot open {}", path.display());
        // To open a named pipe would wait for somebody who writes to it.
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path);
        let file = opened.map_err(|error| match error.raw_os_error() {
            // They say nothing of what is there.
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
            // A size of its own, or std would look for one in the environment.
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

    /// Takes a descriptor of a namespace, from wherever it comes.
    fn try_from(fd: OwnedFd) -> Result<Self, Error> {
        Self::checked(fd, "the descriptor")
    }
}
