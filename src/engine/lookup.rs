//! Observing a few rows one by one, by look-ups and by what notifications said of them, without
//! reading the rest of the link.

use super::arrival::note_arrival;
use super::read::Observer;
use crate::base::{Family, IP6_USER_METRIC, TABLE_MAIN, Vip, is_shortage};
use crate::core::{Binding, Done, Facts, Goal, Row, Rows};
use crate::netlink::connection::{Dumped, Failed};
use crate::netlink::decode::{Address, Message, Route};
use crate::netlink::encode::get_address_message;

/// How many VIPs are looked at one by one, which takes some system calls each, rather than with a
/// look at all that is on the link.
pub(crate) const LOOKUP_MAX: usize = 16;

/// What notifications told of a VIP.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notified {
    /// Whether its address is on the link, as a host prefix.
    pub(crate) address: Option<bool>,
    /// The address has a lifetime: an IPv4 one is to be read, for what its update must repeat.
    pub(crate) expires: bool,
    /// It was not verified before all that is told: nothing else is known. Then only what is new to
    /// the link can be told without reading the link, or what goes.
    pub(crate) unverified: bool,
    /// Routes to it through the link that were added, except for the wanted one.
    pub(crate) routes: Vec<Route>,
}

impl Notified {
    /// Takes note of a notification of the VIP's address.
    pub(crate) fn note_address(&mut self, address: &Address, added: bool) {
        self.address = Some(added);
        self.expires = added && address.valid != u32::MAX;
    }
}

/// A few rows that are observed one by one.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    /// What notifications told of them.
    pub(crate) all_notified: Vec<(Vip, Notified)>,
}

impl Lookup {
    /// Of rows of which nothing is known.
    pub(crate) fn unknown(rows: &Rows) -> Self {
        let unknown = Notified {
            unverified: true,
            ..Notified::default()
        };
        let all_notified = rows.iter().map(|row| (row.vip, unknown.clone()));
        Self {
            all_notified: all_notified.collect(),
        }
    }

    fn notified(&self, vip: Vip) -> Option<&Notified> {
        let notified = self.all_notified.iter().find(|(of, _)| *of == vip);
        notified.map(|(_, notified)| notified)
    }

    fn is_unverified(&self, vip: Vip) -> bool {
        self.notified(vip)
            .is_none_or(|notified| notified.unverified)
    }

    /// Takes note of a notification of an IPv4 address, which the kernel cannot be asked for.
    fn note_address(&mut self, message: &Message<'_>, link: u32) {
        let added = match message.kind {
            libc::RTM_NEWADDR => true,
            libc::RTM_DELADDR => false,
            _ => return,
        };
        let Ok(Some(address)) = message.address() else {
            return;
        };
        let vip = Vip::from(address.addr);
        if vip.family() == Family::V4
            && address.link == link
            && address.prefix_length == Family::V4.host_bits()
            && let Some((_, notified)) = self.all_notified.iter_mut().find(|(of, _)| *of == vip)
        {
            notified.note_address(&address, added);
        }
    }
}

