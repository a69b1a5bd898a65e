//! Random calls and random changes by others, with the kernel itself as the judge: after each call
//! what it promised holds and nothing else has changed, and one `reconcile` at the end brings
//! about exactly what is desired.
//!
//! Some hundred cases by default; more by one command:
//!
//! ```text
//! PROPTEST_CASES=5000 cargo test --test property -- --nocapture
//! ```
//!
//! A case that fails is shrunk, and printed as a script of `ip` commands that replays it in
//! `unshare -Urn bash`, with this library's calls as commands of the example `vip`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/broken.rs"]
mod broken;
mod common;
#[path = "common/rules.rs"]
mod rules;
#[path = "common/seen.rs"]
mod seen;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage::{DelRoute, NewAddress};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use serde_json::Value;

use broken::{OTHER_V4, OTHER_V6};
use common::raw::{self, CREATE_EXCL, Raw};
use common::{
    NODE_LINK, NODE_V4, NODE_V6, Net, PROTO_KERNEL, TABLE_LOCAL, TABLE_MAIN, VIP_LINK, Want,
    host_bits, vips,
};
use rules::{Churn, Motion};
use seen::{Line, Seen, index_of};
use viproute::sandbox::Sandbox;
use viproute::{Binding, Cause, Claim, Error, ErrorKind, Protocol, Report, VipManager};

/// Another link, on which a manager of its own puts VIPs.
const SECOND_LINK: &str = "second0";
/// A link with things of others.
const OTHER_LINK: &str = "other0";
/// The name of our link while it has another.
const AWAY_LINK: &str = "away0";
const VRF: &str = "vrf0";
/// What the link gets instead of a last address (127.86.73.80), on the way to route-only VIPs.
const ANCHOR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 86, 73, 80));

/// Threads of each test.
const WORKERS: u32 = 2;

/// Cases of each test unless PROPTEST_CASES says otherwise.
fn usual_cases() -> u32 {
    common::full_or_quick(150, 40)
}

/// The VIPs, four of each family. Few, so that changes meet.
fn universe() -> Vec<IpAddr> {
    vips(4)
}

/// Some of the VIPs, a bit each; never none.
type Set = u8;

fn members(set: Set) -> Vec<IpAddr> {
    let all = universe().into_iter().enumerate();
    all.filter(|(at, _)| set & (1 << at) != 0)
        .map(|(_, vip)| vip)
        .collect()
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// The link that holds the VIPs.
    First,
    /// Another on the same link, with another protocol.
    Beside,
    /// One on another link.
    Elsewhere,
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Assign(Set),
    Normalize,
    NormalizeOnly(Set),
    Release(Set),
    Reconcile(Set),
    ReleaseAll,
    SetSource(usize),
    SetBinding(bool),
}

/// The sources that the node has, of IPv4 and of IPv6.
const SOURCES: [IpAddr; 4] = [
    IpAddr::V4(NODE_V4),
    IpAddr::V4(OTHER_V4),
    IpAddr::V6(NODE_V6),
    IpAddr::V6(OTHER_V6),
];

/// A route that others put in, or take.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A local one through our link.
    Local,
    /// One to a neighbour, in table main, local or another.
    UnicastMain,
    UnicastLocal,
    UnicastHundred,
    LocalHundred,
    /// Through another link.
    UnicastElsewhere,
    LocalElsewhere,
    LocalByLo,
    Blackhole,
    /// Through a nexthop object of another link, or of the VIP link.
    ObjectMain,
    ObjectLocal,
    ObjectOfOurs,
}

const KINDS: [Kind; 12] = [
    Kind::Local,
    Kind::UnicastMain,
    Kind::UnicastLocal,
    Kind::UnicastHundred,
    Kind::LocalHundred,
    Kind::UnicastElsewhere,
    Kind::LocalElsewhere,
    Kind::LocalByLo,
    Kind::Blackhole,
    Kind::ObjectMain,
    Kind::ObjectLocal,
    Kind::ObjectOfOurs,
];

/// Where the link goes, out of our reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    Deleted,
    Renamed,
    /// Into another network namespace.
    Moved,
    InVrf,
}

impl Away {
    /// The ways that this kernel has.
    fn ways() -> Vec<Self> {
        let mut ways = vec![Self::Deleted, Self::Renamed];
        ways.extend(LINK_KINDS.movable().then_some(Self::Moved));
        ways.extend(LINK_KINDS.vrf.then_some(Self::InVrf));
        ways
    }

    fn go(self) -> Vec<String> {
        match self {
            Self::Deleted => vec![format!("ip link del dev {VIP_LINK}")],
            Self::Renamed => vec![
                // Not every kernel renames a link that is up.
                format!("ip link set dev {VIP_LINK} down"),
                format!("ip link set dev {VIP_LINK} name {AWAY_LINK}"),
                format!("ip link set dev {AWAY_LINK} up"),
            ],
            Self::Moved => vec![format!("ip link set dev {VIP_LINK} netns $other")],
            Self::InVrf => vec![format!("ip link set dev {VIP_LINK} master {VRF}")],
        }
    }

    /// Where the name has another link now, the link that went away stays there.
    fn come_back(self, kind: &str) -> Vec<String> {
        let up = format!("ip link set dev {VIP_LINK} up");
        match self {
            Self::Deleted => make_link(VIP_LINK, kind),
            Self::Renamed => vec![
                format!("ip link set dev {AWAY_LINK} down"),
                format!("ip link set dev {AWAY_LINK} name {VIP_LINK}"),
                format!("ip link set dev {AWAY_LINK} up"),
                up,
            ],
            Self::Moved => vec![
                format!("{IN_OTHER}ip link set dev {VIP_LINK} netns $here"),
                up,
            ],
            Self::InVrf => vec![format!("ip link set dev {VIP_LINK} nomaster")],
        }
    }
}

/// What others do, in a way that `ip` can.
#[derive(Clone, Copy, Debug)]
enum Foreign {
    Away(Away),
    Back(Away),
    AwayAndBack(Away),
    Down,
    Up,
    Flap,
    FlapSecond,
    KeepAddresses(bool),
    ArpOnOff,
    Ipv6Off,
    Ipv6OffOn,
    Mtu,
    /// Of the link layer; an `ifb` refuses it.
    Mac,
    LoFlap,
    /// How: plain, with `noprefixroute`, with another length, deprecated, with a broadcast address.
    AddAddress {
        vip: usize,
        how: u8,
        link: u8,
    },
    DeleteAddress {
        vip: usize,
        link: u8,
    },
    PrefixRouteAgain {
        vip: usize,
    },
    Flush {
        v6: bool,
    },
    Unmanaged(bool),
    SourceGone(usize),
    SourceBack(usize),
    AddRoute {
        vip: usize,
        append: bool,
        kind: Kind,
        metric: usize,
        protocol: usize,
        source: usize,
    },
    DeleteRoute {
        vip: usize,
        kind: Kind,
        metric: usize,
        protocol: usize,
    },
    FlushRoutes {
        v6: bool,
    },
    /// What stands before the rule for table local, which moves to 100; 0: nothing, as at first.
    Rule {
        v6: bool,
        rule: usize,
    },
}

/// Rules before the one for table local.
const RULES: [&str; 8] = [
    "",
    "lookup 77",
    "lookup 78",
    "unreachable",
    "prohibit",
    "lookup main suppress_prefixlength 0",
    "fwmark 0x200/0xf00 lookup 77",
    "l3mdev",
];

const METRICS: [&str; 5] = ["", "", " metric 7", " metric 256", " metric 2000"];
const PROTOCOLS: [u8; 5] = [2, 201, 186, 3, 251];

impl Foreign {
    /// Whether from then on the kernel may bring IPv6 routes of addresses that have been there for
    /// long, late, and with nothing before them to show that they are on their way.
    fn stirs_the_kernel(self) -> bool {
        matches!(self, Self::ArpOnOff | Self::KeepAddresses(true))
    }

