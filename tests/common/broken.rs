//! VIPs in every state that a node can leave them in, in bulk.
//!
//! Not part of `common/mod.rs`: a test takes it with `#[path = "common/broken.rs"] mod broken;`.
#![allow(dead_code, unreachable_pub, unused_imports)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_DUMP, NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage::{
    DelRoute, GetAddress, NewAddress as NewAddr, NewRoute,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};

use crate::common::raw::{self, CREATE_APPEND, CREATE_EXCL, CREATE_REPLACE, Raw, Request};
use crate::common::{
    LocalState, NODE_LINK, NODE_V4, NODE_V6, Net, PROTO_KERNEL, TABLE_LOCAL, VIP_LINK, Want,
    vips_v4, vips_v6,
};
use viproute::{Error, ErrorKind, Protocol, Report, VipManager, VipManagerBuilder};

pub use crate::common::Random;

/// Another node's address that is on this node.
pub const OTHER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
pub const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99);
/// A node address that is no longer there.
const GONE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 98);
const GONE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x98);

/// A protocol that is neither `kernel` nor 201.
const OTHER_PROTOCOL: u8 = 186;
/// `proto boot`.
const BOOT: u8 = 3;

/// Both kinds of desired protocol.
pub const PROTOCOLS: [u8; 2] = [PROTO_KERNEL, 201];

/// How a VIP stands on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The single-route state.
    Fine,
    /// As the kernel leaves it when the address is added as we add it.
    KernelOnly,
    /// Address and no route.
    NoRoute,
    /// The desired route without a source.
    SourceMissing,
    /// With another node's, which is on this one.
    SourceOther,
    /// With a source that has gone since (which IPv6 clears on some kernels and IPv4 does not).
    SourceGone,
    /// The desired route under another protocol.
    OtherProtocol,
    /// In the desired route's place, a route to a neighbour instead of a local one: the VIP is not local.
    WrongType,
    /// The desired route, and in table main a unicast one to the VIP through the link.
    MainUnicast,
    /// The desired route, and local ones of other metrics.
    OtherMetrics,
    /// Only a local route of another metric.
    OnlyOtherMetric,
    /// The desired route without its address.
    Stale,

    /// IPv6: what `ip addr add` makes: local 0 and main 256.
    Plain,
    /// IPv6: the three routes that kube-router's replace leaves.
    ThreeRoutes,
    /// IPv6: the kernel's and the desired route, without a prefix route.
    KernelBeside,
    /// IPv6: the same, the desired route under another protocol.
    KernelBesideOtherProtocol,
    /// IPv6: the same, the desired route with another source.
    KernelBesideOtherSource,
    /// IPv6: the desired route and main 256.
    PrefixBeside,
    /// IPv6: only main 256.
    PrefixOnly,

    /// IPv4: the desired route and then the kernel's, as a link flap leaves them.
    Pair,
    /// IPv4: the kernel's and then the desired route.
    PairReversed,
    /// IPv4: a route with a tos beside the desired one.
    OtherTos,
    /// IPv4: the desired route, and behind it one with another source, one without, one of another protocol.
    FourInOnePlace,
    /// IPv4: those, and the desired route last.
    FourInOnePlaceReversed,
    /// IPv4: the address has a broadcast address, so there is a `broadcast VIP` route.
    Broadcast,
}

use State::*;

impl State {
    /// The states of both families.
    const BOTH: [Self; 12] = [
        Fine,
        KernelOnly,
        NoRoute,
        SourceMissing,
        SourceOther,
        SourceGone,
        OtherProtocol,
        WrongType,
        MainUnicast,
        OtherMetrics,
        OnlyOtherMetric,
        Stale,
    ];
    pub const V4: [Self; 17] = Self::both_and(&[
        Pair,
        PairReversed,
        OtherTos,
        FourInOnePlace,
        FourInOnePlaceReversed,
    ]);
    pub const V6: [Self; 19] = Self::both_and(&[
        Plain,
        ThreeRoutes,
        KernelBeside,
        KernelBesideOtherProtocol,
        KernelBesideOtherSource,
        PrefixBeside,
        PrefixOnly,
    ]);

    const fn both_and<const N: usize>(more: &[Self]) -> [Self; N] {
        let mut all = [Fine; N];
        let mut at = 0;
        while at < N {
            all[at] = match at.checked_sub(Self::BOTH.len()) {
                Some(behind) => more[behind],
                None => Self::BOTH[at],
            };
            at += 1;
        }
        all
    }

