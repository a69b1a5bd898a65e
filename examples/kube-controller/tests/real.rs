//! The controller as a program beside a real API server, judged by `ip -json`: see tests/k8s/run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../tests/common/mod.rs"]
mod common;
mod server;

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use common::example::Running;
use common::{LocalState, NODE_LINK, NODE_V4, NODE_V6, Net, VIP_LINK, Want, number, skipped};
use futures::stream::{self, StreamExt, TryStreamExt};
use http::{Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, ObjectMeta, Patch,
    PatchParams, PostParams,
};
use kube::client::Body;
use kube::{Api, Client};
use kube_controller::{Args, run};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use serde_json::{Value, json};
use server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// The manifests of a cluster. The image's own ones are applied, too, though no pod starts.
const MANIFESTS: [&str; 3] = [
    include_str!("../deploy/namespace.yaml"),
    include_str!("../deploy/rbac.yaml"),
    include_str!("../deploy/daemonset.yaml"),
];

/// Requests to the API server at a time.
const AT_A_TIME: usize = 16;

/// The folder of the server's programs; or says what it skips.
fn programs(test: &str) -> Option<PathBuf> {
    let programs = std::env::var_os("VIPROUTE_K8S").map(PathBuf::from);
    if programs.is_none() {
        skipped(
            test,
            "no API server (VIPROUTE_K8S is not set; tests/k8s/run sets it)",
        );
    }
    programs
}

/// A node with its controller, and the API server.
struct Cluster {
    net: Net,
    server: Server,
    services: Api<Service>,
    nodes: Api<Node>,
    client: Client,
    /// Where a controller notifies systemd.
    notified: UnixDatagram,
    notify_path: PathBuf,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.notify_path);
    }
}

impl Cluster {
    async fn new(programs: &Path, name: &str) -> Self {
        let net = Net::new();
        net.ip("link set dev lo up");
        let server = Server::start(programs, name).await;
        let client = server.client();
        // A path of a socket must be short. Each test has its own.
        let id = std::process::id();
        let notify_path = std::env::temp_dir().join(format!("viproute-notify-{id}-{name}"));
        let _ = std::fs::remove_file(&notify_path);
        let notified = UnixDatagram::bind(&notify_path).unwrap();
        notified.set_nonblocking(true).unwrap();
        let cluster = Self {
            notified,
            notify_path,
            net,
            server,
            services: Api::default_namespaced(client.clone()),
            nodes: Api::all(client.clone()),
            client,
        };
        cluster.deploy().await;
        let name = |name: &str| ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        for name in ["node-1", "node-2"].map(name) {
            let node = Node {
                metadata: name,
                ..Node::default()
            };
            cluster
                .nodes
                .create(&PostParams::default(), &node)
                .await
                .unwrap();
        }
        cluster.set_addresses("node-2", &["192.0.2.99"]).await;
        cluster
            .set_addresses("node-1", &[&NODE_V4.to_string(), &NODE_V6.to_string()])
            .await;
        cluster
    }

    /// Creates what the manifests say.
    async fn deploy(&self) {
        for manifest in MANIFESTS
            .iter()
            .flat_map(|manifest| manifest.split("\n---\n"))
        {
            let object: DynamicObject = serde_saphyr::from_str(manifest).unwrap();
            let types = object.types.clone().unwrap();
            let resource = ApiResource::from_gvk(&types.try_into().unwrap());
            let api: Api<DynamicObject> = match &object.metadata.namespace {
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
                None => Api::all_with(self.client.clone(), &resource),
            };
            api.create(&PostParams::default(), &object).await.unwrap();
        }
    }

