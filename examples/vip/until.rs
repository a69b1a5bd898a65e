//! Commands that run until a signal or a time ends them.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::parse;

#[derive(Debug, Args)]
pub(crate) struct Until {
    /// End after this time [default: at SIGINT or SIGTERM]
    #[arg(
        long = "for",
        value_name = "SECONDS",
        value_parser = parse::seconds,
        allow_negative_numbers = true
    )]
    time: Option<Duration>,
}

impl Until {
    /// Does something at the end, from another thread.
    pub(crate) fn then(&self, act: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let (send, signalled) = mpsc::channel();
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                let _ = send.send(());
            }
        });
        let time = self.time;
        thread::spawn(move || {
            let _ = match time {
                Some(time) => signalled.recv_timeout(time).ok(),
                None => signalled.recv().ok(),
            };
            act();
        });
        Ok(())
    }
}
