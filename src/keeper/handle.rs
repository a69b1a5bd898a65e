//! A keeper on a thread of its own, and the handle that gives it orders.

use std::net::IpAddr;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::Keeper;
use super::orders::sorted;
use super::report::Dispatched;
use super::run::Wait;
use super::status::{Counters, KeeperStatus};
use crate::base::Vip;
use crate::core::VipFilter;
use crate::manager::{check_config_source, no_admissible_vip};
use crate::outcome::{Error, ErrorKind, Failure};
use crate::sys::{Waker, Wakes, wake_pair};

/// Orders that the thread takes before it dispatches, so that a caller who never pauses does not keep it
/// from its work.
const ORDERS_MAX: usize = 4096;

/// The size of the thread's stack, as std has it. Without a given size std reads one from the
/// environment (RUST_MIN_STACK).
const STACK: usize = 2 << 20;

/// Gives orders to a [`Keeper`] on a thread of its own, and says how the keeper stands. From
/// [`Keeper::spawn`].
///
/// Any number of clones, on any threads, serve one keeper. An order returns at once: the thread takes it
/// before its next dispatch. No order cancels a dispatch, and orders take effect in the order in which
/// they were given. The queue has no limit: a callback that blocks lets it grow. Drop the last
/// handle to end the thread. The thread first carries out the queued orders, and reports the VIPs that
/// [rest](Dispatched::resting). The VIPs stay on the link.
///
/// After the thread has ended for another reason, which is an error, a panic of the callback or a
/// cancellation by [`Keeper::canceller`], every call returns [`ErrorKind::KeeperStopped`] with the reason.
///
/// ```
#[doc = include_str!("example.txt")]
/// let keeper = manager.into_keeper(Claim::link())?;
/// let (send, dispatches) = std::sync::mpsc::channel();
/// let (handle, thread) = keeper.spawn(move |done| {
///     let _ = send.send(done);
/// })?;
/// handle.set([Ipv4Addr::new(10, 96, 0, 10)])?;
/// println!("{}", dispatches.recv()??);
/// // From another thread.
/// let other = handle.clone();
/// std::thread::spawn(move || other.add([Ipv4Addr::new(10, 96, 0, 11)])).join().unwrap()?;
/// // The end; the VIPs stay.
/// drop(handle);
/// let keeper = thread.join().unwrap()?;
/// assert_eq!(keeper.desired().len(), 2);
/// assert_eq!(keeper.counters().repairs, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct KeeperHandle {
    // Dropped before the waker: when the last waker wakes the thread, the queue is closed.
    orders: Sender<Order>,
    waker: Waker,
    shared: Arc<Shared>,
}

/// What the handles and the thread have in common.
#[derive(Debug)]
struct Shared {
    /// The socket that the thread reads. The handles share it, so that they never write to a closed socket
    /// (SIGPIPE).
    wakes: Wakes,
    seen: Mutex<Seen>,
}

/// The state of the keeper that the handles report.
#[derive(Debug)]
struct Seen {
    filter: VipFilter,
    last: Snapshot,
    failing: Vec<Failure>,
    /// Why the thread has ended.
    stopped: Option<String>,
}

/// The keeper after a dispatch.
#[derive(Debug)]
struct Snapshot {
    at: Instant,
    counters: Counters,
    status: KeeperStatus,
}

impl Snapshot {
    fn of(keeper: &Keeper) -> Self {
        Self {
            at: Instant::now(),
            counters: keeper.counters(),
            status: keeper.status(),
        }
    }
}

#[derive(Debug)]
enum Order {
    Set(Vec<Vip>),
    Add(Vec<Vip>),
    Remove(Vec<Vip>),
    Source(IpAddr),
}

impl Shared {
    /// A panic while the lock is held leaves whole values: each is assigned at once.
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the keeper, while its thread lives.
    fn seen(&self) -> Result<MutexGuard<'_, Seen>, Error> {
        let seen = self.lock();
        match &seen.stopped {
            None => Ok(seen),
            Some(why) => Err(stopped(why)),
        }
    }
}

fn stopped(why: &str) -> Error {
    Error::new(
        ErrorKind::KeeperStopped,
        format!("the keeper has stopped: {why}"),
    )
}

