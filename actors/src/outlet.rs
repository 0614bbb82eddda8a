//! From the shard into an application's mailbox, with what happens when that is full.

use actix::dev::ToEnvelope;
use actix::prelude::SendError;
use actix::{Actor, Addr, Handler, Message, Recipient};
use virtroupe_wire::DropReason;

/// A message that carries packets.
pub(crate) trait Packets: Message<Result = ()> + Send {
    /// How many.
    fn packets(&self) -> u64;
}

/// One receiver and the message that its mailbox had no room for.
///
/// A full mailbox does not drop at once: the message is *parked*, and while anything is parked
/// the queue is not harvested, so that the ring, and behind it the sender, bear the pressure. A
/// receiver that stays full for longer than the patience of its shard loses the message, and is
/// *slow* until it takes one again: a slow receiver is not waited for.
pub(crate) struct Outlet<M: Packets> {
    recipient: Recipient<M>,
    parked: Option<M>,
    slow: bool,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It is in the mailbox.
    Delivered,
    /// The mailbox is full; the message waits here.
    Parked,
    /// It was dropped, with so many packets.
    Dropped(DropReason, u64),
}

impl<M: Packets> Outlet<M> {
    pub(crate) fn new(recipient: Recipient<M>) -> Self {
        Outlet {
            recipient,
            parked: None,
            slow: false,
        }
    }

    /// Whether a message waits.
    pub(crate) fn is_parked(&self) -> bool {
        self.parked.is_some()
    }

    /// Packets in the message that waits.
    pub(crate) fn parked_packets(&self) -> u64 {
        self.parked.as_ref().map_or(0, Packets::packets)
    }

    /// Sends a message. Nothing may be parked.
    pub(crate) fn offer(&mut self, message: M) -> Offer {
        debug_assert!(self.parked.is_none());
        match self.recipient.try_send(message) {
            Ok(()) => {
                self.slow = false;
                Offer::Delivered
            }
            Err(SendError::Full(message)) if self.slow => {
                Offer::Dropped(DropReason::MailboxFull, message.packets())
            }
            Err(SendError::Full(message)) => {
                self.parked = Some(message);
                Offer::Parked
            }
            Err(SendError::Closed(message)) => {
                Offer::Dropped(DropReason::ReceiverGone, message.packets())
            }
        }
    }

    /// Sends the parked message again, if there is one.
    pub(crate) fn retry(&mut self) -> Offer {
        match self.parked.take() {
            Some(message) => self.offer(message),
            None => Offer::Delivered,
        }
    }

    /// Gives up waiting. Returns how many packets are lost.
    pub(crate) fn give_up(&mut self) -> u64 {
        self.slow = true;
        self.parked.take().map_or(0, |message| message.packets())
    }
}

/// Turns the address of an actor into what a socket delivers to.
///
/// Besides [`Recipient`]s, every [`Addr`] of an actor that handles the message will do.
pub trait IntoRecipient<M: Message<Result: Send> + Send> {
    /// The recipient.
    fn into_recipient(self) -> Recipient<M>;
}

impl<M: Message<Result: Send> + Send> IntoRecipient<M> for Recipient<M> {
    fn into_recipient(self) -> Recipient<M> {
        self
    }
}

impl<A, M> IntoRecipient<M> for Addr<A>
where
    A: Actor + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message<Result: Send> + Send + 'static,
{
    fn into_recipient(self) -> Recipient<M> {
        self.recipient()
    }
}
