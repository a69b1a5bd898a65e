//! Which VIPs the Services of a cluster ask a node to hold. Pure: objects go in, changes come out.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use viproute::Vip;
use viproute::ipnet::IpNet;

/// A Service with this label, whatever its value, belongs to another proxy.
pub(crate) const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Names the Service of an EndpointSlice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A namespace and a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
}

impl Key {
    fn new(namespace: Option<&str>, name: &str) -> Self {
        Self {
            namespace: namespace.unwrap_or_default().into(),
            name: name.into(),
        }
    }

    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        Self::new(
            meta.namespace.as_deref(),
            meta.name.as_deref().unwrap_or_default(),
        )
    }
}

/// The VIPs of one Service, in the ranges.
#[derive(Debug, Default)]
struct Claims {
    cluster: Addresses,
    /// External and load-balancer addresses.
    external: Addresses,
}

/// Addresses under one traffic policy.
#[derive(Debug, Default)]
struct Addresses {
    vips: Vec<Vip>,
    /// Only a node with an endpoint holds them.
    is_local: bool,
}

/// A list that the API server sends, and the changes since.
#[derive(Debug)]
struct Listed<T> {
    live: HashMap<Key, T>,
    /// The list that is being sent. Nothing counts until it is complete.
    incoming: HashMap<Key, T>,
    is_complete: bool,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self {
            live: HashMap::new(),
            incoming: HashMap::new(),
            is_complete: false,
        }
    }
}

impl<T> Listed<T> {
    fn begin(&mut self) {
        self.incoming = HashMap::new();
    }

    fn list(&mut self, key: Key, value: Option<T>) {
        if let Some(value) = value {
            self.incoming.insert(key, value);
        }
    }

    fn complete(&mut self) {
        self.live = std::mem::take(&mut self.incoming);
        self.is_complete = true;
    }

    fn put(&mut self, key: Key, value: Option<T>) {
        match value {
            Some(value) => self.live.insert(key, value),
            None => self.live.remove(&key),
        };
    }
}

/// A step of a list or of a watch. `T` is an object of the API server.
#[derive(Debug)]
pub(crate) enum Step<'a, T> {
    /// A list begins.
    Begin,
    Listed(&'a T),
    /// The list is complete.
    Complete,
    Put(&'a T),
    Gone(&'a T),
}

/// How the desired set changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// These come and go. Both may be empty.
    Some { added: Vec<Vip>, removed: Vec<Vip> },
    /// A list is complete: the whole set counts anew.
    All,
}

impl Change {
    const NONE: Self = Self::Some {
        added: Vec::new(),
        removed: Vec::new(),
    };
}

/// What decides which addresses count.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) ranges: Vec<IpNet>,
    /// Where the policy of a Service is `Local`, hold its VIPs only with an endpoint on this node.
    pub(crate) local_on: Option<String>,
}

/// The Services, and the VIPs that they ask for.
#[derive(Debug)]
pub(crate) struct Desired {
    rules: Rules,
    services: Listed<Claims>,
    /// The EndpointSlices with an endpoint on this node: the Service of each.
    slices: Listed<Key>,
    /// The number of those slices by Service.
    local: HashMap<Key, usize>,
    /// How many Services ask for each VIP.
    vips: BTreeMap<Vip, usize>,
}

