//! Puts service VIPs on a Linux link and brings each into its *single-route state*: by default one address on
//! the link, and in tables local and main exactly one route through the link to the VIP,
//!
//! ```text
//! local VIP dev kube-dummy-if table local proto kernel scope host src NODE_IP
//! ```
//!
//! so that the node's own traffic to a VIP has the node's address as its source. In IPv4 a route
//! replacement is enough. In IPv6 the kernel adds two routes of its own. It inserts one of them late,
//! from a work queue, and that late route wins over the desired route: connections from the node to its
//! own VIPs time out. A deletion of the late route in the obvious order deletes the desired route
//! instead, and the kernel acks every step. This crate uses an order without that race, for one VIP or
//! a hundred thousand in one call, and returns `Ok` only after it has *seen* the result in the kernel.
//!
//! ```no_run
//! use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
//! use viproute::{LinkKind, VipManager};
//!
//! let mut vips = VipManager::builder("kube-dummy-if")
//!     .source(Ipv4Addr::new(192, 0, 2, 10))
//!     .source("2001:db8::10".parse::<Ipv6Addr>()?)
//!     .create_link(LinkKind::Dummy)
//!     .open()?;
//! let report = vips.assign(["10.96.0.10".parse::<IpAddr>()?, "2001:db8:42:1::d45a".parse()?])?;
//! println!("{report}");
//! vips.normalize()?; // every VIP on the link, from any writer
//! vips.release(["10.96.0.10".parse::<IpAddr>()?])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The calls
//!
//! * [`assign`](VipManager::assign), [`release`](VipManager::release) and
//!   [`normalize_only`](VipManager::normalize_only) change the VIPs that the caller gives.
//!   [`normalize`](VipManager::normalize) changes every VIP on the link.
//! * [`reconcile`](VipManager::reconcile) makes the VIPs on the link equal a desired set. It removes only
//!   VIPs that a [`Claim`] covers. [`release_all`](VipManager::release_all) removes every claimed VIP.
//! * [`set_source`](VipManager::set_source) and [`set_binding`](VipManager::set_binding) move every VIP on the
//!   link.
//! * [`audit`](VipManager::audit), [`audit_only`](VipManager::audit_only),
//!   [`audit_deep`](VipManager::audit_deep), [`audit_deep_only`](VipManager::audit_deep_only),
//!   [`plan`](VipManager::plan), [`plan_assign`](VipManager::plan_assign) and
//!   [`plan_release`](VipManager::plan_release) change nothing.
//! * [`watcher`](VipManager::watcher) reports changes as events. A [`Keeper`] repairs them, in an event loop
//!   or on a thread of its own ([`KeeperHandle`]).
//!
//! A [`Binding`] holds a VIP by an address and a route, or by a route alone.
//!
//! Every call that writes returns a [`Report`] of all its VIPs, or an [`Error`] with that report. A failed
//! VIP does not affect the other VIPs.
//!
//! # What it does not do
//!
//! It announces nothing (ARP, NDP, BGP), touches no firewall, IPVS table, connection tracking or
//! sysctl, brings no asynchronous runtime, and does not count references to shared VIPs. It spawns
//! no process, reads no environment variable and keeps no state on disk.
//!
//! # VIPs with several owners
//!
//! The library counts no references. It keeps no state, so after a restart it would not know the owners of
//! a VIP, and a count that is one too low takes the VIP away from its last owner. The program that knows
//! the owners keeps a set for each, and gives the library the union. A VIP then goes with its last owner:
//!
//! ```
#![doc = include_str!("keeper/example.txt")]
#![doc = include_str!("keeper/example_keeper.txt")]
//! use std::collections::{BTreeMap, BTreeSet};
//!
//! let [shared, own] = [Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 96, 0, 11)];
//! let mut owners = BTreeMap::from([
//!     ("dns", BTreeSet::from([shared])),
//!     ("web", BTreeSet::from([shared, own])),
//! ]);
//! keeper.set_desired(owners.values().flatten());
//! assert_eq!(keeper.dispatch(usize::MAX)?.report.assigned, 2);
//! owners.remove("web");
//! keeper.set_desired(owners.values().flatten());
//! // The other owner still has the shared VIP.
//! assert_eq!(keeper.dispatch(usize::MAX)?.report.released, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Privilege
//!
//! Calls that write need `CAP_NET_ADMIN` in the user namespace that owns the network namespace. A
//! call that finds every VIP in the desired state needs none. Entering another namespace ([`Netns`])
//! needs `CAP_SYS_ADMIN`.
//!
//! # Features
//!
//! * `sandbox`: the module `sandbox`, private namespaces for tests of code that uses this crate.
//! * `serde`: `Serialize` for all that is reported or planned ([`Report`], [`Error`], [`Audit`], [`Plan`],
//!   [`Event`], [`Dispatched`], [`Counters`], [`KeeperStatus`] and their parts), and `Serialize` and
//!   `Deserialize` for [`Vip`], as text.
//!
//! Serialized fields have their Rust names, a kind is its `as_str()`, flags are an array of names in
//! lower case, and a duration is a number of seconds in a field named `…_seconds`. [`Cause`], [`Reason`] and
//! [`Action`] stand in the fields `cause`, `reason` and `action` of what they belong to, with their data
//! beside them. Later versions may add fields and names. They do not change those that exist.
//!
//! * `tracing`: spans and events of the crate `tracing`, with the target `viproute`. Without the feature,
//!   nothing of it is compiled.
//!
//! Each call has a span: `assign`, `normalize`, `release`, `reconcile`, `release_all`, `set_binding`, `audit`,
//! `plan`, and `dispatch` of a [`Keeper`]. [`normalize_only`](VipManager::normalize_only) and
//! [`set_source`](VipManager::set_source) have the span `normalize`, and every audit and plan has that of its
//! kind. The fields are `link`, its name or index, and `vips`, the number of given VIPs, or in `dispatch` of
//! desired VIPs. The message of an event is its name:
//!
//! | event | level | fields | meaning |
//! |---|---|---|---|
//! | `outcome` | debug | `vip` `kind` `cured` | an [`Outcome`] |
//! | `failure` | warn | `vip` `cause` `operation` `errno` `text` `detail` `drift` | a [`Failure`]; of a keeper, a new failure |
//! | `recovered` | info | `vip` `cause` | a keeper's failure that ended |
//! | `done` | info | `assigned` `repaired` `released` `unchanged` `failed` `writes` `retries` | the end of a call that writes, or of a dispatch with news |
//! | `audited` | info | `vips` `drifted` | the end of an audit |
//! | `error` | warn | `kind` `detail` | a call failed as a whole |
//! | `wait` | debug | `vips` | a call waits for the kernel |
//! | `pause` | debug | `vip` `seconds` | a call pauses, or a keeper puts off the VIP, or without `vip` the link |
//! | `retry` | debug | `vip` `operation` | a call repeats a write |
//! | `lost` | info | `what` | `notifications`, a `dump`, `replies` or `requests` were lost, so the kernel is read again |
//! | `resync` | debug | | a keeper reads its whole link |
//! | `missing` | warn | `family` `kind` `detail` | a keeper waits for a link or source ([`Missing`]) |
//! | `available` | info | `family` `kind` | that wait is over |
//! | `refused` | warn | `kind` `detail` | a keeper releases nothing that is claimed ([`Dispatched::refused`]) |
//!
//! The promise of `serde` holds here, too.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(target_os = "linux"))]
compile_error!("viproute speaks rtnetlink, which only Linux has: build it for a Linux target");