    async fn set_addresses(&self, node: &str, addresses: &[&str]) {
        let addresses: Vec<_> = addresses
            .iter()
            .map(|address| json!({ "type": "InternalIP", "address": address }))
            .collect();
        // A strategic merge would keep addresses of before.
        let patch = json!({ "status": { "addresses": addresses } });
        let patch = Patch::Merge(patch);
        self.nodes
            .patch_status(node, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Starts the controller. `VIPROUTE_CONTROLLER` names another one than that of this build.
    fn start(&self, args: &str) -> Running {
        let built = env!("CARGO_BIN_EXE_kube-controller");
        let program = std::env::var("VIPROUTE_CONTROLLER").unwrap_or_else(|_| built.to_owned());
        Running::start(
            Command::new(program)
                .args(["--node", "node-1", "--listen", LISTEN])
                .args(["--range", "10.96.0.0/16,2001:db8:42:1::/112,203.0.113.0/24"])
                .args(args.split_whitespace())
                .env("KUBECONFIG", self.server.kubeconfig())
                .env("NOTIFY_SOCKET", &self.notify_path),
        )
    }

    /// What the controller has notified to systemd since the last call.
    fn notifications(&self) -> Vec<String> {
        let mut buffer = [0; 256];
        let next = || {
            let length = self.notified.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
        };
        std::iter::from_fn(next).collect()
    }

    /// Creates numbered Services; every second Service has both families.
    async fn create(&self, numbers: impl Iterator<Item = usize>) {
        let created = numbers.map(|number| {
            let service = service(number);
            async move { self.services.create(&PostParams::default(), &service).await }
        });
        let created = stream::iter(created).buffer_unordered(AT_A_TIME);
        created.try_for_each(async |_| Ok(())).await.unwrap();
    }

    async fn patch(&self, numbers: impl Iterator<Item = usize>, patch: impl Fn(usize) -> Value) {
        let patched = numbers.map(|number| {
            let (name, patch) = (name(number), Patch::Merge(patch(number)));
            async move {
                self.services
                    .patch(&name, &PatchParams::default(), &patch)
                    .await
            }
        });
        let patched = stream::iter(patched).buffer_unordered(AT_A_TIME);
        patched.try_for_each(async |_| Ok(())).await.unwrap();
    }

    async fn delete(&self, numbers: impl Iterator<Item = usize>) {
        let deleted = numbers.map(|number| {
            let name = name(number);
            async move { self.services.delete(&name, &DeleteParams::default()).await }
        });
        let deleted = stream::iter(deleted).buffer_unordered(AT_A_TIME);
        deleted.try_for_each(async |_| Ok(())).await.unwrap();
    }

    /// Gives a Service the address of another device of the node, until it has its event.
    async fn conflict(&self, number: usize) {
        self.net
            .ip(&format!("addr add 203.0.113.251/32 dev {NODE_LINK}"));
        let patch = json!({ "spec": { "externalIPs": ["203.0.113.251"] } });
        self.patch([number].into_iter(), |_| patch.clone()).await;
        let events: Api<Event> = Api::default_namespaced(self.client.clone());
        let has_event = || async {
            let events = events.list(&ListParams::default()).await.unwrap();
            let names = events
                .iter()
                .filter_map(|event| event.regarding.as_ref()?.name.clone());
            names.collect::<Vec<_>>() == [name(number)]
        };
        eventually("an event of a conflict", has_event).await;
        self.net
            .ip(&format!("addr del 203.0.113.251/32 dev {NODE_LINK}"));
    }

    /// The addresses of the Services as the API server has them now, without those of other proxies.
    async fn expected(&self) -> Vec<IpAddr> {
        let mut ips = Vec::new();
        let services: Api<Service> = Api::all(self.client.clone());
        for service in services.list(&ListParams::default()).await.unwrap() {
            let labels = service.metadata.labels.unwrap_or_default();
            if labels.contains_key("service.kubernetes.io/service-proxy-name") {
                continue;
            }
            let spec = service.spec.unwrap();
            let of_spec = [spec.cluster_ips, spec.external_ips]
                .into_iter()
                .flatten()
                .flatten();
            ips.extend(of_spec.filter_map(|ip| ip.parse::<IpAddr>().ok()));
        }
        ips.sort_unstable();
        ips.dedup();
        ips
    }

    /// Waits until exactly the VIPs of the API server are on the link, each in its single-route state.
    async fn await_all(&self, what: &str, sources: &[IpAddr]) -> usize {
        let expected = self.expected().await;
        let want = Want {
            sources,
            ..Want::default()
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.net.local_state();
            let held = held(&state);
            if held == expected && state.wrong_vips(&expected, &want).is_empty() {
                println!(
                    "{what}: {} VIPs, each in its single-route state",
                    expected.len()
                );
                return expected.len();
            }
            let (held, expected_now) = (held.len(), expected.len());
            let wrong = state.wrong_vips(&expected, &want).len();
            assert!(
                Instant::now() < deadline,
                "{what}: {held} of {expected_now}, {wrong} wrong"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The addresses on the link, sorted.
fn held(state: &LocalState) -> Vec<IpAddr> {
    let addresses = state.addresses.iter();
    let on_link = addresses.filter(|(_, on)| on.iter().any(|one| one.dev == VIP_LINK));
    let mut held: Vec<IpAddr> = on_link
        .map(|(ip, _)| *ip)
        .filter(|ip| !is_link_local(ip))
        .collect();
    held.sort_unstable();
    held
}

const SOURCES: [IpAddr; 2] = common::SOURCES;
const LISTEN: &str = "127.0.0.1:9412";
const PATIENCE: Duration = Duration::from_secs(120);

fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn name(number: usize) -> String {
    format!("service-{number}")
}

fn service(number: usize) -> Service {
    let policy = ["SingleStack", "PreferDualStack"][number % 2];
    let spec = json!({ "ipFamilyPolicy": policy, "ports": [{ "port": 80 }] });
    let service = json!({ "metadata": { "name": name(number) }, "spec": spec });
    serde_json::from_value(service).unwrap()
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn is_ready() -> bool {
    get("/readyz")
        .await
        .is_some_and(|answer| answer.contains(" 200 "))
}

async fn get(path: &str) -> Option<String> {
    let mut connection = TcpStream::connect(LISTEN).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
    connection.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

/// The value of a metric.
async fn metric(name: &str) -> u64 {
    let answer = get("/metrics").await.unwrap();
    let line = answer
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

/// When the kernel notified each VIP's desired route, the last write for a VIP.
struct Arrivals(Arc<Mutex<HashMap<IpAddr, Instant>>>);

impl Arrivals {
    /// Listens until the process ends.
    fn new() -> Self {
        let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
        socket.set_rx_buf_sz(16_i32 << 20).unwrap();
        socket.bind(&SocketAddr::new(0, 0)).unwrap();
        // RTNLGRP_IPV4_ROUTE and RTNLGRP_IPV6_ROUTE.
        socket.add_membership(7).unwrap();
        socket.add_membership(11).unwrap();
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let shared = seen.clone();
        std::thread::spawn(move || {
            loop {
                let (datagram, _) = socket.recv_from_full().unwrap();
                let now = Instant::now();
                if let Some(vip) = desired_route(&datagram) {
                    shared.lock().unwrap().entry(vip).or_insert(now);
                }
            }
        });
        Self(seen)
    }

    async fn of(&self, vip: IpAddr) -> Instant {
        let is_there = || async { self.0.lock().unwrap().contains_key(&vip) };
        eventually(&format!("a route of {vip}"), is_there).await;
        self.0.lock().unwrap()[&vip]
    }
}

/// The VIP of a new route with the node's source.
fn desired_route(datagram: &[u8]) -> Option<IpAddr> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram).ok()?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) = message.payload else {
        return None;
    };
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    };
    let (mut destination, mut source) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            _ => {}
        }
    }
    SOURCES.contains(&source?).then_some(destination).flatten()
}

/// Runs the steps on tokio in this thread, whose network namespace is the test's.
fn block_on<T>(steps: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(steps)
}

/// Creates Services one by one, and prints how long it took until each had its VIPs.
async fn show_latencies(cluster: &Cluster, numbers: impl Iterator<Item = usize>) {
    let arrivals = Arrivals::new();
    let mut took = Vec::new();
    for number in numbers {
        let begun = Instant::now();
        let created = cluster
            .services
            .create(&PostParams::default(), &service(number))
            .await;
        for ip in created.unwrap().spec.unwrap().cluster_ips.unwrap() {
            took.push(arrivals.of(ip.parse().unwrap()).await - begun);
        }
    }
    took.sort_unstable();
    println!(
        "from the API write to the VIP's route: median {:?}, 99th {:?}, greatest {:?} of {} VIPs",
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        took[took.len() - 1],
        took.len()
    );
}

#[test]
fn services_of_a_real_api_server_are_held() {
    let Some(programs) = programs("services_of_a_real_api_server_are_held") else {
        return;
    };
    let count = number("VIPROUTE_SERVICES", 2000, 400);
    block_on(async {
        let begun = Instant::now();
        let mut cluster = Cluster::new(&programs, "k8s-real").await;
        println!("the API server is ready after {:?}", begun.elapsed());
        let mut controller = cluster.start("");
        // The first Service is the API server's own.
        eventually("ready", is_ready).await;
        let begun = Instant::now();
        cluster.create(0..count).await;
        println!("{count} Services created in {:?}", begun.elapsed());
        cluster.await_all("created", &SOURCES).await;

        let (fifth, tenth) = (count / 5, count / 10);
        cluster
            .patch(0..fifth, |number| {
                // Some share one.
                json!({ "spec": { "externalIPs": [format!("203.0.113.{}", number % 250)] } })
            })
            .await;
        cluster.conflict(0).await;
        let label = json!({ "service.kubernetes.io/service-proxy-name": "other" });
        cluster
            .patch(
                fifth..fifth + tenth,
                |_| json!({ "metadata": { "labels": label } }),
            )
            .await;
        let headless = json!({ "spec": { "externalIPs": null } });
        cluster.patch(0..tenth, |_| headless.clone()).await;
        cluster.await_all("changed", &SOURCES).await;
        cluster.delete(0..fifth).await;
        cluster.await_all("deleted", &SOURCES).await;

        show_latencies(&cluster, count..count + tenth).await;
        let held = cluster.await_all("one by one", &SOURCES).await;

        outage(&mut cluster, held).await;
        compaction(&mut cluster, &controller, fifth).await;
        node_moves(&cluster).await;

        // The end, and another controller, which takes over.
        end(&cluster, controller);
        let sources = [IpAddr::from([192, 0, 2, 11]), IpAddr::V6(NODE_V6)];
        let held = cluster.await_all("without a controller", &sources).await;
        controller = cluster.start("--release-on-exit");
        eventually("ready", is_ready).await;
        assert_eq!(metric("viproute_repairs_total").await, 0);
        assert_eq!(metric("viproute_adopted_total").await, held as u64);
        end(&cluster, controller);
        let state = cluster.net.local_state();
        let on_link = state
            .addresses
            .values()
            .flatten()
            .filter(|one| one.dev == VIP_LINK);
        assert_eq!(on_link.filter(|one| !is_link_local(&one.local)).count(), 0);
    });
}

/// A client for a controller that knows `discovery.k8s.io/v1`. The server, of 1.20, has v1beta1 alone, whose
/// EndpointSlices have the same fields. So the version is replaced in requests and answers.
fn with_slices(server: Client) -> Client {
    let forward = move |mut request: Request<Body>| {
        let server = server.clone();
        async move {
            let target = request.uri().to_string();
            let target = target.replace("/discovery.k8s.io/v1/", "/discovery.k8s.io/v1beta1/");
            *request.uri_mut() = target.parse().unwrap();
            let (head, body) = server.send(request).await?.into_parts();
            let body = body.map_frame(|frame| {
                frame.map_data(|bytes| {
                    let text = String::from_utf8_lossy(&bytes);
                    Bytes::from(text.replace("discovery.k8s.io/v1beta1", "discovery.k8s.io/v1"))
                })
            });
            Ok::<_, kube::Error>(Response::from_parts(head, body))
        }
    };
    Client::new(tower::service_fn(forward), "default")
}

#[test]
fn external_policy_local_follows_slices_of_a_real_api_server() {
    let Some(programs) = programs("external_policy_local_follows_slices_of_a_real_api_server")
    else {
        return;
    };
    block_on(async {
        let cluster = Cluster::new(&programs, "k8s-slices").await;
        let v1 = Api::<EndpointSlice>::all(cluster.client.clone());
        let error = v1.list(&ListParams::default()).await.unwrap_err();
        assert!(
            matches!(&error, kube::Error::Api(status) if status.code == 404),
            "the server has v1 now, so the test needs no other client: {error}"
        );
        let spec = json!({
            "type": "LoadBalancer", "ports": [{ "port": 80 }], "externalIPs": ["203.0.113.7"],
            "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local",
        });
        let web = json!({ "metadata": { "name": "web" }, "spec": spec });
        let web: Service = serde_json::from_value(web).unwrap();
        let made = cluster.services.create(&PostParams::default(), &web).await;
        // That field came with 1.21: the server drops it. The mocked server has it.
        assert_eq!(made.unwrap().spec.unwrap().internal_traffic_policy, None);

        let args = format!(
            "kube-controller --node node-1 --listen {LISTEN} --local-policies \
             --range 10.96.0.0/16,2001:db8:42:1::/112,203.0.113.0/24"
        );
        let args = Args::parse_from(args.split_whitespace());
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            let _ = stopped.await;
        };
        let client = with_slices(cluster.server.client_of_controller());
        let controller = async { run(client, &args, stopped).await.expect("the controller") };
        let steps = async {
            slices_come_and_go(&cluster).await;
            drop(stop);
        };
        tokio::join!(controller, steps);
    });
}

/// The external IP of the Service is on the link exactly while an endpoint on the node serves.
async fn slices_come_and_go(cluster: &Cluster) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(
        "discovery.k8s.io",
        "v1beta1",
        "EndpointSlice",
    ));
    let client = cluster.client.clone();
    let slices = Api::<DynamicObject>::default_namespaced_with(client, &resource);
    let mut without = cluster.expected().await;
    let external = IpAddr::from([203, 0, 113, 7]);
    without.retain(|ip| *ip != external);
    let becomes = async |what: &str, is_held: bool| {
        let mut expected = without.clone();
        expected.extend(is_held.then_some(external));
        expected.sort_unstable();
        let is_so = || async {
            let wrong = cluster.net.wrong_vips(&expected, common::PROTO_KERNEL);
            wrong.is_empty() && held(&cluster.net.local_state()) == expected
        };
        eventually(what, is_so).await;
    };
    let endpoint = |node: &str, conditions: Value| json!({ "addresses": ["10.0.0.1"], "nodeName": node, "conditions": conditions });
    let other = endpoint("node-2", json!({ "ready": true }));
    let serves = |is_serving: bool| {
        let conditions = json!({ "ready": false, "serving": is_serving, "terminating": true });
        json!({ "endpoints": [other, endpoint("node-1", conditions)] })
    };
    let (posting, patching) = (PostParams::default(), PatchParams::default());
    let patch = async |patch: Value| {
        let patch = Patch::Merge(patch);
        slices.patch("web-1", &patching, &patch).await.unwrap();
    };

