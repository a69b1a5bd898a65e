//! The works of `ratio`: viproute and the floor do the same, in turn.

use std::cell::RefCell;
use std::net::IpAddr;

use viproute::{Binding, Claim, Error, Keeper, Report, VipManager};

use crate::Bench;
use crate::common::floor::{self, Floor};
use crate::common::time::{Time, timed};
use crate::common::{self, Node, manager};
use crate::contest::{Run, contestant};
use crate::targets::{Bound, Target, at_most};

/// Who looks at the end state.
#[derive(Clone, Copy)]
pub struct Witness {
    pub looks: bool,
}

impl Witness {
    fn wrong(self, set: &[IpAddr], with_address: bool) -> usize {
        if self.looks {
            common::wrong(set, with_address)
        } else {
            0
        }
    }

    fn left(self, set: &[IpAddr]) -> usize {
        if self.looks { common::left(set) } else { 0 }
    }
}

/// Assigns and expects all of it to be new.
fn assign(manager: &mut VipManager, set: &[IpAddr]) -> Time {
    timed(|| {
        let report = manager.assign(set).unwrap();
        assert_eq!(report.assigned, set.len());
    })
}

fn release(manager: &mut VipManager, set: &[IpAddr]) -> Time {
    timed(|| {
        let report = manager.release(set).unwrap();
        assert_eq!(report.released, set.len());
    })
}

/// A keeper of VIPs that are there.
fn keeper(set: &[IpAddr]) -> Keeper {
    let manager = manager(Binding::Address);
    let mut keeper = manager.into_keeper(Claim::link()).unwrap();
    keeper.set_desired(set);
    keeper.dispatch(usize::MAX).unwrap();
    keeper
}

/// A call that has nothing to do.
fn unchanged(set: &[IpAddr], call: impl FnOnce() -> Result<Report, Error>) -> Run {
    let time = timed(|| {
        let report = call().unwrap();
        assert_eq!((report.unchanged, report.writes), (set.len(), 0));
    });
    (time, 0)
}

/// Adds so many routes of the node's other link, in the VIPs' family, away from the VIPs.
fn add_other_routes(floor: &mut Floor, set: &[IpAddr], others: u32) {
    const AWAY: u32 = 1_000_000;
    let (_, vips) = common::FAMILIES[usize::from(set[0].is_ipv6())];
    let link = common::index_of("node0");
    let others = vips(others + AWAY).into_iter().skip(AWAY as usize);
    floor.send(&floor::Messages::encode(
        others.map(|to| floor::other_route(link, &to)),
    ));
}

/// The floor of one fresh VIP.
enum One {
    V4(floor::Messages),
    V6(floor::AssignV6),
}

impl One {
    fn encode(link: u32, vip: &[IpAddr]) -> Self {
        if vip[0].is_ipv4() {
            Self::V4(floor::assign_v4_replace(link, vip))
        } else {
            Self::V6(floor::AssignV6::encode(link, vip))
        }
    }

    fn send(&self, floor: &mut Floor) {
        match self {
            Self::V4(messages) => floor.send(messages),
            Self::V6(messages) => messages.addresses_first(floor),
        }
    }
}

impl Bench {
    /// Fresh VIPs, verified.
    pub fn assign(&mut self, work: &str, set: &[IpAddr]) {
        let witness = self.witness();
        let node = Node::new();
        let mut subject = manager(Binding::Address);
        let (mut first, mut second) = (Floor::new(), Floor::new());
        let mut contestants = vec![contestant("viproute", |_| {
            let time = assign(&mut subject, set);
            (time, witness.wrong(set, true))
        })];
        if set[0].is_ipv4() {
            contestants.push(contestant("floor: append, delete", |link| {
                let messages = floor::assign_v4_append(link, set);
                let time = timed(|| first.send(&messages));
                (time, witness.wrong(set, true))
            }));
            contestants.push(contestant("floor: replace", |link| {
                let messages = floor::assign_v4_replace(link, set);
                let time = timed(|| second.send(&messages));
                (time, witness.wrong(set, true))
            }));
        } else {
            contestants.push(contestant("floor: addresses first", |link| {
                let messages = floor::AssignV6::encode(link, set);
                let time = timed(|| messages.addresses_first(&mut first));
                (time, witness.wrong(set, true))
            }));
            contestants.push(contestant("floor: send by send", |link| {
                let messages = floor::AssignV6::encode(link, set);
                let time = timed(|| messages.send_by_send(&mut second));
                (time, witness.wrong(set, true))
            }));
        }
        // The same operations. To replace is one message less, and takes the first route in the
        // place, whosever it is.
        let to = set[0].is_ipv4().then_some("floor: append, delete");
        let target = Target {
            to,
            ..at_most(1.10)
        };
        self.compare(Some(&node), work, set.len(), contestants, &[target]);
    }

