//! When the whole link is read, and why: one reason with a time, and two causes of delay. Without a clock.

use std::time::{Duration, Instant};

use super::backoff::{Backoff, LONGEST_SPACING};

/// Why the whole link is to be read. A later reason includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// Notifications were lost, or the link has changed.
    Loss,
    /// Something happened that concerns all VIPs, or a call failed.
    Event,
    /// The caller has ordered it: what it finds to do is no repair.
    Order,
}

/// What a reading has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    News,
    /// Something to write.
    Drift,
}

/// The next reading of the whole link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    at: Instant,
    why: Why,
}

/// When the whole link is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    due: Option<Due>,
    /// Readings that found something to repair. They delay every reading that was not ordered.
    fought: Backoff,
    /// Readings after a loss that found nothing. They delay readings after a loss.
    futile: Backoff,
}

impl Reading {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: None,
            fought: Backoff::begin(now),
            futile: Backoff::begin(now),
        }
    }

    /// When the link is to be read, if at all.
    pub(super) fn at(&self) -> Option<Instant> {
        self.due.map(|due| due.at)
    }

    fn why(&self) -> Option<Why> {
        self.due.map(|due| due.why)
    }

    /// Whether a reading is due sooner or later. Until then the keeper may lack notifications, and what it
    /// remembers of VIPs is uncertain.
    pub(super) fn is_due(&self) -> bool {
        self.due.is_some()
    }

    /// Whether a reading is due that will look at all VIPs in any case.
    pub(super) fn is_certain(&self) -> bool {
        self.why() > Some(Why::Loss)
    }

    /// Whether an order waits for its reading.
    pub(super) fn is_ordered(&self) -> bool {
        self.why() == Some(Why::Order)
    }

    /// Whether the notified change of a VIP makes a delayed reading after a loss due now: the notifications of
    /// that VIP may be incomplete.
    pub(super) fn is_brought_forward(&self, now: Instant) -> bool {
        self.why() == Some(Why::Loss) && self.fought.until <= now
    }

    /// Schedules a reading, not before `at`.
    pub(super) fn schedule(&mut self, why: Why, at: Instant) {
        let free = match why {
            Why::Loss => self.fought.until.max(self.futile.until),
            Why::Event => self.fought.until,
            Why::Order => at,
        };
        let at = at.max(free);
        self.due = Some(self.due.map_or(Due { at, why }, |due| Due {
            at: due.at.min(at),
            why: due.why.max(why),
        }));
    }

    /// The caller has given an order: what was fought over may be so no longer.
    pub(super) fn end_fight(&mut self, now: Instant) {
        self.fought = Backoff::begin(now);
    }

    /// Nothing is to be read.
    pub(super) fn cancel(&mut self) {
        self.due = None;
    }

    /// The link is read now; returns why.
    pub(super) fn begin(&mut self) -> Why {
        self.due.take().map_or(Why::Event, |due| due.why)
    }

    /// The reading for this reason did not complete: the next one, if one is due, has that reason too.
    pub(super) fn failed(&mut self, why: Why) {
        if let Some(due) = &mut self.due {
            due.why = due.why.max(why);
        }
    }

    /// The reading for this reason has ended. Returns how long the next one has to wait, if what was repaired
    /// delays it.
    pub(super) fn ended(&mut self, why: Why, found: Found, now: Instant) -> Option<Duration> {
        match (why, found) {
            (Why::Loss, Found::Nothing) => {
                self.futile.repair(now, 1);
                self.futile.until = self.futile.until.min(now + LONGEST_SPACING);
            }
            (Why::Loss, _) => self.futile = Backoff::begin(now),
            _ => {}
        }
        let is_repair = found == Found::Drift && why != Why::Order;
        (is_repair && self.fought.repair(now, 1)).then(|| self.fought.until - now)
    }

    /// As if that time had passed.
    #[cfg(test)]
    pub(super) fn age(&mut self, by: Duration) {
        self.due.iter_mut().for_each(|due| due.at -= by);
        self.fought.age(by);
        self.futile.age(by);
    }
}

