//! Private network namespaces for tests of code that changes links, addresses and routes. The tests run
//! on any Linux machine, in parallel, without root, and do not change the machine's own network.
//!
//! [`enter`] moves the *process* into a user namespace, where it is root. It must run before the process
//! has a second thread. Then each test creates a [`Sandbox`], which moves its *thread* into an own network
//! namespace, empty but for `lo`. Threads and child processes (such as `ip`) that the thread starts
//! afterwards are in that namespace, too.
//!
//! ```
//! use std::process::Command;
//! use viproute::sandbox::{self, Sandbox};
//!
//! // First, while the process has one thread.
//! sandbox::enter()?;
//!
//! let sandbox = Sandbox::new()?;
//! // The namespace has no link but `lo`.
//! let links = Command::new("ip").args(["-oneline", "link"]).output()?;
//! assert_eq!(String::from_utf8_lossy(&links.stdout).lines().count(), 1);
//! // From here on: add links, open a `VipManager`, look at its routes.
//!
//! // Moves the thread back. The kernel deletes the namespace with all links.
//! drop(sandbox);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # In a test binary
//!
//! The test harness starts threads before it calls a test, so [`enter`] has to run before `main`.
//! With the crate [`ctor`](https://docs.rs/ctor):
//!
//! ```text
//! #[ctor::ctor(unsafe)]
//! fn before_main() {
//!     if let Err(error) = viproute::sandbox::enter() {
//!         eprintln!("cannot enter the sandbox: {error}");
//!         std::process::exit(1);
//!     }
//! }
//!
//! #[test]
//! fn vips_are_local() {
//!     let _sandbox = viproute::sandbox::Sandbox::new().unwrap();
//!     // ...
//! }
//! ```

use std::fs::{self, File};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};

use crate::link;
use crate::netlink::connection::Connection;
use crate::outcome::{Error, Netns};
use crate::sys::{Socket, Strictness, ns};

/// The network namespace of the calling thread. (`/proc/self/ns/net` is the main thread's.)
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// The index of `lo`, the same in every network namespace.
const LO: u32 = 1;

/// Moves the process into a user namespace and a network namespace of its own.
///
/// The process is root there: its user and group are mapped to 0, and no other id is mapped. It can add
/// links, addresses, routes and further network namespaces. The kernel must allow user namespaces to
/// ordinary users. If it does not, a process with `CAP_SYS_ADMIN` gets only the network namespace. `lo`
/// is up in both cases.
///
/// The process cannot go back. Files of other users show as the overflow user's, and the process has no
/// rights of root over them.
///
/// ```
/// use viproute::sandbox::{self, Sandbox};
///
/// // First of all, before the process has a second thread.
/// if let Err(error) = sandbox::enter() {
///     eprintln!("SKIPPED: {error}");
///     return Ok(());
/// }
/// let sandbox = Sandbox::new()?;
/// std::process::Command::new("ip").args(["link", "add", "vips", "type", "bridge"]).status()?;
/// // The link goes with the sandbox.
/// sandbox.leave()?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// `EINVAL` if the process has a second thread. `EPERM` or `ENOSPC` if user namespaces are forbidden and
/// the process may not create a network namespace without one. If a later step fails, such as writing
/// the mapping, the process is in its new namespaces and is not root there.
pub fn enter() -> io::Result<()> {
    // Read before the new namespace, where both are the overflow ids until the mapping is written.
    let (uid, gid) = ns::effective_ids();
    match ns::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) {
        Ok(()) => {
            // The kernel lets an unprivileged process map a group only after this write
            // (user_namespaces(7)).
            write_own("setgroups", "deny")?;
            write_own("uid_map", &format!("0 {uid} 1"))?;
            write_own("gid_map", &format!("0 {gid} 1"))?;
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            return Err(explain(
                &error,
                "only a process with a single thread can move into a user namespace (a test \
                 binary must do so before main), and the kernel must have CONFIG_USER_NS and \
                 CONFIG_NET_NS",
            ));
        }
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSPC)) => {
            ns::unshare(libc::CLONE_NEWNET).map_err(|without| {
                explain(
                    &error,
                    &format!(
                        "the process may create no user namespace, and no network namespace \
                         without one ({without}): check the sysctls user.max_user_namespaces, \
                         user.max_net_namespaces, kernel.unprivileged_userns_clone and \
                         kernel.apparmor_restrict_unprivileged_userns, and in a container at its \
                         seccomp profile; or run with CAP_SYS_ADMIN"
                    ),
                )
            })?;
        }
        Err(error) => return Err(explain(&error, "making a user and a network namespace")),
    }
    raise_lo()
}

