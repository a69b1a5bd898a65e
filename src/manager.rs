//! The public calls, in terms of the rest.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::audit::{Audit, Audited};
use crate::cancel::{Cancelled, Canceller};
use crate::claim::Claim;
use crate::error::{Error, ErrorKind};
use crate::keeper::Keeper;
use crate::link::{self, LinkKind, LinkRef, LinkState};
use crate::netns::Netns;
use crate::observe::Hint;
use crate::plan::{Binding, Goal};
use crate::preview::{Groundwork, Plan, preview};
use crate::report::Report;
use crate::round::{Buffers, Call, Limits};
use crate::source::{self, SourceAvoidance};
use crate::state::{Drift, Facts, Phase, Row, Rows};
use crate::sys::{Socket, Strictness};
use crate::talk::Talk;
use crate::vip::{Family, Reject, Vip};
use crate::watch::Watcher;
use crate::wire::encode::{Wanted, dump_addresses};

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
    link: LinkRef,
    netns: Option<Arc<Netns>>,
    sources: Vec<IpAddr>,
    /// Which families keep the kernel's own route.
    kernel_source: [bool; 2],
    protocol: Protocol,
    allowed: Vec<IpNet>,
    create: Option<LinkKind>,
    bring_up: bool,
    binding: Binding,
    address_protocol: Option<Protocol>,
    avoidance: Option<SourceAvoidance>,
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
    /// from the node to a VIP leaves with it. One for each family that has VIPs, unless that
    /// [keeps the kernel's source](Self::kernel_source).
    pub fn source(mut self, source: impl Into<IpAddr>) -> Self {
        self.sources.push(source.into());
        self
    }

    /// Leaves the VIPs of this family the local route that the kernel makes for their addresses,
    /// by which traffic from the node to a VIP has the VIP itself as its source. In their
    /// single-route state that route is the only one; what else leads to them through the link,
    /// routes of this library included, is deleted.
    ///
    /// Without a source and without this, VIPs of a family are rejected
    /// ([`Reject::NoSource`]): to forget the source is an error.
    ///
    /// An IPv6 VIP that has lost the kernel's route gets it back only with its address, which is
    /// deleted and added anew.
    ///
    /// ```no_run
    /// use viproute::{Family, VipManager};
    ///
    /// let mut vips = VipManager::builder("kube-dummy-if")
    ///     .source([192, 0, 2, 10])
    ///     .kernel_source(Family::V6)
    ///     .open()?;
    /// # Ok::<(), viproute::Error>(())
    /// ```
    pub fn kernel_source(mut self, family: Family) -> Self {
        self.kernel_source[family as usize] = true;
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

    /// How the VIPs are bound to the link; [`Binding::Address`] by default.
    pub fn binding(mut self, binding: Binding) -> Self {
        self.binding = binding;
        self
    }

    /// Marks the addresses that the manager adds with this protocol (`IFA_PROTO`, Linux 5.18; older
    /// kernels ignore it), so that [`Claim::mark`](crate::Claim::mark) knows them again.
    pub fn address_protocol(mut self, protocol: Protocol) -> Self {
        self.address_protocol = Some(protocol);
        self
    }

    /// Keeps the kernel from choosing an IPv6 VIP as the source of traffic to other destinations,
    /// in one of two ways. Not done by default, when the kernel may choose a VIP where the link
    /// that the traffic leaves by has no address of its own (RFC 6724, section 5).
    ///
    /// It needs neither in IPv4, where the manager adds VIPs with scope link (one that another hand
    /// has added with scope global keeps that, and may be chosen), nor for [`Binding::Route`],
    /// where they are no addresses.
    ///
    /// ```no_run
    /// # use std::net::Ipv6Addr;
    /// use viproute::{SourceAvoidance, VipManager};
    ///
    /// let mut vips = VipManager::builder("kube-dummy-if")
    ///     .source("2001:db8::10".parse::<Ipv6Addr>()?)
    ///     .avoid_as_source(SourceAvoidance::Deprecated)
    ///     .open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn avoid_as_source(mut self, avoidance: SourceAvoidance) -> Self {
        self.avoidance = Some(avoidance);
        self
    }

    /// Admits only VIPs in this range, or in another one given. Without any, every admissible
    /// address is a VIP. On a loopback link at least one is required, because its own addresses
    /// look like VIPs.
    pub fn allow(mut self, range: impl Into<IpNet>) -> Self {
        self.allowed.push(range.into());
        self
    }

    /// Lets a call that assigns VIPs and finds no link create it ([`assign`](VipManager::assign),
    /// [`reconcile`](VipManager::reconcile), a [`Keeper`]), without ARP and without an IPv6 address
    /// of its own (`addrgenmode none`), and implies
    /// [`bring_up`](Self::bring_up). The link is down until its settings stand; one of this kind
    /// that is there, down and without ARP may be what a killed call has left of it, and gets what
    /// is missing. Takes a link by name.
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

    /// Checks the configuration and opens the sockets, in the calling thread's network namespace or
    /// in the one that [`netns`](Self::netns) names. Writes nothing, and does not need the link to
    /// exist.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] for a name that no link can have, for
    /// [`create_link`](Self::create_link) without a name, for two sources of one family, for one
    /// that no node can have, and for [`kernel_source`](Self::kernel_source) beside a source of that
    /// family or with [`Binding::Route`]; [`ErrorKind::PermissionDenied`] if the namespace cannot be
    /// entered for want of `CAP_SYS_ADMIN`; [`ErrorKind::System`] if a socket cannot be opened.
    pub fn open(self) -> Result<VipManager, Error> {
        match &self.link {
            LinkRef::Name(name) if !link::valid_name(name) => {
                return Err(Error::new(
                    ErrorKind::InvalidConfig,
                    format!(
                        "no link can be named {name:?}: give 1 to 15 bytes without slash, colon \
                         or space"
                    ),
                ));
            }
            LinkRef::Index(_) if self.create.is_some() => {
                return Err(Error::new(
                    ErrorKind::InvalidConfig,
                    "a link to create needs a name: give that instead of an index",
                ));
            }
            LinkRef::Name(_) | LinkRef::Index(_) => {}
        }
        let mut sources = [None; 2];
        for source in &self.sources {
            check_config_source(*source)?;
            let place = &mut sources[Family::of(source) as usize];
            if place.is_some_and(|other| other != *source) {
                return Err(Error::new(
                    ErrorKind::InvalidConfig,
                    format!("more than one {} source: give one", Family::of(source)),
                ));
            }
            *place = Some(*source);
        }
        for family in Family::ALL {
            if self.kernel_source[family as usize] && sources[family as usize].is_some() {
                return Err(Error::new(
                    ErrorKind::InvalidConfig,
                    format!("{family} has a source and shall keep the kernel's: take one of them"),
                ));
            }
        }
        self.check_binding(self.binding)?;
        let cannot = |error| Error::io("cannot open a netlink socket", &error);
        let talk = Talk::open(|| self.open_socket())?;
        Ok(VipManager {
            talk,
            cancelled: Cancelled::new().map_err(cannot)?,
            buffers: Buffers::default(),
            sources,
            config: self,
        })
    }
}

