#![allow(unreachable_pub)]

//! The states that `normalize` repairs (tests/common/broken.rs), and for each the fewest operations that
//! repair it while no other writer is there.
//!
//! Not here: a VIP whose address is gone ("route-only to address"), a source that has gone (repaired as
//! another source), what kube-proxy and kube-router leave (works of their own), and a broadcast route,
//! which the kernel makes again.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_EXCL, NLM_F_REPLACE};
use viproute::Binding;

use crate::operations::{DESIRED, Group, Op, Op::*, Other, Place, Source};
use crate::{Set, Work, all_right, await_kernels, none, normalize, put_right};

const NO_SOURCE: Other = Other {
    source: Source::No,
    ..DESIRED
};
const FORMER_SOURCE: Other = Other {
    source: Source::Former,
    ..DESIRED
};
/// The IPv4 route that the kernel makes for an address.
const KERNELS_V4: Other = Other {
    source: Source::Vip,
    ..DESIRED
};
const STATIC: Other = Other {
    protocol: 4,
    ..DESIRED
};
const UNICAST: Other = Other {
    place: Place::UnicastInLocal,
    source: Source::No,
    ..DESIRED
};
const IN_MAIN: Other = Other {
    place: Place::UnicastInMain,
    source: Source::No,
    protocol: 3,
    metric: 300,
    ..DESIRED
};
const PREFIX_V6: Other = Other {
    place: Place::UnicastInMain,
    source: Source::No,
    metric: 256,
    ..DESIRED
};
const METRIC_500: Other = Other {
    metric: 500,
    ..DESIRED
};
const METRIC_2000: Other = Other {
    metric: 2000,
    ..DESIRED
};
const TOS: Other = Other { tos: 16, ..DESIRED };

/// A work: VIPs that are right, or that have the kernel's routes and no others (`kernels`), then these
/// operations, `normalize`, and the operations that end the same.
macro_rules! state {
    ($name:literal, $before:expr => $cure:expr) => {
        state!($name, put_right, $before => $cure)
    };
    ($name:literal, kernels, $before:expr => $cure:expr) => {
        state!($name, put_address, $before => $cure)
    };
    ($name:literal, kernels, $before:expr => $cure:expr, guarded: $guarded:expr) => {
        Work {
            guarded: |set| vec![Group::each(&set.vips, &$guarded)],
            ..state!($name, put_address, $before => $cure)
        }
    };
    ($name:literal, $start:ident, $before:expr => $cure:expr) => {
        Work {
            name: concat!($name, ": normalize"),
            binding: Binding::Address,
            prepare: |set| {
                $start(set);
                set.send($before, &set.vips);
            },
            call: normalize,
            operations: |set| vec![Group::each(&set.vips, &$cure)],
            guarded: none,
            end: all_right,
        }
    };
}

/// The address as the library adds it, and so the kernel's local route.
fn put_address(set: &Set) {
    set.send([AddAddress], &set.vips);
    await_kernels(set);
}

const NOTHING: [Op; 0] = [];

/// The states of both families.
pub const BOTH: [Work; 8] = [
    state!("no route", [DeleteRoute] => [Route(NLM_F_EXCL)]),
    state!("no source", [Put(NLM_F_REPLACE, NO_SOURCE)] => [Route(NLM_F_REPLACE)]),
    state!("former source", [Put(NLM_F_REPLACE, FORMER_SOURCE)] => [Route(NLM_F_REPLACE)]),
    state!("other protocol", [Put(NLM_F_REPLACE, STATIC)] => [Route(NLM_F_REPLACE)]),
    state!("unicast in its place", [Put(NLM_F_REPLACE, UNICAST)] => [Route(NLM_F_REPLACE)]),
    state!("unicast in main", [Put(NLM_F_EXCL, IN_MAIN)] => [Take(IN_MAIN)]),
    state!(
        "other metrics beside it",
        [Put(NLM_F_EXCL, METRIC_500), Put(NLM_F_EXCL, METRIC_2000)]
            => [Take(METRIC_500), Take(METRIC_2000)]
    ),
    state!(
        "other metric",
        [Put(NLM_F_EXCL, METRIC_500), DeleteRoute] => [Route(NLM_F_EXCL), Take(METRIC_500)]
    ),
];

pub const V4: [Work; 6] = [
    state!("kernel's route", kernels, NOTHING => [Route(NLM_F_REPLACE)]),
    state!("kernel's route behind it", [Put(NLM_F_APPEND, KERNELS_V4)] => [DeleteKernels]),
    state!("kernel's route before it", kernels, [Route(NLM_F_APPEND)] => [DeleteKernels]),
    state!("other tos beside it", [Put(NLM_F_EXCL, TOS)] => [Take(TOS)]),
    // A deletion that names no source takes the first one of the protocol.
    state!(
        "three routes behind it",
        [Put(NLM_F_APPEND, FORMER_SOURCE), Put(NLM_F_APPEND, NO_SOURCE), Put(NLM_F_APPEND, STATIC)]
            => [Take(FORMER_SOURCE), Take(STATIC), Take(NO_SOURCE), Route(NLM_F_REPLACE)]
    ),
    state!(
        "three routes before it",
        [
            Put(NLM_F_REPLACE, FORMER_SOURCE),
            Put(NLM_F_APPEND, NO_SOURCE),
            Put(NLM_F_APPEND, STATIC),
            Route(NLM_F_APPEND),
        ] => [Take(FORMER_SOURCE), Take(NO_SOURCE), Take(STATIC)]
    ),
];

/// Deletes the kernel's route while no other route has its protocol.
const GUARDED: [Op; 3] = [StagedRoute, DeleteKernels, Route(NLM_F_REPLACE)];

pub const V6: [Work; 6] = [
    state!(
        "kernel's route", kernels, NOTHING => [Route(NLM_F_EXCL), DeleteKernels],
        guarded: [StagedRoute, StagedRoute, DeleteKernels, Route(NLM_F_REPLACE)]
    ),
    state!(
        "kernel's route before it", kernels, [Route(NLM_F_EXCL)] => [DeleteKernels],
        guarded: GUARDED
    ),
    state!(
        "kernel's route before another protocol",
        kernels,
        [Put(NLM_F_EXCL, STATIC)] => [DeleteKernels, Route(NLM_F_REPLACE)]
    ),
    state!(
        "kernel's route before another source",
        kernels,
        [Put(NLM_F_EXCL, FORMER_SOURCE)] => [DeleteKernels, Route(NLM_F_REPLACE)]
    ),
    state!("prefix route beside it", [Put(NLM_F_EXCL, PREFIX_V6)] => [DeletePrefixRoute]),
    state!(
        "prefix route only",
        [Put(NLM_F_EXCL, PREFIX_V6), DeleteRoute] => [Route(NLM_F_EXCL), DeletePrefixRoute]
    ),
];
