//! The exported functions, called as C calls them, in a network namespace of each test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::{CStr, CString, c_char};
use std::net::IpAddr;
use std::ptr::{null, null_mut};

use serde_json::{Value, json};

use super::*;
use crate::boundary::{Locked, Out, call, fill, fill_array};
use crate::common::{self, NODE_V4, Net, PROTO_KERNEL, VIP_LINK};
use crate::keeper::poll_timeout;

/// A handle or a result, freed with the function of its type.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: made by the library, and freed only here.
        unsafe { (self.1)(self.0) };
    }
}

/// What a call gave.
struct Gave {
    code: Code,
    report: Owned<Report>,
    error: Owned<Error>,
}

impl Gave {
    fn by(run: impl FnOnce(*mut *mut Report, *mut *mut Error) -> Code) -> Self {
        let (mut report, mut error) = (null_mut(), null_mut());
        let code = run(&raw mut report, &raw mut error);
        assert_eq!(code == Code::Ok, error.is_null());
        let gave = Self {
            code,
            report: Owned(report, viproute_report_free),
            error: Owned(error, viproute_error_free),
        };
        // SAFETY: NULL or an error that lives.
        assert_eq!(unsafe { viproute_error_code(gave.error.0) }, code);
        gave
    }

    fn ok(self) -> Self {
        assert_eq!(self.code, Code::Ok, "{}", self.message());
        self
    }

    fn message(&self) -> String {
        // SAFETY: NULL or an error that lives.
        string(unsafe { viproute_error_message(self.error.0) })
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        // SAFETY: a report or NULL, and a struct of this size.
        unsafe { viproute_report_counts(self.report.0, &raw mut counts, size_of::<Counts>()) };
        counts
    }

    fn outcomes(&self) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::default(); 8];
        let (to, size) = (outcomes.as_mut_ptr(), size_of::<Outcome>());
        // SAFETY: a report or NULL, and an array of 8.
        let count = unsafe { viproute_report_outcomes(self.report.0, 0, to, size, 8) };
        outcomes.truncate(count);
        outcomes
    }

    fn failures(&self) -> Vec<Failure> {
        let mut failures = Vec::<Failure>::with_capacity(8);
        let (to, size) = (failures.as_mut_ptr(), size_of::<Failure>());
        // SAFETY: a report or NULL, and an array of 8.
        let count = unsafe { viproute_report_failures(self.report.0, 0, to, size, 8) };
        // SAFETY: as many were written.
        unsafe { failures.set_len(count) };
        failures
    }

    fn json(&self) -> Value {
        // SAFETY: a report or NULL.
        serde_json::from_str(&string(unsafe { viproute_report_json(self.report.0) })).unwrap()
    }
}

fn string(text: *const c_char) -> String {
    assert!(!text.is_null());
    // SAFETY: a string of the library, whose owner lives.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned()
}

fn vips(texts: &[&str]) -> Vec<Vip> {
    let vip = |text: &&str| Vip::from(text.parse::<viproute::Vip>().unwrap());
    texts.iter().map(vip).collect()
}

fn config(more: &Value) -> CString {
    let mut config = json!({ "link": VIP_LINK, "sources": common::SOURCES });
    config
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    CString::new(config.to_string()).unwrap()
}

fn try_open(config: &CStr) -> Result<Owned<Manager>, (Code, String)> {
    let mut manager = null_mut();
    // SAFETY: a string and two places.
    let gave =
        Gave::by(|_, error| unsafe { viproute_open(config.as_ptr(), &raw mut manager, error) });
    match gave.code {
        Code::Ok => Ok(Owned(manager, viproute_free)),
        code => {
            assert!(manager.is_null());
            Err((code, gave.message()))
        }
    }
}

fn open() -> Owned<Manager> {
    try_open(&config(&json!({}))).unwrap_or_else(|(_, message)| panic!("{message}"))
}

fn assign(manager: &Owned<Manager>, vips: &[Vip]) -> Gave {
    // SAFETY: a manager that lives, and an array.
    Gave::by(|report, error| unsafe {
        viproute_assign(manager.0, vips.as_ptr(), vips.len(), report, error)
    })
}

fn reconcile(manager: &Owned<Manager>, claim: &CStr, vips: &[Vip]) -> Gave {
    let (vips, count) = (vips.as_ptr(), vips.len());
    // SAFETY: a manager that lives, a string, and an array.
    Gave::by(|report, error| unsafe {
        viproute_reconcile(manager.0, claim.as_ptr(), vips, count, report, error)
    })
}

