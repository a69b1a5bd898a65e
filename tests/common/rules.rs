//! Routing rules before the one for table local, and writers that keep table local in motion.
#![allow(dead_code, unreachable_pub)]

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use std::time::Duration;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage::{DelRoute, DelRule, NewRoute, NewRule};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::common::raw::{self, CREATE_EXCL, CREATE_REPLACE, Raw, Request};
use super::common::{NODE_LINK, NODE_V4, NODE_V6, Net, PROTO_KERNEL, TABLE_LOCAL, skipped};

/// A table that only the rules here name.
pub const OTHER_TABLE: u32 = 77;

/// How a rule may come before the one for table local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diversion {
    /// The rule for table local stands at 100, and nothing before it.
    LocalAt100,
    /// A rule for a table with a default route.
    Default,
    /// A rule for a table that holds nothing.
    EmptyTable,
    Unreachable,
    Prohibit,
    Blackhole,
    /// Table main first, but for its default routes.
    SuppressDefault,
    /// For traffic with a mark only: our look-ups have none.
    Marked,
    /// The rule of VRFs, where the kernel has them.
    L3mdev,
}

impl Diversion {
    pub const ALL: [Self; 9] = [
        Self::LocalAt100,
        Self::Default,
        Self::EmptyTable,
        Self::Unreachable,
        Self::Prohibit,
        Self::Blackhole,
        Self::SuppressDefault,
        Self::Marked,
        Self::L3mdev,
    ];

    /// The commands that put it in, as arguments of `ip`.
    pub fn commands(self) -> Vec<String> {
        let mut commands = Vec::new();
        for family in ["-4", "-6"] {
            commands.push(format!("{family} rule add pref 100 lookup local"));
            commands.push(format!("{family} rule del pref 0"));
            let first = match self {
                Self::LocalAt100 => continue,
                Self::Default | Self::EmptyTable => format!("lookup {OTHER_TABLE}"),
                Self::Unreachable => "unreachable".into(),
                Self::Prohibit => "prohibit".into(),
                Self::Blackhole => "blackhole".into(),
                Self::SuppressDefault => "lookup main suppress_prefixlength 0".into(),
                Self::Marked => format!("fwmark 0x200/0xf00 lookup {OTHER_TABLE}"),
                Self::L3mdev => "l3mdev".into(),
            };
            if matches!(self, Self::Default | Self::Marked) {
                commands.push(format!(
                    "{family} route add default dev {NODE_LINK} table {OTHER_TABLE}"
                ));
            }
            commands.push(format!("{family} rule add pref 99 {first}"));
        }
        commands
    }

    /// Puts it in; says so where the kernel cannot.
    pub fn put(self, net: &Net) -> bool {
        for command in self.commands() {
            if let Err(why) = net.try_ip(&command) {
                skipped("rules", &format!("no {self:?}: {command}: {why}"));
                return false;
            }
        }
        true
    }
}

/// A thread that changes something over and over, until dropped.
#[derive(Debug)]
pub struct Churn {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Churn {
    /// Repeats this work. Returns when it was done once.
    pub fn repeat(mut work: impl FnMut(&mut Raw) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let began = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&began);
        let thread = std::thread::spawn(move || {
            let mut raw = Raw::new();
            while !stopped.load(Ordering::Relaxed) {
                work(&mut raw);
                begins.store(true, Ordering::Relaxed);
            }
        });
        while !began.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Churn {
    /// Adds and deletes local routes of both families to hosts that are no VIPs, through this link: every
    /// dump of table local is interrupted.
    pub fn start(link: u32) -> Self {
        let hosts = 1..=20_u8;
        let routes = hosts.flat_map(|host| {
            let v4 = IpAddr::from([198, 18, 7, host]);
            let v6 = IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, u16::from(host)]);
            [
                raw::local_route(v4, link, Some(NODE_V4.into()), PROTO_KERNEL),
                raw::local_route(v6, link, Some(NODE_V6.into()), PROTO_KERNEL),
            ]
        });
        let changes = routes.flat_map(|route| {
            [
                (NewRoute(route.clone()), CREATE_REPLACE),
                (DelRoute(route), 0),
            ]
        });
        Self::of(changes.collect())
    }

    /// Makes these changes, over and over.
    pub fn of(changes: Vec<Request>) -> Self {
        Self::repeat(move |raw| drop(raw.batch(&changes)))
    }

    /// Moves the rule for table local of both families. In the end it is the first rule.
    pub fn of_rules(motion: Motion) -> Self {
        let families = [AddressFamily::Inet, AddressFamily::Inet6];
        let changes = families.map(|family| motion.changes(family));
        let mut pause = 0;
        Self::repeat(move |raw| {
            for half in 0..2 {
                for of_family in &changes {
                    raw.batch(&of_family[half]);
                }
                // Of several lengths, so that calls meet the changes at all places.
                pause = (pause + 170) % 1000;
                std::thread::sleep(Duration::from_micros(pause));
            }
        })
    }
}

/// How the rule for table local moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// It is deleted and added again.
    Gone,
    /// To 100, behind a rule for [`OTHER_TABLE`]; and back.
    BehindDefault,
    /// To 100, behind a rule that says "unreachable"; and back.
    BehindUnreachable,
    /// To 100, behind a rule that says "prohibit"; and back.
    BehindProhibit,
}

impl Motion {
    pub const ALL: [Self; 4] = [
        Self::Gone,
        Self::BehindDefault,
        Self::BehindUnreachable,
        Self::BehindProhibit,
    ];

    /// What stands before table local at times.
    fn action(self) -> Option<RuleAction> {
        match self {
            Self::Gone => None,
            Self::BehindDefault => Some(RuleAction::ToTable),
            Self::BehindUnreachable => Some(RuleAction::Unreachable),
            Self::BehindProhibit => Some(RuleAction::Prohibit),
        }
    }

    /// The changes away from the usual rules, and those back to them.
    fn changes(self, family: AddressFamily) -> [Vec<Request>; 2] {
        let local = |preference| rule(family, preference, RuleAction::ToTable, TABLE_LOCAL);
        let add = |rule| (NewRule(rule), CREATE_EXCL);
        let del = |rule| (DelRule(rule), 0);
        match self.action() {
            None => [vec![del(local(0))], vec![add(local(0))]],
            Some(action) => {
                let first = rule(family, 99, action, OTHER_TABLE);
                [
                    vec![add(local(100)), add(first.clone()), del(local(0))],
                    vec![add(local(0)), del(first), del(local(100))],
                ]
            }
        }
    }
}

fn rule(family: AddressFamily, preference: u32, action: RuleAction, table: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family;
    rule.header.action = action;
    rule.attributes.push(RuleAttribute::Priority(preference));
    if action == RuleAction::ToTable {
        rule.attributes.push(RuleAttribute::Table(table));
    }
    rule
}