impl KeeperHandle {
    /// Sets the VIPs to keep from now on: as [`Keeper::set_desired`].
    ///
    /// If no given VIP is admissible, this call returns [`ErrorKind::EmptySet`], and queues nothing. If the keeper
    /// would release more VIPs than the claim's [bound](crate::Claim::at_most), the callback gets
    /// [`ErrorKind::TooManyReleases`]. After a refusal the keeper keeps the previous set, with the VIPs that
    /// were added or removed since. An empty set is no error: the keeper releases nothing, and keeps nothing.
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_spawn.txt")]
    /// handle.set([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// assert_eq!(dispatches.recv()??.report.assigned, 1);
    /// // No host has this address.
    /// let refused = handle.set([Ipv4Addr::new(127, 0, 0, 1)]).unwrap_err();
    /// assert_eq!(refused.kind(), viproute::ErrorKind::EmptySet);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::EmptySet`] if VIPs are given, but no admissible one. [`ErrorKind::KeeperStopped`].
    pub fn set<I: IntoIterator<Item: Into<Vip>>>(&self, desired: I) -> Result<(), Error> {
        let desired = sorted(desired);
        let seen = self.shared.seen()?;
        if !desired.is_empty() && !desired.iter().any(|vip| seen.filter.check(*vip).is_ok()) {
            return Err(no_admissible_vip());
        }
        self.give(seen, Order::Set(desired))
    }

    /// Keeps these VIPs, too: as [`Keeper::add_desired`].
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_spawn.txt")]
    /// handle.add([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// assert_eq!(dispatches.recv()??.report.assigned, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::KeeperStopped`].
    pub fn add<I: IntoIterator<Item: Into<Vip>>>(&self, vips: I) -> Result<(), Error> {
        let order = Order::Add(sorted(vips));
        self.give(self.shared.seen()?, order)
    }

    /// Keeps these VIPs no longer, and releases them: as [`Keeper::remove_desired`].
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_spawn.txt")]
    /// handle.set([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// assert_eq!(dispatches.recv()??.report.assigned, 1);
    /// handle.remove([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// assert_eq!(dispatches.recv()??.report.released, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::KeeperStopped`].
    pub fn remove<I: IntoIterator<Item: Into<Vip>>>(&self, vips: I) -> Result<(), Error> {
        let order = Order::Remove(sorted(vips));
        self.give(self.shared.seen()?, order)
    }

    /// Changes the source of its family: as [`Keeper::set_source`].
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_spawn.txt")]
    /// handle.set([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// assert_eq!(dispatches.recv()??.report.assigned, 1);
    /// // Another address of the node.
    /// handle.set_source([192, 0, 2, 11])?;
    /// assert_eq!(dispatches.recv()??.report.repaired, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] for an address that no node can have.
    /// [`ErrorKind::KeeperStopped`].
    pub fn set_source(&self, source: impl Into<IpAddr>) -> Result<(), Error> {
        let source = source.into();
        check_config_source(source)?;
        let mut seen = self.shared.seen()?;
        seen.filter.set_source(source);
        self.give(seen, Order::Source(source))
    }

    /// What the keeper had done after its last dispatch: as [`Keeper::counters`].
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_spawn.txt")]
    /// handle.set([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// dispatches.recv()??;
    /// assert_eq!(handle.counters()?.repairs, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::KeeperStopped`].
    pub fn counters(&self) -> Result<Counters, Error> {
        Ok(self.shared.seen()?.last.counters)
    }

    /// How the keeper stood after its last dispatch, with the durations of now: as [`Keeper::status`].
    /// Orders that no dispatch has carried out yet do not show.
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_spawn.txt")]
    /// handle.set([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// dispatches.recv()??;
    /// assert_eq!(handle.status()?.ipv4.desired, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::KeeperStopped`].
    pub fn status(&self) -> Result<KeeperStatus, Error> {
        let seen = self.shared.seen()?;
        Ok(seen.last.status.clone().older(seen.last.at.elapsed()))
    }

    /// The VIPs that failed when the keeper last looked at them, in order of address: as
    /// [`Keeper::failing`].
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_spawn.txt")]
    /// // No host has this address.
    /// handle.set([Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(127, 0, 0, 1)])?;
    /// dispatches.recv()??;
    /// for failure in handle.failing()? {
    ///     println!("{failure}");
    /// }
    /// # assert_eq!(handle.failing()?.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::KeeperStopped`].
    pub fn failing(&self) -> Result<Vec<Failure>, Error> {
        Ok(self.shared.seen()?.failing.clone())
    }