/// A network namespace of the calling thread, for as long as this value lives.
///
/// The namespace has only `lo`, which is up. Threads and child processes that this thread starts
/// afterwards are in it; other threads are not. Dropping the value moves the thread back to its former
/// namespace. The kernel deletes the namespace with its links after its last thread, process, socket and
/// descriptor are gone.
///
/// Sandboxes of one thread may be nested; drop the inner one first.
#[derive(Debug)]
pub struct Sandbox {
    here: File,
    before: File,
    left: bool,
    /// A namespace belongs to a thread, so this value must stay on the thread that created it.
    not_send: PhantomData<*const ()>,
}

impl Sandbox {
    /// Moves the calling thread into a new network namespace.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_SYS_ADMIN`, which [`enter`] gives. After an error the thread is in its
    /// former namespace.
    pub fn new() -> io::Result<Self> {
        let before = own_netns()?;
        ns::unshare(libc::CLONE_NEWNET).map_err(|error| {
            explain(
                &error,
                "making a network namespace (has the process called viproute::sandbox::enter, \
                 and is user.max_net_namespaces large enough?)",
            )
        })?;
        match own_netns().and_then(|here| raise_lo().map(|()| here)) {
            Ok(here) => Ok(Self {
                here,
                before,
                left: false,
                not_send: PhantomData,
            }),
            Err(error) => {
                ns::set_netns(before.as_fd())?;
                Err(error)
            }
        }
    }

    /// The namespace, for instance for `setns(2)`, or as `IFLA_NET_NS_FD` to move a link into it.
    ///
    /// The descriptor is close-on-exec.
    #[must_use]
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.here.as_fd()
    }

    /// Moves the thread back, as dropping does, and returns an error of the move.
    ///
    /// # Errors
    ///
    /// The error of `setns(2)`. The thread is then still in the sandbox.
    pub fn leave(mut self) -> io::Result<()> {
        // `drop` must not try a second time.
        self.left = true;
        ns::set_netns(self.before.as_fd())
            .map_err(|error| explain(&error, "moving back from the sandbox"))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !self.left {
            // Fails only if the process has dropped CAP_SYS_ADMIN. The thread then stays in the
            // sandbox. `leave` returns this error.
            let _ = ns::set_netns(self.before.as_fd());
        }
    }
}

/// The sandbox's namespace, for a manager on any thread.
///
/// ```
#[doc = include_str!("keeper/example_net.txt")]
/// use std::process::Command;
/// use viproute::{LinkKind, Netns, VipManager};
///
/// let sandbox = Sandbox::new()?;
/// Command::new("ip").args(["addr", "add", "192.0.2.20/32", "dev", "lo"]).status()?;
/// let netns = Netns::try_from(&sandbox)?;
/// // The thread is back, and the manager works in the sandbox.
/// sandbox.leave()?;
/// let mut manager = VipManager::builder("vips")
///     .netns(netns)
///     .source([192, 0, 2, 20])
///     .create_link(LinkKind::Auto)
///     .open()?;
/// assert_eq!(manager.assign([std::net::Ipv4Addr::new(10, 96, 0, 10)])?.assigned, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl TryFrom<&Sandbox> for Netns {
    type Error = Error;

    /// # Errors
    ///
    /// [`ErrorKind::System`](crate::ErrorKind::System) if the process has no descriptor left.
    fn try_from(sandbox: &Sandbox) -> Result<Self, Error> {
        match sandbox.netns().try_clone_to_owned() {
            Ok(namespace) => namespace.try_into(),
            Err(error) => Err(Error::io("cannot copy the descriptor of a sandbox", &error)),
        }
    }
}

impl AsFd for Sandbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netns()
    }
}

fn own_netns() -> io::Result<File> {
    File::open(OWN_NETNS).map_err(|error| explain(&error, &format!("opening {OWN_NETNS}")))
}

fn write_own(file: &str, text: &str) -> io::Result<()> {
    let path = format!("/proc/self/{file}");
    fs::write(&path, text).map_err(|error| explain(&error, &format!("writing {path}")))
}

/// Sets `lo` of the calling thread's namespace up.
fn raise_lo() -> io::Result<()> {
    let mut connection = Connection::open(|| Socket::open(1, Strictness::Preferred))?;
    link::bring_up(&mut connection, LO, "lo").map_err(|error| {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        explain(&io::Error::from_raw_os_error(errno), "setting lo up")
    })
}

/// Adds an explanation to the error, and keeps its [kind](io::ErrorKind).
fn explain(error: &io::Error, meaning: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{meaning}: {error}"))
}
