//! What several commands take, and what it makes of a manager.

use std::io;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;
use viproute::{
    Binding, Claim, Error, LinkKind, Netns, Protocol, Vip, VipManager, VipManagerBuilder,
};

use crate::Stop;
use crate::parse::{self, BadList, Claimed};
use crate::tell::complain;

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The link that holds the VIPs
    #[arg(long, value_name = "NAME")]
    pub(crate) link: String,
    /// The node's own address, the source of its traffic to VIPs; once for each family
    #[arg(long, value_name = "IP", value_parser = parse::source)]
    pub(crate) source: Vec<IpAddr>,
    /// The protocol of the VIPs' routes (rtm_protocol), 1 to 255; 2 is `kernel`
    #[arg(long, value_name = "NUMBER", default_value = "2", value_parser = protocol)]
    protocol: Protocol,
    /// Mark the VIPs' addresses with this protocol (IFA_PROTO, Linux 5.18), 1 to 255
    #[arg(long, value_name = "NUMBER", value_parser = protocol)]
    address_protocol: Option<Protocol>,
    /// Bind VIPs by their routes alone, without an address on the link
    #[arg(long)]
    route_only: bool,
    /// Allow only VIPs in this range; may be repeated; required on `lo`, and for 169.254.0.0/16
    #[arg(long, value_name = "PREFIX", value_parser = parse::range)]
    allow: Vec<IpNet>,
    /// Refuse VIPs in this range, even if --allow admits them; may be repeated
    #[arg(long, value_name = "PREFIX", value_parser = parse::range)]
    deny: Vec<IpNet>,
    /// Work in this network namespace: its file (/run/netns/NAME), or the id of a process or
    /// thread in it
    #[arg(long, value_name = "PATH|PID")]
    netns: Option<String>,
    /// Give up on VIPs after this time without a sign of progress from the kernel [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = parse::seconds, allow_negative_numbers = true)]
    stall_timeout: Option<Duration>,
    /// Give up after this time in all [default: while the kernel makes progress, never]
    #[arg(long, value_name = "SECONDS", value_parser = parse::seconds, allow_negative_numbers = true)]
    total_timeout: Option<Duration>,
    /// Print JSON instead of text for people: that of the library's feature `serde`
    #[arg(long)]
    pub(crate) json: bool,
    /// Addresses, alone or as /32 or /128; `-` reads them from standard input, one a line, where
    /// `#` begins a comment
    #[arg(value_name = "VIP")]
    pub(crate) vips: Vec<Item>,
}

impl Common {
    /// A manager's configuration, but for what only some commands take.
    pub(crate) fn builder(&self) -> Result<VipManagerBuilder, Error> {
        let mut builder = VipManager::builder(&self.link).protocol(self.protocol);
        for source in &self.source {
            builder = builder.source(*source);
        }
        for range in &self.allow {
            builder = builder.allow(*range);
        }
        for range in &self.deny {
            builder = builder.deny(*range);
        }
        if self.route_only {
            builder = builder.binding(Binding::Route);
        }
        if let Some(protocol) = self.address_protocol {
            builder = builder.address_protocol(protocol);
        }
        if let Some(time) = self.stall_timeout {
            builder = builder.stall_timeout(time);
        }
        if let Some(time) = self.total_timeout {
            builder = builder.total_timeout(time);
        }
        match &self.netns {
            None => Ok(builder),
            Some(name) => Ok(builder.netns(match name.parse() {
                Ok(id) => Netns::from_pid(id)?,
                Err(_) => Netns::open(name)?,
            })),
        }
    }

