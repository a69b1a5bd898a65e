//! The link that holds the VIPs, and the sources on the node.

mod changes;
pub(crate) mod label;
pub(crate) mod trouble;

pub(crate) use changes::LinkChanges;
pub use label::SourceAvoidance;

use std::cmp::Reverse;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};

use crate::base::{
    Family, IFA_F_DADFAILED, IFA_F_OPTIMISTIC, IFA_F_TENTATIVE, NO_LINK, TABLE_LOCAL, TABLE_MAIN,
    means_no_address, named,
};
use crate::netlink::connection::{Connection, Dumped, Failed};
use crate::netlink::decode::{Address, IPV6_MIN_MTU, LinkTraits, Route};
use crate::netlink::encode::{
    add_host_address_message, dump_addresses, dump_routes, get_address_message, look_up_message,
    push_fixed,
};
use crate::outcome::{Error, ErrorKind};
use crate::outcome::{LinkStatus, SourceStatus};

/// The kind of link that a manager creates if its link is missing.
///
/// ```
#[doc = include_str!("../keeper/example_net.txt")]
/// use viproute::{LinkKind, VipManager};
///
/// let mut manager = VipManager::builder("vips")
///     .source([192, 0, 2, 10])
///     .create_link(LinkKind::Auto)
///     .open()?;
/// manager.assign([std::net::Ipv4Addr::new(10, 96, 0, 10)])?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkKind {
    /// A dummy link (drivers/net/dummy.c): the usual choice.
    Dummy,
    /// A bridge without ports and without ARP, which holds VIPs as a dummy link does. For kernels
    /// without the dummy driver.
    Bridge,
    /// A dummy link, or a bridge if the kernel has no dummy driver.
    Auto,
}

named! { LinkKind:
    Self::Dummy => "dummy";
    Self::Bridge => "bridge";
    Self::Auto => "auto";
}

impl LinkKind {
    /// The kinds to try, in order.
    pub(crate) const fn candidates(self) -> &'static [Self] {
        match self {
            Self::Dummy => &[Self::Dummy],
            Self::Bridge => &[Self::Bridge],
            Self::Auto => &[Self::Dummy, Self::Bridge],
        }
    }
}

/// The index of a link (`ifi_index`, linux/rtnetlink.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LinkIndex(NonZeroU32);

impl LinkIndex {
    /// An index as `if_nametoindex(3)` returns it. `None` for 0, which means that the link does not
    /// exist, and for a number that is no positive `int`, the kernel's type.
    #[must_use]
    pub const fn new(index: u32) -> Option<Self> {
        match NonZeroU32::new(index) {
            Some(number) if index <= i32::MAX.unsigned_abs() => Some(Self(number)),
            _ => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// The number is not the index of a link: it is 0, or no positive `int`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no index of a link: give a number from 1 to 2147483647")]
pub struct InvalidLinkIndex(u32);

impl TryFrom<u32> for LinkIndex {
    type Error = InvalidLinkIndex;

    fn try_from(index: u32) -> Result<Self, InvalidLinkIndex> {
        Self::new(index).ok_or(InvalidLinkIndex(index))
    }
}

/// The number.
impl fmt::Display for LinkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A link, by its name or by its index.
///
/// Every call looks up a *name* again, so the manager follows a link that is deleted and created again,
/// or another link that gets the name. An *index* means one link, even if that link is renamed. When the
/// link is deleted, the kernel may give the index to another link, which the manager never uses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkRef {
    /// The link with this name or alternative name (`ip link property`).
    Name(String),
    /// The link with this index.
    Index(LinkIndex),
}

impl From<&str> for LinkRef {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for LinkRef {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl From<&String> for LinkRef {
    fn from(name: &String) -> Self {
        Self::Name(name.clone())
    }
}

impl From<LinkIndex> for LinkRef {
    fn from(index: LinkIndex) -> Self {
        Self::Index(index)
    }
}

impl LinkRef {
    /// The name; of an index, the words that stand for one.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Index(index) => format!("with index {index}"),
        }
    }
}

/// `link kube-dummy-if`, or `link with index 7`.
impl fmt::Display for LinkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {}", self.name())
    }
}

