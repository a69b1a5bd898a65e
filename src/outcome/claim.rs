//! What is ours to remove.

use ipnet::IpNet;

use crate::base::Vip;

/// Which VIPs on the link a caller may release because they are not desired.
///
/// [`reconcile`](crate::VipManager::reconcile) removes what is on the link, not desired, *and*
/// claimed. What is not claimed stays as it is, whoever put it there. Link-local and loopback
/// addresses, the sources and what is outside the manager's allowed ranges are no VIPs, so no
/// claim reaches them.
///
/// A manager that has a source for one family only ([`VipManagerBuilder::source`](crate::VipManagerBuilder::source),
/// [`VipManagerBuilder::kernel_source`](crate::VipManagerBuilder::kernel_source)) claims VIPs of that family only, unless
/// the claim names ranges of the other: so two managers, one a family, share a link. A source that is
/// given and just now not on the node still counts.
///
/// Nor is a VIP released for not being desired where no admissible VIP of its family is desired at
/// all: that is more probably a mistake. Such a VIP of a family that the manager has a source for is
/// a failure ([`Cause::Missing`](crate::Cause::Missing) with
/// [`ErrorKind::EmptySet`](crate::ErrorKind::EmptySet)).
/// [`release`](crate::VipManager::release) and [`release_all`](crate::VipManager::release_all) take it
/// off the link.
///
/// ```no_run
/// # use std::net::IpAddr;
/// # use viproute::{Claim, VipManager};
/// use ipnet::IpNet;
///
/// # let mut vips = VipManager::builder("kube-dummy-if").source([192, 0, 2, 10]).open()?;
/// # let desired: [IpAddr; 1] = ["10.96.0.10".parse()?];
/// // Ours are the cluster IPs; external IPs on the link are another controller's.
/// let cluster: IpNet = "10.96.0.0/12".parse()?;
/// // More than a hundred never go at once: then it is the list of services that is wrong.
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
    /// Every VIP on the link: nobody else puts VIPs there.
    #[must_use]
    pub const fn link() -> Self {
        Self {
            what: What::Link,
            at_most: None,
        }
    }

    /// Every VIP on the link that lies in one of these ranges.
    #[must_use]
    pub fn ranges<I>(ranges: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<IpNet>,
    {
        Self {
            what: What::Ranges(ranges.into_iter().map(Into::into).collect()),
            at_most: None,
        }
    }

    /// Every VIP on the link that bears the manager's mark: the protocol of its route, where that
    /// is not `kernel`, or the protocol of its address
    /// ([`VipManagerBuilder::address_protocol`](crate::VipManagerBuilder::address_protocol)). A manager without a mark
    /// cannot use it.
    ///
    /// Where VIPs are bound by their addresses, mark those, too. The mark of a route alone comes
    /// after the address: a call that is killed or cancelled in between leaves an address that no
    /// claim by mark reaches. And it must go after the address, which takes the kernel about ten
    /// times as long where thousands of IPv6 VIPs go at once.
    #[must_use]
    pub const fn mark() -> Self {
        Self {
            what: What::Mark,
            at_most: None,
        }
    }

    /// The same, but a call that would release more than `vips` at once is refused before anything
    /// is written ([`ErrorKind::TooManyReleases`](crate::ErrorKind::TooManyReleases)): a guard
    /// against a caller who has not heard of all desired VIPs yet.
    #[must_use]
    pub const fn at_most(mut self, vips: usize) -> Self {
        self.at_most = Some(vips);
        self
    }

    /// Whether the claim goes by marks.
    pub(crate) fn needs_mark(&self) -> bool {
        self.what == What::Mark
    }

    /// Whether the claim itself says which families it is about.
    pub(crate) fn names_ranges(&self) -> bool {
        matches!(self.what, What::Ranges(_))
    }

    /// Whether this VIP of the link is claimed; `marked`: it bears the manager's mark.
    pub(crate) fn covers(&self, vip: Vip, marked: bool) -> bool {
        match &self.what {
            What::Link => true,
            What::Ranges(ranges) => ranges.iter().any(|range| range.contains(&vip.addr())),
            What::Mark => marked,
        }
    }

    /// How many may be released at once.
    pub(crate) fn bound(&self) -> usize {
        self.at_most.unwrap_or(usize::MAX)
    }
}