const TWO: [&str; 2] = ["10.96.0.10", "2001:db8:42:1::d45a"];

fn two() -> Vec<IpAddr> {
    TWO.map(common::vip).to_vec()
}

#[test]
fn vips_are_assigned_repaired_and_released() {
    let net = Net::new();
    let (manager, vips) = (open(), vips(&TWO));
    let gave = assign(&manager, &vips).ok();
    assert_eq!((gave.counts().assigned, gave.counts().outcomes), (2, 2));
    net.assert_single_route(&two(), PROTO_KERNEL);

    net.ip("route replace table local local 10.96.0.10 dev kube-dummy-if proto kernel scope host");
    // SAFETY: a manager that lives.
    let gave =
        Gave::by(|report, error| unsafe { viproute_normalize(manager.0, report, error) }).ok();
    let [outcome] = gave.outcomes()[..] else {
        panic!("{}", gave.json())
    };
    assert_eq!(
        (outcome.vip, outcome.kind),
        (vips[0], OutcomeKind::Repaired)
    );
    let cured = VIPROUTE_DRIFT_WRONG_SOURCE | VIPROUTE_DRIFT_MISSING_ROUTE;
    assert_eq!(outcome.cured, cured);
    net.assert_single_route(&two(), PROTO_KERNEL);

    // SAFETY: a manager that lives, and an array.
    let gave = Gave::by(|report, error| unsafe {
        viproute_release(manager.0, vips.as_ptr(), vips.len(), report, error)
    });
    assert_eq!(gave.ok().counts().released, 2);
    net.assert_absent(&two());
}

#[test]
fn failed_call_has_report_and_error() {
    let net = Net::new();
    let gave = assign(&open(), &vips(&["127.0.0.1", TWO[0], TWO[1]]));
    assert_eq!(gave.code, Code::Incomplete);
    assert_eq!((gave.counts().assigned, gave.counts().failures), (2, 1));
    let [failure] = gave.failures()[..] else {
        panic!("{}", gave.json())
    };
    assert_eq!(failure.vip, vips(&["127.0.0.1"])[0]);
    assert_eq!(
        (failure.cause, failure.reason),
        (Cause::Rejected, RejectReason::Loopback)
    );
    assert!(string(failure.message).starts_with("127.0.0.1: "));
    assert_eq!(gave.json()["failures"][0]["reason"], "loopback");
    net.assert_single_route(&two(), PROTO_KERNEL);

    // The kernel's errno, and what a family lacks.
    net.ip("addr del 2001:db8::10/128 dev node0");
    let gave = assign(&open(), &vips(&["2001:db8:42:1::1"]));
    let [failure] = gave.failures()[..] else {
        panic!("{}", gave.json())
    };
    assert_eq!(
        (failure.cause, failure.missing),
        (Cause::Missing, Code::SourceNotOnNode)
    );
    let json = config(&json!({ "netns": "/proc/self/ns/none" }));
    let mut manager = null_mut();
    // SAFETY: a string and two places.
    let gave =
        Gave::by(|_, error| unsafe { viproute_open(json.as_ptr(), &raw mut manager, error) });
    assert_eq!(gave.code, Code::InvalidNetns);
    // SAFETY: an error that lives.
    assert_eq!(unsafe { viproute_error_errno(gave.error.0) }, libc::ENOENT);
}

#[test]
fn reconcile_releases_what_the_claim_covers() {
    let net = Net::new();
    let manager = open();
    assign(&manager, &vips(&["10.96.0.1", "10.96.0.2", "10.97.0.1"])).ok();
    let desired = vips(&["10.96.0.3"]);

    let gave = reconcile(&manager, c"{\"claim\":\"link\",\"at_most\":2}", &desired);
    assert_eq!(
        (gave.code, gave.report.0),
        (Code::TooManyReleases, null_mut())
    );
    let claim = c"{\"claim\":{\"ranges\":[\"10.96.0.0/16\"]},\"at_most\":2}";
    let counts = reconcile(&manager, claim, &desired).ok().counts();
    assert_eq!((counts.assigned, counts.released), (1, 2));
    net.assert_single_route(&["10.96.0.3", "10.97.0.1"].map(common::vip), PROTO_KERNEL);
    assert_eq!(reconcile(&manager, claim, &[]).code, Code::EmptySet);

    for bad in [
        c"{}",
        c"{\"claim\":\"all\"}",
        c"{\"claim\":\"link\",\"atmost\":1}",
    ] {
        assert_eq!(reconcile(&manager, bad, &desired).code, Code::InvalidConfig);
    }
    let release_all = |claim: &CStr| {
        // SAFETY: a manager that lives, and a string.
        Gave::by(|report, error| unsafe {
            viproute_release_all(manager.0, claim.as_ptr(), report, error)
        })
    };
    // This manager sets no mark.
    assert_eq!(
        release_all(c"{\"claim\":\"mark\"}").code,
        Code::InvalidConfig
    );
    assert_eq!(
        release_all(c"{\"claim\":\"link\"}").ok().counts().released,
        2
    );
}

