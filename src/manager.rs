//! The public calls, in terms of the rest.

use std::net::IpAddr;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::cancel::{Cancelled, Canceller};
use crate::error::{Error, ErrorKind};
use crate::link::{self, LinkKind, LinkState};
use crate::netns::Netns;
use crate::plan::{Goal, Policy};
use crate::report::Report;
use crate::round::{Buffers, Call, Limits};
use crate::sys::Strictness;
use crate::talk::Talk;
use crate::vip::{Family, Reject, Vip};
use crate::wire::encode::{Templates, Wanted};

/// The protocol of a route: who put it there (`rtm_protocol`, linux/rtnetlink.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(NonZeroU8);

impl Protocol {
    /// `proto kernel`, the default: systemd-networkd and its like leave such routes alone.
    pub const KERNEL: Self = Self(NonZeroU8::MIN.saturating_add(1));

    /// A protocol by its number, 1 to 255. `None` for 0, which means *any* in a deletion.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        match NonZeroU8::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

/// The protocol of our route while it must not pass for the wanted one.
const fn transit(wanted: Protocol) -> u8 {
    match wanted.get() {
        251 => 250,
        _ => 251,
    }
}

/// Asks for a receive buffer that holds the replies of a full batch with room to spare; the kernel
/// grants what `net.core.rmem_max` allows.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Configures a [`VipManager`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `open`"]
pub struct Builder {
    link: String,
    netns: Option<Arc<Netns>>,
    sources: Vec<IpAddr>,
    protocol: Protocol,
    allowed: Vec<IpNet>,
    create: Option<LinkKind>,
    bring_up: bool,
    stall: Duration,
    total: Option<Duration>,
    receive_buffer: usize,
    strictness: Strictness,
}

impl Builder {
    /// Works in this network namespace instead of the calling thread's.
    pub fn netns(mut self, netns: Netns) -> Self {
        self.netns = Some(Arc::new(netns));
        self
    }

    /// The node's own address in its family, the preferred source of the VIPs' routes: traffic
    /// from the node to a VIP leaves with it. One for each family that has VIPs.
    pub fn source(mut self, source: impl Into<IpAddr>) -> Self {
        self.sources.push(source.into());
        self
    }

    /// The protocol of the VIPs' routes; [`Protocol::KERNEL`] by default.
    ///
    /// With another one the routes bear a mark, but systemd-networkd removes routes that are
    /// foreign to it and not `kernel`, unless told otherwise (`ManageForeignRoutes=no`).
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Admits only VIPs in this range, or in another one given. Without any, every admissible
    /// address is a VIP. On a loopback link at least one is required, because its own addresses
    /// look like VIPs.
    pub fn allow(mut self, range: impl Into<IpNet>) -> Self {
        self.allowed.push(range.into());
        self
    }

    /// Lets an [`assign`](VipManager::assign) that finds no link create it, without ARP and
    /// without an IPv6 address of its own, and implies [`bring_up`](Self::bring_up).
    pub fn create_link(mut self, kind: LinkKind) -> Self {
        self.create = Some(kind);
        self
    }

    /// Lets a call that finds the link down bring it up. Without this it is refused
    /// ([`ErrorKind::LinkDown`]): some links are down by design, like kube-proxy's `kube-ipvs0`.
    pub fn bring_up(mut self) -> Self {
        self.bring_up = true;
        self
    }

    /// How long a call waits for the kernel without any sign of progress before the VIPs that
    /// still wait fail as [`Cause::Pending`](crate::Cause::Pending). Default: 5 seconds.
    pub fn stall_timeout(mut self, time: Duration) -> Self {
        self.stall = time;
        self
    }

    /// How long a call may take altogether. Default: as long as the kernel makes progress.
    pub fn total_timeout(mut self, time: Duration) -> Self {
        self.total = Some(time);
        self
    }

