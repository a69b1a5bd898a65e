//! Conversations with the kernel: a request with its answer, a dump, a batch, notifications.

use std::io;
use std::sync::Arc;

use super::filter;
use super::lifetime::Lifetime;
use crate::base::{Family, PerFamily, TABLE_LOCAL, TABLE_MAIN, is_shortage};
use crate::netlink::batch::{Refused, Sealed};
use crate::netlink::decode::{self, Message, NLMSG_DONE, NLMSG_ERROR, Rule};
use crate::netlink::encode::dump_rules;
use crate::sys::{Received, Socket};

use netlink_packet_core::NLM_F_DUMP_INTR;

/// Size of the receive buffer. The kernel's dump chunks have at most 32 KiB (`netlink_dump`,
/// net/netlink/af_netlink.c).
const RECEIVE_ROOM: usize = 64 * 1024;

/// Size of the buffer for requests. The largest request is one send of look-ups.
const SEND_ROOM: usize = 8 * 1024;

/// How often [`Connection::collect`] makes a dump while other writers change what it shows.
const ATTEMPTS: u32 = 5;

bitflags::bitflags! {
    /// The notifications that the monitor receives: of which multicast groups, and of which tables.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Groups: u8 {
        const V4_ROUTES = 1;
        const V6_ROUTES = 1 << 1;
        const V4_ADDRESSES = 1 << 2;
        const V6_ADDRESSES = 1 << 5;
        /// With a group of routes: those of table main, too. Without, those of table local alone.
        const OF_MAIN = 1 << 3;
        /// With the group of addresses: their deletions, and nothing else.
        const DELETIONS = 1 << 4;
        const FILTERS = Self::OF_MAIN.bits() | Self::DELETIONS.bits();
    }
}

impl Groups {
    /// The monitor's filter.
    fn filter(self) -> Vec<libc::sock_filter> {
        if self.contains(Self::DELETIONS) {
            filter::deletions_of_addresses()
        } else if self.contains(Self::OF_MAIN) {
            filter::routes_of(&[TABLE_LOCAL, TABLE_MAIN])
        } else {
            filter::routes_of(&[TABLE_LOCAL])
        }
    }

    /// The group of a family's route notifications.
    pub(crate) fn routes(family: Family) -> Self {
        match family {
            Family::V4 => Self::V4_ROUTES,
            Family::V6 => Self::V6_ROUTES,
        }
    }

    /// The group of a family's address notifications.
    pub(crate) fn addresses(family: Family) -> Self {
        match family {
            Family::V4 => Self::V4_ADDRESSES,
            Family::V6 => Self::V6_ADDRESSES,
        }
    }

    /// The number of a single group (linux/rtnetlink.h).
    fn number(self) -> u32 {
        match self {
            Self::V4_ROUTES => libc::RTNLGRP_IPV4_ROUTE,
            Self::V6_ROUTES => libc::RTNLGRP_IPV6_ROUTE,
            Self::V6_ADDRESSES => libc::RTNLGRP_IPV6_IFADDR,
            _ => libc::RTNLGRP_IPV4_IFADDR,
        }
    }
}

/// Four sockets of one network namespace and their buffers: for requests, for notifications, for the
/// deletion of the link, and for changes of routing rules.
pub(crate) struct Connection {
    requests: Arc<Socket>,
    monitor: Socket,
    lifetime: Lifetime,
    /// Joins the groups of the routing rules before the first look-up, and no other group.
    rules: Socket,
    has_joined_rules: bool,
    /// For IPv4 and IPv6: whether the first rule sends look-ups to table local; `None`: unknown.
    local_first: PerFamily<Option<bool>>,
    /// An IPv4 look-up has named table local. The kernel has separated the tries of tables local and
    /// main, and never merges them again (`fib_trie_unmerge`, net/ipv4/fib_trie.c).
    pub(crate) names_local: bool,
    sequence: u32,
    /// The last dump was not read to its end.
    unfinished: bool,
    /// The groups that the monitor has joined.
    groups: Groups,
    /// The monitor's filter. `None`: there is no filter yet.
    filter: Option<Groups>,
    /// The size of the last dump in bytes.
    dumped: usize,
    send: Vec<u8>,
    receive: Box<[u8]>,
    /// Injected fault: changes a batch, or the node, before the send.
    #[cfg(test)]
    pub(crate) tamper: Option<Fault>,
    /// Injected fault: changes a send of look-ups, or the node.
    #[cfg(test)]
    pub(crate) tamper_look_up: Option<Fault>,
}