    /// Fresh VIPs without addresses, verified.
    pub fn route_only(&mut self, work: &str, set: &[IpAddr]) {
        let witness = self.witness();
        let node = Node::new();
        let mut subject = manager(Binding::Route);
        let (mut first, mut second) = (Floor::new(), Floor::new());
        let contestants = vec![
            contestant("viproute", |_| {
                let time = assign(&mut subject, set);
                (time, witness.wrong(set, false))
            }),
            contestant("floor", |link| {
                let messages = floor::assign_route_only(link, set);
                let time = timed(|| first.send(&messages));
                (time, witness.wrong(set, false))
            }),
            // The least that it takes to see them afterwards.
            contestant("the same, and a dump of them", |link| {
                let messages = floor::assign_route_only(link, set);
                let dump = floor::dump_of_local_routes(link, floor::family(&set[0]));
                let mut read = 0;
                let time = timed(|| {
                    second.send(&messages);
                    read = second.read(&dump);
                });
                assert!(read > set.len() * 32);
                (time, witness.wrong(set, false))
            }),
        ];
        self.compare(Some(&node), work, set.len(), contestants, &[at_most(1.15)]);
    }

    /// The same VIPs with addresses and without.
    pub fn bindings(&mut self, work: &str, set: &[IpAddr]) {
        let witness = self.witness();
        let node = Node::new();
        let mut by_address = manager(Binding::Address);
        let mut by_route = manager(Binding::Route);
        let contestants = vec![
            contestant("viproute, by address", |_| {
                let time = assign(&mut by_address, set);
                (time, witness.wrong(set, true))
            }),
            contestant("viproute, route-only", |_| {
                let time = assign(&mut by_route, set);
                (time, witness.wrong(set, false))
            }),
        ];
        let target = Target {
            of: "viproute, by address",
            to: Some("viproute, route-only"),
            ratio: Bound::AtLeast(50.0),
        };
        // IPv4 is shown beside it; nothing was asked of it.
        let targets = if set[0].is_ipv6() { &[target][..] } else { &[] };
        self.compare(Some(&node), work, set.len(), contestants, targets);
    }

    /// Reads VIPs that are right, on a node with many other routes.
    pub fn read_beside_others(&mut self, work: &str, set: &[IpAddr]) {
        self.read(work, set, self.options.others);
    }

    pub fn read_alone(&mut self, work: &str, set: &[IpAddr]) {
        self.read(work, set, 0);
    }

    fn read(&mut self, work: &str, set: &[IpAddr], others: u32) {
        let node = Node::new();
        let link = node.fresh_link();
        let mut auditor = manager(Binding::Address);
        auditor.assign(set).unwrap();
        let mut floor = Floor::new();
        add_other_routes(&mut floor, set, others);
        let requests = floor::dumps(link);
        let mut reconciler = manager(Binding::Address);
        let mut assigner = manager(Binding::Address);
        let claim = Claim::link();
        self.wait_until_grown_up();
        let contestants = vec![
            contestant("viproute: audit", |_| {
                let mut audit = None;
                let time = timed(|| audit = Some(auditor.audit().unwrap()));
                let audit = audit.unwrap();
                let clean = audit.vips.len() - audit.drifted().count();
                (time, set.len() - clean)
            }),
            contestant("viproute: reconcile", |_| {
                unchanged(set, || reconciler.reconcile(&claim, set))
            }),
            contestant("viproute: assign", |_| {
                unchanged(set, || assigner.assign(set))
            }),
            contestant("floor: the same dumps", |_| {
                let mut read = 0;
                let time = timed(|| {
                    for request in &requests {
                        read += floor.read(request);
                    }
                });
                assert!(read > set.len() * 64);
                (time, 0)
            }),
        ];
        let targets = [
            Target {
                of: "viproute: audit",
                ..at_most(1.30)
            },
            Target {
                of: "viproute: reconcile",
                to: Some("viproute: audit"),
                ..at_most(1.05)
            },
        ];
        self.compare(None, work, set.len(), contestants, &targets);
    }

