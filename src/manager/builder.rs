//! The configuration of a manager.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::VipManager;
use crate::base::{DesiredRoute, Family, PerFamily, Protocol, Vip};
use crate::core::{Binding, Goal, Policy, Ranges, VipFilter};
use crate::engine::{Buffers, Limits, Setup};
use crate::link::label::SourceAvoidance;
use crate::link::{self, LinkKind, LinkRef};
use crate::netlink::connection::Connection;
use crate::netlink::decode::Link;
use crate::outcome::Cancelled;
use crate::outcome::Netns;
use crate::outcome::{Error, ErrorKind};
use crate::sys::{Socket, Strictness};

/// The protocol of our route while it must not pass for the wanted one. One that is a mark stays:
/// a call may end just then, and the VIP is still claimed.
const fn staged(desired: Protocol) -> u8 {
    match desired {
        Protocol::KERNEL => 251,
        mark => mark.get(),
    }
}

/// What the kernel takes for no label (`IPV6_ADDR_LABEL_DEFAULT`, net/ipv6/addrlabel.c).
const NO_LABEL: u32 = u32::MAX;

/// Asks for a receive buffer that holds the replies of a full batch with room to spare; the kernel
/// grants what `net.core.rmem_max` allows.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Configures a [`VipManager`].
///
/// A link is all that it takes to look and to [`release`](VipManager::release). To put VIPs of a
/// family on the link it takes that family's [`source`](Self::source), or
/// [`kernel_source`](Self::kernel_source). A service proxy that owns its link and shares the node
/// with nobody of its kind needs these and [`create_link`](Self::create_link); everything else has
/// a default that suits it.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `open`"]
pub struct VipManagerBuilder {
    pub(crate) link: LinkRef,
    pub(super) netns: Option<Arc<Netns>>,
    pub(super) sources: Vec<IpAddr>,
    /// Which families keep the kernel's own route.
    pub(super) kernel_source: PerFamily<bool>,
    pub(super) protocol: Protocol,
    pub(super) ranges: Ranges,
    pub(super) create: Option<LinkKind>,
    pub(super) bring_up: bool,
    pub(super) binding: Binding,
    pub(crate) address_protocol: Option<Protocol>,
    pub(super) avoidance: Option<SourceAvoidance>,
    pub(crate) label: u32,
    pub(super) stall: Duration,
    pub(super) total: Option<Duration>,
    pub(super) receive_buffer: usize,
    pub(super) strictness: Strictness,
}

impl VipManagerBuilder {
    /// The defaults, for this link.
    pub(super) fn new(link: LinkRef) -> Self {
        Self {
            link,
            netns: None,
            sources: Vec::new(),
            kernel_source: PerFamily::splat(false),
            protocol: Protocol::KERNEL,
            ranges: Ranges::default(),
            create: None,
            bring_up: false,
            binding: Binding::default(),
            address_protocol: None,
            avoidance: None,
            label: SourceAvoidance::LABEL,
            stall: Duration::from_secs(5),
            total: None,
            receive_buffer: RECEIVE_BUFFER,
            strictness: Strictness::Preferred,
        }
    }

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
    /// ([`RejectReason::NoSource`](crate::RejectReason::NoSource)): to forget the source is an error.
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
        self.kernel_source[family] = true;
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

    /// Like [`avoid_as_source`](Self::avoid_as_source) by
    /// [`SourceAvoidance::AddressLabel`], with this label instead of [`SourceAvoidance::LABEL`]: for
    /// nodes where that is another program's. No destination may have it (`ip addrlabel`).
    pub fn address_label(mut self, label: u32) -> Self {
        self.label = label;
        self.avoid_as_source(SourceAvoidance::AddressLabel)
    }

    /// Admits only VIPs in this range. May be repeated: an address is admitted if any range
    /// contains it. Without any range, every admissible address is a VIP. On a loopback link at
    /// least one is required, because its own addresses look like VIPs.
    ///
    /// A range within 169.254.0.0/16 admits link-local IPv4 addresses, like those of Kubernetes'
    /// node-local-dns; a wider range admits none of them.
    pub fn allow(mut self, range: impl Into<IpNet>) -> Self {
        self.ranges.allowed.push(range.into());
        self
    }

