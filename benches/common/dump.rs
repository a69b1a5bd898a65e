//! What the kernel tells of single-route VIPs when it is asked for addresses and routes: messages
//! recorded once (Linux 6.18), repeated for any number of VIPs.
//!
//! Made rather than recorded anew in each run, so that instruction counts do not depend on the
//! kernel they are taken on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The link's index in the recording.
pub const LINK: u32 = 2;

/// The VIPs of the recording.
const V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x42, 0, 0, 0, 0, 1);

/// RTM_NEWADDR and RTM_NEWROUTE (table local) of one VIP of each family.
const RECORDED_V4: [&str; 2] = [
    "580000001400220001000000032a0000\
     022080fd02000000080001000a600001080002000a600001120003006b7562652d64756d6d792d6966000000\
     080008008000000014000600ffffffffffffffff301d1200301d1200",
    "3c0000001800220001000000032a0000\
     02200000ff02fe020000000008000f00ff000000080001000a60000108000700c000020a0800040002000000",
];
const RECORDED_V6: [&str; 2] = [
    "480000001400220001000000032a0000\
     0a808200020000001400010020010db800420000000000000000000114000600ffffffffffffffff311d1200\
     311d12000800080082020000",
    "880000001800220001000000032a0000\
     0a800000ff0200020000000008000f00ff0000001400010020010db80042000000000000000000011400\
     070020010db80000000000000000000000100800060000040000080004000200000024000c00000000000000\
     00000000000000000000000000000000000000000000000000000500140000000000",
];

/// Room in a datagram of a dump.
const DATAGRAM: usize = 32 * 1024;

/// The datagrams of the dumps of the given VIPs, all of one family: their addresses, then their routes.
/// IPv6 tells the newest address first.
pub fn dump(vips: &[IpAddr]) -> Vec<Vec<u8>> {
    let v6 = vips[0].is_ipv6();
    let [address, route] = if v6 { RECORDED_V6 } else { RECORDED_V4 };
    let mut listed = vips.to_vec();
    if v6 {
        listed.reverse();
    }
    let mut datagrams = repeat(&bytes(address), &listed);
    datagrams.extend(repeat(&bytes(route), vips));
    datagrams
}

fn repeat(recorded: &[u8], vips: &[IpAddr]) -> Vec<Vec<u8>> {
    let mut datagrams = vec![Vec::new()];
    for vip in vips {
        if datagrams[datagrams.len() - 1].len() + recorded.len() > DATAGRAM {
            datagrams.push(Vec::new());
        }
        let mut message = recorded.to_vec();
        match vip {
            IpAddr::V4(vip) => replace(&mut message, &V4.octets(), &vip.octets()),
            IpAddr::V6(vip) => replace(&mut message, &V6.octets(), &vip.octets()),
        }
        datagrams.last_mut().unwrap().extend(message);
    }
    datagrams
}

fn replace(message: &mut [u8], old: &[u8], new: &[u8]) {
    let mut found = false;
    for at in 0..=message.len() - old.len() {
        if message[at..].starts_with(old) {
            message[at..at + old.len()].copy_from_slice(new);
            found = true;
        }
    }
    assert!(found);
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}
