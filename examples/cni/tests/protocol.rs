//! The plugin as a program: each verb of CNI, as a runtime sends it. The kernel's state is read by `ip`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../tests/common/mod.rs"]
mod common;

use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::example::Ran;
use common::{NODE_LINK, NODE_V4, NODE_V6, Net, SOURCES, Snapshot, VIP_LINK, Want, vip};
use serde_json::{Value, json};

const VIPS: [&str; 3] = ["10.96.0.10", "2001:db8:42:1::1", "2001:db8:42:1::2"];

/// One call of the plugin.
#[derive(Clone)]
struct Call {
    verb: &'static str,
    env: Vec<(&'static str, String)>,
    conf: Value,
    /// The namespace to run in, if it is not the thread's.
    from: Option<String>,
}

/// A call for the container `one`, whose VIPs are on the host.
fn call(verb: &'static str) -> Call {
    Call {
        verb,
        env: vec![
            ("CNI_CONTAINERID", "one".into()),
            ("CNI_NETNS", "/proc/self/ns/net".into()),
            ("CNI_IFNAME", "eth0".into()),
            ("CNI_PATH", "/opt/cni/bin".into()),
        ],
        conf: json!({
            "cniVersion": "1.1.0",
            "name": "services",
            "type": "viproute",
            "vips": VIPS,
            "sources": SOURCES,
        }),
        from: None,
    }
}

impl Call {
    fn container(self, id: &str) -> Self {
        self.env("CNI_CONTAINERID", id)
    }

    fn env(mut self, name: &'static str, value: &str) -> Self {
        self.env.retain(|(other, _)| *other != name);
        self.env.push((name, value.into()));
        self
    }

    fn without_env(mut self, name: &str) -> Self {
        self.env.retain(|(other, _)| *other != name);
        self
    }

    /// Sets keys of the configuration. A null takes a key away.
    fn conf(mut self, keys: Value) -> Self {
        for (key, value) in keys.as_object().unwrap() {
            match value {
                Value::Null => self.conf.as_object_mut().unwrap().remove(key),
                value => self
                    .conf
                    .as_object_mut()
                    .unwrap()
                    .insert(key.clone(), value.clone()),
            };
        }
        self
    }

    fn start(&self) -> Child {
        self.start_with(&self.conf.to_string())
    }