    /// The commands that do it; a command that fails changes nothing. `kind`: of the links.
    #[expect(clippy::too_many_lines, reason = "one arm for each kind of change")]
    fn commands(self, kind: &str) -> Vec<String> {
        let link = |words: &str| format!("ip link set dev {VIP_LINK} {words}");
        let conf = |key: &str, value: u8| {
            format!("echo {value} > /proc/sys/net/ipv6/conf/{VIP_LINK}/{key}")
        };
        let vip_of = |at: usize| universe()[at];
        let dev_of = |at: u8| [VIP_LINK, VIP_LINK, VIP_LINK, OTHER_LINK][usize::from(at % 4)];
        match self {
            Self::Away(away) => away.go(),
            Self::Back(away) => away.come_back(kind),
            Self::AwayAndBack(away) => [away.go(), away.come_back(kind)].concat(),
            Self::Down => vec![link("down")],
            Self::Up => vec![link("up")],
            Self::Flap => vec![link("down"), link("up")],
            Self::FlapSecond => ["down", "up"]
                .map(|words| format!("ip link set dev {SECOND_LINK} {words}"))
                .to_vec(),
            Self::KeepAddresses(keep) => vec![conf("keep_addr_on_down", keep.into())],
            Self::ArpOnOff => vec![link("arp on"), link("arp off")],
            Self::Ipv6Off => vec![conf("disable_ipv6", 1)],
            Self::Ipv6OffOn => vec![conf("disable_ipv6", 1), conf("disable_ipv6", 0)],
            Self::Mtu => vec![link("mtu 1400"), link("mtu 1500")],
            Self::Mac => vec![link("address 02:00:00:00:00:77")],
            Self::LoFlap => vec!["ip link set lo down".into(), "ip link set lo up".into()],
            Self::AddAddress { vip, how, link } => {
                let (vip, dev) = (vip_of(vip), dev_of(link));
                let v6 = vip.is_ipv6();
                let length = match (how, v6) {
                    (2, true) => 64,
                    (2, false) => 24,
                    _ => host_bits(vip),
                };
                let more = match (how, v6) {
                    (0, true) => " nodad",
                    (3, true) => " nodad preferred_lft 0",
                    (_, true) => " nodad noprefixroute",
                    (3, false) => " scope link",
                    (4, false) => &format!(" broadcast {vip}"),
                    (_, false) => "",
                };
                vec![format!("ip addr add {vip}/{length} dev {dev}{more}")]
            }
            Self::DeleteAddress { vip, link } => {
                let (vip, dev) = (vip_of(vip), dev_of(link));
                vec![format!("ip addr del {vip}/{} dev {dev}", host_bits(vip))]
            }
            Self::PrefixRouteAgain { vip } => {
                let vip = vip_of(vip);
                let bits = host_bits(vip);
                vec![format!("ip addr change {vip}/{bits} dev {VIP_LINK} nodad")]
            }
            Self::Flush { v6 } => {
                let family = if v6 { 6 } else { 4 };
                vec![format!(
                    "ip -{family} addr flush dev {VIP_LINK} scope global"
                )]
            }
            Self::Unmanaged(add) => {
                let verb = if add { "add" } else { "del" };
                vec![format!("ip addr {verb} 198.51.100.1/31 dev {VIP_LINK}")]
            }
            Self::SourceGone(at) => vec![source_command("del", SOURCES[at])],
            Self::SourceBack(at) => vec![source_command("add", SOURCES[at])],
            Self::AddRoute {
                vip,
                append,
                kind,
                metric,
                protocol,
                source,
            } => {
                let vip = vip_of(vip);
                let verb = if append { "append" } else { "replace" };
                let place = place(vip, kind);
                let scope = if vip.is_ipv4() && matches!(kind, Kind::Local | Kind::LocalElsewhere) {
                    " scope host"
                } else {
                    ""
                };
                let source = match (kind, source) {
                    (Kind::Local, 1) if vip.is_ipv4() => format!(" src {}", SOURCES[0]),
                    (Kind::Local, 2) if vip.is_ipv4() => format!(" src {}", SOURCES[1]),
                    (Kind::Local, 1) => format!(" src {}", SOURCES[2]),
                    (Kind::Local, 2) => format!(" src {}", SOURCES[3]),
                    _ => String::new(),
                };
                vec![format!(
                    "ip route {verb} {place} proto {}{}{scope}{source}",
                    PROTOCOLS[protocol], METRICS[metric]
                )]
            }
            Self::DeleteRoute {
                vip,
                kind,
                metric,
                protocol,
            } => {
                let place = place(vip_of(vip), kind);
                let protocol = match protocol {
                    0..=2 => format!(" proto {}", PROTOCOLS[protocol]),
                    _ => String::new(),
                };
                // The kernel's own on another link stays: `wait_for_other_links` waits for it.
                let metric = match kind {
                    Kind::LocalElsewhere if place.contains("::") => " metric 1024",
                    _ => METRICS[metric],
                };
                vec![format!("ip route del {place}{protocol}{metric}")]
            }
            Self::Rule { v6, rule } => {
                let ip = if v6 { "ip -6" } else { "ip -4" };
                let first = |verb: &str| format!("{ip} rule {verb} pref 0 lookup local");
                let clear = [
                    first("add"),
                    format!("{ip} rule del pref 99"),
                    format!("{ip} rule del pref 100"),
                ];
                if rule == 0 {
                    return clear.to_vec();
                }
                let mut commands = clear.to_vec();
                commands.extend([
                    format!("{ip} rule add pref 100 lookup local"),
                    format!("{ip} rule add pref 99 {}", RULES[rule]),
                    first("del"),
                ]);
                commands
            }
            Self::FlushRoutes { v6 } => {
                let family = if v6 { 6 } else { 4 };
                vec![format!(
                    "ip -{family} route flush table local dev {VIP_LINK}"
                )]
            }
        }
    }
}

/// Destination, table and way of a route, in the words of `ip`.
fn place(vip: IpAddr, kind: Kind) -> String {
    let object = |own: bool| match (vip.is_ipv4(), own) {
        (true, false) => 52,
        (false, false) => 62,
        (true, true) => 53,
        (false, true) => 63,
    };
    match kind {
        Kind::Local => format!("local {vip} dev {VIP_LINK} table local"),
        Kind::UnicastMain => format!("{vip} dev {VIP_LINK}"),
        Kind::UnicastLocal => format!("unicast {vip} dev {VIP_LINK} table local"),
        Kind::UnicastHundred => format!("{vip} dev {VIP_LINK} table 100"),
        Kind::LocalHundred => format!("local {vip} dev {VIP_LINK} table 100"),
        Kind::UnicastElsewhere => format!("{vip} dev {OTHER_LINK}"),
        Kind::LocalElsewhere => format!("local {vip} dev {OTHER_LINK} table local"),
        Kind::LocalByLo => format!("local {vip} dev lo table local"),
        Kind::Blackhole => format!("blackhole {vip}"),
        Kind::ObjectMain => format!("{vip} nhid {}", object(false)),
        Kind::ObjectLocal => format!("{vip} nhid {} table local", object(false)),
        Kind::ObjectOfOurs => format!("{vip} nhid {}", object(true)),
    }
}

fn source_command(verb: &str, source: IpAddr) -> String {
    let nodad = if source.is_ipv6() && verb == "add" {
        " nodad"
    } else {
        ""
    };
    let bits = host_bits(source);
    format!("ip addr {verb} {source}/{bits} dev {NODE_LINK}{nodad}")
}

/// The kinds of links that this kernel has, and whether it has VRFs.
struct LinkKinds {
    /// The first is the one to be shrunk to.
    kinds: Vec<&'static str>,
    vrf: bool,
}

static LINK_KINDS: LazyLock<LinkKinds> = LazyLock::new(|| {
    // In a namespace of its own, and so not in that of the thread that happens to ask first.
    let has = |kind: &'static str, more: &'static str| {
        let add = move || Net::bare().try_ip(&format!("link add dev probe0 type {kind}{more}"));
        std::thread::spawn(add).join().unwrap()
    };
    // A bridge without ports and ARP stands in for a dummy link: every kernel has one. But it cannot
    // leave its namespace, as a dummy can, and an ifb, which is like one in that.
    let movable = ["dummy", "ifb"].map(|kind| (kind, has(kind, "")));
    if let (_, Err(error)) = &movable[0] {
        common::skipped(
            "property tests with dummy links",
            &format!("others stand in for them: {error}"),
        );
    }
    let movable = movable.into_iter().find(|(_, has)| has.is_ok());
    if movable.is_none() {
        common::skipped(
            "property tests with the link in another namespace",
            "neither dummy nor ifb",
        );
    }
    let vrf = has("vrf", " table 10");
    if let Err(error) = &vrf {
        common::skipped("property tests with the link in a VRF", error);
    }
    LinkKinds {
        kinds: movable
            .map(|(kind, _)| kind)
            .into_iter()
            .chain(["bridge"])
            .collect(),
        vrf: vrf.is_ok(),
    }
});

impl LinkKinds {
    fn movable(&self) -> bool {
        self.kinds.len() > 1
    }
}

fn make_link(name: &str, kind: &str) -> Vec<String> {
    vec![
        format!("ip link add dev {name} type {kind}"),
        format!("ip link set dev {name} arp off"),
        format!("ip link set dev {name} up"),
    ]
}