#[test]
fn audit_shows_drift_and_the_new_source_ends_it() {
    let net = Net::new();
    let manager = open();
    assign(&manager, &vips(&TWO)).ok();
    net.ip("addr add 192.0.2.11/24 dev node0");
    net.ip("route del table local local 10.96.0.10 dev kube-dummy-if");

    let audit = |depth| {
        let mut audit = null_mut();
        // SAFETY: a manager that lives, and a place.
        let gave =
            Gave::by(|_, error| unsafe { viproute_audit(manager.0, depth, &raw mut audit, error) });
        (gave, Owned(audit, viproute_audit_free))
    };
    for depth in [VIPROUTE_AUDIT_LINK, VIPROUTE_AUDIT_NODE] {
        let (gave, audit) = audit(depth);
        gave.ok();
        let (mut state, mut rows) = (AuditSummary::default(), [Audited::default(); 3]);
        let (to, sizes) = (
            rows.as_mut_ptr(),
            (size_of::<AuditSummary>(), size_of::<Audited>()),
        );
        // SAFETY: an audit that lives, and a struct of this size.
        unsafe { viproute_audit_summary(audit.0, &raw mut state, sizes.0) };
        assert_eq!((state.vips, state.drifted, state.is_clean), (2, 1, 0));
        assert_eq!(
            (state.link_ipv4, state.source_ipv6),
            (LinkState::Up, SourceState::Present)
        );
        // SAFETY: an audit that lives, and an array of 3.
        let count = unsafe { viproute_audit_vips(audit.0, 0, to, sizes.1, 3) };
        assert_eq!(count, 2);
        assert_eq!(rows[0].drift, VIPROUTE_DRIFT_MISSING_ROUTE);
        assert_eq!(
            (rows[1].vip, rows[1].drift, rows[1].is_judged),
            (vips(&TWO)[1], 0, 1)
        );
        // SAFETY: an audit that lives.
        let json: Value =
            serde_json::from_str(&string(unsafe { viproute_audit_json(audit.0) })).unwrap();
        assert_eq!(json["vips"][0]["drift"][0], "missing_route");
    }
    assert_eq!(audit(2).0.code, Code::InvalidArgument);

    let set_source = |source: &str| {
        let source = vips(&[source])[0];
        // SAFETY: a manager that lives, and an address.
        Gave::by(|report, error| unsafe {
            viproute_set_source(manager.0, &raw const source, report, error)
        })
    };
    assert_eq!(set_source("224.0.0.1").code, Code::InvalidConfig);
    assert_eq!(set_source("192.0.2.11").ok().counts().repaired, 1);
    let route = net.ip("route show table local 10.96.0.10");
    assert!(route.contains("src 192.0.2.11"), "{route}");
}

/// Runs a call that hands over an object.
fn object<T>(
    free: unsafe extern "C" fn(*mut T),
    run: impl FnOnce(*mut *mut T, *mut *mut Error) -> Code,
) -> Owned<T> {
    let mut object = null_mut();
    Gave::by(|_, error| run(&raw mut object, error)).ok();
    assert!(!object.is_null());
    Owned(object, free)
}

