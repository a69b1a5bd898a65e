//! The public calls of a manager, on top of the engine.

mod audit;
mod builder;
mod prepare;
mod ready;

use std::fmt;
use std::net::IpAddr;

pub use builder::VipManagerBuilder;

use crate::base::{RejectReason, Vip};
use crate::core::{Binding, Done, Goal, Row, VipFilter};
use crate::engine::lookup::Notified;
use crate::engine::{Buffers, decide::PATIENT_AFTER};
use crate::link::LinkRef;
use crate::netlink::connection::Connection;
use crate::netlink::decode::Label;
use crate::outcome::Claim;
use crate::outcome::Report;
use crate::outcome::{Cancelled, Canceller};
use crate::outcome::{Error, ErrorKind};
use crate::sys::Socket;
use crate::trace;
use builder::check_binding;
pub(crate) use builder::check_config_source;
pub(crate) use prepare::{Leaving, Mode, Scope, check_claim, no_admissible_vip};
pub(crate) use ready::find_link;

/// Holds VIPs of one link in their single-route state.
///
/// Every call is synchronous, serves one VIP or a hundred thousand, and verifies its result in the
/// kernel. A call writes nothing for a VIP that is already in its single-route state.
///
/// The manager's sockets stay in the network namespace in which [`VipManagerBuilder::open`] opened them:
/// the calling thread's, or that of [`VipManagerBuilder::netns`]. Writing needs `CAP_NET_ADMIN` in the
/// user namespace that owns the network namespace.
///
/// A manager remembers no VIP between calls. Several managers may therefore serve one link, and a
/// manager may [`audit`](Self::audit) or [`plan`](Self::plan) beside a [`Keeper`](crate::Keeper).
///
/// ```
#[doc = include_str!("../keeper/example.txt")]
/// # let mut vips = manager;
/// let report = vips.assign([Ipv4Addr::new(10, 96, 0, 10)])?;
/// assert_eq!(report.assigned, 1);
/// assert!(vips.audit()?.is_clean());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct VipManager {
    pub(crate) config: VipManagerBuilder,
    pub(crate) filter: VipFilter,
    pub(crate) connection: Connection,
    pub(crate) cancelled: Cancelled,
    pub(crate) buffers: Buffers,
    /// The address labels that the manager added for the link.
    pub(crate) labelled: Vec<Label>,
}

/// Omits the buffers, which may hold a hundred thousand VIPs.
impl fmt::Debug for VipManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VipManager")
            .field("config", &self.config)
            .field("sources", &self.filter.sources)
            .finish_non_exhaustive()
    }
}

impl VipManager {
    /// Configures a manager for the link with this name or [`LinkIndex`](crate::LinkIndex).
    ///
    /// With a name, every call serves the link that has the name at that moment. With an index, every
    /// call serves the link that had the index when the manager was [opened](VipManagerBuilder::open),
    /// under any name. Once that link is deleted or moved to another namespace, every call fails with
    /// [`ErrorKind::LinkNotFound`], even if another link gets the index.
    ///
    /// ```
    /// use viproute::VipManager;
    ///
    /// // A manager without a source audits and releases. The link need not exist yet.
    /// let vips = VipManager::builder("kube-dummy-if").open()?;
    /// # Ok::<(), viproute::Error>(())
    /// ```
    pub fn builder(link: impl Into<LinkRef>) -> VipManagerBuilder {
        VipManagerBuilder::new(link.into())
    }

    /// Puts VIPs on the link, each in its single-route state. Repairs the VIPs in another state, and
    /// makes an expiring address permanent.
    ///
    /// `Ok` means that every VIP was seen in the single-route state after the last write.
    ///
    /// Up to 16 VIPs that are new to the link are observed by look-ups, without reading the rest of the
    /// link. A look-up does not show an IPv4 route with a type of service (`ip route … tos`), nor an
    /// IPv4 address with another prefix length that has no route. [`normalize`](Self::normalize) finds
    /// both.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// # let mut vips = manager;
    /// let set = [Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 96, 0, 11)];
    /// let report = vips.assign(set)?;
    /// assert_eq!((report.assigned, report.unchanged), (2, 0));
    /// // The set is as desired, so the next call writes nothing.
    /// let report = vips.assign(set)?;
    /// assert_eq!((report.unchanged, report.writes), (2, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Incomplete`], with the report, if a VIP failed: every other VIP is done and
    /// verified. For any other kind, see [`ErrorKind`].
    pub fn assign<I: IntoIterator<Item: Into<Vip>>>(&mut self, vips: I) -> Result<Report, Error> {
        self.fill_rows(vips, Goal::Assign);
        let _span = trace::span!("assign", self.config.link, self.buffers.rows.len());
        self.run(Scope::Given(Goal::Assign))
    }

