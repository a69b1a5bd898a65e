//! The calls of a manager.

use std::ffi::c_char;

use viproute::{Canceller, VipManager};

use crate::boundary::{Locked, Out, call, free, guard, shared, text, vips as read_vips};
use crate::{Audit, Code, Error, Plan, Report, Vip, Watcher, config};

/// Holds VIPs of one link in their single-route state. Several threads may call with one manager;
/// the calls are carried out one after another.
#[derive(Debug)]
pub struct Manager {
    manager: Locked<VipManager>,
    /// Outside the lock, which a running call holds.
    canceller: Canceller,
}

/// Hands over the report of a call that writes, also of a failed one.
pub(crate) fn report_of(
    result: Result<viproute::Report, viproute::Error>,
    report: &Out<Report>,
) -> Result<(), Error> {
    match result {
        Ok(done) => {
            report.set(done);
            Ok(())
        }
        Err(why) => {
            let error = Error::from(&why);
            if let Some(done) = why.into_report() {
                report.set(done);
            }
            Err(error)
        }
    }
}

/// Runs a call with the arguments that `read` reads from the caller before the call. `give` hands over
/// what the call returned.
///
/// # Safety
///
/// `manager` is NULL or a manager that lives. `result` and `error` are NULL or places of the caller.
unsafe fn call_with<A, R, T>(
    manager: *const Manager,
    result: *mut *mut T,
    error: *mut *mut Error,
    read: impl FnOnce() -> Result<A, Error>,
    run: impl FnOnce(&mut VipManager, A) -> R,
    give: impl FnOnce(R, &Out<T>) -> Result<(), Error>,
) -> Code {
    // SAFETY: as the caller promises.
    let (result, error) = unsafe { (Out::new(result), Out::new(error)) };
    call(error, || {
        // SAFETY: as the caller promises.
        let manager = unsafe { shared(manager, "manager") }?;
        let arguments = read()?;
        give(run(&mut *manager.manager.lock()?, arguments), &result)
    })
}

/// Runs a call that writes, and hands over its report.
///
/// # Safety
///
/// As for `call_with`.
unsafe fn write<A>(
    manager: *const Manager,
    report: *mut *mut Report,
    error: *mut *mut Error,
    read: impl FnOnce() -> Result<A, Error>,
    run: impl FnOnce(&mut VipManager, A) -> Result<viproute::Report, viproute::Error>,
) -> Code {
    // SAFETY: as the caller promises.
    unsafe { call_with(manager, report, error, read, run, report_of) }
}

/// Runs a call that only reads, and hands over its result.
///
/// # Safety
///
/// As for `call_with`.
unsafe fn inspect<A, R: Into<T>, T>(
    manager: *const Manager,
    result: *mut *mut T,
    error: *mut *mut Error,
    read: impl FnOnce() -> Result<A, Error>,
    run: impl FnOnce(&mut VipManager, A) -> Result<R, viproute::Error>,
) -> Code {
    let give = |done: Result<R, viproute::Error>, result: &Out<T>| {
        result.set(done?);
        Ok(())
    };
    // SAFETY: as the caller promises.
    unsafe { call_with(manager, result, error, read, run, give) }
}

/// As `write`, for these VIPs.
///
/// # Safety
///
/// As for `call_with`. `vips` and `count` as for `read_vips`.
unsafe fn write_vips(
    manager: *const Manager,
    (vips, count): (*const Vip, usize),
    report: *mut *mut Report,
    error: *mut *mut Error,
    run: fn(&mut VipManager, Vec<viproute::Vip>) -> Result<viproute::Report, viproute::Error>,
) -> Code {
    // SAFETY: as the caller promises.
    unsafe { write(manager, report, error, || read_vips(vips, count), run) }
}

/// As `inspect`, for these VIPs.
///
/// # Safety
///
/// As for `write_vips`.
unsafe fn inspect_vips<R: Into<T>, T>(
    manager: *const Manager,
    (vips, count): (*const Vip, usize),
    result: *mut *mut T,
    error: *mut *mut Error,
    run: fn(&mut VipManager, Vec<viproute::Vip>) -> Result<R, viproute::Error>,
) -> Code {
    // SAFETY: as the caller promises.
    unsafe { inspect(manager, result, error, || read_vips(vips, count), run) }
}

