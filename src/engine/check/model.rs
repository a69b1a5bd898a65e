//! A model of the kernel for one VIP: the effect of each message, and the kernel's replies.
//!
//! Each rule stands once, with the kernel function that it models. `tests/kernel_facts.rs` checks the
//! same rules on a running kernel.

use std::net::IpAddr;

use crate::base::{
    DesiredRoute, Family, IFA_F_DADFAILED, IFA_F_NOPREFIXROUTE, IFA_F_TENTATIVE, PerFamily,
    RouteKey, SourcePolicy, TABLE_LOCAL, TABLE_MAIN, Vip, desired_key, kernel_key,
};
use crate::core::{Answer, Facts, MatchContext, Progress, Row, Rows};
use crate::core::{Binding, Goal, Policy, Step};
use crate::engine::answer::{is_in_doubt, is_rivalled};
use crate::netlink::decode;

pub(crate) const KERNEL: u8 = libc::RTPROT_KERNEL;
pub(crate) const STATIC: u8 = libc::RTPROT_STATIC;
/// The mark of a manager whose routes are not `proto kernel`.
pub(crate) const MARK: u8 = 201;
pub(crate) const STAGED: u8 = 251;

/// The metric of a route of user space: 0 in IPv4, 1024 in IPv6. The model's own number, not the library's.
pub(crate) const fn user_metric(family: Family) -> u32 {
    match family {
        Family::V4 => 0,
        Family::V6 => 1024,
    }
}

/// The device of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Device {
    /// The link of the VIPs.
    Link,
    /// Another link.
    Other,
}

/// The preferred source of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    None,
    /// The desired source.
    Node,
    Vip,
    Stray,
}

/// A route to the VIP: local in table local, unicast in table main.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    pub(crate) table: u32,
    /// IPv4: priority.
    pub(crate) metric: u32,
    pub(crate) device: Device,
    pub(crate) protocol: u8,
    pub(crate) source: Source,
    /// It has a lifetime.
    pub(crate) expires: bool,
}

/// The VIP's address on the link, as /32 or /128.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) no_prefix_route: bool,
    pub(crate) tentative: bool,
    pub(crate) dad_failed: bool,
    /// Its valid lifetime is finite.
    pub(crate) expires: bool,
    /// Made a moment ago.
    pub(crate) recent: bool,
}

impl Address {
    /// An address that the library has just made.
    pub(crate) const NEW: Self = Self {
        no_prefix_route: true,
        tentative: false,
        dad_failed: false,
        expires: false,
        recent: true,
    };
    pub(crate) const OLD: Self = Self {
        recent: false,
        ..Self::NEW
    };
}

/// The VIP's addresses on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Addresses {
    pub(crate) host: Option<Address>,
    /// The VIP has another prefix length: in IPv6 instead of the host prefix, in IPv4 also beside it.
    pub(crate) other_length: bool,
}

/// The constants of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) family: Family,
    /// The protocol of the desired route.
    pub(crate) protocol: u8,
    pub(crate) binding: Binding,
    /// The kernel's own route is the desired route.
    pub(crate) kernel_source: bool,
}

/// One message for the VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    Step(Step),
    /// A deletion of one route, of a [`Step::DeleteOthers`].
    Delete(Key),
}

impl Message {
    pub(crate) fn delete(key: &RouteKey) -> Self {
        Self::Delete(Key::new(key))
    }
}

/// A route as a deletion names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    table: u32,
    metric: u32,
    protocol: u8,
    source: Source,
}

/// The kernel's state of one VIP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kernel {
    pub(crate) addresses: Addresses,
    /// IPv6: the work item that inserts the address's local route has not run yet.
    pub(crate) late: bool,
    /// IPv4: the link has no other address.
    pub(crate) last: bool,
    /// Ordered by table and metric. The first route of table local wins.
    pub(crate) routes: Vec<Route>,
}

impl Kernel {
    /// The route that the kernel makes for the address. In IPv6 it has metric 0, which user space cannot
    /// set, and no preferred source.
    pub(crate) fn own(family: Family) -> Route {
        Route {
            table: TABLE_LOCAL,
            metric: 0,
            device: Device::Link,
            protocol: KERNEL,
            source: match family {
                Family::V4 => Source::Vip,
                Family::V6 => Source::None,
            },
            expires: false,
        }
    }

    /// The work item runs: `addrconf_dad_completed` clears *tentative*, and `ip6_ins_rt` puts the
    /// route behind others of its metric (`fib6_add_rt2node`, net/ipv6/ip6_fib.c).
    pub(crate) fn late_route_arrives(&mut self) {
        self.late = false;
        if let Some(host) = &mut self.addresses.host {
            host.tentative = false;
        }
        self.insert(Kernel::own(Family::V6));
    }

