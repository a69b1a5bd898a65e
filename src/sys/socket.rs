//! One rtnetlink socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

#[cfg(any(test, fuzzing))]
use super::fault::Found;
use super::process::{OtherProcess, Process};
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_ROUTE;

/// Whether the socket requests strict checking, with which the kernel filters dumps
/// (`NETLINK_GET_STRICT_CHK`, Linux 4.20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// Yes, if the kernel supports it.
    Preferred,
    /// No, as on kernels before 4.20: dumps arrive unfiltered.
    #[cfg_attr(not(test), allow(dead_code))]
    Off,
}

/// The result of a non-blocking receive.
#[derive(Debug)]
pub(crate) enum Received<'a> {
    /// One datagram from the kernel.
    Datagram(&'a [u8]),
    /// Nothing is queued.
    Nothing,
    /// Messages were lost: the receive buffer overflowed, or a datagram was too large for the buffer.
    Overflow,
}

/// A bound rtnetlink socket with extended and capped acks. It is never cloned: `netlink_sys::Socket`
/// closes its descriptor when a clone is dropped.
///
/// The kernel handles requests *inside* `send`, so their replies are queued when `send` returns. It
/// queues the next chunk of a dump inside a receive (`netlink_recvmsg`, net/netlink/af_netlink.c). So
/// receiving never waits, and an empty queue before the expected end means that a reply was lost.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    /// The process that opened it.
    process: Process,
    port: u32,
    replies: usize,
    /// Fault injection between the socket and the kernel.
    #[cfg(any(test, fuzzing))]
    pub(crate) fault: super::fault::Slot,
}

/// Bytes of the receive buffer that the kernel charges for a short reply: 832 measured for an ack or
/// error, and up to 1,344 if an extended ack's text needs the next slab size.
const REPLY_COST: usize = 1344;

impl Socket {
    /// Opens a socket in the calling thread's network namespace and requests a receive buffer of
    /// `rcvbuf` bytes, of which the kernel may grant less.
    pub(crate) fn open(rcvbuf: usize, strictness: Strictness) -> io::Result<Self> {
        let mut inner = netlink_sys::Socket::new(NETLINK_ROUTE)?;
        inner.set_non_blocking(true)?;
        inner.set_ext_ack(true)?;
        inner.set_cap_ack(true)?;
        if strictness == Strictness::Preferred {
            match inner.set_netlink_get_strict_chk(true) {
                Err(error) if error.raw_os_error() != Some(libc::ENOPROTOOPT) => return Err(error),
                // The caller filters every answer, too. The kernel's filter only saves time.
                Ok(()) | Err(_) => {}
            }
        }
        request_buffer(&inner, rcvbuf)?;
        let port = inner.bind_auto()?.port_number();
        let replies = (inner.get_rx_buf_sz()? / REPLY_COST).max(1);
        Ok(Self {
            inner,
            process: Process::current()?,
            port,
            replies,
            #[cfg(any(test, fuzzing))]
            fault: super::fault::Slot::default(),
        })
    }

    /// The socket. Fails in another process than that which opened it.
    fn inner(&self) -> io::Result<&netlink_sys::Socket> {
        if Process::current()? == self.process {
            Ok(&self.inner)
        } else {
            Err(io::Error::other(OtherProcess))
        }
    }

    /// The socket's port id, which is also in the notifications that its requests cause.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Whether the two sockets are known to be in different network namespaces (`SO_NETNS_COOKIE`,
    /// Linux 5.14).
    #[allow(unsafe_code)]
    pub(crate) fn is_elsewhere(&self, other: &Self) -> bool {
        let cookie = |socket: &Self| {
            let mut cookie = 0_u64;
            let mut length: libc::socklen_t = 8;
            // SAFETY: the descriptor is open for as long as its socket is borrowed, `cookie` has
            // room for the `length` bytes that the kernel may write, and both outlive the call.
            let result = unsafe {
                libc::getsockopt(
                    socket.inner.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_NETNS_COOKIE,
                    (&raw mut cookie).cast(),
                    &raw mut length,
                )
            };
            (result == 0).then_some(cookie)
        };
        matches!((cookie(self), cookie(other)), (Some(own), Some(other)) if own != other)
    }

