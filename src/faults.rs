//! Faults put in between planning and the kernel, on a real one: what is refused, lost, late or
//! gone is accounted for, VIP by VIP.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod corpus;
mod filter;
mod forged;
mod interrupted;
mod keeper;
#[path = "../tests/common/kit.rs"]
mod kit;
mod late;
mod routes_first;
#[cfg(feature = "tracing")]
mod trace;
mod watcher;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use kit::{kernel_since, vips_v4 as v4, vips_v6 as v6};

use crate::OutcomeKind;
use crate::fuzzing::{LINK, NODE_V4, NODE_V6};
use crate::link;
use crate::netlink::batch::Batch;
use crate::netlink::connection::{Connection, Dumped};
use crate::netlink::encode::HEADER;
use crate::sandbox::{self, Sandbox};
use crate::sys::fault::Line;
use crate::sys::{Socket, Strictness};
use crate::{
    Cause, Claim, Error, ErrorKind, Failure, Family, Operation, Protocol, Report, Vip, VipManager,
    VipManagerBuilder,
};

static ENTERED: OnceLock<io::Result<()>> = OnceLock::new();

/// Before libtest has threads. The other unit tests need no sandbox, so a failure is kept for the
/// tests that do.
#[allow(unsafe_code)]
#[ctor::ctor(unsafe)]
fn enter_sandbox() {
    ENTERED.get_or_init(sandbox::enter);
}

/// What a test shares with the fault that it injects. It stays reachable: LeakSanitizer looks for what is not.
fn shared<T: Default + Sync>() -> &'static T {
    static SHARED: Mutex<Vec<&dyn Sync>> = Mutex::new(Vec::new());
    let value: &T = Box::leak(Box::default());
    SHARED.lock().unwrap().push(value);
    value
}

fn ip(line: &str) -> String {
    let output = Command::new("ip")
        .args(line.split_whitespace())
        .output()
        .expect("iproute2 is needed");
    assert!(
        output.status.success(),
        "ip {line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn add_link(name: &str, options: &str) {
    ip(&format!("link add dev {name} {options} type bridge"));
    ip(&format!("link set {name} arp off up"));
}

/// A namespace with the VIP link and the node's addresses.
fn node() -> Sandbox {
    let entered = ENTERED.get().expect("the constructor ran");
    assert!(entered.is_ok(), "no sandbox: {entered:?}");
    let sandbox = Sandbox::new().unwrap();
    add_link(LINK, "");
    add_link("node0", "");
    ip(&format!("addr add {NODE_V4}/32 dev node0"));
    ip(&format!("addr add {NODE_V6}/128 dev node0 nodad"));
    // The kernel notifies the address twice, the second time right before its late route
    // (`__ipv6_ifa_notify`, net/ipv6/addrconf.c). A keeper reads the link for each.
    while !ip("-6 route show table local").contains(&NODE_V6.to_string()) {}
    sandbox
}

fn manager(receive_buffer: usize) -> VipManager {
    builder().receive_buffer(receive_buffer).open().unwrap()
}

/// The kernel's late routes come from a work queue of the whole machine, which others may keep busy.
fn builder() -> VipManagerBuilder {
    VipManager::builder(LINK)
        .source(NODE_V4)
        .source(NODE_V6)
        .stall_timeout(Duration::from_secs(60))
}

/// Of all IPv6 VIPs here.
const V6_NETWORK: [u8; 8] = [0x20, 0x01, 0x0d, 0xb8, 0, 0x42, 0, 0];

const NEWADDR: u16 = libc::RTM_NEWADDR;
const NEWROUTE: u16 = libc::RTM_NEWROUTE;
const FLAGS_AT: usize = 6;

/// The messages of a batch.
fn split(mut bytes: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().unwrap()) as usize;
        let (message, rest) = std::mem::take(&mut bytes).split_at_mut(length.next_multiple_of(4));
        bytes = rest;
        Some(message)
    })
}

