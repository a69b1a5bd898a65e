//! `vip watch`: what happens to the VIPs, as it happens.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use clap::Args;
use viproute::{Error, Event, Vip, Watcher};

use crate::Stop;
use crate::args::Common;
use crate::program::say;
use crate::tell::{self, print_line};
use crate::until::Until;

#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    until: Until,
}

/// What ends a wait.
enum Woken {
    Events(Vec<Event>),
    Failed(Error),
    End,
}

impl Watch {
    pub(crate) fn run(&self) -> Result<ExitCode, Stop> {
        let vips: BTreeSet<_> = self.common.vips()?.into_iter().collect();
        let (send, woken) = mpsc::channel();
        // From here on, so that a signal that comes early ends it too.
        let ended = send.clone();
        self.until
            .then(move || drop(ended.send(Woken::End)))
            .map_err(Stop::Signals)?;
        let watcher = match self.watcher() {
            Ok(watcher) => watcher,
            Err(error) => return Ok(tell::failed("watch", &error)),
        };
        say(format_args!("watching {}", self.common.target.link));
        thread::spawn(move || listen(watcher, &send));
        loop {
            match woken.recv() {
                Ok(Woken::Events(events)) => {
                    for event in events.iter().filter(|event| self.is_told(event, &vips)) {
                        let written = self.tell(event);
                        if written.is_err() {
                            return Ok(tell::code_of(&written, ExitCode::SUCCESS));
                        }
                    }
                }
                Ok(Woken::Failed(error)) => return Ok(tell::failed("watch", &error)),
                Ok(Woken::End) | Err(_) => return Ok(ExitCode::SUCCESS),
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
                self.common.target.source.contains(addr)
            }
            _ => true,
        }
    }

    fn tell(&self, event: &Event) -> std::io::Result<()> {
        if self.common.json {
            tell::print_json_line(event)
        } else {
            print_line(format_args!("{}: {event}", self.common.target.link))
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