/// The node before the first step.
fn setup(kind: &str) -> Vec<String> {
    let mut all = Vec::new();
    for link in [NODE_LINK, VIP_LINK, SECOND_LINK, OTHER_LINK] {
        all.extend(make_link(link, kind));
    }
    if LINK_KINDS.vrf {
        all.push(format!("ip link add dev {VRF} type vrf table 10"));
        all.push(format!("ip link set dev {VRF} up"));
    }
    all.extend(SOURCES.map(|source| source_command("add", source)));
    all.extend(
        [
            "ip addr add 198.51.100.9/24 dev other0",
            "ip addr add 2001:db8:1::9/64 dev other0 nodad",
            "ip rule add fwmark 9 table 101",
            "ip -6 rule add fwmark 9 table 101",
            // So that table main answers where the rule for table local is gone.
            "ip route add default dev node0",
            "ip -6 route add default dev node0",
            // The table of the rules of `Foreign::Rule` and `Motion`.
            "ip route add default dev node0 table 77",
            "ip -6 route add default dev node0 table 77",
            "ip route add 192.168.2.0/24 dev second0",
            "ip route add 2001:db8:11::/48 dev second0",
            "ip route add local 192.168.5.0/24 dev other0 table local",
            "ip nexthop add id 52 dev other0",
            "ip -6 nexthop add id 62 dev other0",
            "ip nexthop add id 53 dev kube-dummy-if",
            "ip -6 nexthop add id 63 dev kube-dummy-if",
        ]
        .map(str::to_owned),
    );
    all
}

/// A node, and another next to it.
struct Node {
    net: Net,
    /// Made when it is first asked for.
    other: Option<Other>,
}

impl Node {
    fn new(kind: &str) -> Self {
        let mut node = Self {
            net: Net::bare(),
            other: None,
        };
        node.execute_all(&setup(kind));
        node
    }

    /// Does what a command says. It may fail, as it may in the script.
    fn execute(&mut self, command: &str) {
        if !command.contains("$other") {
            return execute(command);
        }
        let other = self.other.get_or_insert_with(Other::new);
        if let Some(there) = command.strip_prefix(IN_OTHER) {
            other.execute(there.replace("$here", &path_of(self.net.sandbox())));
        } else {
            execute(&command.replace("$other", &other.path));
        }
    }

    /// The same for many, those of `ip` without options in one process.
    fn execute_all(&mut self, commands: &[String]) {
        let mut batch = String::new();
        for command in commands {
            match command.strip_prefix("ip ") {
                Some(words) if !words.starts_with('-') && !words.contains('$') => {
                    batch += words;
                    batch.push('\n');
                }
                _ => {
                    run_batch(&mut batch);
                    self.execute(command);
                }
            }
        }
        run_batch(&mut batch);
    }
}

/// A path to a namespace, for every process.
fn path_of(sandbox: &Sandbox) -> String {
    let fd = sandbox.netns().as_raw_fd();
    format!("/proc/{}/fd/{fd}", std::process::id())
}

/// With this a script does something in the other namespace.
const IN_OTHER: &str = "nsenter --net=$other ";

/// A thread in another network namespace, in which it executes what it is sent. (Not `nsenter`,
/// which a small system may lack.)
struct Other {
    path: String,
    commands: mpsc::Sender<String>,
    done: mpsc::Receiver<String>,
}

impl Other {
    fn new() -> Self {
        let (commands, inbox) = mpsc::channel::<String>();
        let (reported, done) = mpsc::channel();
        std::thread::spawn(move || {
            let sandbox = Sandbox::new().unwrap();
            reported.send(path_of(&sandbox)).unwrap();
            for command in inbox {
                execute(&command);
                reported.send(command).unwrap();
            }
        });
        Self {
            path: done.recv().unwrap(),
            commands,
            done,
        }
    }

    fn execute(&self, command: String) {
        self.commands.send(command).unwrap();
        self.done.recv().unwrap();
    }
}

/// Does what a command says, in the namespace of the thread.
fn execute(command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words[..] {
        ["ip", ..] => {
            let _ = common::net::ip_command().args(&words[1..]).output();
        }
        ["echo", value, ">", path] => {
            let _ = std::fs::write(path, value);
        }
        _ => panic!("no such command: {command}"),
    }
}

fn run_batch(lines: &mut String) {
    if !lines.is_empty() {
        common::net::ip_batch_forced(lines);
        lines.clear();
    }
}

/// How often a commotion is repeated at the most. The kernel has one queue for the late routes of
/// all namespaces, and who floods it makes them late by many seconds, for every test beside this.
const COMMOTIONS: u64 = 5;

/// What others do while a call is at work, some times over.
#[derive(Clone, Copy, Debug)]
enum Commotion {
    Flaps,
    RoutesAway,
    AddressesAgain,
    /// Another manager, with another protocol, assigns some of the VIPs.
    Rival(Set),
}

impl Commotion {
    /// Once. `link`: the VIP link.
    fn once(self, raw: &mut Raw, link: u32) {
        let all = universe();
        match self {
            Self::Flaps => {
                let mut lines =
                    format!("link set dev {VIP_LINK} down\nlink set dev {VIP_LINK} up\n");
                run_batch(&mut lines);
            }
            Self::RoutesAway => {
                let delete = |vip: &IpAddr| (DelRoute(raw::delete_any(*vip, link)), 0);
                raw.batch(&all.iter().map(delete).collect::<Vec<_>>());
            }
            Self::AddressesAgain => {
                for vip in all {
                    if raw.batch(&[raw::del_address(vip, link)])[0].errno == 0 {
                        let address = NewAddress(raw::vip_address(vip, link));
                        raw.batch(&[(address, CREATE_EXCL)]);
                    }
                }
            }
            Self::Rival(set) => {
                let rival = common::builder()
                    .protocol(Protocol::new(187).unwrap())
                    .open();
                let _ = rival.unwrap().assign(members(set));
            }
        }
    }

    fn words(self) -> String {
        match self {
            Self::Flaps => "flap the link".into(),
            Self::RoutesAway => "delete every route of every VIP".into(),
            Self::AddressesAgain => "delete and add every VIP's address".into(),
            Self::Rival(set) => format!("vip assign --protocol 187 {:?}", members(set)),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Call(Who, Call),
    Amid(Who, Call, Commotion),
    /// While rules or routes that concern no VIP change: every promise holds, or a VIP is unread.
    Unsteady(Call, Unsteady),
    Foreign(Foreign),
}

/// What changes without pause while a call is at work.
#[derive(Clone, Copy, Debug)]
struct Unsteady {
    /// Other hosts' routes in table local, so that dumps are interrupted.
    routes: bool,
    rules: Option<Motion>,
}

impl Unsteady {
    fn begin(self) -> (Option<Churn>, Option<Churn>) {
        let churn_link = index_of(OTHER_LINK).unwrap();
        (
            self.routes.then(|| Churn::start(churn_link)),
            self.rules.map(Churn::of_rules),
        )
    }
}

/// A whole case.
#[derive(Clone, Debug)]
struct Case {
    /// Whether our routes bear `proto kernel`.
    as_kernel: bool,
    route_only: bool,
    bring_up: bool,
    /// Of the links.
    kind: &'static str,
    ops: Vec<Op>,
    desired: Set,
    /// What the manager on the other link desires at the end, if anything.
    elsewhere: Set,
}

fn sets() -> impl Strategy<Value = Set> {
    // Mostly some, often all.
    prop_oneof![3 => 1_u8..=255, 1 => Just(255)]
}

fn calls() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => sets().prop_map(Call::Assign),
        3 => Just(Call::Normalize),
        2 => sets().prop_map(Call::NormalizeOnly),
        2 => sets().prop_map(Call::Release),
        2 => sets().prop_map(Call::Reconcile),
        1 => Just(Call::ReleaseAll),
        1 => (0..SOURCES.len()).prop_map(Call::SetSource),
        1 => any::<bool>().prop_map(Call::SetBinding),
    ]
}

fn commotions() -> impl Strategy<Value = Commotion> {
    prop_oneof![
        Just(Commotion::Flaps),
        Just(Commotion::RoutesAway),
        Just(Commotion::AddressesAgain),
        sets().prop_map(Commotion::Rival),
    ]
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        // Most of them beside the desired route.
        2 => Just(Kind::Local),
        1 => (0..KINDS.len()).prop_map(|at| KINDS[at]),
    ]
}

fn aways() -> impl Strategy<Value = Away> {
    prop::sample::select(Away::ways())
}

