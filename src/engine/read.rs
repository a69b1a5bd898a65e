//! Reading the kernel into rows: dumps that notice when they were torn, and look-ups that settle
//! what a torn one left open.

use super::answer::is_rivalled;
use super::arrival::note_arrival;
use super::lookup::may_have_prefix_route;
use crate::base::{Family, PerFamily, TABLE_LOCAL, TABLE_MAIN, Vip};
use crate::core::{Admit, Facts, MatchContext, Row, Rows};
use crate::netlink::connection::{Connection, Dumped, Failed, Groups};
use crate::netlink::decode::{Message, Route};
use crate::netlink::dump_cache::{Addresses, Routes};
use crate::netlink::encode::{Templates, dump_addresses, dump_routes};

/// How often a torn observation is repeated before look-ups settle it row by row.
pub(super) const ATTEMPTS: u32 = 3;

/// The same where VIPs are looked for: look-ups do not find one that no dump has told of, but each
/// dump adds those that it finds.
pub(super) const DISCOVERIES: u32 = 8;

/// What the rows are observed with.
pub(crate) struct Observer<'a> {
    pub(crate) connection: &'a mut Connection,
    pub(crate) rows: &'a mut Rows,
    pub(crate) context: MatchContext<'a>,
    pub(crate) templates: &'a PerFamily<Templates>,
    /// Nothing is to be written, so that what other devices have does not matter.
    pub(crate) read_only: bool,
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

    /// Observes while route notifications are listened to: one of them means that the table
    /// changed under the dump, which no flag of a route dump tells.
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
            let mut changed = self.rows.has_skipped_route();
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

    /// Reads table main, guarded as an observation of everything is.
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
            self.connection.listen_to(Groups::routes(family))?;
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
            self.connection.listen_to(Groups::empty())?;
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

    /// Whether table main, which may be large, must be walked: where a caller says so, before a
    /// change, and wherever the kernel may have put a prefix route.
    fn main_matters(&self, family: Family, scan_main: bool) -> bool {
        self.rows.has(family)
            && (scan_main && !self.read_only
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
