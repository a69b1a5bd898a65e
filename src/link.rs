//! The link that holds the VIPs, and the sources on the node.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};

use crate::error::{Error, ErrorKind};
use crate::talk::{Failed, Talk};
use crate::vip::Family;
use crate::wire::decode::Route;
use crate::wire::encode::{HEADER, add_host_address_message, get_address_message, look_up_message};
use crate::wire::{IFA_F_DADFAILED, IFA_F_TENTATIVE, TABLE_LOCAL};

/// What kind of link a manager creates where its link is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkKind {
    /// A dummy link (drivers/net/dummy.c): the usual choice.
    Dummy,
    /// A bridge without ports and without ARP, which holds VIPs like a dummy link: for kernels
    /// without the dummy driver.
    Bridge,
}

/// What is known of the link at the start of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) index: u32,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    pub(crate) in_vrf: bool,
    pub(crate) ipv6_disabled: bool,
}

/// The longest link name in bytes (`IFNAMSIZ`, linux/if.h, less its NUL).
const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// Whether the kernel would take this as a link's name (`dev_valid_name`, net/core/dev.c).
pub(crate) fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && !matches!(name, "." | "..")
        && !name
            .bytes()
            .any(|b| matches!(b, b'/' | b':' | 0) || b.is_ascii_whitespace())
}

/// Looks the link up by name; `None` if there is none.
pub(crate) fn find(talk: &mut Talk, name: &str) -> Result<Option<LinkState>, Error> {
    let mut request = LinkMessage::default();
    request
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    let found = talk.get(
        |out, sequence| write(out, sequence, libc::RTM_GETLINK, 0, &request),
        |message| {
            let link = message.link()?;
            let has = |flag: i32| link.flags & flag.unsigned_abs() != 0;
            Ok(LinkState {
                index: link.index,
                up: has(libc::IFF_UP),
                loopback: has(libc::IFF_LOOPBACK),
                in_vrf: link.in_vrf(),
                ipv6_disabled: link.ipv6_disabled(),
            })
        },
    );
    match found {
        Ok(link) => Ok(Some(link)),
        Err(failed) if failed.errno() == Some(libc::ENODEV) => Ok(None),
        Err(failed) => Err(failed.into_error(format!("cannot look up link {name}"))),
    }
}

/// Creates the link, without ARP and without an IPv6 address of its own; still down.
pub(crate) fn create(talk: &mut Talk, name: &str, kind: LinkKind) -> Result<(), Error> {
    let mut request = LinkMessage::default();
    // Without ARP no duplicate address detection is done on the link.
    request.header.flags = LinkFlags::Noarp;
    request.header.change_mask = LinkFlags::Noarp;
    request.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(match kind {
            LinkKind::Dummy => InfoKind::Dummy,
            LinkKind::Bridge => InfoKind::Bridge,
        })]),
    ];
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let made = talk.set(|out, sequence| write(out, sequence, libc::RTM_NEWLINK, flags, &request));
    match made {
        // Somebody else was faster: as good.
        Err(failed) if failed.errno() == Some(libc::EEXIST) => return Ok(()),
        Err(failed) => return Err(failed.into_error(format!("cannot create link {name}"))),
        Ok(()) => {}
    }
    // Before it is up, when the kernel would give it a link-local address. Not at creation, where
    // it answers EAFNOSUPPORT (seen on 6.18).
    let mut request = LinkMessage::default();
    request.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
            In6AddrGenMode::None,
        )])]),
    ];
    match talk.set(|out, sequence| write(out, sequence, libc::RTM_NEWLINK, 0, &request)) {
        // A node without IPv6 gives no IPv6 address either.
        Err(failed) if failed.errno() == Some(libc::EAFNOSUPPORT) => Ok(()),
        Err(failed) => Err(failed.into_error(format!("cannot configure link {name}"))),
        Ok(()) => Ok(()),
    }
}