    fn start_with(&self, input: &str) -> Child {
        let plugin = env!("CARGO_BIN_EXE_viproute");
        let mut command = match &self.from {
            None => Command::new(plugin),
            Some(netns) => {
                let mut nsenter = Command::new("nsenter");
                nsenter.arg(format!("--net={netns}")).arg(plugin);
                nsenter
            }
        };
        let path = std::env::var_os("PATH").unwrap();
        let mut child = command
            .env_clear()
            .env("PATH", path)
            .env("CNI_COMMAND", self.verb)
            .envs(self.env.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The plugin need not read it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child
    }

    fn run(&self) -> Ran {
        end(self.start())
    }

    /// It succeeds, and prints nothing but the result of ADD.
    #[track_caller]
    fn succeeds(&self) -> Ran {
        let ran = self.run().exits(0).quiet();
        assert_eq!(ran.out.is_empty(), self.verb != "ADD", "{ran:?}");
        ran
    }

    /// It succeeds, and returns the name of its link.
    #[track_caller]
    fn link(&self) -> String {
        let result = self.succeeds().json();
        result["interfaces"][0]["name"].as_str().unwrap().to_owned()
    }

    /// It fails with this code, and returns the details.
    #[track_caller]
    fn fails(&self, code: u32) -> String {
        failure(self.run(), code)
    }
}

fn end(child: Child) -> Ran {
    Ran::from(child.wait_with_output().unwrap())
}

/// The error is on standard output, with every key of the specification.
#[track_caller]
fn failure(ran: Ran, code: u32) -> String {
    let ran = ran.exits(1).quiet();
    let error = ran.json();
    assert_eq!(error["code"], code, "{ran:?}");
    assert_eq!(error["cniVersion"], "1.1.0", "{ran:?}");
    assert_ne!(error["msg"], "", "{ran:?}");
    error["details"].as_str().unwrap().to_owned()
}

fn addrs(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| vip(text)).collect()
}

#[track_caller]
fn assert_held(net: &Net, link: &str, vips: &[&str]) {
    let want = Want {
        link,
        ..Want::default()
    };
    net.local_state().assert_single_route(&addrs(vips), &want);
}

fn everything() -> Snapshot {
    Snapshot::read(&[])
}

/// The plugin's links.
fn links(net: &Net) -> Vec<String> {
    let links = net.ip_json("link show");
    let names = links.as_array().unwrap().iter();
    names
        .map(|link| link["ifname"].as_str().unwrap().to_owned())
        .filter(|name| name.starts_with("vip"))
        .collect()
}

#[test]
fn add_holds_the_vips_and_del_restores_the_state_before() {
    let net = Net::new();
    let before = everything();
    let result = call("ADD").succeeds().json();
    let link = result["interfaces"][0]["name"].as_str().unwrap();
    assert_held(&net, link, &VIPS);
    let ips = json!([
        {"interface": 0, "address": "10.96.0.10/32"},
        {"interface": 0, "address": "2001:db8:42:1::1/128"},
        {"interface": 0, "address": "2001:db8:42:1::2/128"},
    ]);
    let expected = json!({"cniVersion": "1.1.0", "interfaces": [{"name": link}], "ips": ips});
    assert_eq!(result, expected);

    call("CHECK").succeeds();
    // DEL comes without what the runtime has lost.
    call("DEL").without_env("CNI_NETNS").succeeds();
    assert_eq!(everything(), before);
    call("DEL").succeeds();
    call("DEL")
        .conf(json!({"vips": null, "sources": null}))
        .succeeds();
    assert_eq!(everything(), before);
}

#[test]
fn chained_add_passes_the_previous_result_on() {
    let net = Net::new();
    let previous = json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "veth0", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "sandbox": "/proc/self/ns/net", "mtu": 1400},
        ],
        "ips": [{"interface": 1, "address": "10.1.0.5/16", "gateway": "10.1.0.1"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
        "dns": {"nameservers": ["10.1.0.1"]},
    });
    let with = json!({"prevResult": previous});
    let ran = call("ADD").conf(with.clone()).succeeds();
    assert_eq!(ran.json(), previous);
    assert_held(&net, &links(&net)[0], &VIPS);
    call("CHECK").conf(with).succeeds();
    call("DEL").succeeds();
}

#[test]
fn vips_come_from_the_runtime_as_well() {
    let net = Net::new();
    let runtime = json!({
        "vips": ["10.96.0.10"],
        "capabilities": {"ips": true},
        "runtimeConfig": {"ips": ["10.96.0.11/32", "2001:db8:42:1::1", "10.96.0.10"]},
    });
    let link = call("ADD").conf(runtime.clone()).link();
    assert_held(
        &net,
        &link,
        &["10.96.0.10", "10.96.0.11", "2001:db8:42:1::1"],
    );
    call("CHECK").conf(runtime).succeeds();
    // Of the runtime's VIPs CHECK knows no more than the runtime sends.
    let more = json!({"runtimeConfig": {"ips": ["10.96.0.12"]}});
    let details = call("CHECK").conf(more).fails(101);
    assert!(details.contains("10.96.0.12: not on the link"), "{details}");
}

