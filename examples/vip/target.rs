//! The options of `vip` and `controller` that say where VIPs go, and which they may be.

use std::net::IpAddr;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use viproute::{LinkKind, VipManager, VipManagerBuilder};

use crate::parse;

/// The link, the sources, and the ranges of VIPs.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The link that holds the VIPs
    #[arg(long, value_name = "NAME")]
    pub(crate) link: String,
    /// The node's own address, the source of its traffic to VIPs; once for each family
    #[arg(long, value_name = "IP", value_parser = parse::source)]
    pub(crate) source: Vec<IpAddr>,
    /// Allow only VIPs in this range; may be repeated; required on `lo`, and for 169.254.0.0/16
    #[arg(long, value_name = "PREFIX", value_parser = parse::range)]
    allow: Vec<IpNet>,
    /// Refuse VIPs in this range, even if --allow admits them; may be repeated
    #[arg(long, value_name = "PREFIX", value_parser = parse::range)]
    deny: Vec<IpNet>,
}

impl Target {
    pub(crate) fn builder(&self) -> VipManagerBuilder {
        let builder = VipManager::builder(&self.link);
        let builder = self.source.iter().fold(builder, |b, ip| b.source(*ip));
        let builder = self.allow.iter().fold(builder, |b, range| b.allow(*range));
        self.deny.iter().fold(builder, |b, range| b.deny(*range))
    }
}

/// Whether to create the link.
#[derive(Debug, Args)]
pub(crate) struct Making {
    /// Create the link if there is none
    ///
    /// A dummy link, or if the kernel has no such driver a bridge without ports and ARP, which
    /// holds VIPs as well. With =dummy or =bridge that kind and no other.
    #[arg(
        long,
        value_name = "KIND",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "auto"
    )]
    create_link: Option<Create>,
}

impl Making {
    /// The builder of a manager that may create the link, if that was allowed.
    pub(crate) fn allow(&self, builder: VipManagerBuilder) -> VipManagerBuilder {
        match self.create_link {
            None => builder,
            Some(Create::Auto) => builder.create_link(LinkKind::Auto),
            Some(Create::Dummy) => builder.create_link(LinkKind::Dummy),
            Some(Create::Bridge) => builder.create_link(LinkKind::Bridge),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Create {
    /// A dummy link, or else a bridge
    Auto,
    /// A dummy link
    Dummy,
    /// A bridge without ports and without ARP
    Bridge,
}
