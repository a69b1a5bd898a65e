//! The audit of a link.

use std::ffi::c_char;

use viproute::Family;

use crate::boundary::{Text, fill, fill_array, free, guard, text_of};
use crate::names::{LinkState, SourceState};
use crate::vip::Vip;

/// The observed state of the VIPs on the link. Immutable, so several threads may read it at once.
#[derive(Debug)]
pub struct Audit {
    audit: viproute::Audit,
    json: Text,
}

impl From<viproute::Audit> for Audit {
    fn from(audit: viproute::Audit) -> Self {
        Self {
            audit,
            json: Text::default(),
        }
    }
}

/// The state of the link and of the sources, on which all VIPs depend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct AuditSummary {
    /// How many VIPs are on the link.
    pub vips: u64,
    /// How many VIPs have drifted.
    pub drifted: u64,
    /// 1 if no VIP has drifted, every VIP was judged, and link and sources serve the VIPs.
    pub is_clean: u32,
    /// The link, for IPv4.
    pub link_ipv4: LinkState,
    /// The link, for IPv6.
    pub link_ipv6: LinkState,
    /// The IPv4 source.
    pub source_ipv4: SourceState,
    /// The IPv6 source.
    pub source_ipv6: SourceState,
}

/// The observed state of one VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Audited {
    /// The VIP.
    pub vip: Vip,
    /// How it differs from its single-route state: flags VIPROUTE_DRIFT_*, or 0.
    pub drift: u32,
    /// 0 if the VIP's source could not be judged, because none is configured.
    pub is_judged: u32,
}

impl From<&viproute::Audit> for AuditSummary {
    fn from(audit: &viproute::Audit) -> Self {
        Self {
            vips: audit.vips.len() as u64,
            drifted: audit.drifted().count() as u64,
            is_clean: audit.is_clean().into(),
            link_ipv4: audit.link(Family::V4).into(),
            link_ipv6: audit.link(Family::V6).into(),
            source_ipv4: audit.source(Family::V4).into(),
            source_ipv6: audit.source(Family::V6).into(),
        }
    }
}

impl From<&viproute::Audited> for Audited {
    fn from(audited: &viproute::Audited) -> Self {
        Self {
            vip: audited.vip.into(),
            drift: audited.drift.bits(),
            is_judged: audited.is_judged.into(),
        }
    }
}

/// Copies the audit's summary to `*summary`. `size` is `sizeof *summary`. NULL as `summary`: does
/// nothing. NULL as `audit`: every field is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_audit_summary(
    audit: *const Audit,
    summary: *mut AuditSummary,
    size: usize,
) {
    guard(|| {
        // SAFETY: NULL or an audit that lives, by the contract.
        let audit = unsafe { audit.as_ref() };
        let value = audit.map(|audit| AuditSummary::from(&audit.audit));
        // SAFETY: NULL or a place of this size, by the contract.
        unsafe { fill(summary, size, &value.unwrap_or_default()) };
    });
}

/// Copies at most `count` VIPs, from the VIP number `first` on, to the array `vips`. They are in
/// the order of their addresses, IPv4 first. `size` is `sizeof *vips`. Returns how many were
/// copied. NULL as `audit` or `vips`: 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_audit_vips(
    audit: *const Audit,
    first: usize,
    vips: *mut Audited,
    size: usize,
    count: usize,
) -> usize {
    guard(|| {
        // SAFETY: NULL or an audit that lives, by the contract.
        let audit = unsafe { audit.as_ref() };
        let all = audit.into_iter().flat_map(|audit| &audit.audit.vips);
        // SAFETY: NULL or an array of this size, by the contract.
        unsafe { fill_array(vips, size, count, all.skip(first).map(Audited::from)) }
    })
    .unwrap_or(0)
}

/// The audit as JSON, as the library's feature `serde` defines it. The audit owns the text. NULL:
/// NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_audit_json(audit: *const Audit) -> *const c_char {
    // SAFETY: NULL or an audit that lives, by the contract.
    unsafe { text_of(audit, |audit| audit.json.json(&audit.audit)) }
}

/// Frees an audit and its JSON. NULL: does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_audit_free(audit: *mut Audit) {
    // SAFETY: NULL or an audit that the caller owns, by the contract.
    unsafe { free(audit) };
}
