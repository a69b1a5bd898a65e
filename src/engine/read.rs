//! Observing by dumps. An interrupted dump is detected and repeated; look-ups then resolve the rows
//! that it left open.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_core::NLM_F_REPLACE;

use super::answer::is_rivalled;
use super::arrival::note_arrival;
use super::lookup::may_have_prefix_route;
use crate::base::{Family, PerFamily, TABLE_LOCAL, TABLE_MAIN, Vip};
use crate::core::{Admit, Facts, MatchContext, Row, Rows};
use crate::netlink::connection::{Connection, Dumped, Failed, Groups};
use crate::netlink::decode::{Address, Malformed, Message, Route};
use crate::netlink::dump_cache::{Addresses, Routes};
use crate::netlink::encode::{Templates, dump_addresses, dump_routes};
use crate::trace::{self, Lost};

/// Interrupted observations before look-ups resolve the rows one by one.
pub(super) const ATTEMPTS: u32 = 3;

/// The same for an observation that discovers VIPs. A look-up cannot discover a VIP, and every further
/// dump may.
pub(super) const DISCOVERIES: u32 = 8;

/// Observes the rows on a connection.
pub(crate) struct Observer<'a> {
    pub(crate) connection: &'a mut Connection,
    pub(crate) rows: &'a mut Rows,
    pub(crate) context: MatchContext<'a>,
    pub(crate) templates: &'a PerFamily<Templates>,
    /// The call writes nothing, so the routes of other devices do not matter.
    pub(crate) read_only: bool,
    /// Since the last observation this call only added IPv6 addresses, all acked. The next
    /// observation may skip the addresses; the last one of the call reads them.
    pub(crate) only_new: bool,
    /// Decides which discovered VIPs become rows.
    pub(crate) admit: Option<Admit<'a>>,
}