impl Builder {
    /// The wanted route of each family through the link of this index.
    pub(crate) fn wanted(&self, sources: &[Option<IpAddr>; 2], link: u32) -> [Wanted; 2] {
        Family::ALL.map(|family| Wanted {
            family,
            link,
            source: sources[family as usize],
            kernel_source: self.kernel_source[family as usize],
            protocol: self.protocol.get(),
            transit: transit(self.protocol),
            address_protocol: self.address_protocol.map(Protocol::get),
            deprecated: self.avoidance == Some(SourceAvoidance::Deprecated),
        })
    }

    /// Refuses a binding without the addresses that the kernel makes its routes for.
    fn check_binding(&self, binding: Binding) -> Result<(), Error> {
        if binding == Binding::Route && self.kernel_source != [false; 2] {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "the kernel makes its route for an address, which a VIP bound by its route has not: \
                 give a source, or bind by addresses",
            ));
        }
        Ok(())
    }

    /// Which addresses are VIPs.
    fn screen(&self, sources: [Option<IpAddr>; 2]) -> Screen<'_> {
        Screen {
            sources,
            kernel_source: self.kernel_source,
            allowed: &self.allowed,
        }
    }

    /// Whether the wanted routes bear the kernel's own protocol.
    pub(crate) fn writes_as_kernel(&self) -> bool {
        self.protocol == Protocol::KERNEL
    }

    /// Whether a link of this index and name is the manager's.
    pub(crate) fn is_link(&self, index: u32, name: Option<&str>) -> bool {
        match &self.link {
            LinkRef::Name(ours) => name == Some(ours),
            LinkRef::Index(ours) => index == ours.get(),
        }
    }

    pub(crate) fn how_bound(&self) -> Binding {
        self.binding
    }

    /// The limits of a call that begins now.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            stall: self.stall,
            deadline: self
                .total
                .and_then(|total| Instant::now().checked_add(total)),
        }
    }

    /// A socket in the namespace of the VIPs.
    fn open_socket(&self) -> Result<Socket, Error> {
        let open = || Socket::open(self.receive_buffer, self.strictness);
        let socket = match &self.netns {
            Some(netns) => netns.run(open)?,
            None => open(),
        };
        socket.map_err(|error| Error::io("cannot open a netlink socket", &error))
    }
}

