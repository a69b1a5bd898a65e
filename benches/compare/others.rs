#![allow(unreachable_pub)]

//! How others would do it. Each is asked for the same end state and given its best way to it.

use std::fmt::Write as _;
use std::net::IpAddr;

use futures_util::StreamExt;
use netlink_packet_core::NLM_F_REPLACE;
use netlink_packet_route::RouteNetlinkMessage as M;

use crate::common::floor::{self, Floor};
use crate::common::time::{Time, timed};
use crate::common::{LINK, source};

/// What `ip -batch` needs: the addresses; then deletions of the kernel's IPv6 routes, and the desired routes.
///
/// The addresses first, because the kernel's IPv6 routes come late, and the file cannot wait.
pub fn lines_for_ip(vips: &[IpAddr]) -> String {
    let mut lines = String::new();
    let (v4, v6): (Vec<_>, Vec<_>) = vips.iter().partition(|vip| vip.is_ipv4());
    for vip in v4 {
        let source = source(vip);
        writeln!(
            lines,
            "addr add {vip}/32 dev {LINK} scope link\nroute replace local {vip} dev {LINK} table \
             local proto kernel scope host src {source}"
        )
        .unwrap();
    }
    for vip in &v6 {
        writeln!(lines, "addr add {vip}/128 dev {LINK} nodad noprefixroute").unwrap();
    }
    for vip in &v6 {
        let source = source(vip);
        writeln!(
            lines,
            "route del local {vip} dev {LINK} table local proto kernel\nroute add local {vip} dev \
             {LINK} table local proto kernel metric 1024 src {source}"
        )
        .unwrap();
    }
    lines
}

/// The crate `rtnetlink`, with 64 VIPs at once on one connection. The messages are the floor's.
pub struct Rtnetlink {
    runtime: tokio::runtime::Runtime,
    handle: rtnetlink::Handle,
}

const IN_FLIGHT: usize = 64;

impl Rtnetlink {
    pub fn new() -> Self {
        // On this thread, because it lives in the namespace.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        let handle = runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            handle
        });
        Self { runtime, handle }
    }

    pub fn assign(&self, link: u32, vips: &[IpAddr]) -> Time {
        timed(|| {
            self.runtime.block_on(async {
                futures_util::stream::iter(vips)
                    .for_each_concurrent(IN_FLIGHT, |vip| self.one(link, vip))
                    .await;
            });
        })
    }

    async fn one(&self, link: u32, vip: &IpAddr) {
        let (M::NewAddress(address), _) = floor::add_address(link, vip) else {
            unreachable!()
        };
        let mut request = self.handle.address().add(link, *vip, 0);
        *request.message_mut() = address;
        request.execute().await.unwrap();
        let (M::NewRoute(route), _) = floor::add_route(link, vip) else {
            unreachable!()
        };
        let request = self.handle.route().add(route);
        if vip.is_ipv4() {
            request.replace().execute().await.unwrap();
            return;
        }
        loop {
            let (M::DelRoute(kernels), _) = floor::delete_kernels(link, vip) else {
                unreachable!()
            };
            match self.handle.route().del(kernels).execute().await {
                Ok(()) => break,
                // It is late: again.
                Err(rtnetlink::Error::NetlinkError(refused))
                    if refused.raw_code() == -libc::ESRCH => {}
                Err(error) => panic!("{error}"),
            }
        }
        request.execute().await.unwrap();
    }
}

/// How kube-router does it (2.6, `ipAddrAdd`), over the socket of the floor, without what a process
/// of Go costs: for each VIP the address; a look for the link by its name; the route replaced; and
/// in IPv6 all routes of the node read, of which those to the VIP without the node's source are
/// deleted. Each message is sent by itself and its answer awaited.
pub fn kube_router(socket: &mut Floor, link: u32, vips: &[IpAddr]) -> Time {
    let dump = floor::dump_of_all_routes();
    let mut received = Vec::new();
    timed(|| {
        for vip in vips {
            socket.query(&floor::plain_address(link, vip)).unwrap();
            socket.find_link(LINK);
            let route = floor::wanted_route(link, vip, NLM_F_REPLACE);
            socket.query(&route).unwrap();
            if vip.is_ipv6() {
                received.clear();
                socket.read_into(&dump, &mut received);
                for route in floor::routes_to(&received, vip) {
                    if floor::source_of(route) != Some(source(vip)) {
                        // What became of it shows in the end.
                        let _ = socket.delete_as_told(route);
                    }
                }
            }
        }
    })
}
