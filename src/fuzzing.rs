//! What the fuzzer feeds (`fuzz/`): every way in which bytes from a socket come into the library.
//! Public only under `cfg(fuzzing)`; the tests run the committed corpus through it.

#![allow(clippy::panic, clippy::expect_used, clippy::unwrap_used)]

use crate::base::{DesiredRoute, PerFamily, SourcePolicy, TABLE_LOCAL};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::base::Protocol;
use crate::base::{Family, Vip};
use crate::core::{Answer, LateRoute, MatchContext, Progress, Row, Rows};
use crate::core::{Binding, Goal, Next, Policy, Step, next};
use crate::core::{Ranges, VipFilter};
use crate::keeper::Keeper;
use crate::link::{LinkKind, SourceAvoidance};
use crate::manager::VipManager;
use crate::netlink::batch::{Batch, Entry, Response};
use crate::netlink::decode::{Link, NLMSG_ERROR, messages};
use crate::netlink::dump_cache::{Addresses, Routes};
use crate::netlink::encode::Templates;
use crate::outcome::{Claim, Report};
use crate::sys::fault::{Found, Line};
use crate::sys::{Socket, Strictness};
use crate::watcher::Event;
use crate::watcher::Watcher;

/// The link and the node of the recorded conversations, see `src/faults/corpus.rs`.
pub(crate) const LINK: &str = "kube-dummy-if";
pub(crate) const NODE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub(crate) const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

pub(crate) fn node_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => NODE_V4.into(),
        Family::V6 => NODE_V6.into(),
    }
}

/// The index of [`LINK`]: the second link after `lo`.
const INDEX: u32 = 2;

/// A few VIPs of both families.
pub(crate) fn vips() -> Vec<IpAddr> {
    let v4 = (1..=2).map(|n| IpAddr::from([10, 96, 0, n]));
    let v6 = (1..=2).map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0x42, 0, 0, 0, 0, n).into());
    v4.chain(v6).collect()
}

/// Every decoder, on every message of a datagram.
pub fn wire(datagram: &[u8]) {
    let (mut routes, mut addresses) = (Routes::default(), Addresses::default());
    for message in messages(datagram) {
        let Ok(message) = message else { break };
        let _ = message.ack().map(|ack| ack.text.map(str::len));
        // A comparison with the message before says what the message itself says.
        assert_eq!(
            routes.read(&message).map(Option::<&_>::copied),
            message.route()
        );
        assert_eq!(
            addresses.read(&message).map(Option::<&_>::copied),
            message.address()
        );
        if let Ok(Some(route)) = message.route() {
            let _ = (route.host(), route.is_kernels_own());
        }
        let _ = (message.label(), message.rule());
        if let Ok(link) = message.link() {
            read_link(&link);
        }
    }
}