    /// Those of a family, and for IPv4 `Broadcast`, which the library cannot delete for good.
    pub fn of(vip: IpAddr) -> Vec<Self> {
        match vip {
            IpAddr::V4(_) => [&Self::V4[..], &[Broadcast]].concat(),
            IpAddr::V6(_) => Self::V6.to_vec(),
        }
    }

    /// Whether the VIP's address is on the link.
    pub fn has_address(self) -> bool {
        self != Stale
    }

    /// Whether the VIP is local in this state.
    pub fn is_local(self) -> bool {
        !matches!(self, NoRoute | PrefixOnly | WrongType)
    }

    /// IPv6: whether one route makes the VIP local, and is replaced in its place. A stale one is
    /// staged there first.
    pub fn only_route_is_replaced(self) -> bool {
        let in_place = [SourceMissing, SourceOther, SourceGone, OtherProtocol, Stale];
        in_place.contains(&self)
    }

    /// Whether the address comes with its prefix route.
    fn has_prefix_route(self) -> bool {
        matches!(self, Plain | ThreeRoutes | PrefixBeside | PrefixOnly)
    }
}

/// Puts VIPs on [`VIP_LINK`], each in its state. The desired route has this protocol and the node's
/// addresses as source.
#[track_caller]
pub fn put(net: &Net, vips: &[(IpAddr, State)], protocol: u8) {
    let link = net.vip_index();
    let mut raw = Raw::new();
    let others = [
        OTHER_V4.into(),
        OTHER_V6.into(),
        GONE_V4.into(),
        GONE_V6.into(),
    ];
    let node = net.index(NODE_LINK);
    let all: Vec<Request> = others
        .iter()
        .map(|&addr| (NewAddr(raw::vip_address(addr, node)), CREATE_REPLACE))
        .collect();
    raw.batch_ok(&all);

    let mut all = Vec::new();
    for &(vip, state) in vips.iter().filter(|(_, state)| state.has_address()) {
        let mut address = if state.has_prefix_route() {
            raw::address(vip, link, AddressFlags::Nodad)
        } else {
            raw::vip_address(vip, link)
        };
        if let (Broadcast, IpAddr::V4(v4)) = (state, vip) {
            address.attributes.push(AddressAttribute::Broadcast(v4));
        }
        all.push((NewAddr(address), CREATE_EXCL));
    }
    raw.batch_ok(&all);
    let with_address: Vec<IpAddr> = vips
        .iter()
        .filter(|(_, state)| state.has_address())
        .map(|(vip, _)| *vip)
        .collect();
    wait_for_kernel_routes(&with_address);

    let mut all = Vec::new();
    for &(vip, state) in vips {
        match vip {
            IpAddr::V4(_) => routes_v4(vip, state, link, protocol, &mut all),
            IpAddr::V6(_) => routes_v6(vip, state, link, protocol, &mut all),
        }
    }
    raw.batch_ok(&all);
    for gone in [IpAddr::from(GONE_V4), GONE_V6.into()] {
        raw.batch_ok(&[raw::del_address(gone, node)]);
    }

    // The states are what their names say.
    let wrong = wrong(
        net,
        &vips.iter().map(|(vip, _)| *vip).collect::<Vec<_>>(),
        protocol,
    );
    for (vip, state) in vips {
        let is_wrong = wrong
            .iter()
            .any(|line| line.starts_with(&format!("{vip}: ")));
        assert_eq!(
            is_wrong,
            *state != Fine,
            "{vip} was put as {state:?}: {wrong:#?}"
        );
    }
}

