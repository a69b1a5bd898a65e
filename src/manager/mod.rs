//! The public calls, in terms of the rest.

mod builder;
mod prepare;
mod ready;

use std::fmt;
use std::net::IpAddr;

pub(crate) use crate::core::{Ranges, VipFilter};
pub use builder::VipManagerBuilder;

use crate::base::{Family, PerFamily, Vip};
use crate::core::{Binding, Goal};
use crate::core::{Done, Drift, Facts, Row};
use crate::engine::lookup::Notified;
use crate::engine::{Buffers, Call, decide::PATIENT_AFTER};
use crate::link::{self, LinkRef, LinkState};
use crate::netlink::connection::{Connection, Groups};
use crate::outcome::Claim;
use crate::outcome::Netns;
use crate::outcome::Report;
use crate::outcome::SourceStatus;
use crate::outcome::{Audit, Audited};
use crate::outcome::{Cancelled, Canceller};
use crate::outcome::{Error, ErrorKind};
use crate::sys::Socket;
use builder::check_config_source;
pub(crate) use prepare::{Leaving, Mode, Scope, check_claim};
pub(crate) use ready::find_link;

/// Holds VIPs of one link in their single-route state.
///
/// Every call is synchronous, takes one VIP or a hundred thousand alike, verifies in the kernel
/// what it did, and sends nothing that writes for a VIP that is as wanted.
///
/// Its sockets stay in the network namespace in which [`VipManagerBuilder::open`] opened them, the calling
/// thread's or that of [`VipManagerBuilder::netns`], whichever thread uses them later. Writing needs
/// `CAP_NET_ADMIN` in the user namespace that owns it.
///
/// It keeps nothing about VIPs from one call to the next, so that several managers may serve one
/// link, and one may look ([`audit`](Self::audit), [`plan`](Self::plan)) beside a [`Keeper`].
pub struct VipManager {
    pub(crate) config: VipManagerBuilder,
    pub(crate) sources: PerFamily<Option<IpAddr>>,
    pub(crate) connection: Connection,
    cancelled: Cancelled,
    buffers: Buffers,
}

