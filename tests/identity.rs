//! Numbers that the kernel uses again: the index of a link, the port id of a socket, the process id of a
//! manager's process or of a namespace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

#[path = "common/child.rs"]
mod child;

use std::io;
use std::net::IpAddr;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use child::Process;
use common::raw::{CREATE_REPLACE, Raw, local_route};
use common::{NODE_V4, Net, RouteWatcher, VIP_LINK, builder_of as builder, net::ip_command, vips};
use netlink_packet_route::RouteNetlinkMessage::NewRoute;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use viproute::{Claim, Error, ErrorKind, Event, Keeper, LinkIndex, Origin, Watcher};

/// Another link than the manager's, with host addresses of its own.
const STRANGER: &str = "stranger0";
const STRANGERS_OWN: &str = "10.99.0.1";

/// A node whose VIP link can move to another namespace, which a bridge cannot, and its index.
fn node() -> (Net, LinkIndex) {
    let net = Net::with_node_on_lo();
    net.ip(&format!("link del dev {VIP_LINK}"));
    net.ip(&format!(
        "link add dev {VIP_LINK} type veth peer name {VIP_LINK}p"
    ));
    let index = LinkIndex::new(prepare(&net, VIP_LINK)).unwrap();
    (net, index)
}

/// Makes a link able to hold VIPs; gives its index.
fn prepare(net: &Net, link: &str) -> u32 {
    net.ip(&format!("link set dev {link} arp off addrgenmode none up"));
    net.ip(&format!("link set dev {link}p addrgenmode none up"));
    net.index(link)
}

/// How a link's index passes to another link.
#[derive(Clone, Copy, Debug)]
enum Passing {
    /// The link is deleted, and another one created with the index.
    Created,
    /// The link is deleted, and another one comes from a namespace where it had the index.
    Came,
    /// The link moves to another namespace, and another one is created with the index.
    Moved,
}

const PASSINGS: [Passing; 3] = [Passing::Created, Passing::Came, Passing::Moved];

/// A process in a network namespace of its own.
struct Elsewhere(Child);

impl Elsewhere {
    fn new() -> Self {
        let mut unshare = Command::new("unshare");
        let this = Self(unshare.args(["--net", "sleep", "1000"]).spawn().unwrap());
        let of = |id: &str| std::fs::read_link(format!("/proc/{id}/ns/net")).ok();
        let deadline = Instant::now() + Duration::from_secs(20);
        while of(&this.id()).is_none_or(|there| Some(there) == of("thread-self")) {
            assert!(Instant::now() < deadline, "it has no namespace of its own");
            std::thread::sleep(Duration::from_millis(2));
        }
        this
    }

    fn id(&self) -> String {
        self.0.id().to_string()
    }

