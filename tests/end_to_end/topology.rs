//! Node A, node B, and a pod behind B, with a service VIP on both nodes.
//!
//! ```text
//!   node A                           node B                            pod
//!   to-b 192.0.2.10                  to-a 192.0.2.20                   eth0 10.244.1.5
//!        2001:db8::10 ──── veth ───       2001:db8::20                      2001:db8:244:1::5
//!                                    to-pod 10.244.1.1 ───── veth ──── default via B
//!   kube-dummy-if                           2001:db8:244:1::1
//!     the VIPs, by the test          kube-dummy-if
//!   NAT of locally made packets        the VIPs
//!   (nftables or IPVS):              forwards
//!     VIP:5000 → pod:5000
//! ```
//!
//! No rule changes a source address: kube-router's default one hides the fault. So the pod answers
//! to whatever source A chose. If that was the VIP, B takes the packet for its own.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Once;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use viproute::Family;

use crate::node::{Node, wait_until};

/// The link that holds the VIPs, as kube-router calls it.
pub(crate) const LINK: &str = "kube-dummy-if";

pub(crate) const BOTH: [Family; 2] = [Family::V4, Family::V6];

const PORT: u16 = 5000;

/// Long enough for one repeated SYN, which the kernel sends after a second.
const PATIENCE: Duration = Duration::from_secs(2);

/// The service's address.
pub(crate) fn vip(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 96, 0, 10).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x42, 1, 0, 0, 0, 0xd45a).into(),
    }
}

/// Node A's own address, which the pod ought to see.
pub(crate) fn node_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 10).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10).into(),
    }
}

fn pod_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 244, 1, 5).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x244, 1, 0, 0, 0, 5).into(),
    }
}

/// The VIP as a host prefix, as `ip` writes it.
fn vip_prefix(family: Family) -> String {
    match family {
        Family::V4 => format!("{}/32", vip(family)),
        Family::V6 => format!("{}/128", vip(family)),
    }
}

/// What node B counted of a family's packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    /// Requests to the pod that came from A with the VIP as source.
    ///
    /// B holds the VIP too. Hence in IPv4 they end here, as martians; in IPv6 they are forwarded.
    pub(crate) from_vip: u64,
    /// Answers of the pod to the VIP that B took for its own.
    pub(crate) swallowed: u64,
}

/// The three namespaces. All ends with the value.
pub(crate) struct Topology {
    /// First to go: it waits for threads in the pod.
    _server: [Server; 2],
    a: Node,
    b: Node,
    _pod: Node,
}

impl Topology {
    /// Everything in place and proven to work, but for the VIPs on A: the test puts them there.
    /// The service is made with nftables.
    pub(crate) fn new() -> Self {
        Self::with(|a| {
            a.nft(&nat());
            Ok(())
        })
        .unwrap_or_else(|e: String| panic!("{e}"))
    }

    /// The same with a service of real IPVS in masquerading mode, as a service proxy makes it; or
    /// why that cannot be had here.
    pub(crate) fn with_ipvs() -> Result<Self, String> {
        Self::with(|a| {
            for family in BOTH {
                let service = SocketAddr::new(vip(family), PORT);
                let pod = SocketAddr::new(pod_address(family), PORT);
                a.try_ipvsadm(&format!("-A -t {service} -s rr"))?;
                a.try_ipvsadm(&format!("-a -t {service} -r {pod} -m"))?;
            }
            // As kube-proxy and kube-router have it.
            a.sysctl("net/ipv4/vs/conntrack", "1");
            Ok(())
        })
    }

    fn with(service: impl FnOnce(&Node) -> Result<(), String>) -> Result<Self, String> {
        let (a, b, pod) = (Node::new("node A"), Node::new("node B"), Node::new("pod"));
        connect_nodes(&a, &b, &pod);
        for node in [&a, &b] {
            add_vip_link(node);
        }
        b.nft(&counters());
        service(&a)?;
        let server = BOTH.map(|family| Server::start(&pod, family));
        let topology = Self {
            _server: server,
            a,
            b,
            _pod: pod,
        };
        for family in BOTH {
            add_address(&topology.b, family);
            // The path without the service: veth carriers, neighbours, routes, the server.
            let pod = SocketAddr::new(pod_address(family), PORT);
            wait_until("the pod answers node A", || {
                match topology.a.run(move || ask(pod, PATIENCE)) {
                    Ok(seen) => seen == node_address(family),
                    Err(_) => false,
                }
            });
        }
        Ok(topology)
    }

    /// Connects from node A to the service's VIP, and returns the peer that the pod saw.
    pub(crate) fn connect(&self, family: Family) -> io::Result<IpAddr> {
        self.connect_within(family, PATIENCE)
    }

