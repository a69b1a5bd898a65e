//! Faults that need no look inside the library, and what they once brought to light.

mod common;

use common::{Net, VIP_LINK, vips};
use viproute::{Event, VipManager};

/// The caller's vector is only appended to. It once lost events of its own that were alike, and
/// the count of the new ones went below zero.
#[test]
fn a_watcher_leaves_the_callers_events_alone() {
    let net = Net::new();
    let mut manager = VipManager::builder(VIP_LINK).open().unwrap();
    let mut watcher = manager.watcher().unwrap();
    let own = [Event::Resync, Event::Resync, Event::LinkGone];
    let mut events = own.to_vec();
    assert_eq!(watcher.read(&mut events).unwrap(), 0);
    assert_eq!(events, own);
    // The same event in two readings happened twice.
    let vip = vips(1)[0];
    for add in ["add", "del", "add"] {
        net.ip(&format!("addr {add} {vip} dev {VIP_LINK}"));
    }
    let mut counts = Vec::new();
    for _ in 0..2 {
        events.truncate(own.len() + 1);
        net.ip(&format!("link set {VIP_LINK} up"));
        net.ip(&format!("link set {VIP_LINK} down"));
        counts.push(watcher.read(&mut events).unwrap());
    }
    assert_eq!(events[..own.len()], own);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}
