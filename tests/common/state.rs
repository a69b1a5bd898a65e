//! Addresses and routes as `ip -json` tells them, and what is wrong with VIPs in them.

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::Value;

use super::net::ip_json;
use super::{PROTO_KERNEL, SOURCES, TABLE_LOCAL, TABLE_MAIN, TYPE_LOCAL, VIP_LINK, host_bits};

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub local: IpAddr,
    pub prefix_len: u8,
    pub dev: String,
    pub scope: u32,
    pub broadcast: Option<IpAddr>,
    pub tentative: bool,
    pub dadfailed: bool,
    pub nodad: bool,
    pub noprefixroute: bool,
    /// Both lifetimes are unlimited.
    pub forever: bool,
    /// The valid lifetime is limited.
    pub expires: bool,
    /// The link is up.
    pub link_up: bool,
}

impl Address {
    /// Another writer may have made it, without the library's flags.
    pub fn forgive_flags(&mut self) {
        (self.nodad, self.noprefixroute) = (true, true);
    }
}

/// A route to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub dst: IpAddr,
    pub table: u32,
    pub kind: u32,
    pub dev: String,
    pub protocol: u32,
    pub scope: u32,
    pub metric: u32,
    pub prefsrc: Option<IpAddr>,
}

impl Route {
    /// Of type local, in table local.
    pub fn is_local(&self) -> bool {
        self.kind == TYPE_LOCAL && self.table == TABLE_LOCAL
    }
}

/// What VIPs shall look like.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    pub link: &'a str,
    /// The preferred sources; a family without one shall have the kernel's own route.
    pub sources: &'a [IpAddr],
    pub protocol: u8,
    /// Address binding; otherwise no address shall be on the link.
    pub address: bool,
}

impl Default for Want<'_> {
    fn default() -> Self {
        Self {
            link: VIP_LINK,
            sources: &SOURCES,
            protocol: PROTO_KERNEL,
            address: true,
        }
    }
}

/// All addresses, and all routes to hosts, of one moment.
///
/// The kernel does not promise that a dump of IPv6 routes is whole while others write to the
/// table, and does not mark a interrupted one, so read it when nobody writes (stop the `Hammer` first).
#[derive(Clone, Debug, Default)]
pub struct LocalState {
    pub addresses: HashMap<IpAddr, Vec<Address>>,
    pub routes: HashMap<IpAddr, Vec<Route>>,
    /// Link indices by name.
    pub links: HashMap<String, u32>,
}

impl LocalState {
    /// Reads the calling thread's namespace: three runs of `ip`, however many VIPs there are.
    #[track_caller]
    pub fn read() -> Self {
        let mut state = Self::default();
        for link in array(&ip_json("addr show")) {
            state.add_link(link);
        }
        for route in array(&ip_json("-4 route show table all")) {
            state.add_route(route, false);
        }
        for route in array(&ip_json("-6 route show table all")) {
            state.add_route(route, true);
        }
        state
    }

    fn add_link(&mut self, link: &Value) {
        let Some(dev) = link["ifname"].as_str() else {
            return;
        };
        self.links
            .insert(dev.to_owned(), number(&link["ifindex"]).unwrap());
        let link_up = array(&link["flags"]).iter().any(|flag| flag == "UP");
        for info in array(&link["addr_info"]) {
            let Some(local) = address(&info["local"]) else {
                continue;
            };
            let flag = |name: &str| info[name].as_bool().unwrap_or(false);
            let forever = |name: &str| info[name].as_u64() == Some(u64::from(u32::MAX));
            self.addresses.entry(local).or_default().push(Address {
                local,
                prefix_len: u8::try_from(info["prefixlen"].as_u64().unwrap()).unwrap(),
                dev: dev.to_owned(),
                scope: number(&info["scope"]).unwrap_or(0),
                broadcast: address(&info["broadcast"]),
                tentative: flag("tentative"),
                dadfailed: flag("dadfailed"),
                nodad: flag("nodad"),
                noprefixroute: flag("noprefixroute"),
                forever: forever("valid_life_time") && forever("preferred_life_time"),
                expires: !forever("valid_life_time"),
                link_up,
            });
        }
    }

