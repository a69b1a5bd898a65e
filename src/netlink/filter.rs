//! Which notifications a socket receives: filters that the kernel runs before it queues a message
//! (classic BPF, Documentation/networking/filter.rst). Filtered messages do not fill the receive buffer
//! (`do_one_broadcast`, net/netlink/af_netlink.c), and cost this process nothing.
//!
//! A filter also drops replies, so the program for notifications passes every other kind of message.

use std::net::IpAddr;

use libc::sock_filter;

use super::encode::{HEADER, IFADDRMSG, RTMSG};
use crate::base::{Family, PerFamily, TABLE_LOCAL, TABLE_MAIN};

/// Which notifications matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interest {
    /// The link that holds the VIPs. `None`: it is unknown, so every link matters.
    pub(crate) link: Option<u32>,
    pub(crate) elsewhere: Elsewhere,
}

/// The addresses of other links that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    All,
    /// The sources.
    Only(PerFamily<Option<IpAddr>>),
}

/// The return values of a program: how many bytes of the message to pass.
const WHOLE: u32 = u32::MAX;
const NOTHING: u32 = 0;
/// Up to and with `ifi_index`.
const LINK_HEADER: u32 = 24;

/// The offsets of nlmsg_type, of the first byte after the header, and of ifi_index, ifa_index and
/// rtm_table (linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h).
const KIND: u32 = 4;
const FAMILY: u32 = 16;
const INDEX: u32 = 20;
const TABLE: u32 = 20;

const ADDRESS_ATTRIBUTES: u32 = offset(HEADER + IFADDRMSG);
const ROUTE_ATTRIBUTES: u32 = offset(HEADER + RTMSG);

/// fe80::/10 (RFC 4291): the first word of an address, and the mask of the prefix.
const LINK_LOCAL: (u32, u32) = (0xfe80_0000, 0xffc0_0000);

/// Passes only the deletion of the link with this index, or its move to another namespace.
///
/// The RTM_DELLINK of a port that leaves its bridge has family AF_BRIDGE and the port's index.
pub(crate) fn deletion_of(link: u32) -> Vec<sock_filter> {
    let mut program = Program::default();
    program.rule(
        &[
            Condition::kind(libc::RTM_DELLINK),
            Condition::byte(FAMILY, libc::AF_UNSPEC.unsigned_abs()),
            Condition::index(link),
        ],
        LINK_HEADER,
    );
    program.end(NOTHING)
}

/// Passes only the deletions of addresses.
pub(crate) fn deletions_of_addresses() -> Vec<sock_filter> {
    let mut program = Program::default();
    program.rule(&[Condition::kind(libc::RTM_DELADDR)], WHOLE);
    program.end(NOTHING)
}

/// Passes the notifications of routes in these tables, and all other messages.
pub(crate) fn routes_of(tables: &[u32]) -> Vec<sock_filter> {
    let mut program = Program::default();
    let route = pair(libc::RTM_NEWROUTE);
    for table in tables {
        program.rule(&[route, Condition::byte(TABLE, *table)], WHOLE);
    }
    program.rule(&[route], NOTHING);
    program.end(WHOLE)
}

/// Passes the notifications that matter:
///
/// * of routes to single hosts: those in table local, of any device, for they may be conflicts; and in
///   table main those of the link, and those without a device (an IPv4 route with several next hops or of
///   type blackhole has none). A link-local address is no VIP, but every link has one, so its routes do
///   not pass.
/// * of addresses: those of the link, and the sources on any link.
/// * of links: those of the link.
pub(crate) fn notifications(interest: &Interest) -> Vec<sock_filter> {
    let mut program = Program::default();
    pass_routes(&mut program, interest);
    pass_addresses(&mut program, interest);
    let link = pair(libc::RTM_NEWLINK);
    let itself = Condition::byte(FAMILY, libc::AF_UNSPEC.unsigned_abs());
    program.rule_of_link(&[link, itself], Condition::index, interest.link);
    program.rule(&[link], NOTHING);
    program.end(WHOLE)
}

