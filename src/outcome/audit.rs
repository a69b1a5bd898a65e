//! The result of an audit of the link.

use std::fmt;
use std::net::IpAddr;

use crate::base::{Count, Family, PerFamily, Protocol, Vip};
use crate::core::{AddressFlags, Drift};
use crate::outcome::{LinkStatus, SourceStatus};

/// The VIPs on the link, each with its drift from the single-route state, and the state of the
/// [link](Self::link) and of the [sources](Self::source), on which all VIPs depend.
///
/// ```no_run
/// use viproute::{Family, SourceStatus, VipManager};
///
/// let mut vips = VipManager::builder("kube-dummy-if").source([192, 0, 2, 10]).open()?;
/// let audit = vips.audit()?;
/// for vip in audit.drifted() {
///     println!("{vip}");
/// }
/// if audit.source(Family::V4) == SourceStatus::Missing {
///     println!("the node has lost its address: no VIP can be reached from it");
/// }
/// # Ok::<(), viproute::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Audit {
    /// Every VIP on the link, in order of address.
    pub vips: Vec<Audited>,
    #[cfg_attr(feature = "serde", serde(rename = "link"))]
    pub(crate) links: PerFamily<LinkStatus>,
    #[cfg_attr(feature = "serde", serde(rename = "source"))]
    pub(crate) sources: PerFamily<SourceStatus>,
}

/// The observed state of one VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Audited {
    /// The VIP.
    pub vip: Vip,
    /// How the VIP differs from its single-route state. Complete only if the VIP was
    /// [judged](Self::is_judged).
    pub drift: Drift,
    /// Whether the desired preferred source is known. Without it, a VIP's route may have any source,
    /// and `drift` says only what is wrong with every source.
    pub is_judged: bool,
    /// The preferred source of the VIP's route: of the desired route, else of the route in its place.
    /// `None`: table local has neither, or the route has no preferred source.
    pub source: Option<IpAddr>,
    /// The protocol of that route. `None`: table local has no route, or its protocol is 0.
    pub protocol: Option<Protocol>,
    /// The flags of the VIP's address. `None`: no address of the VIP was seen.
    pub address: Option<AddressFlags>,
}

impl Audit {
    /// Whether every VIP was judged and is in its single-route state, and link and source are
    /// [usable](Self::is_usable) in both families.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let stands = |family| self.is_judged(family) && self.is_usable(family);
        self.drifted().next().is_none() && Family::ALL.into_iter().all(stands)
    }

    /// The observed state of this VIP. `None`: the audit has no entry for the VIP. An
    /// [`audit_only`](crate::VipManager::audit_only) has an entry for each given VIP, even if the VIP is not
    /// on the link; see its drift.
    ///
    /// ```
    #[doc = include_str!("../keeper/example.txt")]
    /// # let mut manager = manager;
    /// let vip = Ipv4Addr::new(10, 96, 0, 10);
    /// manager.assign([vip])?;
    /// let audit = manager.audit()?;
    /// let audited = audit.get(vip).ok_or("not on the link")?;
    /// assert_eq!(audited.source, Some([192, 0, 2, 10].into()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn get(&self, vip: impl Into<Vip>) -> Option<&Audited> {
        let vip = vip.into();
        let at = self.vips.binary_search_by_key(&vip, |audited| audited.vip);
        at.ok().map(|at| &self.vips[at])
    }

    /// The VIPs that differ from their single-route state.
    pub fn drifted(&self) -> impl Iterator<Item = &Audited> {
        self.vips.iter().filter(|vip| !vip.drift.is_empty())
    }

    /// The state of the link for VIPs of this family.
    #[must_use]
    pub fn link(&self, family: Family) -> LinkStatus {
        self.links[family]
    }

    /// The state of the source of this family.
    #[must_use]
    pub fn source(&self, family: Family) -> SourceStatus {
        self.sources[family]
    }

    /// Whether the VIPs of this family could be judged: the family has a source, or
    /// [keeps the kernel's](crate::VipManagerBuilder::kernel_source). True if the link has no VIP of the family.
    #[must_use]
    pub fn is_judged(&self, family: Family) -> bool {
        let is_unjudged = |vip: &Audited| vip.vip.family() == family && !vip.is_judged;
        !self.vips.iter().any(is_unjudged)
    }

    /// Whether VIPs of this family can be reached, as far as link and source matter. IPv4 routes work on
    /// a link that is down. True for a family without a source and without a VIP on the link.
    #[must_use]
    pub fn is_usable(&self, family: Family) -> bool {
        !self.is_concerned(family) || self.serves(family) && self.leads_back(family)
    }

    /// Whether the manager is configured for this family, or the link has a VIP of it.
    fn is_concerned(&self, family: Family) -> bool {
        let mut vips = self.vips.iter();
        self.source(family) != SourceStatus::NotGiven || vips.any(|vip| vip.vip.family() == family)
    }

    /// Whether the link serves VIPs of this family.
    fn serves(&self, family: Family) -> bool {
        match self.link(family) {
            LinkStatus::Up => true,
            LinkStatus::Down => family == Family::V4,
            _ => false,
        }
    }

    /// Whether nothing is wrong with the source of this family.
    fn leads_back(&self, family: Family) -> bool {
        matches!(
            self.source(family),
            SourceStatus::Present | SourceStatus::Kernel | SourceStatus::NotGiven
        )
    }
}

impl fmt::Display for Audited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.drift.is_empty(), self.is_judged) {
            (true, true) => write!(f, "{}: as desired", self.vip),
            (true, false) => write!(f, "{}: not judged: its source was not given", self.vip),
            (false, _) => write!(f, "{}: {}", self.vip, self.drift),
        }
    }
}

/// One line: the number of VIPs, the number of drifted VIPs, and the state of link or source if it is
/// not usable.
impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let drifted = self.drifted().count();
        write!(
            f,
            "{}, {drifted} drifted",
            Count(self.vips.len(), "VIP", "VIPs")
        )?;
        for family in Family::ALL {
            if !self.is_judged(family) {
                write!(f, "; {family} not judged: its source was not given")?;
            }
            if !self.is_concerned(family) {
                continue;
            }
            if !self.serves(family) {
                write!(f, "; {family} link: {}", self.link(family))?;
            }
            if !self.leads_back(family) {
                write!(f, "; {family} source: {}", self.source(family))?;
            }
        }
        Ok(())
    }
}