/// The attributes of one link, nested as they may be.
pub fn link(attributes: &[u8]) {
    let length = u32::try_from(32 + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(libc::RTM_NEWLINK.to_ne_bytes());
    bytes.resize(32, 0);
    bytes.extend(attributes);
    for message in messages(&bytes).flatten() {
        read_link(&message.link().expect("its fixed part is whole"));
    }
}

fn read_link(link: &Link<'_>) {
    let name = link.name().map(str::len);
    let kind = link.kind().map(<[u8]>::len);
    let _ = (name, kind, link.in_vrf(), link.ipv6_disabled());
    let _ = link.is_called(LINK);
}

/// The replies to a batch, against a count that is done in another way.
pub fn batch(data: &[u8]) {
    let Some((head, datagram)) = data.split_first_chunk::<5>() else {
        return;
    };
    let count = u32::from(head[0]);
    let first = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    let mut batch = Batch::default();
    batch.begin(first);
    for row in 0..count {
        batch.push(row, |out, sequence| {
            let mut message = [0; 16];
            message[0] = 16;
            message[8..12].copy_from_slice(&sequence.to_ne_bytes());
            out.extend(message);
        });
    }
    let mut sealed = batch.seal();
    let mut refused = Vec::new();
    for message in messages(datagram).flatten() {
        if let Some(refusal) = sealed.reply(&message) {
            assert_ne!(refusal.errno, 0);
            refused.push(refusal.tag);
        }
    }
    let is_refused =
        |entry: &&Entry<u32>| matches!(entry.response, Response::Absent | Response::Refused);
    let flagged = sealed.entries().iter().filter(is_refused);
    let flagged: Vec<u32> = flagged.map(|entry| entry.tag).collect();
    let complete = sealed.is_complete();
    refused.sort_unstable();
    refused.dedup();
    assert_eq!(
        flagged, refused,
        "a refusal is reported and kept, or neither"
    );

    // A batch is complete only through an error message that bears its last sequence number.
    let mut rest = datagram;
    let mut may_be_complete = false;
    while let Some(header) = rest.first_chunk::<16>() {
        let number = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let last = first.wrapping_add(count).wrapping_sub(1);
        may_be_complete |= count > 0 && kind == NLMSG_ERROR && number(8) == last;
        let length = (number(0) as usize).next_multiple_of(4);
        if length < 16 {
            break;
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    assert!(!complete || may_be_complete, "complete without an answer");
}

/// Dumps, joined into rows, and what is planned from them.
pub fn join(data: &[u8]) {
    let Some((options, datagram)) = data.split_first_chunk::<2>() else {
        return;
    };
    let [options, goal] = *options;
    let options = Options(options);
    let desired = options.desired();
    let context = MatchContext {
        link: INDEX,
        desired: &desired,
        now: u32::from(goal),
        keeps_flags: false,
    };
    let goals = [Goal::Assign, Goal::Normalize, Goal::Release, Goal::Look];
    let rows = join_datagram(datagram, options, goals[usize::from(goal % 4)], &context);
    assert!(
        rows.as_slice().is_sorted_by(|a, b| a.vip < b.vip),
        "each VIP is one row, in order"
    );
    for row in rows.iter() {
        check_next(row, options.policy(row.goal));
        // Each can be deleted.
        let templates = Templates::new(&desired[row.vip.family()]);
        for key in rows.others(row.vip) {
            let mut out = Vec::new();
            templates.push_delete_route(&mut out, 1, &row.vip.addr(), key);
            assert!(!out.is_empty());
        }
    }
}

/// The options of [`join`], one a bit.
#[derive(Clone, Copy)]
struct Options(u8);

impl Options {
    fn has(self, place: u8) -> bool {
        self.0 & (1 << place) != 0
    }

    fn kernel_source(self) -> bool {
        self.has(0)
    }

    fn desired(self) -> PerFamily<DesiredRoute> {
        PerFamily::from_fn(|family| DesiredRoute {
            family,
            link: INDEX,
            source: match family {
                _ if self.kernel_source() => SourcePolicy::Kernel,
                family => SourcePolicy::Address(node_address(family)),
            },
            protocol: if self.has(1) { 201 } else { 2 },
            staged: if self.has(1) { 201 } else { 251 },
            address_protocol: self.has(2).then_some(7),
            deprecated: false,
        })
    }

    fn discovers(self) -> bool {
        self.has(3)
    }

    fn policy(self, goal: Goal) -> Policy {
        Policy {
            goal,
            as_kernel: !self.has(1),
            binding: if self.has(4) && !self.kernel_source() {
                Binding::Route
            } else {
                Binding::Address
            },
            kernel_source: self.kernel_source(),
        }
    }
}

/// The rows of all VIPs, after one observation and the look-ups of a datagram.
fn join_datagram(
    datagram: &[u8],
    options: Options,
    goal: Goal,
    context: &MatchContext<'_>,
) -> Rows {
    let admit = |vip: Vip| vip.inadmissible().is_none().then_some(goal);
    let admit = options
        .discovers()
        .then_some(&admit as crate::core::Admit<'_>);
    let mut rows = Rows::default();
    for vip in vips() {
        rows.push(vip.into(), goal);
    }
    rows.sort();
    rows.begin();
    let mut look_ups = Vec::new();
    for message in messages(datagram).flatten() {
        if let (libc::RTM_NEWADDR, Ok(Some(address))) = (message.kind, message.address()) {
            rows.join_address(&address, context, admit);
        }
        if let (libc::RTM_NEWROUTE, Ok(Some(route))) = (message.kind, message.route()) {
            rows.join_route(&route, context, admit);
        }
        if let libc::RTM_GETROUTE | NLMSG_ERROR = message.kind {
            look_ups.push(match message.route().ok().flatten() {
                Some(route) if route.table == TABLE_LOCAL => Answer::Local(route),
                None if look_ups.len() % 2 == 1 => Answer::Unknown,
                other => Answer::NotLocal(other),
            });
        }
    }
    rows.finish();
    rows.adopt();
    for (row, answer) in (0..).zip(&look_ups) {
        rows.join_look_up(row, answer, context);
    }
    rows
}

/// Checks what is planned for the row, whatever the call knows of the late route.
fn check_next(row: &Row, policy: Policy) {
    let drift = row.facts.drift(policy);
    let begins = Progress::default();
    let mut added = begins;
    added.acked(Step::AddAddress);
    let mut seen = added;
    seen.late_route = LateRoute::Seen;
    for progress in [begins, added, seen] {
        match next(row.vip.family(), row.facts, progress, policy) {
            Next::Steps(steps) => assert!(!steps.is_empty() && steps.len() <= 4),
            Next::Done if row.goal == Goal::Assign => {
                assert!(drift.is_empty(), "done with {drift} ({:?})", row.facts);
            }
            Next::Done | Next::Wait | Next::Read | Next::Fail(_) => {}
        }
    }
}

/// What a socket finds, one after the other; at the end, nothing.
///
/// A record is a little-endian u16: below 0x8000 the length of the datagram that follows it, 0x8000
/// nothing, 0x8001 an overflow, anything above that the receive's error number.
#[derive(Debug, Default)]
struct Script {
    bytes: Vec<u8>,
    at: usize,
    /// Messages sent that ask for a change of an address or a route, and of anything.
    writes: [usize; 2],
}

const NOTHING: u16 = 0x8000;
const OVERFLOW: u16 = 0x8001;

/// One record of a script.
#[cfg(test)]
pub(crate) fn record(found: &Found, script: &mut Vec<u8>) {
    let tag = match found {
        Found::Datagram(bytes) => u16::try_from(bytes.len()).unwrap(),
        Found::Nothing => NOTHING,
        Found::Overflow => OVERFLOW,
        Found::Error(errno) => 0x8000 | u16::try_from(*errno).unwrap(),
    };
    script.extend(tag.to_le_bytes());
    if let Found::Datagram(bytes) = found {
        script.extend(bytes);
    }
}

impl Script {
    fn next(&mut self) -> Found {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some((tag, rest)) = rest.split_first_chunk::<2>() else {
            return Found::Nothing;
        };
        self.at += 2;
        match u16::from_le_bytes(*tag) {
            NOTHING => Found::Nothing,
            OVERFLOW => Found::Overflow,
            errno @ NOTHING.. => Found::Error(i32::from(errno & 0x7f).max(1)),
            length => {
                let datagram = &rest[..rest.len().min(usize::from(length))];
                self.at += datagram.len();
                Found::Datagram(datagram.to_vec())
            }
        }
    }
}

/// A kernel that only says what a script says.
#[derive(Clone, Debug, Default)]
struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    fn new(bytes: &[u8]) -> Self {
        Self(Arc::new(Mutex::new(Script {
            bytes: bytes.to_vec(),
            ..Script::default()
        })))
    }

    fn writes(&self) -> [usize; 2] {
        self.0.lock().unwrap().writes
    }

    /// Whether everything was heard.
    fn is_told(&self) -> bool {
        let script = self.0.lock().unwrap();
        // Less than a record may be left.
        script.bytes.len() < script.at + 2
    }
}

impl Line for Scripted {
    fn send(&mut self, bytes: &[u8]) -> Option<std::io::Result<()>> {
        let writes = &mut self.0.lock().unwrap().writes;
        for message in messages(bytes).flatten() {
            let vips = matches!(
                message.kind,
                libc::RTM_NEWADDR | libc::RTM_DELADDR | libc::RTM_NEWROUTE | libc::RTM_DELROUTE
            );
            writes[0] += usize::from(vips);
            // RTM_GET* are the third of each four (`rtnl_msg_kind`, net/core/rtnetlink.c).
            writes[1] += usize::from(message.kind % 4 != 2);
        }
        Some(Ok(()))
    }

    fn receive(&mut self, _kernel: &mut dyn FnMut() -> Found) -> Found {
        self.0.lock().unwrap().next()
    }
}

/// The manager that a byte of options describes. `put` is given each of its sockets.
fn manager(options: u8, hurried: bool, put: &dyn Fn(&Socket)) -> Option<VipManager> {
    let bit = |place| Options(options).has(place);
    let mut builder = VipManager::builder(LINK).source(NODE_V4);
    builder = if bit(0) {
        builder.kernel_source(Family::V6)
    } else {
        builder.source(NODE_V6)
    };
    if bit(1) {
        builder = builder
            .protocol(Protocol::new(201)?)
            .address_protocol(Protocol::new(7)?);
    }
    if bit(2) {
        builder = builder.binding(Binding::Route);
    }
    if bit(3) {
        builder = builder.avoid_as_source(SourceAvoidance::AddressLabel);
    }
    if bit(4) {
        builder = builder.create_link(LinkKind::Bridge);
    }
    if hurried {
        builder = builder
            .stall_timeout(Duration::from_millis(1))
            .total_timeout(Duration::from_millis(5));
    }
    // Some options exclude each other.
    let manager = builder.open().ok()?;
    put(&manager.connection.requests());
    put(manager.connection.monitor());
    Some(manager)
}

/// How many calls [`converse`] can make.
pub(crate) const CALLS: u8 = 12;

/// What a call came to.
pub(crate) struct Outcome {
    /// How many VIPs it was given, where its report is of just these.
    given: Option<usize>,
    /// Whether it must not write.
    looks: bool,
    pub(crate) result: Result<Report, crate::outcome::Error>,
}

/// Makes a manager and a call.
pub(crate) fn converse(
    call: u8,
    options: u8,
    hurried: bool,
    put: &dyn Fn(&Socket),
) -> Option<Outcome> {
    let vips = vips();
    let given = Some(vips.len());
    let mut manager = manager(options, hurried, put)?;
    let claim = if options & (1 << 5) == 0 {
        Claim::link()
    } else {
        Claim::link().at_most(1)
    };
    let act = |given, result| Outcome {
        given,
        looks: false,
        result,
    };
    let look = |result: Result<(), crate::outcome::Error>| Outcome {
        given: None,
        looks: true,
        result: result.map(|()| Report::default()),
    };
    Some(match call % CALLS {
        0 => act(given, manager.assign(&vips)),
        1 => act(None, manager.normalize()),
        2 => act(given, manager.normalize_only(&vips)),
        3 => act(given, manager.release(&vips)),
        4 => act(None, manager.reconcile(&claim, &vips)),
        5 => act(None, manager.release_all(&claim)),
        6 => look(manager.audit().map(|_| ())),
        7 => look(manager.audit_deep().map(|audit| {
            let known: Vec<Vip> = audit.vips.iter().map(|audited| audited.vip).collect();
            assert!(known.is_sorted_by(|a, b| a < b));
        })),
        8 => look(
            manager
                .plan(&claim, &vips)
                .map(|plan| assert!(!plan.to_string().is_empty())),
        ),
        9 => act(None, manager.set_binding(Binding::Route)),
        10 => act(None, manager.set_source([192, 0, 2, 11])),
        _ => act(None, keep(manager, claim, &vips, put)),
    })
}

/// A few rounds of a keeper.
fn keep(
    manager: VipManager,
    claim: Claim,
    vips: &[IpAddr],
    put: &dyn Fn(&Socket),
) -> Result<Report, crate::outcome::Error> {
    let socket = Socket::open(1 << 16, Strictness::Preferred)
        .map_err(|error| crate::outcome::Error::io("no socket", &error))?;
    put(&socket);
    let mut keeper = Keeper::new(manager, claim, socket)?;
    keeper.set_desired(vips.iter().copied());
    let mut last = Report::default();
    for _ in 0..3 {
        last = keeper.dispatch(usize::MAX)?.report;
    }
    Ok(last)
}

/// A whole call, in a conversation with a kernel that says what it likes: bytes 0 and 1 choose the
/// call and the manager, the rest is the script of what the sockets hear.
pub fn call(data: &[u8]) {
    call_succeeds(data);
}

/// [`call`]; returns whether the call returned `Ok`.
pub(crate) fn call_succeeds(data: &[u8]) -> bool {
    let Some(([call, options], script)) = data.split_first_chunk::<2>() else {
        return false;
    };
    let script = Scripted::new(script);
    let put = |socket: &Socket| socket.fault.put(script.clone());
    let Some(outcome) = converse(*call, *options, true, &put) else {
        return false;
    };
    let [of_vips, any] = script.writes();
    if outcome.looks {
        assert_eq!(any, 0, "a mere look has written");
    }
    let report = match &outcome.result {
        Ok(report) => {
            // What a keeper could not do, it tries again.
            assert!(report.is_complete() || call % CALLS == CALLS - 1);
            Some(report)
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            if error.report().is_none() && call % CALLS != CALLS - 1 {
                assert_eq!(of_vips, 0, "written without a report: {error}");
            }
            error.report()
        }
    };
    let Some(report) = report else {
        return outcome.result.is_ok();
    };
    assert!(report.failures.is_sorted_by(|a, b| a.vip < b.vip));
    let counted = report.assigned
        + report.repaired
        + report.released
        + report.unchanged
        + report.failures.len();
    if let Some(given) = outcome.given {
        assert_eq!(counted, given, "{report}");
    }
    outcome.result.is_ok()
}

/// Notifications, as a watcher reads them.
pub fn watch(data: &[u8]) {
    let script = Scripted::new(data);
    let Ok(socket) = Socket::open(1 << 16, Strictness::Preferred) else {
        return;
    };
    socket.fault.put(script.clone());
    let allowed = (!data.len().is_multiple_of(2)).then(|| "10.96.0.0/12".parse().unwrap());
    let ranges = Ranges {
        allowed: allowed.into_iter().collect(),
        ..Ranges::default()
    };
    let filter = VipFilter {
        sources: PerFamily::from_fn(|family| SourcePolicy::Address(node_address(family))),
        ranges,
    };
    let Ok(requests) = Socket::open(1 << 16, Strictness::Preferred) else {
        return;
    };
    let Ok(mut watcher) = Watcher::new(socket, &LINK.into(), None, requests.into(), filter) else {
        return;
    };
    watcher.follow(Some(INDEX));
    let mut events = Vec::new();
    // Each reading ends where the script says that nothing is there. A record has two bytes or more.
    for _ in 0..=data.len() / 2 {
        let before = events.len();
        match watcher.read(&mut events) {
            Ok(count) => assert_eq!(before + count, events.len()),
            Err(error) => assert!(error.raw_os_error().is_some()),
        }
    }
    for event in &events {
        if let Event::Vip { vip, change, .. } = event {
            assert!(!change.is_empty());
            assert!(vip.inadmissible().is_none(), "{vip} is reported");
        }
    }
    assert!(script.is_told());
}