#[test]
fn only_the_given_vips_are_audited_and_normalized() {
    let net = Net::new();
    let (manager, both) = (open(), vips(&TWO));
    assign(&manager, &both).ok();
    for (family, vip) in [("-4", TWO[0]), ("-6", TWO[1])] {
        net.ip(&format!(
            "{family} route del table local local {vip} dev kube-dummy-if"
        ));
    }
    let asked = [both[1], vips(&["10.96.0.99"])[0]];
    let audit = object(viproute_audit_free, |audit, error| {
        // SAFETY: a manager that lives, an array, and places.
        unsafe { viproute_audit_only(manager.0, asked.as_ptr(), 2, audit, error) }
    });
    let mut rows = [Audited::default(); 3];
    // SAFETY: an audit that lives, and an array of 3.
    let count =
        unsafe { viproute_audit_vips(audit.0, 0, rows.as_mut_ptr(), size_of::<Audited>(), 3) };
    let rows: Vec<_> = rows[..count]
        .iter()
        .map(|row| (row.vip, row.drift))
        .collect();
    let absent = VIPROUTE_DRIFT_MISSING_ADDRESS | VIPROUTE_DRIFT_MISSING_ROUTE;
    assert_eq!(
        rows,
        [(asked[1], absent), (asked[0], VIPROUTE_DRIFT_MISSING_ROUTE)]
    );

    // SAFETY: a manager that lives, and an array.
    let gave = Gave::by(|report, error| unsafe {
        viproute_normalize_only(manager.0, asked.as_ptr(), 2, report, error)
    });
    assert_eq!((gave.code, gave.counts().repaired), (Code::Incomplete, 1));
    assert_eq!(gave.failures()[0].cause, Cause::NotOnLink);
    net.assert_single_route(&two()[1..], PROTO_KERNEL);
    assert_eq!(net.ip("route show table local 10.96.0.10"), "");
}

#[test]
fn binding_moves_the_vips() {
    let net = Net::new();
    let manager = open();
    assign(&manager, &vips(&TWO)).ok();
    let set_binding = |binding| {
        // SAFETY: a manager that lives.
        Gave::by(|report, error| unsafe { viproute_set_binding(manager.0, binding, report, error) })
    };
    let counts = set_binding(VIPROUTE_BINDING_ROUTE).ok().counts();
    assert_eq!(counts.repaired, 2);
    assert!(!net.ip("addr show dev kube-dummy-if").contains(TWO[1]));
    assert!(net.ip("-6 route show table local").contains(TWO[1]));
    set_binding(VIPROUTE_BINDING_ADDRESS).ok();
    net.assert_single_route(&two(), PROTO_KERNEL);
    assert_eq!(set_binding(2).code, Code::InvalidArgument);
}

#[test]
fn plans_are_json_and_scripts_and_write_nothing() {
    let net = Net::new();
    let manager = open();
    assign(&manager, &vips(&TWO[..1])).ok();
    let (before, desired) = (
        net.ip("route show table all"),
        vips(&["10.96.0.11", TWO[1]]),
    );
    let (of, count) = (desired.as_ptr(), desired.len());
    let claim = c"{\"claim\":{\"ranges\":[\"10.96.0.0/16\"]}}";
    let plan = |run: &dyn Fn(*mut *mut Plan, *mut *mut Error) -> Code| {
        let plan = object(viproute_plan_free, run);
        // SAFETY: a plan that lives.
        let texts = unsafe { (viproute_plan_json(plan.0), viproute_plan_script(plan.0)) };
        let json: Value = serde_json::from_str(&string(texts.0)).unwrap();
        (json["steps"].as_array().unwrap().clone(), string(texts.1))
    };
    // SAFETY: a manager that lives, a string, an array, and places.
    let (steps, script) = plan(&|plan, error| unsafe {
        viproute_plan(manager.0, claim.as_ptr(), of, count, plan, error)
    });
    assert!(
        steps.iter().any(|step| step["reason"] == "not_desired"),
        "{steps:?}"
    );
    assert!(
        script.contains(TWO[0]) && script.contains(TWO[1]),
        "{script}"
    );
    // SAFETY: as above.
    let (steps, script) =
        plan(&|plan, error| unsafe { viproute_plan_assign(manager.0, of, count, plan, error) });
    assert!(
        steps.iter().any(|step| step["action"] == "add_address"),
        "{steps:?}"
    );
    assert!(!script.contains(TWO[0]), "{script}");
    // SAFETY: as above.
    let (steps, _) =
        plan(&|plan, error| unsafe { viproute_plan_release(manager.0, of, count, plan, error) });
    assert_eq!(steps, [] as [Value; 0]);
    assert_eq!(net.ip("route show table all"), before);
}

