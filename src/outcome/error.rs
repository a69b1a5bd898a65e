//! The error of a whole call.

use std::fmt;
use std::io;

use crate::outcome::Report;
use crate::sys::OtherProcess;

/// Why a call did not do all that it was asked for.
///
/// Opaque, with accessors: [`kind`](Self::kind) to decide by, the message for people. Where the
/// call had come to its VIPs, the error carries the [`Report`] of every one of them; without a
/// report, nothing was written for any VIP, and at most the link was made or brought up, where the
/// caller allowed that.
///
/// ```no_run
/// # use std::net::IpAddr;
/// # use viproute::{Cause, Error, ErrorKind, VipManager};
/// # let mut vips = VipManager::builder("kube-dummy-if").source([192, 0, 2, 10]).open()?;
/// # let wanted: [IpAddr; 1] = ["10.96.0.10".parse()?];
/// match vips.assign(wanted) {
///     Ok(report) => println!("{report}"),
///     // All others were done and verified.
///     Err(error) if error.kind() == ErrorKind::Incomplete => {
///         for failure in error.report().iter().flat_map(|report| &report.failures) {
///             match failure.cause {
///                 Cause::Rejected(why) => println!("{} is refused: {why}", failure.vip),
///                 // Its family waits for something, say its source; the other one does not.
///                 Cause::Missing(_) => println!("{failure}"),
///                 Cause::Pending => println!("{}: try again", failure.vip),
///                 _ => println!("{failure}"), // it names the VIP
///             }
///         }
///     }
///     Err(error) => return Err(error.into()), // link, privilege: for all of them
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    detail: String,
    errno: Option<i32>,
    text: Option<Box<str>>,
    report: Option<Report>,
}