    fn ip(&self, words: &str) {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--net", "--target", &self.id()]);
        nsenter.arg(ip_command().get_program());
        let output = nsenter.args(words.split(' ')).output().unwrap();
        assert!(output.status.success(), "{words}: {output:?}");
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The id of the calling thread, whose namespace is the test's.
fn thread_id() -> String {
    let path = std::fs::read_link("/proc/thread-self").unwrap();
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Gives the index to another link. With the other namespace its links would go.
fn pass(net: &Net, index: LinkIndex, passing: Passing) -> Elsewhere {
    let add = format!("link add dev {STRANGER} index {index} type veth peer name {STRANGER}p");
    let elsewhere = Elsewhere::new();
    match passing {
        Passing::Created => {
            net.ip(&format!("link del dev {VIP_LINK}"));
            net.ip(&add);
        }
        Passing::Came => {
            elsewhere.ip(&add);
            net.ip(&format!("link del dev {VIP_LINK}"));
            for link in [STRANGER, "stranger0p"] {
                elsewhere.ip(&format!("link set dev {link} netns {}", thread_id()));
            }
        }
        Passing::Moved => {
            net.ip(&format!("link set dev {VIP_LINK} netns {}", elsewhere.id()));
            net.ip(&add);
        }
    }
    assert_eq!(
        prepare(net, STRANGER),
        index.get(),
        "the index was not used again"
    );
    net.ip(&format!("addr add {STRANGERS_OWN}/32 dev {STRANGER}"));
    net.ip(&format!("addr add 2001:db8:99::1/128 dev {STRANGER} nodad"));
    net.wait_for_kernel();
    elsewhere
}

#[track_caller]
fn not_found<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LinkNotFound, "{error}");
}

#[test]
fn manager_by_index_does_not_follow_the_index_to_another_link() {
    for passing in PASSINGS {
        let (net, index) = node();
        let set = vips(3);
        let mut idle = builder(index).open().unwrap();
        let mut manager = builder(index).bring_up().open().unwrap();
        manager.assign(&set).unwrap();
        let _elsewhere = pass(&net, index, passing);
        let before = net.snapshot_without(&[]);
        for manager in [&mut manager, &mut idle] {
            not_found(manager.reconcile(&Claim::link(), &set));
            not_found(manager.assign(&set));
            not_found(manager.normalize());
            not_found(manager.release(&set));
            not_found(manager.release_all(&Claim::link()));
            not_found(manager.set_source([192, 0, 2, 10]));
            not_found(manager.plan(&Claim::link(), &set));
            not_found(manager.audit());
            not_found(manager.audit_deep());
            not_found(manager.watcher());
        }
        before.assert_same(&net.snapshot_without(&[]));
        // A manager that is opened now means the link of now.
        let mut now = builder(index).open().unwrap();
        assert_eq!(now.audit().unwrap().vips.len(), 2, "{passing:?}");
    }
}

#[test]
fn index_without_a_link_does_not_mean_a_later_link() {
    let net = Net::with_node_on_lo();
    let index = LinkIndex::new(4711).unwrap();
    let mut manager = builder(index).open().unwrap();
    net.ip(&format!(
        "link add dev {STRANGER} index {index} type veth peer name {STRANGER}p"
    ));
    prepare(&net, STRANGER);
    let before = net.snapshot_without(&[]);
    not_found(manager.assign(vips(1)));
    before.assert_same(&net.snapshot_without(&[]));
}

/// Other links come and go as on a node with many pods, more than a receive buffer would hold.
fn churn(net: &Net) {
    net.ip_batch((0..40).flat_map(|_| {
        [
            "link add dev churn0 type veth peer name churn1".to_owned(),
            "link del dev churn0".to_owned(),
        ]
    }));
}

#[test]
fn end_of_another_link_does_not_end_the_manager() {
    let (net, index) = node();
    let set = vips(3);
    let mut by_index = builder(index).receive_buffer(1).open().unwrap();
    by_index.assign(&set).unwrap();
    churn(&net);
    assert_eq!(by_index.assign(&set).unwrap().unchanged, 6);
    // A port that leaves its bridge is notified like a deleted link, except for the family.
    net.ip("link add dev bridge0 type bridge");
    net.ip(&format!("link set dev {VIP_LINK} master bridge0"));
    net.ip(&format!("link set dev {VIP_LINK} nomaster"));
    let report = by_index.assign(&set).unwrap();
    assert_eq!(report.assigned + report.repaired + report.unchanged, 6);
}

#[test]
fn a_keeper_by_index_does_not_follow_the_index_to_another_link() {
    for passing in PASSINGS {
        for hears in [true, false] {
            let (net, index) = node();
            let set = vips(3);
            let manager = builder(index).receive_buffer(if hears { 1 << 20 } else { 1 });
            let mut keeper = manager.open().unwrap().into_keeper(Claim::link()).unwrap();
            keeper.set_desired(&set);
            assert_eq!(keeper.dispatch(1_000).unwrap().report.assigned, 6);
            if !hears {
                // What the keeper's own socket holds no longer fits.
                churn(&net);
            }
            let _elsewhere = pass(&net, index, passing);
            let before = net.snapshot_without(&[]);
            let keep = |keeper: &mut Keeper| {
                let said = keeper.dispatch(1_000).unwrap().to_string();
                assert!(
                    said.starts_with("waiting: there is no link"),
                    "{passing:?}: {said}"
                );
            };
            keep(&mut keeper);
            // Nor when something happens to that link.
            net.ip(&format!("link set dev {STRANGER} down"));
            net.ip(&format!("link set dev {STRANGER} up"));
            keep(&mut keeper);
            keeper.set_desired(vips(2));
            keep(&mut keeper);
            net.ip(&format!("addr add 2001:db8:99::1/128 dev {STRANGER} nodad"));
            net.wait_for_kernel();
            before.assert_same(&net.snapshot_without(&[]));
        }
    }
}

fn read(watcher: &mut Watcher) -> Vec<Event> {
    let mut events = Vec::new();
    watcher.read(&mut events).unwrap();
    events
}

#[test]
fn a_watcher_by_index_follows_the_link_and_not_the_index() {
    for passing in PASSINGS {
        for hears in [true, false] {
            let (net, index) = node();
            let manager = builder(index).receive_buffer(if hears { 1 << 20 } else { 1 });
            let mut watcher = manager.open().unwrap().watcher().unwrap();
            net.ip(&format!("link set dev {VIP_LINK} down"));
            net.ip(&format!("link set dev {VIP_LINK} name renamed0"));
            let events = read(&mut watcher);
            assert!(!events.contains(&Event::LinkGone), "{events:?}");
            assert_eq!(watcher.link(), Some(index));
            net.ip(&format!("link set dev renamed0 name {VIP_LINK}"));
            read(&mut watcher);
            if !hears {
                churn(&net);
            }
            let _elsewhere = pass(&net, index, passing);
            let events = read(&mut watcher);
            assert_eq!(events.contains(&Event::Resync), !hears, "{events:?}");
            assert!(events.contains(&Event::LinkGone), "{passing:?}: {events:?}");
            assert_eq!(watcher.link(), None);
            net.ip(&format!("addr add 10.96.0.1/32 dev {STRANGER}"));
            net.ip(&format!("link set dev {STRANGER} down"));
            let events = read(&mut watcher);
            let of_link = |event: &Event| {
                !matches!(
                    event,
                    Event::NodeAddressSet(_) | Event::NodeAddressRemoved(_) | Event::Resync
                )
            };
            let of_others = |event: &Event| match event {
                Event::Vip { change, .. } => *change == viproute::Change::FOREIGN_ROUTE,
                other => !of_link(other),
            };
            assert!(events.iter().all(of_others), "{passing:?}: {events:?}");
        }
    }
}

/// Opens a socket with this port id.
fn socket_of(port: u32) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(port, 0))?;
    Ok(socket)
}

