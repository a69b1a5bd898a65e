//! The feature `serde`: what all kinds and flags share. Structs derive it beside their types.

use std::net::IpAddr;

use serde::de::Error as _;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::{Family, RejectReason, Vip};
use crate::core::{AddressFlags, Binding, Cause, Drift, Operation};
use crate::link::{LinkKind, SourceAvoidance};
use crate::outcome::{Error, ErrorKind, LinkStatus, OutcomeKind, SourceStatus};
use crate::preview::{Likelihood, Reason};
use crate::watcher::{Change, Event, Origin};

/// A kind is its name for machines.
macro_rules! names {
    ($($kind:ty),* $(,)?) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }
    )*};
}
names!(
    Binding,
    ErrorKind,
    Family,
    Likelihood,
    LinkKind,
    LinkStatus,
    Operation,
    OutcomeKind,
    RejectReason,
    SourceAvoidance,
    SourceStatus,
);

/// Flags are an array of their names.
macro_rules! flags {
    ($($flags:ty),* $(,)?) => {$(
        impl Serialize for $flags {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_seq(self.iter_names().map(|(name, _)| name.to_ascii_lowercase()))
            }
        }
    )*};
}
flags!(AddressFlags, Change, Drift, Origin);

impl Serialize for Vip {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// As [`FromStr`](std::str::FromStr): an address, alone or as /32 or /128.
impl<'de> Deserialize<'de> for Vip {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Without the report, which serializes by itself.
impl Serialize for Error {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_struct("Error", 4)?;
        fields.serialize_field("kind", &self.kind())?;
        fields.serialize_field("message", &format_args!("{self}"))?;
        fields.serialize_field("errno", &self.raw_os_error())?;
        fields.serialize_field("text", &self.kernel_text())?;
        fields.end()
    }
}

/// Its name as `cause`, and what it rests on as `reason`.
impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_struct("Cause", 2)?;
        fields.serialize_field("cause", self.as_str())?;
        match self {
            Self::Rejected(why) => fields.serialize_field("reason", why)?,
            Self::Missing(kind) => fields.serialize_field("reason", kind)?,
            _ => {}
        }
        fields.end()
    }
}

/// Its name as `reason`, and a drift as `drift`.
impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_struct("Reason", 2)?;
        fields.serialize_field("reason", self.as_str())?;
        if let Self::Drift(drift) = self {
            fields.serialize_field("drift", drift)?;
        }
        fields.end()
    }
}

/// Its name as `event`, and its fields beside the name.
impl Serialize for Event {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_struct("Event", 4)?;
        fields.serialize_field("event", self.as_str())?;
        match self {
            Self::Vip {
                vip,
                change,
                origin,
            } => {
                fields.serialize_field("vip", vip)?;
                fields.serialize_field("change", change)?;
                fields.serialize_field("origin", origin)?;
            }
            Self::NodeAddressSet(address) | Self::NodeAddressRemoved(address) => {
                fields.serialize_field::<IpAddr>("address", address)?;
            }
            Self::LinkUp(index) | Self::LinkDown(index) => {
                fields.serialize_field("index", index)?;
            }
            Self::LinkGone | Self::Resync => {}
        }
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::base::PerFamily;
    use crate::outcome::{Audit, Audited, Failure, Outcome, Report};
    use crate::{
        Action, Counters, Dispatched, FamilyStatus, KeeperStatus, LinkIndex, Metric, Missing, Plan,
        PlannedRoute, PlannedStep, Protocol, RouteType, Table, Waiting,
    };

    fn v4() -> Vip {
        "10.96.0.10".parse().unwrap()
    }

    fn v6() -> Vip {
        "2001:db8::10".parse().unwrap()
    }