    /// The receive buffer to ask the kernel for, in bytes; default 1 MiB, of which
    /// `net.core.rmem_max` may grant less. Smaller buffers mean smaller batches, never lost
    /// replies.
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = bytes;
        self
    }

    /// As on a kernel before 4.20.
    #[cfg(test)]
    pub(crate) fn without_strict_checking(mut self) -> Self {
        self.strictness = Strictness::Off;
        self
    }

    /// Checks the configuration and opens the sockets, in the calling thread's network namespace.
    /// Writes nothing, and does not need the link to exist.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] for a name that no link can have, for two sources of one
    /// family and for one that no node can have; [`ErrorKind::System`] if a socket cannot be
    /// opened.
    pub fn open(self) -> Result<VipManager, Error> {
        if !link::valid_name(&self.link) {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!(
                    "no link can be named {:?}: give 1 to 15 bytes without slash, colon or space",
                    self.link
                ),
            ));
        }
        let mut sources = [None; 2];
        for source in &self.sources {
            if let Some(why) = Vip::from(*source).inadmissible() {
                return Err(Error::new(
                    ErrorKind::InvalidConfig,
                    format!("{source} cannot be a source: {why}"),
                ));
            }
            let place = &mut sources[Family::of(source) as usize];
            if place.is_some_and(|other| other != *source) {
                return Err(Error::new(
                    ErrorKind::InvalidConfig,
                    format!("more than one {} source: give one", Family::of(source)),
                ));
            }
            *place = Some(*source);
        }
        let cannot = |error| Error::io("cannot open a netlink socket", &error);
        let open = || Talk::open(self.receive_buffer, self.strictness);
        let talk = match &self.netns {
            Some(netns) => netns.run(open)?,
            None => open(),
        };
        Ok(VipManager {
            talk: talk.map_err(cannot)?,
            cancelled: Cancelled::new().map_err(cannot)?,
            buffers: Buffers::default(),
            sources,
            config: self,
        })
    }
}

/// Holds VIPs of one link in their single-route state.
///
/// Every call is synchronous, takes one VIP or a hundred thousand alike, verifies in the kernel
/// what it did, and sends nothing that writes for a VIP that is as wanted.
///
/// The socket stays in the network namespace in which [`Builder::open`] was called, whichever
/// thread uses it later. Writing needs `CAP_NET_ADMIN` in the user namespace that owns it.
#[derive(Debug)]
pub struct VipManager {
    config: Builder,
    sources: [Option<IpAddr>; 2],
    talk: Talk,
    cancelled: Cancelled,
    buffers: Buffers,
}

// One manager serves any thread, one at a time.
const _: () = {
    const fn assert<T: Send + Sync>() {}
    assert::<VipManager>();
    assert::<Canceller>();
};

impl VipManager {
    /// Begins the configuration of a manager for the link with this name.
    pub fn builder(link: impl Into<String>) -> Builder {
        Builder {
            link: link.into(),
            netns: None,
            sources: Vec::new(),
            protocol: Protocol::KERNEL,
            allowed: Vec::new(),
            create: None,
            bring_up: false,
            stall: Duration::from_secs(5),
            total: None,
            receive_buffer: RECEIVE_BUFFER,
            strictness: Strictness::Preferred,
        }
    }

    /// Puts VIPs on the link, each in its single-route state; repairs those that are there in
    /// another one and leaves alone those that are right.
    ///
    /// `Ok` means that every VIP was seen in the single-route state after the last write.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Incomplete`] with the report if a VIP was rejected, conflicts with another
    /// device's route, was refused by the kernel or is pending: all others are done and verified.
    /// Any other kind: see [`ErrorKind`].
    pub fn assign<I>(&mut self, vips: I) -> Result<Report, Error>
    where
        I: IntoIterator,
        I::Item: Into<Vip>,
    {
        self.take(vips);
        self.run(Goal::Assign, Scope::Given)
    }

