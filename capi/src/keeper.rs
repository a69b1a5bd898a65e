//! A keeper.

use std::ffi::{c_char, c_int};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use viproute::{Canceller, Family};

use crate::boundary::{Locked, Out, call, fill, free, guard, shared, text, vips as read_vips};
use crate::{Code, Error, Report, Status, Vip, config};

/// Holds a desired set of VIPs on the link, and repairs what drifts. Several threads may call with
/// one keeper; the calls are carried out one after another.
#[derive(Debug)]
pub struct Keeper {
    keeper: Locked<viproute::Keeper>,
    canceller: Canceller,
    fd: RawFd,
}

/// What a dispatch said beside its report.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Dispatched {
    /// 1 if more is due at once: dispatch again.
    pub more: u32,
    /// 1 if something was written, a failure began, changed or ended, something else is missing or
    /// refused than before, or this is the first dispatch after an order.
    pub has_news: u32,
    /// How many failures of the report are new.
    pub new_failures: u64,
    /// How many failures ended.
    pub recovered: u64,
    /// What both families lack, or VIPROUTE_CODE_OK.
    pub missing_link: Code,
    /// What IPv4 lacks, or VIPROUTE_CODE_OK.
    pub missing_ipv4: Code,
    /// What IPv6 lacks, or VIPROUTE_CODE_OK.
    pub missing_ipv6: Code,
    /// Why claimed VIPs that are not desired are not released, or VIPROUTE_CODE_OK.
    pub refused: Code,
}

impl From<&viproute::Dispatched> for Dispatched {
    fn from(done: &viproute::Dispatched) -> Self {
        let missing = |family| {
            let mut missing = done.missing.iter();
            let missing = missing.find(|missing| missing.family == family);
            missing.map_or(Code::Ok, |missing| missing.kind.into())
        };
        Self {
            more: done.more.into(),
            has_news: done.has_news.into(),
            new_failures: done.new_failures.len() as u64,
            recovered: done.recovered.len() as u64,
            missing_link: missing(None),
            missing_ipv4: missing(Some(Family::V4)),
            missing_ipv6: missing(Some(Family::V6)),
            refused: done.refused.map_or(Code::Ok, Code::from),
        }
    }
}

/// What a keeper has done so far. No counter ever decreases.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Notifications that concerned the link, its VIPs or the sources.
    pub events: u64,
    /// VIPs that the keeper looked at one by one.
    pub looks: u64,
    /// Desired VIPs that were already as desired when the keeper first looked at them.
    pub adopted: u64,
    /// VIPs that something was written for.
    pub repairs: u64,
    /// VIPs that were released.
    pub released: u64,
    /// VIPs that began to fail, or to fail for another reason.
    pub failures: u64,
    /// Times that the whole link was read.
    pub resyncs: u64,
    /// Repairs that were put off, because the VIP had been repaired too often.
    pub backoffs: u64,
}

impl From<viproute::Counters> for Counters {
    fn from(counters: viproute::Counters) -> Self {
        Self {
            events: counters.events,
            looks: counters.looks,
            adopted: counters.adopted,
            repairs: counters.repairs,
            released: counters.released,
            failures: counters.failures,
            resyncs: counters.resyncs,
            backoffs: counters.backoffs,
        }
    }
}

/// The time until a deadline in milliseconds, rounded up, so that the deadline has come when
/// poll(2) returns. -1: no deadline.
pub(crate) fn poll_timeout(left: Option<Duration>) -> c_int {
    let Some(left) = left else { return -1 };
    c_int::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}

