//! How the controller stands: what its endpoints say.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, LabelSetEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family as Metrics;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use viproute::{Family, FamilyStatus, KeeperHandle, KeeperStatus};

/// What the loop knows, for the endpoints.
#[derive(Debug)]
pub(crate) struct Status {
    /// A keeper without a good dispatch for so long is not healthy.
    limit: Duration,
    /// From the first complete list to the end.
    keeper: Mutex<Option<KeeperHandle>>,
    services: AtomicUsize,
    /// Complete lists and errors of each watch.
    pub(crate) lists: Metrics<Watch, Counter>,
    pub(crate) errors: Metrics<Watch, Counter>,
    /// Sets by which too many VIPs would have been released.
    pub(crate) refused: Counter,
}

/// The resource of a watch, as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Watch(pub(crate) &'static str);

impl EncodeLabelSet for Watch {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [("resource", self.0)].encode(encoder)
    }
}

impl Status {
    pub(crate) fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            limit,
            keeper: Mutex::new(None),
            services: AtomicUsize::new(0),
            lists: Metrics::default(),
            errors: Metrics::default(),
            refused: Counter::default(),
        })
    }

    fn keeper(&self) -> MutexGuard<'_, Option<KeeperHandle>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keeper begins, or, with `None`, has ended.
    pub(crate) fn set_keeper(&self, handle: Option<KeeperHandle>) {
        *self.keeper() = handle;
    }

    pub(crate) fn set_services(&self, count: usize) {
        self.services.store(count, Ordering::Relaxed);
    }

    /// Whether the first complete list is on the link.
    pub(crate) fn is_ready(&self) -> bool {
        let keeper = self.keeper();
        let now = keeper.as_ref().and_then(|keeper| keeper.status().ok());
        now.is_some_and(|now| is_synced(&now))
    }

    /// Why the controller is not healthy. Before the first list there is nothing to keep yet.
    pub(crate) fn trouble(&self) -> Option<String> {
        match self.keeper().as_ref()?.status() {
            Ok(now) => trouble(&now, self.limit),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Everything, in the text format of Prometheus.
    pub(crate) fn metrics(self: &Arc<Self>) -> String {
        let mut registry = Registry::with_prefix("viproute");
        let (lists, errors) = (self.lists.clone(), self.errors.clone());
        registry.register("lists", "Complete lists of the API server", lists);
        registry.register("watch_errors", "Errors of watches", errors);
        let help = "Sets refused because too many VIPs would have been released";
        registry.register("refused_sets", help, self.refused.clone());
        registry.register_collector(Box::new(Snapshot(self.clone())));
        let mut text = String::new();
        // A String takes all that is written.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

/// Whether the keeper has read the whole link, or had nothing to keep. It begins with the first complete list.
fn is_synced(now: &KeeperStatus) -> bool {
    let desires_none = now.ipv4.desired + now.ipv6.desired == 0;
    now.last_full_sync.is_some() || desires_none && now.last_dispatch.is_some()
}

/// A dispatch is good if it ended without an error and the link was there. What a VIP or one family lacks
/// is in the metrics: a restart would not mend it.
fn trouble(now: &KeeperStatus, limit: Duration) -> Option<String> {
    let waits = now.ipv4.waiting.as_ref().or(now.ipv6.waiting.as_ref());
    let waits = waits.filter(|waits| waits.missing.family.is_none() && waits.since > limit);
    if let Some(waits) = waits {
        return Some(format!(
            "waiting for {} s: {}",
            waits.since.as_secs(),
            waits.missing
        ));
    }
    let since = now.last_dispatch.unwrap_or_default();
    (since > limit).then(|| format!("no good dispatch for {} s", since.as_secs()))
}

/// What is read anew for each scrape.
#[derive(Debug)]
struct Snapshot(Arc<Status>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let services = self.0.services.load(Ordering::Relaxed);
        gauge(
            &mut encoder,
            "services",
            "Services that have VIPs",
            services,
        )?;
        let ready = usize::from(self.0.is_ready());
        gauge(&mut encoder, "ready", "1 after the first full sync", ready)?;
        let Some(keeper) = self.0.keeper().clone() else {
            return Ok(());
        };
        let (Ok(now), Ok(counters)) = (keeper.status(), keeper.counters()) else {
            return Ok(());
        };
        if let Some(since) = now.last_dispatch {
            let help = "Seconds since the last dispatch without an error";
            let metric = ConstGauge::new(since.as_secs_f64());
            write(&mut encoder, "last_dispatch_age_seconds", help, &metric)?;
        }
        let counts: [(_, _, Count); 3] = [
            ("desired_vips", "VIPs to keep", |vips| vips.desired),
            ("failing_vips", "VIPs that fail", |vips| vips.failing),
            ("waiting", "1 while the family cannot be kept", |vips| {
                usize::from(vips.waiting.is_some())
            }),
        ];
        for (name, help, count) in counts {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for family in [Family::V4, Family::V6] {
                let labels = [("family", family.as_str())];
                let count = signed(count(now.family(family)));
                ConstGauge::new(count).encode(metric.encode_family(&labels)?)?;
            }
        }
        for (name, help, count) in [
            ("events", "Notifications of the kernel", counters.events),
            ("looks", "VIPs looked at one by one", counters.looks),
            ("adopted", "VIPs found in their state", counters.adopted),
            ("repairs", "VIPs written for", counters.repairs),
            ("released", "VIPs released", counters.released),
            ("failures", "Failures that began", counters.failures),
            ("resyncs", "Readings of the whole link", counters.resyncs),
            ("backoffs", "Repairs put off", counters.backoffs),
        ] {
            write(&mut encoder, name, help, &ConstCounter::new(count))?;
        }
        Ok(())
    }
}

fn write(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, count: usize) -> fmt::Result {
    write(encoder, name, help, &ConstGauge::new(signed(count)))
}

/// A count of one family.
type Count = fn(&FamilyStatus) -> usize;

/// A count as a gauge has it.
fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