// One manager serves any thread, one at a time.
const _: () = {
    const fn assert<T: Send + Sync>() {}
    assert::<VipManager>();
    assert::<Canceller>();
    assert::<VipManagerBuilder>();
    assert::<Netns>();
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
    /// name then. A link by index is the one that has the index when the manager is
    /// [opened](VipManagerBuilder::open). It is followed through renames, and
    /// [not found](ErrorKind::LinkNotFound) for good once it is deleted or moved to another
    /// namespace, even if the same or another link gets its index.
    pub fn builder(link: impl Into<LinkRef>) -> VipManagerBuilder {
        VipManagerBuilder::new(link.into())
    }

    /// Puts VIPs on the link, each in its single-route state; repairs those that are there in
    /// another one and leaves alone those that are right. An address that expires is made permanent.
    ///
    /// `Ok` means that every VIP was seen in the single-route state after the last write. Where a
    /// few VIPs are new to the link, they are looked up one by one instead of reading all that is
    /// on it; such a look-up does not tell of IPv4 routes that are for one type of service only
    /// (`ip route … tos`), nor of an IPv4 address of another prefix length that no route tells of,
    /// neither its own nor its prefix's. [`normalize`](Self::normalize) finds both.
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
    /// [`release`](Self::release) it. So is an address with a finite valid lifetime
    /// ([`Drift::EXPIRING_ADDRESS`](crate::Drift::EXPIRING_ADDRESS)): the rest of its VIP is healed,
    /// and the VIP fails as [`Cause::Unrepaired`](crate::Cause::Unrepaired). Another tool may renew
    /// that address, and want it to end when the tool fails. [`assign`](Self::assign) and
    /// [`reconcile`](Self::reconcile), which name their VIPs, make it permanent.
    ///
    /// # Errors
    ///
    /// As for [`assign`](Self::assign).
    pub fn normalize(&mut self) -> Result<Report, Error> {
        self.buffers.clear();
        self.run(Scope::Link)
    }

    /// Like [`normalize`](Self::normalize), for these VIPs only. One that is not on the link fails
    /// ([`Cause::Unrepaired`](crate::Cause::Unrepaired)): it is not put there. Nor is one made
    /// permanent whose address expires.
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
    /// A few IPv6 VIPs are looked up one by one. IPv4 has no look-up of an address, so for those the
    /// link is read: where VIPs go one at a time from a link that holds thousands,
    /// [`Keeper::remove_desired`] does not need to.
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
    /// As for [`assign`](Self::assign), also where claimed VIPs are not released because no VIP of their
    /// family is desired (see [`Claim`]); and before anything is written [`ErrorKind::EmptySet`] if no
    /// admissible VIP is desired at all, [`ErrorKind::TooManyReleases`] if the claim's bound would be
    /// passed, [`ErrorKind::InvalidConfig`] if the claim goes by a mark that the manager has not.
    pub fn reconcile<I>(&mut self, claim: &Claim, desired: I) -> Result<Report, Error>
    where
        I: IntoIterator,
        I::Item: Into<Vip>,
    {
        self.take(desired, Goal::Assign);
        self.run(Scope::Claimed(Leaving::all(claim)))
    }

    /// Releases every claimed VIP on the link: the only wipe.
    ///
    /// # Errors
    ///
    /// As for [`reconcile`](Self::reconcile).
    pub fn release_all(&mut self, claim: &Claim) -> Result<Report, Error> {
        self.buffers.clear();
        self.run(Scope::Wipe(Leaving::all(claim)))
    }

    /// Looks at every VIP on the link and says how each differs from its single-route state, and
    /// what the reachability of all of them rests on: the state of the link and of each source.
    /// Writes nothing and needs no privilege.
    ///
    /// The dumps are filtered by the kernel, so the cost goes with the link's addresses and routes,
    /// not with the node's. They do not show what other devices hold, nor, unless an IPv6 address
    /// lacks `IFA_F_NOPREFIXROUTE` and so may have made a prefix route, further routes in table main:
    /// see [`audit_deep`](Self::audit_deep). Where one lacks it, as after other tools, each audit
    /// reads table main, and the kernel walks all of that: some ten milliseconds for 50,000 routes,
    /// where an audit otherwise takes less than one. The source of a VIP is
    /// [not judged](Audited::is_judged) where its family was given none and does not
    /// [keep the kernel's](VipManagerBuilder::kernel_source).
    ///
    /// While other hands change the tables, the kernel's dumps may leave entries out. They are
    /// repeated, a limited number of times, and VIPs that are found are then looked up one by one.
    /// Where a routing rule comes before the one for table local, no look-up can tell, and a VIP
    /// whose routes no dump showed is [`Drift::UNREAD`](crate::Drift::UNREAD). So what is said of a
    /// VIP is right, but under changes without a pause one that only a route tells of may, rarely,
    /// not be found.
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
    /// It also finds VIPs that a routing rule (`ip rule`) [sends elsewhere](crate::Drift::DIVERTED)
    /// in spite of their route in table local. Where a rule comes before the one for table local, it
    /// asks the kernel for its decision, VIP by VIP, which takes 2 to 4 microseconds each; with the
    /// default rules nothing is asked. The decision is that for unmarked, unbound traffic of this
    /// user: what rules by mark, interface, source, protocol, port or another user do stays unseen.
    ///
    /// # Errors
    ///
    /// As for [`audit`](Self::audit).
    pub fn audit_deep(&mut self) -> Result<Audit, Error> {
        self.look(Depth::Node)
    }

    /// Moves every VIP on the link to another source of its family: the node's address has changed.
    /// Each route is replaced in place, so a VIP is local at every instant. A family that
    /// [kept the kernel's source](VipManagerBuilder::kernel_source) has this one from now on.
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
    /// A VIP whose address expires fails, as in [`normalize`](Self::normalize), and keeps its
    /// address: bound anew it would be permanent.
    ///
    /// # Errors
    ///
    /// As for [`normalize`](Self::normalize). The manager keeps the new binding also after an
    /// error, so that the next call goes on; except after [`ErrorKind::InvalidConfig`], which is for
    /// [`Binding::Route`] where a family [keeps the kernel's source](VipManagerBuilder::kernel_source).
    pub fn set_binding(&mut self, binding: Binding) -> Result<Report, Error> {
        self.config.check_binding(binding)?;
        self.config.binding = binding;
        self.buffers.clear();
        self.run(Scope::Rebind)
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
    pub(crate) fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// A further socket in the manager's namespace, which the calling thread may have left, or never
    /// have been in.
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
    pub(crate) fn take<I>(&mut self, vips: I, goal: Goal)
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

    /// Like [`reconcile`](Self::reconcile), with VIPs that are removed by name.
    pub(crate) fn keep(&mut self, leaving: Leaving<'_>, desired: &[Vip]) -> Result<Report, Error> {
        self.take(desired, Goal::Assign);
        for vip in leaving.named {
            self.buffers.rows.push(*vip, Goal::Release);
        }
        self.run(Scope::Claimed(leaving))
    }

    /// Mends a few VIPs, of which notifications told what `all_notified` say: those desired are assigned,
    /// the others released where they are named or claimed. Does not read the rest of the link.
    pub(crate) fn mend(
        &mut self,
        leaving: Leaving<'_>,
        vips: impl Iterator<Item = (Vip, bool)>,
        all_notified: Vec<(Vip, Notified)>,
    ) -> Result<Report, Error> {
        self.buffers.clear();
        for (vip, desired) in vips {
            let goal = if desired { Goal::Assign } else { Goal::Release };
            self.buffers.rows.push(vip, goal);
        }
        self.prepare(Scope::Lookup(leaving), Mode::Mend(all_notified))?
            .run()
    }

    /// The VIPs of the last call that something was written for, and whether that was undone
    /// meanwhile: it took more rounds than it takes undisturbed.
    pub(crate) fn written(&self) -> impl Iterator<Item = (Vip, bool)> {
        let rows = self.buffers.rows.iter();
        rows.filter(|row| row.progress.has(Done::WRITTEN))
            .map(|row| (row.vip, row.attempts > PATIENT_AFTER))
    }

    pub(crate) fn config(&self) -> &VipManagerBuilder {
        &self.config
    }

    pub(crate) fn sources(&self) -> &PerFamily<Option<IpAddr>> {
        &self.sources
    }

    pub(crate) fn cancelled(&self) -> &Cancelled {
        &self.cancelled
    }

    /// The port id of our requests.
    pub(crate) fn port(&self) -> u32 {
        self.connection.port()
    }

    /// Whether this is a VIP that the manager is for, were it on the link.
    pub(crate) fn could_hold(&self, vip: Vip) -> bool {
        let filter = self.config.filter(self.sources);
        filter.is_on_link(vip) && filter.is_for(vip.family())
    }

    /// Whether this VIP would not be rejected.
    pub(crate) fn could_assign(&self, vip: Vip) -> bool {
        let filter = self.config.filter(self.sources);
        filter.reject(&Row::new(vip, Goal::Assign)).is_none()
    }

    /// Takes another source of its family.
    pub(crate) fn replace_source(&mut self, source: IpAddr) -> Result<(), Error> {
        check_config_source(source)?;
        let family = Family::of(&source);
        self.sources[family] = Some(source);
        self.config.kernel_source[family] = false;
        Ok(())
    }

    /// Looks the link up.
    pub(crate) fn find_link(&mut self) -> Result<Option<LinkState>, Error> {
        link::find(&mut self.connection, &self.config.link)
    }
    /// Observes the link's VIPs, and nothing else.
    fn look(&mut self, depth: Depth) -> Result<Audit, Error> {
        self.buffers.clear();
        self.connection
            .listen_to(Groups::empty())
            .map_err(|error| Error::listening(&error))?;
        let filter = self.config.filter(self.sources);
        let link = find_link(&mut self.connection, &self.config)?;
        let mut call = Call::new(
            self.config.setup(&self.sources, link.index),
            &mut self.connection,
            &mut self.buffers,
            &self.cancelled,
        );
        call.read_only = true;
        call.observe_first(Some(&|vip| filter.is_on_link(vip).then_some(Goal::Look)))?;
        let elsewhere = match depth {
            Depth::Link => Vec::new(),
            Depth::Node => call.observe_node()?,
        };
        let mut sources = PerFamily::splat(SourceStatus::NotGiven);
        for family in Family::ALL {
            sources[family] = match self.sources[family] {
                _ if self.config.kernel_source[family] => SourceStatus::Kernel,
                None => SourceStatus::NotGiven,
                Some(source) => {
                    link::source_status(call.connection, &source).map_err(|failed| {
                        failed.into_error(format!("cannot look up source {source}"))
                    })?
                }
            };
        }
        let policies = *call.engine.policies();
        let is_judged = |row: &Row| sources[row.vip.family()] != SourceStatus::NotGiven;
        let drift_of = |row: &Row| {
            let policy = policies[row.vip.family()];
            if is_judged(row) {
                row.facts.drift(policy)
            } else {
                row.facts.drift_of_any_source(policy)
            }
        };
        let has_route = |row: &Row| {
            let desired = Facts::desired(policies[row.vip.family()].kernel_source);
            let any = Facts::KERNEL | Facts::SAME_KEY;
            let desired = if is_judged(row) { desired } else { any };
            row.facts.intersects(desired)
        };
        let diverted = match depth {
            Depth::Link => Vec::new(),
            Depth::Node => call.observe_diverted(has_route)?,
        };
        let rows = self.buffers.rows.iter();
        // What went away while it was looked for is not on the link.
        let is_there = |row: &&Row| row.facts.on_link() || row.facts.is_unread();
        let vips = rows.filter(is_there).map(|row| {
            let is_among = |vips: &[Vip]| vips.binary_search(&row.vip).is_ok();
            let mut drift = drift_of(row);
            drift.set(Drift::OTHER_TABLE, is_among(&elsewhere));
            drift.set(Drift::DIVERTED, is_among(&diverted));
            Audited {
                vip: row.vip,
                drift,
                is_judged: is_judged(row),
            }
        });
        Ok(Audit {
            vips: vips.collect(),
            links: PerFamily::from_fn(|family| link.status(family)),
            sources,
        })
    }
}

/// How far an audit looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Link,
    Node,
}
