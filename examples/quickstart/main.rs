//! Two VIPs from the kernel's own routes to their single-route state, by one command and without
//! privileges:
//!
//! ```text
//! cargo run -p quickstart --example quickstart
//! ```
//!
//! Everything happens in a network namespace of the process's own. It checks each thing that it
//! says, and ends with an error at the first that is not so.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde_json::Value;
use viproute::{LinkKind, Report, VipManager, sandbox};

/// The link that holds the VIPs.
const LINK: &str = "kube-dummy-if";
/// Another link, which holds the node's own addresses.
const NODE_LINK: &str = "node0";

const NODE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const VIPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x42, 1, 0, 0, 0, 0xd45a)),
];

/// How long to wait for what the kernel does later, and for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    // While the process has one thread: from here on it is root, in a network of its own.
    let outcome = match sandbox::enter() {
        Ok(()) => tour(&mut io::stdout().lock()),
        Err(error) => Err(format!("no network namespace of its own: {error}").into()),
    };
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    // Not eprintln!, which panics where standard error is closed.
    let mut complaint = io::stderr().lock();
    let _ = if error.is::<io::Error>() {
        // All others say what they are about.
        writeln!(complaint, "cannot print: {error}")
    } else {
        writeln!(complaint, "\nVerdict: NOT as it should be: {error}")
    };
    ExitCode::FAILURE
}

#[expect(
    clippy::too_many_lines,
    reason = "a tour is read from its beginning to its end"
)]
fn tour(out: &mut impl Write) -> Outcome {
    writeln!(
        out,
        "Two service VIPs, in a network namespace of this process's own: nothing of the machine's\n\
         network is touched.\n\
         \x20 node {NODE_V4}, {NODE_V6} on {NODE_LINK}\n\
         \x20 VIPs {}, {} on {LINK}",
        VIPS[0], VIPS[1]
    )?;

    title(out, "A link for the VIPs, and a node")?;
    let kind = make_node(out)?;
    let mut vips = make_link(out, kind)?;

    title(out, "1. The routes that the kernel makes for an address")?;
    add_addresses(out)?;
    let kernels = [vec![kernel_v4()], vec![kernel_v6(), prefix_v6()]];
    await_routes(&kernels)?;
    show_routes(out, &kernels)?;
    connect(out, &VIPS)?;
    say(
        out,
        "The node talks to a VIP from the VIP. Once the service's endpoint is on another node,\n\
         the answer goes to that node's own copy of the VIP and never comes back.",
    )?;

    title(out, "2. assign: one route for each VIP, from the node")?;
    let took = timed(out, "release", || vips.release(VIPS))?;
    expect_count("released", took.released, 2)?;
    show_routes(out, &[vec![], vec![]])?;
    let took = timed(out, "assign", || vips.assign(VIPS))?;
    expect_count("assigned", took.assigned, 2)?;
    let single = [vec![single_v4()], vec![single_v6()]];
    show_routes(out, &single)?;
    connect(out, &[NODE_V4.into(), NODE_V6.into()])?;

    title(out, "3. Broken the naive way (kube-router issue 1698)")?;
    say(
        out,
        "Remove and add each address, then replace its route by a route that names the node:",
    )?;
    for vip in VIPS {
        ip(out, &format!("addr del {} dev {LINK}", host(vip)))?;
    }
    add_addresses(out)?;
    await_routes(&[
        vec![kernel_v4()],
        vec![kernel_v6(), prefix_v6(), single_v6()],
    ])?;
    ip(
        out,
        &format!(
            "route replace local {} dev {LINK} table local proto kernel scope host src {NODE_V4}",
            VIPS[0]
        ),
    )?;
    ip(
        out,
        &format!(
            "route replace local {} dev {LINK} table local proto kernel src {NODE_V6}",
            VIPS[1]
        ),
    )?;
    show_routes(
        out,
        &[
            vec![single_v4()],
            vec![kernel_v6(), prefix_v6(), single_v6()],
        ],
    )?;
    connect(out, &[NODE_V4.into(), VIPS[1]])?;
    say(
        out,
        "That will do in IPv4, where our route took the place of the kernel's route. In IPv6 it came\n\
         beside it: three routes, and the kernel's with metric 0 wins over our route with 1024.",
    )?;

    title(out, "4. normalize: the cure")?;
    let took = timed(out, "normalize", || vips.normalize())?;
    expect_count("repaired", took.repaired, 1)?;
    expect_count("unchanged", took.unchanged, 1)?;
    show_routes(out, &single)?;
    connect(out, &[NODE_V4.into(), NODE_V6.into()])?;

    let took = timed(out, "normalize again", || vips.normalize())?;
    expect_count("unchanged", took.unchanged, 2)?;
    if took.writes != 0 {
        return Err(format!("{} writes on a state that was right", took.writes).into());
    }

    writeln!(
        out,
        "\nVerdict: as it should be. Each VIP has one route, and the node reaches it from \
         {NODE_V4} or {NODE_V6}."
    )?;
    Ok(())
}