    /// A set that is right, and one more VIP.
    pub fn one_change(&mut self, work: &str, set: &[IpAddr]) {
        let (before, new) = set.split_at(set.len() - 1);
        let node = Node::new();
        let link = node.fresh_link();
        let restorer = RefCell::new(manager(Binding::Address));
        restorer.borrow_mut().assign(before).unwrap();
        let mut reconciler = manager(Binding::Address);
        let mut auditor = manager(Binding::Address);
        let mut floor = Floor::new();
        let claim = Claim::link();
        let witness = self.witness();
        self.wait_until_grown_up();
        let contestants = vec![
            contestant("viproute", |_| {
                let time = timed(|| {
                    let report = reconciler.reconcile(&claim, set).unwrap();
                    assert_eq!((report.unchanged, report.assigned), (before.len(), 1));
                });
                let wrong = witness.wrong(set, true);
                release(&mut restorer.borrow_mut(), new);
                (time, wrong)
            }),
            contestant("floor: audit and one VIP", |_| {
                let one = One::encode(link, new);
                let time = timed(|| {
                    auditor.audit().unwrap();
                    one.send(&mut floor);
                });
                let wrong = witness.wrong(set, true);
                release(&mut restorer.borrow_mut(), new);
                (time, wrong)
            }),
        ];
        self.compare(None, work, set.len(), contestants, &[at_most(1.10)]);
    }

    /// One VIP comes to a link that holds many: asked for, or put back after another writer took it.
    pub fn one_comes(&mut self, work: &str, set: &[IpAddr]) {
        let one = &set[set.len() / 2..][..1];
        let node = Node::new();
        let link = node.fresh_link();
        let mut keeper = keeper(set);
        let restorer = RefCell::new(manager(Binding::Address));
        let mut assigner = manager(Binding::Address);
        let (mut first, mut second) = (Floor::new(), Floor::new());
        let witness = self.witness();
        let mut taken = 0..set.len();
        let contestants = vec![
            contestant("viproute: assign", |_| {
                release(&mut restorer.borrow_mut(), one);
                (assign(&mut assigner, one), witness.wrong(one, true))
            }),
            contestant("viproute: keeper", |_| {
                // The work of the other contestants does not count here.
                while keeper.dispatch(usize::MAX).unwrap().more {}
                // Another one each time: over the same one it would be fought with, and pause.
                let one = &set[taken.next().unwrap()..][..1];
                first.send(&floor::release(link, one));
                let before = keeper.counters();
                let time = timed(|| {
                    keeper.dispatch(usize::MAX).unwrap();
                });
                let done = keeper.counters();
                assert_eq!(done.repairs, before.repairs + 1);
                assert_eq!(done.resyncs, before.resyncs);
                (time, witness.wrong(one, true))
            }),
            contestant("floor", |_| {
                release(&mut restorer.borrow_mut(), one);
                let messages = One::encode(link, one);
                let time = timed(|| messages.send(&mut second));
                (time, witness.wrong(one, true))
            }),
        ];
        let targets =
            ["viproute: assign", "viproute: keeper"].map(|of| Target { of, ..at_most(2.0) });
        self.compare(None, work, set.len(), contestants, &targets);
    }

