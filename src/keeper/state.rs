//! What a keeper waits for, and whether it releases: states, each with one transition.

use std::fmt;
use std::time::Instant;

use super::status::Waiting;
use crate::base::Family;
use crate::outcome::ErrorKind;

/// Whether VIPs can be kept: of the link, or of one family.
#[derive(Debug, Default)]
pub(super) enum Keeping {
    #[default]
    Possible,
    /// Not until this is there.
    Waiting { missing: Missing, since: Instant },
}

impl Keeping {
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting { .. })
    }

    /// The one transition: what is missing now. A wait goes on from its begin, also where something
    /// else is missing than before.
    pub(super) fn update(&mut self, missing: Option<Missing>) {
        *self = match (missing, &*self) {
            (None, _) => Self::Possible,
            (Some(missing), Self::Possible) => Self::Waiting {
                missing,
                since: Instant::now(),
            },
            (Some(missing), Self::Waiting { since, .. }) => Self::Waiting {
                missing,
                since: *since,
            },
        };
    }

    pub(super) fn waiting(&self) -> Option<Waiting> {
        match self {
            Self::Possible => None,
            Self::Waiting { missing, since } => Some(Waiting {
                missing: missing.clone(),
                since: since.elapsed(),
            }),
        }
    }

    pub(super) fn missing(&self) -> Option<&Missing> {
        match self {
            Self::Possible => None,
            Self::Waiting { missing, .. } => Some(missing),
        }
    }
}

/// Whether VIPs are released that are claimed and not desired.
#[derive(Debug, Default)]
pub(super) enum Releases {
    #[default]
    Allowed,
    /// No VIP is desired, or none of one family: see [`Claim`].
    Guarded(Box<str>),
    /// They would pass the claim's bound: none is, until a new set is given.
    Refused(Box<str>),
}

/// What changes [`Releases`].
pub(super) enum ReleaseChange<'a> {
    /// A new set was given.
    NewSet,
    /// The whole link was read, and nothing stood in the way.
    ReadInFull,
    /// No VIP is desired, or none of one family.
    NoneDesired(&'a str),
    /// The claim's bound would have been passed.
    BoundPassed(&'a str),
}

impl Releases {
    /// The one transition.
    pub(super) fn update(&mut self, change: &ReleaseChange<'_>) {
        match (change, &*self) {
            (ReleaseChange::NewSet, _)
            | (ReleaseChange::ReadInFull, Self::Allowed | Self::Guarded(_)) => {
                *self = Self::Allowed;
            }
            (ReleaseChange::NoneDesired(detail), Self::Allowed) => {
                *self = Self::Guarded((*detail).into());
            }
            (ReleaseChange::BoundPassed(detail), _) => *self = Self::Refused((*detail).into()),
            // A refusal lasts until there is a new set; the first guard names the reason.
            (ReleaseChange::ReadInFull, Self::Refused(_))
            | (ReleaseChange::NoneDesired(_), Self::Guarded(_) | Self::Refused(_)) => {}
        }
    }

    pub(super) fn are_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    /// As an error's kind and detail.
    pub(super) fn in_words(&self) -> Option<(ErrorKind, &str)> {
        match self {
            Self::Allowed => None,
            Self::Guarded(detail) => Some((ErrorKind::EmptySet, detail)),
            Self::Refused(detail) => Some((ErrorKind::TooManyReleases, detail)),
        }
    }
}

/// What a [`Keeper`](crate::Keeper) waits for.
///
/// ```
#[doc = include_str!("example.txt")]
/// // The link is there, the IPv6 source is not.
/// let manager = VipManager::builder("vips")
///     .source([192, 0, 2, 10])
///     .source("2001:db8::10".parse::<std::net::Ipv6Addr>()?)
///     .create_link(LinkKind::Bridge)
///     .open()?;
/// let mut keeper = manager.into_keeper(Claim::link())?;
/// keeper.set_desired(["10.96.0.10".parse::<viproute::Vip>()?, "2001:db8:42::1".parse()?]);
/// let done = keeper.dispatch(usize::MAX)?;
/// println!("{}", done.missing[0]);
/// assert_eq!(done.missing[0].family, Some(viproute::Family::V6));
/// assert_eq!(done.report.assigned, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Missing {
    /// Whose VIPs wait; `None`: those of both families.
    pub family: Option<Family>,
    /// What is missing: the link ([`ErrorKind::LinkNotFound`], [`ErrorKind::LinkInVrf`]), or for one
    /// family what [`Cause::Missing`](crate::Cause::Missing) says.
    pub kind: ErrorKind,
    /// The same in full: which source it is, and what to do.
    pub detail: Box<str>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(family) = self.family {
            write!(f, "{family}: ")?;
        }
        f.write_str(&self.detail)
    }
}