fn foreign() -> impl Strategy<Value = Foreign> {
    let vip = || 0_usize..8;
    prop_oneof![
        1 => prop_oneof![
            aways().prop_map(Foreign::Away),
            aways().prop_map(Foreign::Back),
            aways().prop_map(Foreign::AwayAndBack),
        ],
        2 => prop_oneof![
            Just(Foreign::Down),
            Just(Foreign::Up),
            Just(Foreign::Flap),
            Just(Foreign::Flap),
            Just(Foreign::FlapSecond),
            any::<bool>().prop_map(Foreign::KeepAddresses),
            Just(Foreign::KeepAddresses(true)),
            Just(Foreign::ArpOnOff),
            Just(Foreign::Ipv6Off),
            Just(Foreign::Ipv6OffOn),
            Just(Foreign::Mtu),
            Just(Foreign::Mac),
            Just(Foreign::LoFlap),
        ],
        3 => prop_oneof![
            3 => (vip(), 0_u8..5, any::<u8>())
                .prop_map(|(vip, how, link)| Foreign::AddAddress { vip, how, link }),
            3 => (vip(), any::<u8>()).prop_map(|(vip, link)| Foreign::DeleteAddress { vip, link }),
            2 => vip().prop_map(|vip| Foreign::PrefixRouteAgain { vip }),
            1 => any::<bool>().prop_map(|v6| Foreign::Flush { v6 }),
            1 => any::<bool>().prop_map(Foreign::Unmanaged),
            1 => (0..SOURCES.len()).prop_map(Foreign::SourceGone),
            1 => (0..SOURCES.len()).prop_map(Foreign::SourceBack),
        ],
        4 => prop_oneof![
            3 => (vip(), any::<bool>(), kinds(), 0..METRICS.len(), 0..PROTOCOLS.len(), 0_usize..4)
                .prop_map(|(vip, append, kind, metric, protocol, source)| Foreign::AddRoute {
                    vip, append, kind, metric, protocol, source,
                }),
            2 => (vip(), kinds(), 0..METRICS.len(), 0_usize..5)
                .prop_map(|(vip, kind, metric, protocol)| Foreign::DeleteRoute {
                    vip, kind, metric, protocol,
                }),
            1 => any::<bool>().prop_map(|v6| Foreign::FlushRoutes { v6 }),
        ],
        2 => (any::<bool>(), 0..RULES.len()).prop_map(|(v6, rule)| Foreign::Rule { v6, rule }),
    ]
}

fn unsteady() -> impl Strategy<Value = Unsteady> {
    let rules = || prop::sample::select(&Motion::ALL[..]).prop_map(Some);
    // Something changes each time: only then may a VIP be unread.
    prop_oneof![
        1 => Just((true, None)),
        2 => (any::<bool>(), rules()),
    ]
    .prop_map(|(routes, rules)| Unsteady { routes, rules })
}

/// VIPs of one family, or of both.
fn sets_by_family() -> impl Strategy<Value = Set> {
    // See `universe`: the families alternate.
    let families = prop_oneof![Just(0x55_u8), Just(0xaa), Just(0xff)];
    (sets(), families).prop_map(|(set, family)| match set & family {
        0 => family,
        some => some,
    })
}

/// Cases about routing rules: rules before the one for table local, calls for few VIPs, which look
/// them up, and calls while rules and routes change.
fn ruled_cases() -> impl Strategy<Value = Case> {
    let calls = || {
        prop_oneof![
            4 => sets_by_family().prop_map(Call::Assign),
            1 => Just(Call::Normalize),
            2 => sets_by_family().prop_map(Call::NormalizeOnly),
            4 => sets_by_family().prop_map(Call::Release),
            2 => sets_by_family().prop_map(Call::Reconcile),
        ]
    };
    let vip = || 0_usize..8;
    let local = |vip, metric, protocol, source| Foreign::AddRoute {
        vip,
        append: true,
        kind: Kind::Local,
        metric,
        protocol,
        source,
    };
    let changes = prop_oneof![
        6 => (any::<bool>(), 0..RULES.len()).prop_map(|(v6, rule)| Foreign::Rule { v6, rule }),
        1 => vip().prop_map(|vip| Foreign::DeleteAddress { vip, link: 0 }),
        1 => vip().prop_map(|vip| Foreign::AddAddress { vip, how: 1, link: 0 }),
        1 => (vip(), 0..METRICS.len(), 0..PROTOCOLS.len(), 0_usize..4)
            .prop_map(move |(vip, metric, protocol, source)| local(vip, metric, protocol, source)),
        1 => any::<bool>().prop_map(|v6| Foreign::FlushRoutes { v6 }),
    ];
    let op = prop_oneof![
        3 => calls().prop_map(|call| Op::Call(Who::First, call)),
        4 => (calls(), unsteady()).prop_map(|(call, unsteady)| Op::Unsteady(call, unsteady)),
        4 => changes.prop_map(Op::Foreign),
    ];
    (cases(2, false), prop::collection::vec(op, 3..16)).prop_map(|(case, ops)| Case { ops, ..case })
}

fn cases(longest: usize, elsewhere: bool) -> impl Strategy<Value = Case> {
    let who = if elsewhere {
        prop_oneof![3 => Just(Who::First), 1 => Just(Who::Beside), 2 => Just(Who::Elsewhere)]
            .boxed()
    } else {
        prop_oneof![3 => Just(Who::First), 1 => Just(Who::Beside)].boxed()
    };
    let op = prop_oneof![
        4 => (who, calls()).prop_map(|(who, call)| Op::Call(who, call)),
        1 => (Just(Who::First), calls(), commotions())
            .prop_map(|(who, call, commotion)| Op::Amid(who, call, commotion)),
        6 => foreign().prop_map(Op::Foreign),
    ];
    (
        any::<bool>(),
        prop_oneof![3 => Just(false), 1 => Just(true)],
        any::<bool>(),
        prop::sample::select(LINK_KINDS.kinds.clone()),
        prop::collection::vec(op, 1..longest),
        sets(),
        if elsewhere {
            sets().boxed()
        } else {
            Just(0).boxed()
        },
    )
        .prop_map(
            |(as_kernel, route_only, bring_up, kind, ops, desired, elsewhere)| Case {
                as_kernel,
                route_only,
                bring_up,
                kind,
                ops,
                desired,
                elsewhere,
            },
        )
}

impl Case {
    fn protocol(&self, who: Who) -> u8 {
        match (who, self.as_kernel) {
            (Who::First, true) | (Who::Beside | Who::Elsewhere, false) => PROTO_KERNEL,
            (Who::First, false) => 201,
            (Who::Beside | Who::Elsewhere, true) => 186,
        }
    }

    fn link(who: Who) -> &'static str {
        match who {
            Who::First | Who::Beside => VIP_LINK,
            Who::Elsewhere => SECOND_LINK,
        }
    }

    fn party(&self, who: Who) -> Party {
        let binding = match (who, self.route_only) {
            (Who::Beside, _) | (_, false) => Binding::Address,
            (_, true) => Binding::Route,
        };
        let mut builder = common::builder_of(Self::link(who))
            .protocol(Protocol::new(self.protocol(who)).unwrap())
            .binding(binding);
        if self.bring_up {
            builder = builder.bring_up();
        }
        Party {
            link: Self::link(who),
            protocol: self.protocol(who),
            binding,
            bring_up: self.bring_up,
            sources: [SOURCES[0], SOURCES[2]],
            stirred: false,
            beside_stirred: false,
            manager: builder.open().unwrap(),
        }
    }

    /// What the last call takes for granted: the link there and up, IPv6 on it, and the sources on
    /// the node.
    fn ready(&self) -> Vec<String> {
        let mut all = Vec::new();
        // Only then is it made anew where it is missing still.
        for away in [Away::Renamed, Away::Moved, Away::InVrf, Away::Deleted] {
            let goes = |op: &Op| matches!(op, Op::Foreign(Foreign::Away(this)) if *this == away);
            if self.ops.iter().any(goes) {
                all.extend(away.come_back(self.kind));
            }
        }
        all.extend(Foreign::Up.commands(self.kind));
        all.push(format!(
            "echo 0 > /proc/sys/net/ipv6/conf/{VIP_LINK}/disable_ipv6"
        ));
        all.extend(SOURCES.map(|source| source_command("add", source)));
        all
    }

    /// The script that replays it.
    fn script(&self) -> String {
        let steps = self.steps();
        let mut out = String::from("# in: unshare -Urn bash\nip link set lo up\n");
        if steps.contains("$other") {
            out += "unshare -n sleep 1000 & other=/proc/$!/ns/net; here=/proc/$$/ns/net; sleep 1\n";
        }
        out + &steps
    }

    fn steps(&self) -> String {
        let mut out = String::new();
        for command in setup(self.kind) {
            let _ = writeln!(out, "{command}");
        }
        let mut words = BTreeMap::new();
        for op in &self.ops {
            match op {
                Op::Foreign(foreign) => {
                    for command in foreign.commands(self.kind) {
                        let _ = writeln!(out, "{command}");
                    }
                }
                Op::Call(who, call) => {
                    let _ = writeln!(out, "{}", self.command(*who, *call, &mut words));
                }
                Op::Amid(who, call, commotion) => {
                    let _ = writeln!(
                        out,
                        "# at the same time, up to {COMMOTIONS} times: {}",
                        commotion.words()
                    );
                    let _ = writeln!(out, "{}", self.command(*who, *call, &mut words));
                }
                Op::Unsteady(call, unsteady) => {
                    let _ = writeln!(out, "# at the same time: {unsteady:?}");
                    let _ = writeln!(out, "{}", self.command(Who::First, *call, &mut words));
                }
            }
        }
        for command in self.ready() {
            let _ = writeln!(out, "{command}");
        }
        let last = Call::Reconcile(self.desired);
        let _ = writeln!(out, "{}", self.command(Who::First, last, &mut words));
        if self.elsewhere != 0 {
            let last = Call::Reconcile(self.elsewhere);
            let _ = writeln!(out, "{}", self.command(Who::Elsewhere, last, &mut words));
        }
        out
    }

    /// A call in the words of `vip`. `words`: the sources and binding that earlier calls have set.
    fn command(
        &self,
        who: Who,
        call: Call,
        words: &mut BTreeMap<u8, ([IpAddr; 2], bool)>,
    ) -> String {
        let first = (
            [SOURCES[0], SOURCES[2]],
            self.route_only && who != Who::Beside,
        );
        let (sources, route_only) = words.entry(who as u8).or_insert(first);
        match call {
            Call::SetSource(at) => sources[usize::from(SOURCES[at].is_ipv6())] = SOURCES[at],
            Call::SetBinding(to_route) => *route_only = to_route,
            _ => {}
        }
        let (verb, more, set) = match call {
            Call::Assign(set) => ("assign", "", set),
            Call::Normalize => ("normalize", "", 0),
            Call::NormalizeOnly(set) => ("normalize", "", set),
            Call::Release(set) => ("release", "", set),
            Call::Reconcile(set) => ("reconcile", " --claim link", set),
            Call::ReleaseAll => ("release", " # release_all(&Claim::link()):", 255),
            Call::SetSource(_) => ("normalize", " # set_source", 0),
            Call::SetBinding(_) => ("normalize", " # set_binding", 0),
        };
        let mut out = format!(
            "vip {verb} --link {} --protocol {} --source {} --source {}",
            Self::link(who),
            self.protocol(who),
            sources[0],
            sources[1]
        );
        if *route_only {
            out += " --route-only";
        }
        if self.bring_up && verb != "release" {
            out += " --bring-up";
        }
        out += more;
        for vip in members(set) {
            let _ = write!(out, " {vip}");
        }
        out
    }
}

