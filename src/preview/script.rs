//! A plan as a POSIX shell script of `ip` commands.

use std::fmt::{self, Display};
use std::net::IpAddr;

use super::plan::{Action, Likelihood, Plan, PlannedRoute};
use crate::base::{
    Family, IFA_F_HOMEADDRESS, IFA_F_MANAGETEMPADDR, IFA_F_MCAUTOJOIN, IFA_F_NODAD, Protocol, Vip,
};

/// A link's name as a word of a shell command.
struct Word<'a>(&'a str);

impl Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.@-".contains(&b);
        if self.0.bytes().all(plain) {
            f.write_str(self.0)
        } else {
            write!(f, "'{}'", self.0.replace('\'', r"'\''"))
        }
    }
}

/// A keyword and its value, where there is a value.
struct Keyword<T>(&'static str, Option<T>);

impl<T: Display> Display for Keyword<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(keyword, value) = self;
        let value = value.as_ref();
        value.map_or(Ok(()), |value| write!(f, " {keyword} {value}"))
    }
}

/// The flags of an address of this family that an update must repeat.
struct Flags(Family, u32);

impl Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        [
            (IFA_F_NODAD, " nodad"),
            (IFA_F_HOMEADDRESS, " home"),
            (IFA_F_MANAGETEMPADDR, " mngtmpaddr"),
            (IFA_F_MCAUTOJOIN, " autojoin"),
        ]
        .iter()
        .filter(|(flag, _)| self.1 & flag != 0)
        .try_for_each(|(_, word)| f.write_str(word))?;
        match self.0 {
            Family::V4 => Ok(()),
            Family::V6 => f.write_str(" noprefixroute"),
        }
    }
}

/// Precedes the preferred lifetime of an address that never ends.
const LIFETIME: &str = "valid_lft forever preferred_lft";

/// A verb, the VIP whose address it changes, the address's peer, and the link.
struct ChangedAddress<'a>(&'static str, Vip, Option<IpAddr>, &'a str);

impl Display for ChangedAddress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(verb, vip, peer, link) = *self;
        let (ip, bits, peer) = (ip(vip), vip.family().host_bits(), Keyword("peer", peer));
        write!(f, "{ip} addr {verb} {vip}{peer}/{bits} dev {}", Word(link))
    }
}

/// `ip -4` or `ip -6`.
fn ip(vip: Vip) -> &'static str {
    match vip.family() {
        Family::V4 => "ip -4",
        Family::V6 => "ip -6",
    }
}

/// A protocol by its number: the names are read from a file that a node may lack.
fn proto(protocol: Option<Protocol>) -> Keyword<u8> {
    Keyword("proto", protocol.map(Protocol::get))
}

impl Display for Action {
    #[expect(clippy::too_many_lines, reason = "one command for each action")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateLink { link, kind } => {
                // Where the kernel does not know a kind, the next one is tried.
                let add = |kind| format!("ip link add dev {} arp off type {kind}", Word(link));
                let kinds: Vec<_> = kind.candidates().iter().map(add).collect();
                f.write_str(&kinds.join(" 2>/dev/null || "))
            }
            Self::NoOwnAddress { link } => {
                write!(f, "ip link set dev {} addrgenmode none", Word(link))
            }
            Self::BringUp { link } => write!(f, "ip link set dev {} up", Word(link)),
            Self::AddLabel {
                link,
                prefix,
                label,
            } => {
                let (link, label) = (Word(link), Keyword("label", Some(label)));
                write!(f, "ip addrlabel add prefix {prefix} dev {link}{label}")
            }
            Self::AddPlaceholder { link, address } => {
                write!(f, "ip addr add {address}/32 dev {} scope host", Word(link))
            }
            Self::AddAddress {
                link,
                vip,
                protocol,
                deprecated,
            } => {
                let address = ChangedAddress("add", *vip, None, link);
                let (scope, flags) = match vip.family() {
                    Family::V4 => (" scope link", Flags(Family::V4, 0)),
                    Family::V6 => ("", Flags(Family::V6, IFA_F_NODAD)),
                };
                let preferred = Keyword(LIFETIME, deprecated.then_some("0"));
                write!(f, "{address}{scope}{flags}{preferred}{}", proto(*protocol))
            }
            Self::UpdateAddress {
                link,
                vip,
                flags,
                deprecated,
                peer,
                metric,
                protocol,
            } => {
                let address = ChangedAddress("change", *vip, *peer, link);
                let flags = Flags(vip.family(), *flags);
                let preferred = Keyword(LIFETIME, Some(if *deprecated { "0" } else { "forever" }));
                let (metric, proto) = (Keyword("metric", *metric), proto(*protocol));
                write!(f, "{address}{flags}{preferred}{metric}{proto}")
            }
            Self::DeleteAddress { link, vip, peer } => {
                ChangedAddress("del", *vip, *peer, link).fmt(f)
            }
            Self::AwaitRoute { link, vip, .. } => {
                let (ip, link) = (ip(*vip), Word(link));
                write!(f, "{ip} route show table local exact {vip} dev {link}")
            }
            Self::AddRoute(route) => route.write(f, "add"),
            Self::AppendRoute(route) => route.write(f, "append"),
            Self::ReplaceRoute(route) => route.write(f, "replace"),
            Self::DeleteRoute(route) => route.write(f, "del"),
        }
    }
}