    /// As [`connect`](Self::connect), with a time-out of the caller's.
    pub(crate) fn connect_within(&self, family: Family, limit: Duration) -> io::Result<IpAddr> {
        let service = SocketAddr::new(vip(family), PORT);
        self.in_node_a(move || ask(service, limit))
    }

    /// Runs `job` on a thread in node A's namespace.
    pub(crate) fn in_node_a<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        self.a.run(job)
    }

    /// Fails unless a connection succeeds and the pod sees node A's own address.
    #[track_caller]
    pub(crate) fn assert_reached_from_node(&self, family: Family) {
        // A success takes milliseconds; the limit is for busy machines.
        match self.connect_within(family, 5 * PATIENCE) {
            Ok(seen) if seen == node_address(family) => {}
            other => panic!(
                "{family}: the pod should have seen {}, but: {other:?}\n{}",
                node_address(family),
                self.state(family)
            ),
        }
    }

    /// Fails unless a connection times out because A used the VIP as source.
    #[track_caller]
    pub(crate) fn assert_lost(&self, family: Family) {
        let before = self.seen(family);
        match self.connect(family) {
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {}
            other => panic!(
                "{family}: the connection should have timed out, but: {other:?}\n{}",
                self.state(family)
            ),
        }
        let after = self.seen(family);
        assert!(
            after.from_vip > before.from_vip,
            "{family}: a time-out, but no request with the VIP as source passed node B\n{}",
            self.state(family)
        );
        assert!(
            family == Family::V4 || after.swallowed > before.swallowed,
            "{family}: a time-out, but node B swallowed no answer\n{}",
            self.state(family)
        );
    }

    /// Puts the VIP's address on A's link as kube-router does, and waits for the kernel's routes.
    pub(crate) fn add_address(&self, family: Family) {
        add_address(&self.a, family);
    }

    /// `ip route replace` of the VIP's local route with the node's address as preferred source:
    /// in IPv4 this is the cure, in IPv6 the kernel's route stays beside it and wins.
    pub(crate) fn replace_route(&self, family: Family) {
        self.a.ip(&format!(
            "route replace local {} dev {LINK} table local proto kernel scope host src {}",
            vip_prefix(family),
            node_address(family)
        ));
    }

    /// Deletes the IPv6 local route that the kernel made: the one of metric 0, which must be there.
    pub(crate) fn delete_kernel_local_route(&self) {
        self.a.ip(&format!(
            "-6 route del local {} dev {LINK} table local metric 0",
            vip_prefix(Family::V6)
        ));
    }

    /// Deletes the IPv6 prefix route that the kernel made in the main table.
    pub(crate) fn delete_prefix_route(&self) {
        self.a.ip(&format!(
            "-6 route del {} dev {LINK} table main metric 256",
            vip_prefix(Family::V6)
        ));
    }

    /// A's routes to exactly the VIP over its link, one a line, of all tables.
    pub(crate) fn routes(&self, family: Family) -> Vec<String> {
        routes(&self.a, family)
    }

    /// What node B has counted so far.
    pub(crate) fn seen(&self, family: Family) -> Seen {
        let listing = self.b.nft_list("list counters table inet viproute");
        let count = |name: &str| {
            let counter = listing.split_once(&format!("counter {name}_{family:?} {{"));
            let mut words = counter.expect("the counter is listed").1.split_whitespace();
            words
                .nth(1)
                .and_then(|n| n.parse().ok())
                .expect("packets N bytes N")
        };
        Seen {
            from_vip: count("from_vip"),
            swallowed: count("swallowed"),
        }
    }

    /// What helps to understand a failure.
    pub(crate) fn state(&self, family: Family) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "node B: {:?}", self.seen(family));
        for words in [
            format!("{} address show dev {LINK}", flag(family)),
            format!("{} route show table all", flag(family)),
            format!("route get {}", vip(family)),
        ] {
            let output = self.a.try_ip(&words).unwrap_or_else(|e| e);
            let _ = writeln!(text, "node A: ip {words}\n{output}");
        }
        text
    }
}