#[test]
fn reused_port_id_is_not_this_manager() {
    let net = Net::new();
    let vip: IpAddr = vips(1)[0];
    let mut manager = builder(VIP_LINK).open().unwrap();
    let mut watcher = manager.watcher().unwrap();
    let routes = RouteWatcher::new();
    manager.assign([vip]).unwrap();
    net.ip(&format!("route del local {vip} dev {VIP_LINK} table local"));
    read(&mut watcher);
    manager.assign([vip]).unwrap();
    let is_managers = |events: &[Event]| {
        events.iter().any(
            |event| matches!(event, Event::Vip { origin, .. } if origin.contains(Origin::OURS)),
        )
    };
    assert!(is_managers(&read(&mut watcher)));
    let port = routes
        .drain()
        .iter()
        .find_map(|event| match event {
            common::Event::Route(route) if route.dst == Some(vip) && route.port != 0 => {
                Some(route.port)
            }
            _ => None,
        })
        .unwrap();
    drop(manager);
    match socket_of(port) {
        // The watcher has kept it.
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE)),
        Ok(socket) => {
            let mut raw = Raw::over(socket);
            let route = local_route(vip, net.vip_index(), Some(NODE_V4.into()), 99);
            raw.batch_ok(&[(NewRoute(route), CREATE_REPLACE)]);
            let events = read(&mut watcher);
            assert!(!is_managers(&events), "{events:?}");
        }
    }
    drop(watcher);
    // A program that another test has just started holds all descriptors of this process until its exec.
    let began = Instant::now();
    while socket_of(port).is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it is kept for nobody"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// In the environment of a process that forks.
const FORK: &str = "VIPROUTE_FORK";

