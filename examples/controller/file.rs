//! The desired VIPs, from a file that others write.
//!
//! A file says nothing while it changes, if its last line is not ended, if a line of it is no VIP,
//! and if it has no VIP at all: then the VIPs stay as they are. To release them all, end the
//! controller with `--release-on-exit`, or call `vip release`.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use viproute::Vip;

use crate::parse::{self, BadList};

/// A file that has not changed for so long is taken for complete.
const REST: Duration = Duration::from_millis(100);

/// What distinguishes one version of a file from another: device, inode, size and time of change.
type Version = (u64, u64, u64, i64, i64);

fn version(file: &Metadata) -> Version {
    (
        file.dev(),
        file.ino(),
        file.size(),
        file.mtime(),
        file.mtime_nsec(),
    )
}

/// The file, looked at now and again.
#[derive(Debug)]
pub(crate) struct Desired {
    path: PathBuf,
    /// The version that was read last, or could not be.
    done: Option<Result<Version, io::ErrorKind>>,
    /// The version that is to be read, if it is still that one then.
    next: Option<(Version, Instant)>,
}

impl Desired {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            done: None,
            next: None,
        }
    }

    /// Reads the file even if it has not changed.
    pub(crate) fn reread(&mut self) {
        self.done = None;
        self.next = None;
    }

    /// How long until it may have come to rest.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        match self.next {
            Some((_, then)) => then.saturating_duration_since(now),
            None => Duration::MAX,
        }
    }

    /// The VIPs, if the file has changed and come to rest; or why it says nothing, once.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Result<Vec<Vip>, String>> {
        let seen = fs::metadata(&self.path);
        let seen = match seen {
            Ok(file) => version(&file),
            Err(error) => return self.cannot(&error),
        };
        if self.done == Some(Ok(seen)) {
            self.next = None;
            return None;
        }
        match self.next {
            Some((next, then)) if next == seen => {
                if now < then {
                    return None;
                }
            }
            _ => {
                self.next = Some((seen, now + REST));
                return None;
            }
        }
        self.next = None;
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) => return self.cannot(&error),
        };
        // The file changed while it was read: read it again, once it rests.
        if fs::metadata(&self.path).map(|file| version(&file)).ok() != Some(seen) {
            return None;
        }
        self.done = Some(Ok(seen));
        Some(vips(&text))
    }

    fn cannot(&mut self, error: &io::Error) -> Option<Result<Vec<Vip>, String>> {
        let kind = Some(Err(error.kind()));
        if self.done == kind {
            return None;
        }
        self.done = kind;
        self.next = None;
        Some(Err(format!("{error}: the VIPs stay as they are")))
    }
}

fn vips(text: &[u8]) -> Result<Vec<Vip>, String> {
    let mut vips = Vec::new();
    let why = match parse::vips(text, &mut vips) {
        Err(BadList::Line(why)) => why,
        Err(BadList::Unreadable(error)) => error.to_string(),
        Ok(()) if text.last().is_some_and(|last| *last != b'\n') => {
            "its last line is not ended, so it may be half-written".to_owned()
        }
        Ok(()) if vips.is_empty() => "there is no VIP in it".to_owned(),
        Ok(()) => return Ok(vips),
    };
    Err(format!("{why}: the VIPs stay as they are"))
}
