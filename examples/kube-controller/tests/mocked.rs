//! The controller beside an API server that the test orders: what it holds, judged by `ip -json`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../tests/common/mod.rs"]
mod common;
mod mock;

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use clap::Parser;
use common::{NODE_LINK, NODE_V4, NODE_V6, Net, PROTO_KERNEL, VIP_LINK, Want};
use kube_controller::{Args, run};
use mock::{List, Mock};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// A node, its API server, and the endpoints of its controller.
struct Cluster {
    net: Net,
    mock: Mock,
    /// Where the controller listens. Each run has a port of its own: a process that another test forks has
    /// the socket of the last run open until it executes its program.
    port: Cell<u16>,
}

impl Cluster {
    /// The Node has the addresses of the network. Without a list of Services.
    fn new() -> Self {
        let net = Net::new();
        net.ip("link set dev lo up");
        let mock = Mock::default();
        mock.list(
            "nodes",
            &[node(&[&NODE_V4.to_string(), &NODE_V6.to_string()])],
        );
        let port = Cell::new(9411);
        Self { net, mock, port }
    }

    /// With these Services, each a name and an address.
    fn with(services: &[(&str, &str)]) -> Self {
        let cluster = Self::new();
        cluster.serve(services);
        cluster
    }

    fn serve(&self, services: &[(&str, &str)]) {
        let services: Vec<_> = services
            .iter()
            .map(|(name, ip)| service(name, ip))
            .collect();
        self.mock.list("services", &services);
    }

    /// Runs the controller with these words while the steps go on; then it ends.
    fn run(&self, args: &str, steps: impl AsyncFnOnce(&Self)) {
        self.port.set(self.port.get() + 1);
        let port = self.port.get();
        let args = format!(
            "kube-controller --node node-1 --listen 127.0.0.1:{port} \
             --range 10.96.0.0/16,2001:db8:42:1::/112,203.0.113.0/24 {args}"
        );
        let args = Args::parse_from(args.split_whitespace());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (stop, stopped) = oneshot::channel::<()>();
            let stopped = async {
                let _ = stopped.await;
            };
            let controller = async {
                let client = self.mock.client();
                run(client, &args, stopped).await.expect("the controller");
            };
            let steps = async {
                steps(self).await;
                drop(stop);
            };
            tokio::join!(controller, steps);
        });
    }

    /// Waits until exactly these VIPs are on the link, each in its single-route state.
    async fn await_vips(&self, expected: &[&str]) {
        let mut expected: Vec<IpAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
        expected.sort_unstable();
        let is_so = || async {
            self.held() == expected && self.net.wrong_vips(&expected, PROTO_KERNEL).is_empty()
        };
        eventually(&format!("{expected:?} on the link"), is_so).await;
    }

    /// The addresses on the link.
    fn held(&self) -> Vec<IpAddr> {
        let addresses = self.net.local_state().addresses;
        let mut held: Vec<IpAddr> = addresses
            .into_iter()
            .filter(|(ip, on)| on.iter().any(|one| one.dev == VIP_LINK) && !is_link_local(ip))
            .map(|(ip, _)| ip)
            .collect();
        held.sort_unstable();
        held
    }

    /// The mock, once a watch of this resource is open: what is sent before is lost.
    async fn watched(&self, resource: &str) -> &Mock {
        let is_open = || async { self.mock.watches(resource) == 1 };
        eventually(&format!("a watch of {resource}"), is_open).await;
        &self.mock
    }

    /// The status and the body.
    async fn get(&self, path: &str) -> (u16, String) {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port.get()));
        let Ok(mut connection) = TcpStream::connect(address).await else {
            return (0, String::new());
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    async fn await_endpoint(&self, path: &str, status: u16) -> String {
        eventually(&format!("{status} of {path}"), || async {
            self.get(path).await.0 == status
        })
        .await;
        self.get(path).await.1
    }

    /// Waits until a metric has this value.
    async fn await_metric(&self, line: &str) {
        let has_line = || async {
            self.get("/metrics")
                .await
                .1
                .lines()
                .any(|other| other == line)
        };
        eventually(line, has_line).await;
    }

    /// Gives the controller time in which it must change nothing.
    async fn assert_stays(&self, expected: &[&str]) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let expected: Vec<IpAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(self.held(), expected);
    }
}

fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn node(addresses: &[&str]) -> Value {
    let addresses: Vec<_> = addresses
        .iter()
        .map(|address| json!({ "type": "InternalIP", "address": address }))
        .collect();
    json!({ "metadata": { "name": "node-1" }, "status": { "addresses": addresses } })
}

fn service(name: &str, ip: &str) -> Value {
    json!({
        "metadata": { "namespace": "default", "name": name },
        "spec": { "clusterIP": ip, "clusterIPs": [ip] },
    })
}

const A: (&str, &str) = ("a", "10.96.0.1");
const B: (&str, &str) = ("b", "10.96.0.2");
const C: (&str, &str) = ("c", "2001:db8:42:1::3");

#[test]
fn vips_of_services_are_held_and_shown_by_the_endpoints() {
    let cluster = Cluster::new();
    let mut balanced = service("balanced", "10.96.0.4");
    balanced["status"]["loadBalancer"]["ingress"] = json!([{ "ip": "203.0.113.4", "ipMode": "VIP" }, { "ip": "203.0.113.5", "ipMode": "Proxy" }]);
    cluster.run("", async |cluster| {
        // No list yet: nothing is held, and nothing is wrong.
        cluster.await_endpoint("/readyz", 503).await;
        cluster.await_endpoint("/healthz", 200).await;
        let services = [service("a", A.1), service("c", C.1), balanced];
        cluster.mock.list("services", &services);
        cluster
            .await_vips(&[A.1, "10.96.0.4", "203.0.113.4", C.1])
            .await;
        cluster.await_endpoint("/readyz", 200).await;
        cluster.await_endpoint("/healthz", 200).await;
        cluster.await_endpoint("/other", 404).await;
        cluster.await_metric("viproute_services 3").await;
        cluster
            .await_metric("viproute_desired_vips{family=\"ipv4\"} 3")
            .await;
        cluster.await_metric("viproute_repairs_total 4").await;
        cluster
            .await_metric("viproute_lists_total{resource=\"services\"} 1")
            .await;
        // Services of another proxy are not even asked for, nor other Nodes.
        let all = |resource: &str| cluster.mock.requests(&format!("/{resource}?"));
        let selector = "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name";
        assert_eq!(cluster.mock.requests(selector), all("services"));
        let selector = "fieldSelector=metadata.name%3Dnode-1";
        assert_eq!(cluster.mock.requests(selector), all("nodes"));
        cluster
            .watched("services")
            .await
            .change("services", "MODIFIED", service("a", B.1));
        cluster
            .watched("services")
            .await
            .change("services", "DELETED", service("c", C.1));
        cluster.await_vips(&[B.1, "10.96.0.4", "203.0.113.4"]).await;
    });
    // At the end the VIPs stay.
    assert_eq!(cluster.held().len(), 3);
    cluster.run("--release-on-exit", async |cluster| {
        cluster.await_endpoint("/readyz", 200).await;
    });
    assert!(cluster.held().is_empty(), "{:?}", cluster.held());
}

#[test]
fn list_that_breaks_off_changes_nothing() {
    let cluster = Cluster::with(&[A, B]);
    cluster.run("", async |cluster| {
        cluster.await_vips(&[A.1, B.1]).await;
        let broken = List {
            items: vec![service("b", B.1), service("c", C.1)],
            breaks_after: Some(1),
        };
        cluster.mock.list_as("services", broken);
        cluster.watched("services").await.expire("services");
        eventually("a list that breaks off", || async {
            cluster.mock.requests("continue=next") > 0
        })
        .await;
        cluster.assert_stays(&[A.1, B.1]).await;
        // Changes of the Node come by a watch of their own.
        cluster.serve(&[B, C]);
        cluster.await_vips(&[B.1, C.1]).await;
    });
}