/// Whatever becomes of a message, only its refusal is reported.
fn ask_for_no_ack(message: &mut [u8]) {
    let flags = flags(message) & !netlink_packet_core::NLM_F_ACK;
    message[FLAGS_AT..FLAGS_AT + 2].copy_from_slice(&flags.to_ne_bytes());
}

fn flags(message: &[u8]) -> u16 {
    u16::from_ne_bytes([message[FLAGS_AT], message[FLAGS_AT + 1]])
}

/// The message asks for a dump of routes.
fn dumps_routes(message: &[u8]) -> bool {
    let dump = netlink_packet_core::NLM_F_DUMP;
    kind(message) == libc::RTM_GETROUTE && flags(message) & dump == dump
}

fn kind(message: &[u8]) -> u16 {
    u16::from_ne_bytes([message[4], message[5]])
}

/// Whether a message names this VIP, in whatever attribute.
fn names(message: &[u8], vip: &IpAddr) -> bool {
    let is_in = |octets: &[u8]| message.windows(octets.len()).any(|bytes| bytes == octets);
    match vip {
        IpAddr::V4(vip) => is_in(&vip.octets()),
        IpAddr::V6(vip) => is_in(&vip.octets()),
    }
}

/// Makes the kernel refuse an RTM_NEWADDR: no prefix is 255 bits long.
fn spoil_address(message: &mut [u8]) {
    message[HEADER + 1] = 255;
}

fn on_link() -> BTreeSet<IpAddr> {
    let text = ip(&format!("-o addr show dev {LINK}"));
    let addresses = text.lines().filter_map(|line| {
        let address = line.split_whitespace().nth(3)?;
        address.split('/').next()?.parse().ok()
    });
    addresses
        .filter(|addr: &IpAddr| !addr.to_string().starts_with("fe80"))
        .collect()
}

/// Every VIP stands in the report exactly once.
fn assert_accounted(report: &Report, vips: usize) {
    let counted = report.assigned + report.repaired + report.released + report.unchanged;
    assert_eq!(counted + report.failures.len(), vips, "{report}");
    let named: BTreeSet<Vip> = report.failures.iter().map(|failure| failure.vip).collect();
    assert_eq!(named.len(), report.failures.len(), "a VIP failed twice");
}

/// The report of a call that ended with an error of this kind.
#[track_caller]
fn failed(result: Result<Report, Error>, kind: ErrorKind, vips: usize) -> Report {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    let report = error.into_report().unwrap();
    assert_accounted(&report, vips);
    report
}

/// The receive buffer that Linux gives by default, as one asks for it, and the 1 MiB that we ask
/// for; and the smallest possible buffer.
const BUFFERS: [usize; 3] = [212_992 / 2, 1 << 20, 1];

/// The kernel refused the prefix length of the address that was to be added.
fn assert_refused_address(failure: &Failure) {
    // Since Linux 6.6 the kernel gives its reason.
    let says_why = kernel_since(6, 6);
    assert_eq!(failure.cause, Cause::Kernel);
    assert_eq!(failure.operation, Some(Operation::AddAddress));
    assert_eq!(failure.errno, Some(libc::EINVAL));
    assert_eq!(failure.text.is_some(), says_why, "{failure}");
    let text = failure.text.as_deref().unwrap_or_default();
    assert!(
        !says_why || text.to_lowercase().contains("invalid prefix length"),
        "{text:?}"
    );
}

#[test]
fn a_thousand_refused_are_a_thousand_failures() {
    for buffer in BUFFERS {
        let _node = node();
        let mut vips = manager(buffer);
        vips.connection.tamper = Some(Box::new(|batch| {
            split(batch)
                .filter(|m| kind(m) == NEWADDR)
                .for_each(spoil_address);
        }));
        for set in [v4(1000), v6(1000)] {
            let report = failed(vips.assign(&set), ErrorKind::Incomplete, 1000);
            assert_eq!(report.failures.len(), 1000, "receive buffer {buffer}");
            let failed: Vec<IpAddr> = report.failures.iter().map(|f| f.vip.addr()).collect();
            assert_eq!(failed, set);
            for failure in &report.failures {
                assert_refused_address(failure);
            }
            assert_eq!(on_link(), BTreeSet::new());
        }
        let routes = ip("route show table all") + &ip("-6 route show table all");
        assert!(
            !routes.contains("10.96.") && !routes.contains("2001:db8:42"),
            "{routes}"
        );
    }
}

