//! Everything on the node, line by line.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

use serde_json::Value;

use super::net::ip_json;

/// What `ip` shows of links, addresses, routes, rules, next hops and neighbours, as sorted lines,
/// without what changes by itself (counters, timers, finite lifetimes).
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot(Vec<String>);

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// What changes while nothing happens.
const VOLATILE: [&str; 10] = [
    "stats",
    "stats64",
    "used",
    "age",
    "confirmed",
    "updated",
    "probes",
    "refcnt",
    "expires",
    "error",
];

impl Snapshot {
    /// Reads the objects of the calling thread's namespace, leaving out the lines that name these VIPs.
    #[track_caller]
    pub fn read(without: &[IpAddr]) -> Self {
        let without: HashSet<_> = without.iter().copied().collect();
        let mut lines = Vec::new();
        for (what, args) in [
            ("link", "link show"),
            ("route", "-4 route show table all"),
            ("route", "-6 route show table all"),
            ("rule", "-4 rule show"),
            ("rule", "-6 rule show"),
            ("nexthop", "nexthop show"),
            ("neighbour", "neigh show"),
        ] {
            let Value::Array(objects) = ip_json(args) else {
                panic!("ip {args} printed no list");
            };
            for object in objects {
                push(&mut lines, what, object, &without);
            }
        }
        let Value::Array(links) = ip_json("addr show") else {
            panic!("ip addr printed no list");
        };
        for mut link in links {
            let dev = link["ifname"].take();
            let Value::Array(addresses) = link["addr_info"].take() else {
                continue;
            };
            for mut address in addresses {
                address["dev"] = dev.clone();
                push(&mut lines, "address", address, &without);
            }
        }
        lines.sort_unstable();
        Self(lines)
    }

    /// The lines.
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    /// What a later snapshot lacks (`-`) and what it has beyond this one (`+`).
    pub fn diff(&self, later: &Self) -> Vec<String> {
        // A line may be there several times, and its number counts.
        let mut extra = later.0.clone();
        let mut out = Vec::new();
        for line in &self.0 {
            match extra.binary_search(line) {
                Ok(at) => drop(extra.remove(at)),
                Err(_) => out.push(format!("- {line}")),
            }
        }
        out.extend(extra.into_iter().map(|line| format!("+ {line}")));
        out
    }

    /// Panics with the difference, if there is one.
    #[track_caller]
    pub fn assert_same(&self, later: &Self) {
        let diff = self.diff(later);
        assert!(
            diff.is_empty(),
            "the rest of the node changed:\n{}",
            diff.join("\n")
        );
    }
}

fn push(lines: &mut Vec<String>, what: &str, mut object: Value, without: &HashSet<IpAddr>) {
    if names_one_of(&object, without) {
        return;
    }
    strip(&mut object);
    // Objects without content stand for what a filter left out.
    if object.as_object().is_some_and(|map| !map.is_empty()) {
        lines.push(format!("{what} {object}"));
    }
}

/// Whether the destination or the address is a given one. A route *from* a VIP is not its own.
fn names_one_of(object: &Value, without: &HashSet<IpAddr>) -> bool {
    ["dst", "local"].iter().any(|key| {
        object[key]
            .as_str()
            .map(|text| text.split_once('/').map_or(text, |(host, _)| host))
            .and_then(|text| text.parse().ok())
            .is_some_and(|address: IpAddr| without.contains(&address))
    })
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !VOLATILE.contains(&key.as_str()) && !key.ends_with("_timer"));
            map.iter_mut().for_each(|(key, value)| {
                if key.ends_with("_life_time") && value.as_u64() != Some(u64::from(u32::MAX)) {
                    *value = Value::from("finite");
                }
                strip(value);
            });
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}
