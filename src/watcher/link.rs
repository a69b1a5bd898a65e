//! The link that a watcher follows.

use crate::link::{LinkIndex, LinkRef};
use crate::netlink::decode::{self, Link, Message};
use crate::netlink::filter::{Elsewhere, Interest};
use crate::netlink::lifetime::Lifetime;

use super::Event;

/// The link that is followed.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) which: LinkRef,
    /// Where it is given by its index.
    pub(super) lifetime: Option<Lifetime>,
    /// Its index while it is there.
    pub(super) link: Option<u32>,
}

impl Followed {
    /// The notifications that matter to a watcher. By an index, the link is always known.
    pub(super) fn interest(&self) -> Interest {
        self.interest_in(self.link)
    }

    /// The same with this link, `None`: every link.
    pub(super) fn interest_in(&self, link: Option<u32>) -> Interest {
        Interest {
            link: match &self.which {
                LinkRef::Name(_) => link,
                LinkRef::Index(index) => Some(index.get()),
            },
            // An address of any link is an event.
            elsewhere: Elsewhere::All,
        }
    }

    /// Whether it is this link.
    fn is(&mut self, seen: &Link<'_>) -> bool {
        match &self.which {
            LinkRef::Name(name) => seen.is_called(name),
            LinkRef::Index(index) => {
                seen.index == index.get()
                    && !self.lifetime.as_mut().is_some_and(Lifetime::has_ended)
            }
        }
    }

    /// Takes note of what a notification says of a link.
    pub(super) fn tell(&mut self, new: bool, seen: &Link<'_>) -> Option<Event> {
        if new && self.is(seen) {
            self.link = Some(seen.index);
            return state_of(seen);
        }
        // Gone, or our index is another link's or under another name now.
        let gone = self.link.take_if(|link| *link == seen.index);
        gone.map(|_| Event::LinkGone)
    }
}

/// Whether the followed link is still the manager's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Belief {
    /// It is, unless a notification says otherwise.
    Sure,
    /// Notifications were lost. With them, perhaps a change of the link.
    Lost,
    /// The kernel was asked for the link, and has not answered yet.
    Asked,
}

/// What the answer says to the question which link it is now, as an event where it is another one.
pub(super) fn answer(
    message: &Message<'_>,
    followed: &mut Followed,
    belief: &mut Belief,
) -> Result<Option<Event>, decode::Malformed> {
    if *belief == Belief::Asked {
        *belief = Belief::Sure;
    }
    if message.kind == libc::RTM_NEWLINK {
        let seen = message.link()?;
        if !followed.is(&seen) {
            return Ok(followed.link.take().map(|_| Event::LinkGone));
        }
        if followed.link == Some(seen.index) {
            return Ok(None);
        }
        followed.link = Some(seen.index);
        return Ok(state_of(&seen));
    }
    if message.kind != decode::NLMSG_ERROR {
        return Ok(None);
    }
    if message.ack()?.errno == libc::ENODEV {
        return Ok(followed.link.take().map(|_| Event::LinkGone));
    }
    // It says nothing of the link.
    *belief = Belief::Lost;
    Ok(None)
}

/// The event of a link that is there.
fn state_of(seen: &Link<'_>) -> Option<Event> {
    let up = seen.flags & libc::IFF_UP.unsigned_abs() != 0;
    let event = if up { Event::LinkUp } else { Event::LinkDown };
    // The kernel's are all valid.
    LinkIndex::new(seen.index).map(event)
}