#[test]
fn three_hundred_of_five_thousand_fail_and_no_other() {
    let _node = node();
    let set = v4(5000);
    let bad: BTreeSet<IpAddr> = set.iter().copied().skip(7).step_by(16).take(300).collect();
    let mut vips = manager(BUFFERS[0]);
    let spoiled = bad.clone();
    vips.connection.tamper = Some(Box::new(move |batch| {
        split(batch)
            .filter(|m| kind(m) == NEWADDR && spoiled.contains(&message_vip(m)))
            .for_each(spoil_address);
    }));
    let report = failed(vips.assign(&set), ErrorKind::Incomplete, 5000);
    assert_eq!(report.assigned, 4700);
    let failed: BTreeSet<IpAddr> = report.failures.iter().map(|f| f.vip.addr()).collect();
    assert_eq!(failed, bad);
    assert_eq!(report.outcomes.len(), 4700);
    assert_eq!(report.outcomes.capacity(), 4700);
    for failure in &report.failures {
        assert_eq!(failure.begun, Some(OutcomeKind::Assigned), "{failure}");
        assert_refused_address(failure);
    }
    let all: BTreeSet<IpAddr> = set.into_iter().collect();
    assert_eq!(on_link(), &all - &bad);
}

fn message_vip(message: &[u8]) -> IpAddr {
    // IFA_LOCAL is the first attribute.
    let at = HEADER + 8 + 4;
    let octets: [u8; 4] = message[at..at + 4].try_into().unwrap();
    IpAddr::from(octets)
}

#[test]
fn the_kernels_own_words_come_with_each_failure() {
    let _node = node();
    let mut vips = builder()
        .stall_timeout(Duration::from_millis(500))
        .open()
        .unwrap();
    // The link goes down between the addresses and the routes, and keeps its addresses.
    std::fs::write(
        format!("/proc/sys/net/ipv6/conf/{LINK}/keep_addr_on_down"),
        "1",
    )
    .unwrap();
    vips.connection.tamper = Some(Box::new(|batch| {
        if split(batch).any(|m| kind(m) == NEWROUTE) {
            ip(&format!("link set {LINK} down"));
        }
    }));
    let set = v6(300);
    let report = failed(vips.assign(&set), ErrorKind::Incomplete, 300);
    assert_eq!(report.failures.len(), 300);
    // It is the trouble of all of them, with the kernel's words where it said something.
    let missing = Cause::Missing(ErrorKind::LinkDown);
    let begun = Some(OutcomeKind::Assigned);
    for failure in &report.failures {
        assert_eq!((failure.cause, failure.begun), (missing, begun));
        assert!(failure.detail.is_some());
    }
    let refused = report.failures.iter().filter(|f| f.errno.is_some());
    assert!(refused.clone().next().is_some());
    for failure in refused {
        assert_eq!(failure.operation, Some(Operation::AddRoute), "{failure}");
        assert_eq!(failure.errno, Some(libc::ENETDOWN), "{failure}");
        let text = failure.text.as_deref();
        assert!(text.is_some_and(|text| text.contains("Nexthop device is not up")));
    }
}