    /// Brings every VIP on the link into its single-route state, whichever program added the VIP.
    ///
    /// The VIPs of a link are its host addresses and the local host routes through the link. Loopback,
    /// link-local and multicast addresses, the sources, and addresses outside the allowed ranges are
    /// no VIPs.
    ///
    /// A route without its address stays, because only the caller knows whether the VIP is desired. The
    /// VIP fails as [`Cause::StaleRoute`](crate::Cause::StaleRoute): [`assign`](Self::assign) or
    /// [`release`](Self::release) it. An address with a finite valid lifetime keeps the lifetime, because
    /// another tool may renew it. The rest of the VIP is repaired, and the VIP fails as
    /// [`Cause::ExpiringAddress`](crate::Cause::ExpiringAddress).
    /// [`assign`](Self::assign) and [`reconcile`](Self::reconcile), which name their VIPs, make the
    /// address permanent.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// use std::process::Command;
    ///
    /// # let mut vips = manager;
    /// vips.assign([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// // Another program adds a VIP, and the kernel chooses the source of its route.
    /// let add = ["addr", "add", "10.96.0.20/32", "dev", "vips"];
    /// assert!(Command::new("ip").args(add).status()?.success());
    /// let report = vips.normalize()?;
    /// assert_eq!((report.repaired, report.unchanged), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`assign`](Self::assign).
    pub fn normalize(&mut self) -> Result<Report, Error> {
        self.buffers.clear();
        let _span = trace::span!("normalize", self.config.link, self.buffers.rows.len());
        self.run(Scope::Link)
    }

    /// As [`normalize`](Self::normalize), for these VIPs only. Never adds a VIP: a VIP that is not on the
    /// link fails as [`Cause::NotOnLink`](crate::Cause::NotOnLink). An expiring address keeps its
    /// lifetime.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// use viproute::Cause;
    ///
    /// # let mut vips = manager;
    /// vips.assign([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// let set = [Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 96, 0, 20)];
    /// let report = vips.normalize_only(set).unwrap_err().into_report().unwrap_or_default();
    /// assert_eq!(report.unchanged, 1);
    /// assert_eq!(report.failures[0].cause, Cause::NotOnLink);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`assign`](Self::assign).
    pub fn normalize_only<I: IntoIterator<Item: Into<Vip>>>(
        &mut self,
        vips: I,
    ) -> Result<Report, Error> {
        self.fill_rows(vips, Goal::Normalize);
        let _span = trace::span!("normalize", self.config.link, self.buffers.rows.len());
        self.run(Scope::Given(Goal::Normalize))
    }

    /// Removes VIPs from the link: their addresses, and their routes through the link. A VIP that is not
    /// on the link counts as unchanged.
    ///
    /// Needs no source. Also deletes a route whose address is gone. The kernel leaves that route
    /// behind, and the node would keep delivering the VIP's traffic to itself.
    ///
    /// Up to 16 IPv6 VIPs are observed by look-ups. IPv4 has no look-up of one address, so an IPv4 VIP
    /// makes the call read the link. [`Keeper::remove_desired`](crate::Keeper::remove_desired) need not read it.
    ///
    /// With a link's last IPv4 address, the kernel deletes every IPv4 route through the link
    /// (`fib_inetaddr_event`, net/ipv4/fib_frontend.c). If other programs have IPv4 routes through the
    /// link, keep another address on it.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// # let mut vips = manager;
    /// vips.assign([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// let report = vips.release([Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 96, 0, 11)])?;
    /// assert_eq!((report.released, report.unchanged), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`assign`](Self::assign).
    pub fn release<I: IntoIterator<Item: Into<Vip>>>(&mut self, vips: I) -> Result<Report, Error> {
        self.fill_rows(vips, Goal::Release);
        let _span = trace::span!("release", self.config.link, self.buffers.rows.len());
        self.run(Scope::Given(Goal::Release))
    }

    /// Puts the desired VIPs on the link, claimed or not, and takes off the other VIPs that are claimed.
    /// Assigns the missing VIPs and repairs the drifted VIPs. Releases each claimed VIP that is not desired,
    /// even if only its route is left. Does not touch a VIP that is neither desired nor claimed.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// # let mut vips = manager;
    /// vips.assign([Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 96, 0, 11)])?;
    /// // All VIPs on this link are the caller's.
    /// let desired = [Ipv4Addr::new(10, 96, 0, 11), Ipv4Addr::new(10, 96, 0, 12)];
    /// let report = vips.reconcile(&Claim::link(), desired)?;
    /// assert_eq!((report.released, report.unchanged, report.assigned), (1, 1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`assign`](Self::assign). A claimed VIP whose family has no desired VIP stays. If
    /// the manager has a source for that family, the VIP fails (see [`Claim`]). Before any write: [`ErrorKind::EmptySet`] if no desired VIP is admissible,
    /// [`ErrorKind::TooManyReleases`] if the call would exceed the claim's bound,
    /// [`ErrorKind::InvalidConfig`] if the claim needs a mark that the manager does not set.
    pub fn reconcile<I: IntoIterator<Item: Into<Vip>>>(
        &mut self,
        claim: &Claim,
        desired: I,
    ) -> Result<Report, Error> {
        self.fill_rows(desired, Goal::Assign);
        let _span = trace::span!("reconcile", self.config.link, self.buffers.rows.len());
        self.run(Scope::Claimed(Leaving::all(claim)))
    }