#[test]
fn watcher_returns_events_in_their_order() {
    let net = Net::new();
    let manager = open();
    let watcher = object(viproute_watcher_free, |watcher, error| {
        // SAFETY: a manager that lives, and places.
        unsafe { viproute_watcher_open(manager.0, watcher, error) }
    });
    let events = || {
        let next = || {
            let mut event = Event::default();
            // SAFETY: a watcher that lives, and a struct of this size.
            Gave::by(|_, error| unsafe {
                viproute_watcher_next(watcher.0, &raw mut event, size_of::<Event>(), error)
            })
            .ok();
            (event.kind != EventKind::None).then_some(event)
        };
        std::iter::from_fn(next).collect::<Vec<_>>()
    };
    assert_eq!(events().len(), 0);
    assign(&manager, &vips(&TWO[..1])).ok();
    let [assigned] = events()[..] else {
        panic!("more than one event")
    };
    assert_eq!(
        (assigned.kind, assigned.address),
        (EventKind::Vip, vips(&TWO)[0])
    );
    let set = VIPROUTE_CHANGE_ADDRESS_SET | VIPROUTE_CHANGE_ROUTE_SET;
    assert_eq!(assigned.change & set, set);
    assert_ne!(assigned.origin & VIPROUTE_ORIGIN_OURS, 0);

    // The watcher outlives its manager.
    drop(manager);
    net.ip("addr add 192.0.2.11/24 dev node0");
    net.ip("link set dev kube-dummy-if down");
    let mut poll = libc::pollfd {
        // SAFETY: a watcher that lives.
        fd: unsafe { viproute_watcher_fd(watcher.0) },
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one struct.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1);
    let seen = events();
    assert_eq!(seen[0].kind, EventKind::NodeAddressSet);
    assert_eq!(seen[0].address, vips(&["192.0.2.11"])[0]);
    let down = seen.iter().find(|event| event.kind == EventKind::LinkDown);
    let down = down.expect("an event of the link");
    assert_eq!((down.index, down.address.family), (net.vip_index(), 0));
}

