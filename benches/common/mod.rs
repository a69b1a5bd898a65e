// Each bench uses a part of it.
#![allow(dead_code, unreachable_pub)]

//! What the benches share: a node of its own, VIPs, the floor, and a witness of the end state.

pub mod batch;
pub mod dump;
pub mod floor;
pub mod time;
pub mod wait;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use viproute::sandbox::Sandbox;
use viproute::{Binding, LinkKind, VipManager, VipManagerBuilder};

/// The link that holds the VIPs.
pub const LINK: &str = "kube-dummy-if";

/// The node's addresses, the desired preferred sources.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

/// The first `n` VIPs of the family.
pub fn v4(n: u32) -> Vec<IpAddr> {
    let base = u32::from(Ipv4Addr::new(10, 96, 0, 0));
    (1..=n).map(|i| Ipv4Addr::from(base + i).into()).collect()
}

pub fn v6(n: u32) -> Vec<IpAddr> {
    let base = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0x42, 0, 0, 0, 0, 0));
    (1..=n)
        .map(|i| Ipv6Addr::from(base + u128::from(i)).into())
        .collect()
}

/// Makes VIPs of one family.
pub type Vips = fn(u32) -> Vec<IpAddr>;

/// Both families.
pub const FAMILIES: [(&str, Vips); 2] = [("IPv4", v4), ("IPv6", v6)];

/// The source of an address's family.
pub fn source(of: &IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => NODE_V4.into(),
        IpAddr::V6(_) => NODE_V6.into(),
    }
}

pub fn ip(line: &str) -> bool {
    Command::new("ip")
        .args(line.split(' '))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

fn told_by_ip(line: &str) -> String {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {line}");
    String::from_utf8(output.stdout).unwrap()
}

/// A manager of [`LINK`] to be, with the node's sources.
pub fn builder() -> VipManagerBuilder {
    VipManager::builder(LINK).source(NODE_V4).source(NODE_V6)
}

pub fn manager(binding: Binding) -> VipManager {
    builder().binding(binding).open().unwrap()
}

/// A node of its own: a network namespace with the sources on a link.
pub struct Node {
    _sandbox: Sandbox,
    kind: &'static str,
}

impl Node {
    pub fn new() -> Self {
        let sandbox = Sandbox::new().unwrap();
        // Not every kernel has the dummy driver; a bridge without ports does as well.
        let kind = if ip("link add node0 type dummy") {
            "dummy"
        } else {
            assert!(ip("link add node0 type bridge"));
            "bridge"
        };
        assert!(ip("link set node0 arp off up"));
        assert!(ip(&format!("addr add {NODE_V4}/32 dev node0")));
        assert!(ip(&format!("addr add {NODE_V6}/128 dev node0 nodad")));
        Self {
            _sandbox: sandbox,
            kind,
        }
    }

    /// The kind of link that this kernel has.
    pub fn link_kind(&self) -> LinkKind {
        match self.kind {
            "dummy" => LinkKind::Dummy,
            _ => LinkKind::Bridge,
        }
    }

    /// A link for the VIPs without any; says its index.
    pub fn fresh_link(&self) -> u32 {
        // The name must be free, whatever the last run left.
        ip(&format!("link del {LINK}"));
        assert!(ip(&format!("link add {LINK} type {}", self.kind)));
        assert!(ip(&format!("link set {LINK} arp off up")));
        index_of(LINK)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Now, and not by the kernel's worker beside the next measurement; the node's other routes
        // first, because each IPv6 address that goes walks all that are left.
        ip("link del node0");
        ip(&format!("link del {LINK}"));
    }
}

/// The index of a link.
pub fn index_of(link: &str) -> u32 {
    let line = told_by_ip(&format!("-o link show {link}"));
    line.split(':').next().unwrap().parse().unwrap()
}

/// How many of the VIPs are not in their single-route state, as `ip` shows it: the address if it
/// shall be there, and exactly one route of the link in tables local and main, the desired one.
pub fn wrong(vips: &[IpAddr], with_address: bool) -> usize {
    let v6 = vips[0].is_ipv6();
    let family = if v6 { "-6" } else { "-4" };
    let mut addresses: HashMap<IpAddr, usize> = HashMap::new();
    for line in told_by_ip(&format!("{family} -o addr show dev {LINK}")).lines() {
        let cidr = line.split_whitespace().nth(3).unwrap();
        let (addr, length) = cidr.split_once('/').unwrap();
        if length == if v6 { "128" } else { "32" } && !line.contains("tentative") {
            *addresses.entry(addr.parse().unwrap()).or_default() += 1;
        }
    }
    let mut routes: HashMap<IpAddr, (usize, usize)> = HashMap::new();
    let mut count = |table: &str| {
        for line in told_by_ip(&format!("{family} route show table {table} dev {LINK}")).lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap();
            let local = first == "local";
            let to = if local { words.next().unwrap() } else { first };
            let Ok(to) = to.parse() else { continue };
            let (all, desired) = routes.entry(to).or_default();
            *all += 1;
            let src = format!("src {} ", source(&to));
            let metric = if v6 { "metric 1024 " } else { "scope host " };
            let line = format!("{line} ");
            *desired += usize::from(
                local
                    && table == "local"
                    && line.contains(&src)
                    && line.contains("proto kernel ")
                    && line.contains(metric),
            );
        }
    };
    count("local");
    count("main");
    vips.iter()
        .filter(|vip| {
            let address = addresses.get(vip).copied().unwrap_or_default();
            routes.get(vip) != Some(&(1, 1)) || address != usize::from(with_address)
        })
        .count()
}

/// How many of the VIPs left something on the link: an address, or a route in table local.
pub fn left(vips: &[IpAddr]) -> usize {
    let family = if vips[0].is_ipv6() { "-6" } else { "-4" };
    let addresses = told_by_ip(&format!("{family} -o addr show dev {LINK} scope global"));
    let links = told_by_ip(&format!("{family} -o addr show dev {LINK} scope link"));
    let routes = told_by_ip(&format!(
        "{family} route show table local dev {LINK} type local"
    ));
    let link_local = |line: &&str| line.contains("fe80:");
    [addresses, links, routes]
        .iter()
        .flat_map(|text| text.lines())
        .filter(|line| !link_local(line))
        .count()
}

/// The pure parts of the library with the rows of the given VIPs.
pub fn pure(vips: &[IpAddr]) -> viproute::bench::Pure {
    viproute::bench::Pure::new(dump::LINK, [NODE_V4.into(), NODE_V6.into()], vips)
}

/// Whether the kernel's local route of any given IPv6 VIP is still to come: each VIP has
/// two routes then, the desired and the late one. Pauses before the next look.
pub fn late(vips: &[IpAddr]) -> bool {
    std::thread::sleep(std::time::Duration::from_millis(50));
    let routes = told_by_ip(&format!("-6 route show table local dev {LINK} type local"));
    let kernels = routes.lines().filter(|line| line.contains("metric 0 "));
    // One is of the link's own address.
    kernels.filter(|line| !line.contains("fe80:")).count() < vips.len()
}