    /// Puts a route behind those of the same table and metric.
    pub(crate) fn insert(&mut self, route: Route) {
        // Table local comes before table main: rule 0 looks there first.
        let order = |r: &Route| (r.table != TABLE_LOCAL, r.metric);
        let at = (self.routes).partition_point(|r| order(r) <= order(&route));
        self.routes.insert(at, route);
    }

    /// The routes of the other device to the VIP.
    pub(crate) fn foreign(&self) -> impl Iterator<Item = &Route> + Clone {
        self.routes.iter().filter(|r| r.device == Device::Other)
    }

    /// The routes of the link.
    pub(crate) fn link_routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().filter(|r| r.device == Device::Link)
    }

    /// Whether the link has a local route to the VIP.
    pub(crate) fn has_local(&self) -> bool {
        self.link_routes().any(|r| r.table == TABLE_LOCAL)
    }

    /// Whether the link has the kernel's own IPv6 route.
    pub(crate) fn has_kernels(&self) -> bool {
        self.routes.contains(&Self::own(Family::V6))
    }

    /// Whether a call with this goal has reached it.
    pub(crate) fn is_as_desired(&self, world: &World, goal: Goal) -> bool {
        match goal {
            Goal::Assign | Goal::Normalize => self.is_single_route(world),
            Goal::Release => self.is_released(),
            Goal::Look => unreachable!("an audit sends nothing"),
        }
    }

    /// The single-route state by its definition, independent of [`Facts`].
    pub(crate) fn is_single_route(&self, world: &World) -> bool {
        self.is_single_route_for_now(world) && !self.expires()
    }

    /// The single-route state, except that the address may have a lifetime.
    pub(crate) fn is_single_route_for_now(&self, world: &World) -> bool {
        let good = |host: Address| !host.tentative && !host.dad_failed;
        let desired = world.desired_route();
        let address = match world.binding {
            Binding::Address => self.addresses.host.is_some_and(good),
            Binding::Route => self.addresses.host.is_none(),
        };
        address
            && !self.addresses.other_length
            && self.link_routes().eq([&desired])
            && self.routes.first() == Some(&desired)
    }

    pub(crate) fn expires(&self) -> bool {
        self.addresses.host.is_some_and(|host| host.expires)
    }

    /// Whether the VIP is absent from the link.
    fn is_released(&self) -> bool {
        let address = self.addresses.host.is_some() || self.addresses.other_length;
        !address && !self.late && self.link_routes().next().is_none()
    }

    /// Handles one message. The error is the kernel's errno.
    pub(crate) fn handle(&mut self, message: Message, world: &World) -> Result<(), i32> {
        let step = match message {
            Message::Step(step) => step,
            Message::Delete(key) => return self.delete_route(key, world),
        };
        let desired = world.desired_route();
        let staged = world.staged_route();
        match step {
            Step::AddAddress => self.add_address(world),
            Step::UpdateAddress => self.update_address(world),
            Step::DeleteAddress | Step::RenewAddress => self.delete_address(world),
            Step::AddRoute => self.add_route(desired),
            Step::AddStaged => self.add_route(staged),
            Step::ReplaceRoute => self.replace_route(desired, world),
            Step::ReplaceStaged => self.replace_route(staged, world),
            Step::AppendRoute => self.append_route(desired),
            Step::DeleteDesired => self.delete_route(
                Key::new(&desired_key(&world.desired()[world.family])),
                world,
            ),
            Step::DeleteKernel | Step::DeleteKernelBlind => {
                self.delete_route(Key::new(&kernel_key(&world.vip().addr())), world)
            }
            Step::DeleteOthers => unreachable!("a `Message::Delete` for each route"),
        }
    }

    /// RTM_NEWADDR, CREATE and EXCL (`inet6_rtm_newaddr` finds by address, `inet_rtm_newaddr` by
    /// address and length).
    fn add_address(&mut self, world: &World) -> Result<(), i32> {
        let taken = match world.family {
            Family::V4 => self.addresses.host.is_some(),
            Family::V6 => self.addresses.host.is_some() || self.addresses.other_length,
        };
        if taken {
            return Err(libc::EEXIST);
        }
        self.addresses.host = Some(Address::NEW);
        match world.family {
            // `fib_magic` appends the route at once, behind the routes of its priority. The kernel
            // refuses a second equal route, and ignores that refusal.
            Family::V4 => {
                let own = Self::own(Family::V4);
                if !self.routes.contains(&own) {
                    self.insert(own);
                }
            }
            // `addrconf_dad_start` queues the work, even with NODAD.
            Family::V6 => self.late = true,
        }
        Ok(())
    }

    /// RTM_NEWADDR, REPLACE, permanent and with NOPREFIXROUTE. `inet6_addr_modify` deletes the prefix
    /// route of a permanent address that made one, and does not touch the local route. Without an
    /// address, the message makes one.
    fn update_address(&mut self, world: &World) -> Result<(), i32> {
        let Some(host) = &mut self.addresses.host else {
            return self.add_address(world);
        };
        let made_one = !host.no_prefix_route && !host.expires;
        host.expires = false;
        if world.family == Family::V6 {
            host.no_prefix_route = true;
            if made_one {
                self.delete_prefix_route();
            }
        }
        Ok(())
    }

    /// `addrconf_get_prefix_route` finds the first prefix route through the link, of any origin.
    fn delete_prefix_route(&mut self) {
        let _ = self.delete_first(|r| r.device == Device::Link && r.table == TABLE_MAIN);
    }

    /// Deletes the first route that matches.
    pub(crate) fn delete_first(&mut self, matches: impl Fn(&Route) -> bool) -> Result<(), i32> {
        let at = self.routes.iter().position(matches).ok_or(libc::ESRCH)?;
        self.routes.remove(at);
        Ok(())
    }

    /// RTM_DELADDR: the kernel deletes its own routes of the address. Other routes stay.
    fn delete_address(&mut self, world: &World) -> Result<(), i32> {
        let Some(host) = self.addresses.host.take() else {
            return Err(libc::EADDRNOTAVAIL);
        };
        match world.family {
            Family::V4 => {
                // `fib_del_ifaddr`: unless the link has the same address with another length.
                if !self.addresses.other_length {
                    let own = Self::own(Family::V4);
                    self.routes.retain(|r| *r != own);
                }
                // `fib_disable_ip`: without any address the link keeps no IPv4 route.
                if self.last {
                    self.routes.retain(|r| r.device != Device::Link);
                }
            }
            Family::V6 => {
                // `__ipv6_ifa_notify` deletes the local route that the address holds, and a work
                // item that finds the address dead does nothing.
                self.late = false;
                let own = |r: &Route| r.device == Device::Link && r.metric == 0;
                self.routes.retain(|r| !own(r));
                if !host.no_prefix_route && !host.expires {
                    self.delete_prefix_route();
                }
                // `rt6_remove_prefsrc`.
                for route in &mut self.routes {
                    if route.device == Device::Link && route.source == Source::Vip {
                        route.source = Source::None;
                    }
                }
            }
        }
        Ok(())
    }

    /// RTM_NEWROUTE, CREATE and APPEND: behind the routes of its priority, unless an equal route is
    /// there (`fib_table_insert`). Only IPv4 appends.
    fn append_route(&mut self, route: Route) -> Result<(), i32> {
        if self.routes.contains(&route) {
            return Err(libc::EEXIST);
        }
        self.insert(route);
        Ok(())
    }

    /// RTM_NEWROUTE, CREATE and EXCL: a route of the same table and metric, of any device, forbids it
    /// (`fib6_add_rt2node`; `fib_table_insert`, net/ipv4/fib_trie.c).
    pub(crate) fn add_route(&mut self, route: Route) -> Result<(), i32> {
        if self.first_in_place_of(&route).is_some() {
            return Err(libc::EEXIST);
        }
        self.insert(route);
        Ok(())
    }

    /// RTM_NEWROUTE, REPLACE and CREATE: replaces the first route of the same table and
    /// metric, of any device. A conflict prevents this theft.
    fn replace_route(&mut self, route: Route, world: &World) -> Result<(), i32> {
        match self.first_in_place_of(&route) {
            // IPv4 refuses two equal routes of one priority.
            Some(first)
                if world.family == Family::V4
                    && self.routes[first] != route
                    && self.routes.contains(&route) =>
            {
                Err(libc::EEXIST)
            }
            Some(first) => {
                self.routes[first] = route;
                Ok(())
            }
            None => {
                self.insert(route);
                Ok(())
            }
        }
    }

    fn first_in_place_of(&self, route: &Route) -> Option<usize> {
        let same = |r: &Route| r.table == route.table && r.metric == route.metric;
        self.routes.iter().position(same)
    }

    /// RTM_DELROUTE deletes the first match. Metric 0 matches any metric. IPv6 does not compare the
    /// preferred source (`ip6_route_del`); without a preferred source, IPv4 matches any
    /// (`fib_table_delete`).
    fn delete_route(&mut self, key: Key, world: &World) -> Result<(), i32> {
        self.delete_first(|r| {
            r.device == Device::Link
                && r.table == key.table
                && (key.metric == 0 || r.metric == key.metric)
                && r.protocol == key.protocol
                && (world.family == Family::V6
                    || key.source == Source::None
                    || r.source == key.source)
        })
    }
}

