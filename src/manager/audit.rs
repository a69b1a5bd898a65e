//! Audits: what is on the link, compared with the single-route state.

use std::net::IpAddr;

use super::ready::find_link;
use super::{VipFilter, VipManager};
use crate::base::{
    Family, PerFamily, Protocol, RouteKey, SourcePolicy, TABLE_LOCAL, Vip, desired_key,
};
use crate::core::{AddressFlags, Drift, Facts, Goal, Policy, Row, Rows};
use crate::engine::Call;
use crate::link;
use crate::netlink::connection::{Connection, Groups};
use crate::outcome::{Audit, Audited, Error, SourceStatus};
use crate::trace;

impl VipManager {
    /// Returns the drift of every VIP on the link, and the state of the link and of each source. Writes
    /// nothing and needs no privilege.
    ///
    /// The kernel filters the dumps, so the cost depends on the link's addresses and routes, not on the
    /// node's. An audit does not show the routes of other devices; see
    /// [`audit_deep`](Self::audit_deep). It reads table main only if an IPv6 address lacks
    /// `IFA_F_NOPREFIXROUTE` and so may have made a prefix route. The kernel then walks all of table
    /// main: about ten milliseconds for 50,000 routes, while an audit otherwise takes less than one. Any other
    /// route to a VIP in table main stays unreported; `audit_deep` reports it.
    /// The source of a VIP is [not judged](crate::Audited::is_judged) if its family has neither a source nor
    /// [`kernel_source`](crate::VipManagerBuilder::kernel_source).
    ///
    /// While other writers change the tables, a dump may miss entries. The audit repeats an interrupted
    /// dump a limited number of times, and then looks up each discovered VIP. If a routing rule
    /// precedes the rule for table local, a look-up proves nothing, and a VIP whose routes no dump
    /// showed has [`Drift::UNREAD`](crate::Drift::UNREAD). So has a VIP that may have a prefix route, if
    /// every dump of table main was interrupted. The drift of a reported VIP is therefore true. Under changes
    /// without a pause, an audit may rarely miss a VIP that has only a route.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// use std::process::Command;
    /// use viproute::Drift;
    ///
    /// # let mut vips = manager;
    /// vips.assign([Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 96, 0, 11)])?;
    /// let delete = ["route", "del", "local", "10.96.0.11", "dev", "vips", "table", "local"];
    /// assert!(Command::new("ip").args(delete).status()?.success());
    /// let audit = vips.audit()?;
    /// assert_eq!((audit.vips.len(), audit.drifted().count()), (2, 1));
    /// assert!(audit.vips[1].drift.contains(Drift::MISSING_ROUTE));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LinkNotFound`](crate::ErrorKind::LinkNotFound); [`ErrorKind::System`](crate::ErrorKind::System) if the kernel cannot be read.
    pub fn audit(&mut self) -> Result<Audit, Error> {
        self.audit_to(Which::All, Extent::Link)
    }

    /// As [`audit`](Self::audit), and also finds conflicts with other devices, and routes through the
    /// link in other tables. Reads every route of the node: about a hundred milliseconds for 200,000
    /// routes.
    ///
    /// Also finds VIPs whose traffic a routing rule (`ip rule`) [diverts](crate::Drift::DIVERTED). If a
    /// rule precedes the rule for table local, the audit looks up each VIP, which takes 2 to 4
    /// microseconds a VIP. The kernel decides for unmarked, unbound traffic of this user. Rules by
    /// mark, interface, source, protocol, port or another user stay unseen.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// use std::process::Command;
    /// use viproute::Drift;
    ///
    /// # let mut vips = manager;
    /// vips.assign([Ipv4Addr::new(10, 96, 0, 10)])?;
    /// assert!(vips.audit_deep()?.is_clean());
    /// // Another device takes the VIP.
    /// let steal = ["route", "prepend", "local", "10.96.0.10", "dev", "lo", "table", "local"];
    /// assert!(Command::new("ip").args(steal).status()?.success());
    /// assert!(vips.audit_deep()?.vips[0].drift.contains(Drift::CONFLICT));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`audit`](Self::audit).
    pub fn audit_deep(&mut self) -> Result<Audit, Error> {
        self.audit_to(Which::All, Extent::Node)
    }

