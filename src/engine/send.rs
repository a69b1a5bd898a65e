//! Sending: steps become messages, and the replies update the rows.

use std::net::IpAddr;

use super::decide::{Decision, Replies, Reply};
use super::lookup::{LOOKUP_MAX, Notified};
use super::{Buffers, Call, Stop, Tag};
use crate::base::{Family, PerFamily, Vip};
use crate::core::{Binding, Cause, Done, Facts, Refusal, Row, Rows, Step};
use crate::link::{self, LinkIndex, LinkRef, trouble};
use crate::netlink::batch::Refused;
use crate::netlink::connection::{Dumped, Groups};
use crate::netlink::encode::{Template, Templates};
use crate::outcome::Error;
use crate::trace::{self, Lost};

/// The most messages in one send. The cost of a message is flat from 32 upward; a longer batch only
/// delays a cancellation.
pub(super) const BATCH: usize = 256;

/// The most messages in one send of address deletions that precede their routes. For each IPv6 address the kernel
/// searches all routes that are left (`rt6_remove_prefsrc`, net/ipv6/route.c).
const GUARDED_BATCH: usize = 64;

impl Call<'_> {
    /// Plans one row and queues its messages. Returns whether the row waits.
    pub(super) fn advance(&mut self, at: u32) -> Result<bool, Stop> {
        let Some(row) = self.buffers.rows.get_mut(at) else {
            return Ok(false);
        };
        let steps = match self.engine.plan(row, &self.clock) {
            Decision::Nothing => return Ok(false),
            Decision::Wait => return Ok(true),
            Decision::Fail(cause) => {
                self.buffers.failed.push((at, cause));
                return Ok(false);
            }
            Decision::Exhausted => {
                // The kernel keeps refusing the steps, or another writer keeps undoing them.
                let mut refusals = self.buffers.refusals.iter();
                let refused = refusals.any(|refusal| refusal.tag.row == at);
                let cause = if refused {
                    Cause::Kernel
                } else {
                    Cause::Contended
                };
                self.buffers.failed.push((at, cause));
                return Ok(false);
            }
            Decision::Steps(steps) => steps,
        };
        for step in steps {
            if matches!(step, Step::DeleteAddress | Step::UpdateAddress) {
                self.buffers.deferred.push((at, *step));
            } else {
                self.queue(at, *step)?;
            }
        }
        Ok(false)
    }

    /// Queues the address deletions and updates, behind all routes, in the order with the shortest
    /// walks in the kernel. IPv6 searches each address from the head of the list. IPv4 walks the list
    /// behind each address more than once (`__inet_del_ifa`, net/ipv4/devinet.c), so start at the
    /// tail. Returns whether a row waits that goes on in between.
    pub(super) fn queue_deferred(&mut self, are_many: &mut bool) -> Result<bool, Stop> {
        let mut waits = false;
        if self.buffers.deferred.is_empty() {
            return Ok(waits);
        }
        if self.binding == Binding::Route {
            self.keep_an_address()?;
        }
        let Buffers { rows, deferred, .. } = &mut *self.buffers;
        deferred.sort_unstable_by_key(|(at, _)| {
            rows.get(*at).map(|row| match row.vip.family() {
                Family::V4 => u32::MAX - row.order,
                Family::V6 => row.order,
            })
        });
        for place in 0.. {
            let Some((at, step)) = self.buffers.deferred.get(place).copied() else {
                break;
            };
            let is_first = |row: &Row| row.progress.releases_address_first(row.facts);
            let is_guarded = self.buffers.rows.get(at).is_some_and(is_first);
            self.queue(at, step)?;
            if is_guarded && self.buffers.batch.len() >= GUARDED_BATCH {
                self.flush()?;
            }
            waits |= self.go_on_if_due(are_many)?;
        }
        self.buffers.deferred.clear();
        Ok(waits)
    }

    /// Keeps an IPv4 address on the link. With the link's last IPv4 address, the kernel deletes every
    /// IPv4 route through the link (`fib_disable_ip`, net/ipv4/fib_frontend.c).
    fn keep_an_address(&mut self) -> Result<(), Stop> {
        let Buffers { rows, deferred, .. } = &*self.buffers;
        let is_v4 = |row: &Row| row.vip.family() == Family::V4;
        if !deferred
            .iter()
            .any(|(at, _)| rows.get(*at).is_some_and(is_v4))
        {
            return Ok(());
        }
        if self.lookup.is_some() {
            // Look-ups do not show the link's other addresses.
            self.observer(None).dump_addresses(Family::V4)?;
        }
        if self.buffers.rows.unmanaged_v4() == 0 {
            link::placeholder(self.connection, self.link).map_err(Stop::Error)?;
        }
        Ok(())
    }

    /// Adds the messages of one step to the batch.
    fn queue(&mut self, at: u32, step: Step) -> Result<(), Stop> {
        match step {
            Step::DeleteOthers => return self.queue_others(at),
            Step::UpdateAddress => {
                let nth = |rows: &Rows, vip, place| {
                    let expiring = rows.address_attrs(vip).filter(|attrs| attrs.expires);
                    expiring.copied().nth(place)
                };
                return self.queue_each(at, step, nth, Templates::push_update_address);
            }
            Step::AddAddress | Step::DeleteAddress | Step::RenewAddress => {
                self.prepare_address(at, step)?;
                let has_peer = |row: &Row| row.facts.contains(Facts::PEER);
                if step == Step::DeleteAddress && self.buffers.rows.get(at).is_some_and(has_peer) {
                    return self.queue_each(
                        at,
                        step,
                        Rows::nth_peer,
                        Templates::push_delete_address,
                    );
                }
            }
            _ => {}
        }
        self.push(at, step, |templates, vip, out, sequence| {
            if let Some(template) = template_of(templates, step) {
                template.push(out, sequence, vip);
            }
        })
    }

    fn queue_others(&mut self, at: u32) -> Result<(), Stop> {
        let write = Templates::push_delete_route;
        self.queue_each(at, Step::DeleteOthers, Rows::nth_other, write)?;
        if let Some(vip) = self.buffers.rows.get(at).map(|row| row.vip) {
            self.outdate_notified(vip, |notified| notified.routes.clear());
        }
        Ok(())
    }

    /// Adds one message for each route or address that was discovered beside a row, usually one.
    fn queue_each<T: Copy>(
        &mut self,
        at: u32,
        step: Step,
        nth: impl Fn(&Rows, Vip, usize) -> Option<T>,
        write: impl Fn(&Templates, &mut Vec<u8>, u32, &IpAddr, &T),
    ) -> Result<(), Stop> {
        let Some(vip) = self.buffers.rows.get(at).map(|row| row.vip) else {
            return Ok(());
        };
        for place in 0.. {
            let Some(what) = nth(&self.buffers.rows, vip, place) else {
                break;
            };
            self.push(at, step, |templates, vip, out, sequence| {
                write(templates, out, sequence, vip, &what);
            })?;
        }
        Ok(())
    }

    /// Prepares the notifications before an address is added or deleted.
    fn prepare_address(&mut self, at: u32, step: Step) -> Result<(), Stop> {
        let rows = &self.buffers.rows;
        if step == Step::AddAddress && rows.len() <= LOOKUP_MAX && rows.has(Family::V6) {
            // Another manager may delete the kernel's route before the next observation. Then only a
            // notification shows that the route came. For many VIPs, listening would cost more than the
            // rest of the call; a VIP without a notification waits for quiet instead (`quiet_for`).
            let groups = self.connection.groups();
            self.connection.listen_to(groups | Groups::V6_ROUTES)?;
        }
        if self.lookup.is_some()
            && let Some(vip) = rows.get(at).map(|row| row.vip)
        {
            self.outdate_notified(vip, |notified| notified.address = None);
        }
        Ok(())
    }

    /// Drops what notifications reported of this VIP: the call's own write outdates it.
    fn outdate_notified(&mut self, vip: Vip, outdate: impl Fn(&mut Notified)) {
        for (of, notified) in self
            .lookup
            .iter_mut()
            .flat_map(|lookup| &mut lookup.all_notified)
        {
            if *of == vip {
                outdate(notified);
            }
        }
    }

    /// Adds one message to the batch. Sends a full batch first.
    fn push(
        &mut self,
        at: u32,
        step: Step,
        write: impl FnOnce(&Templates, &IpAddr, &mut Vec<u8>, u32),
    ) -> Result<(), Stop> {
        if self.buffers.batch.len() >= self.send_capacity() {
            self.flush()?;
        }
        if self.buffers.batch.len() == 0 {
            self.buffers.batch.begin(self.connection.sequence());
        }
        let Some(row) = self.buffers.rows.get_mut(at) else {
            return Ok(());
        };
        if !row.progress.has(Done::WRITTEN) {
            row.before = row.facts;
        }
        let repeats = row.note_sent(step);
        self.report.retries += u64::from(repeats);
        trace::retry(repeats, row.vip, step.operation());
        let vip = row.vip.addr();
        let templates = &self.templates[row.vip.family()];
        let tag = Tag { row: at, step };
        self.buffers
            .batch
            .push(tag, |out, sequence| write(templates, &vip, out, sequence));
        Ok(())
    }

    /// Sends the batch and takes its replies.
    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        if self.buffers.batch.len() == 0 {
            return Ok(());
        }
        self.send()?;
        self.check_time()
    }

    fn send(&mut self) -> Result<(), Stop> {
        let Buffers {
            rows,
            batch,
            refusals,
            texts,
            acked,
            ..
        } = &mut *self.buffers;
        let from = refusals.len();
        let count = batch.len();
        let mut sealed = batch.seal();
        let exchanged = self.connection.exchange(&mut sealed, |refused| {
            if (refused.tag.step, refused.errno) == (Step::DeleteKernelBlind, libc::ESRCH) {
                // The late route has not come yet, which is no failure. Each of many VIPs may have this refusal.
                return;
            }
            if let Some(text) = refused.text {
                texts.push((refusals.len(), text.into()));
            }
            refusals.push(Refused {
                text: None,
                ..refused
            });
        });
        self.report.writes += count as u64;
        self.clock.note_progress();
        let replies = match exchanged {
            Ok(Dumped::Complete) => Replies::Complete,
            Ok(Dumped::Interrupted) => {
                trace::lost(Lost::Replies);
                Replies::Lost
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM)) => {
                trace::lost(Lost::Requests);
                Replies::NotSent
            }
            Err(error) => return Err(error.into()),
        };
        for entry in sealed.entries() {
            if let Some(row) = rows.get_mut(entry.tag.row) {
                let reply = Reply {
                    step: entry.tag.step,
                    response: entry.response,
                };
                self.engine.replied(row, reply, replies);
                if self.engine.goes_on(row, reply, replies) {
                    acked.push(entry.tag.row, row.vip.family(), reply);
                }
            }
        }
        batch.begin(0);
        self.note_deletions()?;
        self.judge_refusals(from, count)
    }

    /// Deletes the routes that this call added to VIPs without an address. The call ends before their
    /// addresses. The route to an address that another writer has added stays.
    pub(super) fn roll_back(&mut self) -> Result<(), Stop> {
        if !self.buffers.rows.iter().any(Row::may_have_orphan_route) {
            return Ok(());
        }
        self.buffers.batch.begin(0);
        self.switch_to_dumps();
        self.observe(None)?;
        for at in self.indices() {
            let row = self.buffers.rows.get_mut(at);
            if !row.is_some_and(Row::take_orphan_route) {
                continue;
            }
            if self.buffers.batch.len() >= self.send_capacity() {
                // Neither the deadline nor a further cancellation counts.
                self.send()?;
            }
            self.queue(at, Step::DeleteDesired)?;
        }
        if self.buffers.batch.len() > 0 {
            self.send()?;
        }
        Ok(())
    }

    /// The most messages in the next send.
    pub(super) fn send_capacity(&self) -> usize {
        BATCH.min(self.connection.reply_capacity())
    }

    /// Judges the refusals from index `from` on, of a batch of `sent` messages.
    fn judge_refusals(&mut self, from: usize, sent: usize) -> Result<(), Stop> {
        let of_link = |errno| matches!(errno, libc::ENODEV | libc::ENETDOWN);
        let refused = &self.buffers.refusals[from..];
        // Without the privilege the kernel refuses every message (`rtnetlink_rcv_msg`,
        // net/core/rtnetlink.c).
        if refused.len() == sent && refused.iter().all(|refused| refused.errno == libc::EPERM) {
            return Err(Stop::Error(Error::kernel(
                "cannot change addresses and routes",
                libc::EPERM,
                None,
            )));
        }
        // Any other refusal concerns one message.
        let is_lasting = |refused: &&Refused<'_, Tag>| {
            of_link(refused.errno) || refused.tag.step.refused(refused.errno) == Refusal::Final
        };
        let mut suspected = PerFamily::splat(false);
        for refused in refused.iter().filter(is_lasting) {
            if let Some(row) = self.buffers.rows.get(refused.tag.row) {
                suspected[row.vip.family()] = true;
            }
        }
        let is_link_there = !suspected.any() || self.fail_families_with_trouble(suspected)?;
        for place in from..self.buffers.refusals.len() {
            let Refused {
                tag: Tag { row, step },
                errno,
                ..
            } = self.buffers.refusals[place];
            match step.refused(errno) {
                // The link has recovered, or the family has failed already.
                _ if of_link(errno) && is_link_there => self.switch_to_dumps(),
                Refusal::Final => self.fail(row, Cause::Kernel),
                // The look-ups missed a fact: observe by dumps.
                Refusal::LookAgain => self.switch_to_dumps(),
            }
        }
        if is_link_there {
            Ok(())
        } else {
            Err(Stop::link_gone())
        }
    }

    /// Checks these families for a fault of the whole family, and fails its VIPs. IPv6 answers ENODEV,
    /// EINVAL or EACCES when only its own state of the link is gone (`addrconf_ifdown`,
    /// `ipv6_add_dev`, net/ipv6/addrconf.c). Returns whether the link exists.
    fn fail_families_with_trouble(&mut self, families: PerFamily<bool>) -> Result<bool, Stop> {
        let Some(index) = LinkIndex::new(self.link) else {
            return Ok(false);
        };
        let found = link::find(self.connection, &LinkRef::Index(index)).map_err(Stop::Error)?;
        let Some(link) = found else {
            return Ok(false);
        };
        for family in Family::ALL.into_iter().filter(|f| families[*f]) {
            let source = self.desired[family].source.address();
            let found = trouble::of_family(self.connection, family, Some(&link), false, source);
            let Some(trouble) = found.map_err(Stop::Error)? else {
                continue;
            };
            let cause = Cause::Missing(trouble.kind);
            self.buffers.troubles[family] = Some(trouble);
            for at in self.indices() {
                let row = self.buffers.rows.get(at);
                if row.is_some_and(|row| row.needs_source(family)) {
                    self.fail(at, cause);
                }
            }
        }
        Ok(true)
    }

    pub(super) fn fail(&mut self, at: u32, cause: Cause) {
        if let Some(row) = self.buffers.rows.get_mut(at)
            && !row.has_failed()
        {
            row.progress.done |= Done::FAILED;
            self.buffers.failed.push((at, cause));
        }
    }
}

/// The template of a step's message, if every VIP has the same one.
pub(crate) fn template_of(templates: &Templates, step: Step) -> Option<&Template> {
    Some(match step {
        Step::AddAddress => &templates.add_address,
        Step::DeleteAddress | Step::RenewAddress => &templates.delete_address,
        Step::AddRoute => &templates.add_route,
        Step::AddStaged => &templates.add_staged,
        Step::ReplaceRoute => &templates.replace_route,
        Step::ReplaceStaged => &templates.replace_staged,
        Step::AppendRoute => &templates.append_route,
        Step::DeleteDesired => &templates.delete_desired,
        Step::DeleteKernel => &templates.delete_kernel,
        Step::DeleteKernelBlind => &templates.delete_kernel_blind,
        Step::UpdateAddress | Step::DeleteOthers => return None,
    })
}