#[test]
fn vips_of_a_container_have_its_addresses_as_sources() {
    let host = Net::bare();
    let outside = path_of(&host);
    // From here on the thread is in the container, and the plugin is not.
    let container = Net::new();
    let inside = path_of(&container);
    let before = everything();
    let at = |verb| Call {
        from: Some(outside.clone()),
        ..call(verb).env("CNI_NETNS", &inside).conf(json!({
            "place": "container",
            "sources": null,
            "prevResult": {
                "cniVersion": "1.1.0",
                "interfaces": [{"name": NODE_LINK, "sandbox": inside}],
                "ips": [
                    {"interface": 0, "address": format!("{NODE_V4}/24")},
                    {"interface": 0, "address": format!("{NODE_V6}/64")},
                    {"interface": 0, "address": "10.1.0.5/16"},
                ],
            },
        }))
    };
    at("ADD").succeeds();
    assert_held(&container, &links(&container)[0], &VIPS);
    at("CHECK").succeeds();
    at("STATUS").succeeds();
    at("GC")
        .conf(json!({"cni.dev/valid-attachments": []}))
        .succeeds();
    assert_eq!(links(&container).len(), 1);
    at("DEL").conf(json!({"prevResult": null})).succeeds();
    assert_eq!(everything(), before);

    // Alone, the result names the namespace.
    let alone = json!({"prevResult": null, "sources": SOURCES});
    let result = at("ADD").conf(alone).succeeds().json();
    assert_eq!(result["interfaces"][0]["sandbox"], inside.as_str());
    drop(container);
    assert_eq!(links(&host), [""; 0]);
    // The namespace is gone, or its file is no namespace any more, or the runtime has forgotten it.
    at("DEL").succeeds();
    at("DEL")
        .env("CNI_NETNS", env!("CARGO_BIN_EXE_viproute"))
        .succeeds();
    at("DEL").without_env("CNI_NETNS").succeeds();
    at("ADD").fails(8);
}

fn path_of(net: &Net) -> String {
    let fd = net.sandbox().netns().as_raw_fd();
    format!("/proc/{}/fd/{fd}", std::process::id())
}

#[test]
fn failed_add_leaves_the_state_before() {
    let net = Net::new();
    // Another link has one of the VIPs.
    net.ip(&format!("addr add 10.96.0.11/32 dev {VIP_LINK}"));
    let before = everything();
    let with =
        |vips: Value, sources: Value| call("ADD").conf(json!({"vips": vips, "sources": sources}));
    for (add, code, words) in [
        (
            with(json!(["10.96.0.10", "10.96.0.11"]), json!(SOURCES)),
            11,
            "10.96.0.11",
        ),
        // The node may get its address later.
        (
            with(json!(VIPS), json!(["192.0.2.99", NODE_V6])),
            11,
            "192.0.2.99",
        ),
        (
            with(json!(["10.96.0.10", "127.0.0.1"]), json!(SOURCES)),
            7,
            "127.0.0.1",
        ),
        (
            with(json!(["10.96.0.10", NODE_V4]), json!(SOURCES)),
            7,
            "192.0.2.10",
        ),
        (
            with(json!(["10.96.0.10"]), json!(["192.0.2.99"])),
            11,
            "192.0.2.99",
        ),
        // The family of the other VIPs has no source.
        (with(json!(VIPS), json!([NODE_V4])), 7, "2001:db8:42:1::1"),
    ] {
        let details = add.fails(code);
        assert!(details.contains(words), "no {words} in {details}");
        assert_eq!(everything(), before);
    }
    net.set_sysctl("ipv6/conf/default/disable_ipv6", "1");
    let details = call("ADD").fails(100);
    assert!(details.contains("IPv6"), "{details}");
    assert_eq!(everything(), before);
    // The control: without the fault the same ADD succeeds.
    with(json!(["10.96.0.10"]), json!(SOURCES)).succeeds();
}

#[test]
fn two_containers_cannot_hold_the_same_vip() {
    let net = Net::new();
    let link = call("ADD").link();
    let before = everything();
    let details = call("ADD").container("two").fails(11);
    assert!(details.contains(&link), "{details}");
    assert_eq!(everything(), before);
    call("DEL").container("two").succeeds();
    assert_held(&net, &link, &VIPS);
    call("DEL").succeeds();
    call("ADD").container("two").succeeds();
}