    /// As [`audit`](Self::audit), of the given VIPs alone. Each has its entry in the audit, also if it is not
    /// on the link.
    ///
    /// VIPs that are right cost one look-up each, or two in IPv6, whatever else is on the link; only the
    /// IPv4 addresses of the link are read, because IPv4 has no look-up of one address. If a VIP is not
    /// right, or if there are more than a hundred VIPs, the call reads the link as `audit` does. A look-up
    /// shows no route behind the route that the kernel uses: not a duplicate, nor in IPv4 the kernel's own
    /// route, nor a prefix route in table main.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// # let mut manager = manager;
    /// let [first, other] = [Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 96, 0, 11)];
    /// manager.assign([first])?;
    /// assert!(manager.audit_only([first])?.is_clean());
    /// let audit = manager.audit_only([first, other])?;
    /// let drift = audit.get(other).map(|audited| audited.drift);
    /// assert!(drift.is_some_and(|drift| drift.contains(viproute::Drift::MISSING_ADDRESS)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`audit`](Self::audit).
    pub fn audit_only<I: IntoIterator<Item: Into<Vip>>>(
        &mut self,
        vips: I,
    ) -> Result<Audit, Error> {
        self.audit_given(vips, Extent::Link)
    }

    /// As [`audit_deep`](Self::audit_deep), of the given VIPs alone. Each has its entry in the audit, also if it
    /// is not on the link. Reads as much as `audit_deep`, however few VIPs are given.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// # let mut manager = manager;
    /// let [first, other] = [Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 96, 0, 11)];
    /// manager.assign([first, other])?;
    /// let audit = manager.audit_deep_only([first])?;
    /// assert!(audit.is_clean());
    /// assert_eq!(audit.vips.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`audit`](Self::audit).
    pub fn audit_deep_only<I: IntoIterator<Item: Into<Vip>>>(
        &mut self,
        vips: I,
    ) -> Result<Audit, Error> {
        self.audit_given(vips, Extent::Node)
    }

    fn audit_given<I: IntoIterator<Item: Into<Vip>>>(
        &mut self,
        vips: I,
        extent: Extent,
    ) -> Result<Audit, Error> {
        self.fill_rows(vips, Goal::Look);
        self.buffers.rows.sort();
        self.audit_to(Which::Given, extent)
    }

    fn audit_to(&mut self, which: Which, extent: Extent) -> Result<Audit, Error> {
        if which == Which::All {
            self.buffers.clear();
        }
        let _span = trace::span!("audit", self.config.link, self.buffers.rows.len());
        self.connection
            .listen_to(Groups::empty())
            .map_err(Error::listening)?;
        let link = find_link(&mut self.connection, &self.config)?;
        let mut call = Call::new(
            self.config.setup(&self.filter.sources, link.index),
            &mut self.connection,
            &mut self.buffers,
            &self.cancelled,
        );
        call.read_only = true;
        observe(&mut call, which, extent, &self.filter)?;
        let elsewhere = match extent {
            Extent::Node => call.observe_node()?,
            Extent::Link => Vec::new(),
        };
        let sources = source_statuses(&self.filter.sources, call.connection)?;
        let judge = Judge {
            policies: *call.engine.policies(),
            sources,
        };
        let diverted = match extent {
            Extent::Node => call.observe_diverted(|row| judge.has_route(row))?,
            Extent::Link => Vec::new(),
        };
        let desired = call.desired;
        let rows = &self.buffers.rows;
        // A VIP that disappeared during the observation is not on the link.
        let is_listed =
            |row: &&Row| which == Which::Given || row.facts.on_link() || row.facts.is_unread();
        let vips = rows.iter().filter(is_listed).map(|row| {
            let is_among = |vips: &[Vip]| vips.binary_search(&row.vip).is_ok();
            let mut drift = judge.drift(row);
            drift.set(Drift::OTHER_TABLE, is_among(&elsewhere));
            drift.set(Drift::DIVERTED, is_among(&diverted));
            let route = route_of(row, rows, &desired_key(&desired[row.vip.family()]));
            let flags = rows.address_flags(row.vip);
            Audited {
                vip: row.vip,
                drift,
                is_judged: judge.is_judged(row),
                source: route.and_then(|(source, _)| source),
                protocol: route.and_then(|(_, protocol)| Protocol::new(protocol)),
                address: flags.map(AddressFlags::from_bits_retain),
            }
        });
        let audit = Audit {
            vips: vips.collect(),
            links: PerFamily::from_fn(|family| link.status(family)),
            sources,
        };
        trace::audited(&audit);
        Ok(audit)
    }
}

