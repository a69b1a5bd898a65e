//! Doors to the pure parts for our own benches, behind a feature that is off by default. No part
//! of the public interface: anything here may change at any time.

use std::net::IpAddr;

use crate::base::{Family, Vip};
use crate::core::{Binding, Goal, Next, Policy, Step, next};
use crate::core::{Facts, MatchContext, Phase, Rows};
use crate::netlink::batch::Batch;
use crate::netlink::decode;
use crate::netlink::dump_cache::{Addresses, Routes};
use crate::netlink::encode::{DesiredRoute, Templates};

/// Messages in a batch, as in a call.
const BATCH: usize = 256;

/// How the VIPs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As wanted.
    Clean,
    /// The kernel's own route stands beside the wanted one, or in its place.
    Broken,
}

/// The rows of a call, with nothing behind them.
#[derive(Debug)]
pub struct Pure {
    rows: Rows,
    batch: Batch,
    desired: [DesiredRoute; 2],
    templates: [Templates; 2],
    link: u32,
}

impl Pure {
    /// Rows for these VIPs, of which nothing was seen yet.
    #[must_use]
    pub fn new(link: u32, sources: [IpAddr; 2], vips: &[IpAddr]) -> Self {
        let desired = sources.map(|source| DesiredRoute {
            family: Family::of(&source),
            link,
            source: Some(source),
            kernel_source: false,
            protocol: libc::RTPROT_KERNEL,
            staged: libc::RTPROT_STATIC,
            address_protocol: None,
            deprecated: false,
        });
        let mut rows = Rows::default();
        for vip in vips {
            rows.push(Vip::from(*vip), Goal::Assign);
        }
        rows.sort();
        Self {
            rows,
            batch: Batch::default(),
            templates: [Templates::new(&desired[0]), Templates::new(&desired[1])],
            desired,
            link,
        }
    }

    /// Says what was seen of the first `count` VIPs.
    pub fn set(&mut self, count: usize, state: State) {
        for row in self.rows.iter_mut().take(count) {
            let address = Facts::ADDRESS | Facts::NO_PREFIX_ROUTE;
            let route = match (state, row.vip.family()) {
                (State::Clean, _) => Facts::DESIRED,
                (State::Broken, Family::V4) => Facts::KERNEL,
                (State::Broken, Family::V6) => Facts::DESIRED | Facts::KERNEL,
            };
            row.facts = address | route;
        }
    }

    /// Plans all rows. Returns how many steps there are to do.
    #[must_use]
    pub fn plan(&self) -> usize {
        let mut steps = 0;
        for row in self.rows.iter() {
            let policy = Policy {
                goal: row.goal,
                as_kernel: true,
                binding: Binding::Address,
                kernel_source: false,
            };
            if let Next::Steps(next) = next(row.vip.family(), row.facts, row.phase, policy) {
                steps += next.len();
            }
        }
        steps
    }

    /// Writes the messages of fresh VIPs, batch by batch. Returns how many bytes they are.
    #[must_use]
    pub fn encode(&mut self) -> usize {
        let mut bytes = 0;
        self.batch.begin(1);
        for (at, row) in (0..).zip(self.rows.iter()) {
            let templates = &self.templates[row.vip.family() as usize];
            let vip = row.vip.addr();
            let steps: [Step; 3] = match row.vip.family() {
                Family::V4 => [Step::AddAddress, Step::AppendRoute, Step::DeleteKernel],
                Family::V6 => [Step::AddAddress, Step::DeleteKernelBlind, Step::AddRoute],
            };
            for step in steps {
                if self.batch.len() == BATCH {
                    bytes += self.batch.seal().bytes().len();
                    self.batch.begin(1);
                }
                self.batch.push(at, step, |out, sequence| {
                    if let Some(template) = templates.of(step) {
                        template.push(out, sequence, &vip);
                    }
                });
            }
        }
        bytes + self.batch.seal().bytes().len()
    }

    /// Reads the datagrams of dumps into the rows. Returns how many of them are seen as wanted.
    #[must_use]
    pub fn decode<'d>(&mut self, datagrams: impl IntoIterator<Item = &'d [u8]>) -> usize {
        let context = MatchContext {
            link: self.link,
            desired: &self.desired,
            now: u32::MAX / 2,
        };
        self.rows.begin();
        let (mut addresses, mut routes) = (Addresses::default(), Routes::default());
        for datagram in datagrams {
            for message in decode::messages(datagram).map_while(Result::ok) {
                match message.kind {
                    libc::RTM_NEWADDR => {
                        if let Ok(Some(address)) = addresses.read(&message) {
                            self.rows.join_address(address, &context, None);
                        }
                    }
                    libc::RTM_NEWROUTE => {
                        if let Ok(Some(route)) = routes.read(&message) {
                            self.rows.join_route(route, &context, None);
                        }
                    }
                    _ => {}
                }
            }
        }
        self.rows.finish();
        let good = Facts::ADDRESS | Facts::NO_PREFIX_ROUTE | Facts::DESIRED;
        self.rows
            .iter()
            .filter(|row| row.facts == good && row.phase == Phase::empty())
            .count()
    }
}