impl PlannedRoute {
    fn write(&self, f: &mut fmt::Formatter<'_>, verb: &str) -> fmt::Result {
        let (vip, link, table) = (self.vip, Word(&self.link), self.table.0);
        write!(f, "{} route {verb}", ip(vip))?;
        // `ip` takes types by name only.
        if let Some(kind) = self.kind.name() {
            write!(f, " {kind}")?;
        }
        // Without a scope, `ip` would use the type's default scope.
        let scope = if verb == "del" { "nowhere" } else { "host" };
        let tos = (self.tos != 0).then(|| format!("0x{:02x}", self.tos));
        write!(
            f,
            " {vip} dev {link} table {table}{}{}{}{}{}{}",
            proto(self.protocol),
            Keyword("metric", (self.metric.0 != 0).then_some(self.metric)),
            Keyword("tos", tos),
            Keyword("scope", (vip.family() == Family::V4).then_some(scope)),
            Keyword("src", self.source),
            Keyword("expires", self.lifetime),
        )
    }
}

/// Runs a deletion, and accepts that it finds nothing.
const GONE: &str = r#"
gone() {
	said=$("$@" 2>&1) && return
	case $said in
	*"No such process"* | *"No such file"* | *"ddress not found"*) ;;
	*"Cannot assign requested address"*) ;;
	*) printf '%s\n' "$*: $said" >&2; return 1 ;;
	esac
}
"#;

/// Runs an addition, and accepts that the object exists.
const THERE: &str = r#"
there() {
	said=$("$@" 2>&1) && return
	case $said in
	*"File exists"* | *"already assigned"*) ;;
	*) printf '%s\n' "$*: $said" >&2; return 1 ;;
	esac
}
"#;

/// Waits up to five seconds for the kernel's route. A look-up is quicker than a dump, but a preceding
/// routing rule may answer it from another table.
const CAME: &str = r#"
nap() { sleep 0.1 2>/dev/null || sleep 1; }
has_come() {
	case $(ip -6 route get fibmatch "$1" 2>/dev/null) in
	*" dev $2 table local "*"metric 0 "*) return ;;
	esac
	case $(ip -6 route show table local exact "$1" dev "$2") in
	*"metric 0 "*) ;;
	*) return 1 ;;
	esac
}
came() {
	tries=50
	until has_come "$1" "$2"; do
		if [ "$tries" -eq 0 ]; then
			printf '%s\n' "the kernel's route to $1 has not come" >&2
			return 1
		fi
		tries=$((tries - 1))
		nap
	done
}
"#;

/// Waits for a route that may come, until every address of the plan is old.
const MAY_COME: &str = r#"
recent=27
may_come() {
	until has_come "$1" "$2" || [ "$recent" -eq 0 ]; do
		recent=$((recent - 1))
		nap
	done
}
"#;

impl Action {
    /// The function of the script that runs the action.
    fn runner(&self) -> Option<&'static str> {
        Some(match self {
            Self::DeleteAddress { .. } | Self::DeleteRoute(_) => "gone",
            Self::AddPlaceholder { .. } | Self::AppendRoute(_) => "there",
            Self::AwaitRoute { likelihood, .. } => match likelihood {
                Likelihood::Certain => "came",
                Likelihood::Possible => "may_come",
            },
            _ => return None,
        })
    }

    /// Writes the action as a command of the script.
    fn write_command(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.runner(), self) {
            // A node without IPv6 generates no IPv6 address.
            (None, Self::NoOwnAddress { .. }) => writeln!(f, "{self} 2>/dev/null || :"),
            (None, _) => writeln!(f, "{self}"),
            (Some(runner), Self::AwaitRoute { link, vip, .. }) => {
                writeln!(f, "{runner} {vip} {}", Word(link))
            }
            (Some(runner), _) => writeln!(f, "{runner} {self}"),
        }
    }
}

impl Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "#!/bin/sh\n# From what was seen of the node: run it at once, and once, or not at \
             all.\nset -eu\nexport LC_ALL=C\n",
        )?;
        let steps = self.steps.iter();
        let runners: Vec<&str> = steps.filter_map(|step| step.action.runner()).collect();
        let uses = |runner| runners.contains(&runner);
        let functions = [
            (GONE, uses("gone")),
            (THERE, uses("there")),
            (CAME, uses("came") || uses("may_come")),
            (MAY_COME, uses("may_come")),
        ];
        for (function, _) in functions.iter().filter(|(_, used)| *used) {
            f.write_str(function)?;
        }
        f.write_str("\n")?;
        for failure in &self.failures {
            writeln!(f, "# left as it is: {failure}")?;
        }
        for step in &self.steps {
            match step.vip {
                Some(vip) => writeln!(f, "# {vip}: {}", step.reason)?,
                None => writeln!(f, "# {}", step.reason)?,
            }
            step.action.write_command(f)?;
        }
        if self.is_empty() {
            f.write_str("# Nothing is to be done.\n")?;
        }
        Ok(())
    }
}
