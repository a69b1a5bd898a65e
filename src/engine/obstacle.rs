//! Describes the route that causes a conflict.

use crate::base::{Family, TABLE_LOCAL, TABLE_MAIN, Vip};
use crate::core::Cause;
use crate::link::{self, LinkIndex, LinkRef};
use crate::netlink::connection::Connection;
use crate::netlink::decode::Route;
use crate::netlink::encode::dump_routes;
use crate::outcome::Failure;

/// Adds to each conflict in `failures` (sorted by VIP) the text of the conflicting route. Dumps table
/// local again, and table main if a conflict has no text yet. A failed dump leaves the conflict
/// without a text.
pub(crate) fn explain(connection: &mut Connection, link: u32, failures: &mut [Failure]) {
    for family in Family::ALL {
        for table in [TABLE_LOCAL, TABLE_MAIN] {
            let unexplained = |failure: &Failure| {
                failure.cause == Cause::Conflict
                    && failure.vip.family() == family
                    && failure.detail.is_none()
            };
            if !failures.iter().any(unexplained) {
                break;
            }
            let mut found: Vec<(usize, Route)> = Vec::new();
            let dumped = connection.dump(
                |out, sequence| dump_routes(out, sequence, family, Some(table), None),
                |message| {
                    let route = message.route()?.filter(|route| {
                        let is_own = route.link == Some(link) && !route.indirect;
                        route.table == table && !route.cloned && !is_own
                    });
                    if let Some((route, host)) =
                        route.and_then(|route| Some((route, route.host()?)))
                        && let Ok(at) =
                            failures.binary_search_by_key(&Vip::from(host), |failure| failure.vip)
                        && unexplained(&failures[at])
                    {
                        found.push((at, route));
                    }
                    Ok(())
                },
            );
            if dumped.is_err() {
                break;
            }
            let mut names: Vec<(u32, String)> = Vec::new();
            for (at, route) in found {
                // The dump lists the winning route first.
                if failures[at].detail.is_none() {
                    let obstacle = describe(connection, &route, &mut names);
                    failures[at].detail = Some(format!("{}: {obstacle}", Cause::Conflict).into());
                }
            }
        }
    }
}

/// The route's text: enough to find the route with `ip route`.
fn describe(connection: &mut Connection, route: &Route, names: &mut Vec<(u32, String)>) -> String {
    let through = match route.link {
        Some(index) => format!("device {}", name_of(connection, index, names)),
        None => "several devices".to_owned(),
    };
    let kind = match route.kind {
        libc::RTN_LOCAL => "local route",
        _ => "route",
    };
    let by = match (route.by_object, route.indirect) {
        (true, _) => " by a nexthop object",
        (false, true) => " by a gateway or several next hops",
        (false, false) => "",
    };
    let table = match route.table {
        TABLE_LOCAL => "local",
        _ => "main",
    };
    format!(
        "{kind} through {through}{by}, table {table}, metric {}, protocol {}",
        route.metric, route.protocol
    )
}

/// The name of a link. Each link is looked up once.
fn name_of(connection: &mut Connection, index: u32, names: &mut Vec<(u32, String)>) -> String {
    if let Some((_, name)) = names.iter().find(|(of, _)| *of == index) {
        return name.clone();
    }
    let link = LinkIndex::new(index).map(LinkRef::Index);
    let link = link.and_then(|link| link::find(connection, &link).ok().flatten());
    let name = link.map_or_else(|| format!("with index {index}"), |link| link.name);
    names.push((index, name.clone()));
    name
}
