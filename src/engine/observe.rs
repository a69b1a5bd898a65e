//! Reading the kernel into rows: dumps that notice when they were torn, and look-ups that settle
//! what a torn one left open.

use std::io;

use crate::base::{Family, Vip};
use crate::base::{IP6_USER_METRIC, TABLE_LOCAL, TABLE_MAIN, is_shortage};
use crate::core::{Admit, Answer, Done, Facts, LateRoute, MatchContext, Row, Rows};
use crate::core::{Binding, Goal};
use crate::netlink::connection::{Connection, Dumped, Failed};
use crate::netlink::decode::{Address, Message, Route};
use crate::netlink::dump_cache::{Addresses, Routes};
use crate::netlink::encode::{
    Templates, decision_message, dump_addresses, dump_routes, get_address_message,
};

/// How many VIPs are looked at one by one, which takes some system calls each, rather than with a
/// look at all that is on the link.
pub(crate) const LOOKUP_MAX: usize = 16;

/// How often a torn observation is repeated before look-ups settle it row by row.
const ATTEMPTS: u32 = 3;

/// The same where VIPs are looked for: look-ups do not find one that no dump has told of, but each
/// dump adds those that it finds.
const DISCOVERIES: u32 = 8;

/// The multicast group of a family's route notifications (linux/rtnetlink.h).
pub(crate) const fn route_group(family: Family) -> u32 {
    match family {
        Family::V4 => libc::RTNLGRP_IPV4_ROUTE,
        Family::V6 => libc::RTNLGRP_IPV6_ROUTE,
    }
}

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

/// What the rows are observed with.
pub(crate) struct Observer<'a> {
    pub(crate) connection: &'a mut Connection,
    pub(crate) rows: &'a mut Rows,
    pub(crate) context: MatchContext<'a>,
    pub(crate) templates: &'a [Templates; 2],
    /// Nothing is to be written, so that what other devices have does not matter.
    pub(crate) only_looks: bool,
    /// Since addresses were last looked at, nothing was written but some new IPv6 ones, and all of
    /// those were acked: enough to go on with. What is believed in the end is seen.
    pub(crate) only_new: bool,
    /// Makes VIPs that are found on the link rows, too.
    pub(crate) admit: Option<Admit<'a>>,
}

