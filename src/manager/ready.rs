//! Finds the link, and creates it and brings it up if the caller allows that.

use super::builder::VipManagerBuilder;
use crate::base::NO_LINK;
use crate::link::{self, LinkKind, LinkRef, LinkState};
use crate::netlink::connection::Connection;
use crate::netlink::decode::LinkTraits;
use crate::outcome::LinkStatus;
use crate::outcome::{Error, ErrorKind};

/// Creates the link and finds it.
pub(super) fn make(
    connection: &mut Connection,
    config: &VipManagerBuilder,
) -> Result<LinkState, Error> {
    if let (Some(kind), LinkRef::Name(name)) = (config.create, &config.link) {
        link::create(connection, name, kind)?;
    }
    find_link(connection, config)
}

/// Finds the link.
pub(crate) fn find_link(
    connection: &mut Connection,
    config: &VipManagerBuilder,
) -> Result<LinkState, Error> {
    let which = &config.link;
    let link = link::find(connection, which)?;
    let Some(link) = link else {
        let for_good = match which {
            LinkRef::Name(_) => "",
            LinkRef::Index(_) => {
                ": it is gone for good, even if another link has its index; a name follows a link \
                 that is created again"
            }
        };
        return Err(Error::new(
            ErrorKind::LinkNotFound,
            format!("there is no {which}{for_good}"),
        ));
    };
    let name = &link.name;
    if link.loopback && config.ranges.allowed.is_empty() {
        return Err(Error::config(format!(
            "{name} is a loopback link, where the node's own addresses look like VIPs: allow \
                 the VIPs' ranges by name"
        )));
    }
    Ok(link)
}

/// A link that does not exist, for a plan or for a call without VIPs.
pub(super) fn no_link(config: &VipManagerBuilder) -> LinkState {
    LinkState {
        traits: LinkTraits::default(),
        index: NO_LINK,
        name: config.link.name(),
        made_as: None,
        up: false,
        loopback: false,
        in_vrf: false,
        ipv6: LinkStatus::Up,
    }
}

/// Whether a call may bring the link up. Creation allows that too: the call that created the link may
/// have been killed before it brought the link up.
pub(super) fn may_bring_up(config: &VipManagerBuilder) -> bool {
    config.bring_up || config.create.is_some()
}

/// Brings the link up.
pub(super) fn bring_up(
    connection: &mut Connection,
    config: &VipManagerBuilder,
    link: &mut LinkState,
) -> Result<(), Error> {
    let candidates = config.create.map_or(&[][..], LinkKind::candidates);
    if link.made_as.is_some_and(|kind| candidates.contains(&kind)) {
        link::no_generated_address(connection, link)?;
    }
    link::bring_up(connection, link.index, &link.name)?;
    link.up = true;
    Ok(())
}

/// Refuses a link of a VRF, which no family can use.
pub(super) fn check_vrf(link: &LinkState) -> Result<(), Error> {
    let name = &link.name;
    if link.in_vrf {
        return Err(Error::new(
            ErrorKind::LinkInVrf,
            format!(
                "link {name} is enslaved to a VRF, which does not use table local: take another"
            ),
        ));
    }
    Ok(())
}
