//! The command line.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use viproute::ipnet::IpNet;
use viproute::{Binding, Claim, LinkKind, VipManager, VipManagerBuilder};

use crate::desired::Rules;
use crate::node::Sources;

/// Holds the VIPs of a cluster's Services on a link of this node, each with exactly one route, whose
/// preferred source is the node.
#[derive(Clone, Debug, Parser)]
#[command(name = "kube-controller", version)]
pub struct Args {
    /// The name of this node's Node object
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node: String,
    /// The link that holds the VIPs
    #[arg(long, value_name = "NAME", default_value = "kube-dummy-if")]
    pub link: String,
    /// Create the link if there is none, and bring it up
    #[arg(long, value_name = "KIND", num_args = 0..=1, require_equals = true, default_missing_value = "dummy")]
    pub create_link: Option<Kind>,
    /// Hold only VIPs in this range. May be repeated: an address is held if any range contains it. An address of
    /// the link in a range is released if no Service has it
    #[arg(long, value_name = "PREFIX", required = true, value_delimiter = ',')]
    pub range: Vec<IpNet>,
    /// Where a complete list of the Services would release more than N VIPs, release none
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub at_most: usize,
    /// What a VIP has on the link
    #[arg(long, value_name = "KIND", default_value = "address")]
    pub binding: Form,
    /// Where the traffic policy of a Service is Local, hold its VIPs only with an endpoint on this node
    #[arg(long)]
    pub local_policies: bool,
    /// Where to serve /healthz, /readyz and /metrics
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9412")]
    pub listen: SocketAddr,
    /// /healthz fails after so long without a good dispatch
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub unhealthy_after: Duration,
    /// Release the VIPs at the end (SIGTERM); otherwise they stay
    #[arg(long)]
    pub release_on_exit: bool,
}

/// The kind of a link that is created.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[allow(missing_docs)]
pub enum Kind {
    Dummy,
    Bridge,
}

/// What a VIP has on the link.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Form {
    /// An address, and its route
    Address,
    /// A route only
    Route,
}

impl Args {
    /// How to keep the VIPs, with these sources.
    pub(crate) fn builder(&self, sources: Sources) -> VipManagerBuilder {
        let mut builder = VipManager::builder(&self.link).binding(match self.binding {
            Form::Address => Binding::Address,
            Form::Route => Binding::Route,
        });
        for source in sources.iter() {
            builder = builder.source(source);
        }
        for range in &self.range {
            builder = builder.allow(*range);
        }
        match self.create_link {
            None => builder,
            Some(Kind::Dummy) => builder.create_link(LinkKind::Dummy),
            Some(Kind::Bridge) => builder.create_link(LinkKind::Bridge),
        }
    }

    /// Every VIP of the link in the ranges.
    pub(crate) fn claim(&self) -> Claim {
        Claim::ranges(self.range.iter().copied())
    }

    pub(crate) fn rules(&self) -> Rules {
        Rules {
            ranges: self.range.clone(),
            local_on: self.local_policies.then(|| self.node.clone()),
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "not a number of seconds")?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("not a time".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_must_be_given() {
        let parse = |args: &str| {
            let args = format!("kube-controller --node a {args}");
            Args::try_parse_from(args.split_whitespace())
        };
        assert!(parse("").is_err());
        assert!(parse("--range 10.96.0.0/33").is_err());
        let args = parse("--range 10.96.0.0/16,2001:db8::/112 --range 203.0.113.0/24").unwrap();
        assert_eq!(args.range.len(), 3);
        assert!(parse("--range 10.96.0.0/16 --unhealthy-after 0").is_err());
    }
}