    fn add_route(&mut self, route: &Value, v6: bool) {
        // A host comes without its length; "default" and prefixes are no addresses.
        let Some(dst) = route["dst"].as_str() else {
            return;
        };
        let host = dst.strip_suffix(if v6 { "/128" } else { "/32" });
        let Ok(dst) = host.unwrap_or(dst).parse::<IpAddr>() else {
            return;
        };
        let mut seen = Route {
            dst,
            table: number(&route["table"]).unwrap_or(TABLE_MAIN),
            kind: number(&route["type"]).unwrap_or(1),
            dev: route["dev"].as_str().unwrap_or_default().to_owned(),
            protocol: number(&route["protocol"]).unwrap_or(0),
            scope: number(&route["scope"]).unwrap_or(0),
            metric: number(&route["metric"]).unwrap_or(0),
            prefsrc: address(&route["prefsrc"]),
        };
        let routes = self.routes.entry(dst).or_default();
        if seen.dev.is_empty() {
            for hop in array(&route["nexthops"]) {
                hop["dev"]
                    .as_str()
                    .unwrap_or_default()
                    .clone_into(&mut seen.dev);
                routes.push(seen.clone());
            }
        } else {
            routes.push(seen);
        }
    }

    /// The addresses on all links that are this one.
    pub fn addresses_of(&self, vip: IpAddr) -> &[Address] {
        self.addresses.get(&vip).map_or(&[], Vec::as_slice)
    }

    /// The routes of all tables to this host.
    pub fn routes_of(&self, vip: IpAddr) -> &[Route] {
        self.routes.get(&vip).map_or(&[], Vec::as_slice)
    }

    /// What is wrong with these VIPs: one line a VIP, in their order.
    pub fn wrong_vips(&self, vips: &[IpAddr], want: &Want<'_>) -> Vec<String> {
        vips.iter()
            .filter_map(|&vip| {
                let faults = self.faults(vip, want);
                (!faults.is_empty()).then(|| format!("{vip}: {}", faults.join("; ")))
            })
            .collect()
    }

    fn faults(&self, vip: IpAddr, want: &Want<'_>) -> Vec<String> {
        let mut faults = Vec::new();
        let addresses: Vec<_> = self
            .addresses_of(vip)
            .iter()
            .filter(|address| address.dev == want.link)
            .collect();
        if !want.address && !addresses.is_empty() {
            faults.push(format!("has an address: {addresses:?}"));
        }
        if want.address {
            match addresses[..] {
                [] => faults.push("no address".to_owned()),
                [one] => faults.extend(address_faults(one)),
                _ => faults.push(format!("{} addresses: {addresses:?}", addresses.len())),
            }
        }

        let source = want
            .sources
            .iter()
            .copied()
            .find(|source| source.is_ipv4() == vip.is_ipv4());
        let (through, others): (Vec<_>, Vec<_>) = self
            .routes_of(vip)
            .iter()
            .filter(|route| matches!(route.table, TABLE_LOCAL | TABLE_MAIN))
            .partition(|route| route.dev == want.link);
        match through[..] {
            [] => faults.push("no route".to_owned()),
            [one] => {
                faults.extend(route_faults(one, source, want.protocol));
                // The kernel prefers the lower metric, and takes either of two equal ones.
                if let Some(winner) = others
                    .iter()
                    .find(|other| other.is_local() && other.metric <= one.metric)
                {
                    faults.push(format!("another link's route wins: {winner:?}"));
                }
            }
            _ => faults.push(format!("{} routes: {through:?}", through.len())),
        }
        faults
    }