    /// The VIPs of the command line and of standard input.
    pub(crate) fn vips(&self) -> Result<Vec<Vip>, Stop> {
        let mut vips = Vec::new();
        let mut read = false;
        for item in &self.vips {
            match item {
                Item::Vip(vip) => vips.push(*vip),
                Item::StandardInput if read => {
                    return Err(Stop::Usage("`-` is given more than once".into()));
                }
                Item::StandardInput => {
                    read = true;
                    parse::vips(io::stdin().lock(), &mut vips).map_err(|bad| match bad {
                        BadList::Unreadable(error) => Stop::Input(error),
                        BadList::Line(text) => Stop::Usage(format!("standard input, {text}")),
                    })?;
                }
            }
        }
        if read && vips.is_empty() {
            return Err(Stop::Usage("there is no VIP on standard input".into()));
        }
        Ok(vips)
    }
}

/// What the commands take that bring VIPs into their single-route state.
#[derive(Debug, Args)]
pub(crate) struct Desired {
    /// Bring the link up if it is down; without this, IPv6 VIPs fail on a link that is down
    #[arg(long)]
    bring_up: bool,
}

impl Desired {
    pub(crate) fn builder(&self, common: &Common) -> Result<VipManagerBuilder, Error> {
        let builder = common.builder()?;
        Ok(if self.bring_up {
            builder.bring_up()
        } else {
            builder
        })
    }
}

/// What the commands take that put VIPs on a link.
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
    /// A manager that may create the link, if that was allowed.
    pub(crate) fn open(&self, common: &Common, desired: &Desired) -> Result<VipManager, Error> {
        let builder = desired.builder(common)?;
        let builder = match self.create_link {
            None => builder,
            Some(Create::Auto) => builder.create_link(LinkKind::Auto),
            Some(Create::Dummy) => builder.create_link(LinkKind::Dummy),
            Some(Create::Bridge) => builder.create_link(LinkKind::Bridge),
        };
        builder.open()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Create {
    /// A dummy link, or else a bridge
    Auto,
    /// A dummy link
    Dummy,
    /// A bridge without ports and without ARP
    Bridge,
}

/// What the commands take that release VIPs which are not desired.
#[derive(Debug, Args)]
pub(crate) struct Claiming {
    /// Which VIPs on the link to release if they are not given: all on the link, those with the
    /// mark (--protocol or --address-protocol), or those in the prefixes
    ///
    /// A VIP that is given is put on the link, claimed or not.
    #[arg(long, value_name = "link|mark|PREFIX[,PREFIX...]", value_parser = parse::claim)]
    claim: Claimed,
    /// Refuse a call that would release more than N VIPs, before anything is written
    #[arg(long, value_name = "N", value_parser = parse::count, requires = "claim")]
    at_most: Option<usize>,
}

impl Claiming {
    pub(crate) fn claim(&self) -> Claim {
        let claim = Claim::from(self.claim.clone());
        match self.at_most {
            Some(vips) => claim.at_most(vips),
            None => claim,
        }
    }

    /// Says if VIPs are given that no later call releases, because the claim does not cover them.
    pub(crate) fn complain_of_unclaimed(&self, vips: &[Vip]) {
        let Claimed::Ranges(ranges) = &self.claim else {
            return;
        };
        let is_claimed = |vip: &Vip| ranges.iter().any(|range| range.contains(&vip.addr()));
        let mut unclaimed = vips.iter().filter(|vip| !is_claimed(vip));
        let Some(first) = unclaimed.next() else {
            return;
        };
        let others = match unclaimed.count() {
            0 => String::new(),
            1 => " and another VIP".to_owned(),
            more => format!(" and {more} other VIPs"),
        };
        complain(format_args!(
            "hint: --claim does not cover {first}{others}: to release what is not claimed, use `vip \
             release`"
        ));
    }
}

/// A VIP of the command line.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Vip(Vip),
    StandardInput,
}

impl FromStr for Item {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "-" => Ok(Self::StandardInput),
            _ => parse::vip(text).map(Self::Vip),
        }
    }
}

fn protocol(text: &str) -> Result<Protocol, &'static str> {
    text.parse()
        .ok()
        .and_then(Protocol::new)
        .ok_or("give a number from 1 to 255")
}
