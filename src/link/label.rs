//! Whether the kernel may choose a VIP as the source of traffic to other destinations.

use std::fmt;

use std::net::IpAddr;

use ipnet::Ipv6Net;

use crate::base::{Family, Vip};
use crate::link;
use crate::netlink::connection::{Connection, Dumped};
use crate::netlink::decode::Label;
use crate::netlink::encode::{add_label_message, dump_labels};
use crate::outcome::{Error, ErrorKind};

/// How IPv6 VIPs are kept from being chosen as the source of traffic to other destinations
/// (RFC 6724, section 5: source address selection). See
/// [`VipManagerBuilder::avoid_as_source`](crate::VipManagerBuilder::avoid_as_source).
///
/// | | [`AddressLabel`](Self::AddressLabel) | [`Deprecated`](Self::Deprecated) |
/// |---|---|---|
/// | avoids | if the node has an address of the destination's label | if the node has any address of sufficient scope |
/// | costs | one message a link and kind of prefix, once; a look at the table a call | adding a VIP takes about twice the time |
/// | lives in | the table of address labels, which is the namespace's | the address |
/// | covers | every address on the link | addresses that the manager adds |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceAvoidance {
    /// By a label for the addresses of the link, [`LABEL`](Self::LABEL) or that of
    /// [`VipManagerBuilder::address_label`](crate::VipManagerBuilder::address_label), as
    /// `ip addrlabel add prefix ::/0 dev LINK label 99` would put it (RFC 6724, rule 6: prefer
    /// matching label). An entry for the link that is there already may have any label that no
    /// destination has.
    ///
    /// The first call that puts or repairs VIPs adds the entries that are missing: one for `::/0`,
    /// and one for each longer prefix of the table that VIPs are in, which would win over it. In
    /// the kernel's own table that is `fc00::/7`, where VIPs have unique local addresses. They are
    /// never removed by this crate; the kernel too keeps them when the link is deleted, so that
    /// one that is created again, with another index, gets entries of its own.
    ///
    /// The rule decides where an address of the node has the same label as the destination, but
    /// not where none has: a node with only global addresses, towards unique local destinations,
    /// goes by the longest common prefix (rule 8), and may choose a VIP. There only
    /// [`Deprecated`](Self::Deprecated) helps.
    AddressLabel,
    /// By a preferred lifetime of 0, valid for ever: a deprecated address (RFC 4862, 5.5.4) is
    /// chosen only where there is no other of sufficient scope (RFC 6724, rule 3).
    ///
    /// Applies to the addresses that the manager adds. One that is there already with another
    /// lifetime is left as it is.
    Deprecated,
}

impl SourceAvoidance {
    /// A stable name for machines, in snake_case: `address_label`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AddressLabel => "address_label",
            Self::Deprecated => "deprecated",
        }
    }
}

impl fmt::Display for SourceAvoidance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AddressLabel => "by an address label",
            Self::Deprecated => "by deprecated addresses",
        })
    }
}

impl SourceAvoidance {
    /// The default label of [`AddressLabel`](Self::AddressLabel). It matters only that no
    /// destination has it; the kernel's own table goes up to 12. It is pacemaker's default, too
    /// (`lvs_ipv6_addrlabel_value` of its IPaddr2), which gives it to destinations.
    pub const LABEL: u32 = 99;
}

/// How often the table is read, when others write to it.
const ATTEMPTS: u32 = 5;

/// A label, and the link whose VIPs are to have it.
#[derive(Clone, Copy)]
pub(crate) struct Labelling<'a> {
    pub(crate) link: u32,
    pub(crate) name: &'a str,
    pub(crate) label: u32,
}

/// Sees to it that these VIPs, on this link, have our label. Returns how many messages that took.
pub(crate) fn label(
    connection: &mut Connection,
    how: Labelling<'_>,
    vips: impl Iterator<Item = Vip> + Clone,
) -> Result<u64, Error> {
    if !vips.clone().any(|vip| vip.family() == Family::V6) {
        return Ok(0);
    }
    let mut writes = 0;
    for _ in 0..ATTEMPTS {
        let Some(missing) = unlabelled(connection, how, vips.clone())? else {
            continue;
        };
        if missing.is_empty() {
            return Ok(writes);
        }
        for prefix in missing {
            let added = connection.set(|out, sequence| {
                add_label_message(out, sequence, &prefix, how.link, how.label);
            });
            writes += 1;
            match added {
                // Somebody else was faster. With which label, the next look tells.
                Err(failed) if failed.errno() == Some(libc::EEXIST) => {}
                Err(failed) => {
                    return Err(failed.into_error(format!(
                        "cannot add an address label for {prefix} on link {}",
                        how.name
                    )));
                }
                Ok(()) => {}
            }
        }
    }
    Err(restless(how.name))
}

