//! A private network: sandbox, links, node addresses, `ip`, sysctls.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use viproute::sandbox::Sandbox;

use super::{LocalState, NODE_LINK, NODE_V4, NODE_V6, SOURCES, Snapshot, VIP_LINK, Want, state};

/// What `ip` says if a route or an address that it flushes is no longer there.
const GONE: [&str; 2] = [
    "Failed to send flush request: No such process",
    "Failed to send flush request: Cannot assign requested address",
];

/// How often `ip` is asked again while another writer is in its way.
const TRIES: usize = 30;

/// A network namespace of the test's own thread, with what a node has.
#[derive(Debug)]
pub struct Net {
    sandbox: Sandbox,
}

impl Net {
    /// Nothing but `lo`.
    pub fn bare() -> Self {
        Self {
            sandbox: Sandbox::new().expect("a network namespace of the test's own"),
        }
    }

    /// The VIP link, and the node's addresses on a link of their own.
    pub fn new() -> Self {
        let net = Self::bare();
        net.add_link(NODE_LINK);
        net.add_node_addresses(NODE_LINK);
        net.add_link(VIP_LINK);
        net.wait_for_kernel();
        net
    }

    /// The VIP link, and the node's addresses on `lo`.
    pub fn with_node_on_lo() -> Self {
        let net = Self::bare();
        net.add_node_addresses("lo");
        net.add_link(VIP_LINK);
        net.wait_for_kernel();
        net
    }

    /// The namespace.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Adds a link that sends nothing and sets it up: a dummy, or where the kernel has none, a
    /// bridge without ports and without ARP, which behaves like one. Returns its index.
    pub fn add_link(&self, name: &str) -> u32 {
        self.add_link_down(name);
        self.ip(&format!("link set dev {name} up"));
        self.index(name)
    }

    /// The same, left down.
    pub fn add_link_down(&self, name: &str) -> u32 {
        match self.try_ip(&format!("link add dev {name} type dummy")) {
            Ok(_) => println!("{name} is a dummy link"),
            Err(error) => {
                self.ip(&format!("link add dev {name} type bridge"));
                self.ip(&format!("link set dev {name} arp off"));
                println!("{name} is a NOARP bridge, standing in for dummy: {error}");
            }
        }
        self.index(name)
    }

    /// Puts the node's addresses on a link.
    pub fn add_node_addresses(&self, dev: &str) {
        self.ip(&format!("addr add {NODE_V4}/32 dev {dev}"));
        self.ip(&format!("addr add {NODE_V6}/128 dev {dev} nodad"));
    }

    /// The index of a link.
    pub fn index(&self, name: &str) -> u32 {
        let links = self.ip_json(&format!("link show dev {name}"));
        u32::try_from(links[0]["ifindex"].as_u64().unwrap()).unwrap()
    }

    /// The index of the VIP link.
    pub fn vip_index(&self) -> u32 {
        self.index(VIP_LINK)
    }

