//! A call that is not made: its steps as data, and as a script of `ip` commands.
//!
//! Each row is played forward: `next` says what to send, [`Simulation`] what the kernel would make of
//! it. The unit test plays the same steps into the model of the kernel (`plan/model.rs`).

#[cfg(test)]
mod check;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::Ipv6Net;

use crate::base::{
    AddressAttrs, DesiredRoute, Family, IFA_F_HOMEADDRESS, IFA_F_MANAGETEMPADDR, IFA_F_MCAUTOJOIN,
    IFA_F_NODAD, IP6_USER_METRIC, RouteKey, TABLE_LOCAL, TABLE_MAIN, Vip, desired_key, kernel_key,
    prefix_key, staged_key, staged_lifetime,
};
use crate::core::{
    Binding, Cause, Done, Drift, Facts, Goal, Next, Policy, Progress, Row, Step, next,
};
use crate::engine::obstacle;
use crate::engine::{Call, decide::policy_for};
use crate::link::{LinkChanges, LinkKind, PLACEHOLDER};
use crate::manager::{Leaving, Mode, Scope, VipManager};
use crate::outcome::{Claim, Error, Failure};

/// What [`reconcile`](crate::VipManager::reconcile) would do, from what was seen when
/// [`VipManager::plan`](crate::VipManager::plan) was called.
///
/// It is to be read, not to be kept: the node goes on changing, and a deletion that was right then
/// may hit something else later. Therefore no call takes a plan; call `reconcile`.
///
/// ```no_run
/// # use std::net::IpAddr;
/// # use viproute::{Claim, VipManager};
/// # let mut vips = VipManager::builder("kube-dummy-if").source([192, 0, 2, 10]).open()?;
/// # let desired: [IpAddr; 1] = ["10.96.0.10".parse()?];
/// let plan = vips.plan(&Claim::link(), desired)?;
/// for step in &plan.steps {
///     println!("{}  # {}", step.action, step.reason);
/// }
/// print!("{plan}"); // the script
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Printed with `{}` it is a POSIX shell script of `ip` commands that ends where `reconcile` peers,
/// as long as nothing else changes the VIPs. It stops at the first command that fails, and passes
/// over what it shall delete and does not find, as the library does. It was tried with iproute2
/// 6.1, which lacks one word: `proto` of an address, for the manager's mark or one to be kept. There
/// such a script stops.
///
/// What a script cannot do is look again. `reconcile` verifies the result, and repairs what
/// another hand, or a late route that nothing tells of, broke meanwhile: above all where the plan
/// begins with bringing up a link that has IPv6 addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// What would be done, in this order.
    pub steps: Vec<PlannedStep>,
    /// VIPs that would fail, in order of address: rejected, in conflict, unrepaired, or of a family
    /// that lacks something ([`Cause::Missing`]).
    pub failures: Vec<Failure>,
}

impl Plan {
    /// Whether nothing would be done. VIPs may still have failed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// One step of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedStep {
    /// The VIP that it is for; `None` for one that concerns the whole link.
    pub vip: Option<Vip>,
    /// What would be done.
    pub action: Action,
    /// Why.
    pub reason: Reason,
}

/// Why a step is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The VIP then differs from its single-route state in this.
    Drift(Drift),
    /// The VIP is claimed and not desired.
    NotDesired,
    /// The kernel puts in a local route of its own after it has answered; to delete it before
    /// would miss it.
    LateRoute,
    /// As it is then, the wanted route cannot be hit when the kernel's is deleted, nor pass for
    /// finished before that has come.
    Staged,
    /// There is no link, and the manager may create it.
    NoLink,
    /// The link is down, and the manager may bring it up.
    LinkDown,
    /// With the link's last IPv4 address the kernel would flush every IPv4 route through it.
    LastAddress,
    /// The kernel might choose a VIP as the source of traffic to other destinations, which
    /// [`VipManagerBuilder::avoid_as_source`](crate::VipManagerBuilder::avoid_as_source) forbids.
    SourceChoice,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drift(drift) => return drift.fmt(f),
            Self::NotDesired => "not desired",
            Self::LateRoute => "the kernel's own route comes late",
            Self::Staged => "so that deleting the kernel's route cannot hit it",
            Self::NoLink => "there is no such link",
            Self::LinkDown => "the link is down",
            Self::LastAddress => "with the last IPv4 address all IPv4 routes of the link would go",
            Self::SourceChoice => "so that no VIP is chosen as the source of other traffic",
        })
    }
}