/// The prefixes to which [`label`] would give our label. Writes nothing.
pub(crate) fn preview(
    connection: &mut Connection,
    how: Labelling<'_>,
    vips: impl Iterator<Item = Vip> + Clone,
) -> Result<Vec<Ipv6Net>, Error> {
    if !vips.clone().any(|vip| vip.family() == Family::V6) {
        return Ok(Vec::new());
    }
    for _ in 0..ATTEMPTS {
        if let Some(missing) = unlabelled(connection, how, vips.clone())? {
            return Ok(missing);
        }
    }
    Err(restless(how.name))
}

/// The prefixes that lack our label; `None` if the table could not be read as a whole.
fn unlabelled(
    connection: &mut Connection,
    how: Labelling<'_>,
    vips: impl Iterator<Item = Vip>,
) -> Result<Option<Vec<Ipv6Net>>, Error> {
    let Some(table) = read(connection)? else {
        return Ok(None);
    };
    let missing =
        missing(&table, how.link, how.label, vips).map_err(|entry| conflict(&entry, how))?;
    Ok(Some(missing))
}

fn restless(name: &str) -> Error {
    Error::new(
        ErrorKind::LabelConflict,
        format!("somebody else keeps changing the address labels of link {name}"),
    )
}

/// The table; `None` if it could not be read as a whole.
fn read(connection: &mut Connection) -> Result<Option<Vec<Label>>, Error> {
    let mut table = Vec::new();
    let dumped = connection
        .dump(dump_labels, |message| {
            table.extend(message.label()?);
            Ok(())
        })
        .map_err(|failed| failed.into_error("cannot read the address labels".into()))?;
    Ok((dumped == Dumped::Complete).then_some(table))
}

fn conflict(entry: &Label, how: Labelling<'_>) -> Error {
    let Label {
        prefix,
        link,
        label,
    } = entry;
    let text = if *link == 0 {
        format!(
            "destinations in {prefix} have the address label {label}, by which VIPs would be \
             chosen as their source: give VIPs another label, or change that entry"
        )
    } else {
        format!(
            "addresses in {prefix} on link {} have the address label {label}, which destinations \
             have, too, whose source they would be: remove that entry",
            how.name
        )
    };
    Error::new(ErrorKind::LabelConflict, text)
}

