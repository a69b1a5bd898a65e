//! Waiting: for the late route, for the end of duplicate address detection (RFC 4862), or for time to
//! pass.

use std::io;
use std::time::{Duration, Instant};

use super::arrival::{Arrival, note_arrival};
use super::decide::{AGING, Awaited, Clock, Waited};
use super::{Call, Stop};
use crate::core::Facts;
use crate::netlink::connection::{Dumped, Groups};
use crate::sys::{Woken, wait_readable};
use crate::trace::{self, Lost};

/// How long a wait continues after progress, so that one observation serves more rows.
const GATHER: Duration = Duration::from_millis(2);

/// The events that the rows wait for.
#[derive(Default)]
struct Waiting {
    rows: usize,
    /// A row waits for what no notification reports.
    unnotified: bool,
    quiet: Duration,
}

impl Call<'_> {
    /// Waits until the awaited events have come, or until the stall time-out without progress.
    pub(super) fn wait(&mut self) -> Result<Waited, Stop> {
        let groups = self.connection.groups();
        self.connection.listen_to(groups | Groups::V6_ROUTES)?;
        let waited = self.wait_listening();
        self.connection.listen_to(groups)?;
        waited
    }

    fn waiting(&self) -> Waiting {
        let mut waiting = Waiting::default();
        for row in self.buffers.rows.iter() {
            let Some(awaited) = self.engine.awaits(row) else {
                continue;
            };
            waiting.rows += 1;
            match awaited {
                Awaited::Kernel => {
                    // A routing rule may hide from the look-up that the route came before the monitor joined the
                    // group.
                    let hidden = Facts::UNREAD_ROUTE | Facts::LOOKUP_INCONCLUSIVE;
                    waiting.unnotified |= row.facts.intersects(hidden);
                }
                Awaited::Age => waiting.unnotified = true,
                Awaited::Quiet(quiet) => waiting.quiet = waiting.quiet.max(quiet),
            }
        }
        waiting
    }

    fn wait_listening(&mut self) -> Result<Waited, Stop> {
        self.connection.notifications(|_| ())?;
        // The look-ups find routes that came before the monitor joined the group; notifications
        // report later ones.
        let before = self.waiting().rows;
        let engine = self.engine.clone();
        self.observer(None)
            .look_up(|row| engine.awaits(row).is_some())?;
        let waiting = self.waiting();
        let mut left = waiting.rows;
        if left > 0 {
            trace::wait(left);
        }
        let mut progress = left < before;
        let began = Instant::now();
        while left > 0 {
            self.check_time()?;
            let patience = self.patience(&waiting, progress, began);
            let ends_by_time = progress || waiting.unnotified || !waiting.quiet.is_zero();
            match wait_readable(self.connection.monitor(), self.cancelled, patience)? {
                Woken::Cancelled => {}
                Woken::TimedOut if ends_by_time => return Ok(Waited::Progress),
                Woken::TimedOut => return Ok(Waited::Stalled),
                Woken::Event => {
                    let arrived = self.take_arrivals()?;
                    progress |= arrived != Some(0);
                    match arrived {
                        Some(arrived) => left = left.saturating_sub(arrived),
                        // The kernel dropped notifications: observe again.
                        None => {
                            trace::lost(Lost::Notifications);
                            return Ok(Waited::Progress);
                        }
                    }
                }
            }
        }
        Ok(Waited::Progress)
    }

    /// How long to wait for the next notification.
    fn patience(&self, waiting: &Waiting, progress: bool, began: Instant) -> Duration {
        let mut patience = if progress {
            GATHER
        } else {
            self.limits.stall.saturating_sub(began.elapsed())
        };
        if waiting.unnotified {
            patience = patience.min(AGING);
        }
        if !waiting.quiet.is_zero() {
            patience = patience.min(waiting.quiet.saturating_sub(self.clock.since_change()));
        }
        if let Some(deadline) = self.limits.deadline {
            patience = patience.min(deadline.saturating_duration_since(Instant::now()));
        }
        patience
    }

    /// Reads the notifications, and counts those of waiting rows. `None` if the kernel dropped any.
    fn take_arrivals(&mut self) -> io::Result<Option<usize>> {
        let rows = &mut self.buffers.rows;
        let link = self.link;
        let (mut arrived, mut progress) = (0, false);
        let heard = self.connection.notifications(|message| {
            let arrival = note_arrival(message, rows, link);
            arrived += usize::from(arrival != Arrival::None);
            progress |= arrival == Arrival::Kernels;
        })?;
        if progress {
            self.clock.note_progress();
        } else if arrived > 0 {
            self.clock.note_change();
        }
        Ok((heard == Dumped::Complete).then_some(arrived))
    }
}