/// What a step does. Printed, it is one `ip` command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Create the link, without ARP.
    #[non_exhaustive]
    CreateLink {
        /// Its name.
        link: Arc<str>,
        /// Its kind.
        kind: LinkKind,
    },
    /// Keep the kernel from giving the link an IPv6 address of its own.
    #[non_exhaustive]
    NoOwnAddress {
        /// The link's name.
        link: Arc<str>,
    },
    /// Bring the link up.
    #[non_exhaustive]
    BringUp {
        /// The link's name.
        link: Arc<str>,
    },
    /// Give the link's addresses in a prefix an address label of their own
    /// ([`SourceAvoidance::AddressLabel`](crate::SourceAvoidance::AddressLabel)).
    #[non_exhaustive]
    AddLabel {
        /// The link's name.
        link: Arc<str>,
        /// The prefix.
        prefix: Ipv6Net,
        /// The label.
        label: u32,
    },
    /// Put a host address on the link that stays there.
    #[non_exhaustive]
    AddPlaceholder {
        /// The link's name.
        link: Arc<str>,
        /// The address.
        address: IpAddr,
    },
    /// Add the VIP's address, where it is not there.
    #[non_exhaustive]
    AddAddress {
        /// The link's name.
        link: Arc<str>,
        /// The VIP.
        vip: Vip,
        /// The address's mark (`IFA_PROTO`).
        protocol: Option<u8>,
        /// Whether it is deprecated from the start: preferred lifetime 0, valid for ever
        /// ([`SourceAvoidance::Deprecated`](crate::SourceAvoidance::Deprecated)). IPv6 only.
        deprecated: bool,
    },
    /// Make the VIP's address valid for ever, and keep what else it has. An IPv6 one gets
    /// `IFA_F_NOPREFIXROUTE` with that.
    #[non_exhaustive]
    UpdateAddress {
        /// The link's name.
        link: Arc<str>,
        /// The VIP.
        vip: Vip,
        /// The flags to keep (`IFA_F_*`, linux/if_addr.h).
        flags: u32,
        /// Whether it stays deprecated: preferred lifetime 0.
        deprecated: bool,
        /// The other end, where the address has one.
        peer: Option<IpAddr>,
        /// The metric of its prefix route (`IFA_RT_PRIORITY`) to keep.
        metric: Option<u32>,
        /// The mark to keep (`IFA_PROTO`).
        protocol: Option<u8>,
    },
    /// Delete the VIP's address.
    #[non_exhaustive]
    DeleteAddress {
        /// The link's name.
        link: Arc<str>,
        /// The VIP.
        vip: Vip,
        /// The other end, where the address has one. IPv4 only.
        peer: Option<IpAddr>,
    },
    /// Wait until the kernel has put in its own local route of an IPv6 address. Printed, it is the
    /// look-up that tells: `metric 0`.
    #[non_exhaustive]
    AwaitRoute {
        /// The link's name.
        link: Arc<str>,
        /// The VIP.
        vip: Vip,
        /// Whether it will come for certain. Otherwise the address is so new that it may.
        certain: bool,
    },
    /// Add a route, where its place is free.
    AddRoute(PlannedRoute),
    /// Add a route behind those that are in its place. IPv4 only.
    AppendRoute(PlannedRoute),
    /// Replace the route in its place, or add it.
    ReplaceRoute(PlannedRoute),
    /// Delete a route.
    DeleteRoute(PlannedRoute),
}

/// A route to a VIP, as it is written or as a deletion names it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedRoute {
    /// The link's name.
    pub link: Arc<str>,
    /// The destination.
    pub vip: Vip,
    /// The table: local is 255, main 254.
    pub table: u32,
    /// The metric; in a deletion 0 means any.
    pub metric: u32,
    /// The protocol (`rtm_protocol`); in a deletion 0 means any.
    pub protocol: u8,
    /// The type (`rtm_type`): 2 is local.
    pub kind: u8,
    /// The type of service, in IPv4.
    pub tos: u8,
    /// The preferred source. A deletion has it in IPv4 only, where the kernel compares it; there
    /// `None` means any.
    pub source: Option<IpAddr>,
    /// How long it lives, in seconds; `None`: for ever.
    pub lifetime: Option<u32>,
}

/// A link's name as a word of a shell command.
struct Word<'a>(&'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.@-".contains(&b);
        if self.0.bytes().all(plain) {
            f.write_str(self.0)
        } else {
            write!(f, "'{}'", self.0.replace('\'', r"'\''"))
        }
    }
}

