//! The configuration of a manager.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::VipManager;
use crate::base::{DesiredRoute, Family, PerFamily, Protocol, SourcePolicy, Vip};
use crate::core::{Binding, Goal, Policy, Ranges, VipFilter};
use crate::engine::{Buffers, Limits, Setup};
use crate::link::label::SourceAvoidance;
use crate::link::{self, LinkKind, LinkRef};
use crate::netlink::connection::Connection;
use crate::netlink::decode::Link;
use crate::outcome::Cancelled;
use crate::outcome::Error;
use crate::outcome::Netns;
use crate::sys::{Socket, Strictness};

/// The protocol of a staged route. A route of protocol kernel is staged with another protocol. A mark stays,
/// and the staged route then has a lifetime: if the call ends early, the VIP is still claimed.
const fn staged(desired: Protocol) -> u8 {
    match desired {
        Protocol::KERNEL => 251,
        mark => mark.get(),
    }
}

/// The kernel's value for no label (`IPV6_ADDR_LABEL_DEFAULT`, net/ipv6/addrlabel.c).
const NO_LABEL: u32 = u32::MAX;

/// The default receive buffer, in bytes: more than the replies of a full batch need. The kernel may
/// grant less.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Configures a [`VipManager`].
///
/// A link suffices to audit and to [`release`](VipManager::release). To assign VIPs of a family, the
/// manager also needs the family's [`source`](Self::source) or [`kernel_source`](Self::kernel_source).
/// A service proxy that owns its link usually adds [`create_link`](Self::create_link). Every other
/// setting has a default.
///
/// ```
/// use viproute::{LinkKind, Protocol, VipManager};
///
/// let vips = VipManager::builder("kube-dummy-if")
///     .source([192, 0, 2, 10])
///     .create_link(LinkKind::Dummy)
///     .protocol(Protocol::try_from(201)?)
///     .open()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `open`"]
pub struct VipManagerBuilder {
    pub(crate) link: LinkRef,
    pub(super) netns: Option<Arc<Netns>>,
    pub(super) sources: Vec<IpAddr>,
    /// The families that keep the kernel's own route.
    pub(super) kernel_source: PerFamily<bool>,
    pub(super) protocol: Protocol,
    pub(super) ranges: Ranges,
    pub(super) create: Option<LinkKind>,
    pub(super) bring_up: bool,
    pub(crate) binding: Binding,
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
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// use viproute::Netns;
    ///
    /// let namespace = _sandbox.netns().try_clone_to_owned()?;
    /// let mut vips = VipManager::builder("vips")
    ///     .netns(Netns::try_from(namespace)?)
    ///     .source([192, 0, 2, 10])
    ///     .create_link(LinkKind::Bridge)
    ///     .open()?;
    /// assert_eq!(vips.assign([Ipv4Addr::new(10, 96, 0, 10)])?.assigned, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn netns(mut self, netns: Netns) -> Self {
        self.netns = Some(Arc::new(netns));
        self
    }

    /// Sets the source of a family: the node's own address, and the preferred source of the VIPs'
    /// routes. Traffic from the node to a VIP has this source address. Each family with VIPs needs one
    /// source, or [`kernel_source`](Self::kernel_source).
    ///
    /// ```
    /// # use viproute::VipManager;
    /// let vips = VipManager::builder("kube-dummy-if")
    ///     .source([192, 0, 2, 10])
    ///     .source("2001:db8::10".parse::<std::net::IpAddr>()?)
    ///     .open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn source(mut self, source: impl Into<IpAddr>) -> Self {
        self.sources.push(source.into());
        self
    }

    /// Keeps, for the VIPs of this family, the local route that the kernel makes for their addresses.
    /// Traffic from the node to a VIP then has the VIP itself as its source address. In the
    /// single-route state the kernel's route is the only one: every other route to the VIP through the
    /// link is deleted.
    ///
    /// Without a source and without this setting, VIPs of the family are rejected
    /// ([`RejectReason::NoSource`](crate::RejectReason::NoSource)).
    ///
    /// If an IPv6 VIP has lost the kernel's route, the manager deletes the address and adds it again:
    /// only then does the kernel make the route.
    ///
    /// ```
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

    /// Sets the protocol of the VIPs' routes. Default: [`Protocol::KERNEL`].
    ///
    /// Another protocol marks the routes. But systemd-networkd removes foreign routes whose protocol is
    /// not `kernel`, unless it is configured with `ManageForeignRoutes=no`.
    ///
    /// ```
    /// # use viproute::{Claim, VipManager};
    /// use viproute::Protocol;
    ///
    /// // The routes bear this mark, and the claim is of the VIPs with the mark.
    /// let vips = VipManager::builder("kube-dummy-if")
    ///     .source([192, 0, 2, 10])
    ///     .protocol(Protocol::try_from(201)?)
    ///     .open()?;
    /// let claim = Claim::mark();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Sets how the VIPs are bound to the link. Default: [`Binding::Address`].
    ///
    /// ```
    /// # use viproute::VipManager;
    /// use viproute::Binding;
    ///
    /// let vips = VipManager::builder("kube-dummy-if")
    ///     .source([192, 0, 2, 10])
    ///     .binding(Binding::Route)
    ///     .open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn binding(mut self, binding: Binding) -> Self {
        self.binding = binding;
        self
    }

    /// Marks the addresses that the manager adds with this protocol, so that
    /// [`Claim::mark`](crate::Claim::mark) claims them. Needs Linux 5.18 (`IFA_PROTO`); older kernels
    /// ignore the mark.
    ///
    /// ```
    /// # use viproute::VipManager;
    /// use viproute::Protocol;
    ///
    /// let vips = VipManager::builder("kube-dummy-if")
    ///     .source([192, 0, 2, 10])
    ///     .address_protocol(Protocol::try_from(201)?)
    ///     .open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn address_protocol(mut self, protocol: Protocol) -> Self {
        self.address_protocol = Some(protocol);
        self
    }

    /// Keeps the kernel from choosing an IPv6 VIP as the source of traffic to other destinations. By
    /// default the kernel may choose a VIP if the outgoing link has no address of its own (RFC 6724,
    /// section 5).
    ///
    /// IPv4 does not need this, because the manager adds VIPs with scope link. An IPv4 address that
    /// another program added with scope global keeps its scope and may be chosen. [`Binding::Route`]
    /// does not need this either: its VIPs are no addresses.
    ///
    /// ```
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

    /// As [`avoid_as_source`](Self::avoid_as_source) with [`SourceAvoidance::AddressLabel`], with this
    /// label instead of [`SourceAvoidance::LABEL`], which another program may use. No destination may
    /// have the label (`ip addrlabel`).
    ///
    /// ```
    /// # use viproute::VipManager;
    /// let vips = VipManager::builder("kube-dummy-if")
    ///     .source("2001:db8::10".parse::<std::net::IpAddr>()?)
    ///     .address_label(4711)
    ///     .open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn address_label(mut self, label: u32) -> Self {
        self.label = label;
        self.avoid_as_source(SourceAvoidance::AddressLabel)
    }

    /// Admits only VIPs in this range. May be repeated: an address is admitted if any range
    /// contains it. Without any range, every admissible address is a VIP. A loopback link needs at least
    /// one range, because its own addresses look like VIPs.
    ///
    /// A range within 169.254.0.0/16 admits link-local IPv4 addresses, as Kubernetes' node-local-dns
    /// needs. A wider range admits no link-local address.
    ///
    /// ```
    /// # use viproute::VipManager;
    /// use ipnet::IpNet;
    /// use viproute::{RejectReason, Vip};
    ///
    /// let services: IpNet = "10.96.0.0/12".parse()?;
    /// let vips = VipManager::builder("lo").source([192, 0, 2, 10]).allow(services).open()?;
    /// assert_eq!(vips.check("10.96.0.10".parse::<Vip>()?), Ok(()));
    /// assert_eq!(vips.check("192.0.2.77".parse::<Vip>()?), Err(RejectReason::OutsideAllowed));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn allow(mut self, range: impl Into<IpNet>) -> Self {
        self.ranges.allowed.push(range.into());
        self
    }

    /// Denies this range, even within an allowed range. May be repeated. No call touches an address in
    /// the range; a VIP of the range on the link stays.
    ///
    /// Deny the addresses of other hosts. A node that holds another node's address as a VIP cannot reach
    /// that node any more. Kubernetes nodes have lost each other this way, through external IPs of
    /// Services.
    ///
    /// ```
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

    /// Lets [`assign`](VipManager::assign), [`reconcile`](VipManager::reconcile) and a
    /// [`Keeper`](crate::Keeper) create a missing link, without ARP and without an IPv6 address of its
    /// own (`addrgenmode none`). Implies [`bring_up`](Self::bring_up), and needs a link by name.
    /// [`LinkKind::Auto`] suits every kernel.
    ///
    /// A call that is given no VIP creates the link, too: `assign(None::<Vip>)`.
    ///
    /// The link is down until it is configured. An existing link of this kind that is down and without
    /// ARP may be left over from a call that was killed, so the call configures it, too.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// # drop(manager);
    /// let mut vips = VipManager::builder("kube-dummy-if")
    ///     .source([192, 0, 2, 10])
    ///     .create_link(LinkKind::Auto)
    ///     .open()?;
    /// // The first assignment creates the link.
    /// assert_eq!(vips.assign([Ipv4Addr::new(10, 96, 0, 10)])?.assigned, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn create_link(mut self, kind: LinkKind) -> Self {
        self.create = Some(kind);
        self
    }

    /// Lets a call bring the link up. Without this setting, IPv6 VIPs fail on a link that is down
    /// ([`Cause::Missing`](crate::Cause::Missing) with [`ErrorKind::LinkDown`](crate::ErrorKind::LinkDown)). IPv4 VIPs are served,
    /// because their routes also work there. Some links are down by design, such as kube-proxy's
    /// `kube-ipvs0`.
    pub fn bring_up(mut self) -> Self {
        self.bring_up = true;
        self
    }

    /// Sets how long a call waits for the kernel without progress. Then the waiting VIPs fail as
    /// [`Cause::Pending`](crate::Cause::Pending). Default: 5 seconds.
    ///
    /// ```
    /// # use viproute::VipManager;
    /// use std::time::Duration;
    ///
    /// // A node agent that must answer within a minute.
    /// let vips = VipManager::builder("kube-dummy-if")
    ///     .source([192, 0, 2, 10])
    ///     .stall_timeout(Duration::from_secs(10))
    ///     .total_timeout(Duration::from_secs(60))
    ///     .open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stall_timeout(mut self, time: Duration) -> Self {
        self.stall = time;
        self
    }

    /// Sets the longest duration of a call. Then the unfinished VIPs fail as
    /// [`Cause::NotReached`](crate::Cause::NotReached) or [`Cause::Pending`](crate::Cause::Pending).
    /// Default: no limit while the kernel makes progress.
    pub fn total_timeout(mut self, time: Duration) -> Self {
        self.total = Some(time);
        self
    }

    /// Sets the receive buffer, in bytes. Default: 1 MiB. Without `CAP_NET_ADMIN` in the initial user
    /// namespace, `net.core.rmem_max` limits it. A smaller buffer makes smaller batches, and never loses
    /// replies.
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = bytes;
        self
    }

    /// Works as on a kernel before 4.20.
    #[cfg(test)]
    pub(crate) fn without_strict_checking(mut self) -> Self {
        self.strictness = Strictness::Off;
        self
    }

    /// Checks the configuration and opens the sockets, in the calling thread's network namespace or in
    /// the namespace of [`netns`](Self::netns). Writes nothing. A link that is given by name need
    /// not exist yet. A link that is given by index must exist: the manager is bound to that link, and never to
    /// a later link with the same index.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// use viproute::{ErrorKind, Vip};
    ///
    /// # let manager = VipManager::builder("vips").source([192, 0, 2, 10]);
    /// let mut vips = manager.open()?;
    /// // The link need not exist until a call needs it.
    /// let error = vips.assign(["10.96.0.10".parse::<Vip>()?]).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::LinkNotFound);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig): an impossible link name; the address label 0xffffffff, which
    ///   means no label in the kernel; [`create_link`](Self::create_link) without a name; two sources of
    ///   one family; an impossible source; [`kernel_source`](Self::kernel_source) with a source of that
    ///   family or with [`Binding::Route`].
    /// - [`ErrorKind::LinkNotFound`](crate::ErrorKind::LinkNotFound): no link has the given index.
    /// - [`ErrorKind::PermissionDenied`](crate::ErrorKind::PermissionDenied): entering the namespace needs `CAP_SYS_ADMIN`.
    /// - [`ErrorKind::System`](crate::ErrorKind::System): a socket cannot be opened.
    pub fn open(self) -> Result<VipManager, Error> {
        match &self.link {
            LinkRef::Name(name) if !link::valid_name(name) => {
                return Err(Error::config(format!(
                    "no link can be named {name:?}: give 1 to 15 bytes without slash, colon \
                         or space"
                )));
            }
            LinkRef::Index(_) if self.create.is_some() => {
                return Err(Error::config(
                    "a link to create needs a name: give that instead of an index",
                ));
            }
            LinkRef::Name(_) | LinkRef::Index(_) => {}
        }
        if self.label == NO_LABEL {
            return Err(Error::config(format!(
                "{NO_LABEL} is no address label: give a lower one"
            )));
        }
        let mut sources = PerFamily::splat(SourcePolicy::Unset);
        for source in &self.sources {
            check_config_source(*source)?;
            let place = &mut sources[Family::of(source)];
            if place.address().is_some_and(|other| other != *source) {
                return Err(Error::config(format!(
                    "more than one {} source: give one",
                    Family::of(source)
                )));
            }
            *place = SourcePolicy::Address(*source);
        }
        for family in Family::ALL.into_iter().filter(|f| self.kernel_source[*f]) {
            if sources[family] != SourcePolicy::Unset {
                return Err(Error::config(format!(
                    "{family} has a source and shall keep the kernel's: take one of them"
                )));
            }
            sources[family] = SourcePolicy::Kernel;
        }
        check_binding(self.binding, &sources)?;
        let cannot = |error| Error::io("cannot open a netlink socket", &error);
        let mut connection = Connection::open(|| self.open_socket())?;
        if let LinkRef::Index(index) = &self.link {
            // Bind the index to its present link: a later link with this index is another link.
            link::hold(&mut connection, index.get())?;
            link::find(&mut connection, &self.link)?;
        }
        Ok(VipManager {
            connection,
            cancelled: Cancelled::new().map_err(cannot)?,
            buffers: Buffers::default(),
            labelled: Vec::new(),
            filter: VipFilter {
                sources,
                ranges: self.ranges.clone(),
            },
            config: self,
        })
    }
}

