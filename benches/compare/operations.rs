#![allow(unreachable_pub)]

//! Operations of the kernel, as lines of `ip -batch` and as messages.

use std::fmt::Write as _;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_REPLACE};

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
}

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

    fn all(&self) -> impl Iterator<Item = (Op, &IpAddr)> {
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
                let verb = match flags {
                    NLM_F_REPLACE => "replace",
                    NLM_F_APPEND => "append",
                    _ => "add",
                };
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
        };
        writeln!(lines, "{line}").unwrap();
    }
    lines
}
