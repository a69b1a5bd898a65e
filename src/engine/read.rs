//! Observing by dumps. An interrupted dump is detected and repeated; look-ups then resolve the rows
//! that it left open.

use super::answer::is_rivalled;
use super::arrival::note_arrival;
use super::lookup::may_have_prefix_route;
use crate::base::{Family, PerFamily, TABLE_LOCAL, TABLE_MAIN, Vip};
use crate::core::{Admit, Facts, MatchContext, Row, Rows};
use crate::netlink::connection::{Connection, Dumped, Failed, Groups};
use crate::netlink::decode::{Message, Route};
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
    /// Observes every row, with `scan_main` in table main too. Returns whether table main held a route
    /// of the link to a row.
    pub(crate) fn observe(&mut self, scan_main: bool) -> Result<bool, Failed> {
        let families = PerFamily::from_fn(|family| {
            (self.admit.is_some() || self.rows.has(family)).then_some(family)
        });
        let groups = families
            .iter()
            .flatten()
            .copied()
            .map(Groups::routes)
            .collect();
        self.connection.listen_to(groups)?;
        let result = self.observe_guarded(&families, scan_main);
        self.connection.listen_to(Groups::empty())?;
        let (main_used, dumped) = result?;
        self.resolve_by_lookup(dumped)?;
        Ok(main_used)
    }

    /// Dumps while the monitor listens to route notifications. A notification means that the table
    /// changed under the dump: route dumps never set NLM_F_DUMP_INTR.
    fn observe_guarded(
        &mut self,
        families: &PerFamily<Option<Family>>,
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
            let (main_used, mut dumped) = self.dump_all(families, skips_addresses, scan_main)?;
            self.rows.finish();
            self.rows.adopt();
            let mut changed = self.rows.has_skipped_route();
            if changed && adoptions < ATTEMPTS {
                // A VIP became a row behind its first route, so the dump's earlier routes to the VIP
                // are missing: repeat it. The limit holds against a writer that keeps adding VIPs.
                adoptions += 1;
                continue;
            }
            // The dump may lack a route that is notified now, so the route is not noted as seen.
            let heard = self.connection.notifications(|_| changed = true)?;
            dumped = dumped.and(heard);
            if changed {
                dumped = Dumped::Interrupted;
            }
            if dumped == Dumped::Complete || attempt == attempts || self.awaits_kernel_routes() {
                return Ok((main_used, dumped));
            }
            trace::lost(Lost::Dump);
            attempt += 1;
        }
    }

    /// Dumps each family's addresses, table local and, where it matters, table main. Returns whether
    /// table main held a route of the link to a row.
    fn dump_all(
        &mut self,
        families: &PerFamily<Option<Family>>,
        skips_addresses: bool,
        scan_main: bool,
    ) -> Result<(bool, Dumped), Failed> {
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
        Ok((main_used, dumped))
    }

    /// Dumps table main while the monitor listens to route notifications.
    pub(super) fn scan_main(&mut self, family: Family, used: &mut bool) -> Result<Dumped, Failed> {
        *used = false;
        let groups = self.connection.groups();
        self.connection.listen_to(groups | Groups::routes(family))?;
        self.connection.notifications(|_| ())?;
        let dumped = self.dump_main(family, used);
        let mut changed = false;
        let heard = self.connection.notifications(|_| changed = true);
        self.connection.listen_to(groups)?;
        let dumped = dumped?.and(heard?);
        Ok(if changed { Dumped::Interrupted } else { dumped })
    }

    pub(super) fn dump_main(&mut self, family: Family, used: &mut bool) -> Result<Dumped, Failed> {
        let dumped = self.dump_routes(family, TABLE_MAIN, used)?;
        if *used {
            // The call will delete routes from table main: find routes that a deletion could hit.
            return Ok(dumped.and(self.dump_ambiguous_in_main(family)?));
        }
        Ok(dumped)
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
            let mut changed = false;
            let heard = self.connection.notifications(|_| changed = true);
            self.connection.listen_to(Groups::empty())?;
            dumped = dumped.and(node_dump?).and(heard?);
            if changed {
                dumped = Dumped::Interrupted;
            }
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

    fn dump_routes(
        &mut self,
        family: Family,
        table: u32,
        main_used: &mut bool,
    ) -> Result<Dumped, Failed> {
        let (rows, context, admit) = (&mut *self.rows, &self.context, self.admit);
        // Before a change, table local is dumped for all devices: another device's route is a
        // conflict, or a deletion could hit it.
        let link = (table == TABLE_MAIN || self.read_only).then_some(context.link);
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

    /// Finds the rows whose routes in table main a deletion would miss, because the deletion matches an
    /// earlier route (see [`is_matched_for`]).
    fn dump_ambiguous_in_main(&mut self, family: Family) -> Result<Dumped, Failed> {
        let (rows, context) = (&mut *self.rows, &self.context);
        // An IPv4 deletion matches only routes through the link.
        let link = (family == Family::V4).then_some(context.link);
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
                } else if route.link == Some(context.link)
                    && ambiguous.iter().any(|other| is_matched_for(other, &route))
                    && let Some(at) = rows.index_of(host)
                    && let Some(row) = rows.get_mut(at)
                {
                    row.facts |= Facts::AMBIGUOUS_DELETE_MAIN;
                }
                Ok(())
            },
        )
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
