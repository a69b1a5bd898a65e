//! Which notifications pass the filters, judged by a socket with the filter and one without.

use super::*;
use crate::base::PerFamily;
use crate::fuzzing::node_address;
use crate::netlink::decode::{Message, messages};
use crate::netlink::filter::{Elsewhere, Interest, deletion_of, notifications};
use crate::netlink::listener::GROUPS;
use crate::sys::Received;

/// Two sockets that hear the same, but for the filter.
struct Pair {
    all: Socket,
    filtered: Socket,
}

impl Pair {
    fn new(filter: &[libc::sock_filter]) -> Self {
        let open = || Socket::open(1 << 20, Strictness::Preferred).unwrap();
        let (all, filtered) = (open(), open());
        filtered.attach_filter(filter).unwrap();
        for socket in [&all, &filtered] {
            for group in GROUPS {
                socket.join(group).unwrap();
            }
        }
        Self { all, filtered }
    }

    /// What the two heard of what happens: all, and what passed. Waits until there are so many.
    fn hear(&self, count: usize, happen: &str) -> (Vec<String>, Vec<String>) {
        ip(happen);
        let mut all = Vec::new();
        for _ in 0..500 {
            all.extend(queued(&self.all));
            if all.len() >= count {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        (all, queued(&self.filtered))
    }
}

/// The notifications in a socket's queue, in words. Those of multicast and broadcast routes, which come
/// with every address, are left out.
fn queued(socket: &Socket) -> Vec<String> {
    let mut buffer = vec![0; 1 << 16];
    let mut heard = Vec::new();
    while let Received::Datagram(datagram) = socket.receive(&mut buffer).unwrap() {
        let messages = messages(datagram).map(|message| in_words(&message.unwrap()));
        heard.extend(messages.flatten());
    }
    heard
}

fn in_words(message: &Message<'_>) -> Option<String> {
    let new = message.kind.is_multiple_of(2);
    let what = if new { "new" } else { "gone" };
    Some(match message.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => {
            let link = message.link().unwrap();
            let role = if link.is_itself { "" } else { " as a port" };
            format!("{what} link {}{role}", link.index)
        }
        libc::RTM_NEWADDR | libc::RTM_DELADDR => {
            let address = message.address().unwrap().unwrap();
            format!("{what} address {} on {}", address.addr, address.link)
        }
        _ => {
            let route = message.route().unwrap().unwrap();
            let to = route.destination.unwrap_or(IpAddr::from([0; 4]));
            if to.is_multicast() || route.kind == libc::RTN_BROADCAST {
                return None;
            }
            let link = route.link.unwrap_or_default();
            format!("{what} route {to} table {} by {link}", route.table)
        }
    })
}

fn index(link: &str) -> u32 {
    let line = ip(&format!("-o link show dev {link}"));
    line.split(':').next().unwrap().parse().unwrap()
}

/// A node on whose links the kernel makes no address.
fn silent_node() -> Sandbox {
    let node = node();
    for link in [LINK, "node0"] {
        ip(&format!("link set {link} addrgenmode none"));
        ip(&format!("addr flush dev {link} scope link"));
    }
    node
}

/// The links of [`node`], after `lo`.
const VIPS: u32 = 2;
const NODE: u32 = 3;

fn interest(link: Option<u32>, elsewhere: Elsewhere) -> Interest {
    Interest { link, elsewhere }
}

/// The sources of the tests.
fn sources() -> Elsewhere {
    Elsewhere::Only(PerFamily::from_fn(|family| Some(node_address(family))))
}

/// What happens, what passes the filter of a keeper that knows its link (+), and what does not (-).
const CASES: &str = "
# Routes in table main.
route add 10.1.0.1/32 dev kube-dummy-if
+ new route 10.1.0.1 table 254 by 2
route add 10.1.0.2/32 dev node0
- new route 10.1.0.2 table 254 by 3
route add 10.1.1.0/24 dev kube-dummy-if
- new route 10.1.1.0 table 254 by 2
route add blackhole 10.1.0.3/32
+ new route 10.1.0.3 table 254 by 0
route add 10.1.0.4/32 nexthop dev kube-dummy-if nexthop dev node0
+ new route 10.1.0.4 table 254 by 0
route add 2001:db8:1::1/128 dev kube-dummy-if
+ new route 2001:db8:1::1 table 254 by 2
route add 2001:db8:1::2/128 dev node0
- new route 2001:db8:1::2 table 254 by 3
route add 2001:db8:1::/64 dev kube-dummy-if
- new route 2001:db8:1:: table 254 by 2
route del 2001:db8:1::1/128 dev kube-dummy-if
+ gone route 2001:db8:1::1 table 254 by 2
route add 10.1.0.5/32 dev kube-dummy-if table 77
- new route 10.1.0.5 table 77 by 2
route add 10.1.0.5/32 dev kube-dummy-if table 1022
- new route 10.1.0.5 table 1022 by 2
# Routes in table local.
route add local 10.1.0.6/32 dev kube-dummy-if table local
+ new route 10.1.0.6 table 255 by 2
route add local 10.1.0.7/32 dev node0 table local
+ new route 10.1.0.7 table 255 by 3
route add local 2001:db8:1::7/128 dev node0 table local
+ new route 2001:db8:1::7 table 255 by 3
route add local 2001:db8:2::/64 dev node0 table local
- new route 2001:db8:2:: table 255 by 3
route add local fe80::7/128 dev node0 table local
- new route fe80::7 table 255 by 3
# Addresses.
addr add 10.1.0.8/32 dev kube-dummy-if
+ new address 10.1.0.8 on 2
+ new route 10.1.0.8 table 255 by 2
addr add 10.1.0.9/32 dev node0
+ new route 10.1.0.9 table 255 by 3
- new address 10.1.0.9 on 3
addr del 192.0.2.10/32 dev node0
+ gone route 192.0.2.10 table 255 by 3
+ gone address 192.0.2.10 on 3
addr add 192.0.2.10 peer 192.0.2.11 dev node0
+ new address 192.0.2.10 on 3
+ new route 192.0.2.10 table 255 by 3
- new route 192.0.2.11 table 254 by 3
addr del 2001:db8::10/128 dev node0
+ gone address 2001:db8::10 on 3
+ gone route 2001:db8::10 table 255 by 3
- gone route 2001:db8::10 table 254 by 3
addr add 2001:db8:1::9/128 dev node0 nodad noprefixroute
+ new route 2001:db8:1::9 table 255 by 3
- new address 2001:db8:1::9 on 3
# It begins with the octets of the IPv4 source.
addr add c000:20a::1/128 dev node0 nodad noprefixroute
+ new route c000:20a::1 table 255 by 3
- new address c000:20a::1 on 3
# Links.
link set kube-dummy-if alias touched
+ new link 2
link set node0 alias touched
- new link 3
link add other type bridge
- new link 4
";

fn cases() -> Vec<(&'static str, Vec<&'static str>, Vec<&'static str>)> {
    let mut cases: Vec<(_, Vec<_>, Vec<_>)> = Vec::new();
    for line in CASES.trim().lines() {
        match (line.split_at(2), cases.last_mut()) {
            (("# ", _), _) => {}
            (("+ ", passes), Some((_, all, _))) | (("- ", passes), Some((_, _, all))) => {
                all.push(passes)
            }
            _ => cases.push((line, Vec::new(), Vec::new())),
        }
    }
    cases
}

/// Waits until nothing more is heard, then empties the queues.
fn calm_down(pair: &Pair) {
    loop {
        std::thread::sleep(Duration::from_millis(100));
        queued(&pair.filtered);
        if queued(&pair.all).is_empty() {
            return;
        }
    }
}

#[test]
fn kernel_passes_the_notifications_that_matter() {
    let _node = silent_node();
    let pair = Pair::new(&notifications(&interest(Some(VIPS), sources())));
    calm_down(&pair);
    assert_eq!(cases().len(), 26);
    for (happens, mut passes, is_dropped) in cases() {
        let mut expected = [&passes[..], &is_dropped].concat();
        let (mut all, mut passed) = pair.hear(expected.len(), happens);
        expected.sort_unstable();
        passes.sort_unstable();
        all.sort_unstable();
        passed.sort_unstable();
        assert_eq!(all, expected, "{happens}");
        assert_eq!(passed, passes, "{happens}");
    }
}

/// While the link is unknown, each may be the one; a watcher hears of every address.
#[test]
fn kernel_passes_every_link_while_the_link_is_unknown_and_every_address_to_a_watcher() {
    let _node = node();
    for (interest, happens, passes) in [
        (
            interest(None, sources()),
            "link set node0 alias a",
            "new link 3",
        ),
        (
            interest(None, sources()),
            "route add 10.1.0.1/32 dev node0",
            "new route 10.1.0.1 table 254 by 3",
        ),
        (
            interest(Some(NODE), sources()),
            "link set node0 alias b",
            "new link 3",
        ),
        (
            interest(Some(NODE), sources()),
            "route add 10.1.0.2/32 dev node0",
            "new route 10.1.0.2 table 254 by 3",
        ),
        (
            interest(Some(VIPS), Elsewhere::All),
            "addr change 2001:db8::10/128 dev node0 valid_lft 1000 preferred_lft 1000",
            "new address 2001:db8::10 on 3",
        ),
        (
            interest(Some(VIPS), Elsewhere::All),
            "addr add 2001:db8:1::9/64 dev node0 nodad noprefixroute",
            "new address 2001:db8:1::9 on 3",
        ),
    ] {
        let pair = Pair::new(&notifications(&interest));
        calm_down(&pair);
        let (all, passed) = pair.hear(1, happens);
        assert!(
            all.iter().any(|heard| heard == passes),
            "{happens}: {all:?}"
        );
        assert!(
            passed.iter().any(|heard| heard == passes),
            "{happens}: {passed:?}"
        );
    }
}

/// A filter also sees replies: an answer to a question, and an error, which pass.
#[test]
fn filter_passes_answers() {
    let _node = node();
    let pair = Pair::new(&notifications(&interest(Some(VIPS), sources())));
    let mut buffer = vec![0; 1 << 16];
    for (index, passes) in [
        (VIPS, Some(libc::RTM_NEWLINK)),
        (NODE, None),
        (77, Some(crate::netlink::decode::NLMSG_ERROR)),
    ] {
        let mut request = Vec::new();
        let which = link::LinkIndex::new(index).unwrap().into();
        link::get_link_message(&mut request, 1, &which);
        pair.filtered.send(&request).unwrap();
        let answer = match pair.filtered.receive(&mut buffer).unwrap() {
            Received::Datagram(datagram) => Some(kind(datagram)),
            _ => None,
        };
        assert_eq!(answer, passes, "link {index}");
    }
}

/// The messages of a bridge about its port bear the port's index.
#[test]
fn messages_about_the_link_as_a_port_do_not_pass() {
    let _node = node();
    ip("link add port type bridge");
    ip("link add pair0 type veth peer name pair1");
    let pair0 = index("pair0");
    let pair = Pair::new(&notifications(&interest(Some(pair0), sources())));
    let as_port = |heard: &String| heard.ends_with(&format!("link {pair0} as a port"));
    for happens in ["link set pair0 master port", "link set pair0 nomaster"] {
        let (all, passed) = pair.hear(2, happens);
        assert!(all.iter().any(as_port), "{happens}: {all:?}");
        assert!(!passed.iter().any(as_port), "{happens}: {passed:?}");
        assert!(!passed.is_empty(), "{happens}: {all:?}");
    }
}

/// A port that leaves its bridge is not gone.
#[test]
fn only_the_deletion_of_the_link_ends_its_lifetime() {
    let _node = node();
    ip("link add port type bridge");
    ip("link add pair0 type veth peer name pair1");
    let pair0 = index("pair0");
    let pair = Pair::new(&deletion_of(pair0));
    for happens in [
        "link set pair0 master port",
        "link set pair0 nomaster",
        "link set pair0 up",
        "link del node0",
    ] {
        let (all, passed) = pair.hear(1, happens);
        assert!(!all.is_empty());
        assert_eq!(passed, Vec::<String>::new(), "{happens}");
    }
    ip("link del pair0");
    assert_eq!(queued_kinds(&pair.filtered), [libc::RTM_DELLINK]);
}

/// The types of the queued messages, which may be cut.
fn queued_kinds(socket: &Socket) -> Vec<u16> {
    let mut buffer = vec![0; 1 << 16];
    let mut kinds = Vec::new();
    loop {
        match socket.receive(&mut buffer).unwrap() {
            Received::Datagram(datagram) => kinds.push(kind(datagram)),
            Received::Nothing => return kinds,
            Received::Overflow => panic!("overflow"),
        }
    }
}