/// Waits until the kernel has put in its own local route of each given VIP on [`VIP_LINK`].
#[track_caller]
pub fn wait_for_kernel_routes(vips: &[IpAddr]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let state = LocalState::read();
        let has = |vip: &IpAddr| {
            let routes = state.routes_of(*vip);
            let kernel = |route: &&crate::common::Route| route.is_local() && route.metric == 0;
            routes
                .iter()
                .filter(kernel)
                .any(|route| route.dev == VIP_LINK)
        };
        if vips.iter().all(has) {
            return;
        }
        assert!(Instant::now() < deadline, "the kernel's routes never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn source_of(vip: IpAddr) -> IpAddr {
    if vip.is_ipv4() {
        NODE_V4.into()
    } else {
        NODE_V6.into()
    }
}

#[expect(clippy::too_many_lines, reason = "one arm for each broken state")]
fn routes_v4(vip: IpAddr, state: State, link: u32, protocol: u8, out: &mut Vec<Request>) {
    let desired = || raw::local_route(vip, link, Some(source_of(vip)), protocol);
    let kernels = || raw::local_route(vip, link, Some(vip), PROTO_KERNEL);
    let with_source = |source| raw::local_route(vip, link, source, protocol);
    let fine = (NewRoute(desired()), CREATE_REPLACE);
    let replace = |route| (NewRoute(route), CREATE_REPLACE);
    let append = |route| (NewRoute(route), CREATE_APPEND);
    let delete_kernels = (DelRoute(raw::delete_with_source(vip, link, vip)), 0);
    let four = || {
        [
            append(with_source(Some(OTHER_V4.into()))),
            append(with_source(None)),
            append(raw::local_route(
                vip,
                link,
                Some(NODE_V4.into()),
                OTHER_PROTOCOL,
            )),
        ]
    };
    match state {
        Fine | Stale => out.push(fine),
        KernelOnly | Broadcast => {}
        NoRoute => out.push(delete_kernels),
        SourceMissing => out.push(replace(with_source(None))),
        SourceOther => out.push(replace(with_source(Some(OTHER_V4.into())))),
        SourceGone => out.push(replace(with_source(Some(GONE_V4.into())))),
        OtherProtocol => {
            out.push(replace(raw::local_route(
                vip,
                link,
                Some(NODE_V4.into()),
                OTHER_PROTOCOL,
            )));
        }
        WrongType => out.push(replace(to_a_neighbour(desired(), TABLE_LOCAL, protocol))),
        MainUnicast => out.extend([
            fine,
            append(to_a_neighbour(with_source(None), 254, BOOT)),
            append(raw::with_metric(
                to_a_neighbour(with_source(None), 254, PROTO_KERNEL),
                256,
            )),
        ]),
        OtherMetrics => out.extend([
            fine,
            append(raw::with_metric(desired(), 7)),
            append(raw::with_metric(
                raw::local_route(vip, link, None, BOOT),
                70,
            )),
        ]),
        OnlyOtherMetric => out.extend([append(raw::with_metric(desired(), 7)), delete_kernels]),
        Pair => out.extend([fine, append(kernels())]),
        PairReversed => out.push(append(desired())),
        OtherTos => {
            let mut tos = desired();
            tos.header.tos = 0x10;
            out.extend([fine, append(tos)]);
        }
        FourInOnePlace => {
            out.push(fine);
            out.extend(four());
        }
        FourInOnePlaceReversed => {
            out.extend(four());
            out.extend([delete_kernels, append(desired())]);
        }
        Plain
        | ThreeRoutes
        | KernelBeside
        | KernelBesideOtherProtocol
        | KernelBesideOtherSource
        | PrefixBeside
        | PrefixOnly => {
            panic!("{state:?} is of IPv6 only")
        }
    }
}

fn routes_v6(vip: IpAddr, state: State, link: u32, protocol: u8, out: &mut Vec<Request>) {
    let route = |source, protocol| raw::local_route(vip, link, source, protocol);
    let node = Some(IpAddr::from(NODE_V6));
    let desired = || route(node, protocol);
    let replace = |route| (NewRoute(route), CREATE_REPLACE);
    let add = |route| (NewRoute(route), CREATE_EXCL);
    let delete_kernels = || {
        (
            DelRoute(raw::delete_of_protocol(vip, link, PROTO_KERNEL)),
            0,
        )
    };
    // The desired route is staged while the kernel's is deleted.
    let alone = |route: RouteMessage| {
        let mut staged = route.clone();
        staged.header.protocol = RouteProtocol::from(202);
        [replace(staged), delete_kernels(), replace(route)]
    };
    match state {
        Fine | PrefixBeside => out.extend(alone(desired())),
        Stale => out.push(replace(desired())),
        KernelOnly | Plain => {}
        NoRoute | PrefixOnly => out.push(delete_kernels()),
        SourceMissing => out.extend(alone(route(None, protocol))),
        SourceOther => out.extend(alone(route(Some(OTHER_V6.into()), protocol))),
        SourceGone => out.extend(alone(route(Some(GONE_V6.into()), protocol))),
        OtherProtocol => out.extend(alone(route(node, OTHER_PROTOCOL))),
        WrongType => {
            out.push(delete_kernels());
            out.push(add(to_a_neighbour(desired(), TABLE_LOCAL, protocol)));
        }
        MainUnicast => {
            out.extend(alone(desired()));
            out.push(add(to_a_neighbour(route(None, BOOT), 254, BOOT)));
            let prefix = to_a_neighbour(route(None, PROTO_KERNEL), 254, PROTO_KERNEL);
            out.push(add(raw::with_metric(prefix, 256)));
        }
        OtherMetrics => {
            out.extend(alone(desired()));
            out.push(add(raw::with_metric(desired(), 500)));
            out.push(add(raw::with_metric(route(None, BOOT), 2000)));
        }
        OnlyOtherMetric => {
            out.push(add(raw::with_metric(route(node, BOOT), 500)));
            out.push(delete_kernels());
        }
        ThreeRoutes | KernelBeside => out.push(add(desired())),
        KernelBesideOtherProtocol => out.push(add(route(node, OTHER_PROTOCOL))),
        KernelBesideOtherSource => out.push(add(route(Some(OTHER_V6.into()), protocol))),
        Pair | PairReversed | OtherTos | FourInOnePlace | FourInOnePlaceReversed | Broadcast => {
            panic!("{state:?} is of IPv4 only")
        }
    }
}

/// The same destination as a unicast route on the link.
fn to_a_neighbour(mut route: RouteMessage, table: u32, protocol: u8) -> RouteMessage {
    route.header.kind = RouteType::Unicast;
    route.header.table = u8::try_from(table).unwrap();
    route.header.protocol = RouteProtocol::from(protocol);
    if route.header.scope == RouteScope::Host {
        route.header.scope = RouteScope::Link;
    }
    route
}

/// What is wrong with VIPs that shall be in the single-route state, where the address may have
/// been made by another writer: without our flags, with a broadcast address.
pub fn wrong(net: &Net, vips: &[IpAddr], protocol: u8) -> Vec<String> {
    let mut state = net.local_state();
    for address in state.addresses.values_mut().flatten() {
        address.forgive_flags();
        address.broadcast = None;
    }
    let want = Want {
        protocol,
        ..Want::default()
    };
    state.wrong_vips(vips, &want)
}

/// One VIP of each state of both families.
pub fn one_of_each() -> Vec<(IpAddr, State)> {
    let zip = |vips: Vec<IpAddr>| {
        let states = State::of(vips[0]);
        vips.into_iter().zip(states).collect::<Vec<_>>()
    };
    [
        zip(vips_v4(State::V4.len() + 1)),
        zip(vips_v6(State::V6.len())),
    ]
    .concat()
}

/// The report of a call, whether or not it fell short.
#[track_caller]
pub fn report(result: Result<Report, Error>) -> Report {
    match result {
        Ok(report) => {
            assert!(report.failures.is_empty(), "{report:?}");
            report
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Incomplete, "{error}");
            error.into_report().unwrap()
        }
    }
}