    /// Releases every claimed VIP on the link.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// # let mut vips = manager;
    /// vips.assign([Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 96, 0, 11)])?;
    /// assert_eq!(vips.release_all(&Claim::link())?.released, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`release`](Self::release). Before any write: [`ErrorKind::TooManyReleases`] if the call would
    /// exceed the claim's bound, [`ErrorKind::InvalidConfig`] if the claim needs a mark that the manager does
    /// not set.
    pub fn release_all(&mut self, claim: &Claim) -> Result<Report, Error> {
        self.buffers.clear();
        let _span = trace::span!("release_all", self.config.link, self.buffers.rows.len());
        self.run(Scope::Wipe(Leaving::all(claim)))
    }

    /// Sets the source of its family, and moves every VIP on the link to it. Each route is replaced in
    /// place. An IPv4 VIP is local at every instant; the kernel can miss an IPv6 route for a moment while
    /// it is replaced. The family no longer [keeps the kernel's route](VipManagerBuilder::kernel_source).
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// # let mut vips = manager;
    /// vips.assign([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// assert_eq!(vips.set_source([192, 0, 2, 11])?.repaired, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`normalize`](Self::normalize). The manager keeps the new source also after an error,
    /// except after [`ErrorKind::InvalidConfig`].
    pub fn set_source(&mut self, source: impl Into<IpAddr>) -> Result<Report, Error> {
        self.replace_source(source.into())?;
        self.normalize()
    }

    /// Sets the binding, and moves every VIP on the link to it. An IPv4 VIP is local at every
    /// instant. On the way to [`Binding::Address`], an IPv6 VIP's only route is replaced in place, and the kernel
    /// can miss the route for an instant.
    ///
    /// For [`Binding::Route`], the link gets the placeholder address 127.86.73.80 if it would otherwise
    /// lose its last IPv4 address, because the kernel would then delete every IPv4 route through the
    /// link. The placeholder address stays.
    ///
    /// A VIP with an expiring address fails, as in [`normalize`](Self::normalize), and keeps the
    /// address.
    ///
    /// For thousands of IPv6 VIPs the change to [`Binding::Route`] takes many seconds, because the kernel
    /// searches every IPv6 route of the namespace for each address that it deletes (`rt6_remove_prefsrc`,
    /// net/ipv6/route.c). To bound the time of a call, open a manager with the new binding and pass
    /// [`assign`](Self::assign) a part of the VIPs at a time.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// use viproute::Binding;
    ///
    /// # let mut vips = manager;
    /// vips.assign([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// assert_eq!(vips.set_binding(Binding::Route)?.repaired, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`normalize`](Self::normalize). [`ErrorKind::InvalidConfig`] for [`Binding::Route`] if a
    /// family has [`kernel_source`](VipManagerBuilder::kernel_source). After any other error the
    /// manager keeps the new binding.
    pub fn set_binding(&mut self, binding: Binding) -> Result<Report, Error> {
        check_binding(binding, &self.filter.sources)?;
        self.config.binding = binding;
        self.buffers.clear();
        let _span = trace::span!("set_binding", self.config.link, self.buffers.rows.len());
        self.run(Scope::Rebind)
    }

    /// Whether [`assign`](Self::assign) would admit this VIP: it can be a VIP, is no source, is in the
    /// allowed ranges and in no denied range, and its family has a source. Reads nothing of the kernel.
    ///
    /// ```
    /// use ipnet::IpNet;
    /// use viproute::{RejectReason, Vip, VipManager};
    ///
    /// let nodes: IpNet = "192.0.2.0/24".parse()?;
    /// let manager = VipManager::builder("kube-dummy-if").source([192, 0, 2, 10]).deny(nodes).open()?;
    /// let check = |text: &str| Ok::<_, viproute::ParseVipError>(manager.check(text.parse::<Vip>()?));
    /// assert_eq!(check("10.96.0.10")?, Ok(()));
    /// assert_eq!(check("192.0.2.11")?, Err(RejectReason::Denied));
    /// assert_eq!(check("2001:db8::1")?, Err(RejectReason::NoSource));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The reason with which the VIP would fail ([`Cause::Rejected`](crate::Cause::Rejected)).
    pub fn check(&self, vip: impl Into<Vip>) -> Result<(), RejectReason> {
        self.filter.check(vip.into())
    }

