//! The listener.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use virtroupe_wire::tcp::{ConnectionId, ListenerId};

use super::halves::Connection;
use super::messages::TcpAccepted;
use super::stream::TcpStream;
use crate::outlet::IntoRecipient;
use crate::shard::{Place, ShardCell};

/// Waits for connections at an address, on its own cpu. Dropping it closes it: connections that
/// were not accepted are reset, those that were are not touched.
///
/// There are three ways to get the connections, of which one is used: [`accept`](Self::accept); the
/// listener as a [`Stream`], which an actor on this arbiter adds to its context
/// (`ctx.add_stream(listener)`) to get each connection as a message; and
/// [`deliver_to`](Self::deliver_to), for actors anywhere.
pub struct TcpListener {
    shard: ShardCell,
    id: ListenerId,
}

impl TcpListener {
    pub(crate) fn new(shard: ShardCell, id: ListenerId) -> Self {
        TcpListener { shard, id }
    }

    /// The name of the listener in [`TcpAccepted`].
    pub fn id(&self) -> ListenerId {
        self.id
    }

    /// The address that it listens at; `None` when the stack has closed it.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.shard.borrow().listener_local(self.id)
    }

    /// The next connection. Several tasks may wait: each connection is for the one that has waited
    /// longest.
    ///
    /// # Errors
    /// When the stack was shut down or has lost its device.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        let mut waiting = Waiting {
            listener: self,
            place: None,
        };
        poll_fn(|cx| waiting.poll(cx)).await
    }

    /// The next connection, if there is one. Of several tasks that wait by this, the last is woken.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        let accepted = self.shard.borrow().poll_accept(self.id, cx.waker());
        accepted.map(|connection| self.stream(connection))
    }

    fn stream(&self, connection: Option<ConnectionId>) -> io::Result<TcpStream> {
        match connection {
            Some(id) => Ok(TcpStream::new(Connection::new(self.shard.clone(), id))),
            None => Err(self.shard.borrow().stack_closed().into()),
        }
    }

    /// Sets the actor that gets the connections, each in a message of its own. What finds its
    /// mailbox full waits in the backlog. The actor may live on any arbiter; the connections stay
    /// on this cpu. Tasks that wait for one go on waiting, and get those that come when the actor has
    /// stopped.
    pub fn deliver_to(&self, recipient: impl IntoRecipient<TcpAccepted>) {
        let recipient = recipient.into_recipient();
        self.shard
            .borrow()
            .deliver_accepted_to(self.id, recipient, false);
    }

    /// Closes the listener, as dropping it does.
    pub fn close(self) {}
}

/// Ends when the stack closes the listener.
impl Stream for TcpListener {
    type Item = TcpStream;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<TcpStream>> {
        self.poll_accept(cx).map(Result::ok)
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.shard.try_with(|shard| shard.close_listener(self.id));
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TcpListener").field(&self.id).finish()
    }
}

/// A task that waits for a connection.
struct Waiting<'a> {
    listener: &'a TcpListener,
    place: Option<Place>,
}

impl Waiting<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        let TcpListener { shard, id } = self.listener;
        let accepted = shard
            .borrow()
            .poll_accept_in_line(*id, &mut self.place, cx.waker());
        accepted.map(|connection| self.listener.stream(connection))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let TcpListener { shard, id } = self.listener;
        if let Some(place) = self.place {
            shard.try_with(|shard| shard.leave_line(*id, place));
        }
    }
}