/// `ip -4` or `ip -6`.
fn ip(vip: Vip) -> &'static str {
    match vip.family() {
        Family::V4 => "ip -4",
        Family::V6 => "ip -6",
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateLink { link, kind } => {
                let kind = match kind {
                    LinkKind::Dummy => "dummy",
                    LinkKind::Bridge => "bridge",
                };
                write!(f, "ip link add dev {} arp off type {kind}", Word(link))
            }
            Self::NoOwnAddress { link } => {
                write!(f, "ip link set dev {} addrgenmode none", Word(link))
            }
            Self::BringUp { link } => write!(f, "ip link set dev {} up", Word(link)),
            Self::AddLabel {
                link,
                prefix,
                label,
            } => {
                let link = Word(link);
                write!(
                    f,
                    "ip addrlabel add prefix {prefix} dev {link} label {label}"
                )
            }
            Self::AddPlaceholder { link, address } => {
                write!(f, "ip addr add {address}/32 dev {} scope host", Word(link))
            }
            Self::AddAddress {
                link,
                vip,
                protocol,
                deprecated,
            } => {
                let (ip, bits) = (ip(*vip), vip.family().host_bits());
                write!(f, "{ip} addr add {vip}/{bits} dev {}", Word(link))?;
                f.write_str(match vip.family() {
                    Family::V4 => " scope link",
                    Family::V6 => " nodad noprefixroute",
                })?;
                if *deprecated {
                    f.write_str(" valid_lft forever preferred_lft 0")?;
                }
                protocol.map_or(Ok(()), |protocol| write!(f, " proto {protocol}"))
            }
            Self::UpdateAddress {
                link,
                vip,
                flags,
                deprecated,
                peer,
                metric,
                protocol,
            } => {
                let (ip, bits) = (ip(*vip), vip.family().host_bits());
                write!(f, "{ip} addr change {vip}")?;
                peer.map_or(Ok(()), |peer| write!(f, " peer {peer}"))?;
                write!(f, "/{bits} dev {}", Word(link))?;
                for (flag, word) in [
                    (IFA_F_NODAD, "nodad"),
                    (IFA_F_HOMEADDRESS, "home"),
                    (IFA_F_MANAGETEMPADDR, "mngtmpaddr"),
                    (IFA_F_MCAUTOJOIN, "autojoin"),
                ] {
                    if flags & flag != 0 {
                        write!(f, " {word}")?;
                    }
                }
                if vip.family() == Family::V6 {
                    f.write_str(" noprefixroute")?;
                }
                let preferred = if *deprecated { "0" } else { "forever" };
                write!(f, " valid_lft forever preferred_lft {preferred}")?;
                if let Some(metric) = metric {
                    write!(f, " metric {metric}")?;
                }
                protocol.map_or(Ok(()), |protocol| write!(f, " proto {protocol}"))
            }
            Self::DeleteAddress { link, vip, peer } => {
                let (ip, bits) = (ip(*vip), vip.family().host_bits());
                write!(f, "{ip} addr del {vip}")?;
                peer.map_or(Ok(()), |peer| write!(f, " peer {peer}"))?;
                write!(f, "/{bits} dev {}", Word(link))
            }
            Self::AwaitRoute { link, vip, .. } => {
                let link = Word(link);
                write!(
                    f,
                    "{} route show table local exact {vip} dev {link}",
                    ip(*vip)
                )
            }
            Self::AddRoute(route) => route.write(f, "add"),
            Self::AppendRoute(route) => route.write(f, "append"),
            Self::ReplaceRoute(route) => route.write(f, "replace"),
            Self::DeleteRoute(route) => route.write(f, "del"),
        }
    }
}

impl PlannedRoute {
    fn write(&self, f: &mut fmt::Formatter<'_>, verb: &str) -> fmt::Result {
        let Self { vip, table, .. } = self;
        write!(f, "{} route {verb}", ip(*vip))?;
        // `ip` takes types by name only.
        if let Some(kind) = type_name(self.kind) {
            write!(f, " {kind}")?;
        }
        write!(f, " {vip} dev {} table {table}", Word(&self.link))?;
        if self.protocol != 0 {
            write!(f, " proto {}", self.protocol)?;
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        if self.tos != 0 {
            write!(f, " tos 0x{:02x}", self.tos)?;
        }
        if vip.family() == Family::V4 {
            // A deletion without one would mean the scope that `ip` takes for the type.
            let scope = if verb == "del" { "nowhere" } else { "host" };
            write!(f, " scope {scope}")?;
        }
        self.source
            .map_or(Ok(()), |source| write!(f, " src {source}"))?;
        self.lifetime
            .map_or(Ok(()), |seconds| write!(f, " expires {seconds}"))
    }
}

/// The name of a route's type, as `ip` calls it.
fn type_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        libc::RTN_UNICAST => "unicast",
        libc::RTN_LOCAL => "local",
        libc::RTN_BROADCAST => "broadcast",
        libc::RTN_ANYCAST => "anycast",
        libc::RTN_MULTICAST => "multicast",
        libc::RTN_BLACKHOLE => "blackhole",
        libc::RTN_UNREACHABLE => "unreachable",
        libc::RTN_PROHIBIT => "prohibit",
        libc::RTN_THROW => "throw",
        _ => return None,
    })
}