    /// Panics unless every given VIP is in its single-route state.
    #[track_caller]
    pub fn assert_single_route(&self, vips: &[IpAddr], want: &Want<'_>) {
        assert!(!vips.is_empty(), "no VIP given, so nothing would be tested");
        let wrong = self.wrong_vips(vips, want);
        assert!(wrong.is_empty(), "{}", listing("wrong", vips, &wrong));
    }

    /// Panics if the link has an address or, in any table, a route of a given VIP.
    #[track_caller]
    pub fn assert_absent(&self, vips: &[IpAddr], link: &str) {
        assert!(!vips.is_empty(), "no VIP given, so nothing would be tested");
        let there: Vec<_> = vips
            .iter()
            .filter_map(|&vip| {
                let addresses: Vec<_> = self
                    .addresses_of(vip)
                    .iter()
                    .filter(|address| address.dev == link)
                    .collect();
                let routes: Vec<_> = self
                    .routes_of(vip)
                    .iter()
                    .filter(|route| route.dev == link)
                    .collect();
                (!addresses.is_empty() || !routes.is_empty())
                    .then(|| format!("{vip}: {addresses:?} {routes:?}"))
            })
            .collect();
        assert!(there.is_empty(), "{}", listing("still there", vips, &there));
    }
}

fn address_faults(address: &Address) -> Vec<String> {
    let mut faults = Vec::new();
    if address.prefix_len != host_bits(address.local) {
        faults.push(format!("address has length /{}", address.prefix_len));
    }
    if address.tentative {
        faults.push("address is tentative".to_owned());
    }
    if address.dadfailed {
        faults.push("address failed its DAD".to_owned());
    }
    if address.expires {
        faults.push("address expires".to_owned());
    }
    if address.broadcast.is_some() {
        faults.push("address has a broadcast address".to_owned());
    }
    if address.local.is_ipv6() && !address.noprefixroute {
        faults.push("address without noprefixroute".to_owned());
    }
    if address.local.is_ipv6() && !address.nodad {
        faults.push("address without nodad".to_owned());
    }
    faults
}

fn route_faults(route: &Route, source: Option<IpAddr>, protocol: u8) -> Vec<String> {
    let mut faults = Vec::new();
    if !route.is_local() {
        faults.push("its route is not a local one".to_owned());
    }
    let v4 = route.dst.is_ipv4();
    let (metric, protocol, prefsrc) = match source {
        Some(_) if v4 => (0, protocol, source),
        Some(_) => (1024, protocol, source),
        // The kernel's own.
        None => (0, PROTO_KERNEL, v4.then_some(route.dst)),
    };
    if route.protocol != u32::from(protocol) {
        faults.push(format!("protocol {} for {protocol}", route.protocol));
    }
    if route.prefsrc != prefsrc {
        faults.push(format!("source {:?} for {prefsrc:?}", route.prefsrc));
    }
    if route.metric != metric {
        faults.push(format!("metric {} for {metric}", route.metric));
    }
    // 254: host.
    if v4 && route.scope != 254 {
        faults.push(format!("scope {} for host", route.scope));
    }
    if !faults.is_empty() {
        faults.push(format!("{route:?}"));
    }
    faults
}

/// The count, and the first few.
pub fn listing(what: &str, of: &[IpAddr], lines: &[String]) -> String {
    let first = lines.iter().take(8).map(|line| format!("\n  {line}"));
    let more = if lines.len() > 8 { "\n  ..." } else { "" };
    format!(
        "{} of {} VIPs are {what}:{}{more}",
        lines.len(),
        of.len(),
        first.collect::<String>()
    )
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

/// `ip -N` prints numbers, most of them as text; `None` where the field is missing.
#[track_caller]
fn number(value: &Value) -> Option<u32> {
    match value {
        Value::Null => None,
        Value::Number(number) => Some(u32::try_from(number.as_u64().unwrap()).unwrap()),
        Value::String(text) => Some(
            text.parse()
                .unwrap_or_else(|_| panic!("ip -N printed the name {text:?} for a number")),
        ),
        other => panic!("no number: {other}"),
    }
}