    becomes("without a slice", false).await;
    let labels = json!({ "kubernetes.io/service-name": "web" });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "web-1", "labels": labels },
        "endpoints": [other, endpoint("node-1", json!({ "ready": true }))],
    });
    let slice = serde_json::from_value(slice).unwrap();
    slices.create(&posting, &slice).await.unwrap();
    becomes("an endpoint is ready", true).await;
    patch(serves(false)).await;
    becomes("the endpoint serves no more", false).await;
    patch(serves(true)).await;
    becomes("the endpoint terminates, and serves", true).await;
    patch(json!({ "endpoints": [other] })).await;
    becomes("the endpoint is on another node", false).await;
    patch(serves(true)).await;
    becomes("the endpoint is back", true).await;
    let deleting = DeleteParams::default();
    slices.delete("web-1", &deleting).await.unwrap();
    becomes("the slice is deleted", false).await;
}

/// Ends a controller as systemd or a kubelet does. Each line of its log is JSON.
fn end(cluster: &Cluster, controller: Running) {
    assert_eq!(cluster.notifications(), ["READY=1"]);
    controller.signal(libc::SIGTERM);
    let ended = controller.wait_for_end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for line in ended.err.lines() {
        serde_json::from_str::<Value>(line).expect(line);
    }
    assert_eq!(cluster.notifications(), ["STOPPING=1"]);
}