/// What a test does to a batch.
#[cfg(test)]
pub(crate) type Fault = Box<dyn FnMut(&mut [u8]) + Send + Sync>;

/// The kernel's refusal of a single request or dump.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) errno: i32,
    pub(crate) text: Option<Box<str>>,
}

/// How a request or a dump can fail.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The kernel refused.
    Refused(Refusal),
    /// The socket failed, or the answer is malformed or lost.
    Io(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<decode::Malformed> for Failed {
    fn from(_: decode::Malformed) -> Self {
        Self::Io(io::Error::new(
            io::ErrorKind::InvalidData,
            "a malformed netlink message",
        ))
    }
}

impl Failed {
    fn refused(ack: &decode::Ack<'_>) -> Self {
        Self::Refused(Refusal {
            errno: ack.errno,
            text: ack.text.map(Box::from),
        })
    }

    /// Whether the failure leaves the question open: no answer, or a shortage in the kernel.
    pub(crate) fn says_nothing(&self) -> bool {
        match self {
            Self::Refused(refusal) => is_shortage(refusal.errno),
            Self::Io(_) => true,
        }
    }

    /// The error number of the kernel's refusal or of the socket.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused(refusal) => Some(refusal.errno),
            Self::Io(error) => error.raw_os_error(),
        }
    }
}

/// Whether an answer of several messages is consistent and complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dumped {
    Complete,
    /// Entries may be missing or repeated.
    Interrupted,
}

impl Dumped {
    pub(crate) fn and(self, other: Self) -> Self {
        self.max(other)
    }
}

impl Connection {
    /// Connects with sockets that `open` makes.
    pub(crate) fn open<E>(open: impl Fn() -> Result<Socket, E>) -> Result<Self, E> {
        Ok(Self {
            requests: Arc::new(open()?),
            monitor: open()?,
            lifetime: Lifetime::new(open()?),
            rules: open()?,
            has_joined_rules: false,
            local_first: PerFamily::splat(None),
            names_local: false,
            sequence: 1,
            unfinished: false,
            groups: Groups::empty(),
            filter: None,
            dumped: 0,
            send: Vec::with_capacity(SEND_ROOM),
            receive: vec![0; RECEIVE_ROOM].into_boxed_slice(),
            #[cfg(test)]
            tamper: None,
            #[cfg(test)]
            tamper_look_up: None,
        })
    }

    /// The port id of the requests.
    pub(crate) fn port(&self) -> u32 {
        self.requests.port()
    }

    /// The socket of the requests. As long as it is open, no other socket can have its port id.
    pub(crate) fn requests(&self) -> Arc<Socket> {
        self.requests.clone()
    }

    /// The socket of the notifications.
    pub(crate) fn monitor(&self) -> &Socket {
        &self.monitor
    }

    /// The lifetime of the link that holds the VIPs. Nothing is written once the link is gone.
    pub(crate) fn lifetime(&mut self) -> &mut Lifetime {
        &mut self.lifetime
    }

    /// Fails with `ENODEV`, as the kernel does for a missing link, if the link's index may belong to
    /// another link now.
    pub(crate) fn check_link(&mut self) -> io::Result<()> {
        if self.lifetime.has_ended() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        Ok(())
    }