#[test]
fn keeper_repairs_what_another_program_deletes() {
    let net = Net::new();
    let (json, claim, mut keeper) = (config(&json!({})), c"{\"claim\":\"link\"}", null_mut());
    // SAFETY: two strings and two places.
    Gave::by(|_, error| unsafe {
        viproute_keeper_open(json.as_ptr(), claim.as_ptr(), &raw mut keeper, error)
    })
    .ok();
    let keeper = Owned(keeper, viproute_keeper_free);
    let dispatch = || {
        let (mut done, size) = (Dispatched::default(), size_of::<Dispatched>());
        // SAFETY: a keeper that lives, and a struct of this size.
        let gave = Gave::by(|report, error| unsafe {
            viproute_keeper_dispatch(keeper.0, usize::MAX, &raw mut done, size, report, error)
        });
        (gave, done)
    };
    // SAFETY: a keeper that lives.
    let (deadline, fd) = (|| unsafe { viproute_keeper_deadline(keeper.0) }, unsafe {
        viproute_keeper_fd(keeper.0)
    });
    let order =
        |run: unsafe extern "C" fn(*mut Keeper, *const Vip, usize, *mut *mut Error) -> Code,
         vips: &[Vip]| {
            // SAFETY: a keeper that lives, and an array.
            Gave::by(|_, error| unsafe { run(keeper.0, vips.as_ptr(), vips.len(), error) }).ok();
        };

    // Before any order nothing is due, and a dispatch does nothing.
    assert_eq!(deadline(), -1);
    assert_eq!(dispatch().0.ok().counts().assigned, 0);
    order(viproute_keeper_set, &vips(&TWO));
    assert_eq!(deadline(), 0);
    let (gave, done) = dispatch();
    assert_eq!(
        (gave.ok().counts().assigned, done.has_news, done.more),
        (2, 1, 0)
    );
    net.assert_single_route(&two(), PROTO_KERNEL);

    dispatch().0.ok();
    net.ip("route del table local local 10.96.0.10 dev kube-dummy-if");
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one struct.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1);
    let (gave, done) = dispatch();
    assert_eq!(gave.json()["report"]["repaired"], 1);
    assert_eq!(
        (done.has_news, done.missing_link, done.refused),
        (1, Code::Ok, Code::Ok)
    );
    net.assert_single_route(&two(), PROTO_KERNEL);

    order(viproute_keeper_add, &vips(&["10.96.0.11"]));
    order(viproute_keeper_remove, &vips(&TWO));
    let counts = dispatch().0.ok().counts();
    assert_eq!((counts.assigned, counts.released), (1, 2));
    net.assert_absent(&two());

    net.ip("addr del 192.0.2.10/32 dev node0");
    let (gave, done) = dispatch();
    gave.ok();
    assert_eq!(done.missing_ipv4, Code::SourceNotOnNode);
    let status = object(viproute_status_free, |status, error| {
        // SAFETY: a keeper that lives, and places.
        unsafe { viproute_keeper_status(keeper.0, status, error) }
    });
    let mut state = KeeperState::default();
    // SAFETY: a status that lives, and a struct of this size.
    unsafe { viproute_status_summary(status.0, &raw mut state, size_of::<KeeperState>()) };
    assert_eq!((state.desired_ipv4, state.desired_ipv6), (1, 0));
    assert_eq!((state.failing_ipv4, state.failing_ipv6), (1, 0));
    let missing = [state.missing_ipv4, state.missing_ipv6];
    assert_eq!(missing, [Code::SourceNotOnNode, Code::Ok]);
    assert!(
        state.waiting_ipv4 >= 0 && state.last_dispatch >= 0,
        "{state:?}"
    );
    assert_eq!(state.waiting_ipv6, -1);
    // SAFETY: a status that lives.
    let json = string(unsafe { viproute_status_json(status.0) });
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json["ipv4"]["waiting"]["missing"]["kind"],
        "source_not_on_node"
    );
    net.ip("addr add 192.0.2.11/24 dev node0");
    let source = vips(&["192.0.2.11"])[0];
    // SAFETY: a keeper that lives, and an address.
    Gave::by(|_, error| unsafe { viproute_keeper_set_source(keeper.0, &raw const source, error) })
        .ok();
    let (gave, done) = dispatch();
    assert_eq!(
        (gave.ok().counts().failures, done.missing_ipv4),
        (0, Code::Ok)
    );
    assert!(
        net.ip("route show table local 10.96.0.11")
            .contains("src 192.0.2.11")
    );

    let mut counters = Counters::default();
    // SAFETY: a keeper that lives, and a struct of this size.
    unsafe { viproute_keeper_counters(keeper.0, &raw mut counters, size_of::<Counters>()) };
    assert_eq!(counters.released, 2);
    assert!(counters.repairs >= 6, "{counters:?}");

    order(viproute_keeper_set, &vips(&TWO));
    // SAFETY: a keeper that lives.
    unsafe { viproute_keeper_cancel(keeper.0) };
    assert_eq!(dispatch().0.code, Code::Cancelled);
    dispatch().0.ok();
}

#[test]
fn cancelled_call_says_so_and_the_next_one_works() {
    let _net = Net::new();
    let manager = open();
    // SAFETY: a manager that lives.
    unsafe { viproute_cancel(manager.0) };
    let gave = assign(&manager, &vips(&TWO));
    assert_eq!(gave.code, Code::Cancelled);
    assert_eq!(gave.failures()[0].cause, Cause::NotReached);
    assign(&manager, &vips(&TWO)).ok();
}

#[test]
fn configuration_takes_its_keys_and_no_others() {
    let net = Net::new();
    for good in [
        json!({ "link": net.vip_index(), "protocol": 2 }),
        json!({ "sources": ["192.0.2.10"], "kernel_source": ["ipv6"] }),
        json!({ "protocol": 99, "address_protocol": 99, "binding": "route", "bring_up": true }),
        json!({ "binding": "address", "avoid_as_source": "deprecated", "allow": ["10.0.0.0/8"] }),
        json!({ "avoid_as_source": "address_label", "address_label": 7, "deny": ["10.0.0.0/9"] }),
        json!({ "create_link": "dummy", "stall_timeout_seconds": 0.5, "total_timeout_seconds": 3 }),
        json!({ "create_link": "bridge", "receive_buffer": 65536, "netns": "/proc/thread-self/ns/net" }),
    ] {
        assert!(
            try_open(&config(&good)).is_ok_and(|manager| !manager.0.is_null()),
            "{good}"
        );
    }
    for (bad, word) in [
        (json!({ "source": "192.0.2.10" }), "source"),
        (json!({ "link": null }), "link"),
        (json!({ "link": 0 }), "0"),
        (json!({ "link": "much too long a name" }), "much too long"),
        (json!({ "sources": ["node"] }), "IP address"),
        (
            json!({ "sources": ["192.0.2.10", "192.0.2.11"] }),
            "more than one",
        ),
        (json!({ "kernel_source": ["ipv5"] }), "ipv5"),
        (json!({ "protocol": 0 }), "protocol"),
        (json!({ "address_protocol": 256 }), "256"),
        (json!({ "binding": "both" }), "both"),
        (
            json!({ "avoid_as_source": "deprecated", "address_label": 7 }),
            "address_label",
        ),
        (json!({ "allow": ["10.0.0.0/33"] }), "invalid"),
        (json!({ "stall_timeout_seconds": -1 }), "-1 seconds"),
    ] {
        let (code, message) = try_open(&config(&bad)).err().expect("a refusal");
        assert_eq!(code, Code::InvalidConfig, "{bad}: {message}");
        assert!(message.contains(word), "{bad}: {message}");
    }
    for bad in [
        c"",
        c"{}",
        c"[1]",
        c"{\"link\":\"a\"} {}",
        c"{\"link\":\"a\",\"link\":\"b\"}",
        c"\xff",
    ] {
        assert_eq!(
            try_open(bad).err().expect("a refusal").0,
            Code::InvalidConfig
        );
    }
}

