//! Text into what the library takes, and what is wrong with other text.

use std::fmt;
use std::io::{self, BufRead};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use viproute::{Claim, Vip};

/// A text without what is around it, if it is there.
type Strip = fn(&str) -> Option<&str>;

/// What people write around an address: its name, and the text without it.
const AROUND: [(&str, Strip); 9] = [
    ("a byte order mark", |text| text.strip_prefix('\u{feff}')),
    ("a comma", |text| text.strip_suffix([',', ';'])),
    ("quotes", |text| {
        let inner = text.trim_matches(['"', '\'']);
        (inner.len() < text.len()).then_some(inner)
    }),
    ("a scheme", |text| Some(text.split_once("://")?.1)),
    ("a slash", |text| text.strip_suffix('/')),
    ("a port", |text| {
        let (address, port) = text.rsplit_once(':')?;
        let is_port = port.parse::<u16>().is_ok();
        (is_port && (address.ends_with(']') || !address.contains(':'))).then_some(address)
    }),
    ("brackets", |text| text.strip_prefix('[')?.strip_suffix(']')),
    ("a prefix length other than /32 or /128", |text| {
        Some(text.split_once('/')?.0)
    }),
    ("a zone", |text| Some(text.split_once('%')?.0)),
];

/// A VIP, or what is wrong with the text and how to mend it.
pub(crate) fn vip(text: &str) -> Result<Vip, String> {
    text.parse().map_err(|_| mend(text))
}

/// A source, which may have the prefix length of a host, as a VIP.
pub(crate) fn source(text: &str) -> Result<IpAddr, String> {
    vip(text).map(|source| source.addr())
}

/// What is wrong with a text that is no address.
fn mend(text: &str) -> String {
    if let Some(why) = not_one_address(text) {
        return why;
    }
    let mut inner = text;
    let mut around = Vec::new();
    while let Some((what, rest)) = AROUND
        .iter()
        .find_map(|(what, strip)| Some((what, strip(inner)?)))
    {
        if !around.contains(what) {
            around.push(*what);
        }
        inner = rest;
    }
    match inner.parse::<IpAddr>() {
        Ok(IpAddr::V6(addr)) if addr.is_unicast_link_local() => {
            "a link-local address can be neither a VIP nor a source: give another".to_owned()
        }
        Ok(addr) => format!("it has {}: give {addr}", around.join(" and ")),
        Err(_) => no_address(inner),
    }
}

