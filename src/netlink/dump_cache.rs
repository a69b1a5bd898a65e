//! Fast reading of dumps. The messages of consecutive VIPs differ in a few bytes. So each message is
//! compared with the previous one as a whole, and parsed attribute by attribute only if other bytes
//! differ, too. The comparison halves the cost of reading.

use std::ops::Range;

use netlink_packet_core::NLA_HEADER_SIZE;

use super::decode::{Address, Malformed, Message, Route, address_of, aligned, attributes};
use super::encode::{IFADDRMSG, RTMSG};
use crate::base::Family;

/// Reads the routes of a dump.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    last: Option<Route>,
    pub(super) mask: MessageMask<1>,
}

impl Routes {
    /// As [`Message::route`].
    #[inline]
    pub(crate) fn read(&mut self, message: &Message<'_>) -> Result<Option<&Route>, Malformed> {
        if let Some([destination]) = self.mask.values(message.payload())
            && let Some(route) = &mut self.last
        {
            route.destination = Some(address_of(route.family, destination)?);
        } else {
            self.last = message.route()?;
            self.mask.set(message.payload(), RTMSG, [libc::RTA_DST]);
        }
        Ok(self.last.as_ref())
    }
}

/// Reads the addresses of a dump.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    last: Option<Address>,
    pub(super) mask: MessageMask<3>,
}

impl Addresses {
    /// As [`Message::address`].
    #[inline]
    pub(crate) fn read(&mut self, message: &Message<'_>) -> Result<Option<&Address>, Malformed> {
        if let Some([local, peer, times]) = self.mask.values(message.payload())
            && let Some(address) = &mut self.last
        {
            let family = Family::of(&address.addr);
            let addr = if local.is_empty() { peer } else { local };
            address.addr = address_of(family, addr)?;
            if !local.is_empty() && !peer.is_empty() {
                let peer = address_of(family, peer)?;
                address.peer = Some(peer).filter(|peer| *peer != address.addr);
            }
            if !times.is_empty() {
                address.set_times(times)?;
            }
        } else {
            self.last = message.address()?;
            let kinds = [libc::IFA_LOCAL, libc::IFA_ADDRESS, libc::IFA_CACHEINFO];
            self.mask.set(message.payload(), IFADDRMSG, kinds);
        }
        Ok(self.last.as_ref())
    }
}

/// Length of the longest payload that is compared. A VIP's payload has at most 120 bytes.
const LONGEST: usize = 160;

/// The payload of a message, with a mask over the values of `N` attributes, in which the next message
/// may differ.
#[derive(Debug)]
pub(super) struct MessageMask<const N: usize> {
    /// Length of the previous payload, even if that payload set no mask.
    length: usize,
    is_set: bool,
    bytes: [u8; LONGEST],
    /// Zero where the next message may differ.
    mask: [u8; LONGEST],
    /// The positions of the `N` values; empty for an absent attribute.
    values: [Range<usize>; N],
}

impl<const N: usize> Default for MessageMask<N> {
    fn default() -> Self {
        Self {
            length: 0,
            is_set: false,
            bytes: [0; LONGEST],
            mask: [0; LONGEST],
            values: std::array::from_fn(|_| 0..0),
        }
    }
}

impl<const N: usize> MessageMask<N> {
    /// The `N` values of a payload that differs from the previous one in nothing else.
    #[inline]
    pub(super) fn values<'a>(&self, payload: &'a [u8]) -> Option<[&'a [u8]; N]> {
        if !self.is_set || payload.len() != self.length {
            return None;
        }
        // Word by word. The last word may overlap the word before it.
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
        let mut values = [&payload[..0]; N];
        for (value, range) in values.iter_mut().zip(&self.values) {
            *value = payload.get(range.clone())?;
        }
        Some(values)
    }

    /// Sets the mask for payloads that differ from this one only in the values of these attributes.
    /// Does so from the second payload of a length on: a single payload is not worth the cost.
    fn set(&mut self, payload: &[u8], fixed: usize, kinds: [u16; N]) {
        self.is_set = false;
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
        self.values = std::array::from_fn(|_| 0..0);
        let mut at = fixed;
        for attribute in self::attributes(attributes) {
            let Ok((kind, value)) = attribute else { return };
            let range = at + NLA_HEADER_SIZE..at + NLA_HEADER_SIZE + value.len();
            at = aligned(range.end);
            if let Some(place) = kinds.iter().position(|masked| *masked == kind) {
                if !self.values[place].is_empty() {
                    // Of a repeated attribute the last one counts: leave that to the parser.
                    return;
                }
                self.mask[range.clone()].fill(0);
                self.values[place] = range;
            }
        }
        // A message without these attributes (a default route) has no value to read.
        self.is_set = self.values.iter().any(|value| !value.is_empty());
    }
}

/// Number of bytes compared at once.
const WORD: usize = 8;

/// The bits in which two words differ under the mask.
#[inline]
fn difference(word: &[u8; WORD], before: &[u8; WORD], mask: &[u8; WORD]) -> u64 {
    let [word, before, mask] = [word, before, mask].map(|word| u64::from_ne_bytes(*word));
    (word ^ before) & mask
}
