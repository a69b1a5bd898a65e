//! The error of a whole call.

use std::fmt;
use std::io;

use crate::core::ErrorKind;
use crate::netlink::connection::Failed;
use crate::outcome::Report;
use crate::sys::OtherProcess;

/// Why a call failed, for all or some of its VIPs.
///
/// Programs decide by [`kind`](Self::kind). The message is for people. Once a call has started with its
/// VIPs, the error carries the [`Report`] of all of them. Without a report nothing was written for any
/// VIP. The call may have created the link or brought it up, if the caller allowed that.
///
/// ```no_run
/// # use std::net::IpAddr;
/// # use viproute::{Cause, Error, ErrorKind, VipManager};
/// # let mut vips = VipManager::builder("kube-dummy-if").source([192, 0, 2, 10]).open()?;
/// # let desired: [IpAddr; 1] = ["10.96.0.10".parse()?];
/// match vips.assign(desired) {
///     Ok(report) => println!("{report}"),
///     // The other VIPs are verified.
///     Err(error) if error.kind() == ErrorKind::Incomplete => {
///         for failure in error.report().iter().flat_map(|report| &report.failures) {
///             match failure.cause {
///                 Cause::Rejected(why) => println!("{} is refused: {why}", failure.vip),
///                 // Its family lacks something, for example its source.
///                 Cause::Missing(_) => println!("{failure}"),
///                 Cause::Pending => println!("{}: try again", failure.vip),
///                 _ => println!("{failure}"), // names the VIP
///             }
///         }
///     }
///     Err(error) => return Err(error.into()), // link, privilege: concerns all VIPs
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    detail: String,
    source: Option<io::Error>,
    text: Option<Box<str>>,
    report: Option<Report>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            detail: detail.into(),
            source: None,
            text: None,
            report: None,
        }))
    }

    /// The manager's configuration cannot work.
    pub(crate) fn config(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidConfig, detail)
    }

    /// The message without the report.
    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    pub(crate) fn io(detail: impl Into<String>, error: &io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(libc::EPERM) => ErrorKind::PermissionDenied,
            // The link disappeared during the call.
            Some(libc::ENODEV) => ErrorKind::LinkNotFound,
            _ if error.get_ref().is_some_and(|why| why.is::<OtherProcess>()) => {
                ErrorKind::OtherProcess
            }
            _ => ErrorKind::System,
        };
        let mut new = Self::new(kind, format!("{}: {error}", detail.into()));
        new.0.source = Some(copy(error));
        new
    }

    /// As [`io`](Self::io), with this kind.
    pub(crate) fn io_as(kind: ErrorKind, detail: impl Into<String>, error: &io::Error) -> Self {
        let mut new = Self::io(detail, error);
        new.0.kind = kind;
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

    /// A multicast group of netlink cannot be joined, left or read.
    pub(crate) fn listening(error: io::Error) -> Self {
        Self::io("cannot listen to notifications", &error)
    }

    /// Some VIPs of the report failed.
    pub(crate) fn incomplete(report: Report) -> Self {
        Self::new(ErrorKind::Incomplete, "not every VIP is as desired").with_report(report)
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

    /// The error number of the kernel or of a system call (positive), if any.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.source.as_ref()?.raw_os_error()
    }

    /// The kernel's message (extended ack), if any.
    #[must_use]
    pub fn kernel_text(&self) -> Option<&str> {
        self.0.text.as_deref()
    }

    /// The report of all VIPs, if the call had started with its VIPs.
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
            source,
            text,
            report,
        } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("detail", detail)
            .field("source", source)
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

/// The source is the [`io::Error`] of the system call, or of the kernel's reply, that ended the call.
/// The message of this error already contains the text of the source, so do not print both.
impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}

fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

impl Failed {
    /// Turns the failure into the error of a whole call.
    pub(crate) fn into_error(self, doing: String) -> Error {
        match self {
            Self::Refused(refusal) => Error::kernel(doing, refusal.errno, refusal.text),
            Self::Io(error) => Error::io(doing, &error),
        }
    }

    /// An error, unless the kernel refused for this reason.
    pub(crate) fn unless(self, errno: i32, doing: impl FnOnce() -> String) -> Result<(), Error> {
        if self.errno() == Some(errno) {
            return Ok(());
        }
        Err(self.into_error(doing()))
    }
}
