//! What the kernel tests share: a private network, witnesses that do not use the library's own
//! reading of the kernel, and a raw netlink socket for saying exactly what is meant.
//!
//! * [`Net`]: a sandbox with the VIP link and the node's addresses; runs `ip`, sets sysctls.
//! * [`LocalState`]: addresses and routes as `ip -json` tells them, checked against [`Want`].
//! * [`Snapshot`]: everything on the node, to compare line by line.
//! * [`RouteWatcher`]: records notifications; [`never_without_local_route`] replays them.
//! * [`example::Running`]: an example as a program that runs beside the test.
//! * [`Hammer`]: two threads that keep the RTNL busy.
//! * [`raw::Raw`]: one netlink socket, many messages, all acks.
#![allow(dead_code, unreachable_pub, unused_imports)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use viproute::{LinkRef, VipManager, VipManagerBuilder};

pub mod example;
pub mod hammer;
pub mod kit;
pub mod net;
pub mod raw;
pub mod snapshot;
pub mod state;
pub mod watch;

pub use hammer::Hammer;
pub use kit::{Random, kernel_since, vips_v4, vips_v6};
pub use net::Net;
pub use snapshot::Snapshot;
pub use state::{Address, LocalState, Route, Want};
pub use watch::{AddressEvent, Event, RouteEvent, RouteWatcher, never_without_local_route};

/// Before libtest has threads: afterwards no user namespace can be had.
#[allow(unsafe_code)]
#[ctor::ctor(unsafe)]
fn enter_sandbox() {
    if let Err(error) = viproute::sandbox::enter() {
        eprintln!("\n*** NO SANDBOX, so no test of this binary can run: {error}\n");
        std::process::exit(1);
    }
}

/// The link that holds the VIPs.
pub const VIP_LINK: &str = "kube-dummy-if";
/// The link that holds the node's addresses, unless a test says otherwise.
pub const NODE_LINK: &str = "node0";
/// The node's IPv4 address.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The node's IPv6 address.
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// Both: what VIPs shall have as preferred source.
pub const SOURCES: [IpAddr; 2] = [IpAddr::V4(NODE_V4), IpAddr::V6(NODE_V6)];

/// Number of the table `main`.
pub const TABLE_MAIN: u32 = 254;
/// Number of the table `local`.
pub const TABLE_LOCAL: u32 = 255;
/// Protocol `kernel`.
pub const PROTO_KERNEL: u8 = 2;
/// Route type `local`.
pub const TYPE_LOCAL: u32 = 2;
/// Route type `broadcast`.
pub const TYPE_BROADCAST: u32 = 3;

/// `n` VIPs of each family, in turns.
pub fn vips(n: usize) -> Vec<IpAddr> {
    vips_v4(n)
        .into_iter()
        .zip(vips_v6(n))
        .flat_map(|(v4, v6)| [v4, v6])
        .collect()
}

/// A manager's configuration for [`VIP_LINK`], with the node's addresses as sources.
pub fn builder() -> VipManagerBuilder {
    builder_of(VIP_LINK)
}

/// The same for another link.
pub fn builder_of(link: impl Into<LinkRef>) -> VipManagerBuilder {
    VipManager::builder(link).source(NODE_V4).source(NODE_V6)
}

/// The address that this text says.
pub fn vip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Which VIPs failed, and why.
pub fn causes(report: &viproute::Report) -> Vec<(IpAddr, viproute::Cause)> {
    let failures = report.failures.iter();
    failures.map(|f| (f.vip.addr(), f.cause)).collect()
}

/// The length of a host prefix.
pub fn host_bits(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

/// `n`, or the number in `VIPROUTE_AT_MOST` where that is less: for processors on which ten thousand
/// VIPs take minutes. It says so on the real standard error.
pub fn at_most(n: usize) -> usize {
    use std::io::Write;
    let Ok(limit) = std::env::var("VIPROUTE_AT_MOST") else {
        return n;
    };
    let limit: usize = limit.parse().expect("VIPROUTE_AT_MOST is a number");
    if limit < n {
        let _ = writeln!(
            std::io::stderr(),
            "\n*** SCALED to {limit} VIPs, not {n} (VIPROUTE_AT_MOST)\n"
        );
    }
    n.min(limit)
}

/// Runs a test with each item, all at once: each on a thread of its own, and so in a network namespace of
/// its own. For tests that wait most of the time.
pub fn side_by_side<T: Send>(items: impl IntoIterator<Item = T>, test: impl Fn(T) + Sync) {
    let test = &test;
    std::thread::scope(|scope| {
        for item in items {
            scope.spawn(move || test(item));
        }
    });
}

/// Sets the flag when dropped, also by a panic: a thread of the scope that waits for the flag ends.
pub struct SetOnDrop<'a>(pub &'a std::sync::atomic::AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// How often, how many or how long: the first with `VIPROUTE_TESTS=full` (`tests/run --full`), else the
/// second, which shows the same behaviour with less confidence.
pub fn full_or_quick<N>(full: N, quick: N) -> N {
    match std::env::var("VIPROUTE_TESTS").as_deref() {
        Ok("full") => full,
        Ok("quick") | Err(_) => quick,
        Ok(other) => panic!("VIPROUTE_TESTS is full or quick, not {other:?}"),
    }
}

/// The number in this environment variable, or else [`full_or_quick`].
pub fn number<N: std::str::FromStr>(variable: &str, full: N, quick: N) -> N {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")),
        Err(_) => full_or_quick(full, quick),
    }
}

/// Says on the real standard error, past libtest's capture, that a test could not run in full and
/// why.
pub fn skipped(test: &str, why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "\n*** SKIPPED {test}: {why}\n");
}