/// Runs a deletion, and passes over what it does not find.
const GONE: &str = r#"
gone() {
	said=$("$@" 2>&1) && return
	case $said in
	*"No such process"* | *"No such file"* | *"ddress not found"*) ;;
	*"Cannot assign requested address"*) ;;
	*) printf '%s\n' "$*: $said" >&2; return 1 ;;
	esac
}
"#;

/// Runs an addition, and passes over what is there.
const THERE: &str = r#"
there() {
	said=$("$@" 2>&1) && return
	case $said in
	*"File exists"* | *"already assigned"*) ;;
	*) printf '%s\n' "$*: $said" >&2; return 1 ;;
	esac
}
"#;

/// Waits for the kernel's route, five seconds at the most. To ask for one route is quicker than to
/// read the table, but where a routing rule comes first, the answer may be another table's.
const CAME: &str = r#"
nap() { sleep 0.1 2>/dev/null || sleep 1; }
has_come() {
	case $(ip -6 route get fibmatch "$1" 2>/dev/null) in
	*" dev $2 table local "*"metric 0 "*) return ;;
	esac
	case $(ip -6 route show table local exact "$1" dev "$2") in
	*"metric 0 "*) ;;
	*) return 1 ;;
	esac
}
came() {
	tries=50
	until has_come "$1" "$2"; do
		if [ "$tries" -eq 0 ]; then
			printf '%s\n' "the kernel's route to $1 has not come" >&2
			return 1
		fi
		tries=$((tries - 1))
		nap
	done
}
"#;

/// Waits for a route that may come, until no address of the plan is new any more.
const MAY_COME: &str = r#"
recent=27
may_come() {
	until has_come "$1" "$2" || [ "$recent" -eq 0 ]; do
		recent=$((recent - 1))
		nap
	done
}
"#;

/// How the script runs an action.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Plain,
    Gone,
    There,
    Came,
    MayCome,
}

impl Action {
    fn manner(&self) -> Manner {
        match self {
            Self::DeleteAddress { .. } | Self::DeleteRoute(_) => Manner::Gone,
            Self::AddPlaceholder { .. } | Self::AppendRoute(_) => Manner::There,
            Self::AwaitRoute { certain: true, .. } => Manner::Came,
            Self::AwaitRoute { certain: false, .. } => Manner::MayCome,
            _ => Manner::Plain,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "#!/bin/sh\n# From what was seen of the node: run it at once, and once, or not at \
             all.\nset -eu\nexport LC_ALL=C\n",
        )?;
        let uses = |manner| self.steps.iter().any(|step| step.action.manner() == manner);
        if uses(Manner::Gone) {
            f.write_str(GONE)?;
        }
        if uses(Manner::There) {
            f.write_str(THERE)?;
        }
        if uses(Manner::Came) || uses(Manner::MayCome) {
            f.write_str(CAME)?;
        }
        if uses(Manner::MayCome) {
            f.write_str(MAY_COME)?;
        }
        f.write_str("\n")?;
        for failure in &self.failures {
            writeln!(f, "# left as it is: {failure}")?;
        }
        for PlannedStep {
            vip,
            action,
            reason,
        } in &self.steps
        {
            match vip {
                Some(vip) => writeln!(f, "# {vip}: {reason}")?,
                None => writeln!(f, "# {reason}")?,
            }
            let manner = action.manner();
            match action {
                Action::AwaitRoute { link, vip, .. } => {
                    let wait = if manner == Manner::Came {
                        "came"
                    } else {
                        "may_come"
                    };
                    writeln!(f, "{wait} {vip} {}", Word(link))?;
                }
                // A node without IPv6 gives no IPv6 address either.
                Action::NoOwnAddress { .. } => writeln!(f, "{action} 2>/dev/null || :")?,
                _ => match manner {
                    Manner::Gone => writeln!(f, "gone {action}")?,
                    Manner::There => writeln!(f, "there {action}")?,
                    _ => writeln!(f, "{action}")?,
                },
            }
        }
        if self.is_empty() {
            f.write_str("# Nothing is to be done.\n")?;
        }
        Ok(())
    }
}

/// One thing that happens to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    Step(Step),
    /// One of the deletions that [`Step::DeleteOthers`] stands for.
    Delete(RouteKey),
    /// The kernel's route comes; for certain, or perhaps.
    Wait {
        certain: bool,
    },
}

/// How a round of a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Moved,
    Done,
    Failed(Cause),
}

/// Rounds of a row, at the most; the model takes seven.
const ROUNDS: u16 = 20;

/// A row as it will be, if nothing else changes it.
#[derive(Clone, Debug)]
pub(crate) struct Simulation {
    family: Family,
    pub(crate) facts: Facts,
    progress: Progress,
    /// The routes that are not as wanted.
    others: Vec<RouteKey>,
    rounds: u16,
}