/// Opens a manager by a configuration, which is a JSON object. Writes nothing to the kernel.
///
/// - "link": the name or the index of the link. The only key that must be given.
/// - "netns": the path of the network namespace; without it, the calling thread's.
/// - "sources": an array of the node's addresses, at most one a family. VIPs of a family need a
///   source or "kernel_source".
/// - "kernel_source": an array of "ipv4", "ipv6": the families that keep the kernel's own local
///   route.
/// - "protocol": the number of the routes' protocol. Default: 2, kernel.
/// - "address_protocol": the number by which added addresses are marked. Linux 5.18.
/// - "binding": "address" (the default) or "route".
/// - "avoid_as_source": "deprecated" or "address_label"; "address_label": the number of the label.
/// - "allow", "deny": arrays of prefixes. Only allowed and not denied addresses are VIPs.
/// - "create_link": "dummy" or "bridge": creates a missing link, and brings it up.
/// - "bring_up": true: brings the link up.
/// - "stall_timeout_seconds": how long a call waits without progress. Default: 5.
/// - "total_timeout_seconds": how long a call may take. Default: no limit.
/// - "receive_buffer": bytes. Default: 1048576.
///
/// An unknown key is an error. On success the caller owns `*manager`, and frees it by
/// viproute_free. On failure `*manager` is NULL. NULL as `config` or `manager`:
/// VIPROUTE_CODE_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_open(
    config: *const c_char,
    manager: *mut *mut Manager,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: NULL or a place of the caller, by the contract.
    let (manager, error) = unsafe { (Out::new(manager), Out::new(error)) };
    call(error, || {
        if !manager.is_taken() {
            return Err(Error::argument("manager is NULL".into()));
        }
        // SAFETY: NULL or a string of the caller, by the contract.
        let config = unsafe { text(config, "config") }?;
        let opened = config::manager(config)?.open()?;
        manager.set(Manager {
            canceller: opened.canceller(),
            manager: Locked::new(opened),
        });
        Ok(())
    })
}

/// Frees a manager. The VIPs stay. No other thread may use the manager during this call or after
/// it. Reports, audits and errors of the manager stay valid. NULL: does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_free(manager: *mut Manager) {
    // SAFETY: NULL or a manager that the caller owns, by the contract.
    unsafe { free(manager) };
}

/// Cancels the manager's running call, or else its next call, which ends with
/// VIPROUTE_CODE_CANCELLED and the report of what was done. Any thread may call this at any time
/// while the manager lives. Does not wait. It only writes to a socket, so a signal handler may call
/// it; it may change errno. NULL: does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_cancel(manager: *const Manager) {
    // SAFETY: NULL or a manager that lives, by the contract.
    guard(|| unsafe { manager.as_ref() }.map(|manager| manager.canceller.cancel()));
}

/// Puts VIPs on the link, each in its single-route state. Repairs the VIPs in another state.
///
/// VIPROUTE_CODE_OK means that every VIP was seen in the single-route state after the last write.
/// `vips` points to `count` VIPs; if `count` is 0, `vips` does not matter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_assign(
    manager: *mut Manager,
    vips: *const Vip,
    count: usize,
    report: *mut *mut Report,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: the caller's contract, which is this function's.
    unsafe { write_vips(manager, (vips, count), report, error, VipManager::assign) }
}

/// Brings every VIP on the link into its single-route state, whichever program added the VIP. Never
/// adds a VIP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_normalize(
    manager: *mut Manager,
    report: *mut *mut Report,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: the caller's contract, which is this function's.
    unsafe {
        write(
            manager,
            report,
            error,
            || Ok(()),
            |manager, ()| manager.normalize(),
        )
    }
}

/// As viproute_normalize, for these VIPs alone. A VIP that is not on the link fails as
/// VIPROUTE_CAUSE_NOT_ON_LINK. `vips` as for viproute_assign.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_normalize_only(
    manager: *mut Manager,
    vips: *const Vip,
    count: usize,
    report: *mut *mut Report,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: the caller's contract, which is this function's.
    unsafe {
        write_vips(
            manager,
            (vips, count),
            report,
            error,
            VipManager::normalize_only,
        )
    }
}

/// Removes VIPs from the link: their addresses, and their routes through the link. A VIP that is
/// not on the link counts as unchanged. `vips` as for viproute_assign.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_release(
    manager: *mut Manager,
    vips: *const Vip,
    count: usize,
    report: *mut *mut Report,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: the caller's contract, which is this function's.
    unsafe { write_vips(manager, (vips, count), report, error, VipManager::release) }
}

