//! One request about links, and its replies.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Reads every link. The kernel may miss links that other programs change at the same time.
pub(crate) fn dump() -> io::Result<Vec<LinkMessage>> {
    let everything = RouteNetlinkMessage::GetLink(LinkMessage::default());
    converse(everything, NLM_F_DUMP)
}

/// Sends a request, and returns the links in the answer.
pub(crate) fn request(message: RouteNetlinkMessage) -> io::Result<Vec<LinkMessage>> {
    converse(message, NLM_F_ACK)
}

fn converse(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<LinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut links = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let reply = NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
            match reply.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    links.push(link);
                }
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(links),
                _ => {}
            }
            let length = usize::try_from(reply.header.length).unwrap_or(usize::MAX);
            // Messages are aligned to four bytes (NLMSG_ALIGN, linux/netlink.h).
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