/// What is wrong with a text that has no address, or several.
fn not_one_address(text: &str) -> Option<String> {
    let several = |separator: &[char]| {
        let mut parts = text.split(separator).filter(|part| !part.is_empty());
        parts.next().is_some() && parts.next().is_some()
    };
    let is_range = |text: &str| {
        let range: Option<IpNet> = text.parse().ok();
        range.is_some_and(|range| range.addr() == range.network())
    };
    let parts = text.split_once('-');
    let why = if text.is_empty() {
        "it is empty: give an IPv4 or IPv6 address"
    } else if text.contains('\u{fffd}') {
        "it is not UTF-8: save the list as UTF-8"
    } else if several(&[',', ';', ' ', '\t']) {
        "it is a list: give each address by itself"
    } else if is_range(text) || parts.is_some_and(|(first, _)| first.parse::<IpAddr>().is_ok()) {
        "it is a range: give each address by itself"
    } else if matches!(text, "None" | "<none>") {
        "a headless service has no cluster IP: leave it out"
    } else if matches!(text, "auto" | "dummy" | "bridge") {
        return Some(format!(
            "the kind of a link follows `=`: write --create-link={text}"
        ));
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// What is wrong with a text that is no address and has none inside.
fn no_address(text: &str) -> String {
    let numbers: Vec<&str> = text.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if numbers.iter().all(is_number) {
        if numbers.len() != 4 {
            return format!(
                "an IPv4 address has four numbers, this has {}",
                numbers.len()
            );
        }
        if let Some(high) = numbers.iter().find(|part| part.parse::<u8>().is_err()) {
            return format!("{high} is more than 255");
        }
        let decimal = numbers.iter().map(|part| part.trim_start_matches('0'));
        let decimal = decimal.map(|part| if part.is_empty() { "0" } else { part });
        let decimal: Vec<&str> = decimal.collect();
        return format!(
            "a number that begins with 0 is octal to some programs: give {}",
            decimal.join(".")
        );
    }
    let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    if text.chars().all(is_of_name) && text.contains(char::is_alphabetic) {
        return "names are not looked up: give an IPv4 or IPv6 address".to_owned();
    }
    "give an IPv4 or IPv6 address, alone or as /32 or /128".to_owned()
}

/// A range of addresses.
pub(crate) fn range(text: &str) -> Result<IpNet, String> {
    let why = match (text.parse(), text.parse::<IpAddr>()) {
        (Ok(range), _) => return Ok(range),
        (Err(_), Ok(addr)) => {
            let bits = if addr.is_ipv4() { 32 } else { 128 };
            format!("it has no prefix length: for this address alone, give {addr}/{bits}")
        }
        (Err(_), Err(_)) if text.contains(',') => {
            "it is a list: give the option once for each range".to_owned()
        }
        (Err(_), Err(_)) => "give a range, like 10.96.0.0/12 or 2001:db8:42::/64".to_owned(),
    };
    Err(why)
}

/// What `--claim` means.
#[derive(Clone, Debug)]
pub(crate) enum Claimed {
    Link,
    Mark,
    Ranges(Vec<IpNet>),
}

impl From<Claimed> for Claim {
    fn from(claimed: Claimed) -> Self {
        match claimed {
            Claimed::Link => Self::link(),
            Claimed::Mark => Self::mark(),
            Claimed::Ranges(ranges) => Self::ranges(ranges),
        }
    }
}

/// `link`, `mark`, or `PREFIX,PREFIX...`.
pub(crate) fn claim(text: &str) -> Result<Claimed, String> {
    match text {
        "link" => Ok(Claimed::Link),
        "mark" => Ok(Claimed::Mark),
        "all" | "any" | "*" => Err("to claim every VIP on the link, give `link`".to_owned()),
        _ => {
            let ranges: Result<_, String> = text
                .split(',')
                .map(|part| claim_range(part, text))
                .collect();
            ranges.map(Claimed::Ranges)
        }
    }
}

/// A range of a claim, which is this text as a whole.
fn claim_range(part: &str, whole: &str) -> Result<IpNet, String> {
    match range(part) {
        Err(_) if part.parse::<IpAddr>().is_err() => Err(format!(
            "{}give `link`, `mark`, or prefixes with commas between, like \
             10.96.0.0/12,2001:db8:42::/64",
            of(part, whole)
        )),
        range => range.map_err(|why| format!("{}{why}", of(part, whole))),
    }
}

/// Names a part, unless it is the whole.
fn of(part: &str, whole: &str) -> String {
    if part == whole {
        return String::new();
    }
    format!("`{part}`: ")
}

/// A bound of `--at-most`.
pub(crate) fn count(text: &str) -> Result<usize, &'static str> {
    text.parse().map_err(|_| "give a number of VIPs, like 20")
}

/// A time that is not zero.
pub(crate) fn seconds(text: &str) -> Result<Duration, &'static str> {
    // Some 30 years, so that no deadline is beyond what the clock can say.
    const MAX: Duration = Duration::from_secs(1_000_000_000);
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| !time.is_zero() && *time <= MAX)
        .ok_or("give a number of seconds, like 10 or 0.5")
}

/// Why a list of VIPs was not understood.
#[derive(Debug)]
pub(crate) enum BadList {
    Unreadable(io::Error),
    /// With the number of the line.
    Line(String),
}

impl fmt::Display for BadList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "{error}"),
            Self::Line(why) => f.write_str(why),
        }
    }
}

/// Reads VIPs, one a line; everything from a `#` on is a comment.
pub(crate) fn vips(input: impl BufRead, vips: &mut Vec<Vip>) -> Result<(), BadList> {
    for (at, line) in input.split(b'\n').enumerate() {
        let line = line.map_err(BadList::Unreadable)?;
        // What is not UTF-8 is no address either, except in a comment.
        let line = String::from_utf8_lossy(&line);
        let text = line.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        match vip(text) {
            Ok(vip) => vips.push(vip),
            Err(why) => return Err(BadList::Line(format!("line {}: `{text}`: {why}", at + 1))),
        }
    }
    Ok(())
}