fn pass_routes(program: &mut Program, interest: &Interest) {
    let route = pair(libc::RTM_NEWROUTE);
    let attribute = |kind| Attribute {
        from: ROUTE_ATTRIBUTES,
        kind,
    };
    let device = attribute(libc::RTA_OIF);
    for family in Family::ALL {
        let host = Condition::host(family);
        if family == Family::V6 {
            let (word, mask) = LINK_LOCAL;
            let link_local = attribute(libc::RTA_DST).word(0, mask, word);
            program.rule(&[route, host, link_local], NOTHING);
        }
        let in_table = |table| Condition::byte(TABLE, table);
        program.rule(&[route, host, in_table(TABLE_LOCAL)], WHOLE);
        let in_main = [route, host, in_table(TABLE_MAIN)];
        let through = |link| device.word(0, u32::MAX, swapped(link));
        program.rule_of_link(&in_main, through, interest.link);
        let [route, host, main] = in_main;
        program.rule(&[route, host, main, Condition::Lacks(device)], WHOLE);
    }
    program.rule(&[route], NOTHING);
}

fn pass_addresses(program: &mut Program, interest: &Interest) {
    let address = pair(libc::RTM_NEWADDR);
    match interest.elsewhere {
        Elsewhere::All => program.rule(&[address], WHOLE),
        Elsewhere::Only(sources) => {
            program.rule_of_link(&[address], Condition::index, interest.link);
            for source in sources.iter().flatten() {
                for kind in [libc::IFA_LOCAL, libc::IFA_ADDRESS] {
                    let from = ADDRESS_ATTRIBUTES;
                    let mut rule = vec![address, Condition::family(Family::of(source))];
                    rule.extend(Attribute { from, kind }.equals(source));
                    program.rule(&rule, WHOLE);
                }
            }
        }
    }
    program.rule(&[address], NOTHING);
}

/// An attribute of the messages whose attributes begin at `from`.
#[derive(Clone, Copy)]
struct Attribute {
    from: u32,
    kind: u16,
}

impl Attribute {
    /// A word of its value, by the word's place.
    fn word(self, place: u32, mask: u32, value: u32) -> Condition {
        Condition::Word {
            of: self,
            at: 4 + 4 * place,
            mask,
            value,
        }
    }

    /// Its value is this address.
    fn equals(self, addr: &IpAddr) -> impl Iterator<Item = Condition> {
        let octets = match addr {
            IpAddr::V4(addr) => addr.octets().to_vec(),
            IpAddr::V6(addr) => addr.octets().to_vec(),
        };
        let words: Vec<u32> = octets
            .chunks_exact(4)
            .filter_map(|word| word.try_into().ok().map(u32::from_be_bytes))
            .collect();
        (0..)
            .zip(words)
            .map(move |(place, word)| self.word(place, u32::MAX, word))
    }
}

/// A condition of a rule. Loads are big-endian.
#[derive(Clone, Copy)]
enum Condition {
    /// What is loaded at an offset is, under a mask, this value.
    Loaded {
        size: u32,
        at: u32,
        mask: u32,
        value: u32,
    },
    /// The message has no such attribute.
    Lacks(Attribute),
    /// The message has the attribute, and a word of the attribute is, under a mask, this value.
    Word {
        of: Attribute,
        at: u32,
        mask: u32,
        value: u32,
    },
}

impl Condition {
    /// All bits of what stands at an offset.
    fn loaded(size: u32, at: u32, value: u32) -> Self {
        Self::Loaded {
            size,
            at,
            mask: u32::MAX,
            value,
        }
    }

    /// The type of the message.
    fn kind(kind: u16) -> Self {
        Self::loaded(libc::BPF_H, KIND, swapped_half(kind))
    }

    fn byte(at: u32, value: u32) -> Self {
        Self::loaded(libc::BPF_B, at, value)
    }

    fn family(family: Family) -> Self {
        Self::byte(FAMILY, u32::from(number(family)))
    }

    /// The index of a message of a link or of an address.
    fn index(link: u32) -> Self {
        Self::loaded(libc::BPF_W, INDEX, swapped(link))
    }

    /// The destination of a route of this family is a single host (rtm_family, rtm_dst_len).
    fn host(family: Family) -> Self {
        let value = u16::from_be_bytes([number(family), family.host_bits()]);
        Self::loaded(libc::BPF_H, FAMILY, value.into())
    }

