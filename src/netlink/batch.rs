//! Messages collected for one send, and their replies.

use crate::netlink::decode::{Message, NLMSG_ERROR};
use crate::netlink::encode::request_ack;

/// Messages with consecutive sequence numbers, not yet sent.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    bytes: Vec<u8>,
    entries: Vec<Entry<T>>,
    first: u32,
    last_at: usize,
}

/// A message of the batch, and the kernel's response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<T> {
    /// The caller's name for the message.
    pub(crate) tag: T,
    pub(crate) response: Response,
}

/// The kernel's response to one message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Response {
    /// No refusal. It proves the effect of the message only if the batch is complete.
    Acked,
    /// Refused: what the message deletes does not exist.
    Absent,
    /// Refused for another reason.
    Refused,
    /// The echo of the deletion (`NLM_F_ECHO`) showed that it deleted the kernel's own local route.
    DeletedKernels,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            entries: Vec::new(),
            first: 0,
            last_at: 0,
        }
    }
}

impl<T: Copy> Batch<T> {
    /// Empties the batch. Its first message gets the number `sequence`.
    pub(crate) fn begin(&mut self, sequence: u32) {
        self.bytes.clear();
        self.entries.clear();
        self.first = sequence;
        self.last_at = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds one message. `write` appends it with the given sequence number.
    #[inline]
    pub(crate) fn push(&mut self, tag: T, write: impl FnOnce(&mut Vec<u8>, u32)) {
        self.last_at = self.bytes.len();
        let sequence = self.next_sequence();
        write(&mut self.bytes, sequence);
        self.entries.push(Entry {
            tag,
            response: Response::Acked,
        });
    }

    /// The sequence number of the next message.
    pub(crate) fn next_sequence(&self) -> u32 {
        // The receive buffer bounds the number of messages, far below 2^32.
        self.first
            .wrapping_add(u32::try_from(self.entries.len()).unwrap_or(u32::MAX))
    }

    /// Requests an ack of the last message. The kernel handles messages in order, so this ack answers
    /// for the whole batch. A sealed batch can be sent.
    pub(crate) fn seal(&mut self) -> Sealed<'_, T> {
        if !self.entries.is_empty() {
            request_ack(&mut self.bytes, self.last_at);
        }
        Sealed {
            batch: self,
            complete: false,
        }
    }

    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        self.begin(0);
        self.bytes.shrink_to(bytes);
        self.entries.shrink_to(bytes / 64);
    }
}

/// A batch that can be sent, and matches its replies.
#[derive(Debug)]
pub(crate) struct Sealed<'a, T> {
    batch: &'a mut Batch<T>,
    complete: bool,
}

/// One refused message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused<'a, T> {
    pub(crate) tag: T,
    pub(crate) errno: i32,
    pub(crate) text: Option<&'a str>,
}

impl<T: Copy> Sealed<'_, T> {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.batch.bytes
    }

    #[cfg(test)]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.batch.bytes
    }

    /// Takes one reply message. Returns a refusal of a message of this batch. A late reply to an
    /// earlier batch is ignored.
    pub(crate) fn reply<'m>(&mut self, message: &Message<'m>) -> Option<Refused<'m, T>> {
        let at = message.sequence.wrapping_sub(self.batch.first);
        let at = usize::try_from(at).ok()?;
        let last = self.batch.entries.len().checked_sub(1)?;
        let entry = self.batch.entries.get_mut(at)?;
        if message.kind != NLMSG_ERROR {
            if entry.response == Response::Acked && is_deletion_of_kernels(message) {
                entry.response = Response::DeletedKernels;
            }
            return None;
        }
        // An unreadable reply proves nothing: the batch stays incomplete.
        let ack = message.ack().ok()?;
        self.complete |= at == last;
        if ack.errno == 0 {
            return None;
        }
        entry.response = match ack.errno {
            libc::ESRCH => Response::Absent,
            _ => Response::Refused,
        };
        Some(Refused {
            tag: entry.tag,
            errno: ack.errno,
            text: ack.text,
        })
    }

    /// Whether the last message was answered. Every earlier message was then handled, too.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(crate) fn entries(&self) -> &[Entry<T>] {
        &self.batch.entries
    }
}

/// Whether an echo shows the deletion of the kernel's own local route.
fn is_deletion_of_kernels(echo: &Message<'_>) -> bool {
    let is_deletion = echo.kind == libc::RTM_DELROUTE;
    is_deletion && matches!(echo.route(), Ok(Some(route)) if route.is_kernels_own())
}