/// A manager and its configuration.
struct Party {
    link: &'static str,
    protocol: u8,
    binding: Binding,
    bring_up: bool,
    sources: [IpAddr; 2],
    /// See [`Foreign::stirs_the_kernel`].
    stirred: bool,
    /// The same of the other link: its routes may come during a call for this one.
    beside_stirred: bool,
    manager: VipManager,
}

/// The node around a call.
#[derive(Clone, Copy)]
struct Around<'a> {
    link: u32,
    /// Where the link is out of reach.
    away: Option<Away>,
    before: &'a Seen,
    after: &'a Seen,
    /// The call finds the link down, and may bring it up.
    comes_up: bool,
    /// Rules or routes changed during the call.
    unsteady: bool,
}

/// What a call promises for a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    Good,
    Gone,
    /// It is reported, and stays as it is.
    Untouched,
}

/// Counts what the cases were about, so that a generator gone dull shows.
#[derive(Debug, Default)]
struct Tally {
    cases: Cell<u64>,
    calls: Cell<u64>,
    changes: Cell<u64>,
    assigned: Cell<usize>,
    repaired: Cell<usize>,
    released: Cell<usize>,
    unchanged: Cell<usize>,
    /// VIPs that the kernel was too slow for.
    late: Cell<u64>,
    /// Calls amid a commotion, and how often that took place.
    amid: Cell<u64>,
    commotions: Cell<u64>,
    /// Calls while rules or routes changed.
    unsteady: Cell<u64>,
    failures: RefCell<BTreeMap<String, u64>>,
    /// Calls that were refused as a whole, and why.
    refusals: RefCell<BTreeMap<String, u64>>,
}

impl Tally {
    fn add(&self, other: &Self) {
        for (cell, more) in [
            (&self.cases, &other.cases),
            (&self.calls, &other.calls),
            (&self.changes, &other.changes),
            (&self.late, &other.late),
            (&self.amid, &other.amid),
            (&self.commotions, &other.commotions),
            (&self.unsteady, &other.unsteady),
        ] {
            add(cell, more.get());
        }
        for (cell, more) in [
            (&self.assigned, &other.assigned),
            (&self.repaired, &other.repaired),
            (&self.released, &other.released),
            (&self.unchanged, &other.unchanged),
        ] {
            add(cell, more.get());
        }
        for (all, more) in [
            (&self.failures, &other.failures),
            (&self.refusals, &other.refusals),
        ] {
            for (words, count) in more.borrow().iter() {
                *all.borrow_mut().entry(words.clone()).or_default() += count;
            }
        }
    }

    fn refuse(&self, error: &Error) {
        let words = format!("{:?}", error.kind());
        *self.refusals.borrow_mut().entry(words).or_default() += 1;
    }
}

fn add<T: Copy + std::ops::Add<Output = T>>(cell: &Cell<T>, more: T) {
    cell.set(cell.get() + more);
}

impl Party {
    /// Whether a VIP is on the link, in the sense of the calls that are not given a set.
    fn holds(seen: &Seen, vip: IpAddr, link: u32) -> bool {
        let address = seen.addresses.iter().any(|address| {
            address.index == link
                && address.address.local == vip
                && address.address.prefix_len == host_bits(vip)
        });
        let route = seen.routes.iter().any(|route| {
            route.is_of(vip, link) && route.route.is_local() && !route.is_kernels_own()
        });
        address || route
    }

    /// What is wrong with a VIP that shall be in the single-route state, whose address another
    /// writer may have made.
    fn wrong(&self, seen: &Seen, vip: IpAddr) -> Option<String> {
        let mut state = seen.local_state();
        // Of two equal ones the kernel takes the first, and says which that is.
        if seen.winners.get(&vip).is_some_and(|link| *link == VIP_LINK)
            && let Some(routes) = state.routes.get_mut(&vip)
        {
            let metric = if vip.is_ipv4() { 0 } else { 1024 };
            routes.retain(|route| route.dev == VIP_LINK || route.metric != metric);
        }
        for address in state.addresses.values_mut().flatten() {
            address.forgive_flags();
            address.broadcast = None;
        }
        let want = Want {
            // The reading calls the link of the call so, whichever it is.
            link: VIP_LINK,
            sources: &self.sources,
            protocol: self.protocol,
            address: self.binding == Binding::Address,
        };
        state.wrong_vips(&[vip], &want).pop()
    }

    /// Makes a call and judges it. `Err` is a fault of the library.
    fn make(&mut self, call: Call, tally: &Tally) -> Result<(), String> {
        self.make_while(call, None, tally)
    }

    /// The same while rules or routes change that concern no VIP.
    fn make_while(
        &mut self,
        call: Call,
        unsteady: Option<Unsteady>,
        tally: &Tally,
    ) -> Result<(), String> {
        add(&tally.calls, 1);
        let link = index_of(self.link);
        wait_for_other_links();
        let shown = shown(self.link);
        let away = away(shown.as_ref());
        let comes_up = self.bring_up && !shown.is_some_and(|link| has_flag(&link, "UP"));
        let before = Seen::read(link.unwrap_or(u32::MAX));
        let changes = unsteady.map(Unsteady::begin);
        let result = self.perform(call);
        drop(changes);
        let link_after = index_of(self.link);
        let after = Seen::read(link_after.unwrap_or(u32::MAX));
        if link != link_after {
            return Err(format!("the link changed: {link:?} to {link_after:?}"));
        }
        let link = link.unwrap_or(u32::MAX);
        let around = Around {
            link,
            away,
            before: &before,
            after: &after,
            comes_up,
            unsteady: unsteady.is_some(),
        };
        add(&tally.unsteady, unsteady.is_some().into());
        self.judge(call, &around, result, tally)
            .map_err(|fault| format!("{call:?} by {} while {unsteady:?}: {fault}", self.link))
    }

