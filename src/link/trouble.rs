//! What keeps a whole family from being served, while the other one is.

use std::net::IpAddr;

use crate::base::{Family, PerFamily};
use crate::link::{self, LinkState};
use crate::netlink::connection::Connection;
use crate::outcome::{Error, ErrorKind};

/// Why no VIP of a family can be put on the link or kept there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) family: Family,
    pub(crate) kind: ErrorKind,
    pub(crate) detail: Box<str>,
}

/// The trouble of each family, if it has any.
pub(crate) type Troubles = PerFamily<Option<Trouble>>;

/// What keeps a family from being served: the link as it is, if it is there already, or the source.
/// `comes_up`: a link that is down will be brought up.
///
/// # Errors
///
/// If the kernel does not say: that concerns more than a family.
pub(crate) fn of_family(
    connection: &mut Connection,
    family: Family,
    link: Option<&LinkState>,
    comes_up: bool,
    source: Option<IpAddr>,
) -> Result<Option<Trouble>, Error> {
    let of_link = link.and_then(|link| of_link(family, link, comes_up));
    match (of_link, source) {
        (None, Some(source)) => only(family, link::check_source(connection, &source)),
        (of_link, _) => Ok(of_link),
    }
}

/// What the link, as it is, is to a family.
///
/// IPv4 has its addresses and local routes on a link that is down, too (`fib_add_ifaddr`,
/// net/ipv4/fib_frontend.c; a route of scope host asks for no link that is up, `fib_create_info`,
/// net/ipv4/fib_semantics.c). IPv6 refuses them.
fn of_link(family: Family, link: &LinkState, comes_up: bool) -> Option<Trouble> {
    let (kind, detail) = match family {
        Family::V4 => return None,
        Family::V6 if !link.up && !comes_up => (
            ErrorKind::LinkDown,
            format!(
                "link {} is down: bring it up, or allow that it is brought up",
                link.name
            ),
        ),
        Family::V6 => (ErrorKind::Ipv6Disabled, link.why_no_ipv6()?),
    };
    Some(Trouble {
        family,
        kind,
        detail: detail.into(),
    })
}

/// What an error of a check is to the family that was checked. What concerns more than a family
/// comes back.
pub(crate) fn only<T>(family: Family, checked: Result<T, Error>) -> Result<Option<Trouble>, Error> {
    match checked {
        Ok(_) => Ok(None),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::SourceNotOnNode | ErrorKind::SourceTentative | ErrorKind::LabelConflict
            ) =>
        {
            Ok(Some(Trouble {
                family,
                kind: error.kind(),
                detail: error.detail().into(),
            }))
        }
        Err(error) => Err(error),
    }
}
