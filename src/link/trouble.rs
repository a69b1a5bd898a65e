//! Obstacles that concern all VIPs of one family, and not the other family.

use std::net::IpAddr;

use crate::base::{Family, PerFamily};
use crate::link::{self, LinkState};
use crate::netlink::connection::Connection;
use crate::outcome::{Error, ErrorKind};

/// Why the link can hold no VIP of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) family: Family,
    pub(crate) kind: ErrorKind,
    pub(crate) detail: Box<str>,
}

/// The trouble of each family, if any.
pub(crate) type Troubles = PerFamily<Option<Trouble>>;

/// The trouble of a family, with the link (if it exists) or with the source. `comes_up`: the call brings
/// the link up.
///
/// # Errors
///
/// If the kernel does not answer, which concerns both families.
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

/// The trouble of a family with the link.
///
/// A link that is down can hold IPv4 addresses and local routes (`fib_add_ifaddr`,
/// net/ipv4/fib_frontend.c; a route of scope host needs no link that is up, `fib_create_info`,
/// net/ipv4/fib_semantics.c). IPv6 refuses them.
fn of_link(family: Family, link: &LinkState, comes_up: bool) -> Option<Trouble> {
    let (kind, detail) = match family {
        Family::V4 => return None,
        Family::V6 if !link.up && !comes_up => {
            (ErrorKind::LinkDown, format!("link {} is down", link.name))
        }
        Family::V6 => (ErrorKind::Ipv6Disabled, link.why_no_ipv6()?),
    };
    Some(Trouble {
        family,
        kind,
        detail: detail.into(),
    })
}

/// Turns the error of a check into the trouble of the checked family. Returns an error that concerns
/// both families.
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
