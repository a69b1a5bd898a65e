//! The plugin's part of a network configuration.

use std::fs::File;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};
use rscni_plugin::error::Error;
use rscni_plugin::types::NetConf;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use viproute::{LinkKind, Vip, VipManager, VipManagerBuilder};

use crate::failure;
use crate::links::Attachment;

/// Whose network namespace holds the VIPs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Place {
    #[default]
    Host,
    Container,
}

impl Place {
    /// Reads no other key: DEL works, whatever else is wrong.
    pub(crate) fn of(conf: &NetConf) -> Result<Self, Error> {
        read("place", conf.custom.get("place"))
    }

    /// Moves this process into the namespace. [`Error::InvalidNetNS`] if the namespace is gone.
    pub(crate) fn enter(self, netns: Option<&PathBuf>) -> Result<(), Error> {
        if self == Self::Host {
            return Ok(());
        }
        let path = netns.ok_or_else(|| Error::InvalidNetNS("CNI_NETNS is not set".into()))?;
        let entered = File::open(path)
            .and_then(|netns| setns(netns, CloneFlags::CLONE_NEWNET).map_err(Into::into));
        entered.map_err(|error| {
            let text = format!("{}: {error}", path.display());
            match error.kind() {
                // setns(2) fails with EINVAL for a file that is no network namespace (any more).
                ErrorKind::NotFound | ErrorKind::InvalidInput => Error::InvalidNetNS(text),
                _ => Error::IOFailure(text),
            }
        })
    }
}

/// The address of a VIP, in text with or without its prefix length.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Host(IpAddr);

impl TryFrom<String> for Host {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Ok(addr) = text.parse() {
            return Ok(Self(addr));
        }
        match text.parse::<IpNet>() {
            Ok(net) if net.prefix_len() == net.max_prefix_len() => Ok(Self(net.addr())),
            Ok(net) => {
                let bits = net.max_prefix_len();
                Err(format!(
                    "{text} is a range: a VIP has no prefix length, or /{bits}"
                ))
            }
            Err(_) => Err(format!("{text:?} is no address")),
        }
    }
}

/// The plugin's own keys. A configuration has further keys, which are other programs'.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Keys {
    place: Place,
    vips: Vec<Host>,
    sources: Vec<IpAddr>,
}

/// A configuration that was read and checked.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) place: Place,
    pub(crate) vips: Vec<Vip>,
    pub(crate) sources: Vec<IpAddr>,
}

impl Config {
    /// Reads the configuration of an attachment, which has VIPs.
    pub(crate) fn of_attachment(conf: &NetConf) -> Result<Self, Error> {
        let config = Self::of_node(conf)?;
        if config.vips.is_empty() {
            let text = "no VIPs: give the key vips, or runtimeConfig.ips by the capability ips";
            return Err(Error::InvalidNetworkConfig(text.into()));
        }
        Ok(config)
    }

    /// Reads a configuration that may lack VIPs.
    pub(crate) fn of_node(conf: &NetConf) -> Result<Self, Error> {
        let custom = conf.custom.clone().into_iter().collect();
        let mut keys: Keys = read("configuration", Some(&Value::Object(custom)))?;
        let runtime = conf.runtime_config.as_ref();
        let ips = runtime.and_then(|runtime| runtime.custom.get("ips"));
        keys.vips
            .extend(read::<Vec<Host>>("runtimeConfig.ips", ips)?);
        if keys.sources.is_empty() && keys.place == Place::Container {
            keys.sources = addresses_of_container(conf);
        }
        let mut vips: Vec<_> = keys.vips.iter().map(|host| Vip::from(host.0)).collect();
        vips.sort_unstable();
        vips.dedup();
        Ok(Self {
            place: keys.place,
            vips,
            sources: keys.sources,
        })
    }

    /// A manager of the attachment's link, which it brings up without further addresses.
    pub(crate) fn manager(&self, attachment: &Attachment) -> Result<VipManager, Error> {
        self.open(VipManager::builder(attachment.link()).create_link(LinkKind::Auto))
    }

    /// Opens a manager with the sources.
    pub(crate) fn open(&self, mut builder: VipManagerBuilder) -> Result<VipManager, Error> {
        for source in &self.sources {
            builder = builder.source(*source);
        }
        builder.open().map_err(failure::of_call)
    }
}

/// Reads a value of a configuration, which may be absent.
fn read<T: DeserializeOwned + Default>(name: &str, value: Option<&Value>) -> Result<T, Error> {
    match value {
        None | Some(Value::Null) => Ok(T::default()),
        Some(value) => T::deserialize(value)
            .map_err(|error| Error::InvalidNetworkConfig(format!("{name}: {error}"))),
    }
}

/// The first address of each family that the previous plugin gave the container.
fn addresses_of_container(conf: &NetConf) -> Vec<IpAddr> {
    let ips = conf.prev_result.iter().flat_map(|result| &result.ips);
    let addrs: Vec<_> = ips.map(|ip| ip.address.addr()).collect();
    let v4 = addrs.iter().find(|addr| addr.is_ipv4());
    let v6 = addrs.iter().find(|addr| addr.is_ipv6());
    v4.into_iter().chain(v6).copied().collect()
}
