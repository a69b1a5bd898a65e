//! `vip watch`: what happens to the VIPs, as it happens.

use std::collections::BTreeSet;
use std::io::ErrorKind as IoErrorKind;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use viproute::{Change, Error, Event, Vip, Watcher};

use crate::Stop;
use crate::args::Common;
use crate::parse;
use crate::tell::{self, complain, print_line};

#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) common: Common,
    /// End after so long [default: at SIGINT or SIGTERM]
    #[arg(long = "for", value_name = "SECONDS", value_parser = parse::seconds, allow_negative_numbers = true)]
    time: Option<Duration>,
}

/// What ends a wait.
enum Woken {
    Events(Vec<Event>),
    Failed(Error),
    Signal,
}

impl Watch {
    pub(crate) fn run(&self) -> Result<ExitCode, Stop> {
        let vips: BTreeSet<_> = self.common.vips()?.into_iter().collect();
        let end = self.time.map(|time| Instant::now() + time);
        let (send, woken) = mpsc::channel();
        // From here on, so that a signal that comes early ends it too.
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(Stop::Signals)?;
        let on_signal = send.clone();
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                let _ = on_signal.send(Woken::Signal);
            }
        });
        let watcher = match self.watcher() {
            Ok(watcher) => watcher,
            Err(error) => return Ok(tell::failed("watch", &error)),
        };
        complain(format_args!("watching {}", self.common.link));
        thread::spawn(move || listen(watcher, &send));
        loop {
            let next = match end {
                Some(end) => woken.recv_timeout(end.saturating_duration_since(Instant::now())),
                None => woken.recv().map_err(RecvTimeoutError::from),
            };
            match next {
                Ok(Woken::Events(events)) => {
                    for event in events.iter().filter(|event| self.is_told(event, &vips)) {
                        let written = self.tell(event);
                        // Whoever closed it has seen enough.
                        if matches!(&written, Err(error) if error.kind() == IoErrorKind::BrokenPipe)
                        {
                            return Ok(ExitCode::SUCCESS);
                        } else if written.is_err() {
                            return Ok(tell::code_of(&written, ExitCode::FAILURE));
                        }
                    }
                }
                Ok(Woken::Failed(error)) => return Ok(tell::failed("watch", &error)),
                Ok(Woken::Signal) | Err(_) => return Ok(ExitCode::SUCCESS),
            }
        }
    }

    fn watcher(&self) -> Result<Watcher, Error> {
        // The watcher has a socket of its own and outlives the manager.
        self.common.builder()?.open()?.watcher()
    }

    /// With VIPs given, what does not concern them is left out.
    fn is_told(&self, event: &Event, vips: &BTreeSet<Vip>) -> bool {
        match event {
            _ if self.common.vips.is_empty() => true,
            Event::Vip { vip, .. } => vips.contains(vip),
            Event::NodeAddressSet(addr) | Event::NodeAddressRemoved(addr) => {
                self.common.source.contains(addr)
            }
            _ => true,
        }
    }

    fn tell(&self, event: &Event) -> std::io::Result<()> {
        if self.common.json {
            let time = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            let mut line = document(event);
            line["time"] = json!(time.as_secs_f64());
            print_line(format_args!("{line}"))
        } else {
            print_line(format_args!("{}", text(event, &self.common.link)))
        }
    }
}

/// Hands on what the watcher hears, until nobody listens any more.
fn listen(mut watcher: Watcher, to: &Sender<Woken>) {
    const LONG: Duration = Duration::from_secs(3600);
    loop {
        let mut events = Vec::new();
        let sent = match watcher.wait(&mut events, LONG) {
            Ok(0) => continue,
            Ok(_) => to.send(Woken::Events(events)),
            Err(error) => {
                let _ = to.send(Woken::Failed(error));
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

fn text(event: &Event, link: &str) -> String {
    match event {
        Event::Vip {
            vip,
            change,
            origin,
        } => format!(
            "{vip}: {} by {}",
            changes(*change).join(", ").replace('_', " "),
            tell::token(origin)
        ),
        Event::NodeAddressSet(addr) => format!("node address {addr} set"),
        Event::NodeAddressRemoved(addr) => format!("node address {addr} removed"),
        Event::LinkUp(index) => format!("link {link} is up, with index {index}"),
        Event::LinkDown(index) => format!("link {link} is down, with index {index}"),
        Event::LinkGone => format!("link {link} is gone"),
        Event::Resync => "notifications were lost".to_owned(),
        other => tell::token(other),
    }
}

fn document(event: &Event) -> Value {
    match event {
        Event::Vip {
            vip,
            change,
            origin,
        } => json!({
            "event": "vip",
            "vip": vip.to_string(),
            "change": changes(*change),
            "origin": tell::token(origin),
        }),
        Event::NodeAddressSet(addr) => json!({ "event": "node_address_set", "address": addr }),
        Event::NodeAddressRemoved(addr) => {
            json!({ "event": "node_address_removed", "address": addr })
        }
        Event::LinkUp(index) => json!({ "event": "link_up", "index": index }),
        Event::LinkDown(index) => json!({ "event": "link_down", "index": index }),
        other => json!({ "event": tell::token(other) }),
    }
}

fn changes(change: Change) -> Vec<String> {
    change
        .iter_names()
        .map(|(name, _)| name.to_lowercase())
        .collect()
}