impl Desired {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            services: Listed::default(),
            slices: Listed::default(),
            local: HashMap::new(),
            vips: BTreeMap::new(),
        }
    }

    /// Whether every list that counts was complete once.
    pub(crate) fn is_complete(&self) -> bool {
        self.services.is_complete && (self.slices.is_complete || self.rules.local_on.is_none())
    }

    /// The VIPs of all Services, each once.
    pub(crate) fn vips(&self) -> impl ExactSizeIterator<Item = Vip> {
        self.vips.keys().copied()
    }

    /// The number of Services that have VIPs.
    pub(crate) fn services(&self) -> usize {
        self.services.live.len()
    }

    /// The Services that ask for this VIP, in order.
    pub(crate) fn services_of(&self, vip: Vip) -> Vec<&Key> {
        let keys = self.services.live.keys();
        let mut keys: Vec<_> = keys
            .filter(|key| self.asks(key).any(|asked| asked == vip))
            .collect();
        keys.sort_unstable();
        keys
    }

    pub(crate) fn service(&mut self, step: Step<'_, Service>) -> Change {
        let claims = |service| self.rules.claims(service);
        match step {
            Step::Begin => self.services.begin(),
            Step::Listed(service) => {
                let claims = claims(service);
                self.services.list(Key::of(&service.metadata), claims);
            }
            Step::Complete => {
                self.services.complete();
                return self.count_anew();
            }
            Step::Put(service) => {
                let (key, claims) = (Key::of(&service.metadata), claims(service));
                return self.change(&key, |this| this.services.put(key.clone(), claims));
            }
            Step::Gone(service) => {
                let key = Key::of(&service.metadata);
                return self.change(&key, |this| this.services.put(key.clone(), None));
            }
        }
        Change::NONE
    }

    pub(crate) fn slice(&mut self, step: Step<'_, EndpointSlice>) -> Change {
        let local_service = |slice| self.rules.local_service(slice);
        match step {
            Step::Begin => self.slices.begin(),
            Step::Listed(slice) => {
                let service = local_service(slice);
                self.slices.list(Key::of(&slice.metadata), service);
            }
            Step::Complete => {
                self.slices.complete();
                return self.count_anew();
            }
            Step::Put(slice) => {
                let service = local_service(slice);
                return self.put_slice(slice, service);
            }
            Step::Gone(slice) => return self.put_slice(slice, None),
        }
        Change::NONE
    }

    fn put_slice(&mut self, slice: &EndpointSlice, service: Option<Key>) -> Change {
        // The label that names the Service cannot change: see service_of.
        let Some(of) = service_of(slice) else {
            return Change::NONE;
        };
        let key = Key::of(&slice.metadata);
        self.change(&of, |this| {
            let before = this.slices.live.contains_key(&key);
            let after = service.is_some();
            this.slices.put(key, service);
            let count = this.local.entry(of.clone()).or_default();
            *count = (*count + usize::from(after)) - usize::from(before);
            if *count == 0 {
                this.local.remove(&of);
            }
        })
    }

    /// Makes an edit that concerns one Service, and says what becomes of the VIPs.
    fn change(&mut self, service: &Key, edit: impl FnOnce(&mut Self)) -> Change {
        let before: Vec<Vip> = self.asks(service).collect();
        edit(self);
        let after: Vec<Vip> = self.asks(service).collect();
        let mut added = Vec::new();
        for vip in after {
            let count = self.vips.entry(vip).or_default();
            *count += 1;
            if *count == 1 {
                added.push(vip);
            }
        }
        let mut removed = Vec::new();
        for vip in before {
            if let Entry::Occupied(mut count) = self.vips.entry(vip) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                    removed.push(vip);
                }
            }
        }
        Change::Some { added, removed }
    }

    /// Counts all VIPs anew, and the local endpoints.
    fn count_anew(&mut self) -> Change {
        self.local.clear();
        for service in self.slices.live.values() {
            *self.local.entry(service.clone()).or_default() += 1;
        }
        let mut vips = BTreeMap::new();
        for vip in self.services.live.keys().flat_map(|key| self.asks(key)) {
            *vips.entry(vip).or_default() += 1;
        }
        self.vips = vips;
        Change::All
    }

    /// The VIPs that this Service asks the node to hold.
    fn asks(&self, key: &Key) -> impl Iterator<Item = Vip> {
        let has_endpoint = self.local.contains_key(key);
        self.services
            .live
            .get(key)
            .into_iter()
            .flat_map(|claims| [&claims.cluster, &claims.external])
            .filter(move |addresses| has_endpoint || !addresses.is_local)
            .flat_map(|addresses| addresses.vips.iter().copied())
    }
}

impl Rules {
    /// The VIPs of a Service, or `None` if a node holds none for it.
    fn claims(&self, service: &Service) -> Option<Claims> {
        let has_other_proxy = service.metadata.labels.as_ref();
        if has_other_proxy.is_some_and(|labels| labels.contains_key(PROXY_NAME)) {
            return None;
        }
        let spec = service.spec.as_ref()?;
        let single = spec.cluster_ip.as_deref().unwrap_or_default();
        // Headless, or no address was assigned yet. An ExternalName has none at all.
        if spec.type_.as_deref() == Some("ExternalName") || matches!(single, "" | "None") {
            return None;
        }
        let is_local =
            |policy: &Option<String>| self.local_on.is_some() && policy.as_deref() == Some("Local");
        // Servers before 1.20 have the single address only.
        let cluster = spec.cluster_ips.as_deref().unwrap_or_default().iter();
        let cluster = cluster.map(String::as_str).chain([single]);
        let external = spec.external_ips.as_deref().unwrap_or_default().iter();
        let external = external.map(String::as_str).chain(balanced(service));
        let claims = Claims {
            cluster: Addresses {
                vips: self.vips(cluster),
                is_local: is_local(&spec.internal_traffic_policy),
            },
            external: Addresses {
                vips: self.vips(external),
                is_local: is_local(&spec.external_traffic_policy),
            },
        };
        (!claims.cluster.vips.is_empty() || !claims.external.vips.is_empty()).then_some(claims)
    }

    /// The addresses in the ranges, each once.
    fn vips<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Vec<Vip> {
        let mut vips: Vec<Vip> = texts
            .filter_map(|text| text.parse::<IpAddr>().ok())
            .filter(|ip| self.ranges.iter().any(|range| range.contains(ip)))
            .map(Vip::from)
            .collect();
        vips.sort_unstable();
        vips.dedup();
        // Thousands of Services have one or two each.
        vips.shrink_to_fit();
        vips
    }

    /// The Service of this slice, if the slice has an endpoint on the node that serves.
    fn local_service(&self, slice: &EndpointSlice) -> Option<Key> {
        let node = self.local_on.as_deref()?;
        let is_local = |endpoint: &Endpoint| {
            endpoint.node_name.as_deref() == Some(node) && is_serving(endpoint)
        };
        let service = service_of(slice)?;
        let mut endpoints = slice.endpoints.iter().flatten();
        endpoints.any(is_local).then_some(service)
    }
}

/// The addresses of load balancers that deliver to this VIP. With `ipMode: Proxy` they deliver to the
/// node's own address instead.
fn balanced(service: &Service) -> impl Iterator<Item = &str> {
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref());
    let ingress = ingress.unwrap_or_default().iter();
    ingress
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_deref())
}

/// An endpoint serves until it has ended, also while it drains. An unknown condition means ready.
fn is_serving(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions.is_none_or(|known| known.serving.or(known.ready).unwrap_or(true))
}

/// The Service that a slice is of, by its label. A slice that gets another label is a new one: its
/// controller never changes it.
fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let namespace = slice.metadata.namespace.as_deref();
    Some(Key::new(namespace, labels.get(SERVICE_NAME)?))
}

#[cfg(test)]
#[path = "desired_tests.rs"]
mod tests;