#[test]
fn second_add_of_an_attachment_fails_and_changes_nothing() {
    let net = Net::new();
    let link = call("ADD").link();
    let before = everything();
    let details = call("ADD").conf(json!({"vips": ["10.96.0.99"]})).fails(102);
    assert!(details.contains(&link), "{details}");
    assert_eq!(everything(), before);
    assert_held(&net, &link, &VIPS);
    // Another interface of the container, and another network, are other attachments.
    let other = |n: u8| json!({"vips": [format!("10.96.1.{n}")]});
    call("ADD")
        .env("CNI_IFNAME", "eth1")
        .conf(other(1))
        .succeeds();
    call("ADD")
        .conf(json!({"name": "more"}))
        .conf(other(2))
        .succeeds();
    assert_eq!(links(&net).len(), 3);
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    let net = Net::new();
    let before = everything();
    let add = || call("ADD");
    for (call, code) in [
        (add().conf(json!({"vips": []})), 7),
        (add().conf(json!({"vips": null})), 7),
        (add().conf(json!({"vips": ["10.96.0.0/24"]})), 7),
        (add().conf(json!({"vips": ["10.96.0.300"]})), 7),
        (add().conf(json!({"vips": "10.96.0.10"})), 7),
        (add().conf(json!({"vips": [10]})), 7),
        (add().conf(json!({"sources": ["192.0.2.10/24"]})), 7),
        (
            add().conf(json!({"sources": [NODE_V4, NODE_V4, "192.0.2.11"]})),
            7,
        ),
        (add().conf(json!({"place": "guest"})), 7),
        (
            add().conf(json!({"runtimeConfig": {"ips": ["nonsense"]}})),
            7,
        ),
        (add().conf(json!({"runtimeConfig": {"ips": {"a": 1}}})), 7),
        (add().conf(json!({"name": ""})), 7),
        (add().conf(json!({"name": "a b"})), 7),
        (add().conf(json!({"name": "n".repeat(256)})), 7),
        (add().conf(json!({"cniVersion": "9.0.0"})), 1),
        (call("CHECK").conf(json!({"cniVersion": "0.3.1"})), 1),
        (call("GC").conf(json!({"cniVersion": "1.0.0"})), 1),
        (call("STATUS").conf(json!({"cniVersion": "1.0.0"})), 1),
        (add().without_env("CNI_CONTAINERID"), 4),
        (add().without_env("CNI_IFNAME"), 4),
        (add().without_env("CNI_NETNS"), 4),
        (add().container("a b"), 4),
        (add().env("CNI_IFNAME", "a/b"), 4),
        (call("DEL").without_env("CNI_CONTAINERID"), 4),
        (call("DEL").conf(json!({"place": "guest"})), 7),
        (call("RENAME"), 4),
    ] {
        let details = call.fails(code);
        assert_ne!(details, "", "{} {}", call.verb, call.conf);
    }
    for (input, code) in [("", 6), ("{", 6), ("null", 7), ("[]", 6)] {
        failure(end(add().start_with(input)), code);
    }
    assert_eq!(everything(), before);
    assert_eq!(links(&net), [""; 0]);
}

#[test]
fn version_lists_1_1() {
    let versions = call("VERSION").run().exits(0).quiet().json();
    let versions = versions["supportedVersions"].as_array().unwrap().clone();
    assert!(versions.contains(&json!("1.1.0")), "{versions:?}");
}

#[test]
fn check_finds_each_change_of_another_program() {
    let net = Net::new();
    let link = call("ADD").link();
    for (breakage, cure, words) in [
        (
            format!("route del local 10.96.0.10 dev {link} table local"),
            format!(
                "route add local 10.96.0.10 dev {link} table local proto kernel scope host src {NODE_V4}"
            ),
            "10.96.0.10: ",
        ),
        (
            format!("-6 route del local 2001:db8:42:1::1 dev {link} table local"),
            format!(
                "-6 route add local 2001:db8:42:1::1 dev {link} table local proto kernel metric 1024 \
                 src {NODE_V6}"
            ),
            "2001:db8:42:1::1: ",
        ),
        (
            format!("addr del {NODE_V4}/32 dev {NODE_LINK}"),
            format!("addr add {NODE_V4}/32 dev {NODE_LINK}"),
            "no address of this node",
        ),
        (
            format!("link set dev {link} down"),
            format!("link set dev {link} up"),
            "2001:db8:42:1::2: ",
        ),
    ] {
        net.ip(&breakage);
        let details = call("CHECK").fails(101);
        assert!(
            details.contains(words),
            "{breakage}: no {words:?} in {details}"
        );
        net.ip(&cure);
        // The kernel flushes routes with the node's address, and with the link.
        call("DEL").succeeds();
        assert_eq!(call("ADD").link(), link);
        call("CHECK").succeeds();
    }
    net.ip(&format!("link del dev {link}"));
    let details = call("CHECK").fails(11);
    assert!(details.contains(&link), "{details}");
}

