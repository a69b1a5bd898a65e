use serde_json::{Value, json};

use super::*;

fn rules(local_on: Option<&str>) -> Rules {
    Rules {
        ranges: ["10.96.0.0/16", "2001:db8:42:1::/112", "203.0.113.0/24"]
            .map(|range| range.parse().unwrap())
            .to_vec(),
        local_on: local_on.map(Into::into),
    }
}

fn service(name: &str, spec: Value) -> Service {
    object(json!({ "metadata": { "namespace": "default", "name": name }, "spec": spec }))
}

fn cluster(name: &str, ip: &str) -> Service {
    service(name, json!({ "clusterIP": ip, "clusterIPs": [ip] }))
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A slice of the Service `web`, with an endpoint on each node, which has these conditions.
fn slice(name: &str, nodes: &[&str], conditions: Value) -> EndpointSlice {
    let endpoints: Vec<_> = nodes
        .iter()
        .map(
            |node| json!({ "addresses": ["10.0.0.1"], "nodeName": node, "conditions": conditions }),
        )
        .collect();
    let labels = json!({ "kubernetes.io/service-name": "web" });
    object(json!({
        "metadata": { "namespace": "default", "name": name, "labels": labels },
        "addressType": "IPv4", "endpoints": endpoints,
    }))
}

fn vips(texts: &[&str]) -> Vec<Vip> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn change(added: &[&str], removed: &[&str]) -> Change {
    Change::Some {
        added: vips(added),
        removed: vips(removed),
    }
}

/// After a complete list.
fn listed(services: &[Service]) -> Desired {
    listed_with(None, services)
}

fn listed_with(local_on: Option<&str>, services: &[Service]) -> Desired {
    let mut desired = Desired::new(rules(local_on));
    assert_eq!(desired.service(Step::Begin), Change::NONE);
    for service in services {
        assert_eq!(desired.service(Step::Listed(service)), Change::NONE);
    }
    assert_eq!(desired.service(Step::Complete), Change::All);
    desired
}

#[track_caller]
fn assert_vips(desired: &Desired, expected: &[&str]) {
    assert_eq!(desired.vips().collect::<Vec<_>>(), vips(expected));
}

#[test]
fn all_kinds_of_addresses_count_within_the_ranges() {
    let spec = json!({
        "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "2001:db8:42:1::10"],
        "externalIPs": ["203.0.113.5", "198.51.100.5", "not an address"],
    });
    let mut web = service("web", spec);
    web.status = object(json!({ "loadBalancer": { "ingress": [
        { "ip": "203.0.113.6" }, { "ip": "203.0.113.7", "ipMode": "VIP" },
        { "ip": "203.0.113.8", "ipMode": "Proxy" }, { "hostname": "lb.example.com" },
    ] } }));
    let expected = [
        "10.96.0.10",
        "203.0.113.5",
        "203.0.113.6",
        "203.0.113.7",
        "2001:db8:42:1::10",
    ];
    assert_vips(&listed(&[web]), &expected);
    // A server that is too old for clusterIPs.
    let old = service("old", json!({ "clusterIP": "10.96.0.11" }));
    assert_vips(&listed(&[old]), &["10.96.0.11"]);
}

#[test]
fn services_that_no_node_serves_have_no_vip() {
    let external = ["203.0.113.5"];
    let headless = json!({ "clusterIP": "None", "clusterIPs": ["None"], "externalIPs": external });
    let name = json!({ "type": "ExternalName", "clusterIP": "10.96.0.1", "externalIPs": external });
    let mut other = cluster("other", "10.96.0.12");
    other.metadata.labels = object(json!({ PROXY_NAME: "" }));
    let desired = listed(&[
        service("headless", headless),
        service("name", name),
        service("unassigned", json!({ "externalIPs": external })),
        service("outside", json!({ "clusterIP": "10.97.0.1" })),
        other,
        Service::default(),
    ]);
    assert_vips(&desired, &[]);
    assert_eq!(desired.services(), 0);
}

#[test]
fn vip_of_several_services_stays_until_the_last_one_is_gone() {
    let shares = |name, ip| {
        service(
            name,
            json!({ "clusterIP": ip, "externalIPs": ["203.0.113.5"] }),
        )
    };
    let (a, b) = (shares("a", "10.96.0.1"), shares("b", "10.96.0.2"));
    let mut desired = listed(std::slice::from_ref(&a));
    assert_eq!(desired.service(Step::Put(&b)), change(&["10.96.0.2"], &[]));
    let of = desired.services_of(vips(&["203.0.113.5"])[0]);
    assert_eq!(
        of.iter().map(|key| &*key.name).collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert_eq!(desired.service(Step::Gone(&a)), change(&[], &["10.96.0.1"]));
    let last = ["10.96.0.2", "203.0.113.5"];
    assert_eq!(desired.service(Step::Gone(&b)), change(&[], &last));
    assert_eq!(desired.service(Step::Gone(&b)), Change::NONE);
    assert_vips(&desired, &[]);
}

#[test]
fn changed_service_changes_only_the_vips_that_differ() {
    let with = |external: &[&str]| {
        service(
            "a",
            json!({ "clusterIP": "10.96.0.1", "externalIPs": external }),
        )
    };
    let mut desired = listed(&[with(&["203.0.113.5", "203.0.113.6"])]);
    let put = desired.service(Step::Put(&with(&["203.0.113.6", "203.0.113.7"])));
    assert_eq!(put, change(&["203.0.113.7"], &["203.0.113.5"]));
    assert_eq!(
        desired.service(Step::Put(&with(&["203.0.113.6", "203.0.113.7"]))),
        Change::NONE
    );
    // From now on it is another proxy's.
    let mut other = with(&[]);
    other.metadata.labels = object(json!({ PROXY_NAME: "other" }));
    let all = ["10.96.0.1", "203.0.113.6", "203.0.113.7"];
    assert_eq!(desired.service(Step::Put(&other)), change(&[], &all));
}

#[test]
fn list_counts_only_once_it_is_complete() {
    let (a, b) = (cluster("a", "10.96.0.1"), cluster("b", "10.96.0.2"));
    let mut desired = Desired::new(rules(None));
    assert!(!desired.is_complete());
    desired.service(Step::Begin);
    desired.service(Step::Listed(&a));
    assert!(!desired.is_complete());
    assert_vips(&desired, &[]);
    desired.service(Step::Complete);
    assert!(desired.is_complete());
    // A later list that breaks off leaves what is known, and counts for nothing itself.
    desired.service(Step::Begin);
    desired.service(Step::Listed(&b));
    assert_vips(&desired, &["10.96.0.1"]);
    desired.service(Step::Begin);
    assert_eq!(desired.service(Step::Complete), Change::All);
    assert_vips(&desired, &[]);
}

#[test]
fn policy_local_counts_endpoints_on_the_node() {
    let spec = json!({
        "clusterIP": "10.96.0.1", "externalIPs": ["203.0.113.5"], "externalTrafficPolicy": "Local",
    });
    let web = service("web", spec);
    let mut desired = listed_with(Some("node-1"), std::slice::from_ref(&web));
    assert!(!desired.is_complete());
    desired.slice(Step::Begin);
    desired.slice(Step::Listed(&slice("web-1", &["node-2"], json!({}))));
    desired.slice(Step::Complete);
    assert!(desired.is_complete());
    assert_vips(&desired, &["10.96.0.1"]);
    let here = slice("web-2", &["node-2", "node-1"], json!({ "ready": true }));
    let (come, go) = (change(&["203.0.113.5"], &[]), change(&[], &["203.0.113.5"]));
    assert_eq!(desired.slice(Step::Put(&here)), come);
    // A second slice with an endpoint here: the first one may go.
    let also = slice("web-3", &["node-1"], json!({ "ready": true }));
    assert_eq!(desired.slice(Step::Put(&also)), Change::NONE);
    assert_eq!(desired.slice(Step::Gone(&here)), Change::NONE);
    let draining = json!({ "ready": false, "serving": true, "terminating": true });
    assert_eq!(
        desired.slice(Step::Put(&slice("web-3", &["node-1"], draining))),
        Change::NONE
    );
    let unready = json!({ "ready": false });
    assert_eq!(
        desired.slice(Step::Put(&slice("web-3", &["node-1"], unready))),
        go
    );
    // The other policy, by itself.
    let inner = json!({ "clusterIP": "10.96.0.1", "internalTrafficPolicy": "Local" });
    let put = desired.service(Step::Put(&service("web", inner)));
    assert_eq!(put, change(&[], &["10.96.0.1"]));
    assert_eq!(desired.slice(Step::Put(&here)), change(&["10.96.0.1"], &[]));
    // A list of slices counts anew.
    desired.slice(Step::Begin);
    assert_eq!(desired.slice(Step::Complete), Change::All);
    assert_vips(&desired, &[]);
    // Who did not opt in holds them everywhere.
    assert_vips(&listed(&[web]), &["10.96.0.1", "203.0.113.5"]);
}
