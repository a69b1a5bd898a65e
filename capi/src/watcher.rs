//! A watcher.

use std::ffi::c_int;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use crate::boundary::{Locked, Out, call, fill, free, guard, shared};
use crate::names::{Code, EventKind};
use crate::{Error, Vip};

/// Returns what happens to the VIPs of a link. Several threads may call with one watcher; each event
/// goes to one of them. The watcher reads several events at once, and those do not wake another thread's
/// poll(2).
#[derive(Debug)]
pub struct Watcher {
    queue: Locked<Queue>,
    fd: RawFd,
}

#[derive(Debug)]
struct Queue {
    watcher: viproute::Watcher,
    /// What was read and not yet returned, the first event last.
    events: Vec<viproute::Event>,
}

impl From<viproute::Watcher> for Watcher {
    fn from(watcher: viproute::Watcher) -> Self {
        Self {
            fd: watcher.as_raw_fd(),
            queue: Locked::new(Queue {
                watcher,
                events: Vec::new(),
            }),
        }
    }
}

impl Queue {
    fn next(&mut self) -> Result<Option<viproute::Event>, viproute::Error> {
        if self.events.is_empty() {
            let read = self.watcher.read(&mut self.events);
            self.events.reverse();
            read?;
        }
        Ok(self.events.pop())
    }
}

/// Something that happened.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Event {
    /// What happened. VIPROUTE_EVENT_KIND_NONE: nothing.
    pub kind: EventKind,
    /// The VIP, or the address of the node. An event of the link has none: the family is 0.
    pub address: Vip,
    /// What changed of the VIP: flags VIPROUTE_CHANGE_*.
    pub change: u32,
    /// Who changed the VIP: flags VIPROUTE_ORIGIN_*.
    pub origin: u32,
    /// The index of the link that is up or down, else 0.
    pub index: u32,
}

impl From<viproute::Event> for Event {
    fn from(event: viproute::Event) -> Self {
        let kind = event.into();
        let of = |address: IpAddr| Self {
            kind,
            address: viproute::Vip::from(address).into(),
            ..Self::default()
        };
        match event {
            viproute::Event::Vip {
                vip,
                change,
                origin,
            } => Self {
                change: change.bits().into(),
                origin: origin.bits().into(),
                ..of(vip.addr())
            },
            viproute::Event::NodeAddressSet(address)
            | viproute::Event::NodeAddressRemoved(address) => of(address),
            viproute::Event::LinkUp(index) | viproute::Event::LinkDown(index) => Self {
                kind,
                index: index.get(),
                ..Self::default()
            },
            _ => Self {
                kind,
                ..Self::default()
            },
        }
    }
}

/// Takes the next event, and copies it to `*event`. Does not wait: if nothing has happened, the kind is
/// VIPROUTE_EVENT_KIND_NONE. Wait for the descriptor only after that: events that are read already do
/// not make it readable. `size` is `sizeof *event`. NULL as `event`: VIPROUTE_CODE_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_watcher_next(
    watcher: *mut Watcher,
    event: *mut Event,
    size: usize,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: NULL or a place of the caller, by the contract.
    let error = unsafe { Out::new(error) };
    call(error, || {
        // SAFETY: NULL or a place of this size, by the contract.
        unsafe { fill(event, size, &Event::default()) };
        // SAFETY: a watcher that lives, by the contract.
        let watcher = unsafe { shared(watcher, "watcher") }?;
        if event.is_null() {
            return Err(Error::argument("event is NULL".into()));
        }
        if let Some(next) = watcher.queue.lock()?.next()? {
            // SAFETY: a place of this size, by the contract.
            unsafe { fill(event, size, &next.into()) };
        }
        Ok(())
    })
}

/// The watcher's descriptor, for poll(2) and epoll(7), also edge-triggered. The watcher owns the
/// descriptor: never read it nor close it. The same as long as the watcher lives. NULL: -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_watcher_fd(watcher: *const Watcher) -> c_int {
    // SAFETY: NULL or a watcher that lives, by the contract.
    guard(|| unsafe { watcher.as_ref() }.map_or(-1, |watcher| watcher.fd)).unwrap_or(-1)
}

/// Frees a watcher, and closes its descriptor. No other thread may use the watcher during this call or
/// after it. NULL: does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_watcher_free(watcher: *mut Watcher) {
    // SAFETY: NULL or a watcher that the caller owns, by the contract.
    unsafe { free(watcher) };
}