/// A link with the node's own addresses: a dummy link, or a bridge where the kernel has no dummy.
fn make_node(out: &mut impl Write) -> Outcome<LinkKind> {
    let mut kind = LinkKind::Dummy;
    if let Err(error) = ip(out, &format!("link add {NODE_LINK} type dummy")) {
        say(
            out,
            &format!("{error}\nNo dummy links here. A bridge without ports and ARP does as well."),
        )?;
        ip(out, &format!("link add {NODE_LINK} type bridge"))?;
        kind = LinkKind::Bridge;
    }
    ip(out, &format!("link set {NODE_LINK} up"))?;
    ip(out, &format!("addr add {NODE_V4}/32 dev {NODE_LINK}"))?;
    ip(
        out,
        &format!("addr add {NODE_V6}/128 dev {NODE_LINK} nodad"),
    )?;
    Ok(kind)
}

/// A manager of the VIP link, which its first call makes.
fn make_link(out: &mut impl Write, kind: LinkKind) -> Outcome<VipManager> {
    let mut vips = VipManager::builder(LINK)
        .source(NODE_V4)
        .source(NODE_V6)
        .stall_timeout(PATIENCE)
        .create_link(kind)
        .open()?;
    timed(out, "assign", || vips.assign(VIPS))?;
    timed(out, "release", || vips.release(VIPS))?;
    say(out, &format!("{LINK}: made by the library, and empty"))?;
    Ok(vips)
}

fn add_addresses(out: &mut impl Write) -> Outcome {
    for vip in VIPS {
        ip(out, &format!("addr add {} dev {LINK}", host(vip)))?;
    }
    Ok(())
}

/// A route to a VIP, in what distinguishes it here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    metric: u64,
    table: String,
    kind: String,
    device: String,
    protocol: String,
    source: Option<IpAddr>,
}

impl Route {
    fn local(metric: u64, source: Option<IpAddr>) -> Self {
        Self {
            metric,
            table: "local".into(),
            kind: "local".into(),
            device: LINK.into(),
            protocol: "kernel".into(),
            source,
        }
    }
}

fn kernel_v4() -> Route {
    Route::local(0, Some(VIPS[0]))
}

/// Without a preferred source: to one of its own addresses a node talks from that address
/// (RFC 6724, section 5, rule 1).
fn kernel_v6() -> Route {
    Route::local(0, None)
}

fn prefix_v6() -> Route {
    Route {
        table: "main".into(),
        kind: "unicast".into(),
        ..Route::local(256, None)
    }
}

fn single_v4() -> Route {
    Route::local(0, Some(NODE_V4.into()))
}

fn single_v6() -> Route {
    Route::local(1024, Some(NODE_V6.into()))
}

/// The routes to each VIP, in all tables and through all devices, in order of metric.
fn routes() -> Outcome<[Vec<Route>; 2]> {
    let printed = run_ip("-json -d route show table all")?;
    let all: Value = serde_json::from_str(&printed)
        .map_err(|error| format!("`ip -json` (of iproute2) printed no JSON: {error}"))?;
    let mut routes = [vec![], vec![]];
    for route in all.as_array().into_iter().flatten() {
        let text = |name: &str| route[name].as_str().unwrap_or_default();
        let Some(at) = VIPS.iter().position(|vip| text("dst") == vip.to_string()) else {
            continue;
        };
        routes[at].push(Route {
            // What is not printed is the default.
            metric: route["metric"].as_u64().unwrap_or(0),
            table: route["table"].as_str().unwrap_or("main").into(),
            kind: text("type").into(),
            device: text("dev").into(),
            protocol: text("protocol").into(),
            source: text("prefsrc").parse().ok(),
        });
    }
    for routes in &mut routes {
        routes.sort();
    }
    Ok(routes)
}