impl Observer<'_> {
    /// Observes every row, with `scan_main` in table main too. Returns whether to read table main again after
    /// a write.
    pub(crate) fn observe(&mut self, scan_main: bool) -> Result<bool, Failed> {
        let families = PerFamily::from_fn(|family| {
            (self.admit.is_some() || self.rows.has(family)).then_some(family)
        });
        let groups = |group: fn(Family) -> Groups| -> Groups {
            families.iter().flatten().copied().map(group).collect()
        };
        let routes = groups(Groups::routes);
        self.connection
            .listen_to(routes | groups(Groups::addresses))?;
        let result = self.observe_guarded(&families).and_then(|dumped| {
            self.connection.listen_to(routes)?;
            let reads_main_again = self.observe_main(scan_main)?;
            Ok((reads_main_again, dumped))
        });
        self.connection.listen_to(Groups::empty())?;
        let (reads_main_again, dumped) = result?;
        self.resolve_by_lookup(dumped)?;
        Ok(reads_main_again)
    }

    /// Dumps addresses and table local while the monitor listens to notifications: route dumps never set
    /// NLM_F_DUMP_INTR, and address dumps not always (see [`Changes::interrupt`]).
    fn observe_guarded(&mut self, families: &PerFamily<Option<Family>>) -> Result<Dumped, Failed> {
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
            let mut dumped = self.dump_all(families, skips_addresses)?;
            self.rows.finish();
            self.rows.adopt();
            let has_skipped = self.rows.has_skipped_route();
            if has_skipped && adoptions < ATTEMPTS {
                // A VIP became a row behind its first route, so the dump's earlier routes to the VIP
                // are missing: repeat it. The limit holds against a writer that keeps adding VIPs.
                adoptions += 1;
                continue;
            }
            // The dump may lack a route that is notified now, so the route is not noted as seen.
            dumped = dumped.and(self.hear_changes(TABLE_LOCAL, false)?);
            if has_skipped {
                dumped = Dumped::Interrupted;
            }
            if dumped == Dumped::Complete || attempt == attempts || self.awaits_kernel_routes() {
                return Ok(dumped);
            }
            trace::lost(Lost::Dump);
            attempt += 1;
        }
    }

    /// Dumps each family's addresses and table local.
    fn dump_all(
        &mut self,
        families: &PerFamily<Option<Family>>,
        skips_addresses: bool,
    ) -> Result<Dumped, Failed> {
        let mut dumped = Dumped::Complete;
        for family in families.iter().flatten() {
            if !skips_addresses {
                dumped = dumped.and(self.dump_addresses(*family)?);
            }
            dumped = dumped.and(self.dump_local(*family)?);
        }
        Ok(dumped)
    }

    /// Reads table main where it matters. Returns whether to read it again after a write: it held a route of
    /// the link to a row, or could not be read.
    ///
    /// Look-ups do not show table main, so an interrupted reading is repeated alone. The rows keep what each
    /// dump shows.
    fn observe_main(&mut self, scan_main: bool) -> Result<bool, Failed> {
        let mut reads_again = false;
        for family in Family::ALL {
            let attempts = match self.main_matters(family, scan_main) {
                true => ATTEMPTS,
                false => 0,
            };
            let mut dumped = Dumped::Complete;
            for _ in 0..attempts {
                let mut used = false;
                dumped = self.scan_main(family, &mut used)?;
                reads_again |= used;
                if dumped == Dumped::Complete {
                    break;
                }
                trace::lost(Lost::Dump);
            }
            reads_again |= dumped == Dumped::Interrupted;
        }
        self.rows.finish();
        Ok(reads_again)
    }

    /// Reads table main. Says with `used` whether it held a route of the link to a row. If the reading was
    /// interrupted, the rows of which it left something open are unread.
    pub(super) fn scan_main(&mut self, family: Family, used: &mut bool) -> Result<Dumped, Failed> {
        *used = false;
        let dumped = self.probe_main(family, used)?;
        // The kernel makes each part of a dump in one walk, IPv6 under the table's lock (`fib6_dump_table`,
        // net/ipv6/ip6_fib.c). No change can interrupt a single walk.
        let is_whole = dumped == Dumped::Complete && self.connection.is_dump_of_one_part();
        if is_whole && !*used {
            self.note_main_is_read(family);
            return Ok(dumped);
        }
        if !is_whole {
            for row in self.rows.iter_mut().filter(|row| row.is_of(family)) {
                // An audit judges the prefix routes alone.
                if !self.read_only || may_have_prefix_route(row) {
                    row.facts |= Facts::UNREAD_MAIN;
                }
            }
        }
        let groups = self.connection.groups();
        let both_tables = Groups::routes(family) | Groups::OF_MAIN;
        self.connection.listen_to(groups | both_tables)?;
        let dumped = self.dump_main_guarded(family, used);
        self.connection.listen_to(groups)?;
        dumped
    }

    /// Dumps table main while the monitor listens to its changes.
    fn dump_main_guarded(&mut self, family: Family, used: &mut bool) -> Result<Dumped, Failed> {
        let mut dumped = Dumped::Complete;
        if !*used {
            dumped = self.probe_main(family, used)?;
        }
        if *used {
            dumped = dumped.and(self.join_main(family)?);
        }
        let is_one_part = self.connection.is_dump_of_one_part();
        let heard = self.hear_changes(TABLE_MAIN, is_one_part)?;
        // Look-ups rest on the notifications of IPv4 addresses, too.
        if !is_one_part || self.connection.groups().contains(Groups::V4_ADDRESSES) {
            dumped = dumped.and(heard);
        }
        if dumped == Dumped::Complete {
            self.note_main_is_read(family);
        }
        Ok(dumped)
    }

    fn note_main_is_read(&mut self, family: Family) {
        for row in self.rows.iter_mut().filter(|row| row.is_of(family)) {
            row.facts.remove(Facts::UNREAD_MAIN);
        }
    }

    /// Reads the notifications after a dump of `table`. They say whether a change has interrupted it.
    fn hear_changes(&mut self, table: u32, is_one_part: bool) -> Result<Dumped, Failed> {
        let mut changes = Changes {
            table,
            is_one_part,
            link: self.context.link,
            rows: &mut *self.rows,
            admit: self.admit,
            deleted: BTreeMap::new(),
        };
        let mut changed = false;
        let heard = self.connection.notifications(|message| {
            changed = changed || changes.interrupt(message);
        })?;
        Ok(if changed { Dumped::Interrupted } else { heard })
    }

    /// Adds to [`observe`](Self::observe) table main and the local routes of other devices, and looks up
    /// the winning route of each row that has both. Collects the VIPs to which the link has a route in
    /// a table other than local and main. Reads every route of the node.
    pub(crate) fn observe_node(&mut self, elsewhere: &mut Vec<Vip>) -> Result<(), Failed> {
        let mut dumped = Dumped::Complete;
        for family in Family::ALL {
            self.connection.listen_to(Groups::routes(family))?;
            self.connection.notifications(|_| ())?;
            let (rows, context) = (&mut *self.rows, &self.context);
            let node_dump = self.connection.dump(
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
            let heard = self.hear_changes(TABLE_LOCAL, false);
            self.connection.listen_to(Groups::empty())?;
            dumped = dumped.and(node_dump?).and(heard?);
        }
        let context = self.context;
        // The look-up shows another device's route that an interrupted dump may have missed.
        self.look_up(|row| dumped == Dumped::Interrupted || is_rivalled(row, &context))?;
        Ok(())
    }

    /// Whether to dump table main, which may be large: before a change if the caller asks, and whenever
    /// the kernel may have made a prefix route.
    fn main_matters(&self, family: Family, scan_main: bool) -> bool {
        self.rows.has(family)
            && (scan_main && !self.read_only
                || family == Family::V6 && self.rows.iter().any(may_have_prefix_route))
    }

    /// Whether rows wait for the kernel's routes. This call then causes the changes itself, and another
    /// observation follows.
    fn awaits_kernel_routes(&self) -> bool {
        self.rows.iter().any(Row::awaits_kernel)
    }

    /// Dumps the addresses of the link.
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

    /// Dumps table local. Before a change, it is dumped for all devices: another device's route is a
    /// conflict, or a deletion could hit it.
    fn dump_local(&mut self, family: Family) -> Result<Dumped, Failed> {
        let (rows, context, admit) = (&mut *self.rows, &self.context, self.admit);
        let link = self.read_only.then_some(context.link);
        let mut routes = Routes::default();
        let dumped = self.connection.dump(
            |out, sequence| dump_routes(out, sequence, family, Some(TABLE_LOCAL), link),
            |message| {
                if let Some(route) = routes.read(message)? {
                    rows.join_route(route, context, admit);
                }
                Ok(())
            },
        )?;
        self.rows.adopt();
        Ok(dumped)
    }

    /// Dumps the link's routes of table main. The rows that have one are unread until
    /// [`join_main`](Self::join_main) joins it.
    fn probe_main(&mut self, family: Family, used: &mut bool) -> Result<Dumped, Failed> {
        let (rows, context) = (&mut *self.rows, &self.context);
        let mut routes = Routes::default();
        self.connection.dump(
            |out, sequence| {
                dump_routes(out, sequence, family, Some(TABLE_MAIN), Some(context.link));
            },
            |message| {
                if let Some(route) = routes.read(message)?
                    && let Some(row) = rows.row_in_main(route, context)
                {
                    row.facts |= Facts::UNREAD_MAIN;
                    *used = true;
                }
                Ok(())
            },
        )
    }

    /// Joins the routes of table main. Before a change, finds the rows whose routes a deletion would miss,
    /// because the deletion matches an earlier route (see [`is_matched_for`]): a dump that shows a route has
    /// shown the earlier ones to the same destination, even if a change has interrupted it.
    fn join_main(&mut self, family: Family) -> Result<Dumped, Failed> {
        let (rows, context) = (&mut *self.rows, &self.context);
        // An IPv4 deletion matches only routes through the link.
        let link = (family == Family::V4 || self.read_only).then_some(context.link);
        // The ambiguous routes to the dump's current destination. A dump lists a destination's routes
        // in the kernel's order.
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
                } else if rows.join_route(&route, context, None)
                    && let Some(row) = rows.row_in_main(&route, context)
                {
                    row.facts.remove(Facts::UNREAD_MAIN);
                    if ambiguous.iter().any(|other| is_matched_for(other, &route)) {
                        row.facts |= Facts::AMBIGUOUS_DELETE_MAIN;
                    }
                }
                Ok(())
            },
        )
    }
}