impl Key {
    fn new(key: &RouteKey) -> Self {
        let source = match key.prefsrc {
            None => Source::None,
            Some(addr) => [Source::Node, Source::Vip, Source::Stray]
                .into_iter()
                .find(|source| source.addr(Family::of(&addr)) == Some(addr))
                .unwrap_or(Source::None),
        };
        Self {
            table: key.table,
            metric: key.metric,
            protocol: key.protocol,
            source,
        }
    }
}

impl Source {
    fn addr(self, family: Family) -> Option<IpAddr> {
        let last = match self {
            Self::None => return None,
            Self::Node => 1,
            Self::Vip => 2,
            Self::Stray => 3,
        };
        Some(match family {
            Family::V4 => IpAddr::from([192, 0, 2, last]),
            Family::V6 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)]),
        })
    }
}

const LINK: u32 = 7;

/// The result of an observation.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) facts: Facts,
    /// The routes that [`Step::DeleteOthers`] deletes.
    pub(crate) others: Vec<RouteKey>,
    /// Table main held a route to the VIP.
    pub(crate) main_used: bool,
}

/// The extent of an observation, and its faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Extent {
    /// A release reads the routes of the link only.
    pub(crate) release: bool,
    pub(crate) main: bool,
    /// The dump was interrupted. A look-up follows, unless this call is still making the VIP.
    pub(crate) interrupted: Option<Progress>,
    /// The routes of table local that the dump missed.
    pub(crate) missed: Missed,
    /// A routing rule answers every look-up instead of table local.
    pub(crate) diverted: bool,
}

