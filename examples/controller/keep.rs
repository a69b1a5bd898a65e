//! A [`Keeper`] on a thread of its own, which takes orders.

use std::mem;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{self, JoinHandle};

use viproute::{Canceller, Cause, Dispatched, Error, ErrorKind, Failure, Keeper, Vip};

use crate::log;

/// The keeper's thread.
pub(crate) struct Keeping {
    orders: Sender<Vec<Vip>>,
    canceller: Canceller,
    thread: JoinHandle<()>,
}

impl Keeping {
    /// Starts it; `failed` is called when it cannot go on.
    pub(crate) fn start(keeper: Keeper, failed: impl FnOnce(Error) + Send + 'static) -> Self {
        let (orders, taken) = mpsc::channel();
        let canceller = keeper.canceller();
        let thread = thread::spawn(move || {
            if let Err(error) = Work::new(keeper).until_no_orders(&taken) {
                failed(error);
            }
        });
        Self {
            orders,
            canceller,
            thread,
        }
    }

    /// From now on these VIPs are desired.
    pub(crate) fn set_desired(&self, vips: Vec<Vip>) {
        // First the order, then what makes the keeper look for one. It has no ear any more where it
        // failed, of which the loop hears.
        let _ = self.orders.send(vips);
        self.canceller.cancel();
    }

    /// Ends it at the next step of what it is at.
    pub(crate) fn end(self) {
        drop(self.orders);
        self.canceller.cancel();
        // It had no reason to panic, and has said so if it did.
        let _ = self.thread.join();
    }
}

struct Work {
    keeper: Keeper,
    said: Said,
    /// What was desired last and not refused, and what was said about it.
    kept: Vec<Vip>,
    said_before: Said,
}

impl Work {
    fn new(keeper: Keeper) -> Self {
        Self {
            keeper,
            said: Said::default(),
            kept: Vec::new(),
            said_before: Said::default(),
        }
    }

    fn until_no_orders(mut self, orders: &Receiver<Vec<Vip>>) -> Result<(), Error> {
        let mut desired = Vec::new();
        loop {
            // What was cancelled half-way begins anew, so that the first outcome is that of all.
            if !self.said.any {
                self.keeper.set_desired(&desired);
            }
            // The last one counts.
            loop {
                match orders.try_recv() {
                    Ok(vips) => {
                        self.keeper.set_desired(&vips);
                        desired = vips;
                        let said = mem::take(&mut self.said);
                        if said.any {
                            self.said_before = said;
                        }
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            let ended = self.keeper.run(|done| {
                if desired.is_empty() {
                    return;
                }
                if is_link_there(done) && self.kept != desired {
                    self.kept.clone_from(&desired);
                }
                self.said.tell(done);
            });
            match ended {
                // Cancelled: there is an order.
                Ok(()) => {}
                // Nothing was written: what was kept before goes on being kept.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::TooManyReleases | ErrorKind::EmptySet
                    ) =>
                {
                    log(format_args!("refused: {error}"));
                    self.said = mem::take(&mut self.said_before);
                    if desired != self.kept {
                        desired.clone_from(&self.kept);
                        self.keeper.set_desired(&desired);
                    } else {
                        // It is not the set that is too small, but others that are too many: the
                        // keeper leaves them, and keeps the set.
                        self.said.any = true;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether what is missing, if anything, concerns one family only.
fn is_link_there(done: &Dispatched) -> bool {
    done.missing.iter().all(|missing| missing.family.is_some())
}

/// What was said about the desired VIPs of now.
#[derive(Default)]
struct Said {
    any: bool,
}

impl Said {
    fn tell(&mut self, done: &Dispatched) {
        // One line says what a whole family lacks.
        let is_own = |failure: &&Failure| !matches!(failure.cause, Cause::Missing(_));
        for failure in done.new_failures.iter().filter(is_own) {
            log(format_args!("{failure}"));
        }
        for failure in done.recovered.iter().filter(is_own) {
            log(format_args!("{}: fails no longer", failure.vip));
        }
        let what = if self.any { "kept" } else { "changed" };
        log(format_args!("{what}: {done}"));
        // While it waits, what was desired is still to come.
        self.any |= is_link_there(done);
    }
}
