//! Commands that run until a signal or a time ends them.

use std::io;
use std::thread;
use std::time::Duration;

use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{parse, program};

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
        let signalled = program::receive(&[SIGINT, SIGTERM])?;
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