    /// Brings every VIP that is on the link, whoever put it there, into its single-route state.
    ///
    /// VIPs of a link are its host addresses and the local host routes through it, except for
    /// loopback, link-local and multicast ones, the sources, and what is outside the allowed
    /// ranges. A route without its address is reported ([`Drift::STALE`](crate::Drift::STALE)) and
    /// left: whether the VIP is wanted here, only the caller knows. [`assign`](Self::assign) or
    /// [`release`](Self::release) it.
    ///
    /// # Errors
    ///
    /// As for [`assign`](Self::assign).
    pub fn normalize(&mut self) -> Result<Report, Error> {
        self.buffers.clear();
        self.run(Goal::Normalize, Scope::Link)
    }

    /// Like [`normalize`](Self::normalize), for these VIPs only. One that is not on the link fails
    /// ([`Cause::Unrepaired`](crate::Cause::Unrepaired)): it is not put there.
    ///
    /// # Errors
    ///
    /// As for [`assign`](Self::assign).
    pub fn normalize_only<I>(&mut self, vips: I) -> Result<Report, Error>
    where
        I: IntoIterator,
        I::Item: Into<Vip>,
    {
        self.take(vips);
        self.run(Goal::Normalize, Scope::Given)
    }

    /// Takes VIPs off the link: every route of it to them, and their addresses. One that is not
    /// there is as wanted.
    ///
    /// Needs no source. A route whose address is gone already is removed too: the kernel leaves it
    /// behind, and the node would go on swallowing the VIP's traffic.
    ///
    /// With the last IPv4 address of a link the kernel flushes every IPv4 route through it, others'
    /// too (`fib_inetaddr_event`, net/ipv4/fib_frontend.c). Who has other IPv4 routes through the
    /// link keeps an address of their own on it.
    ///
    /// # Errors
    ///
    /// As for [`assign`](Self::assign).
    pub fn release<I>(&mut self, vips: I) -> Result<Report, Error>
    where
        I: IntoIterator,
        I::Item: Into<Vip>,
    {
        self.take(vips);
        self.run(Goal::Release, Scope::Given)
    }

    /// A handle that cancels this manager's calls from another thread.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.cancelled.canceller()
    }

    /// Gives back the memory of buffers beyond what `vips` VIPs need. Buffers grow with the
    /// largest call and are kept.
    pub fn shrink_to(&mut self, vips: usize) {
        self.buffers.shrink_to(vips);
    }

    #[cfg(test)]
    pub(crate) fn talk_mut(&mut self) -> &mut Talk {
        &mut self.talk
    }

    /// Fills the rows with the VIPs of a call.
    fn take<I>(&mut self, vips: I)
    where
        I: IntoIterator,
        I::Item: Into<Vip>,
    {
        self.buffers.clear();
        for vip in vips {
            self.buffers.rows.push(vip.into());
        }
    }

    /// The one plain function behind every call.
    fn run(&mut self, goal: Goal, scope: Scope) -> Result<Report, Error> {
        let Self {
            config,
            sources,
            talk,
            cancelled,
            buffers,
        } = self;
        let screen = Screen {
            sources: *sources,
            allowed: &config.allowed,
            goal,
        };
        buffers.rows.settle();
        buffers
            .rows
            .reject(|vip| screen.reject(vip), &mut buffers.rejected);
        let link = prepare_link(talk, config, goal)?;
        if link.loopback && config.allowed.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!(
                    "{} is a loopback link, where the node's own addresses look like VIPs: name \
                     the VIPs' ranges with Builder::allow",
                    config.link
                ),
            ));
        }
        let as_kernel = config.protocol == Protocol::KERNEL;
        let wanted = Family::ALL.map(|family| Wanted {
            family,
            link: link.index,
            source: sources[family as usize],
            protocol: config.protocol.get(),
            transit: transit(config.protocol),
        });
        let mut call = Call {
            talk,
            buffers,
            cancelled,
            link: link.index,
            templates: [Templates::new(&wanted[0]), Templates::new(&wanted[1])],
            wanted,
            policy: Policy { goal, as_kernel },
            limits: Limits {
                stall: config.stall,
                deadline: config
                    .total
                    .and_then(|total| Instant::now().checked_add(total)),
            },
            report: Report::default(),
            observed: false,
            listening: false,
            moved: Instant::now(),
        };
        if scope == Scope::Link {
            call.discover(|vip| screen.is_on_link(vip))?;
            let Buffers { rows, rejected, .. } = &mut *call.buffers;
            rows.reject(|vip| screen.reject(vip), rejected);
        }
        if goal != Goal::Release {
            check_families(call.talk, &config.link, &link, sources, |f| {
                call.buffers.rows.has(f)
            })?;
        }
        call.run()
    }
}

