//! The types between the caller and a call: reports, errors, audits, claims, cancellation, namespaces.

mod audit;
mod cancel;
mod claim;
mod error;
mod netns;
mod report;
mod status;

pub use crate::core::ErrorKind;
pub use audit::{Audit, Audited};
pub(crate) use cancel::Cancelled;
pub use cancel::Canceller;
pub use claim::Claim;
pub use error::Error;
pub use netns::Netns;
pub use report::{Failure, Outcome, OutcomeKind, Report};
pub use status::{LinkStatus, SourceStatus};

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::{fmt, io};

    use super::*;
    use crate::base::{Protocol, RejectReason};
    use crate::core::{Binding, Cause, Drift, Operation};
    use crate::link::{LinkIndex, LinkKind, LinkRef, SourceAvoidance};
    use crate::preview::{Likelihood, Reason};

    /// The name of a variant, without its fields, in snake_case.
    fn snake_case(variant: impl fmt::Debug) -> String {
        let variant = format!("{variant:?}");
        let mut name = String::new();
        for letter in variant.chars().take_while(|letter| *letter != '(') {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    #[test]
    fn machine_names_are_the_variants_in_snake_case() {
        macro_rules! check {
            ($($variant:expr),* $(,)?) => {
                $(assert_eq!($variant.as_str(), snake_case($variant));)*
            };
        }
        check!(
            Binding::Route,
            Cause::NotReached,
            Cause::Rejected(RejectReason::Denied),
            ErrorKind::SourceNotOnNode,
            ErrorKind::Ipv6Disabled,
            ErrorKind::KeeperStopped,
            Likelihood::Possible,
            LinkKind::Dummy,
            LinkKind::Auto,
            LinkStatus::InVrf,
            Operation::ReplaceRoute,
            OutcomeKind::Repaired,
            Reason::Drift(Drift::STALE),
            Reason::LateRoute,
            RejectReason::IsSource,
            RejectReason::V4Mapped,
            SourceAvoidance::AddressLabel,
            SourceStatus::NotGiven,
        );
    }

    #[test]
    fn the_source_of_an_error_is_the_io_error_behind_it() {
        let errno = |error: &Error| {
            let source = error.source()?.downcast_ref::<io::Error>()?;
            source.raw_os_error()
        };
        assert_eq!(
            errno(&Error::kernel("", libc::EPERM, None)),
            Some(libc::EPERM)
        );
        assert!(Error::new(ErrorKind::Cancelled, "").source().is_none());
        let not_there = Netns::open("/nowhere").unwrap_err();
        assert_eq!(errno(&not_there), Some(libc::ENOENT));
        assert_eq!(not_there.kind(), ErrorKind::InvalidNetns);
    }

    #[test]
    fn merged_reports_have_the_sum_and_the_order_of_addresses() {
        let outcome = |vip: [u8; 4]| Outcome {
            vip: std::net::Ipv4Addr::from(vip).into(),
            kind: OutcomeKind::Assigned,
            cured: Drift::empty(),
        };
        let failure = |vip: [u8; 4]| Failure::new(outcome(vip).vip, Cause::Pending, None);
        let report = |count: usize, outcomes, failures| Report {
            assigned: count,
            repaired: count + 1,
            released: count + 2,
            unchanged: count + 3,
            writes: count as u64 + 4,
            retries: count as u64 + 5,
            outcomes,
            failures,
        };
        let [a, b, c, d] = [1, 2, 3, 4].map(|host| [10, 96, 0, host]);
        let mut all = report(10, vec![outcome(a), outcome(d)], vec![failure(c)]);
        all.merge(report(100, vec![outcome(b)], vec![failure(a), failure(d)]));
        let expected = Report {
            assigned: 110,
            repaired: 112,
            released: 114,
            unchanged: 116,
            writes: 118,
            retries: 120,
            outcomes: vec![outcome(a), outcome(b), outcome(d)],
            failures: vec![failure(a), failure(c), failure(d)],
        };
        assert_eq!(all, expected);
    }

    #[test]
    fn numbers_and_references_say_what_they_are() {
        assert_eq!(Protocol::try_from(2), Ok(Protocol::KERNEL));
        assert!(Protocol::try_from(0).is_err());
        let index = LinkIndex::try_from(7).unwrap();
        assert_eq!(LinkRef::from(index).to_string(), "link with index 7");
        assert_eq!(LinkRef::from("lo").to_string(), "link lo");
        for bad in [0, 1 << 31] {
            let text = LinkIndex::try_from(bad).unwrap_err().to_string();
            assert!(text.starts_with(&bad.to_string()), "{text}");
        }
    }
}