/// Holds VIPs of one link in their single-route state.
///
/// Every call is synchronous, takes one VIP or a hundred thousand alike, verifies in the kernel
/// what it did, and sends nothing that writes for a VIP that is as wanted.
///
/// Its sockets stay in the network namespace in which [`Builder::open`] opened them, the calling
/// thread's or that of [`Builder::netns`], whichever thread uses them later. Writing needs `CAP_NET_ADMIN` in the user namespace that owns it.
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
    assert::<Keeper>();
    assert::<Watcher>();
    assert::<Builder>();
    assert::<Netns>();
    assert::<Plan>();
    assert::<Report>();
    assert::<Error>();
};

/// Without the buffers, which may hold what concerns a hundred thousand VIPs.
impl fmt::Debug for VipManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VipManager")
            .field("config", &self.config)
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

impl VipManager {
    /// Begins the configuration of a manager for the link with this name, or with this
    /// [`LinkIndex`](crate::LinkIndex).
    ///
    /// A link by name is followed when it comes and goes: every call takes the one that bears the
    /// name then. A link by index is followed through renames, and
    /// [not found](ErrorKind::LinkNotFound) once it is deleted, even if it is created again.
    pub fn builder(link: impl Into<LinkRef>) -> Builder {
        Builder {
            link: link.into(),
            netns: None,
            sources: Vec::new(),
            kernel_source: [false; 2],
            protocol: Protocol::KERNEL,
            allowed: Vec::new(),
            create: None,
            bring_up: false,
            binding: Binding::default(),
            address_protocol: None,
            avoidance: None,
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
        self.take(vips, Goal::Assign);
        self.run(Scope::Given(Goal::Assign))
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
        self.run(Scope::Link)
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
        self.take(vips, Goal::Normalize);
        self.run(Scope::Given(Goal::Normalize))
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
        self.take(vips, Goal::Release);
        self.run(Scope::Given(Goal::Release))
    }

    /// Makes `desired` exactly the VIPs on the link that are claimed: what is missing is assigned,
    /// what is broken repaired, what is claimed and not desired released, a route that has lost
    /// its address included. What is right, and what is not claimed, stays untouched.
    ///
    /// # Errors
    ///
    /// As for [`assign`](Self::assign); and before anything is written [`ErrorKind::EmptySet`] if
    /// no admissible VIP is desired, [`ErrorKind::TooManyReleases`] if the claim's bound would be
    /// passed, [`ErrorKind::InvalidConfig`] if the claim goes by a mark that the manager has not.
    pub fn reconcile<I>(&mut self, claim: &Claim, desired: I) -> Result<Report, Error>
    where
        I: IntoIterator,
        I::Item: Into<Vip>,
    {
        self.take(desired, Goal::Assign);
        self.run(Scope::Claimed(claim))
    }

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
        let mut groundwork = Groundwork::default();
        let call = self.prepare(Scope::Claimed(claim), Mode::Preview(&mut groundwork))?;
        Ok(preview(call, &groundwork))
    }

    /// Releases every claimed VIP on the link: the only wipe.
    ///
    /// # Errors
    ///
    /// As for [`reconcile`](Self::reconcile).
    pub fn release_all(&mut self, claim: &Claim) -> Result<Report, Error> {
        self.buffers.clear();
        self.run(Scope::Wipe(claim))
    }