/// Makes the claimed VIPs on the link exactly the desired ones: assigns the missing VIPs, repairs
/// the drifted VIPs, and releases the claimed VIPs that are not desired.
///
/// `claim` is a JSON object. "claim": "link" (every VIP on the link), {"ranges": [prefix, ...]},
/// or "mark" (VIPs whose route has the configured "protocol", if that is not kernel, or whose
/// address has the configured "address_protocol"). "at_most": how many VIPs the call may release; if
/// there are more, it writes nothing and fails with VIPROUTE_CODE_TOO_MANY_RELEASES. An unknown key
/// is an error.
///
/// A family without a desired VIP releases none, and an empty set fails with
/// VIPROUTE_CODE_EMPTY_SET: see viproute_release_all. `vips` as for viproute_assign.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_reconcile(
    manager: *mut Manager,
    claim: *const c_char,
    vips: *const Vip,
    count: usize,
    report: *mut *mut Report,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: an array, and NULL or a string, of the caller, by the contract.
    let read = || unsafe { read_claim_and_vips(claim, vips, count) };
    // SAFETY: the caller's contract, which is this function's.
    unsafe {
        write(manager, report, error, read, |manager, (claim, vips)| {
            manager.reconcile(&claim, vips)
        })
    }
}

/// # Safety
///
/// `claim` as for `text`, `vips` and `count` as for `read_vips`.
unsafe fn read_claim_and_vips(
    claim: *const c_char,
    vips: *const Vip,
    count: usize,
) -> Result<(viproute::Claim, Vec<viproute::Vip>), Error> {
    // SAFETY: as the caller promises.
    let (vips, claim) = unsafe { (read_vips(vips, count)?, text(claim, "claim")?) };
    Ok((config::claim(claim)?, vips))
}

/// Releases every claimed VIP on the link. `claim` as for viproute_reconcile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_release_all(
    manager: *mut Manager,
    claim: *const c_char,
    report: *mut *mut Report,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: NULL or a string of the caller, by the contract.
    let read = || config::claim(unsafe { text(claim, "claim") }?);
    // SAFETY: the caller's contract, which is this function's.
    unsafe {
        write(manager, report, error, read, |manager, claim| {
            manager.release_all(&claim)
        })
    }
}

/// Sets the source of its family, and moves every VIP on the link to it, each in place. The manager
/// keeps the new source also after an error, except after VIPROUTE_CODE_INVALID_ARGUMENT and
/// VIPROUTE_CODE_INVALID_CONFIG. `source` points to one address. NULL:
/// VIPROUTE_CODE_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_set_source(
    manager: *mut Manager,
    source: *const Vip,
    report: *mut *mut Report,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: NULL or an address of the caller, by the contract.
    let read = || unsafe { shared(source, "source") }?.to_source();
    // SAFETY: the caller's contract, which is this function's.
    unsafe { write(manager, report, error, read, VipManager::set_source) }
}

/// Sets the binding, and moves every VIP on the link to it. An IPv4 VIP is local at every instant. On the way to
/// VIPROUTE_BINDING_ADDRESS, an IPv6 VIP's only route is replaced in place, and the kernel can miss the route
/// for an instant. The manager keeps the new binding also after an error, except after VIPROUTE_CODE_INVALID_ARGUMENT and
/// VIPROUTE_CODE_INVALID_CONFIG. For VIPROUTE_BINDING_ROUTE the link may get the placeholder address
/// 127.86.73.80, which stays: without an IPv4 address a link has no IPv4 routes.
///
/// `binding` is VIPROUTE_BINDING_ADDRESS or VIPROUTE_BINDING_ROUTE. Another number:
/// VIPROUTE_CODE_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_set_binding(
    manager: *mut Manager,
    binding: u32,
    report: *mut *mut Report,
    error: *mut *mut Error,
) -> Code {
    let read = || match binding {
        VIPROUTE_BINDING_ADDRESS => Ok(viproute::Binding::Address),
        VIPROUTE_BINDING_ROUTE => Ok(viproute::Binding::Route),
        other => Err(Error::argument(format!("{other} is no binding"))),
    };
    // SAFETY: the caller's contract, which is this function's.
    unsafe { write(manager, report, error, read, VipManager::set_binding) }
}