/// The server is killed: all VIPs stay, and are mended. Restarted, it is followed again.
async fn outage(cluster: &mut Cluster, held: usize) {
    let expected = cluster.expected().await;
    cluster.server.kill();
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster
        .net
        .ip(&format!("addr del {}/32 dev {VIP_LINK}", expected[0]));
    let is_mended = || async {
        cluster
            .net
            .wrong_vips(&expected, common::PROTO_KERNEL)
            .is_empty()
    };
    eventually("a VIP mended without an API server", is_mended).await;
    assert_eq!(expected.len(), held);
    cluster.server.restart().await;
    cluster.create(10_000..10_010).await;
    cluster
        .await_all("after the server was killed", &SOURCES)
        .await;
}

/// The controller sleeps while Services come and go, and while etcd forgets of them: 410 Gone.
async fn compaction(cluster: &mut Cluster, controller: &Running, first: usize) {
    let lists = metric("viproute_lists_total{resource=\"services\"}").await;
    controller.signal(libc::SIGSTOP);
    // Without a connection, or the changes would wait in the socket's buffer.
    cluster.server.kill();
    cluster.server.restart().await;
    cluster.create(10_010..10_020).await;
    cluster.delete(10_000..10_010).await;
    cluster
        .patch(
            first..first + 5,
            |_| json!({ "metadata": { "labels": null } }),
        )
        .await;
    cluster.server.kill();
    cluster.server.compact();
    cluster.server.restart().await;
    controller.signal(libc::SIGCONT);
    cluster
        .await_all("after etcd was compacted", &SOURCES)
        .await;
    // Or else the watch went on, and the test has not seen what it is for.
    assert!(metric("viproute_lists_total{resource=\"services\"}").await > lists);
}