/// The prefixes for which entries are missing, or else an entry that is in the way.
///
/// The kernel takes the longest prefix, and of two of the same length the one of the link
/// (`ip6addrlbl_add`, `__ipv6_addr_label`, net/ipv6/addrlabel.c). A link that is yet to be created
/// ([`NONE`](link::NONE)) has no entries.
fn missing(
    table: &[Label],
    link: u32,
    label: u32,
    vips: impl Iterator<Item = Vip>,
) -> Result<Vec<Ipv6Net>, Label> {
    // Which destinations have this label.
    let destinations = |label| {
        let has = move |entry: &&Label| entry.link == 0 && entry.label == label;
        table.iter().find(has).copied()
    };
    let mut entries: Vec<&Label> = table
        .iter()
        .filter(|entry| entry.link == 0 || entry.link == link)
        .collect();
    entries.sort_by_key(|entry| std::cmp::Reverse((entry.prefix.prefix_len(), entry.link)));
    let of_link = |entry: &Label| entry.link != link::NONE && entry.link == link;
    let mut missing = Vec::new();
    for vip in vips {
        let IpAddr::V6(addr) = vip.addr() else {
            continue;
        };
        let entry = entries.iter().find(|entry| entry.prefix.contains(&addr));
        let prefix = match entry {
            Some(entry) if of_link(entry) => match destinations(entry.label) {
                // Whichever label it is, no destination has it.
                None => continue,
                Some(other) if entry.label == label => return Err(other),
                Some(_) => return Err(**entry),
            },
            Some(entry) => entry.prefix,
            None => Ipv6Net::default(),
        };
        if let Some(other) = destinations(label) {
            return Err(other);
        }
        if !missing.contains(&prefix) {
            missing.push(prefix);
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: u32 = 7;

    fn entry(prefix: &str, link: u32, label: u32) -> Label {
        Label {
            prefix: prefix.parse().unwrap(),
            link,
            label,
        }
    }

    /// As the kernel has it, and in its order.
    fn kernels() -> Vec<Label> {
        [
            ("::1/128", 0),
            ("::ffff:0:0/96", 4),
            ("2001::/32", 6),
            ("2001:10::/28", 7),
            ("2002::/16", 2),
            ("fc00::/7", 5),
            ("::/0", 1),
        ]
        .map(|(prefix, label)| entry(prefix, 0, label))
        .into()
    }

    fn missing_of(table: &[Label], vips: &[&str]) -> Result<Vec<String>, Label> {
        let vips = vips.iter().map(|vip| vip.parse::<Vip>().unwrap());
        let missing = missing(table, LINK, SourceAvoidance::LABEL, vips)?;
        Ok(missing.iter().map(Ipv6Net::to_string).collect())
    }

    #[test]
    fn what_is_missing_goes_by_the_vips() {
        let table = kernels();
        let none: [&str; 0] = [];
        assert_eq!(missing_of(&table, &["10.96.0.1"]).unwrap(), none);
        assert_eq!(missing_of(&table, &["2001:db8::1"]).unwrap(), ["::/0"]);
        let both = ["fd00::1", "2001:db8::1", "fd00::2", "2001:db8::2"];
        assert_eq!(missing_of(&table, &both).unwrap(), ["fc00::/7", "::/0"]);
        // An empty table labels nothing.
        assert_eq!(missing_of(&[], &both).unwrap(), ["::/0"]);
        // The entries for all links are not those of a link that is yet to come.
        let vips = both.map(|vip| vip.parse::<Vip>().unwrap());
        let missing =
            missing(&table, link::NONE, SourceAvoidance::LABEL, vips.into_iter()).unwrap();
        assert_eq!(
            missing,
            ["fc00::/7", "::/0"].map(|net| net.parse().unwrap())
        );
    }

    #[test]
    fn what_is_there_is_not_missing() {
        let mut table = kernels();
        table.push(entry("::/0", LINK, SourceAvoidance::LABEL));
        // Of another link: means nothing.
        table.push(entry("fc00::/7", LINK + 1, SourceAvoidance::LABEL));
        let both = ["fd00::1", "2001:db8::1"];
        assert_eq!(missing_of(&table, &both).unwrap(), ["fc00::/7"]);
        table.push(entry("fc00::/7", LINK, SourceAvoidance::LABEL));
        assert!(missing_of(&table, &both).unwrap().is_empty());
        // A longer prefix for all links wins over ours.
        table.push(entry("fd00::/8", 0, 13));
        assert_eq!(missing_of(&table, &both).unwrap(), ["fd00::/8"]);
    }

    #[test]
    fn entries_in_the_way() {
        // VIPs would be the source of traffic to global destinations.
        let other = entry("::/0", LINK, 1);
        let mut table = kernels();
        table.push(other);
        assert_eq!(missing_of(&table, &["2001:db8::1"]), Err(other));
        // It is not what labels these.
        assert_eq!(missing_of(&table, &["fd00::1"]).unwrap(), ["fc00::/7"]);

        let destinations = entry("2001:db8:7::/48", 0, SourceAvoidance::LABEL);
        let mut table = kernels();
        table.push(destinations);
        assert_eq!(missing_of(&table, &["fd00::1"]), Err(destinations));
    }

    #[test]
    fn a_label_that_no_destination_has_is_as_good() {
        let mut table = kernels();
        table.push(entry("::/0", LINK, 98));
        let none: [&str; 0] = [];
        assert_eq!(missing_of(&table, &["2001:db8::1"]).unwrap(), none);
        // Pacemaker gives 99 to its own address, as a destination: of no concern to 98.
        table.push(entry("2001:db8:9::9/128", 0, SourceAvoidance::LABEL));
        assert_eq!(missing_of(&table, &["2001:db8::1"]).unwrap(), none);
    }
}
