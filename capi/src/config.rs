//! The JSON that configures a manager or a keeper, and the JSON of a claim.

use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use viproute::ipnet::IpNet;
use viproute::{Claim, LinkIndex, Netns, Protocol, VipManager, VipManagerBuilder};

use crate::Error;

/// Its keys are explained at `viproute_open`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    link: Link,
    netns: Option<String>,
    #[serde(default)]
    sources: Vec<IpAddr>,
    #[serde(default)]
    kernel_source: Vec<Family>,
    protocol: Option<u8>,
    address_protocol: Option<u8>,
    #[serde(default)]
    binding: Binding,
    avoid_as_source: Option<Avoidance>,
    address_label: Option<u32>,
    #[serde(default)]
    allow: Vec<IpNet>,
    #[serde(default)]
    deny: Vec<IpNet>,
    create_link: Option<Kind>,
    #[serde(default)]
    bring_up: bool,
    stall_timeout_seconds: Option<f64>,
    total_timeout_seconds: Option<f64>,
    receive_buffer: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "the name or the index of a link")]
enum Link {
    Index(u32),
    Name(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Family {
    Ipv4,
    Ipv6,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Binding {
    #[default]
    Address,
    Route,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Avoidance {
    AddressLabel,
    Deprecated,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Dummy,
    Bridge,
}

/// Reads a configuration.
pub(crate) fn manager(json: &str) -> Result<VipManagerBuilder, Error> {
    let config: Config = read(json, "the configuration")?;
    let mut builder = match config.link {
        Link::Name(name) => VipManager::builder(name),
        Link::Index(index) => {
            VipManager::builder(LinkIndex::try_from(index).map_err(Error::config)?)
        }
    };
    if let Some(path) = config.netns {
        builder = builder.netns(Netns::open(path)?);
    }
    for source in config.sources {
        builder = builder.source(source);
    }
    for family in config.kernel_source {
        builder = builder.kernel_source(match family {
            Family::Ipv4 => viproute::Family::V4,
            Family::Ipv6 => viproute::Family::V6,
        });
    }
    if let Some(protocol) = config.protocol {
        builder = builder.protocol(Protocol::try_from(protocol).map_err(Error::config)?);
    }
    if let Some(protocol) = config.address_protocol {
        builder = builder.address_protocol(Protocol::try_from(protocol).map_err(Error::config)?);
    }
    builder = builder.binding(match config.binding {
        Binding::Address => viproute::Binding::Address,
        Binding::Route => viproute::Binding::Route,
    });
    builder = avoidance(builder, config.avoid_as_source, config.address_label)?;
    for range in config.allow {
        builder = builder.allow(range);
    }
    for range in config.deny {
        builder = builder.deny(range);
    }
    if let Some(kind) = config.create_link {
        builder = builder.create_link(match kind {
            Kind::Dummy => viproute::LinkKind::Dummy,
            Kind::Bridge => viproute::LinkKind::Bridge,
        });
    }
    if config.bring_up {
        builder = builder.bring_up();
    }
    if let Some(time) = config.stall_timeout_seconds {
        builder = builder.stall_timeout(seconds(time)?);
    }
    if let Some(time) = config.total_timeout_seconds {
        builder = builder.total_timeout(seconds(time)?);
    }
    if let Some(bytes) = config.receive_buffer {
        builder = builder.receive_buffer(bytes);
    }
    Ok(builder)
}

fn avoidance(
    builder: VipManagerBuilder,
    avoidance: Option<Avoidance>,
    label: Option<u32>,
) -> Result<VipManagerBuilder, Error> {
    Ok(match (avoidance, label) {
        (None, None) => builder,
        (Some(Avoidance::Deprecated), None) => {
            builder.avoid_as_source(viproute::SourceAvoidance::Deprecated)
        }
        (Some(Avoidance::AddressLabel), None) => {
            builder.avoid_as_source(viproute::SourceAvoidance::AddressLabel)
        }
        (Some(Avoidance::AddressLabel), Some(label)) => builder.address_label(label),
        (_, Some(_)) => {
            return Err(Error::config(
                "address_label needs \"avoid_as_source\": \"address_label\"",
            ));
        }
    })
}

fn seconds(time: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(time)
        .map_err(|error| Error::config(format!("{time} seconds: {error}")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimConfig {
    claim: What,
    at_most: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Link,
    Ranges(Vec<IpNet>),
    Mark,
}

/// Reads a claim.
pub(crate) fn claim(json: &str) -> Result<Claim, Error> {
    let config: ClaimConfig = read(json, "the claim")?;
    let claim = match config.claim {
        What::Link => Claim::link(),
        What::Ranges(ranges) => Claim::ranges(ranges),
        What::Mark => Claim::mark(),
    };
    Ok(match config.at_most {
        Some(vips) => claim.at_most(vips),
        None => claim,
    })
}

fn read<'a, T: Deserialize<'a>>(json: &'a str, what: &str) -> Result<T, Error> {
    serde_json::from_str(json).map_err(|error| Error::config(format!("{what}: {error}")))
}