/// Panics unless all these VIPs are in the single-route state; see [`wrong`].
#[track_caller]
pub fn assert_single_route(net: &Net, vips: &[IpAddr], protocol: u8) {
    assert!(!vips.is_empty(), "no VIP given, so nothing would be tested");
    let wrong = wrong(net, vips, protocol);
    assert!(
        wrong.is_empty(),
        "{}",
        crate::common::state::listing("wrong", vips, &wrong)
    );
}

/// A manager's configuration for a link, with the node's addresses as sources.
pub fn builder(link: &str, protocol: u8) -> VipManagerBuilder {
    crate::common::builder_of(link).protocol(Protocol::new(protocol).unwrap())
}

/// A manager of [`VIP_LINK`].
pub fn manager(protocol: u8) -> VipManager {
    builder(VIP_LINK, protocol).open().unwrap()
}

/// The addresses of a link as the kernel sends them, all attributes.
pub fn addresses(link: u32) -> Vec<AddressMessage> {
    let mut raw = Raw::new();
    raw.send(&[(GetAddress(AddressMessage::default()), NLM_F_DUMP)], 0);
    let mut found = Vec::new();
    loop {
        let bytes = match raw.receive_now() {
            Ok(bytes) => bytes,
            Err(error) => panic!("an address dump ends with NLMSG_DONE: {error}"),
        };
        let mut rest = &bytes[..];
        while rest.len() >= 16 {
            let length = NetlinkBuffer::new_checked(rest).unwrap().length() as usize;
            match NetlinkMessage::deserialize(&rest[..length])
                .unwrap()
                .payload
            {
                NetlinkPayload::InnerMessage(NewAddr(address)) => {
                    if address.header.index == link {
                        found.push(address);
                    }
                }
                NetlinkPayload::Done(_) => return found,
                other => panic!("not in an address dump: {other:?}"),
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

/// The address of a link that is this one.
#[track_caller]
pub fn address_of(vip: IpAddr, link: u32) -> AddressMessage {
    let is_vip = |address: &&AddressMessage| {
        let local = address
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(addr) => Some(*addr),
                _ => None,
            });
        let address = address
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(addr) => Some(*addr),
                _ => None,
            });
        local.or(address) == Some(vip)
    };
    let all = addresses(link);
    let found: Vec<_> = all.iter().filter(is_vip).collect();
    assert_eq!(found.len(), 1, "{vip} is on the link once: {found:?}");
    found[0].clone()
}