/// A thread in the pod that serves HTTP and tells each client which address it has.
struct Server {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(pod: &Node, family: Family) -> Self {
        pod.run(move || {
            let listener =
                TcpListener::bind((pod_address(family), PORT)).expect("the pod's address is free");
            let thread = thread::spawn({
                let listener = listener.try_clone().expect("a second descriptor");
                move || {
                    while let Ok((mut client, peer)) = listener.accept() {
                        // A client that went away is its own affair.
                        let _ = serve(&mut client, peer.ip());
                    }
                }
            });
            Self {
                listener,
                thread: Some(thread),
            }
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Shutting a listener down ends `accept`, and shutdown(2) is the same for all sockets; the
        // standard library has it for streams only.
        let stopped = self
            .listener
            .try_clone()
            .and_then(|listener| TcpStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both));
        if let (Ok(()), Some(thread)) = (stopped, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// Answers one request with the address of its client.
fn serve(client: &mut TcpStream, peer: IpAddr) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let body = peer.to_string();
    write!(
        client,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Sends a request and reads from its answer, if that is a 200, which address the server saw.
fn ask(server: SocketAddr, limit: Duration) -> io::Result<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&server, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    answer
        .strip_prefix("HTTP/1.1 200 OK\r\n")
        .and_then(|rest| rest.split_once("\r\n\r\n"))
        .and_then(|(_, body)| body.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("answer: {answer:?}")))
}

fn connect_nodes(a: &Node, b: &Node, pod: &Node) {
    b.sysctl("net/ipv4/ip_forward", "1");
    b.sysctl("net/ipv6/conf/all/forwarding", "1");
    a.ip(&format!(
        "link add to-b type veth peer name to-a netns {}",
        b.netns()
    ));
    b.ip(&format!(
        "link add to-pod type veth peer name eth0 netns {}",
        pod.netns()
    ));
    for (node, link, v4, v6) in [
        (a, "to-b", "192.0.2.10/24", "2001:db8::10/64"),
        (b, "to-a", "192.0.2.20/24", "2001:db8::20/64"),
        (b, "to-pod", "10.244.1.1/24", "2001:db8:244:1::1/64"),
        (pod, "eth0", "10.244.1.5/24", "2001:db8:244:1::5/64"),
    ] {
        node.ip(&format!("address add {v4} dev {link}"));
        node.ip(&format!("address add {v6} dev {link} nodad"));
        node.ip(&format!("link set {link} up"));
    }
    // No default route on A: what makes the VIP reachable there can only be its own route.
    a.ip("route add 10.244.1.0/24 via 192.0.2.20");
    a.ip("route add 2001:db8:244:1::/64 via 2001:db8::20");
    pod.ip("route add default via 10.244.1.1");
    pod.ip("route add default via 2001:db8:244:1::1");
}

/// Makes the link for the VIPs: `dummy` where the kernel has it, else what behaves like it.
fn add_vip_link(node: &Node) {
    static SAID: Once = Once::new();
    let kind = if node.try_ip(&format!("link add {LINK} type dummy")).is_ok() {
        "dummy"
    } else {
        node.ip(&format!("link add {LINK} type bridge"));
        node.ip(&format!("link set {LINK} arp off"));
        "bridge with ARP off, because this kernel has no dummy"
    };
    node.ip(&format!("link set {LINK} up"));
    // To the stream itself: the test harness swallows what the macros print.
    SAID.call_once(|| {
        let _ = writeln!(io::stderr(), "end to end: {LINK} is a {kind}");
    });
}

/// Adds the VIP with nothing but its address, and waits until the kernel has made all its routes:
/// the IPv6 ones come late.
fn add_address(node: &Node, family: Family) {
    node.ip(&format!("address add {} dev {LINK}", vip_prefix(family)));
    let expected = match family {
        Family::V4 => 1,
        Family::V6 => 2,
    };
    wait_until("the kernel's routes to the VIP", || {
        routes(node, family).len() == expected
    });
}

fn routes(node: &Node, family: Family) -> Vec<String> {
    let words = format!(
        "{} route show table all dev {LINK} exact {}",
        flag(family),
        vip_prefix(family)
    );
    node.ip(&words)
        .lines()
        .map(|line| line.trim().to_owned())
        .collect()
}

/// The service: what A sends to the VIP goes to the pod.
fn nat() -> String {
    format!(
        "table ip viproute {{
             chain output {{
                 type nat hook output priority -100
                 ip daddr {} tcp dport {PORT} dnat to {}:{PORT}
             }}
         }}
         table ip6 viproute {{
             chain output {{
                 type nat hook output priority -100
                 ip6 daddr {} tcp dport {PORT} dnat to [{}]:{PORT}
             }}
         }}\n",
        vip(Family::V4),
        pod_address(Family::V4),
        vip(Family::V6),
        pod_address(Family::V6),
    )
}

/// Node B counts, and changes nothing.
fn counters() -> String {
    let mut rules = "table inet viproute {\n".to_owned();
    for name in ["from_vip_V4", "from_vip_V6", "swallowed_V4", "swallowed_V6"] {
        let _ = writeln!(rules, "counter {name} {{ }}");
    }
    for (chain, hook, port) in [
        ("from_vip", "prerouting", "dport"),
        ("swallowed", "input", "sport"),
    ] {
        let _ = writeln!(
            rules,
            "chain {chain} {{\ntype filter hook {hook} priority -300"
        );
        for (family, keyword) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
            let side = if chain == "from_vip" {
                "saddr"
            } else {
                "daddr"
            };
            let _ = writeln!(
                rules,
                "{keyword} {side} {} tcp {port} {PORT} counter name {chain}_{family:?}",
                vip(family)
            );
        }
        rules.push_str("}\n");
    }
    rules.push_str("}\n");
    rules
}

fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}