/// The state of the link at the start of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// The kind, if the link looks like a link that [`create`] made.
    pub(crate) made_as: Option<LinkKind>,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    pub(crate) in_vrf: bool,
    /// [`LinkStatus::Up`] if IPv6 works on the link, else the reason why not.
    pub(crate) ipv6: LinkStatus,
    /// The same, to be compared with notifications.
    pub(crate) traits: LinkTraits,
}

impl LinkState {
    /// The state of the link for VIPs of this family.
    pub(crate) fn status(&self, family: Family) -> LinkStatus {
        match family {
            _ if self.in_vrf => LinkStatus::InVrf,
            Family::V6 if self.ipv6 != LinkStatus::Up => self.ipv6,
            _ if !self.up => LinkStatus::Down,
            _ => LinkStatus::Up,
        }
    }

    /// Why the link has no IPv6, and how to mend it.
    pub(crate) fn why_no_ipv6(&self) -> Option<String> {
        let name = &self.name;
        Some(match self.ipv6 {
            // With slashes, because a link's name may contain dots.
            LinkStatus::Ipv6Disabled => format!(
                "IPv6 is disabled on link {name}: set the sysctl net/ipv6/conf/{name}/disable_ipv6 \
                 to 0"
            ),
            LinkStatus::MtuTooSmall => format!(
                "link {name} has no IPv6, because its MTU is below {IPV6_MIN_MTU}: raise the MTU"
            ),
            LinkStatus::Ipv6Unsupported => format!(
                "link {name} has no IPv6: this kernel was built or started without it \
                 (ipv6.disable=1)"
            ),
            _ => return None,
        })
    }
}

/// The longest link name in bytes (`IFNAMSIZ`, linux/if.h, less its NUL).
const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// Whether the kernel accepts this name of a link (`dev_valid_name`, net/core/dev.c).
pub(crate) fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && !matches!(name, "." | "..")
        && !name
            .bytes()
            .any(|b| matches!(b, b'/' | b':' | 0) || b.is_ascii_whitespace())
}

/// Requests one link.
pub(crate) fn get_link_message(out: &mut Vec<u8>, sequence: u32, which: &LinkRef) {
    let mut request = LinkMessage::default();
    match which {
        LinkRef::Name(name) => request.attributes.push(LinkAttribute::IfName(name.clone())),
        LinkRef::Index(index) => request.header.index = index.get(),
    }
    push_fixed(out, sequence, libc::RTM_GETLINK, 0, &request);
}

/// Finds the link; `None` if it does not exist, or if the link that had the index is gone. The
/// connection's lifetime follows this link afterwards.
pub(crate) fn find(
    connection: &mut Connection,
    which: &LinkRef,
) -> Result<Option<LinkState>, Error> {
    if let LinkRef::Index(_) = which {
        let found = look_up(connection, which)?;
        let lifetime = connection.lifetime();
        if found.is_none() {
            lifetime.end();
        }
        return Ok(found.filter(|_| !lifetime.has_ended()));
    }
    let mut expected = connection.lifetime().monitored();
    loop {
        hold(connection, expected)?;
        let Some(link) = look_up(connection, which)? else {
            connection.lifetime().forget();
            return Ok(None);
        };
        if link.index == expected {
            return Ok(Some(link));
        }
        // Another link than in the last call. Subscribe to its deletion, then look it up again.
        expected = link.index;
    }
}

/// Follows the link of this index until its deletion.
pub(crate) fn hold(connection: &mut Connection, index: u32) -> Result<(), Error> {
    let begun = connection.lifetime().begin(index);
    begun.map_err(Error::listening)
}