impl Observer<'_> {
    /// Observes a few rows one by one, without reading the rest of the link: the address of each
    /// IPv6 row and the winning route of each row are asked for, and notifications tell the rest.
    /// Returns whether that was enough; if not, [`observe`](Self::observe).
    ///
    /// IPv4 cannot be asked for one address, so its rows need a notification of that. What a call
    /// that begins supposes of one is put to the proof by what it writes.
    ///
    /// With `scan_main`, what is to be released is looked for in table main as well, behind what a
    /// look-up finds. `scan_main` then says whether that held anything of the rows on our link.
    pub(crate) fn observe_by_lookup(
        &mut self,
        lookup: &mut Lookup,
        scan_main: &mut bool,
    ) -> Result<bool, Failed> {
        let (rows, link) = (&mut *self.rows, self.context.link);
        let heard = self.connection.notifications(|message| {
            lookup.note_address(message, link);
            note_arrival(message, rows, link);
        })?;
        self.rows.begin();
        let (rows, context, admit) = (&mut *self.rows, &self.context, self.admit);
        let mut unknown = heard == Dumped::Interrupted;
        // What may stand before a route there, its notification does not tell.
        let mut told_of_main = false;
        for at in 0..rows.len() {
            let Some(row) = rows.iter().nth(at).copied() else {
                break;
            };
            let vip = row.vip;
            let notified = lookup.notified(vip);
            match vip.family() {
                Family::V6 => {
                    let asked = self.connection.get(
                        |out, sequence| {
                            get_address_message(out, sequence, &vip.addr(), context.link);
                        },
                        |message| message.address(),
                    );
                    match asked {
                        Ok(Some(address)) => rows.join_address(&address, context, admit),
                        Ok(None) => {}
                        Err(Failed::Refused(refusal)) if is_shortage(refusal.errno) => {
                            unknown = true;
                        }
                        Err(Failed::Refused(refusal)) if refusal.errno != libc::ENODEV => {}
                        Err(failed) => return Err(failed),
                    }
                }
                Family::V4 => match notified.and_then(|notified| notified.address) {
                    Some(true) => {
                        rows.join_known_address(vip);
                        unknown |= notified.is_some_and(|notified| notified.expires);
                    }
                    Some(false) => {}
                    None => unknown |= row.progress.has(Done::WRITTEN) || row.goal != Goal::Assign,
                },
            }
            for route in notified.into_iter().flat_map(|notified| &notified.routes) {
                told_of_main |= rows.join_route(route, context, None);
            }
            let joined = rows.iter().nth(at).map(|row| row.facts).unwrap_or_default();
            unknown |= match vip.family() {
                // It has routes side by side that differ in an MTU only: whether one that was heard of
                // stands beside another, or in its place, nobody told.
                Family::V4 => joined.contains(context.desired_fact(Family::V4)),
                // It deletes by metric and protocol: what else that could hit, or whether it is still
                // there, nobody told.
                Family::V6 => joined.intersects(Facts::EXTRA | Facts::PREFIX),
            };
        }
        let goes = |row: &Row| row.goal == Goal::Release && lookup.is_unverified(row.vip);
        if !unknown && *scan_main && self.rows.iter().any(goes) {
            unknown = self.scan_main(Family::V6, scan_main)? == Dumped::Interrupted;
        }
        // Of IPv6, whatever was told of table main makes the whole to be read.
        if !unknown && told_of_main {
            unknown = self.scan_main(Family::V4, &mut false)? == Dumped::Interrupted;
        }
        self.rows.finish();
        // What is in the place of the wanted one, look-ups tell. A further one stays told of until it
        // is tried to be deleted: something else may come first. For one that is gone, once is
        // enough.
        for (_, notified) in &mut lookup.all_notified {
            notified.routes.retain(is_further);
        }
        if unknown {
            return Ok(false);
        }
        self.look_up(|_| true)?;
        Ok(self.rows.iter().all(|row| {
            if lookup.is_unverified(row.vip) {
                is_all_told(row)
            } else {
                !self.is_hidden(row)
            }
        }))
    }

    /// Whether something may stand behind what look-ups tell of a row that was verified before.
    fn is_hidden(&self, row: &Row) -> bool {
        let family = row.vip.family();
        let kernels = row.facts.contains(Facts::KERNEL);
        // Behind the kernel's route, or another device's, look-ups do not see. Behind that of an
        // address that was just made there is nothing yet; nor behind a wanted one that was
        // verified, unless it was written to since.
        let hidden = kernels
            && if self.context.keeps_kernels(family) {
                row.progress.has(Done::WRITTEN)
            } else {
                family == Family::V6 && !row.progress.has(Done::ADDRESS_IS_NEW)
            };
        // Where a route leads to it, so may an address: nobody told.
        let untold = family == Family::V4
            && !row.facts.contains(Facts::ADDRESS)
            && row.facts.on_link()
            && !row.progress.has(Done::WAS_ABSENT);
        row.facts
            .intersects(Facts::FOREIGN | Facts::LOOKUP_INCONCLUSIVE | Facts::UNREAD)
            || hidden
            || untold
    }
}

/// Whether this is no route in the place of the wanted one, nor the kernel's own local one.
fn is_further(route: &Route) -> bool {
    let in_place = match route.family {
        Family::V4 => route.tos == 0 && route.metric == 0,
        Family::V6 => matches!(route.metric, 0 | IP6_USER_METRIC),
    };
    route.table == TABLE_MAIN || !in_place
}

/// Whether the kernel may have made a prefix route in table main, for an address without
/// `IFA_F_NOPREFIXROUTE`. Only that table tells.
pub(super) fn may_have_prefix_route(row: &Row) -> bool {
    row.vip.family() == Family::V6
        && row.facts.contains(Facts::ADDRESS)
        && !row.facts.contains(Facts::NO_PREFIX_ROUTE)
}

/// Whether look-ups told all of this row, though no more is known of it: where no local route
/// leads to it there is none, and what this call has put there is seen. Behind a route of before,
/// others may stand.
fn is_all_told(row: &Row) -> bool {
    let is_new = row.progress.has(Done::WAS_ABSENT);
    let begins = !row.progress.has(Done::WRITTEN);
    let further = Facts::FOREIGN
        | Facts::LOOKUP_INCONCLUSIVE
        | Facts::OTHER_LENGTH
        | Facts::SAME_KEY
        | Facts::UNREAD;
    if row.facts.intersects(further) || may_have_prefix_route(row) {
        return false;
    }
    match row.goal {
        // Without a local route, an IPv4 address is supposed not to be there: if it is, the kernel
        // refuses to add it.
        Goal::Assign => is_new || begins && !row.facts.on_link(),
        // What stands behind the first route shows once that is gone. But IPv4 has routes for one
        // type of service, which no other look-up finds.
        Goal::Release => row.vip.family() == Family::V6 && (begins || !row.facts.on_link()),
        Goal::Normalize | Goal::Look => false,
    }
}

/// Whether look-ups will tell what becomes of this row, going by what is known of it so far.
pub(crate) fn lookups_suffice(row: &Row, binding: Binding) -> bool {
    match (row.goal, row.vip.family()) {
        // Whether one that is bound by its route has an address, only the link tells.
        (Goal::Assign, Family::V4) => binding == Binding::Address && !row.facts.on_link(),
        (Goal::Assign, Family::V6) => !row.facts.on_link(),
        // So it does whether an IPv4 one that goes has an address of another prefix length, which
        // must keep its routes.
        (Goal::Release, Family::V6) => true,
        _ => false,
    }
}