/// The C test does the same with every function; here the messages.
#[test]
fn wrong_arguments_are_errors_with_a_message() {
    let _net = Net::new();
    let manager = open();
    let says = |gave: Gave, words: &str| {
        assert_eq!(
            (gave.code, gave.report.0),
            (Code::InvalidArgument, null_mut())
        );
        assert_eq!(gave.message().trim_start_matches("viproute: "), words);
    };
    says(
        assign(&Owned(null_mut(), viproute_free), &[]),
        "manager is NULL",
    );
    let mut strange = vips(&TWO);
    strange[1].family = 3;
    says(assign(&manager, &strange), "VIP 1: 3 is no address family");
    let assign_raw = |vips: *const Vip, count: usize| {
        // SAFETY: what it takes for an array, it does not read.
        Gave::by(|report, error| unsafe { viproute_assign(manager.0, vips, count, report, error) })
    };
    says(assign_raw(null(), 1), "vips is NULL, and count is 1");
    let (one, many) = (vips(&TWO[..1]), usize::MAX / 2);
    says(
        assign_raw(one.as_ptr(), many),
        &format!("count is {many}: no array is so long"),
    );
    // No VIP, wherever they are.
    assign_raw(null(), 0).ok();
    assign_raw(std::ptr::dangling(), 0).ok();
}

#[test]
fn panic_becomes_a_code_and_closes_the_handle() {
    let gave = Gave::by(|_, error| {
        // SAFETY: a place.
        call(unsafe { Out::new(error) }, || panic!("on purpose"))
    });
    assert_eq!(gave.code, Code::Panic);
    assert!(gave.message().contains("fault of the library"));

    let locked = Locked::new(1);
    let in_a_call = || {
        // SAFETY: NULL.
        call(unsafe { Out::new(null_mut()) }, || {
            let _one = locked.lock()?;
            panic!("on purpose")
        })
    };
    assert_eq!(in_a_call(), Code::Panic);
    assert_eq!(locked.lock().map(|_| ()).unwrap_err().code, Code::Panic);
}