/// Opens a keeper, by a configuration as for viproute_open and a claim as for viproute_reconcile.
/// Writes nothing to the kernel. The keeper has no desired VIP yet. On success the caller owns
/// `*keeper`, and frees it by viproute_keeper_free. On failure `*keeper` is NULL. NULL as `config`,
/// `claim` or `keeper`: VIPROUTE_CODE_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_keeper_open(
    config: *const c_char,
    claim: *const c_char,
    keeper: *mut *mut Keeper,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: NULL or a place of the caller, by the contract.
    let (keeper, error) = unsafe { (Out::new(keeper), Out::new(error)) };
    call(error, || {
        if !keeper.is_taken() {
            return Err(Error::argument("keeper is NULL".into()));
        }
        // SAFETY: NULL or strings of the caller, by the contract.
        let (config, claim) = unsafe { (text(config, "config")?, text(claim, "claim")?) };
        let (builder, claim) = (config::manager(config)?, config::claim(claim)?);
        let opened = builder.open()?.into_keeper(claim)?;
        keeper.set(Keeper {
            canceller: opened.canceller(),
            fd: opened.as_raw_fd(),
            keeper: Locked::new(opened),
        });
        Ok(())
    })
}

/// Frees a keeper, and closes its descriptor. The VIPs stay. No other thread may use the keeper
/// during this call or after it. Reports and errors of the keeper stay valid. NULL: does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_keeper_free(keeper: *mut Keeper) {
    // SAFETY: NULL or a keeper that the caller owns, by the contract.
    unsafe { free(keeper) };
}

/// As viproute_cancel: cancels the keeper's running dispatch, or else the next dispatch that looks
/// at VIPs. Does not make the keeper's descriptor readable. NULL: does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_keeper_cancel(keeper: *const Keeper) {
    // SAFETY: NULL or a keeper that lives, by the contract.
    guard(|| unsafe { keeper.as_ref() }.map(|keeper| keeper.canceller.cancel()));
}

/// Sets the VIPs to keep from now on. The next dispatch assigns and releases. An empty set keeps
/// nothing and releases nothing. `vips` points to `count` VIPs; if `count` is 0, `vips` does not
/// matter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_keeper_set(
    keeper: *mut Keeper,
    vips: *const Vip,
    count: usize,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: the caller's contract, which is this function's.
    unsafe {
        order(
            keeper,
            vips,
            count,
            error,
            viproute::Keeper::set_desired::<Vec<_>>,
        )
    }
}

/// Keeps these VIPs from now on, too. `vips` as for viproute_keeper_set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_keeper_add(
    keeper: *mut Keeper,
    vips: *const Vip,
    count: usize,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: the caller's contract, which is this function's.
    unsafe {
        order(
            keeper,
            vips,
            count,
            error,
            viproute::Keeper::add_desired::<Vec<_>>,
        )
    }
}

/// Keeps these VIPs no longer, and releases them, also the last one. The claim and its `at_most` do
/// not stop it. VIPs that are not desired are ignored. `vips` as for viproute_keeper_set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_keeper_remove(
    keeper: *mut Keeper,
    vips: *const Vip,
    count: usize,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: the caller's contract, which is this function's.
    unsafe {
        order(
            keeper,
            vips,
            count,
            error,
            viproute::Keeper::remove_desired::<Vec<_>>,
        )
    }
}

/// # Safety
///
/// As the contracts of the functions above.
unsafe fn order(
    keeper: *mut Keeper,
    vips: *const Vip,
    count: usize,
    error: *mut *mut Error,
    give: impl FnOnce(&mut viproute::Keeper, Vec<viproute::Vip>),
) -> Code {
    // SAFETY: NULL or a place of the caller, by the contract.
    let error = unsafe { Out::new(error) };
    call(error, || {
        // SAFETY: a keeper that lives and an array of the caller, by the contract.
        let (keeper, vips) = unsafe { (shared(keeper, "keeper")?, read_vips(vips, count)?) };
        give(&mut *keeper.keeper.lock()?, vips);
        Ok(())
    })
}

/// Changes the source of its family. The next dispatch moves the VIPs, each in place. `source`
/// points to one address. NULL: VIPROUTE_CODE_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_keeper_set_source(
    keeper: *mut Keeper,
    source: *const Vip,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: NULL or a place of the caller, by the contract.
    let error = unsafe { Out::new(error) };
    call(error, || {
        // SAFETY: a keeper that lives and an address of the caller, by the contract.
        let (keeper, source) = unsafe { (shared(keeper, "keeper")?, shared(source, "source")?) };
        keeper.keeper.lock()?.set_source(source.to_source()?)?;
        Ok(())
    })
}