/// The node gets another IPv4 address, first in the API and then on the node.
async fn node_moves(cluster: &Cluster) {
    cluster
        .set_addresses("node-1", &["192.0.2.11", &NODE_V6.to_string()])
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster
        .net
        .ip(&format!("addr add 192.0.2.11/32 dev {NODE_LINK}"));
    let sources = [IpAddr::from([192, 0, 2, 11]), IpAddr::V6(NODE_V6)];
    cluster
        .await_all("the node has another address", &sources)
        .await;
}

/// Processor time of all threads of a process so far.
fn cpu(process: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let of_thread = |thread: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(threads.filter_map(of_thread).sum())
}

/// A line of /proc/PID/status in MiB.
fn memory(process: u32, line: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let value = status
        .lines()
        .find_map(|text| text.strip_prefix(line))
        .unwrap();
    let kib: f64 = value.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

/// The share of a processor, in percent, that a process takes while the steps go on.
async fn load(process: u32, steps: impl Future<Output = ()>) -> f64 {
    let (begun, before) = (Instant::now(), cpu(process));
    steps.await;
    (cpu(process) - before).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0
}

/// Ten changes a second: a Service is created, and deleted by the next change.
async fn changes(cluster: &Cluster, time: Duration) {
    let mut beats = tokio::time::interval(Duration::from_millis(100));
    for number in 0..time.as_millis() / 200 {
        let number = 100_000 + usize::try_from(number).unwrap();
        beats.tick().await;
        cluster.create(number..number + 1).await;
        beats.tick().await;
        cluster.delete(number..number + 1).await;
    }
}

/// The title of the table of the README.
const TITLE: &str = "| Services | VIPs | program | cold start to ready (CPU) | wrong VIPs | memory (peak) | CPU idle | CPU at 10 changes/s |
|---|---|---|---|---|---|---|---|";

/// How long each load is measured.
const MEASURED: Duration = Duration::from_secs(20);

/// Prints a row of a program that is ready. `changes` goes on while the program's load is measured.
async fn row(
    who: &str,
    program: &Running,
    count: usize,
    (start, start_cpu): (Duration, Duration),
    (vips, wrong): (usize, usize),
    changes: impl Future<Output = ()>,
) {
    let process = program.id();
    let idle = load(process, tokio::time::sleep(MEASURED)).await;
    let busy = load(process, changes).await;
    let (now, peak) = (memory(process, "VmRSS"), memory(process, "VmHWM"));
    println!(
        "| {count} | {vips} | {who} | {:.2} s ({:.2} s) | {wrong} | {now:.0} MiB ({peak:.0}) | {idle:.2} % | {busy:.2} % |",
        start.as_secs_f64(),
        start_cpu.as_secs_f64()
    );
}

/// The same by kube-router's method, on an empty link: see tests/k8s/kube_router.go.
async fn kube_router(net: &Net, program: &Path, count: usize, vips: &[IpAddr]) {
    let list = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vips-of-kube-router");
    let lines: Vec<_> = vips.iter().map(ToString::to_string).collect();
    std::fs::write(&list, lines.join("\n")).unwrap();
    let begun = Instant::now();
    let running = Running::start(Command::new(program).arg(&list));
    while running.out() != "ready\n" {
        assert!(begun.elapsed() < PATIENCE * 10, "{running:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = (begun.elapsed(), cpu(running.id()));
    let wrong = net.wrong_vips(vips, common::PROTO_KERNEL).len();
    let changes = async {
        running.signal(libc::SIGUSR1);
        tokio::time::sleep(MEASURED).await;
    };
    let vips = (vips.len(), wrong);
    row(
        "kube-router's method",
        &running,
        count,
        start,
        vips,
        changes,
    )
    .await;
    running.signal(libc::SIGTERM);
    running.wait_for_end();
    net.ip(&format!("link del {VIP_LINK}"));
    net.add_link(VIP_LINK);
}

/// The table of the README: each size by the controller, and by kube-router's method.
#[test]
#[ignore = "measures, for minutes: tests/k8s/run --measure"]
fn measured() {
    let programs = programs("measured").unwrap();
    let peer = std::env::var_os("VIPROUTE_KUBE_ROUTER").map(PathBuf::from);
    if peer.is_none() {
        skipped("kube-router's method", "VIPROUTE_KUBE_ROUTER is not set");
    }
    block_on(async {
        let cluster = Cluster::new(&programs, "k8s-measured").await;
        println!("{TITLE}");
        let mut created = 0;
        for count in [100, 1_000, 10_000] {
            cluster.create(created..count).await;
            created = count;
            let begun = Instant::now();
            let controller = cluster.start("--release-on-exit");
            eventually("ready", is_ready).await;
            let start = (begun.elapsed(), cpu(controller.id()));
            let vips = cluster.await_all("measured", &SOURCES).await;
            let changes = changes(&cluster, MEASURED);
            row("controller", &controller, count, start, (vips, 0), changes).await;
            end(&cluster, controller);
            if let Some(peer) = &peer {
                kube_router(&cluster.net, peer, count, &cluster.expected().await).await;
            }
        }
    });
}