    /// Looks at every VIP on the link and says how each differs from its single-route state. Writes
    /// nothing and needs no privilege.
    ///
    /// The dumps are filtered by the kernel, so the cost goes with the link's addresses and routes,
    /// not with the node's. They do not show what other devices hold, nor, unless an
    /// address may have made a prefix route, further routes in table main: see
    /// [`audit_deep`](Self::audit_deep). A VIP whose family has no source, and does not
    /// [keep the kernel's](Builder::kernel_source), shows as
    /// [`Drift::WRONG_SOURCE`](crate::Drift::WRONG_SOURCE) or
    /// [`Drift::MISSING_ROUTE`](crate::Drift::MISSING_ROUTE).
    ///
    /// While other hands change the tables, the kernel's dumps may leave entries out. They are
    /// repeated, a limited number of times, and VIPs that are found are then looked up one by one.
    /// So what is said of a VIP is right, but under changes without a pause one that only a route
    /// tells of may, rarely, not be found.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LinkNotFound`]; [`ErrorKind::System`] if the kernel cannot be read.
    pub fn audit(&mut self) -> Result<Audit, Error> {
        self.look(Depth::Link)
    }

    /// Like [`audit`](Self::audit), and finds conflicts with other devices and routes through the
    /// link in further tables too. Reads every route of the node: 200,000 of them take about a
    /// hundred milliseconds.
    ///
    /// # Errors
    ///
    /// As for [`audit`](Self::audit).
    pub fn audit_deep(&mut self) -> Result<Audit, Error> {
        self.look(Depth::Node)
    }

    /// Moves every VIP on the link to another source of its family: the node's address has changed.
    /// Each route is replaced in place, so a VIP is local at every instant. A family that
    /// [kept the kernel's source](Builder::kernel_source) has this one from now on.
    ///
    /// # Errors
    ///
    /// As for [`normalize`](Self::normalize). The manager keeps the new source also after an error,
    /// except after [`ErrorKind::InvalidConfig`].
    pub fn set_source(&mut self, source: impl Into<IpAddr>) -> Result<Report, Error> {
        self.replace_source(source.into())?;
        self.normalize()
    }

    /// Binds every VIP on the link in another way. Each is local at every instant.
    ///
    /// Towards [`Binding::Route`], the address 127.86.73.80 is put on the link first where no other
    /// IPv4 address would be left on it, and stays: with the last one the kernel would flush every
    /// IPv4 route through the link.
    ///
    /// # Errors
    ///
    /// As for [`normalize`](Self::normalize). The manager keeps the new binding also after an
    /// error, so that the next call goes on; except after [`ErrorKind::InvalidConfig`], which is for
    /// [`Binding::Route`] where a family [keeps the kernel's source](Builder::kernel_source).
    pub fn set_binding(&mut self, binding: Binding) -> Result<Report, Error> {
        self.config.check_binding(binding)?;
        self.config.binding = binding;
        self.buffers.clear();
        self.run(Scope::Rebind)
    }