/// Returns the drift of every VIP on the link, and the state of the link and of each source. Writes
/// nothing and needs no privilege.
///
/// `depth` is VIPROUTE_AUDIT_LINK, or VIPROUTE_AUDIT_NODE, which also finds conflicts with other
/// devices and routes in other tables, and reads every route of the node. Another number:
/// VIPROUTE_CODE_INVALID_ARGUMENT. On success the caller owns `*audit`, and frees it by
/// viproute_audit_free. NULL as `audit`: the audit is discarded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_audit(
    manager: *mut Manager,
    depth: u32,
    audit: *mut *mut Audit,
    error: *mut *mut Error,
) -> Code {
    let read = || match depth {
        VIPROUTE_AUDIT_LINK => Ok(VipManager::audit as fn(&mut VipManager) -> _),
        VIPROUTE_AUDIT_NODE => Ok(VipManager::audit_deep as _),
        other => Err(Error::argument(format!("{other} is no depth of an audit"))),
    };
    // SAFETY: the caller's contract, which is this function's.
    unsafe { inspect(manager, audit, error, read, |manager, audit| audit(manager)) }
}

/// As viproute_audit with VIPROUTE_AUDIT_LINK, of the given VIPs alone. Each has its entry in the audit, also if
/// it is not on the link. A few VIPs that are right cost a look-up each, in which a duplicate does not
/// show. `vips` as for viproute_assign.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_audit_only(
    manager: *mut Manager,
    vips: *const Vip,
    count: usize,
    audit: *mut *mut Audit,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: the caller's contract, which is this function's.
    unsafe { inspect_vips(manager, (vips, count), audit, error, VipManager::audit_only) }
}

/// Returns what viproute_reconcile would do now, as a plan: the steps in order, each with its reason, and the
/// VIPs that would fail, which are no error. Writes nothing and needs no privilege. No call executes a
/// plan.
///
/// `claim` as for viproute_reconcile, `vips` as for viproute_assign. On success the caller owns
/// `*plan`, and frees it by viproute_plan_free. NULL as `plan`: the plan is discarded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_plan(
    manager: *mut Manager,
    claim: *const c_char,
    vips: *const Vip,
    count: usize,
    plan: *mut *mut Plan,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: an array, and NULL or a string, of the caller, by the contract.
    let read = || unsafe { read_claim_and_vips(claim, vips, count) };
    // SAFETY: the caller's contract, which is this function's.
    unsafe {
        inspect(manager, plan, error, read, |manager, (claim, vips)| {
            manager.plan(&claim, vips)
        })
    }
}

/// Returns what viproute_assign would do now: as viproute_plan.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_plan_assign(
    manager: *mut Manager,
    vips: *const Vip,
    count: usize,
    plan: *mut *mut Plan,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: the caller's contract, which is this function's.
    unsafe { inspect_vips(manager, (vips, count), plan, error, VipManager::plan_assign) }
}

/// Returns what viproute_release would do now: as viproute_plan.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_plan_release(
    manager: *mut Manager,
    vips: *const Vip,
    count: usize,
    plan: *mut *mut Plan,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: the caller's contract, which is this function's.
    unsafe {
        inspect_vips(
            manager,
            (vips, count),
            plan,
            error,
            VipManager::plan_release,
        )
    }
}

/// Opens a watcher of the manager's link, which returns what happens to its VIPs from now on. Needs no
/// privilege. The watcher may outlive the manager. On success the caller owns `*watcher`, and frees
/// it by viproute_watcher_free. On failure `*watcher` is NULL. NULL as `watcher`:
/// the watcher is discarded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn viproute_watcher_open(
    manager: *mut Manager,
    watcher: *mut *mut Watcher,
    error: *mut *mut Error,
) -> Code {
    // SAFETY: the caller's contract, which is this function's.
    unsafe {
        inspect(
            manager,
            watcher,
            error,
            || Ok(()),
            |manager, ()| manager.watcher(),
        )
    }
}

/// An audit of the link.
pub const VIPROUTE_AUDIT_LINK: u32 = 0;
/// An audit of the link and of the node's other routes.
pub const VIPROUTE_AUDIT_NODE: u32 = 1;
/// Each VIP has an address on the link, and its route: `"binding": "address"`.
pub const VIPROUTE_BINDING_ADDRESS: u32 = 0;
/// Each VIP has its route alone: `"binding": "route"`.
pub const VIPROUTE_BINDING_ROUTE: u32 = 1;