    /// Returns a handle that cancels this manager's calls from another thread.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// use viproute::ErrorKind;
    ///
    /// # let mut vips = manager;
    /// vips.canceller().cancel();
    /// let vip = [Ipv4Addr::new(10, 96, 0, 10)];
    /// assert_eq!(vips.assign(vip).unwrap_err().kind(), ErrorKind::Cancelled);
    /// // One cancellation stops one call.
    /// assert_eq!(vips.assign(vip)?.assigned, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.cancelled.canceller()
    }

    /// Frees the buffers' memory beyond the need of `vips` VIPs. Buffers grow to the largest call and
    /// are kept between calls.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// # let mut vips = manager;
    /// let many = (0..10_000).map(|n| Ipv4Addr::from(0x0a60_0001 + n));
    /// vips.plan_assign(many)?;
    /// // The next calls are small.
    /// vips.shrink_to(100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shrink_to(&mut self, vips: usize) {
        self.buffers.shrink_to(vips);
    }

    /// Opens another socket in the manager's namespace. The calling thread may be in another one.
    pub(crate) fn open_listener(&self) -> Result<Socket, Error> {
        let socket = self.config.open_socket()?;
        if socket.is_elsewhere(self.connection.monitor()) {
            return Err(Error::new(
                ErrorKind::InvalidNetns,
                "the calling thread is in another network namespace than the manager: call from \
                 that one, or name the namespace when the manager is opened",
            ));
        }
        Ok(socket)
    }

    /// Fills the rows with the VIPs of a call.
    pub(crate) fn fill_rows<I: IntoIterator<Item: Into<Vip>>>(&mut self, vips: I, goal: Goal) {
        self.buffers.clear();
        for vip in vips {
            self.buffers.rows.push(vip.into(), goal);
        }
    }

    /// Prepares and runs a call that writes.
    fn run(&mut self, scope: Scope<'_>) -> Result<Report, Error> {
        trace::ended(self.act(scope))
    }

    fn act(&mut self, scope: Scope<'_>) -> Result<Report, Error> {
        self.prepare(scope, Mode::Act)?.run()
    }

    /// As [`reconcile`](Self::reconcile), and releases the VIPs that `leaving` names.
    pub(crate) fn keep(&mut self, leaving: Leaving<'_>, desired: &[Vip]) -> Result<Report, Error> {
        self.fill_rows(desired, Goal::Assign);
        for vip in leaving.named {
            self.buffers.rows.push(*vip, Goal::Release);
        }
        self.act(Scope::Claimed(leaving))
    }

    /// Repairs these VIPs and changes no other: assigns the desired VIPs, and releases the other VIPs that are
    /// named or claimed. With `all_notified` it observes them by look-ups, otherwise by dumps of the link. It does
    /// not wait until time proves a VIP right: see [`postponed`](Self::postponed).
    ///
    /// `vips` and `all_notified` are in the same order.
    pub(crate) fn mend(
        &mut self,
        leaving: Leaving<'_>,
        vips: impl Iterator<Item = (Vip, bool)>,
        all_notified: Option<Vec<(Vip, Notified)>>,
    ) -> Result<Report, Error> {
        self.buffers.clear();
        for (at, (vip, desired)) in vips.enumerate() {
            let notified = all_notified.as_ref().and_then(|all| all.get(at));
            let goal = if desired { Goal::Assign } else { Goal::Release };
            let mut row = Row::new(vip, goal);
            let is_verified = notified.is_some_and(|(_, known)| known.keeps_verified_address());
            row.progress.done.set(Done::WAS_VERIFIED, is_verified);
            self.buffers.rows.push_row(row);
        }
        let mode = all_notified.map_or(Mode::Act, Mode::Mend);
        let mut call = self.prepare(Scope::Lookup(leaving), mode)?;
        call.engine.postpone_long_waits();
        call.run()
    }

    /// The VIPs that the last call wrote for. True if another writer undid the writes: the VIP took more
    /// rounds than an undisturbed VIP takes.
    pub(crate) fn written(&self) -> impl Iterator<Item = (Vip, bool)> {
        let rows = self.buffers.rows.iter();
        rows.filter(|row| row.progress.has(Done::WRITTEN))
            .map(|row| (row.vip, row.attempts > PATIENT_AFTER))
    }

    /// Whether the manager would serve this VIP if it were on the link.
    pub(crate) fn could_hold(&self, vip: Vip) -> bool {
        self.filter.is_on_link(vip) && self.filter.is_for(vip.family())
    }

    /// Sets the source of its family.
    pub(crate) fn replace_source(&mut self, source: IpAddr) -> Result<(), Error> {
        check_config_source(source)?;
        self.filter.set_source(source);
        Ok(())
    }
}