/// Looks the link up; `None` if it does not exist.
fn look_up(connection: &mut Connection, which: &LinkRef) -> Result<Option<LinkState>, Error> {
    let found = connection.get(
        |out, sequence| get_link_message(out, sequence, which),
        |message| {
            let link = message.link()?;
            let has = |flag: i32| link.flags & flag.unsigned_abs() != 0;
            let made_as = match link.kind() {
                Some(b"dummy") => Some(LinkKind::Dummy),
                Some(b"bridge") => Some(LinkKind::Bridge),
                _ => None,
            };
            Ok(LinkState {
                traits: link.traits(),
                index: link.index,
                name: link.name().map_or_else(|| which.name(), str::to_owned),
                made_as: made_as.filter(|_| has(libc::IFF_NOARP)),
                up: has(libc::IFF_UP),
                loopback: has(libc::IFF_LOOPBACK),
                in_vrf: link.in_vrf(),
                ipv6: match link.ipv6_disabled() {
                    Some(false) => LinkStatus::Up,
                    Some(true) => LinkStatus::Ipv6Disabled,
                    None if link.mtu().is_some_and(|mtu| mtu < IPV6_MIN_MTU) => {
                        LinkStatus::MtuTooSmall
                    }
                    None => LinkStatus::Ipv6Unsupported,
                },
            })
        },
    );
    match found {
        Ok(link) => Ok(Some(link)),
        Err(failed) if failed.errno() == Some(libc::ENODEV) => Ok(None),
        Err(failed) => Err(failed.into_error(format!("cannot look up {which}"))),
    }
}

/// Whether a link has this index.
fn exists(connection: &mut Connection, index: u32) -> Result<bool, Error> {
    let Some(index) = LinkIndex::new(index) else {
        return Ok(false);
    };
    Ok(look_up(connection, &LinkRef::Index(index))?.is_some())
}

/// Creates the link, without ARP and down. Takes the next candidate if the kernel does not know a kind
/// (`rtnl_newlink`, net/core/rtnetlink.c).
pub(crate) fn create(connection: &mut Connection, name: &str, kind: LinkKind) -> Result<(), Error> {
    let mut made = Ok(());
    for kind in kind.candidates() {
        made = create_as(connection, name, *kind);
        let is_unknown = |error: &Error| error.raw_os_error() == Some(libc::EOPNOTSUPP);
        if !made.as_ref().is_err_and(is_unknown) {
            break;
        }
    }
    made
}

fn create_as(connection: &mut Connection, name: &str, kind: LinkKind) -> Result<(), Error> {
    let mut request = LinkMessage::default();
    // Without ARP no duplicate address detection is done on the link.
    request.header.flags = LinkFlags::Noarp;
    request.header.change_mask = LinkFlags::Noarp;
    request.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Other(
            kind.as_str().to_owned(),
        ))]),
    ];
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let made = connection
        .set(|out, sequence| push_fixed(out, sequence, libc::RTM_NEWLINK, flags, &request));
    // EEXIST: another writer has created the link.
    made.or_else(|failed| failed.unless(libc::EEXIST, || format!("cannot create link {name}")))
}

/// Keeps the kernel from adding a link-local address when the created link comes up. The message that
/// creates the link cannot do so: the kernel answers EAFNOSUPPORT (seen on 6.18).
pub(crate) fn no_generated_address(
    connection: &mut Connection,
    link: &LinkState,
) -> Result<(), Error> {
    let mut request = LinkMessage::default();
    request.header.index = link.index;
    request.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
        vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
    )])];
    let doing = || format!("cannot configure link {}", link.name);
    connection
        .set(|out, sequence| push_fixed(out, sequence, libc::RTM_NEWLINK, 0, &request))
        // A kernel without IPv6 adds no link-local address.
        .or_else(|failed| failed.unless(libc::EAFNOSUPPORT, doing))
}

/// An address that keeps IPv4 alive on a link whose VIPs are bound by their routes alone: with the
/// last IPv4 address of a link the kernel flushes every IPv4 route through it (`fib_inetaddr_event`,
/// net/ipv4/fib_frontend.c). In 127.0.0.0/8, all of which is the node's own anyway.
pub(crate) const PLACEHOLDER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 86, 73, 80));

