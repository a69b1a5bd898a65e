//! What several commands take, and what it makes of a manager.

use std::io;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use viproute::{Binding, Claim, Error, Netns, Protocol, Vip, VipManager, VipManagerBuilder};

use crate::Stop;
use crate::parse::{self, BadList, Claimed};
use crate::program::say;
use crate::target::{Making, Target};

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The protocol of the VIPs' routes (rtm_protocol), 1 to 255; 2 is `kernel`
    #[arg(long, value_name = "NUMBER", default_value = "2", value_parser = protocol)]
    protocol: Protocol,
    /// Mark the VIPs' addresses with this protocol (IFA_PROTO, Linux 5.18), 1 to 255
    #[arg(long, value_name = "NUMBER", value_parser = protocol)]
    address_protocol: Option<Protocol>,
    /// Bind VIPs by their routes alone, without an address on the link
    #[arg(long)]
    route_only: bool,
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
        let mut builder = self.target.builder().protocol(self.protocol);
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

    fn has_mark(&self) -> bool {
        self.protocol != Protocol::KERNEL || self.address_protocol.is_some()
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

    /// A manager that may create the link, if that was allowed.
    pub(crate) fn open(&self, common: &Common, making: &Making) -> Result<VipManager, Error> {
        making.allow(self.builder(common)?).open()
    }
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

    /// Says which option a claim by mark lacks, and if VIPs are given that no later call releases, because
    /// the claim does not cover them.
    pub(crate) fn give_hints(&self, common: &Common, vips: &[Vip]) {
        let ranges = match &self.claim {
            Claimed::Link => return,
            Claimed::Mark if common.has_mark() => return,
            Claimed::Mark => {
                return say(format_args!(
                    "hint: --address-protocol sets a mark, and so does a --protocol other than 2"
                ));
            }
            Claimed::Ranges(ranges) => ranges,
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
        say(format_args!(
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
