//! The kernel's late IPv6 route: what a call must wait for, and must not take for granted.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::forged::{both, find, hear, patient, refusal, refuse, say, wrong};
use super::{
    LINK, NODE_V6, ask_in_vain, assert_accounted, builder, ip, kind, names, node, shared, split,
    v4, v6,
};
use crate::Family;
use crate::netlink::connection::{Connection, Dumped};
use crate::netlink::encode::{HEADER, dump_addresses};
use crate::sys::fault::Found;
use crate::sys::{Received, Socket, Strictness};

/// Waits until the kernel's own route to a new address is there.
fn until_the_kernels_is_there(vip: &IpAddr) {
    let listed = || ip(&format!("-6 route show table local {vip}"));
    while !listed().contains("metric 0") {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Adds the address as we do, and waits for the kernel's route.
fn add_address(vip: &IpAddr) {
    ip(&format!(
        "addr add {vip}/128 dev {LINK} nodad noprefixroute"
    ));
    until_the_kernels_is_there(vip);
}

/// Deletes the first local route: the kernel's, or, without that, the desired one.
fn delete_first(vip: &IpAddr) {
    ip(&format!("-6 route del local {vip} dev {LINK} table local"));
}

/// A recent address beside our route: the kernel's may still be on its way. Here it comes just after
/// the link was read.
#[test]
fn a_young_address_beside_our_route_is_watched_for_a_while() {
    let vip = v6(1)[0];
    for attempt in 1.. {
        let _node = node();
        let mut vips = patient();
        vips.assign([vip]).unwrap();
        // Our route outlives its address, and the next address is recent.
        ip(&format!("addr del {vip}/128 dev {LINK}"));
        add_address(&vip);
        delete_first(&vip);
        let came = shared::<AtomicBool>();
        vips.connection.tamper_look_up = Some(Box::new(move |bytes| {
            if names(bytes, &vip) && !came.swap(true, Ordering::Relaxed) {
                ip(&format!("addr del {vip}/128 dev {LINK}"));
                add_address(&vip);
            }
        }));
        // It reads the link, and looks nothing up but what it waits for.
        let report = vips.normalize().unwrap();
        assert_eq!(wrong(&[vip]), [""; 0]);
        if came.load(Ordering::Relaxed) {
            assert_eq!(report.repaired, 1, "{report}");
            break;
        }
        // A machine may be so slow that the while is over when the link was read.
        assert!(attempt < 20, "nobody looked again");
    }
}

/// An acked address need not be there any more. Behind acked addresses this call looks at routes
/// only. Just before, another hand finishes its VIPs and takes the addresses away again: the routes
/// that leak look as desired.
#[test]
fn an_acked_address_is_looked_at_before_it_is_believed() {
    let _node = node();
    let mut vips = patient();
    // More than are looked at one by one.
    let set = v6(20);
    // Behind the acks, the call tries to delete the kernel's routes. All of them are there, but the kernel
    // says that they are not. So the call reads the routes.
    let tried = shared::<AtomicBool>();
    let met = shared::<AtomicBool>();
    let (all, others) = (set.clone(), set.clone());
    refuse(&mut vips, move |message| {
        if kind(message) != libc::RTM_DELROUTE || met.load(Ordering::Relaxed) {
            return None;
        }
        if !tried.swap(true, Ordering::Relaxed) {
            all.iter().for_each(until_the_kernels_is_there);
        }
        Some(libc::ESRCH)
    });
    // Before the call reads routes, it empties the socket of their notifications.
    hear(vips.connection.monitor(), move |kernel| {
        if tried.load(Ordering::Relaxed) && !met.swap(true, Ordering::Relaxed) {
            for vip in &others {
                let route = format!("local {vip} dev {LINK} table local proto kernel");
                ip(&format!("-6 route del {route} metric 0"));
                ip(&format!("-6 route add {route} src {NODE_V6} metric 1024"));
                ip(&format!("addr del {vip}/128 dev {LINK}"));
            }
        }
        kernel()
    });
    let report = vips.assign(&set).unwrap();
    assert!(met.load(Ordering::Relaxed), "the other hand was there");
    assert_accounted(&report, set.len());
    assert_eq!(report.assigned, set.len(), "{report}");
    assert_eq!(wrong(&set), [""; 0]);
}

/// Before the late route comes, another writer adds a route that the deletion by protocol matches. The
/// deletion hits that route, and the late route comes afterwards.
#[test]
fn deletion_of_another_writers_route_is_not_taken_for_that_of_the_late_route() {
    let _node = node();
    let mut vips = patient();
    // More than are observed by look-ups.
    let set = v6(20);
    let hit = set[3];
    let met = shared::<AtomicBool>();
    let all = set.clone();
    vips.connection.tamper = Some(Box::new(move |batch| {
        let is_deletion = |message: &[u8]| kind(message) == libc::RTM_DELROUTE;
        if split(batch).any(|message| is_deletion(message) && names(message, &hit))
            && !met.swap(true, Ordering::Relaxed)
        {
            all.iter().for_each(until_the_kernels_is_there);
            delete_first(&hit);
            let route = format!("local {hit} dev {LINK} table local proto kernel");
            ip(&format!("-6 route add {route} metric 1024"));
        }
    }));
    // The call looks again before it ends.
    let came = shared::<AtomicBool>();
    vips.connection.tamper_look_up = Some(Box::new(move |bytes| {
        if names(bytes, &hit) && !came.swap(true, Ordering::Relaxed) {
            // The kernel inserts the routes of its addresses again.
            ip(&format!("link set {LINK} arp on"));
            ip(&format!("link set {LINK} arp off"));
            until_the_kernels_is_there(&hit);
        }
    }));
    let report = vips.assign(&set).unwrap();
    assert!(met.load(Ordering::Relaxed), "the other writer was there");
    assert!(came.load(Ordering::Relaxed), "nobody looked again");
    assert_eq!(report.assigned, set.len(), "{report}");
    assert_eq!(wrong(&set), [""; 0]);
}

/// A refusal in the middle of a batch is lost, and its last one is not; or the last one is lost.
#[test]
fn exchange_says_that_a_reply_was_lost() {
    let _node = node();
    for (lost, found, last_came) in [(3, Found::Overflow, true), (10, Found::Nothing, false)] {
        let mut connection =
            Connection::open(|| Socket::open(1 << 20, Strictness::Preferred)).unwrap();
        let mut replies = 0;
        find(&connection.requests(), move |bytes| {
            replies += 1;
            if replies == lost {
                return found.clone();
            }
            Found::Datagram(bytes)
        });
        let end = ask_in_vain(&mut connection, 10);
        assert_eq!(end, (Dumped::Interrupted, 9, last_came));
    }
}

/// A call that waits for a tentative address, and loses the notification of its end, looks again at
/// once. It does not wait for something else to happen.
#[test]
fn notifications_lost_in_a_wait_end_it() {
    let _node = node();
    let vip = v6(1)[0];
    // On a bridge without a port, detection does not even begin.
    ip(&format!("link set {LINK} arp on"));
    ip(&format!("addr add {vip}/128 dev {LINK}"));
    let shown = ip(&format!("-6 addr show dev {LINK} tentative"));
    assert!(shown.contains(&vip.to_string()), "{shown}");
    let mut vips = builder()
        .stall_timeout(Duration::from_secs(3600))
        // For the case that it fails.
        .total_timeout(Duration::from_secs(60))
        .open()
        .unwrap();
    let loses = shared::<AtomicBool>();
    let has_lost = shared::<AtomicUsize>();
    let unanswered = shared::<AtomicBool>();
    // The last look before the wait finds nothing new, and then it comes.
    let mut first = true;
    vips.connection.tamper_look_up = Some(Box::new(move |_| {
        if std::mem::take(&mut first) {
            ip(&format!("addr del {vip}/128 dev {LINK}"));
            add_address(&vip);
            loses.store(true, Ordering::Relaxed);
            unanswered.store(true, Ordering::Relaxed);
        }
    }));
    hear(&vips.connection.requests(), move |kernel| {
        let found = kernel();
        if unanswered.load(Ordering::Relaxed) {
            unanswered.store(matches!(found, Found::Datagram(_)), Ordering::Relaxed);
            return Found::Nothing;
        }
        found
    });
    hear(vips.connection.monitor(), move |kernel| {
        let mut found = kernel();
        if loses.load(Ordering::Relaxed) && matches!(found, Found::Datagram(_)) {
            while matches!(found, Found::Datagram(_)) {
                found = kernel();
            }
            loses.store(false, Ordering::Relaxed);
            has_lost.fetch_add(1, Ordering::Relaxed);
            return Found::Overflow;
        }
        found
    });
    let report = vips.normalize().unwrap();
    assert_eq!(has_lost.load(Ordering::Relaxed), 1);
    assert_eq!(report.repaired, 1, "{report}");
    assert_eq!(wrong(&[vip]), [""; 0]);
}

/// One has lost its route, but not its address: look-ups do not tell all of that, so the link is
/// read again, and nothing is asked for besides.
#[test]
fn what_look_ups_cannot_tell_is_not_asked_for() {
    let _node = node();
    let set = v6(10);
    let mut vips = patient();
    vips.assign(&set).unwrap();
    delete_first(&set[0]);
    let asked = shared::<AtomicUsize>();
    say(&vips.connection.requests(), |bytes| {
        // One of our VIPs, not a source.
        let names_vip = bytes.windows(8).any(|bytes| bytes == super::V6_NETWORK);
        if kind(bytes) == libc::RTM_GETADDR && names_vip {
            asked.fetch_add(1, Ordering::Relaxed);
        }
        None
    });
    let report = vips.normalize().unwrap();
    assert_eq!((report.repaired, report.unchanged), (1, 9), "{report}");
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

/// Any process with the right to may write to our port. It is not the kernel for that.
#[test]
fn what_another_process_sends_is_not_heard() {
    use netlink_sys::SocketAddr;
    let _node = node();
    let socket = Socket::open(1 << 20, Strictness::Preferred).unwrap();
    let mut other = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
    other.bind_auto().unwrap();
    let send = |to: u32, bytes: &[u8]| {
        let sent = other.send_to(bytes, &SocketAddr::new(to, 0), 0).unwrap();
        assert_eq!(sent, bytes.len());
    };
    send(socket.port(), &refusal(1, libc::EPERM));
    let mut buffer = [0; 1024];
    let received = socket.receive(&mut buffer).unwrap();
    assert!(matches!(received, Received::Nothing), "{received:?}");
    // Refusals of all that a call is about to send.
    let set = both(5);
    let mut vips = patient();
    let connection = &mut vips.connection;
    let (port, first) = (connection.port(), connection.sequence());
    for sequence in first..first + 100 {
        let mut bytes = refusal(sequence, libc::EPERM);
        bytes.truncate(HEADER + 4 + HEADER);
        send(port, &bytes);
    }
    assert_eq!(vips.assign(&set).unwrap().assigned, 10);
    assert_eq!(wrong(&set), [""; 0]);
}

/// A part of a dump is lost, and its end is not.
#[test]
fn an_overflow_in_the_middle_of_a_dump_is_told() {
    let _node = node();
    let mut manager = patient();
    let link = crate::link::find(&mut manager.connection, &manager.config.link);
    let link = link.unwrap().unwrap().index;
    ip(&format!("addr add 10.96.0.1/32 dev {LINK}"));
    for loses in [false, true] {
        let mut connection =
            Connection::open(|| Socket::open(1 << 20, Strictness::Preferred)).unwrap();
        let mut first = true;
        find(&connection.requests(), move |bytes| {
            if std::mem::take(&mut first) && loses {
                return Found::Overflow;
            }
            Found::Datagram(bytes)
        });
        let mut count = 0;
        let dumped = connection.dump(
            |out, sequence| dump_addresses(out, sequence, Family::V4, link),
            |_| {
                count += 1;
                Ok(())
            },
        );
        let expected = match loses {
            true => (Dumped::Interrupted, 0),
            false => (Dumped::Complete, 1),
        };
        assert_eq!((dumped.unwrap(), count), expected);
    }
}

/// A dump of routes passes over one while another hand changes the table. No flag tells of that, but
/// the notification of the change.
#[test]
fn a_route_dump_beside_a_change_is_repeated() {
    for set in [v4(3), v6(3)] {
        let _node = node();
        let mut vips = patient();
        vips.assign(&set).unwrap();
        let passed_over = set[1];
        let other = match passed_over {
            IpAddr::V4(_) => "route add local 198.51.100.77",
            IpAddr::V6(_) => "-6 route add local 2001:db8:77::1",
        };
        let changes = format!("{other} dev node0 table local");
        let mut first = true;
        find(&vips.connection.requests(), move |mut bytes| {
            for message in split(&mut bytes) {
                let is_it = kind(message) == libc::RTM_NEWROUTE && names(message, &passed_over);
                if is_it && std::mem::take(&mut first) {
                    ip(&changes);
                    message[4..6].copy_from_slice(&1_u16.to_ne_bytes());
                }
            }
            Found::Datagram(bytes)
        });
        let report = vips.normalize().unwrap();
        assert_eq!((report.unchanged, report.writes), (3, 0), "{report}");
    }
}
