//! The transitions of one row that decide about the late route.

use std::net::{IpAddr, Ipv6Addr};

use super::{Done, Facts, Goal, LateRoute, Progress, Row, Step};

fn row(done: Done, sent: u16, late_route: LateRoute) -> Row {
    let vip: IpAddr = Ipv6Addr::LOCALHOST.into();
    let mut row = Row::new(vip.into(), Goal::Assign);
    row.facts = Facts::ADDRESS | Facts::DESIRED;
    row.progress = Progress { done, late_route };
    row.sent = sent;
    row
}

#[test]
fn blind_deletion_without_an_echo_is_an_unknown_deletion() {
    let mut progress = Progress::default();
    progress.sent(Step::DeleteKernelBlind);
    progress.refused(Step::DeleteKernelBlind);
    assert_eq!(progress.late_route, LateRoute::Unobserved);
    progress.sent(Step::DeleteKernelBlind);
    progress.refused(Step::AddAddress);
    progress.acked(Step::DeleteKernelBlind);
    assert_eq!(progress.late_route, LateRoute::DeletionUnknown);
    // An observation without the late route does not decide it.
    progress.observed(Facts::ADDRESS | Facts::DESIRED);
    assert_eq!(progress.late_route, LateRoute::DeletionUnknown);
    assert!(progress.knows_late_route());
    progress.observed(Facts::ADDRESS | Facts::KERNEL);
    assert_eq!(progress.late_route, LateRoute::Seen);
}

#[test]
fn echoed_deletion_shows_the_late_route_and_a_new_address_forgets_it() {
    let mut progress = Progress::default();
    progress.deleted_late_route();
    assert_eq!(progress.late_route, LateRoute::Seen);
    progress.acked(Step::AddRoute);
    assert_eq!(progress.late_route, LateRoute::Seen);
    progress.acked(Step::AddAddress);
    assert_eq!(progress.late_route, LateRoute::Unknown);
    assert!(progress.has(Done::ADDRESS_IS_NEW));
}

#[test]
fn added_route_or_new_address_may_still_get_a_late_route() {
    let none = Done::empty();
    let [route, staged] = [Step::AddRoute.bit(), Step::AddStaged.bit()];
    let replaced = Step::ReplaceRoute.bit();
    for (done, sent, late_route, may) in [
        (none, 0, LateRoute::Unknown, false),
        (none, replaced, LateRoute::Unknown, false),
        (none, route, LateRoute::Unknown, true),
        (none, staged, LateRoute::Unknown, true),
        (Done::ADDRESS_IS_NEW, 0, LateRoute::Unknown, true),
        (
            Done::ADDRESS_IS_NEW,
            route,
            LateRoute::DeletionUnknown,
            true,
        ),
        (Done::ADDRESS_IS_NEW, route, LateRoute::Seen, false),
        (Done::REPLACED_STAGED, replaced, LateRoute::Unknown, true),
        (Done::REPLACED_STAGED, replaced, LateRoute::Seen, false),
        (
            Done::ADDRESS_IS_NEW | Done::FAILED,
            route,
            LateRoute::Unknown,
            false,
        ),
    ] {
        let row = row(done, sent, late_route);
        assert_eq!(row.may_still_get_kernels(), may, "{row:?}");
    }
    let mut row = row(none, route, LateRoute::Unknown);
    row.facts |= Facts::KERNEL;
    assert!(!row.may_still_get_kernels());
}

#[test]
fn unobserved_late_route_lasts_until_the_next_observation() {
    let mut row = row(
        Done::WAS_ABSENT | Done::ADDRESS_IS_NEW,
        0,
        LateRoute::Unknown,
    );
    assert!(row.trust_ack());
    assert_eq!(row.progress.late_route, LateRoute::Unobserved);
    row.progress.observed(Facts::ADDRESS);
    assert_eq!(row.progress.late_route, LateRoute::Unknown);
    // An address of another writer may have had a late route before.
    row.progress.done.remove(Done::WAS_ABSENT);
    assert!(!row.trust_ack());
    row.progress.late_route = LateRoute::Seen;
    assert!(row.trust_ack());
    assert_eq!(row.progress.late_route, LateRoute::Seen);
}