/// In the middle of a call one family comes to lack something: its VIPs fail for that, whatever the
/// kernel says to their messages, and the other's are done.
#[test]
fn what_a_family_loses_in_the_middle_fails_its_vips_alone() {
    let disable = format!("/proc/sys/net/ipv6/conf/{LINK}/disable_ipv6");
    let source_v4 = format!("addr del {NODE_V4}/32 dev node0");
    let shrink = format!("link set {LINK} mtu 1000");
    let down = format!("link set {LINK} down");
    let cases = [
        (&shrink, Family::V6, ErrorKind::Ipv6Disabled),
        (&disable, Family::V6, ErrorKind::Ipv6Disabled),
        (&down, Family::V6, ErrorKind::LinkDown),
        (&source_v4, Family::V4, ErrorKind::SourceNotOnNode),
    ];
    for (what, loser, kind) in cases {
        let _node = node();
        let mut vips = builder().open().unwrap();
        let act = what.clone();
        before_send(&mut vips, 2, move || {
            if act.starts_with('/') {
                std::fs::write(&act, "1").unwrap();
            } else {
                ip(&act);
            }
        });
        let set: Vec<IpAddr> = v4(300).into_iter().chain(v6(300)).collect();
        println!("{what}");
        let report = failed(vips.assign(&set), ErrorKind::Incomplete, 600);
        assert_eq!(report.assigned, 300, "{report}");
        for failure in &report.failures {
            assert_eq!(failure.vip.family(), loser, "{failure}");
            assert_eq!(failure.cause, Cause::Missing(kind), "{failure}");
        }
    }
}

/// Acts before the given send of a call.
fn before_send(vips: &mut VipManager, which: u32, act: impl Fn() + Send + Sync + 'static) {
    let mut sends = 0;
    vips.connection.tamper = Some(Box::new(move |_| {
        sends += 1;
        if sends == which {
            act();
        }
    }));
}

/// A refusal that sounds like the link's, to one message among many, while the link is there.
#[test]
fn one_message_that_finds_no_device_is_sent_again() {
    let _node = node();
    let mut vips = builder().open().unwrap();
    let mut once = Some(4711_u32);
    vips.connection.tamper = Some(Box::new(move |batch| {
        let mut addresses = split(batch).filter(|message| kind(message) == NEWADDR);
        if let Some((message, index)) = addresses.next().zip(once.take()) {
            let at = HEADER + 4;
            message[at..at + 4].copy_from_slice(&index.to_ne_bytes());
        }
    }));
    let report = vips.assign(v4(300)).unwrap();
    assert_eq!(report.assigned, 300, "{report}");
}

#[test]
fn a_link_deleted_in_the_middle_is_reported_for_every_vip() {
    for set in [v4(2000), v6(2000)] {
        let _node = node();
        let mut vips = manager(BUFFERS[1]);
        before_send(&mut vips, 3, || {
            ip(&format!("link del {LINK}"));
        });
        let report = failed(vips.assign(&set), ErrorKind::LinkNotFound, 2000);
        assert_eq!(
            report.failures.len(),
            2000,
            "nothing can be verified on a link that is gone"
        );
        // The only observation came before the first write. An ack is none.
        let absent = crate::Drift::MISSING_ADDRESS | crate::Drift::MISSING_ROUTE;
        assert!(report.failures.iter().all(|f| f.drift == absent));
        let (refused, rest): (Vec<_>, Vec<_>) =
            (report.failures.iter()).partition(|f| f.cause == Cause::Kernel);
        assert!(!refused.is_empty());
        assert!(refused.iter().all(|f| f.errno == Some(libc::ENODEV)));
        assert!(rest.iter().all(|f| f.cause == Cause::NotReached));
        // A link of that name again, another index: the next call is good.
        vips.connection.tamper = None;
        add_link(LINK, "");
        assert_eq!(vips.assign(&set[..100]).unwrap().assigned, 100);
    }
}

/// Another link gets the index in the middle of a call.
fn pass_index_on() {
    let links = ip(&format!("-oneline link show dev {LINK}"));
    let (index, _) = links.split_once(':').unwrap();
    ip(&format!("link del {LINK}"));
    add_link(LINK, &format!("index {index}"));
}

