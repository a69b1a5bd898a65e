//! The clock of the kernel's address timestamps.

#![allow(unsafe_code)]

/// Hundredths of a second since boot, without suspension, as in `struct ifa_cacheinfo`
/// (`cstamp_delta`, net/ipv6/addrconf.c). Wraps around as the kernel's timestamps do.
pub(crate) fn hundredths_since_boot() -> u32 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is valid for writing, and CLOCK_MONOTONIC exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let hundredths = i128::from(now.tv_sec) * 100 + i128::from(now.tv_nsec / 10_000_000);
    // The remainder is always in range.
    u32::try_from(hundredths.rem_euclid(1 << 32)).unwrap_or_default()
}