impl Simulation {
    pub(crate) fn new(
        family: Family,
        facts: Facts,
        progress: Progress,
        others: impl Iterator<Item = RouteKey>,
    ) -> Self {
        let mut others: Vec<_> = others.collect();
        // A deletion may match other routes than the one that it is for: see `delete_others`.
        others.sort_by_key(|key| (key.metric == 0, key.prefsrc.is_none()));
        Self {
            family,
            facts,
            progress,
            others,
            rounds: 0,
        }
    }

    /// After its link has come up: the kernel makes the routes of the link's addresses again
    /// (`fib_add_ifaddr`, net/ipv4/fib_frontend.c; `fixup_permanent_addr`, net/ipv6/addrconf.c). Of
    /// those, the ones for `broadcasts` lead to the VIP. The address may have a metric of its own.
    pub(crate) fn link_comes_up(
        &mut self,
        metric: Option<u32>,
        broadcasts: impl Iterator<Item = IpAddr>,
        desired: &DesiredRoute,
    ) {
        if self.facts.contains(Facts::ADDRESS) {
            self.facts |= Facts::KERNEL;
            if !self.facts.contains(Facts::NO_PREFIX_ROUTE) {
                self.facts |= Facts::PREFIX;
                self.others.retain(|key| !is_prefix(key));
                self.others.push(prefix_key(metric));
            }
        }
        for address in broadcasts {
            let key = RouteKey {
                table: TABLE_LOCAL,
                metric: 0,
                protocol: libc::RTPROT_KERNEL,
                kind: libc::RTN_BROADCAST,
                tos: 0,
                prefsrc: Some(address),
            };
            // The kernel makes none that is there.
            if self.others.contains(&key) {
                continue;
            }
            self.others.push(key);
            self.facts |= Facts::SAME_KEY | Facts::WRONG_SOURCE;
            if desired.protocol != libc::RTPROT_KERNEL {
                self.facts |= Facts::WRONG_PROTOCOL;
            }
        }
    }

    /// Plays one round.
    pub(crate) fn advance(
        &mut self,
        policy: Policy,
        desired: &DesiredRoute,
        mut emit: impl FnMut(Move, Facts),
    ) -> Turn {
        // What every observation notes.
        self.progress.observed(self.facts);
        let steps = match next(self.family, self.facts, self.progress, policy) {
            Next::Done => return Turn::Done,
            Next::Fail(cause) => return Turn::Failed(cause),
            Next::Read => return Turn::Failed(Cause::Unread),
            _ if self.rounds == ROUNDS => return Turn::Failed(Cause::Pending),
            Next::Steps(steps) => steps,
            Next::Wait => {
                let certain = self.facts.contains(Facts::TENTATIVE)
                    || self.progress.has(Done::ADDRESS_IS_NEW);
                emit(Move::Wait { certain }, self.facts);
                self.facts.remove(Facts::TENTATIVE | Facts::RECENT);
                self.facts |= Facts::KERNEL;
                self.rounds += 1;
                return Turn::Moved;
            }
        };
        self.rounds += 1;
        let before = self.facts;
        for &step in steps {
            if step == Step::DeleteOthers {
                for key in &self.others {
                    emit(Move::Delete(*key), before);
                }
            } else {
                emit(Move::Step(step), before);
            }
            self.take(step, desired);
        }
        Turn::Moved
    }

    /// What the kernel makes of a step that `next` says.
    fn take(&mut self, step: Step, desired: &DesiredRoute) {
        match step {
            Step::AddAddress => {
                self.facts |= Facts::ADDRESS | Facts::NO_PREFIX_ROUTE | Facts::RECENT;
                if self.family == Family::V4 {
                    self.facts |= Facts::KERNEL;
                }
                self.progress.acked(step);
            }
            Step::UpdateAddress => {
                self.facts.remove(Facts::EXPIRES);
                self.facts |= Facts::NO_PREFIX_ROUTE;
            }
            Step::DeleteAddress | Step::RenewAddress => self.delete_address(),
            Step::AddRoute | Step::AppendRoute => {
                self.facts |= Facts::desired(desired.kernel_source);
            }
            Step::AddStaged | Step::ReplaceStaged => {
                self.clear_same_key();
                self.facts.remove(Facts::DESIRED);
                self.facts |= Facts::SAME_KEY;
                self.facts
                    .set(Facts::SLOT_EXPIRES, staged_lifetime(desired).is_some());
                self.facts
                    .set(Facts::WRONG_PROTOCOL, desired.staged != desired.protocol);
                self.others.push(staged_key(desired));
            }
            Step::ReplaceRoute => self.replace_route(desired),
            Step::DeleteDesired => self.facts.remove(Facts::DESIRED),
            Step::DeleteKernel | Step::DeleteKernelBlind => self.facts.remove(Facts::KERNEL),
            Step::DeleteOthers => self.delete_others(desired),
        }
    }