/// The keeper's descriptor, for poll(2) and epoll(7). Wait until it is readable or the deadline has
/// come, then dispatch. The keeper owns the descriptor: never read it nor close it. The same as
/// long as the keeper lives. NULL: -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_keeper_fd(keeper: *const Keeper) -> c_int {
    // SAFETY: NULL or a keeper that lives, by the contract.
    guard(|| unsafe { keeper.as_ref() }.map_or(-1, |keeper| keeper.fd)).unwrap_or(-1)
}

/// In how many milliseconds to dispatch even if the descriptor is not readable: the timeout of
/// poll(2). 0: now. -1: never. NULL: -1. Waits for a call of another thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_keeper_deadline(keeper: *const Keeper) -> c_int {
    guard(|| {
        // SAFETY: NULL or a keeper that lives, by the contract.
        let keeper = unsafe { keeper.as_ref() }?;
        // A dispatch, due now, returns the error of a keeper that cannot be used.
        let Ok(keeper) = keeper.keeper.lock() else {
            return Some(0);
        };
        let deadline = keeper.next_deadline();
        Some(poll_timeout(
            deadline.map(|at| at.saturating_duration_since(Instant::now())),
        ))
    })
    .flatten()
    .unwrap_or(-1)
}

/// Takes what has happened and repairs what is due, at most `max_vips` (but at least one) of the
/// VIPs that drifted one by one. Waits for no event, only for the kernel to carry out its requests.
/// Dispatch once before the first wait.
///
/// VIPs that failed are no error of the call: the report has them, and the keeper tries again.
/// After an error the keeper can go on. `size` is `sizeof *dispatched`. NULL as `dispatched`: what
/// it would say is left out.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_keeper_dispatch(
    keeper: *mut Keeper,
    max_vips: usize,
    dispatched: *mut Dispatched,
    size: usize,
    report: *mut *mut Report,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: NULL or a place of the caller, by the contract.
    let (report, error) = unsafe { (Out::new(report), Out::new(error)) };
    call(error, || {
        // SAFETY: NULL or a place of this size, by the contract.
        unsafe { fill(dispatched, size, &Dispatched::default()) };
        // SAFETY: a keeper that lives, by the contract.
        let keeper = unsafe { shared(keeper, "keeper") }?;
        let done = keeper.keeper.lock()?.dispatch(max_vips);
        match done {
            Ok(done) => {
                // SAFETY: NULL or a place of this size, by the contract.
                unsafe { fill(dispatched, size, &Dispatched::from(&done)) };
                report.set(done);
                Ok(())
            }
            Err(why) => crate::manager::report_of(Err(why), &report),
        }
    })
}

/// Returns the keeper's gauges as they are now. On success the caller owns `*status`, and frees it by
/// viproute_status_free. NULL as `status`: the status is discarded. Waits for a call of another
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_keeper_status(
    keeper: *const Keeper,
    status: *mut *mut Status,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: NULL or a place of the caller, by the contract.
    let (status, error) = unsafe { (Out::new(status), Out::new(error)) };
    call(error, || {
        // SAFETY: a keeper that lives, by the contract.
        let keeper = unsafe { shared(keeper, "keeper") }?;
        status.set(keeper.keeper.lock()?.status());
        Ok(())
    })
}

/// Copies the keeper's counters to `*counters`. `size` is `sizeof *counters`. NULL as `counters`:
/// does nothing. NULL as `keeper`: all counters are 0. Waits for a call of another thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_keeper_counters(
    keeper: *const Keeper,
    counters: *mut Counters,
    size: usize,
) {
    guard(|| {
        // SAFETY: NULL or a keeper that lives, by the contract.
        let keeper = unsafe { keeper.as_ref() };
        let keeper = keeper.and_then(|keeper| keeper.keeper.lock().ok());
        let value = keeper.map_or_else(Counters::default, |keeper| keeper.counters().into());
        // SAFETY: NULL or a place of this size, by the contract.
        unsafe { fill(counters, size, &value) };
    });
}
