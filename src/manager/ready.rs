//! Whether the link and the node can hold VIPs; the link is made and brought up where the caller
//! allowed that.

use std::net::IpAddr;

use super::builder::Builder;
use crate::error::{Error, ErrorKind};
use crate::link::{self, LinkRef, LinkState, LinkStatus};
use crate::preview::Groundwork;
use crate::talk::Talk;
use crate::vip::Family;

/// Whether there is no link yet, and the caller allowed to make it.
pub(super) fn is_to_be_made(error: &Error, config: &Builder) -> bool {
    error.kind() == ErrorKind::LinkNotFound && config.create.is_some()
}

/// Finds the link, or makes it where the caller allowed that.
pub(super) fn find_or_make(talk: &mut Talk, config: &Builder) -> Result<LinkState, Error> {
    match find_link(talk, config) {
        Err(error) if is_to_be_made(&error, config) => {
            if let (Some(kind), LinkRef::Name(name)) = (config.create, &config.link) {
                link::create(talk, name, kind)?;
            }
            find_link(talk, config)
        }
        found => found,
    }
}

/// Finds the link.
pub(super) fn find_link(talk: &mut Talk, config: &Builder) -> Result<LinkState, Error> {
    let which = &config.link;
    let link = link::find(talk, which)?;
    let Some(link) = link else {
        let what_to_do = match which {
            LinkRef::Name(_) => "create it, or allow its creation",
            LinkRef::Index(_) => {
                "it is gone for good, even if another link has its index by now; a name follows a \
                 link that is made anew"
            }
        };
        return Err(Error::new(
            ErrorKind::LinkNotFound,
            format!("there is no link {which}: {what_to_do}"),
        ));
    };
    let name = &link.name;
    if link.loopback && config.ranges.allowed.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            format!(
                "{name} is a loopback link, where the node's own addresses look like VIPs: allow \
                 the VIPs' ranges by name"
            ),
        ));
    }
    Ok(link)
}

/// Finds the link as it is, and notes what is to be done to it.
pub(super) fn survey(
    talk: &mut Talk,
    config: &Builder,
    groundwork: &mut Groundwork,
) -> Result<LinkState, Error> {
    let link = match find_link(talk, config) {
        Err(error) if is_to_be_made(&error, config) => {
            groundwork.create = config.create;
            LinkState {
                index: link::NONE,
                name: config.link.to_string(),
                made_as: None,
                up: false,
                loopback: false,
                in_vrf: false,
                ipv6: LinkStatus::Up,
            }
        }
        found => found?,
    };
    check_ready(config, &link)?;
    groundwork.bring_up = !link.up;
    if !link.up && link.index != link::NONE {
        groundwork.broadcasts = link::broadcasts(talk, link.index)?;
    }
    groundwork.name.clone_from(&link.name);
    groundwork.label = config.label;
    Ok(link)
}

/// Refuses a link that cannot hold VIPs; brings it up where the caller allowed that.
pub(super) fn make_ready(
    talk: &mut Talk,
    config: &Builder,
    mut link: LinkState,
) -> Result<LinkState, Error> {
    check_ready(config, &link)?;
    if !link.up {
        if config.create.is_some() && config.create == link.made_as {
            link::no_generated_address(talk, &link)?;
        }
        link::bring_up(talk, &link)?;
        link.up = true;
    }
    Ok(link)
}

/// Refuses a link that cannot hold VIPs, or is down and must stay so.
fn check_ready(config: &Builder, link: &LinkState) -> Result<(), Error> {
    let name = &link.name;
    if link.in_vrf {
        return Err(Error::new(
            ErrorKind::LinkInVrf,
            format!(
                "link {name} is enslaved to a VRF, which does not use table local: take another"
            ),
        ));
    }
    // A call that created the link may have been killed before it brought it up.
    if !link.up && !config.bring_up && config.create.is_none() {
        return Err(Error::new(
            ErrorKind::LinkDown,
            format!("link {name} is down: bring it up, or allow that it is brought up"),
        ));
    }
    Ok(())
}

/// IPv6 must not be off on the link where VIPs of it are to be put or kept there.
pub(super) fn check_ipv6(link: &LinkState, families: [bool; 2]) -> Result<(), Error> {
    match link.why_no_ipv6() {
        Some(why) if families[Family::V6 as usize] => Err(Error::new(ErrorKind::Ipv6Disabled, why)),
        _ => Ok(()),
    }
}

/// The sources of these families must be on the node.
pub(super) fn check_sources(
    talk: &mut Talk,
    sources: &[Option<IpAddr>; 2],
    families: [bool; 2],
) -> Result<(), Error> {
    for (source, needed) in sources.iter().zip(families) {
        if let Some(source) = source.filter(|_| needed) {
            link::check_source(talk, &source)?;
        }
    }
    Ok(())
}