    /// Makes a call while others are at work too: it comes back, says what it may, and touches
    /// nothing beyond the link.
    fn make_amid(&mut self, call: Call, commotion: Commotion, tally: &Tally) -> Result<(), String> {
        let link = index_of(self.link).unwrap_or(u32::MAX);
        wait_for_other_links();
        let away = away(shown(self.link).as_ref());
        let before = Seen::read(link);
        let stop = AtomicBool::new(false);
        let (result, times) = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let mut raw = Raw::new();
                let mut times = 0_u64;
                while times == 0 || times < COMMOTIONS && !stop.load(Ordering::Relaxed) {
                    commotion.once(&mut raw, link);
                    times += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                times
            });
            let result = self.perform(call);
            stop.store(true, Ordering::Relaxed);
            (result, thread.join())
        });
        add(&tally.commotions, times.map_err(|_| "a thread panicked")?);
        add(&tally.amid, 1);
        if let Err(error) = result
            && error.kind() != ErrorKind::Incomplete
            && !may_refuse(error.kind(), away)
        {
            return Err(format!("{call:?} amid {commotion:?}: {error:?}"));
        }
        let diff = before.diff(&Seen::read(link));
        let beyond = diff.iter().find(|(_, line)| {
            // What goes through an object of the link goes with the link.
            line.link != Some(link) && !line.text.contains("NhId") && !line.is_link_local()
        });
        match beyond {
            Some((sign, line)) => Err(format!(
                "{call:?} amid {commotion:?}: changed, and not on the link: {sign} {}",
                line.text
            )),
            None => Ok(()),
        }
    }

    fn perform(&mut self, call: Call) -> Result<Report, Error> {
        let manager = &mut self.manager;
        match call {
            Call::Assign(set) => manager.assign(members(set)),
            Call::Normalize => manager.normalize(),
            Call::NormalizeOnly(set) => manager.normalize_only(members(set)),
            Call::Release(set) => manager.release(members(set)),
            Call::Reconcile(set) => manager.reconcile(&Claim::link(), members(set)),
            Call::ReleaseAll => manager.release_all(&Claim::link()),
            Call::SetSource(at) => {
                self.sources[usize::from(SOURCES[at].is_ipv6())] = SOURCES[at];
                manager.set_source(SOURCES[at])
            }
            Call::SetBinding(to_route) => {
                self.binding = if to_route {
                    Binding::Route
                } else {
                    Binding::Address
                };
                manager.set_binding(self.binding)
            }
        }
    }

    /// Whether the VIP's family lacked that before a call.
    fn lacks(&self, kind: ErrorKind, vip: IpAddr, before: &Seen, promise: Promise) -> bool {
        let source = self.sources[usize::from(vip.is_ipv6())];
        let mut addresses = before.addresses.iter();
        match kind {
            ErrorKind::LinkDown | ErrorKind::Ipv6Disabled => vip.is_ipv6(),
            ErrorKind::SourceNotOnNode => !addresses.any(|of| of.address.local == source),
            ErrorKind::EmptySet => promise == Promise::Untouched,
            _ => false,
        }
    }

    #[expect(clippy::too_many_lines, reason = "one rule after the other")]
    fn judge(
        &self,
        call: Call,
        around: &Around<'_>,
        result: Result<Report, Error>,
        tally: &Tally,
    ) -> Result<(), String> {
        let Around {
            link,
            away,
            before,
            after,
            comes_up,
            unsteady,
        } = *around;
        let report = match result {
            Ok(report) if report.failures.is_empty() => report,
            Ok(report) => return Err(format!("Ok with failures: {report:?}")),
            Err(error) if error.kind() == ErrorKind::Incomplete => {
                let report = error.into_report().unwrap();
                if report.failures.is_empty() {
                    return Err("incomplete without a failure".into());
                }
                report
            }
            Err(error) => {
                tally.refuse(&error);
                if !may_refuse(error.kind(), away) {
                    return Err(format!("refused: {error:?}"));
                }
                return self.unchanged(link, before, after, &|_| comes_up);
            }
        };
        // Only to take VIPs away, a link in a VRF is as good as any.
        let releases = matches!(call, Call::Release(_) | Call::ReleaseAll);
        if away.is_some_and(|away| away != Away::InVrf || !releases) {
            return Err(format!("the link is away, but: {report:?}"));
        }
        for (cell, more) in [
            (&tally.assigned, report.assigned),
            (&tally.repaired, report.repaired),
            (&tally.released, report.released),
            (&tally.unchanged, report.unchanged),
        ] {
            add(cell, more);
        }

        let promises = promises(call, before, link);
        let counted = report.assigned
            + report.repaired
            + report.released
            + report.unchanged
            + report.failures.len();
        if counted != promises.len() {
            return Err(format!(
                "{counted} VIPs reported of {}: {report:?}",
                promises.len()
            ));
        }
        let mut failed = BTreeSet::new();
        let mut pending = BTreeSet::new();
        for failure in &report.failures {
            let vip = failure.vip.addr();
            if failure.cause == Cause::Pending {
                pending.insert(vip);
            }
            let words = format!("{} {:?}", failure.cause, failure.drift);
            *tally.failures.borrow_mut().entry(words).or_default() += 1;
            if !promises.contains_key(&vip) || !failed.insert(vip) {
                return Err(format!(
                    "{failure} is of no VIP of the call, or reported twice"
                ));
            }
            let is_late = match failure.cause {
                Cause::Pending => vip.is_ipv6() && kernel_is_late(after, vip, link),
                Cause::Conflict => rival_came(before, after, vip, link),
                _ => false,
            };
            if is_late {
                add(&tally.late, 1);
            } else if !match failure.cause {
                Cause::Missing(kind) => self.lacks(kind, vip, before, promises[&vip]),
                Cause::Unread => unsteady,
                cause => fits(cause, vip, link, before, call),
            } {
                return Err(format!("{failure}: without a reason"));
            }
        }
        for (vip, promise) in &promises {
            if failed.contains(vip) {
                continue;
            }
            match promise {
                Promise::Good if rival_came(before, after, *vip, link) => add(&tally.late, 1),
                Promise::Good if self.stirred && kernel_came(after, *vip, link) => {
                    add(&tally.late, 1);
                }
                Promise::Good => {
                    if let Some(wrong) = self.wrong(after, *vip) {
                        return Err(format!("promised good, but {wrong}; {report}"));
                    }
                }
                Promise::Untouched => return Err(format!("{vip}: not reported; {report}")),
                Promise::Gone => {
                    let left = after.routes.iter().any(|route| {
                        route.is_of(*vip, link)
                            && matches!(route.route.table, TABLE_LOCAL | TABLE_MAIN)
                    });
                    if left || Self::holds(after, *vip, link) {
                        return Err(format!("promised gone, but it is there: {vip}; {report}"));
                    }
                }
            }
        }
        let idle = promises.iter().all(|(vip, promise)| {
            *promise == Promise::Good && self.wrong(before, *vip).is_none() || failed.contains(vip)
        }) && pending.is_empty();
        // A link that comes up has a second route for each IPv4 address.
        if idle && !comes_up && !self.stirred && report.writes > 0 {
            return Err(format!("all was good, but it wrote: {report}"));
        }
        if !idle
            && pending.is_empty()
            && report.writes == 0
            && promises.values().all(|p| *p == Promise::Good)
        {
            return Err(format!(
                "something was wrong, but it wrote nothing: {report}"
            ));
        }
        // What a link that comes up brings is the kernel's.
        self.unchanged(link, before, after, &|line| {
            comes_up
                || (line.in_scope || away == Some(Away::InVrf))
                    && line.host.is_some_and(|host| {
                        promises.contains_key(&host)
                            && (!failed.contains(&host) || pending.contains(&host))
                            || self.binding == Binding::Route && host == ANCHOR
                    })
        })
    }

    /// What changed must be the library's: on the link and `allowed`, or the kernel's own doing.
    fn unchanged(
        &self,
        link: u32,
        before: &Seen,
        after: &Seen,
        allowed: &dyn Fn(&Line) -> bool,
    ) -> Result<(), String> {
        let has_v4 = |seen: &Seen| {
            let mut all = seen.addresses.iter();
            all.any(|address| address.index == link && address.address.local.is_ipv4())
        };
        let flushed = has_v4(before) && !has_v4(after);
        for (sign, line) in before.diff(after) {
            let on_link = line.link == Some(link);
            if line.is_link_local() {
                continue;
            }
            // The kernel's route of an address comes late.
            // (Nobody else can make one of metric 0.)
            if sign == '+' && line.kernels_own && line.host.is_some_and(|host| host.is_ipv6()) {
                continue;
            }
            // With the last IPv4 address go all IPv4 routes of the link, in all tables.
            let flush = flushed && sign == '-' && line.is_route && !line.text.contains("::");
            if !(on_link && (allowed(&line) || flush)) {
                return Err(format!(
                    "changed, and not the library's: {sign} {}",
                    line.text
                ));
            }
        }
        Ok(())
    }
}

/// Which VIPs a call is about, and what it promises.
fn promises(call: Call, before: &Seen, link: u32) -> BTreeMap<IpAddr, Promise> {
    let all = universe().into_iter();
    let there = || {
        let held = all.clone().filter(|vip| Party::holds(before, *vip, link));
        held.collect::<Vec<_>>()
    };
    let each = |vips: Vec<IpAddr>, promise| vips.into_iter().map(move |vip| (vip, promise));
    match call {
        Call::Assign(set) | Call::NormalizeOnly(set) => each(members(set), Promise::Good).collect(),
        Call::Release(set) => each(members(set), Promise::Gone).collect(),
        Call::Normalize | Call::SetSource(_) | Call::SetBinding(_) => {
            each(there(), Promise::Good).collect()
        }
        Call::ReleaseAll => each(there(), Promise::Gone).collect(),
        Call::Reconcile(set) => {
            let desired = members(set);
            let is_guarded = |vip: &IpAddr| !desired.iter().any(|of| of.is_ipv4() == vip.is_ipv4());
            let (stays, goes): (Vec<_>, Vec<_>) = there().into_iter().partition(is_guarded);
            each(stays, Promise::Untouched)
                .chain(each(goes, Promise::Gone))
                .chain(each(desired, Promise::Good))
                .collect()
        }
    }
}