/// What kind of failure an [`Error`] is, and what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Some VIPs fell short: see [`Error::report`]. Everything else was done and verified.
    Incomplete,
    /// The call was cancelled: see [`Error::report`] for how far it came.
    Cancelled,
    /// The configuration cannot work as given (link name, protocol, sources, ranges).
    InvalidConfig,
    /// The desired set is empty. To take every claimed VIP off the link, call
    /// [`release_all`](crate::VipManager::release_all). In [`Cause::Missing`](crate::Cause::Missing): no
    /// VIP of the family is desired (see [`Claim`](crate::Claim)).
    EmptySet,
    /// More VIPs would be released than [`Claim::at_most`](crate::Claim::at_most) allows.
    TooManyReleases,
    /// A network namespace was given that is none. Give the file or descriptor of one.
    InvalidNetns,
    /// There is no such link. Create it, or let [`VipManagerBuilder::create_link`](crate::VipManagerBuilder::create_link).
    LinkNotFound,
    /// The link is down, or went down during the call, which keeps IPv6 from it, not IPv4. Bring it up,
    /// or let [`VipManagerBuilder::bring_up`](crate::VipManagerBuilder::bring_up).
    LinkDown,
    /// The link is enslaved to a VRF, where the routes of table local are not used. Take another.
    LinkInVrf,
    /// The link has no IPv6: it is disabled there (set `net/ipv6/conf/LINK/disable_ipv6` to 0), the
    /// MTU is below 1280, or the kernel has none. The message says which.
    Ipv6Disabled,
    /// A source is no address of this node. Add it, or give the right one.
    SourceNotOnNode,
    /// A source is tentative: duplicate address detection (RFC 4862 5.4) has not ended, cannot end
    /// on a link that is down, or has failed. The message says which.
    SourceTentative,
    /// The table of address labels has a label for the link's VIPs, or uses
    /// [`SourceAvoidance::LABEL`](crate::SourceAvoidance::LABEL), in another way than
    /// [`SourceAvoidance::AddressLabel`](crate::SourceAvoidance::AddressLabel) needs. Change the
    /// entry (`ip addrlabel`), or take
    /// [`SourceAvoidance::Deprecated`](crate::SourceAvoidance::Deprecated).
    LabelConflict,
    /// The kernel refused for lack of privilege: `CAP_NET_ADMIN` in the user namespace that owns
    /// the network namespace.
    PermissionDenied,
    /// The manager, keeper or watcher was opened in another process, from which this one was forked.
    /// Parent and child share its sockets, and each would take the other's answers. Open one in this
    /// process.
    OtherProcess,
    /// The kernel or the operating system failed in another way; see the message.
    System,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Incomplete => "some VIPs fell short",
            Self::Cancelled => "cancelled",
            Self::InvalidConfig => "the configuration cannot work",
            Self::EmptySet => "the desired set is empty",
            Self::TooManyReleases => "too many VIPs would be released",
            Self::InvalidNetns => "no network namespace",
            Self::LinkNotFound => "the link is not there",
            Self::LinkDown => "the link is down",
            Self::LinkInVrf => "the link is in a VRF",
            Self::Ipv6Disabled => "the link has no IPv6",
            Self::SourceNotOnNode => "a source is not on the node",
            Self::SourceTentative => "a source is tentative",
            Self::LabelConflict => "another address label is in the way",
            Self::PermissionDenied => "permission denied",
            Self::OtherProcess => "it belongs to another process",
            Self::System => "the system failed",
        })
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            detail: detail.into(),
            errno: None,
            text: None,
            report: None,
        }))
    }

    /// What it says, without the report.
    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    pub(crate) fn io(detail: impl Into<String>, error: &io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(libc::EPERM) => ErrorKind::PermissionDenied,
            // The link was there when the call began.
            Some(libc::ENODEV) => ErrorKind::LinkNotFound,
            _ if error.get_ref().is_some_and(|why| why.is::<OtherProcess>()) => {
                ErrorKind::OtherProcess
            }
            _ => ErrorKind::System,
        };
        let mut new = Self::new(kind, format!("{}: {error}", detail.into()));
        new.0.errno = error.raw_os_error();
        new
    }

    /// An error reply of the kernel to a message that concerns the whole call.
    pub(crate) fn kernel(detail: impl Into<String>, errno: i32, text: Option<Box<str>>) -> Self {
        let mut new = Self::io(detail, &io::Error::from_raw_os_error(errno));
        if let Some(text) = &text {
            new.0.detail = format!("{}: {text}", new.0.detail);
        }
        if errno == libc::EPERM {
            new.0.detail += ": CAP_NET_ADMIN is needed in the user namespace that owns the network \
                             namespace";
        }
        new.0.text = text;
        new
    }

    /// Some VIPs of the report fell short.
    pub(crate) fn incomplete(report: Report) -> Self {
        Self::new(ErrorKind::Incomplete, "not every VIP is as wanted").with_report(report)
    }

    pub(crate) fn with_report(mut self, report: Report) -> Self {
        self.0.report = Some(report);
        self
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The error number that the kernel or a system call gave, if one did (positive).
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.errno
    }

    /// The kernel's own words (extended ack), where it gave any.
    #[must_use]
    pub fn kernel_text(&self) -> Option<&str> {
        self.0.text.as_deref()
    }

    /// What became of each VIP, where the call came so far.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        self.0.report.as_ref()
    }

    /// Like [`report`](Self::report), by value.
    #[must_use]
    pub fn into_report(self) -> Option<Report> {
        self.0.report
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            kind,
            detail,
            errno,
            text,
            report,
        } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("detail", detail)
            .field("errno", errno)
            .field("text", text)
            .field("report", report)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.detail)?;
        if let Some(report) = &self.0.report {
            write!(f, ": {report}")?;
            if let Some(first) = report.failures.first() {
                write!(f, "; first failure: {first}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Whether the kernel is short of something that comes back: such a refusal says nothing of what was
/// asked for.
pub(crate) fn is_shortage(errno: i32) -> bool {
    matches!(
        errno,
        libc::ENOBUFS | libc::ENOMEM | libc::EBUSY | libc::EAGAIN | libc::EINTR
    )
}
