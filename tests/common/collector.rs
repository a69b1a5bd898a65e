//! A subscriber of `tracing` that collects: for the integration tests and, as it uses nothing of the crate,
//! for the unit tests.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// A span or an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub name: String,
    pub level: Level,
    pub fields: BTreeMap<&'static str, String>,
    /// The names of the spans around it, the outermost first.
    pub within: Vec<String>,
}

impl Seen {
    fn new(metadata: &Metadata<'_>, fields: Fields, open: &[Seen]) -> Self {
        let Fields(mut fields) = fields;
        // An event has its name as its message.
        let message = fields.remove("message");
        Self {
            name: message.unwrap_or_else(|| metadata.name().to_owned()),
            level: *metadata.level(),
            fields,
            within: open.iter().map(|span| span.name.clone()).collect(),
        }
    }

    /// A field as text, empty without it.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// The name and these fields, to compare.
    pub fn with<const N: usize>(&self, fields: [&str; N]) -> (&str, [&str; N]) {
        (&self.name, fields.map(|field| self.field(field)))
    }
}

#[derive(Debug, Default)]
pub struct Collected {
    pub spans: Vec<Seen>,
    pub events: Vec<Seen>,
    open: Vec<Seen>,
}

impl Collected {
    pub fn named(&self, name: &str) -> Vec<&Seen> {
        let events = self.events.iter();
        events.filter(|event| event.name == name).collect()
    }
}

#[derive(Clone, Debug, Default)]
struct Collector(Arc<Mutex<Collected>>);

/// What this thread's calls in `act` gave to `tracing`, and what `act` returned.
pub fn collect<T>(act: impl FnOnce() -> T) -> (Collected, T) {
    let collector = Collector::default();
    let result = tracing::subscriber::with_default(collector.clone(), act);
    (std::mem::take(&mut *collector.0.lock().unwrap()), result)
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "viproute"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        let mut collected = self.0.lock().unwrap();
        let seen = Seen::new(span.metadata(), fields, &collected.open);
        collected.spans.push(seen);
        Id::from_u64(collected.spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut collected = self.0.lock().unwrap();
        let seen = Seen::new(event.metadata(), fields, &collected.open);
        collected.events.push(seen);
    }

    fn enter(&self, span: &Id) {
        let mut collected = self.0.lock().unwrap();
        let at = usize::try_from(span.into_u64()).unwrap() - 1;
        let span = collected.spans[at].clone();
        collected.open.push(span);
    }

    fn exit(&self, _: &Id) {
        self.0.lock().unwrap().open.pop();
    }
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}
