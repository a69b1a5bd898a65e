//! One link an attachment.
//!
//! A name of a link has at most 15 bytes, so it is a hash of the attachment. The alias is the attachment
//! itself: GC reads it, and it tells two attachments with the same hash apart. A mark on shared links, say
//! an address protocol, could not name the attachment.

use std::fs::File;
use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use nix::errno::Errno;
use rscni_plugin::error::Error;
use rscni_plugin::types::Args;
use sha2::{Digest, Sha256};

use crate::rtnetlink;

/// The first word of an alias.
const MARK: &str = "viproute-cni";
/// The most bytes of an alias (`IFALIASZ`, linux/if.h).
const ALIAS_MAX: usize = 255;

/// The name that CNI gives an attachment: a container's interface in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) network: String,
    pub(crate) container: String,
    pub(crate) ifname: String,
}

impl Attachment {
    pub(crate) fn of(args: &Args) -> Result<Self, Error> {
        let missing = || Error::missing_env(&["CNI_CONTAINERID", "CNI_IFNAME"]);
        Ok(Self {
            network: args.config().name.clone(),
            container: args.container_id().ok_or_else(missing)?.to_string(),
            ifname: args.ifname().ok_or_else(missing)?.to_string(),
        })
    }

    /// The name of the attachment's link.
    pub(crate) fn link(&self) -> String {
        let hash = Sha256::digest(self.alias());
        let digits = hash.iter().take(6).map(|byte| format!("{byte:02x}"));
        format!("vip{}", digits.collect::<String>())
    }

    fn alias(&self) -> String {
        format!("{MARK} {} {} {}", self.network, self.container, self.ifname)
    }

    /// None of the words has a space.
    fn parse(alias: &str) -> Option<Self> {
        let words: Vec<_> = alias.split(' ').collect();
        let [MARK, network, container, ifname] = words[..] else {
            return None;
        };
        Some(Self {
            network: network.to_owned(),
            container: container.to_owned(),
            ifname: ifname.to_owned(),
        })
    }
}

/// A link of this namespace.
#[derive(Debug, Default)]
pub(crate) struct Link {
    pub(crate) name: String,
    alias: Option<String>,
}

impl Link {
    fn read(message: LinkMessage) -> Self {
        let mut link = Self::default();
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                _ => {}
            }
        }
        link
    }

    /// A killed ADD may leave its link without an alias.
    pub(crate) fn may_be_of(&self, attachment: &Attachment) -> bool {
        self.alias
            .as_ref()
            .is_none_or(|alias| *alias == attachment.alias())
    }
}

/// Keeps other processes of this plugin from writing in this namespace, until the file is closed.
pub(crate) fn lock() -> Result<File, Error> {
    let namespace = File::open("/proc/self/ns/net");
    let locked = namespace.and_then(|file| file.lock().map(|()| file));
    locked.map_err(|error| Error::IOFailure(format!("/proc/self/ns/net: {error}")))
}

/// Sets the alias. The message that creates a link cannot set it (`rtnl_create_link`,
/// net/core/rtnetlink.c).
pub(crate) fn label(attachment: &Attachment) -> Result<(), Error> {
    if attachment.alias().len() > ALIAS_MAX {
        let text = "the names of network, container and interface are too long for a link's alias";
        return Err(Error::InvalidNetworkConfig(text.into()));
    }
    let mut message = named(&attachment.link());
    message
        .attributes
        .push(LinkAttribute::IfAlias(attachment.alias()));
    let labelled = rtnetlink::request(RouteNetlinkMessage::SetLink(message));
    done("cannot set the link's alias", labelled).map(drop)
}

/// Deletes a link with all its VIPs. A link that is gone counts as deleted.
pub(crate) fn delete(name: &str) -> Result<(), Error> {
    let deleted = rtnetlink::request(RouteNetlinkMessage::DelLink(named(name)));
    done(
        &format!("cannot delete the link {name}"),
        unless_gone(deleted),
    )
    .map(drop)
}

pub(crate) fn find(name: &str) -> Result<Option<Link>, Error> {
    let found = rtnetlink::request(RouteNetlinkMessage::GetLink(named(name)));
    let found = done(&format!("cannot read the link {name}"), unless_gone(found))?;
    Ok(found.into_iter().map(Link::read).next())
}

/// The names of the links of a network's attachments, and their attachments.
pub(crate) fn of_network(network: &str) -> Result<Vec<(String, Attachment)>, Error> {
    let links = done("cannot read the links", rtnetlink::dump())?;
    let owned = links.into_iter().filter_map(|message| {
        let link = Link::read(message);
        let owner = Attachment::parse(&link.alias?)?;
        (owner.network == network).then_some((link.name, owner))
    });
    Ok(owned.collect())
}

fn named(link: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(link.to_owned())];
    message
}

/// No link is the answer about a link that does not exist.
fn unless_gone(answer: io::Result<Vec<LinkMessage>>) -> io::Result<Vec<LinkMessage>> {
    match answer {
        Err(error) if is(&error, Errno::ENODEV) => Ok(Vec::new()),
        answer => answer,
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

fn done<T>(what: &str, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|error| Error::IOFailure(format!("{what}: {error}")))
}