/// Whether the kernel's route of a new address has really not come, which on a busy machine may
/// take it longer than a call waits.
fn kernel_is_late(after: &Seen, vip: IpAddr, link: u32) -> bool {
    let mut addresses = after.addresses.iter();
    let mut routes = after.routes.iter();
    addresses.any(|address| address.index == link && address.address.local == vip)
        && !routes.any(|route| route.is_of(vip, link) && route.is_kernels_own())
}

/// Whether the kernel's route is there.
fn kernel_came(after: &Seen, vip: IpAddr, link: u32) -> bool {
    let mut routes = after.routes.iter();
    vip.is_ipv6() && routes.any(|route| route.is_of(vip, link) && route.is_kernels_own())
}

/// Whether the kernel's route of another link's address has come since.
fn rival_came(before: &Seen, after: &Seen, vip: IpAddr, link: u32) -> bool {
    let count = |seen: &Seen| {
        let of = seen.routes.iter().filter(|route| {
            route.to(vip) && route.oif != Some(link) && vip.is_ipv6() && route.is_kernels_own()
        });
        of.count()
    };
    count(after) > count(before)
}

/// Whether what was there is a reason for this failure.
fn fits(cause: Cause, vip: IpAddr, link: u32, before: &Seen, call: Call) -> bool {
    let mut routes = before.routes.iter().filter(|route| route.to(vip));
    let mut addresses = before
        .addresses
        .iter()
        .filter(|address| address.address.local == vip && address.index == link);
    match cause {
        Cause::Conflict => routes.any(|route| {
            route.route.table == TABLE_LOCAL && !route.is_of(vip, link)
                || route.object && route.route.table == TABLE_MAIN
        }),
        Cause::OtherPrefixLength => addresses.any(|a| a.address.prefix_len != host_bits(vip)),
        Cause::StaleRoute | Cause::NotOnLink => {
            // Normalizing puts nothing there anew.
            let normalizes = matches!(
                call,
                Call::Normalize | Call::NormalizeOnly(_) | Call::SetSource(_)
            );
            normalizes && addresses.next().is_none()
        }
        Cause::Pending => addresses.any(|address| address.address.tentative),
        _ => false,
    }
}

/// What `ip` shows of a link, if there is one.
fn shown(link: &str) -> Option<Value> {
    let links = common::net::ip_json("link show");
    let mut links = links.as_array().unwrap().iter();
    links.find(|one| one["ifname"] == link).cloned()
}

fn has_flag(link: &Value, flag: &str) -> bool {
    let mut flags = link["flags"].as_array().unwrap().iter();
    flags.any(|one| one == flag)
}

/// Whether a link is out of reach, and in which of the two ways that a call can tell apart: in a
/// VRF, or not there.
fn away(shown: Option<&Value>) -> Option<Away> {
    match shown {
        None => Some(Away::Deleted),
        Some(link) if link["master"] == VRF => Some(Away::InVrf),
        Some(_) => None,
    }
}

/// Whether a call may be refused as a whole in this way.
fn may_refuse(kind: ErrorKind, away: Option<Away>) -> bool {
    match kind {
        ErrorKind::LinkNotFound => away == Some(Away::Deleted),
        ErrorKind::LinkInVrf => away == Some(Away::InVrf),
        _ => false,
    }
}

/// Waits for what the kernel still does on links that hold no VIPs: every IPv6 address there
/// gets its route.
fn wait_for_other_links() {
    let own = [VIP_LINK, SECOND_LINK].map(index_of);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let seen = Seen::read(u32::MAX);
        let late = seen.addresses.iter().any(|address| {
            address.address.local.is_ipv6()
                && !own.contains(&Some(address.index))
                && !matches!(address.address.local, IpAddr::V6(v6) if v6.is_unicast_link_local())
                && (address.address.tentative
                    || !seen.routes.iter().any(|route| {
                        route.to(address.address.local)
                            && route.route.is_local()
                            && route.oif == Some(address.index)
                    }))
        });
        if !late {
            return;
        }
        // A route that another writer deleted does not come.
        if Instant::now() > deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Everything that is no address and no route.
fn rest_of_the_node(net: &Net) -> Vec<String> {
    [
        "-4 rule show",
        "-6 rule show",
        "nexthop show",
        "addrlabel show",
    ]
    .iter()
    .map(|args| net.ip(args))
    .collect()
}

/// Runs a case. `Err` is a fault of the library.
fn run(case: &Case, tally: &Tally) -> Result<(), String> {
    add(&tally.cases, 1);
    let mut node = Node::new(case.kind);
    let mut first = case.party(Who::First);
    let mut beside = case.party(Who::Beside);
    let mut elsewhere = case.party(Who::Elsewhere);
    for op in &case.ops {
        match op {
            Op::Foreign(foreign) => {
                add(&tally.changes, 1);
                node.execute_all(&foreign.commands(case.kind));
                for party in [&mut first, &mut beside] {
                    party.stirred |= foreign.stirs_the_kernel();
                }
            }
            Op::Amid(_, call, commotion) => first.make_amid(*call, *commotion, tally)?,
            Op::Unsteady(call, unsteady) => first.make_while(*call, Some(*unsteady), tally)?,
            Op::Call(Who::First, call) => first.make(*call, tally)?,
            Op::Call(Who::Beside, call) => beside.make(*call, tally)?,
            Op::Call(Who::Elsewhere, call) => elsewhere.make(*call, tally)?,
        }
    }
    node.execute_all(&case.ready());
    let rest = rest_of_the_node(&node.net);
    finish(&mut first, case.desired, tally)?;
    if case.elsewhere != 0 {
        elsewhere.beside_stirred = first.stirred;
        finish(&mut elsewhere, case.elsewhere, tally)?;
    }
    if rest_of_the_node(&node.net) != rest {
        return Err("rules, nexthop objects or labels changed".into());
    }
    Ok(())
}

/// One reconcile brings about what is desired, and a second one has nothing to do.
fn finish(party: &mut Party, desired: Set, tally: &Tally) -> Result<(), String> {
    let call = Call::Reconcile(desired);
    let mut late = tally.late.get();
    party.make(call, tally)?;
    for _ in 0..20 {
        if tally.late.get() == late {
            break;
        }
        late = tally.late.get();
        party.make(call, tally)?;
    }
    let began = Instant::now();
    while let Err(fault) = rest(party, desired) {
        if !party.stirred || began.elapsed() > Duration::from_secs(20) {
            return Err(fault);
        }
        add(&tally.late, 1);
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Reconciles once more, which finds nothing to do.
fn rest(party: &mut Party, desired: Set) -> Result<(), String> {
    let call = Call::Reconcile(desired);
    let link = index_of(party.link).unwrap();
    let before = Seen::read(link);
    let again = match party.perform(call) {
        Ok(report) => report,
        Err(error) if error.kind() == ErrorKind::Incomplete => error.into_report().unwrap(),
        Err(error) => return Err(format!("the second time: {error:?}")),
    };
    if again.writes > 0 || again.assigned + again.repaired + again.released > 0 {
        return Err(format!("it did something the second time: {again:?}"));
    }
    // Nothing came late either.
    let after = Seen::read(link);
    let mut diff = before.diff(&after);
    diff.retain(|(sign, line)| {
        let is_beside = line.link != Some(link) && line.kernels_own && *sign == '+';
        !(line.is_link_local() || party.beside_stirred && is_beside)
    });
    if !diff.is_empty() {
        return Err(format!("it changed something the second time: {diff:?}"));
    }
    let failed: BTreeSet<IpAddr> = again.failures.iter().map(|f| f.vip.addr()).collect();
    for vip in members(desired) {
        if let Some(wrong) = party.wrong(&after, vip).filter(|_| !failed.contains(&vip)) {
            return Err(format!("after the last call {wrong}"));
        }
    }
    let audit = party.manager.audit().map_err(|e| format!("audit: {e:?}"))?;
    for audited in &audit.vips {
        if !audited.drift.is_empty() && !failed.contains(&audited.vip.addr()) {
            return Err(format!("the audit says {audited:?}"));
        }
    }
    Ok(())
}

/// Runs cases, side by side, because many of them wait; a failing one is shrunk and printed as a
/// script.
fn hold(strategy: fn() -> BoxedStrategy<Case>) -> Tally {
    let began = Instant::now();
    let work = move || {
        let tally = Tally::default();
        let result = search(&strategy(), cases_to_run().div_ceil(WORKERS), &|case| {
            run(case, &tally)
        });
        (tally, result)
    };
    let threads: Vec<_> = (0..WORKERS).map(|_| std::thread::spawn(work)).collect();
    let sum = Tally::default();
    let mut faults = String::new();
    for thread in threads {
        let (tally, result) = thread.join().unwrap();
        sum.add(&tally);
        if let Err(text) = result {
            faults += &text;
        }
    }
    println!("{sum:#?} in {:?}", began.elapsed());
    assert!(faults.is_empty(), "{faults}");
    sum
}

fn cases_to_run() -> u32 {
    std::env::var("PROPTEST_CASES").map_or_else(
        |_| usual_cases(),
        |text| text.parse().expect("PROPTEST_CASES is a number"),
    )
}

fn search(
    strategy: &impl Strategy<Value = Case>,
    cases: u32,
    run: &dyn Fn(&Case) -> Result<(), String>,
) -> Result<(), String> {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2000,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let first = Cell::new(true);
    let result = runner.run(strategy, |case| {
        run(&case).map_err(|fault| {
            if first.replace(false) {
                // To shrink it takes a while.
                println!("found, and being shrunk: {fault}\n{case:?}");
            }
            TestCaseError::fail(fault)
        })
    });
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, case)) => Err(format!(
            "{why}\n\nThe smallest case found, as a script:\n\n{}\n{case:?}",
            case.script()
        )),
        Err(TestError::Abort(why)) => Err(format!("aborted: {why}")),
    }
}