/// Before the sandbox of the tests is entered, which this process is in already, and while it has
/// one thread.
#[ctor::ctor(unsafe, priority = 101)]
fn forks() {
    if let Ok(how) = std::env::var(FORK) {
        fork_with_a_manager(how == "same pid");
        std::process::exit(0);
    }
}

/// Forks; says whether this is the child. The parent has waited for its end.
#[allow(unsafe_code)]
fn is_child_of_fork() -> bool {
    // SAFETY: this process has one thread, so that the child is a whole copy of it.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", io::Error::last_os_error());
    if child > 0 {
        let mut status = 0;
        // SAFETY: `status` is valid for writing.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child failed");
    }
    child == 0
}

/// The next child is the first process of a new pid namespace. Says no where that may not be.
#[allow(unsafe_code)]
fn next_child_has_pid_1() -> bool {
    // SAFETY: unshare takes no pointer, and this process has one thread.
    unsafe { libc::unshare(libc::CLONE_NEWPID) == 0 }
}

fn fork_with_a_manager(same_pid: bool) {
    if same_pid {
        if !next_child_has_pid_1() {
            println!("skipped");
            return;
        }
        if !is_child_of_fork() {
            return;
        }
        assert!(next_child_has_pid_1());
    }
    let set = vips(3);
    let open = || builder(VIP_LINK).open().unwrap();
    let mut manager = open();
    manager.assign(&set).unwrap();
    let mut keeper = open().into_keeper(Claim::link()).unwrap();
    keeper.set_desired(&set);
    keeper.dispatch(1_000).unwrap();
    let mut watcher = manager.watcher().unwrap();
    let pid = std::process::id();
    if is_child_of_fork() {
        assert_eq!(std::process::id() == pid, same_pid);
        let say = |what: &str, kind: Option<ErrorKind>| println!("{what}: {kind:?}");
        say(
            "assign",
            manager.assign(&set).err().map(|error| error.kind()),
        );
        say("audit", manager.audit().err().map(|error| error.kind()));
        say("watcher", manager.watcher().err().map(|error| error.kind()));
        say(
            "dispatch",
            keeper.dispatch(9).err().map(|error| error.kind()),
        );
        // So that it ends where it is not refused.
        keeper.canceller().cancel();
        say("run", keeper.run(|_| ()).err().map(|error| error.kind()));
        let read = watcher.read(&mut Vec::new());
        say("read", read.err().map(|error| error.kind()));
        say(
            "keeper",
            manager
                .into_keeper(Claim::link())
                .err()
                .map(|error| error.kind()),
        );
        say("own", open().assign(&set).err().map(|error| error.kind()));
        drop((keeper, watcher));
        std::process::exit(0);
    }
    assert_eq!(manager.assign(&set).unwrap().unchanged, 6);
    let said = keeper.dispatch(9).unwrap().to_string();
    assert!(!said.contains("waiting"), "{said}");
    watcher.read(&mut Vec::new()).unwrap();
    println!("parent: fine");
}

#[track_caller]
fn assert_a_fork_is_told(test: &str, how: &str) {
    let _net = Net::new();
    let mut process = Process::start(FORK, how);
    let mut said = String::new();
    loop {
        match process.hear() {
            line if line.is_empty() => break,
            line => said += &line,
        }
    }
    if said == "skipped\n" {
        common::skipped(test, "no pid namespace may be made here");
        return;
    }
    let other = "Some(OtherProcess)";
    let want = format!(
        "assign: {other}\naudit: {other}\nwatcher: {other}\ndispatch: {other}\nrun: {other}\n\
         read: {other}\nkeeper: {other}\nown: None\nparent: fine\n"
    );
    assert_eq!(said, want);
}

#[test]
fn a_forked_child_does_not_use_its_parents_sockets() {
    assert_a_fork_is_told("a_forked_child_does_not_use_its_parents_sockets", "fork");
}

#[test]
fn a_forked_child_with_the_same_pid_does_not_use_its_parents_sockets() {
    assert_a_fork_is_told(
        "a_forked_child_with_the_same_pid_does_not_use_its_parents_sockets",
        "same pid",
    );
}
