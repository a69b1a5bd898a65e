//! Address labels, which keep the kernel from choosing a VIP as the source of other traffic.

use std::net::IpAddr;

use ipnet::Ipv6Net;

use crate::base::{Family, NO_LINK, Vip, named};
use crate::link;
use crate::netlink::connection::{Connection, Dumped, Failed};
use crate::netlink::decode::Label;
use crate::netlink::encode::{dump_labels, label_message};
use crate::outcome::{Error, ErrorKind};

/// How IPv6 VIPs are kept from being chosen as the source of traffic to other destinations
/// (RFC 6724, section 5: source address selection). See
/// [`VipManagerBuilder::avoid_as_source`](crate::VipManagerBuilder::avoid_as_source).
///
/// | | [`AddressLabel`](Self::AddressLabel) | [`Deprecated`](Self::Deprecated) |
/// |---|---|---|
/// | avoids | if the node has an address of the destination's label | if the node has any address of sufficient scope |
/// | costs | one message for each link and prefix, once; each call reads the table | adding a VIP takes about twice the time |
/// | is stored in | the namespace's table of address labels | the address |
/// | covers | every address on the link | addresses that the manager adds |
///
/// ```
/// use viproute::{SourceAvoidance, VipManager};
///
/// let vips = VipManager::builder("kube-dummy-if")
///     .source("2001:db8::10".parse::<std::net::IpAddr>()?)
///     .avoid_as_source(SourceAvoidance::AddressLabel)
///     .open()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceAvoidance {
    /// By a label for the addresses of the link, as `ip addrlabel add prefix ::/0 dev LINK label 99`
    /// adds it (RFC 6724, rule 6: prefer matching label). The label is [`LABEL`](Self::LABEL) or that
    /// of [`VipManagerBuilder::address_label`](crate::VipManagerBuilder::address_label). An existing
    /// entry for the link may have any label that no destination has.
    ///
    /// The first call that assigns or repairs VIPs adds the missing entries: one for `::/0`, and one
    /// for each longer prefix of the table that contains a VIP, because a longer prefix wins. In the
    /// kernel's own table that is `fc00::/7`, for VIPs with unique local addresses.
    ///
    /// The kernel keeps the entries when the link is deleted. A link that is created again has another
    /// index and gets its own entries. The manager then removes the entries that it added for the deleted
    /// link. A plan does not list that removal. No entry shows which program added it, so the entries of a manager
    /// that ended before stay, and apply to the next link with that index. `ip addrlabel list` shows them
    /// as `dev if7`, with the old index, and `ip addrlabel del prefix ::/0 dev if7 label 99` removes one.
    /// Each entry that stays costs time whenever the kernel chooses an IPv6 source address
    /// (`__ipv6_addr_label`, net/ipv6/addrlabel.c).
    ///
    /// The rule needs an address of the node with the destination's label. For example, a node with
    /// only global addresses has none for unique local destinations. The kernel then chooses the
    /// longest common prefix (rule 8), which may be a VIP's. Use [`Deprecated`](Self::Deprecated) on
    /// such nodes.
    AddressLabel,
    /// By a preferred lifetime of 0 and an infinite valid lifetime. The kernel chooses a deprecated
    /// address (RFC 4862, 5.5.4) only if the node has no other address of sufficient scope (RFC 6724,
    /// rule 3).
    ///
    /// Applies to the addresses that the manager adds. An existing address keeps its lifetimes.
    Deprecated,
}

named! { SourceAvoidance:
    Self::AddressLabel => "address_label", "by an address label";
    Self::Deprecated => "deprecated", "by deprecated addresses";
}

impl SourceAvoidance {
    /// The default label of [`AddressLabel`](Self::AddressLabel). No destination may have it. The
    /// labels of the kernel's own table are at most 12. Pacemaker gives the same label to destinations
    /// by default (`lvs_ipv6_addrlabel_value` of IPaddr2).
    pub const LABEL: u32 = 99;
}

/// How often entries are added while other writers change the table.
const ATTEMPTS: u32 = 5;

/// A label, and the link whose VIPs get it.
#[derive(Clone, Copy)]
pub(crate) struct Labelling<'a> {
    pub(crate) link: u32,
    pub(crate) name: &'a str,
    pub(crate) label: u32,
}