mod base;
#[cfg(feature = "bench-internals")]
#[doc(hidden)]
pub mod bench;
mod core;
mod engine;
#[cfg(test)]
mod faults;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
#[allow(missing_docs)]
pub mod fuzzing;
mod keeper;
mod link;
mod manager;
mod netlink;
mod outcome;
mod preview;
#[cfg(any(test, feature = "sandbox"))]
pub mod sandbox;
#[cfg(feature = "serde")]
mod serialize;
mod sys;
mod trace;
mod watcher;

pub use crate::core::{AddressFlags, Binding, Cause, Drift, Operation};
pub use base::{
    Family, InvalidProtocol, Metric, ParseVipError, Protocol, RejectReason, RouteType, Table, Vip,
};
/// Prefixes, as [`Claim::ranges`] and [`VipManagerBuilder::allow`] take them.
pub use ipnet;
pub use keeper::{
    Counters, Dispatched, FamilyStatus, Keeper, KeeperHandle, KeeperStatus, Missing, Waiting,
};
pub use link::{InvalidLinkIndex, LinkIndex, LinkKind, LinkRef, SourceAvoidance};
pub use manager::{VipManager, VipManagerBuilder};
pub use outcome::{
    Audit, Audited, Canceller, Claim, Error, ErrorKind, Failure, LinkStatus, Netns, Outcome,
    OutcomeKind, Report, SourceStatus,
};
pub use preview::{Action, Likelihood, Plan, PlannedRoute, PlannedStep, Reason};
pub use watcher::{Change, Event, Origin, Watcher};

/// The example of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

// A manager serves any thread, one at a time.
const _: () = {
    const fn assert<T: Send + Sync>() {}
    assert::<VipManager>();
    assert::<KeeperHandle>();
    assert::<Canceller>();
    assert::<VipManagerBuilder>();
    assert::<Netns>();
    assert::<Report>();
    assert::<Error>();
};