/// Waits for these routes: the kernel adds its IPv6 ones some time after the address.
fn await_routes(expected: &[Vec<Route>; 2]) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = routes()?;
        if seen == *expected {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(unexpected(&seen, expected).into());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Shows the routes to the VIPs, and checks that they are these and no others.
fn show_routes(out: &mut impl Write, expected: &[Vec<Route>; 2]) -> Outcome {
    let seen = routes()?;
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "table",
        "type",
        "destination",
        "device",
        "protocol",
        "metric",
        "source",
    ]);
    for (vip, routes) in VIPS.iter().zip(&seen) {
        for route in routes {
            table.add_row([
                route.table.clone(),
                route.kind.clone(),
                vip.to_string(),
                route.device.clone(),
                route.protocol.clone(),
                route.metric.to_string(),
                route.source.map_or("-".into(), |source| source.to_string()),
            ]);
        }
    }
    if seen == [[], []] {
        say(out, "No route to a VIP is left.")?;
    } else {
        for line in table.to_string().lines() {
            writeln!(out, "  {}", line.trim_end())?;
        }
    }
    if seen == *expected {
        Ok(())
    } else {
        Err(unexpected(&seen, expected).into())
    }
}

fn unexpected(seen: &[Vec<Route>; 2], expected: &[Vec<Route>; 2]) -> String {
    format!("the routes to the VIPs are {seen:#?}\nwhere there should be {expected:#?}")
}

/// Connects to a listener on each VIP without saying from where, as every client does, and checks
/// whom the listener sees.
///
/// The client's source is what the route that wins names as its preferred source: nothing else in
/// here could choose it. That is how all connections from the node to the VIP leave, also those
/// that IPVS or NAT sends on to another node.
fn connect(out: &mut impl Write, expected: &[IpAddr; 2]) -> Outcome {
    for (vip, expected) in VIPS.into_iter().zip(expected) {
        let failed = |error: io::Error| format!("connection to {vip}: {error}");
        let peer = peer_of_connection(vip).map_err(failed)?;
        let whose = if peer == vip { "the VIP!" } else { "the node" };
        say(
            out,
            &format!("client on the node to {vip}: the listener sees {peer}, {whose}"),
        )?;
        if peer != *expected {
            return Err(format!("the peer at {vip} is {peer}, not {expected}").into());
        }
    }
    Ok(())
}

/// The peer's address that a listener on the VIP sees, once a word went over and came back.
fn peer_of_connection(vip: IpAddr) -> io::Result<IpAddr> {
    const WORD: [u8; 4] = *b"ping";
    let listener = TcpListener::bind(SocketAddr::new(vip, 0))?;
    let mut client = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
    let (mut server, peer) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE))?;
    }
    let mut heard = [0; WORD.len()];
    client.write_all(&WORD)?;
    server.read_exact(&mut heard)?;
    server.write_all(&heard)?;
    client.read_exact(&mut heard)?;
    if heard != WORD || client.local_addr()? != peer {
        return Err(io::Error::other("what came back is not what was sent"));
    }
    Ok(peer.ip())
}

/// Makes a call, and says how long it took and what it reports.
fn timed(
    out: &mut impl Write,
    name: &str,
    call: impl FnOnce() -> Result<Report, viproute::Error>,
) -> Outcome<Report> {
    let begun = Instant::now();
    let result = call();
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    let report = result.map_err(|error| format!("{name}: {error}"))?;
    say(out, &format!("{name} took {ms:.2} ms: {report}"))?;
    Ok(report)
}

fn expect_count(what: &str, seen: usize, expected: usize) -> Outcome {
    if seen == expected {
        Ok(())
    } else {
        Err(format!("{seen} {what}, where it should be {expected}").into())
    }
}

fn host(vip: IpAddr) -> String {
    let bits = if vip.is_ipv4() { 32 } else { 128 };
    format!("{vip}/{bits}")
}

/// Prints a command and runs it.
fn ip(out: &mut impl Write, args: &str) -> Outcome {
    writeln!(out, "  $ ip {args}")?;
    run_ip(args).map(drop)
}

fn run_ip(args: &str) -> Outcome<String> {
    // An ordinary user's PATH may lack the sbin directories.
    let program = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("ip");
    let output = Command::new(program)
        .args(args.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run `ip` (of iproute2): {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)?)
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("`ip {args}`: {}", said.trim()).into())
    }
}

fn title(out: &mut impl Write, text: &str) -> io::Result<()> {
    writeln!(out, "\n{text}\n{}", "-".repeat(text.len()))
}

fn say(out: &mut impl Write, text: &str) -> io::Result<()> {
    for line in text.lines() {
        writeln!(out, "  {line}")?;
    }
    Ok(())
}
