//! VIPs as C has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Error;

/// `AF_INET` of Linux.
const INET: u8 = 2;
/// `AF_INET6` of Linux.
const INET6: u8 = 10;

/// An address in network byte order, as `inet_pton(family, text, vip.address)` writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vip {
    /// AF_INET or AF_INET6.
    pub family: u8,
    /// IPv4: the first four bytes, the others do not matter.
    pub address: [u8; 16],
}

impl From<viproute::Vip> for Vip {
    fn from(vip: viproute::Vip) -> Self {
        match vip.addr() {
            IpAddr::V4(addr) => {
                let mut address = [0; 16];
                address[..4].copy_from_slice(&addr.octets());
                Self {
                    family: INET,
                    address,
                }
            }
            IpAddr::V6(addr) => Self {
                family: INET6,
                address: addr.octets(),
            },
        }
    }
}

impl Vip {
    /// As the address of a node.
    pub(crate) fn to_source(self) -> Result<IpAddr, Error> {
        let error = |family| Error::argument(format!("source: {family} is no address family"));
        viproute::Vip::try_from(self)
            .map(|vip| vip.addr())
            .map_err(error)
    }
}

/// The error is the family.
impl TryFrom<Vip> for viproute::Vip {
    type Error = u8;

    fn try_from(vip: Vip) -> Result<Self, u8> {
        match vip.family {
            INET => {
                let [a, b, c, d, ..] = vip.address;
                Ok(Ipv4Addr::new(a, b, c, d).into())
            }
            INET6 => Ok(Ipv6Addr::from(vip.address).into()),
            family => Err(family),
        }
    }
}