    /// Whether the kernel made the last dump in one step. It makes a dump in parts, and a part ends when its
    /// buffer is full. The smallest buffer has 3,776 bytes (`NLMSG_GOODSIZE`, linux/netlink.h, with pages of
    /// 4 KiB).
    pub(crate) fn is_dump_of_one_part(&self) -> bool {
        self.dumped < 2048
    }

    /// The groups that the monitor has joined.
    pub(crate) fn groups(&self) -> Groups {
        self.groups
    }

    /// Makes the monitor a member of exactly these groups. No other place joins or leaves a group, so
    /// no membership can be forgotten.
    pub(crate) fn listen_to(&mut self, groups: Groups) -> io::Result<()> {
        let filter = groups & Groups::FILTERS;
        if self.filter != Some(filter) {
            self.monitor.attach_filter(&filter.filter())?;
            self.filter = Some(filter);
        }
        let groups = groups - filter;
        for group in (groups - self.groups).iter() {
            self.monitor.join(group.number())?;
            self.groups |= group;
        }
        for group in (self.groups - groups).iter() {
            self.monitor.leave(group.number())?;
            self.groups -= group;
        }
        Ok(())
    }

    /// The socket of the changes of routing rules.
    #[cfg(test)]
    pub(crate) fn rules_socket(&self) -> &Socket {
        &self.rules
    }

    /// How many messages one send may have. The receive buffer then holds a reply to each.
    pub(crate) fn reply_capacity(&self) -> usize {
        self.requests.reply_capacity()
    }

