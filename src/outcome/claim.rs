//! Which VIPs a call may remove.

use ipnet::IpNet;

use crate::base::Vip;

/// Which VIPs on the link a caller may release because they are not desired.
///
/// [`reconcile`](crate::VipManager::reconcile) removes what is on the link, not desired, *and*
/// claimed. A VIP that is not claimed stays as it is. Link-local and loopback addresses, the sources and
/// addresses outside the manager's allowed ranges are no VIPs, so no claim covers them.
///
/// A manager that has a source for one family only ([`VipManagerBuilder::source`](crate::VipManagerBuilder::source),
/// [`VipManagerBuilder::kernel_source`](crate::VipManagerBuilder::kernel_source)) claims VIPs of that family only, unless
/// the claim names ranges of the other family. So two managers, one for each family, can share a link. A
/// source counts even while the node lacks the address.
///
/// If no admissible VIP of a family is desired, `reconcile` releases no VIP of that family, because an
/// empty set is more probably a mistake. If the manager has a source for the family, each claimed VIP
/// is a failure ([`Cause::Missing`](crate::Cause::Missing) with
/// [`ErrorKind::EmptySet`](crate::ErrorKind::EmptySet)).
/// [`release`](crate::VipManager::release) and [`release_all`](crate::VipManager::release_all) remove
/// these VIPs.
///
/// ```no_run
/// # use std::net::IpAddr;
/// # use viproute::{Claim, VipManager};
/// use ipnet::IpNet;
///
/// # let mut vips = VipManager::builder("kube-dummy-if").source([192, 0, 2, 10]).open()?;
/// # let desired: [IpAddr; 1] = ["10.96.0.10".parse()?];
/// // This controller owns the cluster IPs. External IPs on the link are another controller's.
/// let cluster: IpNet = "10.96.0.0/12".parse()?;
/// // Services never lose more than a hundred VIPs at once. More means that the list is wrong.
/// let claim = Claim::ranges([cluster]).at_most(100);
/// println!("{}", vips.reconcile(&claim, desired)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    what: What,
    at_most: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Link,
    Ranges(Vec<IpNet>),
    Mark,
}

impl Claim {
    const fn of(what: What) -> Self {
        Self {
            what,
            at_most: None,
        }
    }

    /// Every VIP on the link. For a link to which no other program adds VIPs.
    #[must_use]
    pub const fn link() -> Self {
        Self::of(What::Link)
    }

    /// Every VIP on the link in one of the ranges.
    #[must_use]
    pub fn ranges<I: IntoIterator<Item: Into<IpNet>>>(ranges: I) -> Self {
        Self::of(What::Ranges(ranges.into_iter().map(Into::into).collect()))
    }

    /// Every VIP on the link with the manager's mark: the protocol of its route, if that is not
    /// `kernel`, or the protocol of its address
    /// ([`VipManagerBuilder::address_protocol`](crate::VipManagerBuilder::address_protocol)). A manager without a mark
    /// cannot use this claim.
    ///
    /// With the address binding, mark the addresses, too. A route gets its mark after the address was
    /// added: if the call is killed or cancelled in between, no claim by mark covers the address. The
    /// route must also be deleted after the address, which takes the kernel about ten times as long for
    /// thousands of IPv6 VIPs.
    #[must_use]
    pub const fn mark() -> Self {
        Self::of(What::Mark)
    }

    /// Limits a call to `vips` releases. A call that would release more fails before it writes anything
    /// ([`ErrorKind::TooManyReleases`](crate::ErrorKind::TooManyReleases)). The limit guards against a
    /// caller that does not know all desired VIPs yet.
    #[must_use]
    pub const fn at_most(mut self, vips: usize) -> Self {
        self.at_most = Some(vips);
        self
    }

    /// Whether this is a claim by mark.
    pub(crate) fn needs_mark(&self) -> bool {
        self.what == What::Mark
    }

    /// Whether the claim names ranges, and so the families.
    pub(crate) fn names_ranges(&self) -> bool {
        matches!(self.what, What::Ranges(_))
    }

    /// Whether the claim covers this VIP of the link. `marked`: the VIP has the manager's mark.
    pub(crate) fn covers(&self, vip: Vip, marked: bool) -> bool {
        match &self.what {
            What::Link => true,
            What::Ranges(ranges) => ranges.iter().any(|range| range.contains(&vip.addr())),
            What::Mark => marked,
        }
    }

    /// The greatest number of releases in one call.
    pub(crate) fn bound(&self) -> usize {
        self.at_most.unwrap_or(usize::MAX)
    }
}
