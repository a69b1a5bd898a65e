//! Keeps the desired VIPs on the link: reconciles when they change, when something else changed
//! them, and again where a call fell short.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use viproute::{Change, Claim, Error, ErrorKind, Event, Origin, Vip, VipManager, Watcher};

use crate::{Wake, log};

/// Events of so long are one: a link that goes down tells of every route.
const COALESCE: Duration = Duration::from_millis(50);
/// Pauses between calls that fall short, from one to the other.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// How long to wait for an event before waiting again.
const LONG: Duration = Duration::from_secs(3600);

/// A manager with what it shall hold.
pub(crate) struct Keep {
    manager: VipManager,
    claim: Claim,
    sources: Vec<IpAddr>,
    /// What was desired in the last call that was not refused: what is repaired.
    held: BTreeSet<Vip>,
    /// What is to be held from the next call on.
    wanted: Option<BTreeSet<Vip>>,
    /// When to call next.
    due: Option<Instant>,
    pause: Duration,
    /// What was said last about a call that fell short, so as not to repeat it.
    said: String,
}

impl Keep {
    /// Begins to listen to what happens to the VIPs.
    pub(crate) fn new(
        mut manager: VipManager,
        claim: Claim,
        sources: &[IpAddr],
        send: &Sender<Wake>,
    ) -> Result<Self, Error> {
        let watcher = manager.watcher()?;
        let send = send.clone();
        thread::spawn(move || listen(watcher, &send));
        Ok(Self {
            manager,
            claim,
            sources: sources.to_vec(),
            held: BTreeSet::new(),
            wanted: None,
            due: None,
            pause: PAUSES[0],
            said: String::new(),
        })
    }

    /// From now on these VIPs are desired.
    pub(crate) fn set_desired(&mut self, vips: Vec<Vip>) {
        self.wanted = Some(vips.into_iter().collect());
        self.due = Some(Instant::now());
    }

    /// Notes what happened.
    pub(crate) fn hear(&mut self, events: &[Event], now: Instant) {
        let concerns = events.iter().any(|event| self.concerns(event));
        if concerns && (self.wanted.is_some() || !self.held.is_empty()) {
            let soon = now + COALESCE;
            self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
        }
    }

    /// Whether something may be wrong after this event. After our own changes nothing is; those of
    /// unknown origin may be our own, but then the next call finds all well and writes nothing.
    fn concerns(&self, event: &Event) -> bool {
        match event {
            Event::Vip { origin, .. } if *origin == Origin::Ours => false,
            // Each address of the node has such a route.
            Event::Vip { vip, change, .. } if *change == Change::FOREIGN_ROUTE => {
                self.held.contains(vip)
            }
            Event::NodeAddressSet(addr) | Event::NodeAddressRemoved(addr) => {
                self.sources.contains(addr)
            }
            _ => true,
        }
    }

    /// When [`work`](Self::work) has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Reconciles, if it is time to. What falls short is said and tried again; an error is what no
    /// repetition will better.
    pub(crate) fn work(&mut self, now: Instant) -> Result<(), Error> {
        if self.due.is_none_or(|due| due > now) {
            return Ok(());
        }
        let changed = self.wanted.take();
        let vips = changed.as_ref().unwrap_or(&self.held);
        let began = Instant::now();
        let result = self.manager.reconcile(&self.claim, vips);
        let ms = began.elapsed().as_secs_f64() * 1e3;
        let result = match result {
            Err(error) if error.kind() == ErrorKind::InvalidConfig => return Err(error),
            result => result,
        };
        let why = match changed {
            Some(_) => "changed",
            None => "checked",
        };
        // Nothing was released: the VIPs of before stay the desired ones.
        let refused = matches!(&result, Err(error) if matches!(
            error.kind(),
            ErrorKind::TooManyReleases | ErrorKind::EmptySet
        ));
        let is_new = changed.is_some();
        if let Some(vips) = changed
            && !refused
        {
            self.held = vips;
        }
        let (report, said) = match &result {
            Ok(report) => (Some(report), String::new()),
            Err(error) => (error.report(), complaint(error)),
        };
        // What was found as before needs no line.
        let is_news = is_new || said != self.said || report.is_some_and(|report| report.writes > 0);
        if is_news {
            for line in said.lines() {
                log(format_args!("{why}: {line}"));
            }
            if let Some(report) = report {
                log(format_args!("{why}: {report} in {ms:.1} ms"));
            }
        }
        self.said = said;
        if result.is_ok() {
            self.pause = PAUSES[0];
            self.due = None;
        } else {
            self.due = (!self.held.is_empty()).then(|| Instant::now() + self.pause);
            self.pause = PAUSES[1].min(self.pause * 2);
        }
        Ok(())
    }
}

/// What to say of a call that fell short, beside its report.
fn complaint(error: &Error) -> String {
    match (error.kind(), error.report()) {
        (ErrorKind::Incomplete, Some(report)) => {
            let failures: Vec<_> = report.failures.iter().map(ToString::to_string).collect();
            failures.join("\n")
        }
        (ErrorKind::Cancelled, _) => "cancelled".to_owned(),
        _ => error.to_string(),
    }
}

/// Hands on what the watcher hears, until nobody listens any more.
fn listen(mut watcher: Watcher, to: &Sender<Wake>) {
    loop {
        let mut events = Vec::new();
        let sent = match watcher.wait(&mut events, LONG) {
            Ok(0) => continue,
            Ok(_) => to.send(Wake::Events(events)),
            Err(error) => {
                let _ = to.send(Wake::Deaf(error));
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}