    /// Waits until the kernel has finished what it does later: no address is tentative, and every
    /// IPv6 address of a link that is up has its local route.
    ///
    /// Only for a state in which no VIP is yet (a VIP in its single-route state has none of the
    /// kernel's routes, but the desired one, so it would do as well).
    pub fn wait_for_kernel(&self) {
        let deadline = Instant::now() + Duration::from_secs(100);
        loop {
            let state = self.local_state();
            let late: Vec<_> = state
                .addresses
                .values()
                .flatten()
                .filter(|address| {
                    address.local.is_ipv6()
                        && address.link_up
                        && (address.tentative
                            || !state
                                .routes_of(address.local)
                                .iter()
                                .any(|route| route.is_local() && route.dev == address.dev))
                })
                .collect();
            if late.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "never quiet: {late:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Changes that a keeper and a watcher are notified of, but that mean nothing to them: more than a
    /// small receive buffer holds.
    pub fn notify_in_vain(&self) {
        self.ip_batch((0..100).flat_map(|at| {
            ["add", "del"].map(|what| format!("route {what} blackhole 10.255.0.{at} table local"))
        }));
    }

    /// Changes that concern neither the VIP link nor the node's addresses: as many.
    pub fn change_other_links(&self) {
        self.ip_batch((0..100).flat_map(|at| {
            [
                format!("link set {NODE_LINK} mtu {}", 1400 + at),
                format!("route add 10.254.0.{at} dev {NODE_LINK}"),
                format!("route add 2001:db8:254::{at:x} dev {NODE_LINK}"),
                format!("route add 2001:db8:254:{at:x}::/64 dev {NODE_LINK}"),
                format!("route add 10.253.0.{at} dev {VIP_LINK} table 77"),
                format!("route del 10.254.0.{at} dev {NODE_LINK}"),
            ]
        }));
    }

    /// Runs `ip` with these words; panics with what it said if it fails.
    #[track_caller]
    pub fn ip(&self, args: &str) -> String {
        match self.try_ip(args) {
            Ok(text) => text,
            Err(error) => panic!("ip {args}: {error}"),
        }
    }

    /// Runs `ip` with these words. A flush begins anew if another writer, say a keeper, was first to
    /// delete what `ip` had read: `ip` reads all, then deletes one by one, and ends at the first error.
    pub fn try_ip(&self, args: &str) -> Result<String, String> {
        let mut said = Err(String::new());
        for _ in 0..TRIES {
            said = outcome(ip_command().args(args.split_whitespace()).output());
            match &said {
                Err(error) if GONE.iter().any(|gone| error.contains(gone)) => {}
                _ => break,
            }
        }
        said
    }

    /// Runs many commands through one `ip -batch`; panics if one fails.
    #[track_caller]
    pub fn ip_batch<S: AsRef<str>>(&self, lines: impl IntoIterator<Item = S>) {
        let mut child = ip_command()
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip -batch");
        let mut input = child.stdin.take().unwrap();
        for line in lines {
            writeln!(input, "{}", line.as_ref()).expect("ip -batch reads all lines");
        }
        drop(input);
        if let Err(error) = outcome(child.wait_with_output()) {
            panic!("ip -batch: {error}");
        }
    }

    /// What `ip -N -json -d` says to these words.
    #[track_caller]
    pub fn ip_json(&self, args: &str) -> Value {
        ip_json(args)
    }

    /// Reads a sysctl below /proc/sys/net, with slashes: `ipv6/conf/all/forwarding`.
    #[track_caller]
    pub fn sysctl(&self, key: &str) -> String {
        let path = sysctl_path(key);
        std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim_end()
            .to_owned()
    }

    /// Sets a sysctl below /proc/sys/net.
    #[track_caller]
    pub fn set_sysctl(&self, key: &str, value: &str) {
        let path = sysctl_path(key);
        std::fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Reads all addresses and routes, once.
    #[track_caller]
    pub fn local_state(&self) -> LocalState {
        LocalState::read()
    }

    /// Everything on this node but what names a given VIP.
    #[track_caller]
    pub fn snapshot_without(&self, vips: &[IpAddr]) -> Snapshot {
        Snapshot::read(vips)
    }

    /// What is wrong with VIPs that shall be in the single-route state on [`VIP_LINK`] with the
    /// node's addresses as [`SOURCES`]: one line a VIP, none when all is well.
    #[track_caller]
    pub fn wrong_vips(&self, vips: &[IpAddr], protocol: u8) -> Vec<String> {
        self.local_state().wrong_vips(vips, &want(protocol))
    }

    /// Panics unless all VIPs are in the single-route state on [`VIP_LINK`] with the node's
    /// addresses as [`SOURCES`].
    #[track_caller]
    pub fn assert_single_route(&self, vips: &[IpAddr], protocol: u8) {
        self.local_state()
            .assert_single_route(vips, &want(protocol));
    }

    /// Panics if [`VIP_LINK`] has an address or a route of a given VIP.
    #[track_caller]
    pub fn assert_absent(&self, vips: &[IpAddr]) {
        self.local_state().assert_absent(vips, VIP_LINK);
    }
}

fn want(protocol: u8) -> Want<'static> {
    Want {
        protocol,
        ..Want::default()
    }
}

fn sysctl_path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(key)
}

/// `ip`, also where an ordinary user's PATH leaves out the sbin directories.
pub fn ip_command() -> Command {
    let program = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .unwrap_or("ip");
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs those of the lines that can be run, through one `ip -batch`, in the calling thread's
/// namespace.
pub fn ip_batch_forced(lines: &str) {
    let mut ip = ip_command()
        .args(["-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("ip -batch");
    let mut input = ip.stdin.take().unwrap();
    input.write_all(lines.as_bytes()).unwrap();
    drop(input);
    ip.wait().unwrap();
}

/// What `ip -N -json -d` says to these words, in the calling thread's namespace. A dump that the
/// kernel marks as interrupted is repeated.
#[track_caller]
pub fn ip_json(args: &str) -> Value {
    for _ in 0..TRIES {
        let output = ip_command()
            .args(["-N", "-json", "-d"])
            .args(args.split_whitespace())
            .output()
            .expect("running ip");
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("interrupted") {
            continue;
        }
        assert!(output.status.success(), "ip {args}: {said}");
        // For no object at all some versions print nothing.
        if output.stdout.iter().all(u8::is_ascii_whitespace) {
            return Value::Array(Vec::new());
        }
        return serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("ip {args} printed no JSON: {error}"));
    }
    panic!("ip {args}: the dump was interrupted 30 times");
}

fn outcome(output: std::io::Result<Output>) -> Result<String, String> {
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