    /// Makes a [`Keeper`] of this manager, which holds a desired set until told to stop. Writes
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::System`] if a socket cannot be opened; [`ErrorKind::InvalidConfig`] if the claim
    /// goes by a mark that the manager has not; [`ErrorKind::InvalidNetns`] if the manager was opened
    /// without [`Builder::netns`] in another network namespace than the calling thread's.
    pub fn into_keeper(self, claim: Claim) -> Result<Keeper, Error> {
        check_claim(&claim, &self.config)?;
        let socket = self.open_listener()?;
        Keeper::new(self, claim, socket)
    }

    /// The events of this manager's link, from now on, with the sources that the manager has now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::System`] if a socket cannot be opened, or the link's addresses cannot be read;
    /// [`ErrorKind::InvalidNetns`] if the manager was opened without [`Builder::netns`] in another
    /// network namespace than the calling thread's.
    /// The link need not exist where the manager has its name. Where it has an index, [`ErrorKind::LinkNotFound`] if there is no such
    /// link; the watcher then follows the name that the link has now.
    pub fn watcher(&mut self) -> Result<Watcher, Error> {
        let cannot = |error| Error::io("cannot listen to notifications", &error);
        let socket = self.open_listener()?;
        let port = self.talk.port();
        let name = match &self.config.link {
            LinkRef::Name(name) => name.clone(),
            LinkRef::Index(_) => find_link(&mut self.talk, &self.config, false)?.name,
        };
        let screen = self.config.screen(self.sources);
        let mut watcher = Watcher::new(socket, &name, port, &screen).map_err(cannot)?;
        // Only now, so that no change in between is missed.
        let link = link::find(&mut self.talk, &self.config.link)?.map(|link| link.index);
        watcher.follow(link);
        for family in Family::ALL {
            let Some(link) = link else { break };
            let dumped = self.talk.dump(
                |out, sequence| dump_addresses(out, sequence, family, link),
                |message| {
                    let address = message.address()?.filter(|address| address.link == link);
                    address
                        .iter()
                        .for_each(|address| watcher.begin_with(address));
                    Ok(())
                },
            );
            // If it is gone by now, the notification of that is on its way.
            if let Err(failed) = dumped
                && failed.errno() != Some(libc::ENODEV)
            {
                return Err(failed.into_error("cannot read the link's addresses".into()));
            }
        }
        Ok(watcher)
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

    #[cfg(any(test, fuzzing))]
    pub(crate) fn talk_mut(&mut self) -> &mut Talk {
        &mut self.talk
    }

    /// A further socket in the manager's namespace, which the calling thread may have left, or never
    /// have been in.
    fn open_listener(&self) -> Result<Socket, Error> {
        let socket = self.config.open_socket()?;
        if socket.is_elsewhere(self.talk.listener()) {
            return Err(Error::new(
                ErrorKind::InvalidNetns,
                "the calling thread is in another network namespace than the manager: call from \
                 that one, or open the manager with Builder::netns",
            ));
        }
        Ok(socket)
    }

    /// Fills the rows with the VIPs of a call.
    fn take<I>(&mut self, vips: I, goal: Goal)
    where
        I: IntoIterator,
        I::Item: Into<Vip>,
    {
        self.buffers.clear();
        for vip in vips {
            self.buffers.rows.push(vip.into(), goal);
        }
    }

    /// The one plain function behind every call that writes.
    fn run(&mut self, scope: Scope<'_>) -> Result<Report, Error> {
        self.prepare(scope, Mode::Act)?.run()
    }

    /// Mends a few VIPs, of which notifications told what `hints` say: those desired are assigned,
    /// the others released where they are claimed. Does not read the rest of the link.
    pub(crate) fn mend(
        &mut self,
        claim: &Claim,
        vips: impl Iterator<Item = (Vip, bool)>,
        hints: Vec<(Vip, Hint)>,
    ) -> Result<Report, Error> {
        self.buffers.clear();
        for (vip, desired) in vips {
            let goal = if desired { Goal::Assign } else { Goal::Release };
            self.buffers.rows.push(vip, goal);
        }
        self.prepare(Scope::Few(claim), Mode::Mend(hints))?.run()
    }

    /// The VIPs of the last call that something was written for.
    pub(crate) fn written(&self) -> impl Iterator<Item = Vip> {
        let rows = self.buffers.rows.iter();
        rows.filter(|row| row.phase.contains(Phase::WRITTEN))
            .map(|row| row.vip)
    }

    pub(crate) fn config(&self) -> &Builder {
        &self.config
    }

    pub(crate) fn sources(&self) -> &[Option<IpAddr>; 2] {
        &self.sources
    }

    pub(crate) fn cancelled(&self) -> &Cancelled {
        &self.cancelled
    }

    /// The port id of our requests.
    pub(crate) fn port(&self) -> u32 {
        self.talk.port()
    }

    /// Whether this is a VIP, were it on the link.
    pub(crate) fn could_hold(&self, vip: Vip) -> bool {
        let screen = self.config.screen(self.sources);
        screen.is_on_link(vip)
    }

    /// Takes another source of its family.
    pub(crate) fn replace_source(&mut self, source: IpAddr) -> Result<(), Error> {
        check_config_source(source)?;
        let family = Family::of(&source) as usize;
        self.sources[family] = Some(source);
        self.config.kernel_source[family] = false;
        Ok(())
    }

    /// Looks the link up.
    pub(crate) fn find_link(&mut self) -> Result<Option<LinkState>, Error> {
        link::find(&mut self.talk, &self.config.link)
    }

    /// Everything of a call that happens before its first write.
    fn prepare(&mut self, scope: Scope<'_>, mode: Mode<'_>) -> Result<Call<'_>, Error> {
        let screen = self.config.screen(self.sources);
        let Buffers { rows, rejected, .. } = &mut self.buffers;
        rows.settle();
        rows.reject(|row| screen.reject(row), rejected);
        if let Scope::Claimed(claim) | Scope::Wipe(claim) | Scope::Few(claim) = scope {
            check_claim(claim, &self.config)?;
        }
        let assigns = rows.len() > 0;
        if matches!(scope, Scope::Claimed(_)) && !assigns {
            return Err(Error::new(
                ErrorKind::EmptySet,
                "the desired set has no admissible VIP: to take all claimed VIPs off the link, \
                 call release_all",
            ));
        }
        let releases =
            matches!(scope, Scope::Wipe(_)) || matches!(scope, Scope::Given(Goal::Release));
        let rows = &self.buffers.rows;
        let asked = Family::ALL.map(|family| rows.needs_source(family));
        // To assign nothing is a way to make the link.
        let create = matches!(scope, Scope::Given(Goal::Assign))
            || rows.iter().any(|row| row.goal == Goal::Assign);
        let admit = |vip: Vip| {
            let goal = match scope {
                Scope::Given(_) | Scope::Few(_) => return None,
                Scope::Link => Goal::Normalize,
                Scope::Rebind => Goal::Assign,
                Scope::Claimed(_) | Scope::Wipe(_) => Goal::Release,
            };
            screen.is_on_link(vip).then_some(goal)
        };
        let mut labels = None;
        let (link, few) = match mode {
            Mode::Preview(groundwork) => {
                let link = survey(&mut self.talk, &self.config, groundwork)?;
                check_sources(&mut self.talk, &self.sources, asked)?;
                labels = Some(&mut groundwork.labels);
                (link, None)
            }
            Mode::Act | Mode::Mend(_) => {
                let found = match find_link(&mut self.talk, &self.config, false) {
                    Err(error)
                        if error.kind() == ErrorKind::LinkNotFound
                            && create
                            && self.config.create.is_some() =>
                    {
                        None
                    }
                    found => Some(found?),
                };
                // Before the first change, to which the link's creation belongs.
                check_sources(&mut self.talk, &self.sources, asked)?;
                let mut link = match found {
                    Some(link) => link,
                    None => find_link(&mut self.talk, &self.config, true)?,
                };
                if let Scope::Claimed(claim) = scope
                    && !link.up
                {
                    // To bring the link up is a change, too: not before the claim's bound was
                    // checked.
                    let mut call = Call::new(
                        &self.config,
                        &self.sources,
                        &mut self.talk,
                        &mut self.buffers,
                        &self.cancelled,
                        link.index,
                    );
                    call.look(Some(&admit))?;
                    keep_claimed(&mut call.buffers.rows, claim)?;
                }
                check_ipv6(&link, asked)?;
                if !releases {
                    link = make_ready(&mut self.talk, &self.config, link)?;
                }
                match mode {
                    Mode::Mend(hints) => (link, Some(hints)),
                    _ => (link, None),
                }
            }
        };
        let mut call = Call::new(
            &self.config,
            &self.sources,
            &mut self.talk,
            &mut self.buffers,
            &self.cancelled,
            link.index,
        );
        call.few = few;
        let given = matches!(scope, Scope::Given(_) | Scope::Few(_));
        call.look((!given).then_some(&admit))?;
        let Buffers { rows, rejected, .. } = &mut *call.buffers;
        match scope {
            Scope::Given(_) => {}
            Scope::Link | Scope::Rebind => {
                // What went away while it was looked for is not on the link.
                rows.retain(|row| row.facts.on_link());
                rows.reject(|row| screen.reject(row), rejected);
            }
            Scope::Claimed(claim) | Scope::Wipe(claim) => keep_claimed(rows, claim)?,
            Scope::Few(claim) => {
                // As a discovery would find it: a route in table main alone makes no VIP.
                let shows = Facts::ADDRESS | Facts::OURS | Facts::SLOT;
                rows.retain(|row| row.goal != Goal::Release || row.facts.intersects(shows));
                keep_claimed(rows, claim)?;
            }
        }
        let found = Family::ALL.map(|family| call.buffers.rows.needs_source(family));
        if found != asked {
            check_ipv6(&link, found)?;
            check_sources(call.talk, &self.sources, found)?;
        }
        if self.config.avoidance == Some(SourceAvoidance::AddressLabel)
            && self.config.binding == Binding::Address
        {
            let rows = call.buffers.rows.iter().filter(|row| {
                row.goal == Goal::Assign || row.goal == Goal::Normalize && row.facts.on_link()
            });
            let vips = rows.map(|row| row.vip);
            match labels {
                Some(labels) => {
                    *labels = source::preview(call.talk, link.index, &link.name, vips)?;
                }
                None => {
                    call.report.writes += source::label(call.talk, link.index, &link.name, vips)?;
                }
            }
        }
        Ok(call)
    }

    /// Observes the link's VIPs, and nothing else.
    fn look(&mut self, depth: Depth) -> Result<Audit, Error> {
        self.buffers.clear();
        let screen = self.config.screen(self.sources);
        let link = find_link(&mut self.talk, &self.config, false)?;
        let mut call = Call::new(
            &self.config,
            &self.sources,
            &mut self.talk,
            &mut self.buffers,
            &self.cancelled,
            link.index,
        );
        call.only_looks = true;
        call.look(Some(&|vip| screen.is_on_link(vip).then_some(Goal::Look)))?;
        let elsewhere = match depth {
            Depth::Link => Vec::new(),
            Depth::Node => call.look_deep()?,
        };
        let policies = Family::ALL.map(|family| call.policy(family, Goal::Look));
        let rows = self.buffers.rows.iter();
        // What went away while it was looked for is not on the link.
        let vips = rows.filter(|row| row.facts.on_link()).map(|row| {
            let mut drift = row.facts.drift(policies[row.vip.family() as usize]);
            drift.set(
                Drift::OTHER_TABLE,
                elsewhere.binary_search(&row.vip).is_ok(),
            );
            Audited {
                vip: row.vip,
                drift,
            }
        });
        Ok(Audit {
            vips: vips.collect(),
        })
    }
}