#[test]
fn a_call_does_not_go_on_with_another_link_of_the_index() {
    for set in [v4(2000), v6(2000)] {
        let _node = node();
        let mut vips = manager(BUFFERS[1]);
        let mut sends = 0;
        vips.connection.tamper = Some(Box::new(move |_| {
            sends += 1;
            assert!(sends <= 3, "it goes on");
            if sends == 3 {
                pass_index_on();
            }
        }));
        failed(vips.assign(&set), ErrorKind::LinkNotFound, 2000);
        vips.connection.tamper = None;
        // By its name it is found again.
        let report = vips.release(&set).unwrap();
        assert!(report.released <= 256, "{report}");
    }
}

#[test]
fn what_is_seen_on_another_link_of_the_index_is_not_believed() {
    let _node = node();
    let mut vips = manager(BUFFERS[1]);
    vips.assign(v4(1)).unwrap();
    // The only send of this call, all of which the other link takes.
    before_send(&mut vips, 1, pass_index_on);
    failed(vips.assign(v4(3)), ErrorKind::LinkNotFound, 3);
}

#[test]
fn a_vip_that_another_writer_keeps_undoing_is_contended() {
    let _node = node();
    let mut vips = manager(BUFFERS[1]);
    let vip = v4(1)[0];
    ip(&format!("addr add {vip}/32 dev {LINK}"));
    let IpAddr::V4(octets) = vip else { panic!() };
    // What the call writes changes nothing, as if another writer put the old route back each time.
    vips.connection.tamper = Some(Box::new(move |batch| {
        for message in split(batch).filter(|message| kind(message) == NEWROUTE) {
            let at = message.windows(4).position(|w| w == octets.octets());
            message[at.unwrap()..][..4].copy_from_slice(&[10, 200, 0, 1]);
        }
    }));
    let report = failed(vips.normalize_only([vip]), ErrorKind::Incomplete, 1);
    assert_eq!(report.failures[0].cause, Cause::Contended, "{report}");
    vips.connection.tamper = None;
    assert_eq!(vips.normalize_only([vip]).unwrap().repaired, 1);
}

/// What becomes of the attempts to delete the kernel's routes for new IPv6 addresses without having
/// seen them: they are in vain, or nobody hears what became of them.
#[test]
fn the_kernels_routes_that_nobody_saw_go_all_the_same() {
    let elsewhere = Ipv6Addr::new(0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 1).octets();
    let in_vain = move |message: &mut [u8]| {
        let vip = |bytes: &[u8]| bytes.starts_with(&V6_NETWORK);
        let at = message.windows(16).position(vip).expect("it names the VIP");
        message[at..at + 16].copy_from_slice(&elsewhere);
    };
    type Fault = Box<dyn Fn(&mut [u8]) + Send + Sync>;
    let faults: [Fault; 2] = [Box::new(in_vain), Box::new(ask_for_no_ack)];
    for fault in faults {
        let _node = node();
        // Too small for the kernel's notifications of as many routes.
        let mut vips = manager(BUFFERS[0]);
        let struck = shared::<AtomicU32>();
        vips.connection.tamper = Some(Box::new(move |batch| {
            // Only the attempts come without an addition beside them.
            if split(batch).all(|message| kind(message) == libc::RTM_DELROUTE)
                && struck.fetch_add(1, Ordering::Relaxed) == 0
            {
                split(batch).for_each(&fault);
            }
        }));
        let set = v6(300);
        let report = vips.assign(&set).unwrap();
        assert_eq!(report.assigned, 300, "{report}");
        assert_ne!(struck.load(Ordering::Relaxed), 0);
        let routes = ip(&format!("-6 route show table local dev {LINK}"));
        let to_vips = || routes.lines().filter(|line| line.contains("2001:db8:42::"));
        let desired = |line: &&str| line.contains("metric 1024") && line.contains(" src ");
        assert_eq!(
            (to_vips().count(), to_vips().filter(desired).count()),
            (300, 300)
        );
    }
}