    /// How many messages one send may have. The receive buffer then holds a reply to each.
    pub(crate) fn reply_capacity(&self) -> usize {
        self.replies
    }

    /// Sends messages. The kernel has handled all of them when this returns.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        #[cfg(any(test, fuzzing))]
        if let Some(result) = self.fault.send(bytes) {
            return result;
        }
        let inner = self.inner()?;
        let kernel = SocketAddr::new(0, 0);
        loop {
            match inner.send_to(bytes, &kernel, 0) {
                // rtnetlink accepts a whole datagram or nothing.
                Ok(_) => return Ok(()),
                // The signal came before the kernel read the first message.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Receives the next datagram if one is queued.
    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Received<'a>> {
        #[cfg(any(test, fuzzing))]
        if let Some(found) = self.fault.receive(&mut || self.found()) {
            return match found {
                Found::Datagram(bytes) => Ok(match buffer.get_mut(..bytes.len()) {
                    Some(room) => {
                        room.copy_from_slice(&bytes);
                        Received::Datagram(room)
                    }
                    None => Received::Overflow,
                }),
                Found::Nothing => Ok(Received::Nothing),
                Found::Overflow => Ok(Received::Overflow),
                Found::Error(errno) => Err(io::Error::from_raw_os_error(errno)),
            };
        }
        self.receive_queued(buffer)
    }

    /// The next datagram of the kernel, by value.
    #[cfg(any(test, fuzzing))]
    fn found(&self) -> Found {
        let mut buffer = vec![0; 64 * 1024];
        match self.receive_queued(&mut buffer) {
            Ok(Received::Datagram(bytes)) => Found::Datagram(bytes.to_vec()),
            Ok(Received::Nothing) => Found::Nothing,
            Ok(Received::Overflow) => Found::Overflow,
            Err(error) => Found::Error(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    fn receive_queued<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Received<'a>> {
        let inner = self.inner()?;
        loop {
            let mut room = &mut *buffer;
            match inner.recv_from(&mut room, libc::MSG_TRUNC) {
                // Another process may send to this port: only messages from the kernel count.
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((len, _)) => {
                    return Ok(match buffer.get(..len) {
                        Some(datagram) => Received::Datagram(datagram),
                        None => Received::Overflow,
                    });
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => return Ok(Received::Nothing),
                    Some(libc::ENOBUFS) => return Ok(Received::Overflow),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Starts receiving the notifications of a multicast group (`RTNLGRP_*`).
    pub(crate) fn join(&self, group: u32) -> io::Result<()> {
        self.inner()?.add_membership(group)
    }

    /// Attaches a filter, a classic BPF program, in the place of an earlier one. What is queued stays.
    pub(crate) fn attach_filter(&self, program: &[libc::sock_filter]) -> io::Result<()> {
        let too_long = |_| io::Error::from_raw_os_error(libc::EINVAL);
        let filter = libc::sock_fprog {
            len: u16::try_from(program.len()).map_err(too_long)?,
            // The kernel only reads it.
            filter: program.as_ptr().cast_mut(),
        };
        // `filter` has the length of `program`, which outlives the call. The kernel copies and checks the
        // program (`bpf_check_classic`, net/core/filter.c).
        set_option(self.inner()?, libc::SO_ATTACH_FILTER, &filter)
    }

    /// Stops receiving the notifications of a multicast group.
    pub(crate) fn leave(&self, group: u32) -> io::Result<()> {
        self.inner()?.drop_membership(group)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Sets an option of a socket (SOL_SOCKET) to a value of the type that the option has.
#[allow(unsafe_code)]
fn set_option<T>(socket: &netlink_sys::Socket, option: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default();
    // SAFETY: the descriptor is open for as long as its socket is borrowed, and the kernel reads the
    // `length` bytes of `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Requests a receive buffer of this many bytes. Without `CAP_NET_ADMIN` in the initial user namespace
/// the kernel grants at most `net.core.rmem_max`.
fn request_buffer(socket: &netlink_sys::Socket, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_option(socket, libc::SO_RCVBUFFORCE, &bytes)
        .or_else(|_| set_option(socket, libc::SO_RCVBUF, &bytes))
}