/// Whose VIPs a call is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope<'a> {
    /// The caller named them.
    Given(Goal),
    /// All that are on the link, as they are bound.
    Link,
    /// All that are on the link, to be bound anew.
    Rebind,
    /// Those named, and those on the link that are claimed.
    Claimed(&'a Claim),
    /// Those on the link that are claimed.
    Wipe(&'a Claim),
    /// Those named; of those to be released, the claimed ones.
    Few(&'a Claim),
}

/// In what way a call is prepared.
enum Mode<'a> {
    /// To be run, with the whole link looked at.
    Act,
    /// To be run, with only its rows looked at; notifications told this of them.
    Mend(Vec<(Vip, Hint)>),
    /// Not to be run: what would be done to the link is noted here, and not done.
    Preview(&'a mut Groundwork),
}

/// How far an audit looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Link,
    Node,
}

/// Which addresses are VIPs of this manager.
pub(crate) struct Screen<'a> {
    pub(crate) sources: [Option<IpAddr>; 2],
    pub(crate) kernel_source: [bool; 2],
    pub(crate) allowed: &'a [IpNet],
}

impl Screen<'_> {
    fn reject(&self, row: &Row) -> Option<Reject> {
        self.reject_vip(row.vip).or_else(|| {
            // To release a VIP, or to look at it, takes no source.
            let family = row.vip.family() as usize;
            let forgotten = self.sources[family].is_none() && !self.kernel_source[family];
            (forgotten && row.goal.is_threatened()).then_some(Reject::NoSource)
        })
    }

    fn reject_vip(&self, vip: Vip) -> Option<Reject> {
        if let Some(why) = vip.inadmissible() {
            Some(why)
        } else if self.sources.contains(&Some(vip.addr())) {
            Some(Reject::IsSource)
        } else if !self.allows(vip) {
            Some(Reject::OutsideAllowed)
        } else {
            None
        }
    }

    fn allows(&self, vip: Vip) -> bool {
        self.allowed.is_empty() || self.allowed.iter().any(|range| range.contains(&vip.addr()))
    }

    /// Whether an address found on the link is a VIP. One without a source is, and will be
    /// rejected where it needs one: a forgotten source is an error, not a silence.
    pub(crate) fn is_on_link(&self, vip: Vip) -> bool {
        self.reject_vip(vip).is_none()
    }
}