/// The notified changes during a dump of `table`.
struct Changes<'a> {
    table: u32,
    /// The kernel made the dump in one walk, so no change of a route interrupts it.
    is_one_part: bool,
    link: u32,
    rows: &'a mut Rows,
    admit: Option<Admit<'a>>,
    /// By how many the deletions of a destination's IPv4 local routes exceed the additions.
    deleted: BTreeMap<Option<IpAddr>, u32>,
}

impl Changes<'_> {
    /// Whether the change may have made the dump skip a route to a row.
    ///
    /// The kernel dumps in parts. IPv6 begins the next part behind as many routes as it has passed
    /// (`fib6_dump_table`, net/ipv6/ip6_fib.c), so a change of any route of that table may shift another one
    /// out of sight. It notifies under the table's lock, which each part of a dump takes (`fib6_add_rt2node`,
    /// `fib6_del_route`), so what has shifted a part has been notified.
    ///
    /// IPv4 begins the next part at a destination, behind as many of its routes (`fib_table_dump` and
    /// `fn_trie_dump_leaf`, net/ipv4/fib_trie.c). Those of table local come before those of table main, with
    /// which they may share the list. A deletion is notified before it is done (`fib_table_delete`), and an
    /// addition hides nothing. If the destination has disappeared, the kernel skips as many routes of the next
    /// one. It has then passed at least one route, and stopped at a route of this dump: both were deleted.
    fn interrupt(&mut self, message: &Message<'_>) -> bool {
        if matches!(message.kind, libc::RTM_NEWADDR | libc::RTM_DELADDR) {
            return match message.address() {
                Ok(Some(address)) => address.link == self.link && hides(message.kind, &address),
                Ok(None) => false,
                Err(Malformed) => true,
            };
        }
        let route = match message.route() {
            Ok(Some(_)) if self.is_one_part => return false,
            Ok(Some(route)) => route,
            Ok(None) => return false,
            Err(Malformed) => return true,
        };
        if route.family == Family::V6 {
            return route.table == self.table;
        }
        let host = route.host();
        let is_row = host.is_some_and(|host| self.rows.index_of(host).is_some());
        let is_local = route.table == TABLE_LOCAL;
        if self.table == TABLE_MAIN {
            let is_dumped = || route.link.is_none_or(|link| link == self.link);
            let is_main = route.table == TABLE_MAIN;
            return message.kind == libc::RTM_DELROUTE
                && (is_row && is_local || is_main && is_dumped());
        }
        let discovers = |host| self.admit.and_then(|admit| admit(Vip::from(host)));
        is_local && (is_row || host.and_then(discovers).is_some() || self.vanishes(message, &route))
    }

    /// Whether a destination that had several IPv4 local routes may have none now.
    fn vanishes(&mut self, message: &Message<'_>, route: &Route) -> bool {
        if message.kind == libc::RTM_DELROUTE {
            let deleted = self.deleted.entry(route.destination).or_default();
            *deleted += 1;
            return *deleted > 1;
        }
        if message.flags & NLM_F_REPLACE == 0
            && let Some(deleted) = self.deleted.get_mut(&route.destination)
        {
            *deleted = deleted.saturating_sub(1);
        }
        false
    }
}