/// The library's kinds, as its sources name them.
#[test]
fn every_kind_of_the_library_has_a_number() {
    fn check<T: Copy>(source: &str, of: &str, names: &[(T, &CStr)]) {
        let source = source.split_once(&format!("named! {{ {of}:\n")).unwrap().1;
        let body = source.split_once("\n}\n").unwrap().0;
        let known: Vec<&str> = names
            .iter()
            .map(|(_, name)| name.to_str().unwrap())
            .collect();
        let mut count = 0;
        for name in body.split("=> \"").skip(1) {
            let name = name.split('"').next().unwrap();
            assert!(known.contains(&name), "{of} has {name}");
            count += 1;
        }
        assert!(count > 2, "{of}: the sources have another form");
    }
    check(
        include_str!("../../src/core/error_kind.rs"),
        "ErrorKind",
        Code::NAMES,
    );
    let cause = include_str!("../../src/core/cause.rs");
    check(cause, "Cause", Cause::NAMES);
    check(cause, "Operation", Operation::NAMES);
    check(
        include_str!("../../src/base/vip.rs"),
        "RejectReason",
        RejectReason::NAMES,
    );
    check(
        include_str!("../../src/outcome/report.rs"),
        "OutcomeKind",
        OutcomeKind::NAMES,
    );
    let status = include_str!("../../src/outcome/status.rs");
    check(status, "LinkStatus", LinkState::NAMES);
    check(status, "SourceStatus", SourceState::NAMES);
    check(
        include_str!("../../src/watcher/event.rs"),
        "Event",
        EventKind::NAMES,
    );

    let names: [(extern "C" fn(i32) -> *const c_char, i32, &str); 4] = [
        (viproute_code_name, Code::Incomplete as i32, "incomplete"),
        (viproute_cause_name, Cause::Conflict as i32, "conflict"),
        (
            viproute_reject_reason_name,
            RejectReason::Denied as i32,
            "denied",
        ),
        (
            viproute_event_kind_name,
            EventKind::LinkGone as i32,
            "link_gone",
        ),
    ];
    for (name_of, number, name) in names {
        assert_eq!(string(name_of(number)), name);
        assert!(name_of(-1).is_null() && name_of(99).is_null());
    }
    assert_eq!(Code::from(viproute::ErrorKind::LinkInVrf), Code::LinkInVrf);
}

#[test]
fn header_has_every_flag_with_its_value() {
    let header = include_str!("../include/viproute.h");
    let check = |prefix: &str, flags: &[(&str, u32)]| {
        for (name, bits) in flags {
            let bit = bits.trailing_zeros();
            let value = if bit == 0 {
                "1".into()
            } else {
                format!("(1 << {bit})")
            };
            let line = format!("#define VIPROUTE_{prefix}_{name} {value}\n");
            assert!(header.contains(&line), "the header lacks: {line}");
        }
        let all = header
            .matches(&format!("#define VIPROUTE_{prefix}_"))
            .count();
        assert_eq!(all, flags.len());
    };
    let drift = viproute::Drift::all().iter_names();
    let change = viproute::Change::all().iter_names();
    let origin = viproute::Origin::all().iter_names();
    let change = change.map(|(name, flag)| (name, flag.bits().into()));
    let origin = origin.map(|(name, flag)| (name, flag.bits().into()));
    let drift: Vec<_> = drift.map(|(name, flag)| (name, flag.bits())).collect();
    check("DRIFT", &drift);
    check("CHANGE", &change.collect::<Vec<_>>());
    check("ORIGIN", &origin.collect::<Vec<_>>());
}

#[test]
fn structs_fit_older_and_newer_headers() {
    let value = [1_u32, 2, 3];
    let mut place = [9_u32; 5];
    // SAFETY: at most the place.
    unsafe { fill(place.as_mut_ptr().cast::<[u32; 3]>(), 8, &value) };
    assert_eq!(place, [1, 2, 9, 9, 9]);
    // SAFETY: as above.
    unsafe { fill(place.as_mut_ptr().cast::<[u32; 3]>(), 16, &value) };
    assert_eq!(place, [1, 2, 3, 0, 9]);
    let values = [7_u32, 8, 9].into_iter();
    // SAFETY: two elements of 8 bytes.
    let count = unsafe { fill_array(place.as_mut_ptr(), 8, 2, values) };
    assert_eq!((count, place), (2, [7, 0, 8, 0, 9]));
}

#[test]
fn deadline_has_come_when_poll_returns() {
    use std::time::Duration;
    assert_eq!(poll_timeout(None), -1);
    assert_eq!(poll_timeout(Some(Duration::ZERO)), 0);
    assert_eq!(poll_timeout(Some(Duration::from_nanos(1))), 1);
    assert_eq!(poll_timeout(Some(Duration::from_micros(1001))), 2);
    assert_eq!(poll_timeout(Some(Duration::MAX)), i32::MAX);
}

#[test]
fn addresses_keep_their_bytes() {
    let vip = vips(&["10.96.0.10"])[0];
    assert_eq!(
        (vip.family, &vip.address[..5]),
        (2, &[10, 96, 0, 10, 0][..])
    );
    let vip = vips(&["2001:db8::1"])[0];
    assert_eq!((vip.family, vip.address[15]), (10, 1));
    assert_eq!(
        viproute::Vip::try_from(vip).unwrap().to_string(),
        "2001:db8::1"
    );
    assert_eq!(
        vips(&["192.0.2.10"])[0].to_source().ok(),
        Some(NODE_V4.into())
    );
}