    /// Admits no VIP in this range, whatever else allows it. May be repeated. No call touches an
    /// address in it: a VIP of the range that is on the link already stays there.
    ///
    /// For addresses of other hosts that somebody may ask for as VIPs: a node that holds another
    /// node's address as a VIP cannot reach that node any more, as it happened to Kubernetes nodes
    /// by external IPs of Services.
    ///
    /// ```no_run
    /// use ipnet::IpNet;
    /// use viproute::VipManager;
    ///
    /// let nodes: IpNet = "192.0.2.0/24".parse()?;
    /// let mut vips = VipManager::builder("kube-dummy-if")
    ///     .source([192, 0, 2, 10])
    ///     .deny(nodes)
    ///     .open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn deny(mut self, range: impl Into<IpNet>) -> Self {
        self.ranges.denied.push(range.into());
        self
    }

    /// Lets a call that assigns VIPs and finds no link create it ([`assign`](VipManager::assign),
    /// [`reconcile`](VipManager::reconcile), a [`Keeper`](crate::Keeper)), without ARP and without
    /// an IPv6 address of its own (`addrgenmode none`), and implies [`bring_up`](Self::bring_up).
    /// The link is down until its settings stand; one of this kind that is there, down and without
    /// ARP may be what a killed call has left of it, and gets what is missing. Takes a link by name.
    pub fn create_link(mut self, kind: LinkKind) -> Self {
        self.create = Some(kind);
        self
    }

    /// Lets a call that finds the link down bring it up. Without this IPv6 VIPs fail
    /// ([`Cause::Missing`](crate::Cause::Missing) with [`ErrorKind::LinkDown`]); IPv4 ones are served,
    /// whose routes work all the same. Some links are down by design, like kube-proxy's `kube-ipvs0`.
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

    /// How long a call may take altogether; VIPs that are not done by then fail as
    /// [`Cause::NotReached`](crate::Cause::NotReached) or
    /// [`Cause::Pending`](crate::Cause::Pending). Default: as long as the kernel makes progress.
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
    /// exist. A link by index is the one that has this index now: where there is none, no later call
    /// finds it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] for a name that no link can have, for the address label
    /// 0xffffffff, which the kernel has for "none", for
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
        if self.label == NO_LABEL {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("{NO_LABEL} is no address label: give a lower one"),
            ));
        }
        let mut sources = PerFamily::splat(None);
        for source in &self.sources {
            check_config_source(*source)?;
            let place = &mut sources[Family::of(source)];
            if place.is_some_and(|other| other != *source) {
                return Err(Error::new(
                    ErrorKind::InvalidConfig,
                    format!("more than one {} source: give one", Family::of(source)),
                ));
            }
            *place = Some(*source);
        }
        for family in Family::ALL {
            if self.kernel_source[family] && sources[family].is_some() {
                return Err(Error::new(
                    ErrorKind::InvalidConfig,
                    format!("{family} has a source and shall keep the kernel's: take one of them"),
                ));
            }
        }
        self.check_binding(self.binding)?;
        let cannot = |error| Error::io("cannot open a netlink socket", &error);
        let mut connection = Connection::open(|| self.open_socket())?;
        if let LinkRef::Index(index) = &self.link {
            // Which link it is, is decided now: a later one of this index is another.
            link::hold(&mut connection, index.get())?;
            link::find(&mut connection, &self.link)?;
        }
        Ok(VipManager {
            connection,
            cancelled: Cancelled::new().map_err(cannot)?,
            buffers: Buffers::default(),
            sources,
            config: self,
        })
    }
}

impl VipManagerBuilder {
    /// The wanted route of each family through the link of this index.
    pub(crate) fn desired(
        &self,
        sources: &PerFamily<Option<IpAddr>>,
        link: u32,
    ) -> PerFamily<DesiredRoute> {
        PerFamily::from_fn(|family| DesiredRoute {
            family,
            link,
            source: sources[family],
            kernel_source: self.kernel_source[family],
            protocol: self.protocol.get(),
            staged: staged(self.protocol),
            address_protocol: self.address_protocol.map(Protocol::get),
            deprecated: self.avoidance == Some(SourceAvoidance::Deprecated),
        })
    }

    /// What all of this means for a call on a link.
    pub(crate) fn setup(&self, sources: &PerFamily<Option<IpAddr>>, link: u32) -> Setup {
        let desired = self.desired(sources, link);
        let policies = PerFamily::from_fn(|family| Policy {
            goal: Goal::Look,
            as_kernel: self.protocol == Protocol::KERNEL,
            binding: self.binding,
            kernel_source: desired[family].kernel_source,
        });
        Setup {
            link,
            desired,
            policies,
            binding: self.binding,
            limits: self.limits(),
        }
    }

    /// Refuses a binding without the addresses that the kernel makes its routes for.
    pub(super) fn check_binding(&self, binding: Binding) -> Result<(), Error> {
        if binding == Binding::Route && self.kernel_source.any() {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "the kernel makes its route for an address, which a VIP bound by its route has not: \
                 give a source, or bind by addresses",
            ));
        }
        Ok(())
    }

    /// Which addresses are VIPs.
    pub(crate) fn filter(&self, sources: PerFamily<Option<IpAddr>>) -> VipFilter<'_> {
        VipFilter {
            sources,
            kernel_source: self.kernel_source,
            ranges: &self.ranges,
        }
    }

    /// The address label that IPv6 VIPs are to have, if any.
    pub(super) fn labels(&self) -> Option<u32> {
        let labels = self.avoidance == Some(SourceAvoidance::AddressLabel)
            && self.binding == Binding::Address;
        labels.then_some(self.label)
    }

    /// Whether this link is the manager's.
    pub(crate) fn is_link(&self, link: &Link<'_>) -> bool {
        match &self.link {
            LinkRef::Name(ours) => link.is_called(ours),
            LinkRef::Index(ours) => link.index == ours.get(),
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
    pub(super) fn open_socket(&self) -> Result<Socket, Error> {
        let open = || Socket::open(self.receive_buffer, self.strictness);
        let socket = match &self.netns {
            Some(netns) => netns.run(open)?,
            None => open(),
        };
        socket.map_err(|error| Error::io("cannot open a netlink socket", &error))
    }
}

/// Refuses a source that no node can have.
pub(super) fn check_config_source(source: IpAddr) -> Result<(), Error> {
    match Vip::from(source).inadmissible() {
        Some(why) => Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("{source} cannot be a source: {why}"),
        )),
        None => Ok(()),
    }
}