/// A claim by mark needs a mark.
fn check_claim(claim: &Claim, config: &Builder) -> Result<(), Error> {
    // The kernel's own routes bear none.
    let marks_routes = config.protocol != Protocol::KERNEL && config.kernel_source == [false; 2];
    let marks_addresses = config.address_protocol.is_some() && config.binding == Binding::Address;
    if claim.needs_mark() && !marks_routes && !marks_addresses {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            "a claim by mark needs a mark: a protocol other than kernel where no family keeps the \
             kernel's route, or an address protocol where VIPs are bound by their addresses",
        ));
    }
    Ok(())
}

/// Of the VIPs on the link that are not desired, only the claimed ones are of the call.
fn keep_claimed(rows: &mut Rows, claim: &Claim) -> Result<(), Error> {
    rows.retain(|row| {
        let claimed = || claim.covers(row.vip, row.facts.contains(Facts::MARKED));
        // What went away while it was looked for is not on the link.
        row.goal != Goal::Release || row.facts.on_link() && claimed()
    });
    let releases = rows.iter().filter(|row| row.goal == Goal::Release).count();
    if releases > claim.bound() {
        return Err(Error::new(
            ErrorKind::TooManyReleases,
            format!(
                "the release of {releases} would pass the bound of the claim, {} at once: raise it if \
                 that is meant",
                claim.bound()
            ),
        ));
    }
    Ok(())
}

