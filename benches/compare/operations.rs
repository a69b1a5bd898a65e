#![allow(unreachable_pub)]

//! Operations of the kernel, as lines of `ip -batch` and as messages.

use std::fmt::Write as _;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteProtocol, RouteScope, RouteType,
};

use crate::common::floor::{self, Messages};
use crate::common::{LINK, source};

/// One operation on one VIP.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// The address, without duplicate address detection and without a prefix route.
    AddAddress,
    /// The address as `ip addr add` adds it, without duplicate address detection.
    AddPlainAddress,
    DeleteAddress,
    /// The desired route, by these flags.
    Route(u16),
    /// The desired route under another protocol, in the place of the desired route.
    StagedRoute,
    DeleteRoute,
    DeleteKernels,
    DeletePrefixRoute,
    /// Another route to the VIP, by these flags.
    Put(u16, Other),
    /// Deletes another route to the VIP.
    Take(Other),
}

/// The table and the type of a route.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    Local,
    UnicastInLocal,
    UnicastInMain,
}

/// The preferred source of a route.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    Node,
    Former,
    Vip,
    No,
}

/// How a route through the link differs from the desired one.
#[derive(Clone, Copy, Debug)]
pub struct Other {
    pub place: Place,
    pub protocol: u8,
    /// In IPv6 0 means the desired route's.
    pub metric: u32,
    pub tos: u8,
    pub source: Source,
}

/// The desired route, to be changed.
pub const DESIRED: Other = Other {
    place: Place::Local,
    protocol: 2,
    metric: 0,
    tos: 0,
    source: Source::Node,
};

impl Other {
    fn source_for(&self, vip: &IpAddr) -> Option<IpAddr> {
        match self.source {
            Source::Node => Some(source(vip)),
            Source::Former => Some(former_source(vip)),
            Source::Vip => Some(*vip),
            Source::No => None,
        }
    }

    fn metric_for(&self, vip: &IpAddr) -> u32 {
        match self.metric {
            0 if vip.is_ipv6() => 1024,
            metric => metric,
        }
    }

    fn message(&self, link: u32, vip: &IpAddr, flags: u16) -> (RouteNetlinkMessage, u16) {
        let mut message = floor::wanted_route(link, vip, flags);
        let RouteNetlinkMessage::NewRoute(route) = &mut message.0 else {
            unreachable!()
        };
        route.header.protocol = RouteProtocol::from(self.protocol);
        route.header.tos = self.tos;
        if self.place != Place::Local {
            route.header.kind = RouteType::Unicast;
            route.header.scope = RouteScope::Link;
        }
        if self.place == Place::UnicastInMain {
            route.header.table = 254;
        }
        route.attributes.retain(|attribute| {
            !matches!(
                attribute,
                RouteAttribute::Priority(_) | RouteAttribute::PrefSource(_)
            )
        });
        let metric = Some(self.metric_for(vip)).filter(|metric| *metric != 0);
        route
            .attributes
            .extend(metric.map(RouteAttribute::Priority));
        let source = self.source_for(vip).map(RouteAddress::from);
        route
            .attributes
            .extend(source.map(RouteAttribute::PrefSource));
        message
    }

    /// As `ip route` names it.
    fn line(&self, vip: &IpAddr) -> String {
        let mut line = match self.place {
            Place::Local => format!("local {vip} dev {LINK} table local scope host"),
            Place::UnicastInLocal => format!("unicast {vip} dev {LINK} table local scope link"),
            Place::UnicastInMain => format!("unicast {vip} dev {LINK} table main scope link"),
        };
        write!(line, " proto {}", self.protocol).unwrap();
        match self.metric_for(vip) {
            0 => {}
            metric => write!(line, " metric {metric}").unwrap(),
        }
        if self.tos != 0 {
            // `ip` reads it as hexadecimal.
            write!(line, " tos {:#x}", self.tos).unwrap();
        }
        if let Some(source) = self.source_for(vip) {
            write!(line, " src {source}").unwrap();
        }
        line
    }
}