    /// Queues an order, and then wakes the thread. Orders are queued as they were checked, because the
    /// lock is held from the check until here.
    fn give(&self, seen: MutexGuard<'_, Seen>, order: Order) -> Result<(), Error> {
        let sent = self.orders.send(order);
        drop(seen);
        self.waker.wake();
        sent.map_err(|_| stopped("its thread has ended"))
    }
}

impl Keeper {
    /// Moves the keeper to a thread of its own, which keeps the set as [`run`](Self::run) does and takes
    /// orders from the [`KeeperHandle`]. Begins with the [desired](Self::set_desired) set of now.
    ///
    /// The thread calls `each` with every dispatch that [has news](Dispatched::has_news), and with an
    /// error for every refused set ([`KeeperHandle::set`]), after which it goes on. A callback that
    /// blocks delays the keeper. Do not move a handle into the callback: the thread would never end.
    ///
    /// The thread ends when the last handle is dropped, when a [`Canceller`](crate::Canceller) from
    /// [`Keeper::canceller`] cancels, or after an error. `join` returns the keeper or the error. The VIPs stay on the link.
    ///
    /// ```
    #[doc = include_str!("example.txt")]
    #[doc = include_str!("example_keeper.txt")]
    /// keeper.set_desired([Ipv4Addr::new(10, 96, 0, 10)]);
    /// let (handle, thread) = keeper.spawn(|done| match done {
    ///     Ok(done) => println!("{done}"),
    ///     Err(error) => eprintln!("refused: {error}"),
    /// })?;
    /// handle.add([Ipv4Addr::new(10, 96, 0, 11)])?;
    /// drop(handle);
    /// let keeper = thread.join().unwrap()?;
    /// assert_eq!(keeper.desired().len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// On tokio, or another runtime: the callback sends into a channel of the runtime, and no call of the
    /// handle blocks.
    ///
    /// ```no_run
    /// use tokio::sync::mpsc;
    /// use viproute::{Error, Keeper, KeeperHandle};
    ///
    /// async fn keep(
    ///     keeper: Keeper,
    ///     serve: impl FnOnce(KeeperHandle),
    /// ) -> Result<Keeper, Error> {
    ///     let (send, mut dispatches) = mpsc::unbounded_channel();
    ///     let (handle, thread) = keeper.spawn(move |done| {
    ///         let _ = send.send(done);
    ///     })?;
    ///     // For example to a task that follows the services.
    ///     serve(handle);
    ///     while let Some(done) = dispatches.recv().await {
    ///         match done {
    ///             Ok(done) => println!("{done}"),
    ///             Err(error) => eprintln!("refused: {error}"),
    ///         }
    ///     }
    ///     // The channel has ended with the thread.
    ///     thread.join().unwrap()
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::System`] if the system has no thread or descriptor left.
    pub fn spawn<F>(
        self,
        each: F,
    ) -> Result<(KeeperHandle, JoinHandle<Result<Keeper, Error>>), Error>
    where
        F: FnMut(Result<Dispatched, Error>) + Send + 'static,
    {
        let cannot = |error| Error::io("cannot start the keeper's thread", &error);
        let (waker, wakes) = wake_pair().map_err(cannot)?;
        let (orders, taken) = mpsc::channel();
        let shared = Arc::new(Shared {
            wakes,
            seen: Mutex::new(Seen {
                filter: self.manager.filter.clone(),
                last: Snapshot::of(&self),
                failing: self.failing().cloned().collect(),
                stopped: None,
            }),
        });
        let worker = Worker {
            keeper: self,
            orders: taken,
            shared: shared.clone(),
            each,
            before: None,
        };
        let thread = thread::Builder::new()
            .name("viproute".into())
            .stack_size(STACK)
            .spawn(|| worker.run())
            .map_err(cannot)?;
        let handle = KeeperHandle {
            orders,
            waker,
            shared,
        };
        Ok((handle, thread))
    }
}

/// The keeper's thread.
struct Worker<F> {
    keeper: Keeper,
    orders: Receiver<Order>,
    shared: Arc<Shared>,
    each: F,
    /// What is kept if the set that was ordered is refused.
    before: Option<Vec<Vip>>,
}

/// What the queue of orders holds after some were taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Queue {
    Empty,
    /// More orders are there.
    Filled,
    /// No handle is left, and no order.
    Closed,
}

/// Says why the thread has ended, also where a panic unwinds it.
struct Ending {
    shared: Arc<Shared>,
    why: String,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.lock().stopped = Some(std::mem::take(&mut self.why));
    }
}

impl<F: FnMut(Result<Dispatched, Error>)> Worker<F> {
    fn run(mut self) -> Result<Keeper, Error> {
        let mut ending = Ending {
            shared: self.shared.clone(),
            why: "its callback panicked".into(),
        };
        let ended = self.keep();
        ending.why = match &ended {
            Ok(()) => "it was cancelled".into(),
            Err(error) => error.to_string(),
        };
        // Before the callback is dropped: a program that reads the end of the callback's channel then
        // finds that the handle has stopped.
        drop(ending);
        ended.map(|()| self.keeper)
    }

    /// Keeps the set until no handle is left, or until it is cancelled.
    fn keep(&mut self) -> Result<(), Error> {
        let mut failures = 0;
        loop {
            let queue = self.take_orders();
            let dispatched = self.keeper.dispatch_or_pause(&mut failures);
            let is_more = match dispatched {
                Ok(None) => false,
                Ok(Some(done)) => self.publish(done),
                Err(error) => match error.kind() {
                    ErrorKind::Cancelled => return Ok(()),
                    ErrorKind::TooManyReleases | ErrorKind::EmptySet => self.refuse(error),
                    _ => return Err(error),
                },
            };
            if is_more || queue == Queue::Filled {
                if self.keeper.manager.cancelled.take() {
                    return Ok(());
                }
                continue;
            }
            let waited = match queue {
                Queue::Closed if failures > 0 => continue,
                Queue::Closed if self.keeper.resting.len() == 0 => return Ok(()),
                // Without handles there are no orders. The cancellation stands in their place.
                Queue::Closed => self.keeper.wait(&self.keeper.manager.cancelled),
                _ => self.keeper.wait(&self.shared.wakes),
            };
            if waited? == Wait::Cancelled {
                return Ok(());
            }
        }
    }

    /// Reads the wakes and then the queue: an order that comes later wakes again.
    fn take_orders(&mut self) -> Queue {
        self.shared.wakes.drain();
        for _ in 0..ORDERS_MAX {
            match self.orders.try_recv() {
                Ok(order) => self.obey(order),
                Err(TryRecvError::Empty) => return Queue::Empty,
                Err(TryRecvError::Disconnected) => return Queue::Closed,
            }
        }
        Queue::Filled
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Set(vips) => {
                self.before
                    .get_or_insert_with(|| self.keeper.desired().to_vec());
                self.keeper.set_desired(vips);
            }
            Order::Add(vips) => {
                if let Some(before) = &mut self.before {
                    before.extend(&vips);
                }
                self.keeper.add_desired(vips);
            }
            Order::Remove(vips) => {
                if let Some(before) = &mut self.before {
                    before.retain(|vip| vips.binary_search(vip).is_err());
                }
                self.keeper.remove_desired(vips);
            }
            Order::Source(source) => {
                // The handle has checked it.
                let _ = self.keeper.set_source(source);
            }
        }
    }

    /// Shows the outcome to the handles and to the callback. Returns whether more is due.
    fn publish(&mut self, done: Dispatched) -> bool {
        if !self.keeper.reading.is_ordered() {
            self.before = None;
        }
        let are_failures_new = !done.new_failures.is_empty() || !done.recovered.is_empty();
        let failing = are_failures_new.then(|| self.keeper.failing().cloned().collect());
        let last = Snapshot::of(&self.keeper);
        {
            let mut seen = self.shared.lock();
            seen.last = last;
            if let Some(failing) = failing {
                seen.failing = failing;
            }
        }
        let is_more = done.more;
        if done.has_news {
            (self.each)(Ok(done));
        }
        is_more
    }

    /// Restores the set that stood before the refused set, and reports the refusal. Returns whether more is due.
    fn refuse(&mut self, error: Error) -> bool {
        let before = self.before.take();
        let is_more = before.is_some();
        if let Some(before) = before {
            self.keeper.set_desired(before);
            // The caller knows that set already.
            self.keeper.is_order_new = false;
        }
        self.shared.lock().last = Snapshot::of(&self.keeper);
        (self.each)(Err(error));
        is_more
    }
}
