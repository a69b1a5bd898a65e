//! The clock of the kernel's address timestamps.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::sync::OnceLock;

/// Hundredths of a second since boot, without suspension, as in `struct ifa_cacheinfo`
/// (`cstamp_delta`, net/ipv6/addrconf.c). Wraps around as the kernel's timestamps do.
pub(crate) fn hundredths_since_boot() -> u32 {
    static OFFSET: OnceLock<i128> = OnceLock::new();
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is valid for writing, and CLOCK_MONOTONIC exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let hundredths = i128::from(now.tv_sec) * 100 + i128::from(now.tv_nsec / 10_000_000);
    let since_boot = hundredths - OFFSET.get_or_init(namespace_offset);
    // The remainder is always in range.
    u32::try_from(since_boot.rem_euclid(1 << 32)).unwrap_or_default()
}

/// How far this process's time namespace sets the clock forward, in hundredths of a second. Address
/// timestamps know no time namespace. Without the file, which older kernels lack, there is no offset.
fn namespace_offset() -> i128 {
    let mut text = [0; 256];
    let file = File::open("/proc/self/timens_offsets");
    let read = file.and_then(|mut file| file.read(&mut text));
    let text = str::from_utf8(&text[..read.unwrap_or_default()]);
    offset_in(text.unwrap_or_default()).unwrap_or_default()
}

fn offset_in(text: &str) -> Option<i128> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("monotonic"))?;
    let mut numbers = line.split_whitespace().map(str::parse);
    let (seconds, nanos): (i128, i128) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(seconds * 100 + nanos / 10_000_000)
}

#[cfg(test)]
mod tests {
    use super::offset_in;

    #[test]
    fn offset_of_the_monotonic_clock_is_read() {
        let text = "monotonic     -60000 500000000\nboottime           7         0\n";
        assert_eq!(offset_in(text), Some(-5_999_950));
        assert_eq!(offset_in("boottime 7 0\n"), None);
        assert_eq!(offset_in("monotonic 7\n"), None);
        assert_eq!(offset_in(""), None);
    }
}