/// Whether a deletion through the link may match this route, which the library never makes. A deletion
/// without a gateway matches any gateway. IPv4 compares the first next hop (`fib_nh_match`,
/// net/ipv4/fib_semantics.c). IPv6 compares each next hop, and a match deletes all (`ip6_route_del`,
/// net/ipv6/route.c). For a nexthop object, IPv4 compares exactly, and IPv6 compares no device.
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

/// Whether the deletion of `route` also matches `other`.
fn is_matched_for(other: &Route, route: &Route) -> bool {
    let same = (other.metric, other.protocol) == (route.metric, route.protocol);
    same && match route.family {
        Family::V6 => true,
        Family::V4 => {
            (other.tos, other.kind) == (route.tos, route.kind)
                && (route.prefsrc.is_none() || route.prefsrc == other.prefsrc)
        }
    }
}

/// Whether the notified change of an address may make the facts of addresses wrong.
///
/// The kernel counts the changes of addresses in order to set NLM_F_DUMP_INTR. Since Linux 6.9 it dumps addresses
/// without the RTNL, and it counts a deletion after it has removed the address from the list (`ipv6_del_addr`,
/// net/ipv6/addrconf.c; `__inet_del_ifa`, net/ipv4/devinet.c). The last part of a dump may run in between: it lacks
/// another address, and has no flag. An IPv6 address that comes hides none. If an IPv4 address has come, facts
/// that rest on notifications instead of a dump are old.
fn hides(kind: u16, address: &Address) -> bool {
    kind == libc::RTM_DELADDR || address.addr.is_ipv4()
}