    /// The sequence number for the next message.
    pub(crate) fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Sends a dump request and passes every message of the answer to `each`.
    pub(crate) fn dump(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>, u32),
        mut each: impl FnMut(&Message<'_>) -> Result<(), decode::Malformed>,
    ) -> Result<Dumped, Failed> {
        let sequence = self.request(write)?;
        self.unfinished = true;
        self.dumped = 0;
        let mut dumped = Dumped::Complete;
        loop {
            let datagram = match self.requests.receive(&mut self.receive)? {
                Received::Datagram(datagram) => datagram,
                // The rest of the dump is lost.
                Received::Nothing => return Ok(Dumped::Interrupted),
                Received::Overflow => {
                    dumped = Dumped::Interrupted;
                    continue;
                }
            };
            self.dumped += datagram.len();
            for message in decode::messages(datagram) {
                let message = message?;
                if message.sequence != sequence {
                    continue;
                }
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    dumped = Dumped::Interrupted;
                }
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        self.unfinished = false;
                        let ack = message.ack()?;
                        // No table, no routes: IPv4 makes its tables with the first address, also
                        // that of `lo` (`inet_dump_fib`, net/ipv4/fib_frontend.c).
                        return if matches!(ack.errno, 0 | libc::ENOENT) {
                            Ok(dumped)
                        } else {
                            Err(Failed::refused(&ack))
                        };
                    }
                    _ => each(&message)?,
                }
            }
        }
    }

    /// Collects what `read` returns of the messages of a dump. An interrupted dump is repeated a few times.
    pub(crate) fn collect<T>(
        &mut self,
        write: impl Fn(&mut Vec<u8>, u32),
        read: impl Fn(&Message<'_>) -> Result<Option<T>, decode::Malformed>,
    ) -> Result<(Vec<T>, Dumped), Failed> {
        let mut all = Vec::new();
        let mut dumped = Dumped::Interrupted;
        for _ in 0..ATTEMPTS {
            all.clear();
            dumped = self.dump(&write, |message| {
                all.extend(read(message)?);
                Ok(())
            })?;
            if dumped == Dumped::Complete {
                break;
            }
        }
        Ok((all, dumped))
    }

    /// Sends a request that the kernel answers with one message or refuses. Passes the answer to
    /// `read`.
    pub(crate) fn get<T>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>, u32),
        read: impl FnOnce(&Message<'_>) -> Result<T, decode::Malformed>,
    ) -> Result<T, Failed> {
        let sequence = self.request(write)?;
        self.answer(sequence, |message| {
            if message.kind == NLMSG_ERROR {
                return Err(Failed::refused(&message.ack()?));
            }
            Ok(read(message)?)
        })
    }

    /// Sends a request and reads its ack.
    pub(crate) fn set(&mut self, write: impl FnOnce(&mut Vec<u8>, u32)) -> Result<(), Failed> {
        self.check_link()?;
        let sequence = self.request(|out, sequence| {
            write(out, sequence);
            crate::netlink::encode::request_ack(out, 0);
        })?;
        self.answer(sequence, |message| match message.ack()? {
            ack if ack.errno == 0 => Ok(()),
            ack => Err(Failed::refused(&ack)),
        })
    }

    fn request(&mut self, write: impl FnOnce(&mut Vec<u8>, u32)) -> io::Result<u32> {
        // The kernel starts no dump before an earlier dump of the socket has ended (EBUSY,
        // `__netlink_dump_start`, net/netlink/af_netlink.c).
        while self.unfinished {
            let rest = self.requests.receive(&mut self.receive)?;
            self.unfinished = !matches!(rest, Received::Nothing);
        }
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        self.send.clear();
        write(&mut self.send, sequence);
        self.requests.send(&self.send)?;
        Ok(sequence)
    }

    fn answer<T>(
        &mut self,
        sequence: u32,
        read: impl FnOnce(&Message<'_>) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        loop {
            let datagram = match self.requests.receive(&mut self.receive)? {
                Received::Datagram(datagram) => datagram,
                Received::Overflow => continue,
                Received::Nothing => {
                    return Err(Failed::Io(io::Error::other("the kernel's answer was lost")));
                }
            };
            for message in decode::messages(datagram) {
                let message = message?;
                if message.sequence == sequence {
                    return read(&message);
                }
            }
        }
    }

    /// Sends a batch and passes each refusal to `refused`. Afterwards the batch is complete, or replies
    /// were lost and an observation must show the effect of its messages.
    pub(crate) fn exchange<T: Copy>(
        &mut self,
        batch: &mut Sealed<'_, T>,
        mut refused: impl FnMut(Refused<'_, T>),
    ) -> io::Result<Dumped> {
        self.check_link()?;
        let count = u32::try_from(batch.entries().len()).unwrap_or(u32::MAX);
        self.sequence = self.sequence.wrapping_add(count);
        #[cfg(test)]
        if let Some(tamper) = &mut self.tamper {
            tamper(batch.bytes_mut());
        }
        self.requests.send(batch.bytes())?;
        let mut received = Dumped::Complete;
        while !batch.is_complete() {
            match self.requests.receive(&mut self.receive)? {
                Received::Datagram(datagram) => {
                    for message in decode::messages(datagram) {
                        let Ok(message) = message else {
                            received = Dumped::Interrupted;
                            break;
                        };
                        if let Some(refusal) = batch.reply(&message) {
                            refused(refusal);
                        }
                    }
                }
                Received::Overflow => received = Dumped::Interrupted,
                Received::Nothing => return Ok(Dumped::Interrupted),
            }
        }
        Ok(received)
    }

    /// Whether the first rule that can match a look-up of this family sends it to table local. The
    /// rules may change before the look-up: ask [`was_local_first`](Self::was_local_first) after it.
    pub(crate) fn is_local_first(&mut self, family: Family) -> io::Result<bool> {
        self.note_rules()?;
        match self.local_first[family] {
            Some(known) => Ok(known),
            None => self.read_rules(family),
        }
    }

    /// Whether all look-ups since [`is_local_first`](Self::is_local_first) went to table local first.
    ///
    /// A rule that was added and deleted in between has sent a notification: both changes notify while
    /// they hold the RTNL (`fib_nl_newrule`, net/core/fib_rules.c). A rule that still exists may not
    /// have sent its notification yet, but the dump shows it.
    pub(crate) fn was_local_first(&mut self, family: Family) -> io::Result<bool> {
        let before = self.local_first[family] == Some(true);
        let is_so = before && self.read_rules(family)?;
        self.note_rules()?;
        Ok(is_so && self.local_first[family] == Some(true))
    }

    /// Forgets the known rules if a notification says that rules have changed.
    fn note_rules(&mut self) -> io::Result<()> {
        if !self.has_joined_rules {
            self.rules.join(libc::RTNLGRP_IPV4_RULE)?;
            self.rules.join(libc::RTNLGRP_IPV6_RULE)?;
            self.has_joined_rules = true;
        }
        while !matches!(self.rules.receive(&mut self.receive)?, Received::Nothing) {
            self.local_first = PerFamily::splat(None);
        }
        Ok(())
    }

    fn read_rules(&mut self, family: Family) -> io::Result<bool> {
        let mut first = None;
        let dumped = self.dump(
            |out, sequence| dump_rules(out, sequence, family),
            |message| {
                let rule = message.rule()?;
                if first.is_none() && rule != Rule::ForMarked {
                    first = Some(rule);
                }
                Ok(())
            },
        );
        let local_first = match dumped {
            Ok(dumped) => dumped == Dumped::Complete && first == Some(Rule::LookUpLocal),
            // The kernel has no routing rules.
            Err(Failed::Refused(refusal)) => {
                matches!(refusal.errno, libc::EOPNOTSUPP | libc::EAFNOSUPPORT)
            }
            Err(Failed::Io(error)) => return Err(error),
        };
        self.local_first[family] = Some(local_first);
        Ok(local_first)
    }

    /// Sends one look-up for each item, written by `write`. Passes each answer, a message or an error
    /// number, with the position of its item to `each`. An item gets no answer if the answer was lost
    /// or the kernel was short of memory.
    pub(crate) fn look_up<T>(
        &mut self,
        items: impl Iterator<Item = T>,
        write: impl Fn(&mut Vec<u8>, u32, &T),
        mut each: impl FnMut(usize, Result<&Message<'_>, i32>),
    ) -> io::Result<()> {
        let first = self.sequence;
        self.send.clear();
        for item in items {
            write(&mut self.send, self.sequence, &item);
            self.sequence = self.sequence.wrapping_add(1);
        }
        let count = self.sequence.wrapping_sub(first);
        #[cfg(test)]
        if let Some(tamper) = &mut self.tamper_look_up {
            tamper(&mut self.send);
        }
        self.requests.send(&self.send)?;
        loop {
            match self.requests.receive(&mut self.receive)? {
                Received::Datagram(datagram) => {
                    for message in decode::messages(datagram).map_while(Result::ok) {
                        let place = message.sequence.wrapping_sub(first);
                        if place >= count {
                            continue;
                        }
                        if message.kind != NLMSG_ERROR {
                            each(place as usize, Ok(&message));
                        } else if let Ok(ack) = message.ack()
                            && !is_shortage(ack.errno)
                        {
                            each(place as usize, Err(ack.errno));
                        }
                    }
                }
                Received::Overflow => {}
                Received::Nothing => return Ok(()),
            }
        }
    }

    /// Passes the queued notifications to `each`. Returns whether any was lost.
    pub(crate) fn notifications(
        &mut self,
        mut each: impl FnMut(&Message<'_>),
    ) -> io::Result<Dumped> {
        let mut received = Dumped::Complete;
        loop {
            match self.monitor.receive(&mut self.receive)? {
                Received::Datagram(datagram) => {
                    for message in decode::messages(datagram) {
                        match message {
                            Ok(message) => each(&message),
                            Err(decode::Malformed) => received = Dumped::Interrupted,
                        }
                    }
                }
                Received::Overflow => received = Dumped::Interrupted,
                Received::Nothing => return Ok(received),
            }
        }
    }
}
