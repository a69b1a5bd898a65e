//! Dumps repeat themselves: from one VIP to the next only a few bytes differ. So a message is
//! compared with the one before, all of it at once, and read attribute by attribute only where it
//! differs in more. That halves what reading costs.

use std::ops::Range;

use netlink_packet_core::NLA_HEADER_SIZE;

use super::decode::{Address, Malformed, Message, Route, address_of, aligned, attributes};
use super::encode::{IFADDRMSG, RTMSG};
use crate::base::Family;

/// Reads the routes of a dump.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    last: Option<Route>,
    stencil: MessageMask<1>,
}

impl Routes {
    /// What [`Message::route`] says.
    #[inline]
    pub(crate) fn read(&mut self, message: &Message<'_>) -> Result<Option<&Route>, Malformed> {
        if let Some([destination]) = self.stencil.openings(message.payload())
            && let Some(route) = &mut self.last
        {
            route.destination = Some(address_of(route.family, destination)?);
        } else {
            self.last = message.route()?;
            self.stencil.cut(message.payload(), RTMSG, [libc::RTA_DST]);
        }
        Ok(self.last.as_ref())
    }

    /// Whether this message is read by comparison.
    #[cfg(test)]
    pub(super) fn fits(&self, message: &Message<'_>) -> bool {
        self.stencil.openings(message.payload()).is_some()
    }
}

/// Reads the addresses of a dump.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    last: Option<Address>,
    stencil: MessageMask<3>,
}

impl Addresses {
    /// What [`Message::address`] says.
    #[inline]
    pub(crate) fn read(&mut self, message: &Message<'_>) -> Result<Option<&Address>, Malformed> {
        if let Some([local, peer, times]) = self.stencil.openings(message.payload())
            && let Some(address) = &mut self.last
        {
            let family = Family::of(&address.addr);
            let addr = if local.is_empty() { peer } else { local };
            address.addr = address_of(family, addr)?;
            address.peer = None;
            if !local.is_empty() && !peer.is_empty() {
                let peer = address_of(family, peer)?;
                address.peer = Some(peer).filter(|peer| *peer != address.addr);
            }
            if !times.is_empty() {
                address.set_times(times)?;
            }
        } else {
            self.last = message.address()?;
            let open = [libc::IFA_LOCAL, libc::IFA_ADDRESS, libc::IFA_CACHEINFO];
            self.stencil.cut(message.payload(), IFADDRMSG, open);
        }
        Ok(self.last.as_ref())
    }

    /// Whether this message is read by comparison.
    #[cfg(test)]
    pub(super) fn fits(&self, message: &Message<'_>) -> bool {
        self.stencil.openings(message.payload()).is_some()
    }
}

/// Bytes of the longest payload that is compared. A VIP's have 120 at the most.
const LONGEST: usize = 160;

/// The payload of a message, and which parts of it the next one may have otherwise: the values of
/// `N` attributes.
#[derive(Debug)]
struct MessageMask<const N: usize> {
    /// Of the last payload, whether cut or not.
    length: usize,
    is_cut: bool,
    bytes: [u8; LONGEST],
    /// Zero where it is open.
    mask: [u8; LONGEST],
    /// Where the values are; empty where there is none.
    open: [Range<usize>; N],
}

impl<const N: usize> Default for MessageMask<N> {
    fn default() -> Self {
        Self {
            length: 0,
            is_cut: false,
            bytes: [0; LONGEST],
            mask: [0; LONGEST],
            open: std::array::from_fn(|_| 0..0),
        }
    }
}

impl<const N: usize> MessageMask<N> {
    /// The open values of a payload that fits.
    #[inline]
    fn openings<'a>(&self, payload: &'a [u8]) -> Option<[&'a [u8]; N]> {
        if !self.is_cut || payload.len() != self.length {
            return None;
        }
        // Word by word; the last one may overlap the one before it.
        let last = payload.len() - WORD;
        let mut differs = difference(
            payload.last_chunk()?,
            self.bytes[last..].first_chunk()?,
            self.mask[last..].first_chunk()?,
        );
        let known = self.bytes.as_chunks().0.iter().zip(self.mask.as_chunks().0);
        for (word, (before, mask)) in payload.as_chunks().0.iter().zip(known) {
            differs |= difference(word, before, mask);
        }
        if differs != 0 {
            return None;
        }
        let mut open = [&payload[..0]; N];
        for (value, range) in open.iter_mut().zip(&self.open) {
            *value = payload.get(range.clone())?;
        }
        Some(open)
    }

    /// Makes it fit what is as this payload but for the values of these attributes. Cuts only where
    /// the payload before was as long: what comes once is not worth it.
    fn cut(&mut self, payload: &[u8], fixed: usize, open: [u16; N]) {
        self.is_cut = false;
        if payload.len() != self.length {
            self.length = payload.len();
            return;
        }
        let (Some(bytes), Some(attributes)) =
            (self.bytes.get_mut(..payload.len()), payload.get(fixed..))
        else {
            return;
        };
        if payload.len() < WORD {
            return;
        }
        bytes.copy_from_slice(payload);
        self.mask.fill(u8::MAX);
        self.open = std::array::from_fn(|_| 0..0);
        let mut at = fixed;
        for attribute in self::attributes(attributes) {
            let Ok((kind, value)) = attribute else { return };
            let range = at + NLA_HEADER_SIZE..at + NLA_HEADER_SIZE + value.len();
            at = aligned(range.end);
            if let Some(place) = open.iter().position(|open| *open == kind) {
                if !self.open[place].is_empty() {
                    // Of two, the last one counts.
                    return;
                }
                self.mask[range.clone()].fill(0);
                self.open[place] = range;
            }
        }
        // Without any of them, a default route's, there is nothing to read from one that fits.
        self.is_cut = self.open.iter().any(|open| !open.is_empty());
    }
}

/// Bytes that are compared at once.
const WORD: usize = 8;

/// The bits in which two words differ where it matters.
#[inline]
fn difference(word: &[u8; WORD], before: &[u8; WORD], mask: &[u8; WORD]) -> u64 {
    let [word, before, mask] = [word, before, mask].map(|word| u64::from_ne_bytes(*word));
    (word ^ before) & mask
}