/// The node's former address in the VIP's family.
pub fn former_source(of: &IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => FORMER_V4.into(),
        IpAddr::V6(_) => FORMER_V6.parse().unwrap(),
    }
}

/// The node's former addresses.
pub const FORMER_V4: [u8; 4] = [192, 0, 2, 11];
pub const FORMER_V6: &str = "2001:db8::11";

/// Operations, VIP by VIP.
pub struct Group {
    vips: Vec<IpAddr>,
    operations: Vec<Op>,
    /// Whether the operations delete what is late, and are repeated until it was there.
    pub is_late: bool,
}

impl Group {
    pub fn each(vips: &[IpAddr], operations: &[Op]) -> Self {
        Self {
            vips: vips.to_vec(),
            operations: operations.to_vec(),
            is_late: false,
        }
    }

    pub fn late(vips: &[IpAddr], operations: &[Op]) -> Self {
        Self {
            is_late: true,
            ..Self::each(vips, operations)
        }
    }

    pub fn all(&self) -> impl Iterator<Item = (Op, &IpAddr)> {
        let operations = &self.operations;
        self.vips
            .iter()
            .flat_map(move |vip| operations.iter().map(move |op| (*op, vip)))
    }

    pub fn encode(&self, link: u32) -> Messages {
        Messages::encode(self.all().map(|(op, vip)| match op {
            Op::AddAddress => floor::add_address(link, vip),
            Op::AddPlainAddress => floor::plain_nodad_address(link, vip),
            Op::DeleteAddress => floor::delete_address(link, vip),
            Op::Route(flags) => floor::wanted_route(link, vip, flags),
            Op::StagedRoute => floor::staged_route(link, vip),
            Op::DeleteRoute => floor::delete_route(link, vip),
            Op::DeleteKernels => floor::delete_kernels(link, vip),
            Op::DeletePrefixRoute => floor::delete_prefix_route(link, vip),
            Op::Put(flags, route) => route.message(link, vip, flags),
            Op::Take(route) => match route.message(link, vip, 0).0 {
                RouteNetlinkMessage::NewRoute(route) => (RouteNetlinkMessage::DelRoute(route), 0),
                _ => unreachable!(),
            },
        }))
    }
}

/// The lines of the operations.
pub fn lines(groups: &[Group]) -> String {
    let mut lines = String::new();
    for (op, vip) in groups.iter().flat_map(Group::all) {
        let (bits, quick, metric) = match vip {
            IpAddr::V4(_) => (32, "scope link", ""),
            IpAddr::V6(_) => (128, "nodad noprefixroute", " metric 1024"),
        };
        let route = format!("local {vip} dev {LINK} table local");
        let src = source(vip);
        let line = match op {
            Op::AddAddress => format!("addr add {vip}/{bits} dev {LINK} {quick}"),
            Op::AddPlainAddress => {
                let quick = quick.trim_end_matches("noprefixroute");
                format!("addr add {vip}/{bits} dev {LINK} {quick}")
            }
            Op::DeleteAddress => format!("addr del {vip}/{bits} dev {LINK}"),
            Op::Route(flags) => {
                let verb = verb(flags);
                format!("route {verb} {route} proto kernel scope host{metric} src {src}")
            }
            Op::StagedRoute => {
                format!("route replace {route} proto static scope host{metric} src {src}")
            }
            Op::DeleteRoute => format!("route del {route} proto kernel{metric} src {src}"),
            Op::DeleteKernels if vip.is_ipv4() => {
                format!("route del {route} proto kernel src {vip}")
            }
            Op::DeleteKernels => format!("route del {route} proto kernel"),
            Op::DeletePrefixRoute => format!("route del {vip}/128 dev {LINK} metric 256"),
            Op::Put(flags, other) => format!("route {} {}", verb(flags), other.line(vip)),
            Op::Take(other) => format!("route del {}", other.line(vip)),
        };
        writeln!(lines, "{line}").unwrap();
    }
    lines
}

fn verb(flags: u16) -> &'static str {
    match flags {
        NLM_F_REPLACE => "replace",
        NLM_F_APPEND => "append",
        _ => "add",
    }
}