    /// Compares with tests/golden. With `VIPROUTE_GOLDEN=renew`, writes the file first.
    fn check(name: &str, value: &impl Serialize) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.json"));
        let text = serde_json::to_string_pretty(value).unwrap() + "\n";
        if std::env::var("VIPROUTE_GOLDEN").is_ok_and(|what| what == "renew") {
            std::fs::write(&file, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&file).unwrap(), "{name}");
    }

    fn failures() -> Vec<Failure> {
        vec![
            Failure::new(v4(), Cause::Rejected(RejectReason::Denied), None),
            Failure {
                operation: Some(Operation::AddRoute),
                errno: Some(libc::EINVAL),
                text: Some("Invalid source".into()),
                begun: Some(OutcomeKind::Assigned),
                drift: Drift::MISSING_ROUTE | Drift::KERNEL_LOCAL_ROUTE,
                ..Failure::new(v6(), Cause::Kernel, None)
            },
            Failure::new(
                v6(),
                Cause::Missing(ErrorKind::SourceNotOnNode),
                Some("no address of this node".into()),
            ),
        ]
    }

    fn report() -> Report {
        let mut report = Report::default();
        (report.repaired, report.unchanged, report.writes) = (1, 2, 3);
        report.outcomes = vec![Outcome {
            vip: v4(),
            kind: OutcomeKind::Repaired,
            cured: Drift::WRONG_SOURCE | Drift::DUPLICATE,
        }];
        report.failures = failures();
        report
    }

    #[test]
    fn report_and_error_match_the_golden_files() {
        check("report", &report());
        let error = Error::kernel("cannot create link x", libc::EPERM, Some("why".into()));
        check("error", &error.with_report(report()));
    }

    #[test]
    fn audit_matches_the_golden_file() {
        let audited = |vip, drift| Audited {
            vip,
            drift,
            is_judged: true,
            source: Some([192, 0, 2, 10].into()),
            protocol: Some(Protocol::KERNEL),
            address: Some(AddressFlags::PERMANENT | AddressFlags::NO_DAD),
        };
        let mut audit = Audit {
            vips: vec![
                audited(v4(), Drift::empty()),
                audited(v6(), Drift::WRONG_SOURCE | Drift::STALE),
            ],
            ..Audit::default()
        };
        audit.links[Family::V6] = LinkStatus::Ipv6Disabled;
        audit.sources = PerFamily::splat(SourceStatus::Present);
        check("audit", &audit);
    }

    #[test]
    fn plan_matches_the_golden_file() {
        let step = |vip, action, reason| PlannedStep {
            vip,
            action,
            reason,
        };
        let link: std::sync::Arc<str> = "kube-dummy-if".into();
        let create = Action::CreateLink {
            link: link.clone(),
            kind: LinkKind::Dummy,
        };
        let label = Action::AddLabel {
            link: link.clone(),
            prefix: "2001:db8::/64".parse().unwrap(),
            label: 4660,
        };
        let wait = Action::AwaitRoute {
            link: link.clone(),
            vip: v6(),
            likelihood: Likelihood::Certain,
        };
        let route = PlannedRoute {
            link,
            vip: v4(),
            table: Table::LOCAL,
            metric: Metric(0),
            protocol: Some(Protocol::KERNEL),
            kind: RouteType::LOCAL,
            tos: 0,
            source: Some([192, 0, 2, 10].into()),
            lifetime: None,
        };
        let drift = Reason::Drift(Drift::MISSING_ROUTE | Drift::STALE);
        check(
            "plan",
            &Plan {
                steps: vec![
                    step(None, create, Reason::NoLink),
                    step(None, label, Reason::SourceChoice),
                    step(Some(v6()), wait, Reason::LateRoute),
                    step(Some(v4()), Action::AddRoute(route), drift),
                ],
                failures: failures(),
            },
        );
    }

    #[test]
    fn events_match_the_golden_file() {
        let index = LinkIndex::try_from(7).unwrap();
        check(
            "events",
            &[
                Event::Vip {
                    vip: v4(),
                    change: Change::ADDRESS_SET | Change::ROUTE_SET,
                    origin: Origin::OURS | Origin::KERNEL,
                },
                Event::NodeAddressSet(v4().addr()),
                Event::NodeAddressRemoved(v6().addr()),
                Event::LinkUp(index),
                Event::LinkDown(index),
                Event::LinkGone,
                Event::Resync,
            ],
        );
    }

    #[test]
    fn keeper_types_match_the_golden_files() {
        let missing = Missing {
            family: Some(Family::V6),
            kind: ErrorKind::LinkDown,
            detail: "link x is down".into(),
        };
        check(
            "dispatched",
            &Dispatched {
                report: report(),
                new_failures: failures(),
                has_news: true,
                missing: vec![missing.clone()],
                refused: Some(ErrorKind::EmptySet),
                detail: Some("no VIP is desired".to_owned()),
                ..Dispatched::default()
            },
        );
        let idle = FamilyStatus {
            desired: 1,
            failing: 0,
            waiting: None,
            last_success: Some(Duration::from_millis(1500)),
        };
        let waiting = FamilyStatus {
            waiting: Some(Waiting {
                missing,
                since: Duration::from_millis(250),
            }),
            last_success: None,
            ..idle.clone()
        };
        check(
            "keeper_status",
            &KeeperStatus {
                ipv4: idle,
                ipv6: waiting,
                last_full_sync: Some(Duration::from_secs(2)),
                last_dispatch: Some(Duration::from_secs(1)),
            },
        );
        check("counters", &Counters::default());
    }

    #[test]
    fn vip_goes_both_ways() {
        assert_eq!(json!(v6()), "2001:db8::10");
        let read = |text: &str| serde_json::from_value::<Vip>(json!(text));
        assert_eq!(read("10.96.0.10").unwrap(), v4());
        assert_eq!(read("10.96.0.10/32").unwrap(), v4());
        let error = read("10.96.0.0/24").unwrap_err().to_string();
        assert!(error.contains("not one host address"), "{error}");
    }
}