#[test]
fn watch_that_breaks_is_resumed() {
    let cluster = Cluster::with(&[A]);
    cluster.run("", async |cluster| {
        cluster.await_vips(&[A.1]).await;
        cluster.watched("services").await.break_watches("services");
        cluster.assert_stays(&[A.1]).await;
        cluster
            .watched("services")
            .await
            .change("services", "ADDED", service("b", B.1));
        cluster.await_vips(&[A.1, B.1]).await;
        cluster
            .await_metric("viproute_desired_vips{family=\"ipv4\"} 2")
            .await;
        cluster
            .await_metric("viproute_watch_errors_total{resource=\"services\"} 1")
            .await;
        cluster
            .await_metric("viproute_lists_total{resource=\"services\"} 1")
            .await;
    });
}

#[test]
fn event_counts_when_all_of_it_has_come() {
    let cluster = Cluster::with(&[A, B]);
    cluster.run("", async |cluster| {
        cluster.await_vips(&[A.1, B.1]).await;
        let mut gone = service("a", A.1);
        gone["metadata"]["resourceVersion"] = json!("1000");
        let line = json!({ "type": "DELETED", "object": gone }).to_string();
        let (first, second) = line.split_at(line.len() / 2);
        cluster.watched("services").await.send("services", first);
        cluster.assert_stays(&[A.1, B.1]).await;
        cluster
            .watched("services")
            .await
            .send("services", &format!("{second}\n"));
        cluster.await_vips(&[B.1]).await;
    });
}

#[test]
fn list_that_lacks_too_many_services_releases_none() {
    let services = ["10.96.0.1", "10.96.0.2", "10.96.0.3", "10.96.0.4"];
    let named = ["a", "b", "c", "d"];
    let all: Vec<_> = named.into_iter().zip(services).collect();
    let cluster = Cluster::with(&all);
    cluster.run("--at-most 2", async |cluster| {
        cluster.await_vips(&services).await;
        cluster.serve(&[all[0], ("e", "10.96.0.5")]);
        cluster.watched("services").await.expire("services");
        // Three would go. The new one is held all the same.
        cluster
            .await_vips(&[&services[..], &["10.96.0.5"]].concat())
            .await;
        cluster.await_metric("viproute_refused_sets_total 1").await;
        // What is deleted by its name is released without a bound.
        for (name, ip) in [all[0], ("e", "10.96.0.5")] {
            cluster
                .watched("services")
                .await
                .change("services", "DELETED", service(name, ip));
        }
        cluster.await_vips(&services[1..]).await;
    });
}

#[test]
fn vips_of_before_are_left_at_the_start_if_they_are_too_many() {
    let before = [A, B, ("d", "10.96.0.4"), ("e", "10.96.0.5")];
    let cluster = Cluster::with(&before);
    let all = before.map(|(_, ip)| ip);
    cluster.run("", async |cluster| cluster.await_vips(&all).await);
    cluster.serve(&[A, ("f", "10.96.0.6")]);
    cluster.run("--at-most 2", async |cluster| {
        cluster
            .await_vips(&[&all[..], &["10.96.0.6"]].concat())
            .await;
        cluster.await_endpoint("/readyz", 200).await;
        cluster.await_metric("viproute_refused_sets_total 1").await;
    });
    cluster.run("--at-most 3", async |cluster| {
        cluster.await_vips(&[A.1, "10.96.0.6"]).await;
    });
}

#[test]
fn vips_follow_the_addresses_of_the_node() {
    let cluster = Cluster::with(&[A, C]);
    cluster.mock.list("nodes", &[node(&[])]);
    cluster.run("", async |cluster| {
        // Without an address of the node nothing can be held.
        cluster.watched("nodes").await;
        cluster.assert_stays(&[]).await;
        cluster.watched("nodes").await.change(
            "nodes",
            "MODIFIED",
            node(&[&NODE_V4.to_string(), &NODE_V6.to_string()]),
        );
        cluster.await_vips(&[A.1, C.1]).await;
        cluster
            .net
            .ip(&format!("addr add 192.0.2.11/32 dev {NODE_LINK}"));
        cluster.watched("nodes").await.change(
            "nodes",
            "MODIFIED",
            node(&["192.0.2.11", &NODE_V6.to_string()]),
        );
        let vips: Vec<IpAddr> = [A.1, C.1].map(|ip| ip.parse().unwrap()).to_vec();
        let sources = ["192.0.2.11".parse().unwrap(), IpAddr::V6(NODE_V6)];
        let want = Want {
            sources: &sources,
            ..Want::default()
        };
        let has_moved = || async {
            cluster
                .net
                .local_state()
                .wrong_vips(&vips, &want)
                .is_empty()
        };
        eventually("the new source", has_moved).await;
    });
}

