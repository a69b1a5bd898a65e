//! Doors to the pure parts for our own benches, behind a feature that is off by default. No part
//! of the public interface: anything here may change at any time.

use std::net::IpAddr;

use crate::base::{DesiredRoute, Family, PerFamily, SourcePolicy, Vip};
use crate::core::{Done, Facts, Goal, MatchContext, Next, Policy, Progress, Row, Rows};
use crate::engine::Tag;
use crate::engine::decide::{Decision, Engine, Method, Replies, Stage};
use crate::engine::send::template_of;
use crate::engine::still::{Still, acked};
use crate::netlink::batch::Batch;
use crate::netlink::decode;
use crate::netlink::dump_cache::{Addresses, Routes};
use crate::netlink::encode::Templates;

/// Messages in a batch, as in a call.
const BATCH: usize = 256;

/// How the VIPs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As desired.
    Clean,
    /// The kernel's own route stands beside the desired one, or in its place.
    Broken,
}

/// The rows of a call, with nothing behind them.
#[derive(Debug)]
pub struct Pure {
    rows: Rows,
    batch: Batch<Tag>,
    desired: PerFamily<DesiredRoute>,
    templates: PerFamily<Templates>,
    link: u32,
}

impl Pure {
    /// Rows for these VIPs, of which nothing was seen yet.
    #[must_use]
    pub fn new(link: u32, sources: [IpAddr; 2], vips: &[IpAddr]) -> Self {
        let desired = PerFamily::from_fn(|family| DesiredRoute {
            family,
            link,
            source: SourcePolicy::Address(sources[family as usize]),
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
            templates: PerFamily::from_fn(|family| Templates::new(&desired[family])),
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
        let engine = self.engine();
        let steps = self.rows.iter().map(|row| match engine.next(row) {
            Next::Steps(steps) => steps.len(),
            _ => 0,
        });
        steps.sum()
    }

    /// Plans VIPs that are new to the link, and writes the messages of a call for them, batch by
    /// batch, as if the kernel acked each. Returns how many bytes they are.
    #[must_use]
    pub fn encode(&mut self) -> usize {
        let mut engine = self.engine();
        for row in self.rows.iter_mut() {
            *row = Row::new(row.vip, row.goal);
            row.progress.done |= Done::WAS_ABSENT;
        }
        engine.observed(self.rows.iter_mut());
        let mut bytes = 0;
        while let Stage::Plan(_) = engine.stage() {
            self.batch.begin(1);
            for at in 0..u32::try_from(self.rows.len()).unwrap_or(u32::MAX) {
                while self.encode_steps(&mut engine, at, &mut bytes) {}
            }
            bytes += self.batch.seal().bytes().len();
            engine.end_round(self.rows.as_slice(), false, &Still::default());
        }
        bytes
    }

    /// Encodes the next steps of a row. Returns whether the row goes on from their acks.
    fn encode_steps(&mut self, engine: &mut Engine, at: u32, bytes: &mut usize) -> bool {
        let Some(row) = self.rows.get_mut(at) else {
            return false;
        };
        let Decision::Steps(steps) = engine.plan(row, &Still::default()) else {
            return false;
        };
        let templates = &self.templates[row.vip.family()];
        let vip = row.vip.addr();
        let mut goes_on = false;
        for step in steps.iter().copied() {
            if self.batch.len() == BATCH {
                *bytes += self.batch.seal().bytes().len();
                self.batch.begin(1);
            }
            row.note_sent(step);
            self.batch.push(Tag { row: at, step }, |out, sequence| {
                if let Some(template) = template_of(templates, step) {
                    template.push(out, sequence, &vip);
                }
            });
            let reply = acked(step);
            engine.replied(row, reply, Replies::Complete);
            goes_on |= engine.goes_on(row, reply, Replies::Complete);
        }
        goes_on && row.trust_ack()
    }

    fn engine(&self) -> Engine {
        Engine::new(PerFamily::splat(Policy::ASSIGN), Method::Dumps)
    }

    /// Reads the datagrams of dumps into the rows. Returns how many of them are seen as desired.
    #[must_use]
    pub fn decode<'d>(&mut self, datagrams: impl IntoIterator<Item = &'d [u8]>) -> usize {
        let context = MatchContext {
            link: self.link,
            desired: &self.desired,
            now: u32::MAX / 2,
            keeps_flags: false,
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
            .filter(|row| row.facts == good && row.progress == Progress::default())
            .count()
    }
}
