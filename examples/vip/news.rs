//! What a dispatch of a keeper has to say of single VIPs.

use viproute::{Cause, Dispatched, Failure};

/// A line for each failure that is new or has ended. What a whole family lacks, the dispatch itself says.
pub(crate) fn lines(done: &Dispatched) -> impl Iterator<Item = String> {
    let is_own = |failure: &&Failure| !matches!(failure.cause, Cause::Missing(_));
    let new = done.new_failures.iter().filter(is_own);
    let ended = done.recovered.iter().filter(is_own);
    new.map(ToString::to_string)
        .chain(ended.map(|failure| format!("{}: fails no longer", failure.vip)))
}