/// The routes that an interrupted dump missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Missed {
    Nothing,
    /// One route of table local.
    One(usize),
    /// All routes to the VIP, which the kernel visits together.
    Local,
}

/// The time of an observation, in hundredths of a second since boot.
const NOW: u32 = 1_000_000;

fn context(desired: &PerFamily<DesiredRoute>) -> MatchContext<'_> {
    MatchContext {
        link: LINK,
        desired,
        now: NOW,
        keeps_flags: false,
    }
}

impl Extent {
    /// Nothing is missed.
    pub(crate) fn whole(policy: Policy, main: bool) -> Self {
        Self {
            release: policy.goal == Goal::Release,
            main,
            interrupted: None,
            missed: Missed::Nothing,
            diverted: false,
        }
    }
}

impl World {
    pub(crate) fn new(family: Family, policy: Policy) -> Self {
        Self {
            family,
            protocol: if policy.as_kernel { KERNEL } else { MARK },
            binding: policy.binding,
            kernel_source: policy.kernel_source,
        }
    }

    pub(crate) fn vip(&self) -> Vip {
        Vip::from(Source::Vip.addr(self.family).unwrap())
    }

    pub(crate) fn desired_route(&self) -> Route {
        if self.kernel_source {
            return Kernel::own(self.family);
        }
        Route {
            table: TABLE_LOCAL,
            metric: user_metric(self.family),
            device: Device::Link,
            protocol: self.protocol,
            source: Source::Node,
            expires: false,
        }
    }

    /// The staged route has another protocol than the desired route, or keeps the mark and has a lifetime.
    pub(crate) fn staged_route(&self) -> Route {
        let desired = self.desired_route();
        match self.protocol {
            KERNEL => Route {
                protocol: STAGED,
                ..desired
            },
            _ => Route {
                expires: true,
                ..desired
            },
        }
    }

    pub(crate) fn desired(&self) -> PerFamily<DesiredRoute> {
        PerFamily::from_fn(|family| DesiredRoute {
            family,
            link: LINK,
            source: match Source::Node.addr(family) {
                _ if self.kernel_source => SourcePolicy::Kernel,
                Some(node) => SourcePolicy::Address(node),
                None => SourcePolicy::Unset,
            },
            protocol: self.protocol,
            staged: match self.protocol {
                KERNEL => STAGED,
                mark => mark,
            },
            address_protocol: None,
            deprecated: false,
        })
    }

