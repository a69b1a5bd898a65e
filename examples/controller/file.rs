//! The desired VIPs, from a file that others write.
//!
//! A file says nothing while it changes, if its last line is not ended, if a line of it is no VIP,
//! and if it has no VIP at all: then the VIPs stay as they are. To release them all, end the
//! controller with `--release-on-exit`, or call `vip release`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use viproute::Vip;

use crate::parse::{self, BadList};

/// A file that has not changed for so long is taken for complete.
const REST: Duration = Duration::from_millis(100);

/// What a reading found: the text, or why there is none.
type Text = Result<Vec<u8>, String>;

/// The file, looked at now and again.
#[derive(Debug)]
pub(crate) struct Desired {
    path: PathBuf,
    done: Option<Text>,
    /// What counts at this moment, if the file still has it then.
    next: Option<(Text, Instant)>,
}

impl Desired {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            done: None,
            next: None,
        }
    }

    /// Takes the file for changed.
    pub(crate) fn reread(&mut self) {
        self.done = None;
    }

    /// How long until the file may have come to rest.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        match self.next {
            Some((_, then)) => then.saturating_duration_since(now),
            None => Duration::MAX,
        }
    }

    /// The VIPs, if the file has changed and come to rest; or why it says nothing, once.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Result<Vec<Vip>, String>> {
        let text = fs::read(&self.path).map_err(|error| error.to_string());
        let next = self.next.take();
        if self.done.as_ref() == Some(&text) {
            return None;
        }
        let then = match next {
            Some((next, then)) if next == text => then,
            _ => now + REST,
        };
        if now < then {
            self.next = Some((text, then));
            return None;
        }
        let vips = match &text {
            Ok(text) => vips(text),
            Err(error) => Err(error.clone()),
        };
        self.done = Some(text);
        Some(vips.map_err(|why| format!("{why}: the VIPs stay as they are")))
    }
}

fn vips(text: &[u8]) -> Result<Vec<Vip>, String> {
    let mut vips = Vec::new();
    match parse::vips(text, &mut vips) {
        Err(BadList::Line(why)) => Err(why),
        Err(BadList::Unreadable(error)) => Err(error.to_string()),
        Ok(()) if text.last().is_some_and(|last| *last != b'\n') => {
            Err("its last line is not ended, so it may be half-written".to_owned())
        }
        Ok(()) if vips.is_empty() => Err("there is no VIP in it".to_owned()),
        Ok(()) => Ok(vips),
    }
}