#[test]
fn check_waits_for_a_writer_that_is_at_work() {
    let net = Net::new();
    let link = call("ADD").link();
    let route = format!("local 10.96.0.10 dev {link} table local");
    net.ip(&format!("route del {route}"));
    let check = call("CHECK").start();
    thread::sleep(Duration::from_millis(300));
    net.ip(&format!(
        "route add {route} proto kernel scope host src {NODE_V4}"
    ));
    end(check).exits(0).quiet();
}

/// STATUS comes with nothing but standard input.
#[test]
fn status_says_whether_add_can_succeed() {
    let net = Net::new();
    let status = call("STATUS");
    let status = Call {
        env: Vec::new(),
        ..status.conf(json!({"vips": null}))
    };
    status.succeeds();
    net.ip(&format!("addr del {NODE_V4}/32 dev {NODE_LINK}"));
    let details = status.fails(50);
    assert_eq!(details, "source 192.0.2.10: no address of this node");
    // An attachment of the network exists, and an attachment of another network does not matter.
    let v6 = json!({"vips": ["2001:db8:42:1::1"], "sources": [NODE_V6]});
    call("ADD")
        .conf(v6.clone())
        .conf(json!({"name": "more"}))
        .succeeds();
    status.fails(50);
    let other = json!({"vips": ["2001:db8:42:1::2"]});
    call("ADD").conf(v6).conf(other).succeeds();
    status.fails(51);
    net.ip(&format!("addr add {NODE_V4}/32 dev {NODE_LINK}"));
    status.succeeds();
    status.conf(json!({"sources": "192.0.2.10"})).fails(7);
}

#[test]
fn gc_deletes_the_links_of_attachments_that_are_gone() {
    let net = Net::new();
    net.ip(&format!("link set dev {VIP_LINK} alias viproute-cni"));
    let add = |container: &str, network: &str, n: u8| {
        let keys = json!({"name": network, "vips": [format!("10.96.0.{n}")]});
        let ifname = if container == "three" { "net1" } else { "eth0" };
        let add = call("ADD").env("CNI_IFNAME", ifname);
        add.container(container).conf(keys).link()
    };
    let one = add("one", "services", 1);
    let two = add("two", "services", 2);
    let three = add("three", "services", 3);
    let other = add("one", "more", 4);
    let before = everything();
    let gc = |keys: Value| {
        let call = call("GC").conf(keys);
        let path = call.env.iter().filter(|(name, _)| *name == "CNI_PATH");
        let env = path.cloned().collect();
        Call { env, ..call }.succeeds();
    };
    let attachment = |id: &str, ifname: &str| json!({"containerID": id, "ifname": ifname});

    // An absent list says nothing. Neither does its old name, which libcni sends beside it.
    gc(json!({}));
    gc(json!({"cni.dev/attachments": []}));
    gc(json!({"cni.dev/valid-attachments": null}));
    assert_eq!(everything(), before);
    // Container and interface make the attachment.
    gc(json!({"cni.dev/valid-attachments": [
        attachment("one", "eth0"), attachment("two", "eth1"), attachment("three", "net1"),
    ]}));
    let mut left = [one, three, other.clone()];
    left.sort_unstable();
    let mut now = links(&net);
    now.sort_unstable();
    assert_eq!(now, left);
    assert!(!left.contains(&two));
    // An empty list says that the network has no attachment.
    gc(json!({"cni.dev/valid-attachments": []}));
    assert_eq!(links(&net), [other]);
    assert_eq!(net.vip_index(), net.index(VIP_LINK));
}