    fn dumped(&self, route: &Route) -> decode::Route {
        decode::Route {
            family: self.family,
            prefix_length: self.family.host_bits(),
            tos: 0,
            table: route.table,
            protocol: route.protocol,
            scope: match (self.family, route.table) {
                (Family::V4, TABLE_LOCAL) => libc::RT_SCOPE_HOST,
                (Family::V4, _) => libc::RT_SCOPE_LINK,
                (Family::V6, _) => libc::RT_SCOPE_UNIVERSE,
            },
            kind: match route.table {
                TABLE_LOCAL => libc::RTN_LOCAL,
                _ => libc::RTN_UNICAST,
            },
            cloned: false,
            destination: Some(self.vip().addr()),
            link: Some(match route.device {
                Device::Link => LINK,
                Device::Other => LINK + 1,
            }),
            prefsrc: route.source.addr(self.family),
            metric: route.metric,
            indirect: false,
            by_object: false,
            metrics_digest: 0,
            expires: route.expires,
        }
    }

    fn dumped_address(&self, prefix_length: u8, host: Address) -> decode::Address {
        let flag = |set, flag| if set { flag } else { 0 };
        decode::Address {
            addr: self.vip().addr(),
            prefix_length,
            flags: flag(host.no_prefix_route, IFA_F_NOPREFIXROUTE)
                | flag(host.tentative, IFA_F_TENTATIVE)
                | flag(host.dad_failed, IFA_F_DADFAILED),
            link: LINK,
            valid: if host.expires { 60 } else { u32::MAX },
            preferred: u32::MAX,
            created: if host.recent { NOW } else { NOW / 2 },
            protocol: None,
            rt_priority: None,
            peer: None,
            broadcast: None,
        }
    }

    /// An observation. The crate's own code joins what the kernel would send. The addresses may be older
    /// than the routes: they are two dumps.
    pub(crate) fn observe(&self, addresses: Addresses, routes: &[Route], extent: Extent) -> Seen {
        let desired = self.desired();
        let context = context(&desired);
        let mut rows = Rows::default();
        rows.push(self.vip(), Goal::Assign);
        rows.begin();
        let mut join = |prefix_length, host: Address| {
            let address = self.dumped_address(prefix_length, host);
            rows.join_address(&address, &context, None);
        };
        if let Some(host) = addresses.host {
            join(self.family.host_bits(), host);
        }
        if addresses.other_length {
            join(self.family.host_bits() / 2, Address::OLD);
        }
        let mut main_used = false;
        for (at, route) in routes.iter().enumerate() {
            let is_main = route.table == TABLE_MAIN;
            let is_missed = match extent.missed {
                Missed::Nothing => false,
                Missed::One(missed) => missed == at,
                Missed::Local => route.table == TABLE_LOCAL,
            };
            let shown = !(is_main && route.device == Device::Other)
                && (extent.main || route.table == TABLE_LOCAL)
                && !is_missed;
            if shown {
                main_used |= rows.join_route(&self.dumped(route), &context, None);
            }
        }
        rows.finish();
        let row = rows.get(0).unwrap();
        let ask = match extent.interrupted {
            Some(progress) => is_in_doubt(&Row { progress, ..*row }, &context),
            None => !extent.release && is_rivalled(row, &context),
        };
        if ask {
            self.join_look_up(&mut rows, routes, &context, extent.diverted);
        }
        Seen {
            facts: rows.get(0).unwrap().facts,
            others: rows.others(self.vip()).copied().collect(),
            main_used,
        }
    }

    /// The facts after a look-up.
    pub(crate) fn look_up(&self, facts: Facts, routes: &[Route], diverted: bool) -> Facts {
        let desired = self.desired();
        let context = context(&desired);
        let mut rows = Rows::default();
        rows.push(self.vip(), Goal::Assign);
        rows.iter_mut().for_each(|row: &mut Row| row.facts = facts);
        self.join_look_up(&mut rows, routes, &context, diverted);
        rows.get(0).unwrap().facts
    }

    /// Joins the look-up's answer: the first route of the first table with a route, or a rule's
    /// answer.
    fn join_look_up(
        &self,
        rows: &mut Rows,
        routes: &[Route],
        context: &MatchContext<'_>,
        diverted: bool,
    ) {
        let answer = match routes.first().map(|route| self.dumped(route)) {
            _ if diverted => Answer::Unknown,
            Some(route) if route.table == TABLE_LOCAL => Answer::Local(route),
            other => Answer::NotLocal(other),
        };
        rows.join_look_up(0, &answer, context);
    }
}