impl Observer<'_> {
    /// Observes every row. With `scan_main`, table main too; says whether that held anything of
    /// the rows on our link.
    pub(crate) fn observe(&mut self, scan_main: bool) -> Result<bool, Failed> {
        let families = Family::ALL
            .map(|family| (self.admit.is_some() || self.rows.has(family)).then_some(family));
        for family in families.into_iter().flatten() {
            self.connection.monitor().join(route_group(family))?;
        }
        let result = self.observe_guarded(&families, scan_main);
        for family in families.into_iter().flatten() {
            self.connection.monitor().leave(route_group(family))?;
        }
        let (main_used, dumped) = result?;
        self.resolve_by_lookup(dumped)?;
        Ok(main_used)
    }

    /// Observes while route notifications are listened to: one of them means that the table
    /// changed under the dump, which no flag of a route dump tells.
    fn observe_guarded(
        &mut self,
        families: &[Option<Family>; 2],
        scan_main: bool,
    ) -> Result<(bool, Dumped), Failed> {
        let attempts = match self.admit {
            Some(_) => DISCOVERIES,
            None => ATTEMPTS,
        };
        let mut attempt = 1;
        let mut adoptions = 0;
        loop {
            let (rows, link) = (&mut *self.rows, self.context.link);
            self.connection.notifications(|message| {
                note_arrival(message, rows, link);
            })?;
            let skips_addresses = std::mem::take(&mut self.only_new);
            if skips_addresses {
                self.rows.begin_routes(Row::known_of_address);
            } else {
                self.rows.begin();
            }
            let mut main_used = false;
            let mut dumped = Dumped::Complete;
            for family in families.iter().flatten() {
                if !skips_addresses {
                    dumped = dumped.and(self.dump_addresses(*family)?);
                }
                dumped = dumped.and(self.dump_routes(*family, TABLE_LOCAL, &mut main_used)?);
                if self.main_matters(*family, scan_main) {
                    dumped = dumped.and(self.dump_main(*family, &mut main_used)?);
                }
            }
            self.rows.finish();
            self.rows.adopt();
            let mut changed = self.rows.found_by_route();
            if changed && adoptions < ATTEMPTS {
                // VIPs that not the first route to them told of: once more, now that they are
                // known. Somebody may add ever more of them.
                adoptions += 1;
                continue;
            }
            // A route that comes now may be missing in the dump: not to be noted as seen.
            let heard = self.connection.notifications(|_| changed = true)?;
            dumped = dumped.and(heard);
            if changed {
                dumped = Dumped::Interrupted;
            }
            if dumped == Dumped::Complete || attempt == attempts || self.is_unsettled() {
                return Ok((main_used, dumped));
            }
            attempt += 1;
        }
    }

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

    /// Reads table main, guarded as an observation of everything is.
    fn scan_main(&mut self, family: Family, used: &mut bool) -> Result<Dumped, Failed> {
        *used = false;
        self.connection.monitor().join(route_group(family))?;
        self.connection.notifications(|_| ())?;
        let dumped = self.dump_main(family, used);
        let mut changed = false;
        let heard = self.connection.notifications(|_| changed = true);
        self.connection.monitor().leave(route_group(family))?;
        let dumped = dumped?.and(heard?);
        Ok(if changed { Dumped::Interrupted } else { dumped })
    }

    fn dump_main(&mut self, family: Family, used: &mut bool) -> Result<Dumped, Failed> {
        let dumped = self.dump_routes(family, TABLE_MAIN, used)?;
        if *used {
            // Something is to be deleted there: what else could that hit?
            return Ok(dumped.and(self.dump_ambiguous_in_main(family)?));
        }
        Ok(dumped)
    }

    /// Observes, beyond what [`observe`](Self::observe) did, table main, and which rows another
    /// device has a local route for, and looks up whose is used; collects those to which our link
    /// has a route in a table that is neither local nor main. Reads every route of the node.
    pub(crate) fn observe_node(&mut self, elsewhere: &mut Vec<Vip>) -> Result<(), Failed> {
        let mut dumped = Dumped::Complete;
        for family in Family::ALL {
            self.connection.monitor().join(route_group(family))?;
            self.connection.notifications(|_| ())?;
            let (rows, context) = (&mut *self.rows, &self.context);
            let told = self.connection.dump(
                |out, sequence| dump_routes(out, sequence, family, None, None),
                |message| {
                    if let Some(route) = message.route()? {
                        let own = route.link == Some(context.link);
                        if !own || route.indirect || route.table == TABLE_MAIN {
                            rows.join_route(&route, context, None);
                        } else if route.table != TABLE_LOCAL
                            && let Some(host) = route.host()
                            && rows.index_of(host).is_some()
                        {
                            elsewhere.push(Vip::from(host));
                        }
                    }
                    Ok(())
                },
            );
            let mut changed = false;
            let heard = self.connection.notifications(|_| changed = true);
            self.connection.monitor().leave(route_group(family))?;
            dumped = dumped.and(told?).and(heard?);
            if changed {
                dumped = Dumped::Interrupted;
            }
        }
        let context = self.context;
        // What a torn dump did not tell of another device, the answer tells.
        self.look_up(|row| dumped == Dumped::Interrupted || is_rivalled(row, &context))?;
        Ok(())
    }

    /// Collects the rows of those that `has_route` picks whose traffic a routing rule sends elsewhere,
    /// as the kernel itself decides for unmarked, unbound traffic of this user. Nothing is asked of a
    /// family whose look-ups go to table local first.
    pub(crate) fn observe_diverted(
        &mut self,
        has_route: impl Fn(&Row) -> bool,
        diverted: &mut Vec<Vip>,
    ) -> io::Result<()> {
        for family in Family::ALL {
            if !self.rows.has(family) || self.connection.is_local_first(family)? {
                continue;
            }
            let of_family = |row: &&Row| row.vip.family() == family && has_route(row);
            let vips: Vec<Vip> = self
                .rows
                .iter()
                .filter(of_family)
                .map(|row| row.vip)
                .collect();
            for some in vips.chunks(self.connection.reply_capacity().clamp(1, LOOK_UPS)) {
                self.decide(some.to_vec(), diverted)?;
            }
        }
        Ok(())
    }

    /// Adds to `diverted` those of `asked` that the kernel sends elsewhere. One that says so once is
    /// asked again: see [`NEGATIVES`].
    fn decide(&mut self, mut asked: Vec<Vip>, diverted: &mut Vec<Vip>) -> io::Result<()> {
        for _ in 0..NEGATIVES {
            let mut goes_elsewhere = vec![false; asked.len()];
            let mut names_local = self.connection.names_local;
            let mut in_main = Vec::new();
            self.connection.look_up(
                asked.iter(),
                |out, sequence, vip| decision_message(out, sequence, &vip.addr()),
                |place, reply| {
                    goes_elsewhere[place] = match reply.map(|message| message.route()) {
                        Ok(Ok(Some(route))) if route.kind == libc::RTN_LOCAL => {
                            if route.table == TABLE_MAIN && route.family == Family::V4 {
                                in_main.push(place);
                            }
                            names_local |= route.family == Family::V4 && route.table == TABLE_LOCAL;
                            route.table != TABLE_LOCAL
                        }
                        Ok(Ok(Some(_))) | Err(_) => true,
                        // One that cannot be read says nothing.
                        Ok(_) => false,
                    };
                },
            )?;
            self.connection.names_local = names_local;
            if !names_local {
                // It may name main for table local (see [`Reply::answer`]).
                in_main.iter().for_each(|at| goes_elsewhere[*at] = false);
            }
            let mut places = goes_elsewhere.iter();
            asked.retain(|_| places.next() == Some(&true));
            if asked.is_empty() {
                return Ok(());
            }
        }
        diverted.append(&mut asked);
        Ok(())
    }

    /// Whether table main, which may be large, must be walked: where a caller says so, before a
    /// change, and wherever the kernel may have put a prefix route.
    fn main_matters(&self, family: Family, scan_main: bool) -> bool {
        self.rows.has(family)
            && (scan_main && !self.only_looks
                || family == Family::V6 && self.rows.iter().any(may_have_prefix_route))
    }

    /// Whether rows wait for the kernel's route anyway: then the table is in motion because of us,
    /// and a further observation follows.
    fn is_unsettled(&self) -> bool {
        self.rows.iter().any(Row::awaits_kernel)
    }

    /// Reads the addresses of the link.
    pub(crate) fn dump_addresses(&mut self, family: Family) -> Result<Dumped, Failed> {
        let (rows, context, admit) = (&mut *self.rows, &self.context, self.admit);
        let mut addresses = Addresses::default();
        let dumped = self.connection.dump(
            |out, sequence| dump_addresses(out, sequence, family, context.link),
            |message| {
                if let Some(address) = addresses.read(message)? {
                    rows.join_address(address, context, admit);
                }
                Ok(())
            },
        )?;
        self.rows.adopt();
        Ok(dumped)
    }

    fn dump_routes(
        &mut self,
        family: Family,
        table: u32,
        main_used: &mut bool,
    ) -> Result<Dumped, Failed> {
        let (rows, context, admit) = (&mut *self.rows, &self.context, self.admit);
        // Before a change table local is read for all devices: another's route is a conflict, or
        // in the way of a deletion.
        let link = (table == TABLE_MAIN || self.only_looks).then_some(context.link);
        let mut routes = Routes::default();
        let dumped = self.connection.dump(
            |out, sequence| dump_routes(out, sequence, family, Some(table), link),
            |message| {
                if let Some(route) = routes.read(message)? {
                    *main_used |= route.table == table && rows.join_route(route, context, admit);
                }
                Ok(())
            },
        )?;
        self.rows.adopt();
        Ok(dumped)
    }

    /// Finds the rows whose routes in table main a deletion would miss, because another route that it
    /// matches as well stands before them (see [`stands_for`]).
    fn dump_ambiguous_in_main(&mut self, family: Family) -> Result<Dumped, Failed> {
        let (rows, context) = (&mut *self.rows, &self.context);
        // In IPv4 only what goes through our link is in the way.
        let link = (family == Family::V4).then_some(context.link);
        // Such routes to the destination that the dump is at; it tells them in order.
        let mut ambiguous: Vec<Route> = Vec::new();
        self.connection.dump(
            |out, sequence| dump_routes(out, sequence, family, Some(TABLE_MAIN), link),
            |message| {
                let Some(route) = message.route()?.filter(|route| route.table == TABLE_MAIN) else {
                    return Ok(());
                };
                let Some(host) = route.host() else {
                    return Ok(());
                };
                ambiguous.retain(|other| other.host() == Some(host));
                if route.indirect {
                    if is_ambiguous(&route, message, context.link) {
                        ambiguous.push(route);
                    }
                } else if route.link == Some(context.link)
                    && ambiguous.iter().any(|other| stands_for(other, &route))
                    && let Some(at) = rows.index_of(host)
                    && let Some(row) = rows.get_mut(at)
                {
                    row.facts |= Facts::AMBIGUOUS_DELETE_MAIN;
                }
                Ok(())
            },
        )
    }

    /// Looks up what the dumps left open.
    fn resolve_by_lookup(&mut self, dumped: Dumped) -> Result<(), Failed> {
        let context = self.context;
        match dumped {
            Dumped::Interrupted => {
                self.ask_addresses()?;
                self.look_up(|row| is_in_doubt(row, &context))?;
            }
            // Another device has a local route too: whose is used?
            Dumped::Complete => {
                self.look_up(|row| row.goal.is_threatened() && is_rivalled(row, &context))?;
            }
        }
        Ok(())
    }

    /// Looks for the addresses that a torn dump may have left out: what it did not tell of is not
    /// gone for that. IPv4 cannot be asked for one address, but dumped again.
    fn ask_addresses(&mut self) -> Result<(), Failed> {
        let (context, admit) = (self.context, self.admit);
        let lacks = |row: &Row, family| {
            row.vip.family() == family
                && !row.facts.intersects(Facts::ADDRESS | Facts::OTHER_LENGTH)
                && is_in_doubt(row, &context)
        };
        let mut is_read = false;
        for _ in 0..DISCOVERIES {
            let is_left_out = self.rows.iter().any(|row| lacks(row, Family::V4));
            is_read = !is_left_out || self.dump_addresses(Family::V4)? == Dumped::Complete;
            if is_read {
                break;
            }
        }
        for row in self.rows.iter_mut() {
            let is_unread = !is_read && lacks(row, Family::V4);
            row.facts.set(Facts::UNREAD_ADDRESS, is_unread);
        }
        let most = self.connection.reply_capacity().min(LOOK_UPS);
        let mut from = 0;
        loop {
            let rows = &self.rows;
            let some = (from..).zip(rows.iter().skip(from));
            let mut asked = [None; LOOK_UPS];
            let mut count = 0;
            for (at, row) in some.filter(|(_, row)| lacks(row, Family::V6)).take(most) {
                asked[count] = Some((at, row.vip.addr()));
                count += 1;
                from = at + 1;
            }
            if count == 0 {
                break;
            }
            let mut found = [None; LOOK_UPS];
            self.connection.look_up(
                asked.iter().flatten(),
                |out, sequence, (_, addr)| get_address_message(out, sequence, addr, context.link),
                |place, message| {
                    if let Some(found) = found.get_mut(place) {
                        *found = match message.map(|message| message.address()) {
                            Ok(address) => address.ok(),
                            Err(_) => Some(None),
                        };
                    }
                },
            )?;
            for ((at, _), found) in asked.iter().flatten().zip(&found) {
                match found {
                    Some(Some(address)) => self.rows.join_address(address, &context, admit),
                    Some(None) => {}
                    // The reply is lost.
                    None => {
                        if let Some(row) = self.rows.iter_mut().nth(*at) {
                            row.facts |= Facts::UNREAD_ADDRESS;
                        }
                    }
                }
            }
        }
        self.rows.finish();
        self.rows.adopt();
        Ok(())
    }

    /// Asks for the winning route of each row that `which` picks. A row whose answer is lost keeps
    /// what the dump said, and is asked again with the next observation.
    pub(crate) fn look_up(&mut self, which: impl Fn(&Row) -> bool) -> io::Result<()> {
        let most = self.connection.reply_capacity().min(LOOK_UPS);
        let mut asked = [0_u32; LOOK_UPS];
        let mut from = 0;
        loop {
            let mut count = 0;
            while count < most
                && let Some(row) = self.rows.get(from)
            {
                if which(row) {
                    asked[count] = from;
                    count += 1;
                }
                from += 1;
            }
            if count == 0 {
                return Ok(());
            }
            self.look_up_batch(&mut asked[..count])?;
        }
    }

    /// A "no route" for what is on the link counts only if it stays: see [`NEGATIVES`].
    fn look_up_batch(&mut self, asked: &mut [u32]) -> io::Result<()> {
        let mut count = asked.len();
        for attempt in 1..=NEGATIVES {
            let (rows, context, templates) = (&mut *self.rows, &self.context, self.templates);
            let families = Family::ALL.map(|family| {
                let of_family =
                    |at: &u32| rows.get(*at).is_some_and(|row| row.vip.family() == family);
                asked[..count].iter().any(of_family)
            });
            let mut local_first = [false; 2];
            for family in Family::ALL {
                local_first[family as usize] =
                    families[family as usize] && self.connection.is_local_first(family)?;
            }
            let mut replies = [Reply::Lost; LOOK_UPS];
            self.connection.look_up(
                asked[..count]
                    .iter()
                    .filter_map(|at| rows.get(*at))
                    .map(|row| row.vip),
                |out, sequence, vip| {
                    templates[vip.family() as usize]
                        .look_up
                        .push(out, sequence, &vip.addr());
                },
                |place, message| {
                    if let Some(reply) = replies.get_mut(place) {
                        *reply = match message.map(|message| message.route()) {
                            Ok(Ok(Some(route))) => Reply::Route(route),
                            // One that cannot be read is as good as lost.
                            Ok(_) => Reply::Lost,
                            Err(errno) => Reply::Error(errno),
                        };
                    }
                },
            )?;
            let replies = &replies[..count];
            self.connection.names_local |= replies.iter().any(Reply::names_ipv4_local);
            for family in Family::ALL {
                let asks = |(reply, at): (&Reply, &u32)| {
                    !reply.names_local()
                        && rows.get(*at).is_some_and(|row| row.vip.family() == family)
                };
                let known = &mut local_first[family as usize];
                if *known && replies.iter().zip(&*asked).any(asks) {
                    *known = self.connection.was_local_first(family)?;
                }
            }
            let names_local = self.connection.names_local;
            let mut open = 0;
            for (place, reply) in replies.iter().enumerate() {
                let at = asked[place];
                let Some(row) = rows.get(at) else { continue };
                let answer = reply.answer(local_first[row.vip.family() as usize], names_local);
                let negative = matches!(answer, Answer::NotLocal(_));
                if negative && attempt < NEGATIVES && is_expected(row) {
                    asked[open] = at;
                    open += 1;
                } else {
                    rows.join_look_up(at, &answer, context);
                }
            }
            count = open;
            if count == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// What the kernel replies to a look-up.
#[derive(Clone, Copy, Debug)]
enum Reply {
    Lost,
    Route(Route),
    Error(i32),
}

impl Reply {
    /// Whether it names table local, which needs no further proof.
    fn names_local(&self) -> bool {
        matches!(self, Self::Route(route) if route.table == TABLE_LOCAL)
    }

    fn names_ipv4_local(&self) -> bool {
        matches!(self, Self::Route(route) if route.table == TABLE_LOCAL && route.family == Family::V4)
    }

    /// What it says of table local, where that was or was not the first to be looked at.
    ///
    /// `names_local`: IPv4 names it where it answers. While the two share one trie it says *main*
    /// for both, of which the route in table local comes first (`fib_find_alias`,
    /// net/ipv4/fib_trie.c).
    fn answer(&self, local_first: bool, names_local: bool) -> Answer {
        match *self {
            Self::Route(route) if route.table == TABLE_LOCAL => Answer::Local(route),
            Self::Route(route) if local_first => {
                let shared =
                    route.family == Family::V4 && !names_local && route.table == TABLE_MAIN;
                match (shared, route.kind == libc::RTN_LOCAL) {
                    (true, true) => Answer::Local(Route {
                        table: TABLE_LOCAL,
                        ..route
                    }),
                    // It may stand in either.
                    (true, false) if route.host().is_some() => Answer::Unknown,
                    _ => Answer::NotLocal(Some(route)),
                }
            }
            // Any other error may be said by a route, in table local too.
            Self::Error(libc::ENETUNREACH) if local_first => Answer::NotLocal(None),
            _ => Answer::Unknown,
        }
    }
}

/// Whether the kernel may take this route, which we never make, for one through our link: a deletion
/// that names no gateway matches any. Of several next hops IPv4 looks at the first (`fib_nh_match`,
/// net/ipv4/fib_semantics.c) and IPv6 at each, and with one all go (`ip6_route_del`,
/// net/ipv6/route.c). With nexthop objects IPv4 is exact, and IPv6 compares no device.
fn is_ambiguous(route: &Route, message: &Message<'_>, link: u32) -> bool {
    if route.by_object {
        return route.family == Family::V6;
    }
    let looked_at = match route.family {
        Family::V4 => 1,
        Family::V6 => usize::MAX,
    };
    route.link == Some(link) || message.hops().take(looked_at).any(|hop| hop == link)
}

/// Whether the deletion of `route` would match `other`, too.
fn stands_for(other: &Route, route: &Route) -> bool {
    let same = (other.metric, other.protocol) == (route.metric, route.protocol);
    same && match route.family {
        Family::V6 => true,
        Family::V4 => {
            (other.tos, other.kind) == (route.tos, route.kind)
                && (route.prefsrc.is_none() || route.prefsrc == other.prefsrc)
        }
    }
}

/// Look-ups in one send, at the most.
const LOOK_UPS: usize = 128;

/// How often in a row a look-up must find no local route before it is believed. Beside a writer of
/// the same table about one IPv6 look-up in two million walks past a route that nobody touches
/// (`fib6_node_lookup_1`, net/ipv6/ip6_fib.c, reads the tree while it is rebuilt; measured on
/// 6.18).
const NEGATIVES: u32 = 3;

/// Whether this is no route in the place of the wanted one, nor the kernel's own local one.
fn is_further(route: &Route) -> bool {
    let in_place = match route.family {
        Family::V4 => route.tos == 0 && route.metric == 0,
        Family::V6 => matches!(route.metric, 0 | IP6_USER_METRIC),
    };
    route.table == TABLE_MAIN || !in_place
}

/// Whether much follows from it if a look-up of this row finds no local route.
fn is_expected(row: &Row) -> bool {
    let should_be_there = row.facts.on_link() && !row.is_in_the_making();
    row.vip.family() == Family::V6 && (should_be_there || row.goal == Goal::Release)
}

/// Whether the kernel may have made a prefix route in table main, for an address without
/// `IFA_F_NOPREFIXROUTE`. Only that table tells.
fn may_have_prefix_route(row: &Row) -> bool {
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
pub(crate) fn can_be_told(row: &Row, binding: Binding) -> bool {
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

/// Whether a torn dump leaves something open for this row.
pub(crate) fn is_in_doubt(row: &Row, context: &MatchContext<'_>) -> bool {
    // A row that has nothing to lose yet is decided by a later observation. But for the lack of the
    // kernel's route the address is deleted.
    !row.is_in_the_making() || context.keeps_kernels(row.vip.family())
}

/// Whether another device has a route beside the wanted one.
pub(crate) fn is_rivalled(row: &Row, context: &MatchContext<'_>) -> bool {
    let desired = context.desired_fact(row.vip.family());
    row.facts.contains(Facts::FOREIGN | desired)
}

/// What a notification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// No news of a row that is not settled.
    None,
    /// The kernel's own route of one has come, or gone.
    Kernels,
    /// Another route of one has.
    Other,
}

/// Takes note of a notification of a local route to one of the rows.
pub(crate) fn note_arrival(message: &Message<'_>, rows: &mut Rows, link: u32) -> Arrival {
    if !matches!(message.kind, libc::RTM_NEWROUTE | libc::RTM_DELROUTE) {
        return Arrival::None;
    }
    // One that cannot be read is none of ours: the observation that follows decides.
    let Ok(Some(route)) = message.route() else {
        return Arrival::None;
    };
    let local = route.table == TABLE_LOCAL && route.link == Some(link);
    if let Some(host) = route.host().filter(|_| local)
        && let Some(at) = rows.index_of(host)
        && let Some(row) = rows.get_mut(at)
        && row.progress.late_route != LateRoute::Seen
    {
        // The kernel's has come; its deletion by another hand proves that as well. And a route in
        // the place of ours tells that somebody else got further: worth another look.
        if !route.is_kernels_own() {
            return Arrival::Other;
        }
        row.progress.late_route = LateRoute::Seen;
        return Arrival::Kernels;
    }
    Arrival::None
}