/// Sends so many requests that the kernel refuses. Returns how its answer ended, how many refusals came,
/// and whether the last one was among them.
fn ask_in_vain(connection: &mut Connection, count: u32) -> (Dumped, u32, bool) {
    let mut batch = Batch::default();
    batch.begin(connection.sequence());
    for row in 0..count {
        batch.push(row, |out, sequence| {
            link::get_link_message(out, sequence, &"absent".into());
        });
    }
    let mut heard = 0;
    let mut sealed = batch.seal();
    let end = connection.exchange(&mut sealed, |_| heard += 1).unwrap();
    (end, heard, sealed.is_complete())
}

#[test]
fn a_refusal_lost_with_the_overflow_is_found_by_looking() {
    let _node = node();
    let mut connection = Connection::open(|| Socket::open(1, Strictness::Preferred)).unwrap();
    assert!(
        connection.reply_capacity() < 8,
        "the smallest buffer holds few replies"
    );
    // More refusals than the buffer holds: the final one is among the lost.
    let (end, heard, is_complete) = ask_in_vain(&mut connection, 200);
    assert_eq!((end, is_complete), (Dumped::Interrupted, false), "{heard}");
    // And the socket is as good as new.
    let found = crate::link::find(&mut connection, &LINK.into()).unwrap();
    assert!(found.is_some_and(|link| link.up));
}

/// An old kernel's unfiltered dumps, forced: the same results among other links' addresses and
/// routes.
#[test]
fn without_strict_checking_dumps_are_filtered_here() {
    let _node = node();
    for i in 1..=50 {
        ip(&format!("addr add 203.0.113.{i}/32 dev node0"));
        ip(&format!("addr add 2001:db8:7::{i}/128 dev node0 nodad"));
        ip(&format!("route add 198.51.100.{i}/32 dev {LINK} table 77"));
    }
    // The kernel flushes every IPv4 route of a link with its last IPv4 address.
    ip(&format!("addr add 10.0.0.1/24 dev {LINK}"));
    let mut vips = builder().without_strict_checking().open().unwrap();
    let set: Vec<IpAddr> = v4(100).into_iter().chain(v6(100)).collect();
    assert_eq!(vips.assign(&set).unwrap().assigned, 200);
    assert_eq!(vips.normalize().unwrap().unchanged, 200);
    assert_eq!(on_link().len(), 201);
    assert_eq!(vips.release(&set).unwrap().released, 200);
    assert_eq!(on_link().len(), 1);
    assert_eq!(ip("route show table 77").lines().count(), 50);
}

/// One in millions of IPv6 look-ups walks past a route that is there: the look-up is repeated before its
/// answer is believed.
#[test]
fn a_look_up_that_finds_nothing_is_repeated() {
    let elsewhere = Ipv6Addr::new(0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 1);
    for (blind, believed) in [(0, false), (2, false), (3, true)] {
        let _node = node();
        let vips = v6(1);
        let mut manager = manager(1 << 20);
        manager.assign(&vips).unwrap();
        // Behind the desired route: only a look-up shows which of the two the kernel uses.
        ip(&format!(
            "-6 route add local {} dev node0 table local metric 2000",
            vips[0]
        ));
        let IpAddr::V6(vip) = vips[0] else { panic!() };
        let mut left = blind;
        let asked = shared::<AtomicU32>();
        manager.connection.tamper_look_up = Some(Box::new(move |bytes| {
            asked.fetch_add(1, Ordering::Relaxed);
            if left > 0 {
                left -= 1;
                let at = bytes
                    .windows(16)
                    .position(|bytes| bytes == vip.octets())
                    .expect("the VIP is asked for");
                bytes[at..at + 16].copy_from_slice(&elsewhere.octets());
            }
        }));
        let result = manager.normalize();
        // More may follow: a recent address is looked at for a while.
        let asked = asked.load(Ordering::Relaxed);
        assert!(asked >= (blind + 1).min(3), "{asked} look-ups");
        match result {
            Ok(report) if !believed => assert_eq!((report.unchanged, report.writes), (1, 0)),
            Err(error) if believed => {
                assert_eq!(error.report().unwrap().failures[0].cause, Cause::Conflict);
            }
            other => panic!("after {blind} blind look-ups: {other:?}"),
        }
    }
}