    /// The kernel takes its own routes with it. Of one that is valid for ever and may have made a
    /// prefix route that is the first one in table main, whoever made it
    /// (`addrconf_get_prefix_route`, net/ipv6/addrconf.c).
    fn delete_address(&mut self) {
        if self.family == Family::V6
            && !self
                .facts
                .intersects(Facts::NO_PREFIX_ROUTE | Facts::EXPIRES)
        {
            let main = self.others.iter().enumerate();
            let main = main.filter(|(_, key)| key.table == TABLE_MAIN);
            if let Some((first, _)) = main.min_by_key(|(_, key)| key.metric) {
                self.others.remove(first);
                let family = self.family;
                let is_extra = |key: &RouteKey| !is_prefix(key) && !has_same_key(key, family);
                self.facts
                    .set(Facts::PREFIX, self.others.iter().any(is_prefix));
                self.facts
                    .set(Facts::EXTRA, self.others.iter().any(is_extra));
            }
        }
        self.facts.remove(
            Facts::ADDRESS
                | Facts::NO_PREFIX_ROUTE
                | Facts::TENTATIVE
                | Facts::DAD_FAILED
                | Facts::RECENT
                | Facts::PEER
                | Facts::EXPIRES
                | Facts::KERNEL,
        );
    }

    /// Whatever was in the place of the wanted route is not any more.
    fn clear_same_key(&mut self) {
        self.facts.remove(Facts::SAME_KEY | Facts::SLOT_KIND);
        let family = self.family;
        self.others.retain(|key| !has_same_key(key, family));
    }

    /// IPv6 has one route in a place. Of several in IPv4 the first is replaced, and which that is,
    /// nobody knows: then all count as there, and a deletion finds nothing.
    fn replace_route(&mut self, desired: &DesiredRoute) {
        let kernels = self.facts.contains(Facts::KERNEL);
        self.facts |= Facts::desired(desired.kernel_source);
        let slots = self
            .others
            .iter()
            .filter(|key| has_same_key(key, self.family));
        match (self.family, slots.count()) {
            (Family::V6, _) => self.clear_same_key(),
            (Family::V4, 0) if !desired.kernel_source => self.facts.remove(Facts::KERNEL),
            (Family::V4, 1) if !kernels => self.clear_same_key(),
            (Family::V4, _) => {}
        }
    }

    /// An IPv4 deletion without a preferred source matches any. Where it may have hit another route
    /// than the one it is for, that one counts as left.
    fn delete_others(&mut self, desired: &DesiredRoute) {
        let others = std::mem::take(&mut self.others);
        let ours = self.facts.contains(Facts::DESIRED);
        let kernel = self.facts.contains(Facts::KERNEL);
        self.facts
            .remove(Facts::EXTRA | Facts::PREFIX | Facts::SAME_KEY);
        self.facts.remove(Facts::SLOT_KIND);
        let family = self.family;
        let left = others.iter().find(|key| {
            let any_source = key.prefsrc.is_none();
            let hits_ours = ours
                && key.protocol == desired.protocol
                && (any_source || key.prefsrc == desired.source);
            let hits_kernels = kernel && key.protocol == libc::RTPROT_KERNEL && any_source;
            let local = key.kind == libc::RTN_LOCAL && has_same_key(key, family);
            family == Family::V4 && local && (hits_ours || hits_kernels)
        });
        if let Some(left) = left {
            // Whichever of them is left, it is the only one that this deletion matches.
            self.facts.remove(Facts::DESIRED | Facts::KERNEL);
            self.facts |= Facts::SAME_KEY | Facts::WRONG_SOURCE;
            self.others.push(*left);
        }
    }
}

/// Whether a route is in the place that the wanted one would take.
fn has_same_key(key: &RouteKey, family: Family) -> bool {
    let metric = match family {
        Family::V4 => 0,
        Family::V6 => IP6_USER_METRIC,
    };
    key.table == TABLE_LOCAL && key.tos == 0 && key.metric == metric
}

/// Whether an IPv6 route is the one that the kernel made for an address in table main.
fn is_prefix(key: &RouteKey) -> bool {
    key.table == TABLE_MAIN && key.protocol == libc::RTPROT_KERNEL
}

