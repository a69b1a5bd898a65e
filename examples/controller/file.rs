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

/// The file, looked at now and again.
#[derive(Debug)]
pub(crate) struct Desired {
    path: PathBuf,
    /// The last text, or why there is none.
    text: Option<Result<Vec<u8>, String>>,
    /// When the text counts, if it has not counted yet.
    rests: Option<Instant>,
}

impl Desired {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            text: None,
            rests: None,
        }
    }

    /// Takes the file for changed.
    pub(crate) fn reread(&mut self) {
        self.text = None;
    }

    /// How long until the file may have come to rest.
    pub(crate) fn wait(&self) -> Duration {
        let left = |rests: Instant| rests.saturating_duration_since(Instant::now());
        self.rests.map_or(Duration::MAX, left)
    }

    /// The VIPs, if the file has changed and come to rest; or why it says nothing, once.
    pub(crate) fn look(&mut self) -> Option<Result<Vec<Vip>, String>> {
        let text = Some(fs::read(&self.path).map_err(|error| error.to_string()));
        if self.text != text {
            self.text = text;
            self.rests = Some(Instant::now() + REST);
        }
        self.rests.take_if(|rests| *rests <= Instant::now())?;
        let vips = match self.text.as_ref()? {
            Ok(text) => vips(text),
            Err(error) => Err(error.clone()),
        };
        Some(vips.map_err(|why| format!("{why}: the VIPs stay as they are")))
    }
}

/// The VIPs in the text of the file.
pub(crate) fn vips(text: &[u8]) -> Result<Vec<Vip>, String> {
    let mut vips = Vec::new();
    match parse::vips(text, &mut vips) {
        Err(BadList::Line(why)) => Err(why),
        Err(BadList::Unreadable(error)) => Err(error.to_string()),
        Ok(()) if vips.is_empty() => Err("there is no VIP in it".to_owned()),
        Ok(()) if !text.ends_with(b"\n") => {
            Err("its last line is not ended, so it may be half-written".to_owned())
        }
        Ok(()) => Ok(vips),
    }
}
