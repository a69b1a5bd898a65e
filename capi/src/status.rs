//! The status of a keeper.

use std::ffi::c_char;
use std::time::Duration;

use crate::boundary::{Text, fill, free, guard, text_of};
use crate::names::Code;

/// How a keeper does. Immutable, so several threads may read it at once.
#[derive(Debug)]
pub struct Status {
    status: viproute::KeeperStatus,
    json: Text,
}

impl From<viproute::KeeperStatus> for Status {
    fn from(status: viproute::KeeperStatus) -> Self {
        Self {
            status,
            json: Text::default(),
        }
    }
}

/// The gauges of a keeper. Times are in milliseconds, and -1 for never.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct KeeperState {
    /// How long ago the keeper last read the whole link.
    pub last_full_sync: i64,
    /// How long ago the last dispatch without an error ended.
    pub last_dispatch: i64,
    /// How many IPv4 VIPs are desired.
    pub desired_ipv4: u64,
    /// How many IPv6 VIPs are desired.
    pub desired_ipv6: u64,
    /// How many IPv4 VIPs fail.
    pub failing_ipv4: u64,
    /// How many IPv6 VIPs fail.
    pub failing_ipv6: u64,
    /// How long ago the keeper last looked at IPv4 VIPs and left none failing.
    pub last_success_ipv4: i64,
    /// How long ago the keeper last looked at IPv6 VIPs and left none failing.
    pub last_success_ipv6: i64,
    /// What IPv4 waits for, or VIPROUTE_CODE_OK.
    pub missing_ipv4: Code,
    /// What IPv6 waits for, or VIPROUTE_CODE_OK.
    pub missing_ipv6: Code,
    /// How long IPv4 has waited for it, or -1.
    pub waiting_ipv4: i64,
    /// How long IPv6 has waited for it, or -1.
    pub waiting_ipv6: i64,
}

fn milliseconds(time: Option<Duration>) -> i64 {
    time.map_or(-1, |time| {
        i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
    })
}

impl From<&viproute::KeeperStatus> for KeeperState {
    fn from(status: &viproute::KeeperStatus) -> Self {
        let (ipv4, ipv6) = (&status.ipv4, &status.ipv6);
        let missing = |family: &viproute::FamilyStatus| {
            let waiting = family.waiting.as_ref();
            waiting.map_or(Code::Ok, |waiting| waiting.missing.kind.into())
        };
        let since = |family: &viproute::FamilyStatus| {
            milliseconds(family.waiting.as_ref().map(|waiting| waiting.since))
        };
        Self {
            last_full_sync: milliseconds(status.last_full_sync),
            last_dispatch: milliseconds(status.last_dispatch),
            desired_ipv4: ipv4.desired as u64,
            desired_ipv6: ipv6.desired as u64,
            failing_ipv4: ipv4.failing as u64,
            failing_ipv6: ipv6.failing as u64,
            last_success_ipv4: milliseconds(ipv4.last_success),
            last_success_ipv6: milliseconds(ipv6.last_success),
            missing_ipv4: missing(ipv4),
            missing_ipv6: missing(ipv6),
            waiting_ipv4: since(ipv4),
            waiting_ipv6: since(ipv6),
        }
    }
}

/// Copies the gauges to `*state`. `size` is `sizeof *state`. NULL as `state`: does nothing. NULL as
/// `status`: every field is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_status_summary(
    status: *const Status,
    state: *mut KeeperState,
    size: usize,
) {
    guard(|| {
        // SAFETY: NULL or a status that lives, by the contract.
        let status = unsafe { status.as_ref() };
        let value = status.map(|status| KeeperState::from(&status.status));
        // SAFETY: NULL or a place of this size, by the contract.
        unsafe { fill(state, size, &value.unwrap_or_default()) };
    });
}

/// The status as JSON, as the library's feature `serde` defines it. The status owns the text. NULL:
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_status_json(status: *const Status) -> *const c_char {
    // SAFETY: NULL or a status that lives, by the contract.
    unsafe { text_of(status, |status| status.json.json(&status.status)) }
}

/// Frees a status and its JSON. NULL: does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_status_free(status: *mut Status) {
    // SAFETY: NULL or a status that the caller owns, by the contract.
    unsafe { free(status) };
}
