//! Text into what the library takes.

use std::io::{self, BufRead};
use std::time::Duration;

use ipnet::IpNet;
use viproute::{Claim, Vip};

/// What `--claim` means.
pub(crate) const CLAIM: &str = "`link`, `mark`, or prefixes with commas between";

/// `link`, `mark`, or `PREFIX,PREFIX…`.
pub(crate) fn claim(text: &str) -> Result<Claim, String> {
    match text {
        "link" => Ok(Claim::link()),
        "mark" => Ok(Claim::mark()),
        _ => {
            let ranges: Result<Vec<IpNet>, _> = text.split(',').map(str::parse).collect();
            ranges
                .map(Claim::ranges)
                .map_err(|_| format!("give {CLAIM}, like 10.96.0.0/12,2001:db8:42::/64"))
        }
    }
}

/// A time that is not zero.
pub(crate) fn seconds(text: &str) -> Result<Duration, &'static str> {
    // Some 30 years, so that no deadline is beyond what the clock can say.
    const MAX: Duration = Duration::from_secs(1_000_000_000);
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| !time.is_zero() && *time <= MAX)
        .ok_or("give a number of seconds, like 10 or 0.5")
}

/// Why a list of VIPs was not understood.
#[derive(Debug)]
pub(crate) enum BadList {
    Unreadable(io::Error),
    /// With the number of the line.
    Line(String),
}

/// Reads VIPs, one a line; everything from a `#` on is a comment.
pub(crate) fn vips(input: impl BufRead, vips: &mut Vec<Vip>) -> Result<(), BadList> {
    for (at, line) in input.split(b'\n').enumerate() {
        let line = line.map_err(BadList::Unreadable)?;
        // What is not UTF-8 is no address either, except in a comment.
        let line = String::from_utf8_lossy(&line);
        let text = line.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        match text.parse() {
            Ok(vip) => vips.push(vip),
            Err(error) => return Err(BadList::Line(format!("line {}: {error}", at + 1))),
        }
    }
    Ok(())
}
