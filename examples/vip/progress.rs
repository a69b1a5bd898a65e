//! A sign of life while a call runs, which is synchronous.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// A call that is over sooner shows nothing.
const PATIENCE: Duration = Duration::from_millis(400);
const FRAME: Duration = Duration::from_millis(100);

/// Makes a call; if it takes long, and standard error is a terminal, a line there counts the time
/// until it is over.
pub(crate) fn during<T>(what: &str, call: impl FnOnce() -> T) -> T {
    if !io::stderr().is_terminal() {
        return call();
    }
    thread::scope(|scope| {
        // Dropped when the call is over, also by a panic.
        let (_over, is_over) = mpsc::channel::<()>();
        scope.spawn(move || {
            let begun = Instant::now();
            let mut wait = PATIENCE;
            let mut shown = false;
            for sign in ["|", "/", "-", "\\"].iter().cycle() {
                if is_over.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
                let seconds = begun.elapsed().as_secs_f64();
                let _ = write!(io::stderr().lock(), "\r{sign} {what}: {seconds:.1} s");
                (wait, shown) = (FRAME, true);
            }
            if shown {
                let _ = write!(io::stderr().lock(), "\r\x1b[K");
            }
        });
        call()
    })
}