/// An address that keeps IPv4 alive on a link whose VIPs are bound by their routes alone: with the
/// last IPv4 address of a link the kernel flushes every IPv4 route through it (`fib_inetaddr_event`,
/// net/ipv4/fib_frontend.c). In 127.0.0.0/8, all of which is the node's own anyway.
const ANCHOR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 86, 73, 80));

/// Puts the anchor on the link; it stays there.
pub(crate) fn anchor(talk: &mut Talk, link: u32) -> Result<(), Error> {
    let added = talk.set(|out, sequence| add_host_address_message(out, sequence, &ANCHOR, link));
    match added {
        Err(failed) if failed.errno() != Some(libc::EEXIST) => {
            Err(failed.into_error(format!("cannot put {ANCHOR} on the link")))
        }
        _ => Ok(()),
    }
}

/// Brings the link up.
pub(crate) fn bring_up(talk: &mut Talk, name: &str, index: u32) -> Result<(), Error> {
    let mut request = LinkMessage::default();
    request.header.index = index;
    request.header.flags = LinkFlags::Up;
    request.header.change_mask = LinkFlags::Up;
    talk.set(|out, sequence| write(out, sequence, libc::RTM_NEWLINK, 0, &request))
        .map_err(|failed| failed.into_error(format!("cannot bring up link {name}")))
}

fn write(out: &mut Vec<u8>, sequence: u32, kind: u16, flags: u16, message: &LinkMessage) {
    let at = out.len();
    let length = HEADER + message.buffer_len();
    out.resize(at + length, 0);
    let mut header = NetlinkHeader::default();
    header.length = u32::try_from(length).unwrap_or(u32::MAX);
    header.message_type = kind;
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    header.emit(&mut out[at..]);
    message.emit(&mut out[at + HEADER..]);
}

/// Checks that the kernel will take `source` as a preferred source: it is a local address of the
/// node and, in IPv6, not tentative (`ip6_route_info_create`, net/ipv6/route.c;
/// `fib_valid_prefsrc`, net/ipv4/fib_semantics.c).
pub(crate) fn check_source(talk: &mut Talk, source: &IpAddr) -> Result<(), Error> {
    let missing = || {
        Error::new(
            ErrorKind::SourceNotOnNode,
            format!("source {source} is no address of this node: add it first, or give another"),
        )
    };
    match Family::of(source) {
        Family::V4 => {
            let local = talk.get(
                |out, sequence| look_up_message(out, sequence, source),
                |message| Ok(message.route()?.map(Route::looked_up)),
            );
            match local {
                Ok(Some(route)) if route.kind == libc::RTN_LOCAL && route.table == TABLE_LOCAL => {
                    Ok(())
                }
                Ok(_) | Err(Failed::Refused(_)) => Err(missing()),
                Err(failed) => Err(failed.into_error(format!("cannot look up source {source}"))),
            }
        }
        Family::V6 => {
            let flags = talk.get(
                |out, sequence| get_address_message(out, sequence, source, 0),
                |message| Ok(message.address()?.map(|address| address.flags)),
            );
            match flags {
                Ok(Some(flags)) if flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) == 0 => Ok(()),
                Ok(Some(_)) => Err(Error::new(
                    ErrorKind::SourceTentative,
                    format!(
                        "source {source} is tentative: wait until duplicate address detection has \
                         ended, or add the address without it (nodad)"
                    ),
                )),
                Ok(None) | Err(Failed::Refused(_)) => Err(missing()),
                Err(failed) => Err(failed.into_error(format!("cannot look up source {source}"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::valid_name;

    #[test]
    fn names() {
        for good in ["kube-dummy-if", "a", "kube-ipvs0", "fifteen-bytes-x"] {
            assert!(valid_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "sixteen-bytes-xx",
            "a/b",
            "a b",
            "a:1",
            "a\0",
            "a\n",
        ] {
            assert!(!valid_name(bad), "{bad:?}");
        }
    }
}