/// The VIPs that an audit lists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Those on the link.
    All,
    /// Those that the caller named.
    Given,
}

/// What an audit reads.
#[derive(Clone, Copy)]
enum Extent {
    Link,
    Node,
}

/// The most VIPs that an audit observes by look-ups.
const LOOK_UPS_MAX: usize = 100;

fn observe(
    call: &mut Call<'_>,
    which: Which,
    extent: Extent,
    filter: &VipFilter,
) -> Result<(), Error> {
    match (which, extent) {
        (Which::Given, Extent::Link) if call.buffers.rows.len() <= LOOK_UPS_MAX => {
            call.observe_given()
        }
        (Which::Given, _) => call.observe_first(None),
        (Which::All, _) => {
            call.observe_first(Some(&|vip| filter.is_on_link(vip).then_some(Goal::Look)))
        }
    }
}

/// Judges the rows of an audit.
struct Judge {
    policies: PerFamily<Policy>,
    sources: PerFamily<SourceStatus>,
}

impl Judge {
    fn is_judged(&self, row: &Row) -> bool {
        self.sources[row.vip.family()] != SourceStatus::NotGiven
    }

    fn drift(&self, row: &Row) -> Drift {
        let policy = self.policies[row.vip.family()];
        if self.is_judged(row) {
            row.facts.drift(policy)
        } else {
            row.facts.drift_of_any_source(policy)
        }
    }

    /// Whether the VIP has its route, or without a known source any route in its place.
    fn has_route(&self, row: &Row) -> bool {
        let desired = Facts::desired(self.policies[row.vip.family()].kernel_source);
        let any = Facts::KERNEL | Facts::SAME_KEY;
        let desired = if self.is_judged(row) { desired } else { any };
        row.facts.intersects(desired)
    }
}

/// The preferred source and the protocol of the VIP's route: of the desired route, else of a route with the
/// same key, else of the kernel's own.
fn route_of(row: &Row, rows: &Rows, desired: &RouteKey) -> Option<(Option<IpAddr>, u8)> {
    if row.facts.contains(Facts::DESIRED) {
        return Some((desired.prefsrc, desired.protocol));
    }
    let same_key = rows.others(row.vip).find(|route| {
        (route.table, route.metric, route.tos) == (TABLE_LOCAL, desired.metric, desired.tos)
    });
    if let Some(route) = same_key {
        return Some((route.prefsrc, route.protocol));
    }
    // Only in IPv4 the kernel's own route has a preferred source, the address itself.
    let own = Some(row.vip.addr()).filter(IpAddr::is_ipv4);
    let is_kernels = row.facts.contains(Facts::KERNEL);
    is_kernels.then_some((own, libc::RTPROT_KERNEL))
}

/// The state of each family's source.
fn source_statuses(
    sources: &PerFamily<SourcePolicy>,
    connection: &mut Connection,
) -> Result<PerFamily<SourceStatus>, Error> {
    let mut statuses = PerFamily::splat(SourceStatus::NotGiven);
    for family in Family::ALL {
        statuses[family] = match sources[family] {
            SourcePolicy::Kernel => SourceStatus::Kernel,
            SourcePolicy::Unset => SourceStatus::NotGiven,
            SourcePolicy::Address(source) => link::source_status(connection, &source)
                .map_err(|failed| failed.into_error(format!("cannot look up source {source}")))?,
        };
    }
    Ok(statuses)
}