/// Runs cases until they have met what makes them worth anything: what is rare may not come up in
/// the first lot of them.
fn hold_for_worth(strategy: fn() -> BoxedStrategy<Case>) {
    let sum = hold(strategy);
    if sum.cases.get() < u64::from(usual_cases()) {
        println!("too few cases to ask what they met");
        return;
    }
    for _ in 0..3 {
        let Some(lacks) = lacks(&sum) else { return };
        println!("not met yet: {lacks}");
        sum.add(&hold(strategy));
    }
    assert_eq!(lacks(&sum), None, "{sum:#?}");
}

/// What cases have not met.
fn lacks(tally: &Tally) -> Option<&'static str> {
    let failures = tally.failures.borrow();
    let failed = |words: &str| failures.keys().any(|key| key.contains(words));
    let refusals = tally.refusals.borrow();
    let refused = |kind: &str| refusals.contains_key(kind);
    let met = [
        ("a hundred VIPs assigned", tally.assigned.get() > 100),
        ("fifty repaired", tally.repaired.get() > 50),
        ("fifty released", tally.released.get() > 50),
        ("a conflict", failed("another device holds")),
        ("one without its address", failed("without its address")),
        (
            "one that is not on the link",
            failed("it is not on the link"),
        ),
        ("a call without a link", refused("LinkNotFound")),
        ("one in a VRF", !LINK_KINDS.vrf || refused("LinkInVrf")),
    ];
    let lacking = met.iter().find(|(_, is_met)| !is_met);
    lacking.map(|(what, _)| *what)
}

#[test]
fn promises_hold_beside_other_writers_on_one_link() {
    hold_for_worth(|| cases(14, false).boxed());
}

#[test]
fn promises_hold_beside_other_writers_on_two_links() {
    hold_for_worth(|| cases(14, true).boxed());
}

#[test]
fn promises_hold_beside_routing_rules_that_come_and_go() {
    let sum = hold(|| ruled_cases().boxed());
    if sum.cases.get() >= u64::from(usual_cases()) {
        assert!(sum.unsteady.get() > 50, "{sum:#?}");
    }
}

/// The control: a fault that only a certain sequence shows is found, and shrunk to it.
#[test]
fn control_fault_is_found_shrunk_and_printed() {
    // As if to normalize after the link was down and up left the duplicates there.
    let broken = |case: &Case| {
        let is_flap = |op: &Op| matches!(op, Op::Foreign(Foreign::Flap));
        let is_call = |op: &Op| matches!(op, Op::Call(Who::First, Call::Normalize));
        let flap = case.ops.iter().position(is_flap);
        let bad = flap.is_some_and(|at| case.ops[at..].iter().any(is_call));
        if bad { Err("as meant".into()) } else { Ok(()) }
    };
    let mut found = None;
    for _ in 0..20 {
        if let Err(text) = search(&cases(14, false), 500, &broken) {
            found = Some(text);
            break;
        }
    }
    let text = found.expect("the fault is found");
    println!("{text}");
    let script = text.split("as a script:").nth(1).unwrap();
    let steps: Vec<&str> = script
        .lines()
        .skip_while(|line| !line.contains("nexthop add id 63"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .collect();
    let expected = [
        "ip link set dev kube-dummy-if down".to_owned(),
        "ip link set dev kube-dummy-if up".to_owned(),
        format!(
            "vip normalize --link kube-dummy-if --protocol 201 --source {NODE_V4} --source {NODE_V6}"
        ),
    ];
    assert_eq!(steps[..3], expected, "{script}");
    // Up, IPv6 on and four sources; and the last call.
    assert_eq!(steps.len(), 3 + 6 + 1, "{script}");
}

/// The control of the ways in which the link goes away, for a command that fails is passed over.
#[test]
fn control_commands_remove_and_restore_the_link() {
    for (kind, way) in LINK_KINDS
        .kinds
        .iter()
        .flat_map(|kind| Away::ways().into_iter().map(move |way| (*kind, way)))
        // A bridge stays in its namespace.
        .filter(|both| *both != ("bridge", Away::Moved))
    {
        let mut node = Node::new(kind);
        let index = index_of(VIP_LINK).unwrap();
        let seen_as = match way {
            Away::InVrf => Away::InVrf,
            _ => Away::Deleted,
        };
        for _ in 0..2 {
            node.execute_all(&way.go());
            let link = shown(VIP_LINK);
            assert_eq!(away(link.as_ref()), Some(seen_as), "{kind} {way:?}");
            node.execute_all(&way.come_back(kind));
            let link = shown(VIP_LINK).unwrap();
            assert_eq!(away(Some(&link)), None, "{kind} {way:?}");
            assert!(has_flag(&link, "UP") && has_flag(&link, "NOARP"), "{link}");
            let is_same = index_of(VIP_LINK) == Some(index);
            // A link that was moved may get another.
            assert!(is_same != (way == Away::Deleted) || way == Away::Moved);
        }
    }
}

/// The control of the judge: what is broken by another writer after a call, or was never done, is
/// seen.
#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one broken promise after the other on the same node"
)]
fn control_broken_promise_is_seen() {
    let tally = Tally::default();
    let case = Case {
        as_kernel: true,
        route_only: false,
        bring_up: false,
        kind: "bridge",
        ops: Vec::new(),
        desired: 255,
        elsewhere: 0,
    };
    let mut node = Node::new(case.kind);
    let mut party = case.party(Who::First);
    let call = Call::Assign(255);
    while party.make(call, &tally).is_ok() && party.manager.assign(members(255)).is_err() {
        println!("the kernel is late");
    }
    let link = index_of(VIP_LINK).unwrap();
    let good = Seen::read(link);
    let vip = universe()[1];
    let done = Report::default;
    let judge = |after: &Seen, report: Report| {
        let around = Around {
            link,
            away: None,
            before: &good,
            after,
            comes_up: false,
            unsteady: false,
        };
        party.judge(call, &around, Ok(report), &tally)
    };
    for (change, undo, words) in [
        (
            format!("ip route del local {vip} dev {VIP_LINK} table local proto 2"),
            format!("ip route add local {vip} dev {VIP_LINK} table local proto 2 src {NODE_V6}"),
            "promised good",
        ),
        (
            format!("ip route add {vip} dev {VIP_LINK}"),
            format!("ip route del {vip} dev {VIP_LINK}"),
            "promised good",
        ),
        (
            "ip route add 192.168.77.0/24 dev other0".to_owned(),
            "ip route del 192.168.77.0/24 dev other0".to_owned(),
            "not the library's",
        ),
        (
            format!("ip route add {vip} dev {VIP_LINK} table 100"),
            format!("ip route del {vip} dev {VIP_LINK} table 100"),
            "not the library's",
        ),
        (
            "ip addr add 192.168.77.1/32 dev other0".to_owned(),
            "ip addr del 192.168.77.1/32 dev other0".to_owned(),
            "not the library's",
        ),
    ] {
        node.execute(&change);
        let after = Seen::read(link);
        let mut report = done();
        report.unchanged = 8;
        let judged = judge(&after, report);
        let fault = judged.expect_err(&change);
        assert!(fault.contains(words), "{change}: {fault}");
        node.execute(&undo);
        let mut report = done();
        report.unchanged = 8;
        let judged = judge(&Seen::read(link), report);
        judged.unwrap_or_else(|fault| panic!("{undo}: {fault}"));
    }
    let mut short = done();
    short.unchanged = 7;
    let judged = judge(&good, short);
    assert!(judged.unwrap_err().contains("7 VIPs reported of 8"));
}