#[test]
fn attachments_are_added_and_deleted_at_once() {
    let net = Net::new();
    let before = everything();
    let names: Vec<_> = (1..=12_u8).map(|n| (n, format!("container-{n}"))).collect();
    let vips = |n: u8| [format!("10.96.0.{n}"), format!("2001:db8:42:1::{n:x}")];
    let start = |verb, (n, name): &(u8, String)| {
        call(verb)
            .container(name)
            .conf(json!({"vips": vips(*n)}))
            .start()
    };
    let (first, second) = names.split_at(6);
    let adds: Vec<_> = first.iter().map(|name| start("ADD", name)).collect();
    adds.into_iter().for_each(|add| drop(end(add).exits(0)));
    // The ADDs of some run beside the DELs of the others.
    let dels = first.iter().map(|name| start("DEL", name));
    let adds = second.iter().map(|name| start("ADD", name));
    let both: Vec<_> = dels.zip(adds).collect();
    for (del, add) in both {
        end(del).exits(0);
        let link = end(add).exits(0).json()["interfaces"][0]["name"].clone();
        let link = link.as_str().unwrap();
        let ips = net.ip_json(&format!("addr show dev {link}"));
        assert_eq!(ips[0]["addr_info"].as_array().unwrap().len(), 2, "{ips}");
    }
    assert_eq!(links(&net).len(), 6);
    let state = net.local_state();
    for (n, name) in second {
        call("CHECK")
            .container(name)
            .conf(json!({"vips": vips(*n)}))
            .succeeds();
        assert_eq!(state.routes_of(vip(&vips(*n)[0])).len(), 1);
    }
    let dels: Vec<_> = names.iter().map(|name| start("DEL", name)).collect();
    dels.into_iter().for_each(|del| drop(end(del).exits(0)));
    assert_eq!(everything(), before);
}

#[test]
fn of_many_adds_of_one_attachment_the_first_succeeds() {
    let net = Net::new();
    let before = everything();
    for _ in 0..3 {
        let adds: Vec<_> = (0..8).map(|_| call("ADD").start()).collect();
        let ran: Vec<_> = adds.into_iter().map(end).collect();
        let (done, refused): (Vec<_>, Vec<_>) =
            ran.into_iter().partition(|ran| ran.code == Some(0));
        assert_eq!(done.len(), 1, "{done:?}");
        refused.into_iter().for_each(|ran| drop(failure(ran, 102)));
        assert_held(&net, &links(&net)[0], &VIPS);
        // A failed ADD beside a DEL must not delete, and must not bring back, what the DEL decides.
        let mixed: Vec<_> = (0..8)
            .map(|n| call(if n % 2 == 0 { "DEL" } else { "ADD" }).start())
            .collect();
        for child in mixed {
            let ran = end(child);
            if ran.code != Some(0) {
                failure(ran, 102);
            }
        }
        if let Some(link) = links(&net).first() {
            assert_held(&net, link, &VIPS);
        }
        let dels: Vec<_> = (0..4).map(|_| call("DEL").start()).collect();
        dels.into_iter().for_each(|del| drop(end(del).exits(0)));
        assert_eq!(everything(), before);
    }
}

#[test]
fn add_killed_at_any_moment_leaves_what_gc_and_del_find() {
    let net = Net::new();
    let before = everything();
    let vips = common::vips(100);
    let add = call("ADD").conf(json!({"vips": vips}));
    let link = add.link();
    call("DEL").succeeds();
    let mut delay = Duration::ZERO;
    let mut with_vips = 0;
    loop {
        let mut add = add.start();
        thread::sleep(delay);
        add.kill().unwrap();
        if add.wait().unwrap().success() {
            break;
        }
        let state = net.local_state();
        if vips.iter().any(|vip| !state.addresses_of(*vip).is_empty()) {
            with_vips += 1;
            // GC finds the link by its alias, which it has before the first VIP.
            let none = json!({"cni.dev/valid-attachments": []});
            call("GC").conf(none).succeeds();
            net.local_state().assert_absent(&vips, &link);
        }
        call("DEL").succeeds();
        assert_eq!(everything(), before, "killed after {delay:?}");
        delay += delay / 20 + Duration::from_micros(50);
    }
    assert!(with_vips > 0, "no ADD was killed with a VIP on its link");
}

#[test]
fn del_deletes_what_a_killed_add_left_and_no_link_of_another_attachment() {
    let net = Net::new();
    let before = everything();
    let link = call("ADD").link();
    call("DEL").succeeds();
    // Killed before the alias.
    net.ip(&format!("link add dev {link} type bridge"));
    call("DEL").succeeds();
    assert_eq!(everything(), before);
    // Two attachments with the same hash, or another program's link.
    net.ip(&format!("link add dev {link} type bridge"));
    net.ip(&format!("link set dev {link} alias mine"));
    let before = everything();
    call("DEL").succeeds();
    call("ADD").fails(102);
    assert_eq!(everything(), before);
}