    /// Appends its instructions. Where it does not hold, they jump by [`FAIL`].
    fn append(self, to: &mut Vec<sock_filter>) {
        let (mask, value) = match self {
            Self::Lacks(attribute) => {
                attribute.find(to);
                to.push(jump(0, 0, FAIL));
                return;
            }
            Self::Loaded {
                size,
                at,
                mask,
                value,
            } => {
                to.push(instruction(libc::BPF_LD | size | libc::BPF_ABS, at));
                (mask, value)
            }
            Self::Word {
                of,
                at,
                mask,
                value,
            } => {
                of.find(to);
                to.push(jump(0, FAIL, 0));
                to.push(instruction(libc::BPF_MISC | libc::BPF_TAX, 0));
                to.push(instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, at));
                (mask, value)
            }
        };
        if mask != u32::MAX {
            let and = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
            to.push(instruction(and, mask));
        }
        to.push(jump(value, 0, FAIL));
    }
}

impl Attribute {
    /// Loads the attribute's offset, or 0 where the message has none (SKF_AD_NLATTR).
    fn find(self, to: &mut Vec<sock_filter>) {
        let extension = (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR).cast_unsigned();
        to.extend([
            instruction(libc::BPF_LD | libc::BPF_IMM, self.from),
            instruction(libc::BPF_LDX | libc::BPF_IMM, self.kind.into()),
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, extension),
        ]);
    }
}

/// A jump out of the rule. No rule is as long as this.
const FAIL: u8 = u8::MAX;

/// A program: rules, of which the first that holds decides.
#[derive(Default)]
struct Program(Vec<sock_filter>);

impl Program {
    /// If all conditions hold, the program returns `verdict`.
    fn rule(&mut self, conditions: &[Condition], verdict: u32) {
        let mut rule = Vec::new();
        for condition in conditions {
            condition.append(&mut rule);
        }
        rule.push(returns(verdict));
        for (left, jump) in (0..).zip(rule.iter_mut().rev()) {
            for distance in [&mut jump.jt, &mut jump.jf] {
                if *distance == FAIL {
                    *distance = left;
                }
            }
        }
        self.0.append(&mut rule);
    }

    /// A rule with one more condition on the link, if the link is known.
    fn rule_of_link(
        &mut self,
        conditions: &[Condition],
        on: impl Fn(u32) -> Condition,
        link: Option<u32>,
    ) {
        let mut rule = conditions.to_vec();
        rule.extend(link.map(on));
        self.rule(&rule, WHOLE);
    }

    /// What the program returns where no rule holds.
    fn end(mut self, verdict: u32) -> Vec<sock_filter> {
        self.0.push(returns(verdict));
        self.0
    }
}

/// A kind of object: the type of the notification that it is new, and of its deletion, which is one more.
fn pair(new: u16) -> Condition {
    Condition::Loaded {
        size: libc::BPF_H,
        at: KIND,
        mask: swapped_half(!1),
        value: swapped_half(new),
    }
}

fn number(family: Family) -> u8 {
    let number = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    u8::try_from(number).unwrap_or_default()
}

/// A number of the machine's byte order, as a big-endian load reads it.
fn swapped(number: u32) -> u32 {
    u32::from_be_bytes(number.to_ne_bytes())
}

fn swapped_half(number: u16) -> u32 {
    u32::from(u16::from_be_bytes(number.to_ne_bytes()))
}

#[allow(clippy::cast_possible_truncation)]
const fn offset(bytes: usize) -> u32 {
    bytes as u32
}

/// An instruction without a jump (linux/filter.h).
fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter {
        // The codes have 8 bits.
        code: u16::try_from(code).unwrap_or_default(),
        jt: 0,
        jf: 0,
        k,
    }
}

/// Compares what is loaded with `k`, and skips `jt` instructions if it is equal, else `jf`.
fn jump(k: u32, jt: u8, jf: u8) -> sock_filter {
    let code = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    sock_filter {
        jt,
        jf,
        ..instruction(code, k)
    }
}

fn returns(bytes: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, bytes)
}