/// Plays a call forward, of which everything was prepared.
pub(crate) fn preview(call: Call<'_>, link_changes: &LinkChanges) -> Plan {
    let link: Arc<str> = link_changes.name.as_str().into();
    let mut plan = Plan::default();
    let rows = &call.buffers.rows;
    prepare_link(&mut plan, &link, link_changes);
    let mut playing: Vec<(&Row, Simulation)> = rows
        .iter()
        .map(|row| {
            let strange = Facts::SAME_KEY | Facts::EXTRA | Facts::PREFIX;
            let others = row.facts.intersects(strange).then(|| rows.others(row.vip));
            let mut simulation = Simulation::new(
                row.vip.family(),
                row.facts,
                row.progress,
                others.into_iter().flatten().copied(),
            );
            if link_changes.bring_up {
                let to_vip = link_changes.broadcasts.iter();
                let to_vip = to_vip.filter(|(to, _)| *to == row.vip.addr());
                let desired = &call.desired[row.vip.family() as usize];
                let metric = rows
                    .address_attrs(row.vip)
                    .find_map(|keep| keep.rt_priority);
                simulation.link_comes_up(metric, to_vip.map(|(_, of)| *of), desired);
            }
            (row, simulation)
        })
        .collect();
    let mut has_placeholder = call.binding == Binding::Address || rows.unmanaged_v4() > 0;
    let mut deferred: Vec<(&Row, PlannedStep)> = Vec::new();
    while !playing.is_empty() {
        playing.retain_mut(|(row, simulation)| {
            let policy = policy_for(row, call.engine.policies());
            let desired = &call.desired[row.vip.family() as usize];
            let turn = simulation.advance(policy, desired, |what, facts| {
                let reason = reason(what, policy, facts);
                let vip = Some(row.vip);
                if what == Move::Step(Step::UpdateAddress) {
                    let expiring = rows.address_attrs(row.vip).filter(|keep| keep.expires);
                    deferred.extend(expiring.map(|keep| {
                        let action = update(row.vip, keep, &link);
                        (
                            *row,
                            PlannedStep {
                                vip,
                                action,
                                reason,
                            },
                        )
                    }));
                    return;
                }
                let action = action(what, row.vip, desired, &link);
                let step = PlannedStep {
                    vip,
                    action,
                    reason,
                };
                if what == Move::Step(Step::DeleteAddress) {
                    let mut peers = rows.peers(row.vip).peekable();
                    if peers.peek().is_none() {
                        deferred.push((row, step));
                        return;
                    }
                    deferred.extend(peers.map(|end| {
                        let action = Action::DeleteAddress {
                            link: link.clone(),
                            vip: row.vip,
                            peer: Some(*end).filter(|end| *end != row.vip.addr()),
                        };
                        (
                            *row,
                            PlannedStep {
                                action,
                                ..step.clone()
                            },
                        )
                    }));
                } else {
                    plan.steps.push(step);
                }
            });
            if let Turn::Failed(cause) = turn {
                plan.failures.push(Failure {
                    drift: simulation.facts.drift(policy),
                    ..Failure::new(row.vip, cause, None)
                });
            }
            turn == Turn::Moved
        });
        let is_v4 = |(row, _): &(&Row, PlannedStep)| row.vip.family() == Family::V4;
        if !has_placeholder && deferred.iter().any(is_v4) {
            has_placeholder = true;
            plan.steps.push(PlannedStep {
                vip: None,
                action: Action::AddPlaceholder {
                    link: link.clone(),
                    address: PLACEHOLDER,
                },
                reason: Reason::LastAddress,
            });
        }
        deferred.sort_unstable_by_key(|(row, _)| row.order);
        plan.steps.extend(deferred.drain(..).map(|(_, step)| step));
    }
    let rejected = call.buffers.rejected.iter();
    let rejected = rejected.map(|(vip, why)| call.buffers.failure(*vip, *why));
    plan.failures.extend(rejected);
    plan.failures.sort_by_key(|failure| failure.vip);
    obstacle::explain(call.connection, call.link, &mut plan.failures);
    plan
}

fn prepare_link(plan: &mut Plan, link: &Arc<str>, link_changes: &LinkChanges) {
    let mut push = |action, reason| {
        plan.steps.push(PlannedStep {
            vip: None,
            action,
            reason,
        });
    };
    if let Some(kind) = link_changes.create {
        let link = link.clone();
        push(Action::CreateLink { link, kind }, Reason::NoLink);
    }
    let link = link.clone();
    if link_changes.create.is_some() {
        let link = link.clone();
        push(Action::NoOwnAddress { link }, Reason::NoLink);
    }
    if link_changes.bring_up {
        let link = link.clone();
        push(Action::BringUp { link }, Reason::LinkDown);
    }
    for prefix in &link_changes.labels {
        let action = Action::AddLabel {
            link: link.clone(),
            prefix: *prefix,
            label: link_changes.label,
        };
        push(action, Reason::SourceChoice);
    }
}

fn update(vip: Vip, keep: &AddressAttrs, link: &Arc<str>) -> Action {
    Action::UpdateAddress {
        link: link.clone(),
        vip,
        flags: keep.flags,
        deprecated: keep.deprecated,
        peer: Some(keep.end).filter(|end| *end != vip.addr()),
        metric: keep.rt_priority,
        protocol: keep.protocol,
    }
}

