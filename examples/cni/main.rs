//! A CNI 1.1 plugin that holds service VIPs, each in its single-route state.
//!
//! Every attachment has a link of its own, named after it, with the attachment as its alias ([`links`]).
//! The link is the whole state. ADD creates the link, DEL deletes it, a failed ADD deletes what it
//! created, and GC deletes the links whose attachment is gone. [`config`] reads the configuration, and
//! the README explains its keys.

mod check;
mod config;
mod failure;
mod links;
mod rtnetlink;

use std::collections::HashSet;
use std::process::ExitCode;

use ipnet::IpNet;
use rscni_plugin::cni::{Cni, Plugin};
use rscni_plugin::error::Error;
use rscni_plugin::types::{Args, CNIResult, Interface, IpConfig};
use viproute::Vip;

use config::{Config, Place};
use links::Attachment;

fn main() -> ExitCode {
    let about = concat!(
        "viproute ",
        env!("CARGO_PKG_VERSION"),
        ": service VIPs of a CNI attachment"
    );
    // `run` has printed the error on standard output, where the specification wants it.
    match Plugin::default().msg(about).run(&Vips) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

struct Vips;

impl Cni for Vips {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        let config = Config::of_attachment(args.config())?;
        let attachment = Attachment::of(&args)?;
        config.place.enter(args.netns())?;
        let _lock = links::lock()?;
        if links::find(&attachment.link())?.is_some() {
            return Err(failure::exists(&attachment.link()));
        }
        hold(&config, &attachment).map_err(|error| match links::delete(&attachment.link()) {
            Ok(()) => error,
            Err(undoing) => failure::both(&error, &undoing),
        })?;
        Ok(result(&args, &config, &attachment))
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        let attachment = Attachment::of(&args)?;
        match Place::of(args.config())?.enter(args.netns()) {
            // The kernel deleted the link together with its namespace.
            Err(Error::InvalidNetNS(_)) => return Ok(()),
            entered => entered?,
        }
        let _lock = links::lock()?;
        match links::find(&attachment.link())? {
            Some(link) if link.may_be_of(&attachment) => links::delete(&link.name),
            _ => Ok(()),
        }
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        let config = Config::of_attachment(args.config())?;
        let attachment = Attachment::of(&args)?;
        config.place.enter(args.netns())?;
        check::await_vips(&config, &attachment)
    }

    fn status(&self, args: Args) -> Result<(), Error> {
        let config = Config::of_node(args.config())?;
        if config.place == Place::Container {
            return Ok(());
        }
        let unusable = check::unusable_sources(&config)?;
        if unusable.is_empty() {
            return Ok(());
        }
        let text = unusable.join("; ");
        Err(if links::of_network(&args.config().name)?.is_empty() {
            Error::PluginNotAvailable(text)
        } else {
            Error::PluginNotAvailableLimitedConnectivity(text)
        })
    }

    /// Deletes links of the host. The links of a container end with its namespace.
    fn gc(&self, args: Args) -> Result<(), Error> {
        // An absent list says nothing about the attachments.
        let Some(valid) = &args.config().valid_attachments else {
            return Ok(());
        };
        let valid: HashSet<_> = valid
            .iter()
            .map(|valid| (valid.container_id.as_str(), valid.ifname.as_str()))
            .collect();
        let _lock = links::lock()?;
        let mut links = links::of_network(&args.config().name)?;
        links.retain(|(_, owner)| {
            !valid.contains(&(owner.container.as_str(), owner.ifname.as_str()))
        });
        // Delete all of them, and then report the first error.
        let deleted: Vec<_> = links.iter().map(|(name, _)| links::delete(name)).collect();
        deleted.into_iter().collect()
    }
}

/// Creates the attachment's link, and puts the VIPs on it.
fn hold(config: &Config, attachment: &Attachment) -> Result<(), Error> {
    let mut manager = config.manager(attachment)?;
    // The link alone, which gets its alias before its VIPs.
    manager.assign(None::<Vip>).map_err(failure::of_call)?;
    links::label(attachment)?;
    let report = manager.assign(config.vips.iter().copied());
    report.map(drop).map_err(failure::of_call)
}

/// The result of ADD: the previous plugin's, or else the link and its VIPs.
fn result(args: &Args, config: &Config, attachment: &Attachment) -> CNIResult {
    if let Some(result) = &args.config().prev_result {
        return result.clone();
    }
    let netns = args.netns().filter(|_| config.place == Place::Container);
    let link = Interface {
        name: attachment.link(),
        mac: String::new(),
        mtu: None,
        sandbox: netns.map(|path| path.display().to_string()),
        socket_path: None,
        pci_id: None,
    };
    let ips = config.vips.iter().map(|vip| IpConfig {
        interface: Some(0),
        address: IpNet::from(vip.addr()),
        gateway: None,
    });
    CNIResult {
        interfaces: vec![link],
        ips: ips.collect(),
        ..CNIResult::default()
    }
}