    /// One VIP leaves a link that holds many.
    pub fn one_goes(&mut self, work: &str, set: &[IpAddr]) {
        let one = &set[set.len() / 2..][..1];
        let node = Node::new();
        let link = node.fresh_link();
        let restorer = RefCell::new(manager(Binding::Address));
        restorer.borrow_mut().assign(set).unwrap();
        let mut releaser = manager(Binding::Address);
        let mut floor = Floor::new();
        let mut keeper = keeper(set);
        let restore = |time| {
            assign(&mut restorer.borrow_mut(), one);
            (time, 0)
        };
        let contestants = vec![
            contestant("viproute: release", |_| {
                restore(release(&mut releaser, one))
            }),
            contestant("viproute: keeper", |_| {
                // The work of the other contestants does not count here.
                keeper.add_desired(one);
                while keeper.dispatch(usize::MAX).unwrap().more {}
                let before = keeper.counters();
                let time = timed(|| {
                    keeper.remove_desired(one);
                    keeper.dispatch(usize::MAX).unwrap();
                });
                assert_eq!(keeper.counters().repairs, before.repairs + 1);
                assert_eq!(keeper.counters().resyncs, before.resyncs);
                restore(time)
            }),
            contestant("floor", |_| {
                let messages = floor::release(link, one);
                restore(timed(|| floor.send(&messages)))
            }),
        ];
        let targets =
            ["viproute: release", "viproute: keeper"].map(|of| Target { of, ..at_most(2.0) });
        self.compare(None, work, set.len(), contestants, &targets);
    }

    /// VIPs as kube-router before 2.6 leaves them. Its IPv4 VIPs are right.
    pub fn normalize(&mut self, work: &str, set: &[IpAddr]) {
        let v6 = set[0].is_ipv6();
        let witness = self.witness();
        let node = Node::new();
        let breaker = RefCell::new(Floor::new());
        let prepare = |link| {
            let messages = floor::as_kube_router_leaves(link, set);
            breaker.borrow_mut().send(&messages);
            if v6 {
                // The last of the kernel's routes is late.
                while common::late(set) {}
            }
        };
        let mut subject = manager(Binding::Address);
        let (mut first, mut second) = (manager(Binding::Address), manager(Binding::Address));
        let (mut fewest, mut safe) = (Floor::new(), Floor::new());
        let mut contestants = vec![contestant("viproute", |link| {
            prepare(link);
            let time = timed(|| {
                let report = subject.normalize().unwrap();
                let counted = (report.repaired, report.unchanged);
                let (all, none) = (set.len(), 0);
                assert_eq!(counted, if v6 { (all, none) } else { (none, all) });
            });
            (time, witness.wrong(set, true))
        })];
        if v6 {
            contestants.push(contestant("fewest writes, and audit", |link| {
                prepare(link);
                let messages = floor::heal_v6(link, set);
                let time = timed(|| {
                    fewest.send(&messages);
                    first.audit().unwrap();
                });
                (time, witness.wrong(set, true))
            }));
        }
        let floor = match v6 {
            true => "floor: by routes alone, and audit",
            false => "floor: audit",
        };
        contestants.push(contestant(floor, |link| {
            prepare(link);
            let messages = v6.then(|| floor::heal_v6_safely(link, set));
            let time = timed(|| {
                if let Some(messages) = &messages {
                    safe.send(messages);
                }
                second.audit().unwrap();
            });
            (time, witness.wrong(set, true))
        }));
        let limit = if v6 { 1.3 } else { 1.15 };
        self.compare(Some(&node), work, set.len(), contestants, &[at_most(limit)]);
    }

    /// Everything away again, verified.
    pub fn release(&mut self, work: &str, set: &[IpAddr]) {
        let witness = self.witness();
        let node = Node::new();
        let mut subject = manager(Binding::Address);
        let assigner = RefCell::new(manager(Binding::Address));
        let prepare = || {
            assign(&mut assigner.borrow_mut(), set);
        };
        let (mut first, mut second) = (Floor::new(), Floor::new());
        let contestants = vec![
            contestant("viproute", |_| {
                prepare();
                let time = release(&mut subject, set);
                (time, witness.left(set))
            }),
            contestant("floor: head first", |link| {
                prepare();
                let messages = floor::release(link, set);
                let time = timed(|| first.send(&messages));
                (time, witness.left(set))
            }),
            contestant("floor: tail first", |link| {
                prepare();
                let messages = floor::release_tail_first(link, set);
                let time = timed(|| second.send(&messages));
                (time, witness.left(set))
            }),
        ];
        self.compare(Some(&node), work, set.len(), contestants, &[at_most(1.10)]);
    }
}
