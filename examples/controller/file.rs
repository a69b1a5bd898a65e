//! The desired VIPs, from a file that others write.
//!
//! A file says nothing if its last line is not ended, if a line of it is no VIP, and if it has no VIP at
//! all: then the VIPs stay as they are. To release them all, end the controller with
//! `--release-on-exit`, or call `vip release`.

use std::fs;
use std::path::Path;

use viproute::Vip;

use crate::parse;

/// The VIPs in the file, or why it says nothing.
pub(crate) fn read(path: &Path) -> Result<Vec<Vip>, String> {
    let text = fs::read(path).map_err(|error| error.to_string());
    text.and_then(|text| vips(&text))
        .map_err(|why| format!("{}: {why}: the VIPs stay as they are", path.display()))
}

/// The VIPs in the text of the file.
pub(crate) fn vips(text: &[u8]) -> Result<Vec<Vip>, String> {
    let mut vips = Vec::new();
    match parse::vips(text, &mut vips) {
        Err(bad) => Err(bad.to_string()),
        Ok(()) if vips.is_empty() => Err("there is no VIP in it".to_owned()),
        Ok(()) if !text.ends_with(b"\n") => {
            Err("its last line is not ended, so it may be half-written".to_owned())
        }
        Ok(()) => Ok(vips),
    }
}