/// A link that goes away just before it is configured or brought up is not found, like a link that never
/// existed.
#[test]
fn a_link_that_goes_before_it_is_up_is_not_found() {
    let _node = node();
    let mut vips = manager(1 << 20);
    let found = link::find(&mut vips.connection, &vips.config.link);
    let link = found.unwrap().unwrap();
    ip(&format!("link del {LINK}"));
    let connection = &mut vips.connection;
    for gone in [
        link::bring_up(connection, link.index, &link.name),
        link::no_generated_address(connection, &link),
        link::placeholder(connection, link.index),
    ] {
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::LinkNotFound);
    }
}

/// Cancels a call with its first send, then another with its second, until a call is over before that. Whatever
/// each leaves bears the mark, so a release by mark finds it.
fn cancel_with_each_send(
    builder: &VipManagerBuilder,
    prepare: impl Fn(&mut VipManager),
    call: impl Fn(&mut VipManager) -> Result<Report, Error>,
) {
    for last in 1.. {
        let _node = node();
        let mut vips = builder.clone().open().unwrap();
        prepare(&mut vips);
        let canceller = vips.canceller();
        before_send(&mut vips, last, move || canceller.cancel());
        let result = call(&mut vips);
        vips.connection.tamper = None;
        let Err(error) = result else {
            assert!(last > 2);
            return;
        };
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        let address = !on_link().is_empty();
        vips.release_all(&Claim::mark()).unwrap();
        let left = vips.audit().unwrap().vips;
        assert!(
            left.is_empty(),
            "{builder:?}, ended with send {last}, an address was left: {address}: {left:?}"
        );
    }
}

const MARK: Protocol = Protocol::new(201).unwrap();

/// A route that has outlived its address, and waits in a disguise for a new one.
#[test]
fn a_route_in_disguise_bears_the_mark() {
    let vip = v6(1)[0];
    let outlives = |vips: &mut VipManager| {
        vips.assign([vip]).unwrap();
        ip(&format!("addr del {vip}/128 dev {LINK}"));
    };
    let marked = builder().protocol(MARK);
    cancel_with_each_send(&marked, outlives, |vips| vips.assign([vip]));
}

#[test]
fn what_a_call_by_mark_leaves_bears_the_mark() {
    let set = forged::both(150);
    for marked in [
        builder().protocol(MARK),
        builder().address_protocol(MARK),
        builder().protocol(MARK).address_protocol(MARK),
    ] {
        let assign = |vips: &mut VipManager| drop(vips.assign(&set).unwrap());
        cancel_with_each_send(&marked, assign, |vips| vips.release_all(&Claim::mark()));
    }
}

#[test]
fn an_audit_of_right_vips_alone_dumps_no_routes() {
    let _node = node();
    let mut manager = manager(1 << 20);
    let all = [v4(200), v6(200)].concat();
    manager.assign(&all).unwrap();
    let dumps = shared::<AtomicUsize>();
    forged::say(&manager.connection.requests(), |bytes| {
        let asked = split(&mut bytes.to_vec())
            .filter(|m| dumps_routes(m))
            .count();
        dumps.fetch_add(asked, Ordering::Relaxed);
        None
    });
    let mut dumps_of = |vips: &[IpAddr]| {
        assert!(manager.audit_only(vips).unwrap().is_clean());
        dumps.swap(0, Ordering::Relaxed)
    };
    for vips in [&all[..1], &all[399..], &all[150..250]] {
        assert_eq!(dumps_of(vips), 0, "{vips:?}");
    }
    // Look-ups of many VIPs cost more than dumps.
    assert!(dumps_of(&all[..101]) > 0);
    ip(&format!("addr del {}/32 dev {LINK}", all[0]));
    assert!(!manager.audit_only(&all[..1]).unwrap().is_clean());
    assert!(dumps.swap(0, Ordering::Relaxed) > 0);
}