impl Labelling<'_> {
    fn entry(self, prefix: Ipv6Net) -> Label {
        Label {
            prefix,
            link: self.link,
            label: self.label,
        }
    }

    /// The prefixes without an entry for the link, or the entry that conflicts with the label.
    ///
    /// The kernel uses the longest prefix, and prefers an entry for the link to an entry for all links
    /// (`ip6addrlbl_add`, `__ipv6_addr_label`, net/ipv6/addrlabel.c). A link that does not exist yet
    /// ([`NO_LINK`]) has no entries.
    fn missing(
        self,
        table: &[Label],
        vips: impl Iterator<Item = Vip>,
    ) -> Result<Vec<Ipv6Net>, Label> {
        let Labelling { link, label, .. } = self;
        // An entry that gives this label to destinations.
        let destinations = |label| {
            let has = move |entry: &&Label| entry.link == 0 && entry.label == label;
            table.iter().find(has).copied()
        };
        let mut entries: Vec<&Label> = table
            .iter()
            .filter(|entry| entry.link == 0 || entry.link == link)
            .collect();
        entries.sort_by_key(|entry| std::cmp::Reverse((entry.prefix.prefix_len(), entry.link)));
        let of_link = |entry: &Label| entry.link != NO_LINK && entry.link == link;
        let mut missing = Vec::new();
        for vip in vips {
            let IpAddr::V6(addr) = vip.addr() else {
                continue;
            };
            let entry = entries.iter().find(|entry| entry.prefix.contains(&addr));
            let prefix = match entry {
                Some(entry) if of_link(entry) => match destinations(entry.label) {
                    // No destination has this label.
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
}

/// Labels these VIPs on the link, and removes the entries in `added` whose link is gone. Returns the number of
/// messages sent. `added` are the entries that the manager has added, by this call and by former ones.
pub(crate) fn label(
    connection: &mut Connection,
    how: Labelling<'_>,
    vips: impl Iterator<Item = Vip> + Clone,
    added: &mut Vec<Label>,
) -> Result<u64, Error> {
    if !vips.clone().any(|vip| vip.family() == Family::V6) {
        return Ok(0);
    }
    let mut writes = 0;
    for _ in 0..ATTEMPTS {
        let table = read(connection, how)?;
        let missing = how.missing(&table, vips.clone());
        let missing = missing.map_err(|entry| conflict(&entry, how))?;
        if missing.is_empty() {
            return Ok(writes + remove_stale(connection, how, &table, added));
        }
        for prefix in missing {
            let entry = how.entry(prefix);
            writes += 1;
            match set(connection, libc::RTM_NEWADDRLABEL, &entry) {
                Ok(()) if !added.contains(&entry) => added.push(entry),
                // Another writer was faster. The next reading shows the entry's label.
                Err(failed) if failed.errno() != Some(libc::EEXIST) => {
                    return Err(failed.into_error(format!(
                        "cannot add an address label for {prefix} on link {}",
                        how.name
                    )));
                }
                _ => {}
            }
        }
    }
    Err(restless(how.name))
}

/// Removes the entries of `added` whose link is gone, unless another program has changed them: the kernel
/// keeps them (net/ipv6/addrlabel.c). Forgets the entries of other links. No VIP waits for this, so the next call
/// tries again what fails. Returns the number of messages that write.
fn remove_stale(
    connection: &mut Connection,
    how: Labelling<'_>,
    table: &[Label],
    added: &mut Vec<Label>,
) -> u64 {
    let mut writes = 0;
    added.retain(|entry| {
        if entry.link == how.link {
            return true;
        }
        if !table.contains(entry) {
            return false;
        }
        match link::exists(connection, entry.link) {
            Ok(true) => false,
            Ok(false) => {
                writes += 1;
                let removed = set(connection, libc::RTM_DELADDRLABEL, entry);
                removed.is_err_and(|failed| failed.errno() != Some(libc::ESRCH))
            }
            Err(_) => true,
        }
    });
    writes
}

fn set(connection: &mut Connection, kind: u16, entry: &Label) -> Result<(), Failed> {
    connection.set(|out, sequence| label_message(out, sequence, kind, entry))
}

/// The prefixes that [`label`] would label. Writes nothing.
pub(crate) fn preview(
    connection: &mut Connection,
    how: Labelling<'_>,
    vips: impl Iterator<Item = Vip> + Clone,
) -> Result<Vec<Ipv6Net>, Error> {
    if !vips.clone().any(|vip| vip.family() == Family::V6) {
        return Ok(Vec::new());
    }
    let missing = how.missing(&read(connection, how)?, vips);
    missing.map_err(|entry| conflict(&entry, how))
}

fn restless(name: &str) -> Error {
    Error::new(
        ErrorKind::LabelConflict,
        format!(
            "another writer keeps changing the address labels of link {name}: find and stop it"
        ),
    )
}

/// The whole table.
fn read(connection: &mut Connection, how: Labelling<'_>) -> Result<Vec<Label>, Error> {
    let (table, dumped) = connection
        .collect(dump_labels, |message| message.label())
        .map_err(|failed| failed.into_error("cannot read the address labels".into()))?;
    match dumped {
        Dumped::Complete => Ok(table),
        Dumped::Interrupted => Err(restless(how.name)),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: u32 = 7;

    const HOW: Labelling<'static> = Labelling {
        link: LINK,
        name: "vips",
        label: SourceAvoidance::LABEL,
    };

    fn entry(prefix: &str, link: u32, label: u32) -> Label {
        Label {
            prefix: prefix.parse().unwrap(),
            link,
            label,
        }
    }

    /// The kernel's own table, in its order.
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
        let missing = HOW.missing(table, vips)?;
        Ok(missing.iter().map(Ipv6Net::to_string).collect())
    }

    #[test]
    fn missing_entries_depend_on_the_vips() {
        let table = kernels();
        let none: [&str; 0] = [];
        assert_eq!(missing_of(&table, &["10.96.0.1"]).unwrap(), none);
        assert_eq!(missing_of(&table, &["2001:db8::1"]).unwrap(), ["::/0"]);
        let both = ["fd00::1", "2001:db8::1", "fd00::2", "2001:db8::2"];
        assert_eq!(missing_of(&table, &both).unwrap(), ["fc00::/7", "::/0"]);
        // An empty table labels nothing.
        assert_eq!(missing_of(&[], &both).unwrap(), ["::/0"]);
        // A link that does not exist yet has no entries.
        let vips = both.map(|vip| vip.parse::<Vip>().unwrap());
        let how = Labelling {
            link: NO_LINK,
            ..HOW
        };
        let missing = how.missing(&table, vips.into_iter()).unwrap();
        assert_eq!(
            missing,
            ["fc00::/7", "::/0"].map(|net| net.parse().unwrap())
        );
    }

    #[test]
    fn existing_entries_are_not_missing() {
        let mut table = kernels();
        table.push(entry("::/0", LINK, SourceAvoidance::LABEL));
        // An entry of another link has no effect.
        table.push(entry("fc00::/7", LINK + 1, SourceAvoidance::LABEL));
        let both = ["fd00::1", "2001:db8::1"];
        assert_eq!(missing_of(&table, &both).unwrap(), ["fc00::/7"]);
        table.push(entry("fc00::/7", LINK, SourceAvoidance::LABEL));
        assert!(missing_of(&table, &both).unwrap().is_empty());
        // A longer prefix for all links wins over the link's.
        table.push(entry("fd00::/8", 0, 13));
        assert_eq!(missing_of(&table, &both).unwrap(), ["fd00::/8"]);
    }

    #[test]
    fn conflicting_entries_are_returned() {
        // VIPs would be the source of traffic to global destinations.
        let other = entry("::/0", LINK, 1);
        let mut table = kernels();
        table.push(other);
        assert_eq!(missing_of(&table, &["2001:db8::1"]), Err(other));
        // That entry does not label unique local addresses.
        assert_eq!(missing_of(&table, &["fd00::1"]).unwrap(), ["fc00::/7"]);

        let destinations = entry("2001:db8:7::/48", 0, SourceAvoidance::LABEL);
        let mut table = kernels();
        table.push(destinations);
        assert_eq!(missing_of(&table, &["fd00::1"]), Err(destinations));
    }

    #[test]
    fn label_that_no_destination_has_is_accepted() {
        let mut table = kernels();
        table.push(entry("::/0", LINK, 98));
        let none: [&str; 0] = [];
        assert_eq!(missing_of(&table, &["2001:db8::1"]).unwrap(), none);
        // Pacemaker gives 99 to a destination, which does not matter for 98.
        table.push(entry("2001:db8:9::9/128", 0, SourceAvoidance::LABEL));
        assert_eq!(missing_of(&table, &["2001:db8::1"]).unwrap(), none);
    }
}