/// Whether the caller named the VIPs, or they are those on the link.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Given,
    Link,
}

/// Which addresses are VIPs of this manager.
struct Screen<'a> {
    sources: [Option<IpAddr>; 2],
    allowed: &'a [IpNet],
    goal: Goal,
}

impl Screen<'_> {
    fn reject(&self, vip: Vip) -> Option<Reject> {
        if let Some(why) = vip.inadmissible() {
            return Some(why);
        }
        let source = self.sources[vip.family() as usize];
        if source == Some(vip.addr()) {
            Some(Reject::IsSource)
        } else if !self.allows(vip) {
            Some(Reject::OutsideAllowed)
        } else if source.is_none() && self.goal != Goal::Release {
            Some(Reject::NoSource)
        } else {
            None
        }
    }

    fn allows(&self, vip: Vip) -> bool {
        self.allowed.is_empty() || self.allowed.iter().any(|range| range.contains(&vip.addr()))
    }

    /// Whether an address found on the link is a VIP. One without a source is, and will be
    /// rejected: a forgotten source is an error, not a silence.
    fn is_on_link(&self, vip: Vip) -> bool {
        matches!(self.reject(vip), None | Some(Reject::NoSource))
    }
}

/// Finds the link, or makes it where the caller allowed that; refuses one that cannot hold VIPs.
fn prepare_link(talk: &mut Talk, config: &Builder, goal: Goal) -> Result<LinkState, Error> {
    let name = &config.link;
    let mut link = link::find(talk, name)?;
    if link.is_none()
        && goal == Goal::Assign
        && let Some(kind) = config.create
    {
        link::create(talk, name, kind)?;
        link = link::find(talk, name)?;
    }
    let Some(mut link) = link else {
        return Err(Error::new(
            ErrorKind::LinkNotFound,
            format!("there is no link {name}: create it, or let Builder::create_link"),
        ));
    };
    if goal == Goal::Release {
        return Ok(link);
    }
    if link.in_vrf {
        return Err(Error::new(
            ErrorKind::LinkInVrf,
            format!(
                "link {name} is enslaved to a VRF, which does not use table local: take another"
            ),
        ));
    }
    if !link.up {
        // A call that created the link may have been killed before it brought it up.
        if !config.bring_up && config.create.is_none() {
            return Err(Error::new(
                ErrorKind::LinkDown,
                format!("link {name} is down: bring it up, or let Builder::bring_up"),
            ));
        }
        link::bring_up(talk, name, link.index)?;
        link.up = true;
    }
    Ok(link)
}

/// Checks what each family needs that the call has VIPs of.
fn check_families(
    talk: &mut Talk,
    name: &str,
    link: &LinkState,
    sources: &[Option<IpAddr>; 2],
    has: impl Fn(Family) -> bool,
) -> Result<(), Error> {
    if link.ipv6_disabled && has(Family::V6) {
        return Err(Error::new(
            ErrorKind::Ipv6Disabled,
            format!("IPv6 is disabled on link {name}: set net.ipv6.conf.{name}.disable_ipv6=0"),
        ));
    }
    for source in sources
        .iter()
        .flatten()
        .filter(|source| has(Family::of(source)))
    {
        link::check_source(talk, source)?;
    }
    Ok(())
}