/// Adds the placeholder address to the link. It stays there.
pub(crate) fn placeholder(connection: &mut Connection, link: u32) -> Result<(), Error> {
    let added =
        connection.set(|out, sequence| add_host_address_message(out, sequence, &PLACEHOLDER, link));
    let doing = || format!("cannot put {PLACEHOLDER} on the link");
    added.or_else(|failed| failed.unless(libc::EEXIST, doing))
}

/// The broadcast routes that the kernel adds when the link comes up: destination and address
/// (`fib_add_ifaddr`, net/ipv4/fib_frontend.c).
pub(crate) fn broadcasts(
    connection: &mut Connection,
    link: u32,
) -> Result<Vec<(IpAddr, IpAddr)>, Error> {
    let addresses = connection.collect(
        |out, sequence| dump_addresses(out, sequence, Family::V4, link),
        |message| Ok(message.address()?.filter(|address| address.link == link)),
    );
    let (addresses, _) =
        addresses.map_err(|failed| failed.into_error("cannot read the link's addresses".into()))?;
    let mut found = Vec::new();
    for address in addresses {
        let all = Some(IpAddr::V4(Ipv4Addr::BROADCAST));
        let given = address.broadcast.filter(|to| Some(*to) != all);
        let of_net = match (address.peer.unwrap_or(address.addr), address.prefix_length) {
            (IpAddr::V4(net), length @ ..31) => Ipv4Net::new(net, length).ok(),
            _ => None,
        };
        let of_net = of_net.map(|net| IpAddr::V4(net.broadcast()));
        let to = given.into_iter().chain(of_net);
        found.extend(to.map(|to| (to, address.addr)));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Brings the link up.
pub(crate) fn bring_up(connection: &mut Connection, index: u32, name: &str) -> Result<(), Error> {
    let mut request = LinkMessage::default();
    request.header.index = index;
    request.header.flags = LinkFlags::Up;
    request.header.change_mask = LinkFlags::Up;
    connection
        .set(|out, sequence| push_fixed(out, sequence, libc::RTM_NEWLINK, 0, &request))
        .map_err(|failed| failed.into_error(format!("cannot bring up link {name}")))
}

/// Checks that the kernel accepts `source` as a preferred source.
pub(crate) fn check_source(connection: &mut Connection, source: &IpAddr) -> Result<(), Error> {
    let status = source_status(connection, source)
        .map_err(|failed| failed.into_error(format!("cannot look up source {source}")))?;
    let (kind, text) = match status {
        SourceStatus::Missing => (
            ErrorKind::SourceNotOnNode,
            "is no address of this node: add it first, or give another",
        ),
        SourceStatus::Tentative => (
            ErrorKind::SourceTentative,
            "is tentative: wait until duplicate address detection has ended, or add the address \
             without it (nodad)",
        ),
        SourceStatus::DadFailed => (
            ErrorKind::SourceTentative,
            "is in use by another node, as duplicate address detection found: remove it from that \
             node, then delete the address here and add it again",
        ),
        SourceStatus::LinkDown => (
            ErrorKind::SourceTentative,
            "is tentative, and its link is down: bring that up, or add the address to another link",
        ),
        SourceStatus::Present | SourceStatus::NotGiven | SourceStatus::Kernel => return Ok(()),
    };
    Err(Error::new(kind, format!("source {source} {text}")))
}

/// Whether the kernel accepts `source` as a preferred source. The source must be a local address of the
/// node (`fib_valid_prefsrc`, net/ipv4/fib_semantics.c) and, in IPv6, not tentative
/// (`ip6_route_info_create`, net/ipv6/route.c).
pub(crate) fn source_status(
    connection: &mut Connection,
    source: &IpAddr,
) -> Result<SourceStatus, Failed> {
    match Family::of(source) {
        Family::V4 => Ok(if is_local_v4(connection, source)? {
            SourceStatus::Present
        } else {
            SourceStatus::Missing
        }),
        Family::V6 => {
            // If several links have the address, the kernel answers with one of them.
            let one = connection.get(
                |out, sequence| get_address_message(out, sequence, source, 0),
                |message| message.address(),
            );
            match one {
                Ok(Some(address)) if is_usable(&address) => Ok(SourceStatus::Present),
                Ok(Some(address)) => status_on_links(connection, address),
                Ok(None) => Ok(SourceStatus::Missing),
                Err(failed) if failed.errno().is_some_and(means_no_address) => {
                    Ok(SourceStatus::Missing)
                }
                Err(failed) => Err(failed),
            }
        }
    }
}

/// The status of a source whose address `first` is unusable. Another link may have the same address,
/// and the kernel accepts a usable one of any link.
fn status_on_links(connection: &mut Connection, first: Address) -> Result<SourceStatus, Failed> {
    let (mut all, _) = connection.collect(
        |out, sequence| dump_addresses(out, sequence, Family::V6, NO_LINK),
        |message| Ok(message.address()?.filter(|other| other.addr == first.addr)),
    )?;
    all.push(first);
    if all.iter().any(is_usable) {
        return Ok(SourceStatus::Present);
    }
    let has_failed = |address: &Address| address.flags & IFA_F_DADFAILED != 0;
    if all.iter().all(has_failed) {
        return Ok(SourceStatus::DadFailed);
    }
    for address in all.iter().filter(|address| !has_failed(address)) {
        let link = LinkIndex::new(address.link).map(LinkRef::Index);
        let link = link.and_then(|link| find(connection, &link).ok().flatten());
        if link.is_none_or(|link| link.up) {
            return Ok(SourceStatus::Tentative);
        }
    }
    Ok(SourceStatus::LinkDown)
}

/// Whether the kernel accepts this IPv6 address as a preferred source. It accepts an optimistic address
/// (RFC 4429; `__ipv6_chk_addr_and_flags`, net/ipv6/addrconf.c).
fn is_usable(address: &Address) -> bool {
    let has = |flag| address.flags & flag != 0;
    !has(IFA_F_DADFAILED) && (!has(IFA_F_TENTATIVE) || has(IFA_F_OPTIMISTIC))
}

/// Whether the longest match of table local is of type local, as the kernel demands of a preferred
/// source (`fib_valid_prefsrc`, net/ipv4/fib_semantics.c).
///
/// A look-up is fast, but a routing rule before the rule for table local may answer it. Then the table is
/// read.
fn is_local_v4(connection: &mut Connection, source: &IpAddr) -> Result<bool, Failed> {
    let answer = connection.get(
        |out, sequence| look_up_message(out, sequence, source),
        |message| message.route(),
    );
    match answer {
        // IPv4 names table main for both tables while they share a trie. If the route is in table
        // main, the kernel refuses the first VIP's route.
        Ok(Some(route))
            if route.kind == libc::RTN_LOCAL && matches!(route.table, TABLE_LOCAL | TABLE_MAIN) =>
        {
            return Ok(true);
        }
        Err(failed) if failed.says_nothing() => return Err(failed),
        Ok(_) | Err(_) => {}
    }
    let leads_there = |route: &Route| route.table == TABLE_LOCAL && route.leads_to(source);
    let (routes, dumped) = connection.collect(
        |out, sequence| dump_routes(out, sequence, Family::V4, Some(TABLE_LOCAL), None),
        |message| Ok(message.route()?.filter(leads_there)),
    )?;
    // Of several routes with the longest prefix, the kernel uses the first.
    let longest = routes
        .iter()
        .min_by_key(|route| Reverse(route.prefix_length));
    let is_local = longest.is_some_and(|route| route.kind == libc::RTN_LOCAL);
    if is_local || dumped == Dumped::Complete {
        return Ok(is_local);
    }
    Err(Failed::Io(io::Error::other("the table keeps changing")))
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