fn action(what: Move, vip: Vip, desired: &DesiredRoute, link: &Arc<str>) -> Action {
    let link = link.clone();
    let written = |key: &RouteKey| {
        if desired.kernel_source {
            return named(&kernel_key(&vip.addr()), vip, &link);
        }
        named(key, vip, &link)
    };
    let in_transit = || PlannedRoute {
        lifetime: staged_lifetime(desired),
        ..written(&staged_key(desired))
    };
    let deleted = |key: &RouteKey| {
        let mut route = named(key, vip, &link);
        // Not compared in IPv6, which refuses one that is not there.
        route.source = route.source.filter(|_| vip.family() == Family::V4);
        route.tos = if vip.family() == Family::V4 {
            key.tos
        } else {
            0
        };
        Action::DeleteRoute(route)
    };
    match what {
        Move::Wait { certain } => Action::AwaitRoute { link, vip, certain },
        Move::Delete(key) => deleted(&key),
        Move::Step(step) => match step {
            Step::AddAddress => Action::AddAddress {
                link,
                vip,
                protocol: desired.address_protocol,
                deprecated: desired.deprecated && vip.family() == Family::V6,
            },
            Step::DeleteAddress | Step::RenewAddress => Action::DeleteAddress {
                link,
                vip,
                peer: None,
            },
            Step::AddRoute => Action::AddRoute(written(&desired_key(desired))),
            Step::AddStaged => Action::AddRoute(in_transit()),
            Step::AppendRoute => Action::AppendRoute(written(&desired_key(desired))),
            Step::ReplaceRoute => Action::ReplaceRoute(written(&desired_key(desired))),
            Step::ReplaceStaged => Action::ReplaceRoute(in_transit()),
            // Of the last two one is made for each route by `advance`, for each address by `preview`.
            Step::DeleteDesired | Step::DeleteOthers | Step::UpdateAddress => {
                deleted(&desired_key(desired))
            }
            Step::DeleteKernel | Step::DeleteKernelBlind => deleted(&kernel_key(&vip.addr())),
        },
    }
}

fn named(key: &RouteKey, vip: Vip, link: &Arc<str>) -> PlannedRoute {
    PlannedRoute {
        link: link.clone(),
        vip,
        table: key.table,
        metric: key.metric,
        protocol: key.protocol,
        kind: key.kind,
        tos: key.tos,
        source: key.prefsrc,
        lifetime: None,
    }
}

/// Why `next` says this, from the facts that it was told.
fn reason(what: Move, policy: Policy, facts: Facts) -> Reason {
    let cured = match what {
        Move::Wait { .. } => return Reason::LateRoute,
        _ if policy.goal == Goal::Release => return Reason::NotDesired,
        Move::Delete(_) => Drift::DUPLICATE | Drift::PREFIX_ROUTE,
        Move::Step(step) => match step {
            Step::AddStaged | Step::ReplaceStaged => return Reason::Staged,
            Step::AddAddress => Drift::MISSING_ADDRESS | Drift::STALE,
            Step::RenewAddress => Drift::MISSING_ROUTE,
            Step::UpdateAddress => Drift::EXPIRING_ADDRESS,
            Step::DeleteAddress => Drift::UNWANTED_ADDRESS,
            Step::AddRoute | Step::AppendRoute | Step::ReplaceRoute => {
                Drift::MISSING_ROUTE
                    | Drift::WRONG_SOURCE
                    | Drift::WRONG_PROTOCOL
                    | Drift::EXPIRING_ROUTE
            }
            Step::DeleteKernel | Step::DeleteKernelBlind => Drift::KERNEL_LOCAL_ROUTE,
            Step::DeleteDesired | Step::DeleteOthers => Drift::DUPLICATE,
        },
    };
    let drift = facts.drift(policy);
    // A step may cure what an earlier one of the same round brings.
    Reason::Drift(match drift & cured {
        cured if cured.is_empty() => drift,
        cured => cured,
    })
}

impl VipManager {
    /// What [`reconcile`](Self::reconcile) would do now, as data: the steps in order, each with its
    /// reason, waits included, and the VIPs that it cannot bring about. Printed, it is a script of
    /// `ip` commands.
    ///
    /// Writes nothing, creates no link and needs no privilege. It is a preview, not an order: see
    /// [`Plan`].
    ///
    /// # Errors
    ///
    /// What `reconcile` says before it writes anything. VIPs that would fail are no error, but
    /// listed in [`Plan::failures`].
    pub fn plan<I>(&mut self, claim: &Claim, desired: I) -> Result<Plan, Error>
    where
        I: IntoIterator,
        I::Item: Into<Vip>,
    {
        self.take(desired, Goal::Assign);
        let mut link_changes = LinkChanges::default();
        let call = self.prepare(
            Scope::Claimed(Leaving::all(claim)),
            Mode::Preview(&mut link_changes),
        )?;
        Ok(preview(call, &link_changes))
    }
}