impl VipManagerBuilder {
    /// The desired route of each family through the link with this index.
    pub(crate) fn desired(
        &self,
        sources: &PerFamily<SourcePolicy>,
        link: u32,
    ) -> PerFamily<DesiredRoute> {
        PerFamily::from_fn(|family| DesiredRoute {
            family,
            link,
            source: sources[family],
            protocol: self.protocol.get(),
            staged: staged(self.protocol),
            address_protocol: self.address_protocol.map(Protocol::get),
            deprecated: self.avoidance == Some(SourceAvoidance::Deprecated),
        })
    }

    /// The configuration of a call on this link.
    pub(crate) fn setup(&self, sources: &PerFamily<SourcePolicy>, link: u32) -> Setup {
        let desired = self.desired(sources, link);
        let policies = PerFamily::from_fn(|family| Policy {
            goal: Goal::Look,
            as_kernel: self.protocol == Protocol::KERNEL,
            binding: self.binding,
            kernel_source: desired[family].source.is_kernel(),
        });
        Setup {
            link,
            desired,
            policies,
            binding: self.binding,
            limits: self.limits(),
        }
    }

    /// The address label of IPv6 VIPs, if any.
    pub(super) fn labels(&self) -> Option<u32> {
        let labels = self.avoidance == Some(SourceAvoidance::AddressLabel)
            && self.binding == Binding::Address;
        labels.then_some(self.label)
    }

    /// Whether this link is the manager's.
    pub(crate) fn is_link(&self, link: &Link<'_>) -> bool {
        match &self.link {
            LinkRef::Name(name) => link.is_called(name),
            LinkRef::Index(index) => link.index == index.get(),
        }
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

/// Refuses [`Binding::Route`] with the kernel's own route: the kernel makes its routes for addresses only.
pub(super) fn check_binding(
    binding: Binding,
    sources: &PerFamily<SourcePolicy>,
) -> Result<(), Error> {
    if binding == Binding::Route && sources.contains(&SourcePolicy::Kernel) {
        return Err(Error::config(
            "the kernel makes its route for an address, which a VIP bound by its route has not: \
             give a source, or bind by addresses",
        ));
    }
    Ok(())
}

/// Refuses an impossible source.
pub(crate) fn check_config_source(source: IpAddr) -> Result<(), Error> {
    match Vip::from(source).inadmissible() {
        Some(why) => Err(Error::config(format!("{source} cannot be a source: {why}"))),
        None => Ok(()),
    }
}