#[cfg(test)]
mod tests {
    use super::super::backoff::PATIENCE;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Reads for this reason so often that the next such reading is put off. Returns by how long.
    fn wear_out(reading: &mut Reading, why: Why, found: Found, now: Instant) -> Duration {
        let mut put_off = None;
        for _ in 0..PATIENCE + 5 {
            reading.schedule(why, now);
            assert_eq!(reading.begin(), why);
            put_off = reading.ended(why, found, now);
        }
        put_off.unwrap_or_else(|| reading.futile.until - now)
    }

    #[test]
    fn reading_is_due_at_the_earliest_time_and_for_the_strongest_reason() {
        let now = Instant::now();
        let order = [Why::Loss, Why::Event, Why::Order];
        for (first, second) in order.iter().flat_map(|a| order.map(|b| (*a, b))) {
            for (a, b) in [(now, now + SECOND), (now + SECOND, now)] {
                let mut reading = Reading::new(now);
                assert!(!reading.is_due());
                reading.schedule(first, a);
                reading.schedule(second, b);
                let due = Due {
                    at: now,
                    why: first.max(second),
                };
                assert_eq!(reading.due, Some(due));
                assert_eq!(reading.is_certain(), due.why != Why::Loss);
                assert_eq!(reading.is_ordered(), due.why == Why::Order);
                assert_eq!((reading.begin(), reading.is_due()), (due.why, false));
            }
        }
    }

    #[test]
    fn repairs_put_off_every_reading_but_an_ordered_one() {
        let now = Instant::now();
        let mut reading = Reading::new(now);
        let put_off = wear_out(&mut reading, Why::Event, Found::Drift, now);
        for (why, expected) in [
            (Why::Loss, now + put_off),
            (Why::Event, now + put_off),
            (Why::Order, now),
        ] {
            let mut reading = reading;
            reading.schedule(why, now);
            assert_eq!(reading.at(), Some(expected), "{why:?}");
            assert!(!reading.is_brought_forward(now));
            let loss = why == Why::Loss;
            assert_eq!(reading.is_brought_forward(now + put_off), loss, "{why:?}");
        }
        reading.end_fight(now);
        reading.schedule(Why::Event, now);
        assert_eq!(reading.at(), Some(now));
    }

    #[test]
    fn order_is_no_repair() {
        let now = Instant::now();
        let mut reading = Reading::new(now);
        for _ in 0..PATIENCE + 5 {
            assert_eq!(reading.ended(Why::Order, Found::Drift, now), None);
        }
        reading.schedule(Why::Event, now);
        assert_eq!(reading.at(), Some(now));
    }

    #[test]
    fn futile_readings_put_off_readings_after_a_loss_alone() {
        let now = Instant::now();
        let mut reading = Reading::new(now);
        let put_off = wear_out(&mut reading, Why::Loss, Found::Nothing, now);
        assert!((SECOND / 20..LONGEST_SPACING).contains(&put_off));
        for found in [Found::News, Found::Drift] {
            let mut reading = reading;
            reading.schedule(Why::Loss, now);
            assert_eq!(reading.at(), Some(now + put_off));
            assert!(reading.is_brought_forward(now));
            reading.schedule(Why::Event, now + SECOND / 100);
            assert_eq!(reading.at(), Some(now + SECOND / 100));
            // A reading that finds something ends the delay.
            reading.cancel();
            reading.ended(Why::Loss, found, now);
            reading.schedule(Why::Loss, now);
            assert_eq!(reading.at(), Some(now));
        }
        for _ in 0..20 {
            wear_out(&mut reading, Why::Loss, Found::Nothing, now);
        }
        reading.schedule(Why::Loss, now);
        assert_eq!(reading.at(), Some(now + LONGEST_SPACING));
    }

    #[test]
    fn order_whose_reading_failed_stays_an_order() {
        let now = Instant::now();
        let mut reading = Reading::new(now);
        reading.schedule(Why::Order, now);
        let why = reading.begin();
        // Nothing is to be tried again.
        reading.failed(why);
        assert!(!reading.is_due());
        reading.schedule(Why::Event, now + SECOND);
        reading.failed(why);
        assert!(reading.is_ordered());
        assert_eq!(reading.at(), Some(now + SECOND));
    }
}
