//! Look-ups of single routes and addresses, and what their replies prove.
//!
//! RTM_GETROUTE follows the routing rules of the node. A reply counts for table local only if it names
//! that table, or if no other rule can have answered.

use std::io;
use std::net::IpAddr;

use super::read::{DISCOVERIES, Observer};
use crate::base::{Family, PerFamily, TABLE_LOCAL, TABLE_MAIN, Vip, means_no_address};
use crate::core::{Answer, Facts, Goal, MatchContext, Row};
use crate::netlink::connection::{Dumped, Failed};
use crate::netlink::decode::Route;
use crate::netlink::encode::{decision_message, get_address_message};

impl Observer<'_> {
    /// Collects the VIPs whose traffic a routing rule diverts, among the rows that `has_route` picks.
    /// The kernel decides for unmarked, unbound traffic of this user. A family whose rules consult
    /// table local first needs no look-up.
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

    /// Adds to `diverted` the VIPs of `asked` that a routing rule diverts. That reply must repeat:
    /// see [`NEGATIVES`].
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
                        // A reply that cannot be decoded proves nothing.
                        Ok(_) => false,
                    };
                },
            )?;
            self.connection.names_local = names_local;
            if !names_local {
                // The kernel may name main for table local (see [`Reply::answer`]).
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

    /// Looks up the rows that the dumps left open.
    pub(super) fn resolve_by_lookup(&mut self, dumped: Dumped) -> Result<(), Failed> {
        let context = self.context;
        match dumped {
            Dumped::Interrupted => {
                self.ask_addresses()?;
                self.look_up(|row| is_in_doubt(row, &context))?;
            }
            // Another device also has a local route: a look-up shows which route wins.
            Dumped::Complete => {
                self.look_up(|row| row.goal.is_threatened() && is_rivalled(row, &context))?;
            }
        }
        Ok(())
    }

    /// Looks up the addresses that an interrupted dump may have missed. IPv4 has no RTM_GETADDR for one
    /// address, so its addresses are dumped again.
    fn ask_addresses(&mut self) -> Result<(), Failed> {
        let context = self.context;
        let mut is_read = false;
        for _ in 0..DISCOVERIES {
            let mut rows = self.rows.iter();
            let is_left_out = rows.any(|row| lacks_address(row, Family::V4, &context));
            is_read = !is_left_out || self.dump_addresses(Family::V4)? == Dumped::Complete;
            if is_read {
                break;
            }
        }
        for row in self.rows.iter_mut() {
            let is_unread = !is_read && lacks_address(row, Family::V4, &context);
            row.facts.set(Facts::UNREAD_ADDRESS, is_unread);
        }
        let most = self.connection.reply_capacity().min(LOOK_UPS);
        let mut from = 0;
        loop {
            let some = (from..).zip(self.rows.iter().skip(from));
            let lacking = some.filter(|(_, row)| lacks_address(row, Family::V6, &context));
            let mut asked = [None; LOOK_UPS];
            let mut count = 0;
            for ((at, row), place) in lacking.zip(&mut asked[..most]) {
                *place = Some((at, row.vip.addr()));
                from = at + 1;
                count += 1;
            }
            if count == 0 {
                break;
            }
            self.look_up_addresses(&asked[..count])?;
        }
        self.rows.finish();
        self.rows.adopt();
        Ok(())
    }

    /// Looks up the addresses of the asked rows, at most [`LOOK_UPS`].
    fn look_up_addresses(&mut self, asked: &[Option<(usize, IpAddr)>]) -> Result<(), Failed> {
        let (context, admit) = (self.context, self.admit);
        let mut found = [None; LOOK_UPS];
        self.connection.look_up(
            asked.iter().flatten(),
            |out, sequence, (_, addr)| get_address_message(out, sequence, addr, context.link),
            |place, message| {
                if let Some(found) = found.get_mut(place) {
                    *found = match message.map(|message| message.address()) {
                        Ok(address) => address.ok(),
                        Err(errno) => means_no_address(errno).then_some(None),
                    };
                }
            },
        )?;
        for ((at, _), found) in asked.iter().flatten().zip(&found) {
            match found {
                Some(Some(address)) => self.rows.join_address(address, &context, admit),
                Some(None) => {}
                // The reply is lost, or the kernel did not look.
                None => {
                    if let Some(row) = self.rows.iter_mut().nth(*at) {
                        row.facts |= Facts::UNREAD_ADDRESS;
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks up the winning route of each row that `which` picks. A row whose reply is lost keeps the
    /// dumped facts until the next observation.
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

    /// Looks up these rows. A reply without a route to a VIP on the link must repeat: see [`NEGATIVES`].
    fn look_up_batch(&mut self, asked: &mut [u32]) -> io::Result<()> {
        let mut count = asked.len();
        for attempt in 1..=NEGATIVES {
            let mut replies = [Reply::Lost; LOOK_UPS];
            let local_first = self.ask_routes(&asked[..count], &mut replies)?;
            let names_local = self.connection.names_local;
            let mut open = 0;
            for (place, reply) in replies[..count].iter().enumerate() {
                let at = asked[place];
                let Some(row) = self.rows.get(at) else {
                    continue;
                };
                let answer = reply.answer(local_first[row.vip.family()], names_local);
                let negative = matches!(answer, Answer::NotLocal(_));
                if negative && attempt < NEGATIVES && is_expected(row) {
                    asked[open] = at;
                    open += 1;
                } else {
                    self.rows.join_look_up(at, &answer, &self.context);
                }
            }
            count = open;
            if count == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Asks for the route of each asked row. Returns for which families the rules consulted table
    /// local first, before the replies and after.
    fn ask_routes(
        &mut self,
        asked: &[u32],
        replies: &mut [Reply; LOOK_UPS],
    ) -> io::Result<PerFamily<bool>> {
        let (rows, templates) = (&*self.rows, self.templates);
        let is_of = |at: u32, family| rows.get(at).is_some_and(|row| row.vip.family() == family);
        let mut local_first = PerFamily::splat(false);
        for family in Family::ALL {
            local_first[family] = asked.iter().any(|at| is_of(*at, family))
                && self.connection.is_local_first(family)?;
        }
        let vips = asked.iter().filter_map(|at| rows.get(*at));
        self.connection.look_up(
            vips.map(|row| row.vip),
            |out, sequence, vip| {
                let look_up = &templates[vip.family()].look_up;
                look_up.push(out, sequence, &vip.addr());
            },
            |place, message| {
                if let Some(reply) = replies.get_mut(place) {
                    *reply = match message.map(|message| message.route()) {
                        Ok(Ok(Some(route))) => Reply::Route(route),
                        // A reply that cannot be decoded counts as lost.
                        Ok(_) => Reply::Lost,
                        Err(errno) => Reply::Error(errno),
                    };
                }
            },
        )?;
        let replies = &replies[..asked.len()];
        self.connection.names_local |= replies.iter().any(Reply::names_ipv4_local);
        for family in Family::ALL {
            let asks = |(reply, at): (&Reply, &u32)| !reply.names_local() && is_of(*at, family);
            let known = &mut local_first[family];
            if *known && replies.iter().zip(asked).any(asks) {
                *known = self.connection.was_local_first(family)?;
            }
        }
        Ok(local_first)
    }
}

/// The most look-ups in one send.
const LOOK_UPS: usize = 128;

/// Successive look-ups without a local route that prove its absence. While another writer changes the
/// table, about one IPv6 look-up in two million misses an unchanged route (`fib6_node_lookup_1`,
/// net/ipv6/ip6_fib.c, reads the tree during its changes; measured on 6.18).
const NEGATIVES: u32 = 3;

/// The kernel's reply to a look-up.
#[derive(Clone, Copy, Debug)]
enum Reply {
    Lost,
    Route(Route),
    Error(i32),
}

impl Reply {
    /// Whether the reply names table local, which needs no further proof.
    fn names_local(&self) -> bool {
        matches!(self, Self::Route(route) if route.table == TABLE_LOCAL)
    }

    fn names_ipv4_local(&self) -> bool {
        matches!(self, Self::Route(route) if route.table == TABLE_LOCAL && route.family == Family::V4)
    }

    /// What the reply proves about table local. `local_first`: the rules consult table local first.
    ///
    /// `names_local`: IPv4 names table local in its replies. While tables local and main share one
    /// trie, IPv4 names *main* for both, and the route of table local comes first (`fib_find_alias`,
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
                    // The route may be in either table.
                    (true, false) if route.host().is_some() => Answer::Unknown,
                    _ => Answer::NotLocal(Some(route)),
                }
            }
            // Any other error may come from a route, also in table local.
            Self::Error(libc::ENETUNREACH) if local_first => Answer::NotLocal(None),
            _ => Answer::Unknown,
        }
    }
}

/// Whether a look-up of this row without a local route has consequences, and so must repeat.
fn is_expected(row: &Row) -> bool {
    let should_be_there = row.facts.on_link() && !row.is_in_the_making();
    row.vip.family() == Family::V6 && (should_be_there || row.goal == Goal::Release)
}

/// Whether an interrupted dump may have missed the address of this row.
fn lacks_address(row: &Row, family: Family, context: &MatchContext<'_>) -> bool {
    row.vip.family() == family
        && !row.facts.intersects(Facts::ADDRESS | Facts::OTHER_LENGTH)
        && is_in_doubt(row, context)
}

/// Whether an interrupted dump leaves facts of this row open.
pub(crate) fn is_in_doubt(row: &Row, context: &MatchContext<'_>) -> bool {
    // A row in the making has nothing to lose, so a later observation decides. But if the desired
    // route is the kernel's, its absence makes this call delete the address.
    !row.is_in_the_making() || context.keeps_kernels(row.vip.family())
}

/// Whether another device has a route beside the desired route.
pub(crate) fn is_rivalled(row: &Row, context: &MatchContext<'_>) -> bool {
    let desired = context.desired_fact(row.vip.family());
    row.facts.contains(Facts::FOREIGN | desired)
}