#[test]
fn service_whose_vip_is_in_conflict_gets_an_event() {
    let cluster = Cluster::with(&[A, B]);
    cluster
        .net
        .ip(&format!("addr add {}/32 dev {NODE_LINK}", A.1));
    cluster.run("", async |cluster| {
        eventually("an event", || async { cluster.mock.created().len() == 1 }).await;
        let event = &cluster.mock.created()[0];
        assert_eq!(event["regarding"]["name"], "a");
        assert_eq!(event["reason"], "VipConflict");
        let note = event["note"].as_str().unwrap();
        assert!(
            note.contains("node-1") && note.contains(A.1) && note.contains(NODE_LINK),
            "{note}"
        );
        cluster
            .await_metric("viproute_failing_vips{family=\"ipv4\"} 1")
            .await;
        // The other one is held, and no restart would help.
        cluster.await_endpoint("/readyz", 200).await;
        cluster.await_endpoint("/healthz", 200).await;
    });
}

#[test]
fn policy_local_holds_vips_with_an_endpoint_on_the_node() {
    let cluster = Cluster::new();
    let mut web = service("web", A.1);
    web["spec"]["externalIPs"] = json!(["203.0.113.5"]);
    web["spec"]["externalTrafficPolicy"] = json!("Local");
    let mut inner = service("inner", B.1);
    inner["spec"]["internalTrafficPolicy"] = json!("Local");
    cluster.mock.list("services", &[web, inner]);
    let slice = |service: &str, node: &str| {
        let labels = json!({ "kubernetes.io/service-name": service });
        json!({
            "metadata": { "namespace": "default", "name": format!("{service}-1"), "labels": labels },
            "addressType": "IPv4", "endpoints": [{ "addresses": ["10.0.0.1"], "nodeName": node }],
        })
    };
    cluster.run("--local-policies", async |cluster| {
        // The Services alone are not the whole truth.
        cluster.watched("services").await;
        cluster.assert_stays(&[]).await;
        let slices = [slice("web", "node-2"), slice("inner", "node-2")];
        cluster.mock.list("endpointslices", &slices);
        cluster.await_vips(&[A.1]).await;
        let changes: [(&str, &str, &[&str]); 3] = [
            ("MODIFIED", "web", &[A.1, "203.0.113.5"]),
            ("MODIFIED", "inner", &[A.1, B.1, "203.0.113.5"]),
            ("DELETED", "web", &[A.1, B.1]),
        ];
        for (change, service, vips) in changes {
            let watched = cluster.watched("endpointslices").await;
            watched.change("endpointslices", change, slice(service, "node-1"));
            cluster.await_vips(vips).await;
        }
    });
    // Without the flag slices are not even read.
    let before = cluster.mock.requests("endpointslices");
    cluster.run("", async |cluster| {
        cluster.await_vips(&[A.1, B.1, "203.0.113.5"]).await
    });
    assert_eq!(cluster.mock.requests("endpointslices"), before);
}

#[test]
fn health_fails_while_the_link_is_away_too_long() {
    let cluster = Cluster::with(&[A]);
    cluster.run("--unhealthy-after 0.4", async |cluster| {
        cluster.await_vips(&[A.1]).await;
        // Idle for longer than that, it is healthy.
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.await_endpoint("/healthz", 200).await;
        cluster.net.ip(&format!("link del dev {VIP_LINK}"));
        let why = cluster.await_endpoint("/healthz", 503).await;
        assert!(why.starts_with("waiting for"), "{why}");
        cluster.net.add_link(VIP_LINK);
        cluster.await_vips(&[A.1]).await;
        cluster.await_endpoint("/healthz", 200).await;
    });
}