/// Finds the link, or creates it where the caller allowed that.
fn find_link(talk: &mut Talk, config: &Builder, create: bool) -> Result<LinkState, Error> {
    let which = &config.link;
    let mut link = link::find(talk, which)?;
    if link.is_none()
        && create
        && let Some(kind) = config.create
        && let LinkRef::Name(name) = which
    {
        link::create(talk, name, kind)?;
        link = link::find(talk, which)?;
    }
    let Some(link) = link else {
        let what_to_do = match which {
            LinkRef::Name(_) => "create it, or let Builder::create_link",
            LinkRef::Index(_) => "give its name to find it again under another index",
        };
        return Err(Error::new(
            ErrorKind::LinkNotFound,
            format!("there is no link {which}: {what_to_do}"),
        ));
    };
    let name = &link.name;
    if link.loopback && config.allowed.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            format!(
                "{name} is a loopback link, where the node's own addresses look like VIPs: name \
                 the VIPs' ranges with Builder::allow"
            ),
        ));
    }
    Ok(link)
}

/// Finds the link as it is, and notes what is to be done to it.
fn survey(
    talk: &mut Talk,
    config: &Builder,
    groundwork: &mut Groundwork,
) -> Result<LinkState, Error> {
    let link = match find_link(talk, config, false) {
        Err(error) if error.kind() == ErrorKind::LinkNotFound && config.create.is_some() => {
            groundwork.create = config.create;
            LinkState {
                index: link::NONE,
                name: config.link.to_string(),
                made_as: None,
                up: false,
                loopback: false,
                in_vrf: false,
                ipv6_disabled: false,
            }
        }
        found => found?,
    };
    check_ready(config, &link)?;
    groundwork.bring_up = !link.up;
    groundwork.name.clone_from(&link.name);
    Ok(link)
}

/// Refuses a link that cannot hold VIPs; brings it up where the caller allowed that.
fn make_ready(talk: &mut Talk, config: &Builder, mut link: LinkState) -> Result<LinkState, Error> {
    check_ready(config, &link)?;
    if !link.up {
        if config.create.is_some() && config.create == link.made_as {
            link::no_generated_address(talk, &link)?;
        }
        link::bring_up(talk, &link)?;
        link.up = true;
    }
    Ok(link)
}

/// Refuses a link that cannot hold VIPs, or is down and must stay so.
fn check_ready(config: &Builder, link: &LinkState) -> Result<(), Error> {
    let name = &link.name;
    if link.in_vrf {
        return Err(Error::new(
            ErrorKind::LinkInVrf,
            format!(
                "link {name} is enslaved to a VRF, which does not use table local: take another"
            ),
        ));
    }
    // A call that created the link may have been killed before it brought it up.
    if !link.up && !config.bring_up && config.create.is_none() {
        return Err(Error::new(
            ErrorKind::LinkDown,
            format!("link {name} is down: bring it up, or let Builder::bring_up"),
        ));
    }
    Ok(())
}

/// Refuses a source that no node can have.
fn check_config_source(source: IpAddr) -> Result<(), Error> {
    match Vip::from(source).inadmissible() {
        Some(why) => Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("{source} cannot be a source: {why}"),
        )),
        None => Ok(()),
    }
}

/// IPv6 must not be off on the link where VIPs of it are to be put or kept there.
fn check_ipv6(link: &LinkState, families: [bool; 2]) -> Result<(), Error> {
    let name = &link.name;
    if link.ipv6_disabled && families[Family::V6 as usize] {
        return Err(Error::new(
            ErrorKind::Ipv6Disabled,
            format!("IPv6 is disabled on link {name}: set net.ipv6.conf.{name}.disable_ipv6=0"),
        ));
    }
    Ok(())
}

/// The sources of these families must be on the node.
fn check_sources(
    talk: &mut Talk,
    sources: &[Option<IpAddr>; 2],
    families: [bool; 2],
) -> Result<(), Error> {
    for (source, needed) in sources.iter().zip(families) {
        if let Some(source) = source.filter(|_| needed) {
            link::check_source(talk, &source)?;
        }
    }
    Ok(())
}
