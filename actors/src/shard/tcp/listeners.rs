//! Listeners: where they are bound, as the other cpus know it, and what they accept.

use std::future::Future;
use std::net::SocketAddr;
use std::task::{Poll, Waker};

use actix::Recipient;
use virtroupe_wire::host;
use virtroupe_wire::placement::{Binding, Transport};
use virtroupe_wire::tcp::{ConnectionId, ListenError, ListenOptions, ListenerId};

use super::acceptors::{Acceptors, Place};
use super::{Bound, Kept, Listener, Tcp};
use crate::messages::BindError;
use crate::registry::{Sharing, Taken};
use crate::shard::sockets::{Unbound, bind_on_all};
use crate::shard::{Shard, ShardCell};
use crate::tcp::TcpAccepted;

/// Listens on the cpu of `shard`; done when all other cpus know of it.
pub(crate) async fn listen_tcp(
    shard: &ShardCell,
    local: SocketAddr,
    options: ListenOptions,
    sharing: Sharing,
) -> Result<ListenerId, BindError> {
    let listen = |shard: &mut Shard| shard.listen_tcp(local, options.clone(), sharing);
    let id = bind_on_all(shard, listen, Shard::close_listener).await?;
    shard.borrow().tcp.engine.hold_listener(id, false);
    Ok(id)
}

impl Shard {
    /// Begins to listen on this cpu. The second result is done when all other cpus know of it.
    fn listen_tcp(
        &mut self,
        local: SocketAddr,
        options: ListenOptions,
        sharing: Sharing,
    ) -> Result<
        (
            ListenerId,
            impl Future<Output = Result<(), BindError>> + use<>,
        ),
        Unbound,
    > {
        self.check_listen(local)?;
        let (id, binding) = match local.port() {
            0 => self.listen_ephemeral(local, &options, sharing)?,
            _ => self.listen_at(local, &options, sharing)?,
        };
        if !self.change_binding(binding, self.cpu, true) {
            // Nor would it be to the others, who know of as many.
            self.close_listener(id);
            return Err(BindError::TooManyBindings.into());
        }
        Ok((id, self.peers.announce(binding, self.cpu)))
    }

    fn check_listen(&self, local: SocketAddr) -> Result<(), BindError> {
        if self.closed.is_some() || self.is_draining_tcp() {
            return Err(BindError::Stopped);
        }
        if !self.tcp.is_enabled {
            return Err(BindError::TcpDisabled);
        }
        if !local.ip().is_unspecified() && !self.host.is_own_address(local.ip()) {
            return Err(host::BindError::AddressNotOurs(local).into());
        }
        Ok(())
    }

    /// Listens in the engine, and reserves the address for this cpu if there are others.
    fn listen_at(
        &mut self,
        local: SocketAddr,
        options: &ListenOptions,
        sharing: Sharing,
    ) -> Result<(ListenerId, Binding), Unbound> {
        let binding = binding(local);
        let engine = &mut self.tcp.engine;
        let listening = engine.listen(local, options.clone());
        let id = listening.map_err(BindError::from)?;
        if let Err(Taken { cpu, closing }) = self.reserve_binding(binding, sharing) {
            let now = self.now();
            self.tcp.engine.close_listener(now, id);
            let error = BindError::InUseOnOtherCpu { local, cpu };
            return Err(Unbound { error, closing });
        }
        // Some of what comes there may be connections of others.
        let is_elsewhere = self.registry.is_elsewhere(binding, self.cpu);
        self.tcp.engine.hold_listener(id, is_elsewhere);
        let listener = Listener {
            local,
            acceptors: Acceptors::default(),
            recipient: None,
            parked: None,
            is_full: false,
            is_remote: false,
            is_ended: false,
        };
        self.tcp.listeners.insert(id, listener);
        Ok((id, binding))
    }

    /// Reserves what a listener is bound to, or takes it over from one that was closed and whose
    /// connections still need it.
    fn reserve_binding(&mut self, binding: Binding, sharing: Sharing) -> Result<(), Taken> {
        if !self.is_sharded() {
            return Ok(());
        }
        if let Some(bound) = self.tcp.bindings.get_mut(&binding)
            && bound.reservation.sharing() == sharing
        {
            bound.reservation.reopen();
            bound.has_listener = true;
            return Ok(());
        }
        let reservation = self.registry.reserve(binding, self.cpu, sharing)?;
        let bound = Bound {
            reservation,
            has_listener: true,
            connections: 0,
        };
        if let Some(old) = self.tcp.bindings.insert(binding, bound)
            && let Some(bound) = self.tcp.bindings.get_mut(&binding)
        {
            // It was shared otherwise; what it was kept for goes on.
            bound.connections = old.connections;
        }
        Ok(())
    }

    /// As `listen_at`, at the first free ephemeral port from a random one on (RFC 6056, section
    /// 3.3.1).
    fn listen_ephemeral(
        &mut self,
        local: SocketAddr,
        options: &ListenOptions,
        sharing: Sharing,
    ) -> Result<(ListenerId, Binding), Unbound> {
        let (first, last) = self.tcp.ephemeral_ports;
        let count = u32::from(last.saturating_sub(first)) + 1;
        let start = u32::from(self.host.random_port_offset()) % count;
        for step in 0..count {
            let port = first.saturating_add(((start + step) % count) as u16);
            if port == 0 || self.registry.is_used(Transport::Tcp, port) {
                continue;
            }
            match self.listen_at(SocketAddr::new(local.ip(), port), options, sharing) {
                // Taken by another cpu since we looked, or by ourselves.
                Err(Unbound {
                    error:
                        BindError::InUseOnOtherCpu { .. } | BindError::Listen(ListenError::InUse(_)),
                    ..
                }) => {}
                outcome => return outcome,
            }
        }
        Err(BindError::from(host::BindError::NoPorts).into())
    }

    /// Ends a listener. Connections that were not accepted are reset.
    pub(crate) fn close_listener(&mut self, id: ListenerId) {
        self.end_listener(id);
        let Some(listener) = self.tcp.listeners.remove(&id) else {
            return;
        };
        let binding = binding(listener.local);
        let is_open = self.closed.is_none() && !self.is_draining_tcp();
        if is_open && self.is_shared(binding) {
            // Others listen there, too, and get what begins from now on.
            self.leave_binding(binding);
        }
    }

    /// Ends a listener, whose handle may learn that it has ended.
    pub(super) fn end_listener(&mut self, id: ListenerId) {
        let now = self.now();
        let Some(listener) = self.tcp.listeners.get_mut(&id) else {
            return;
        };
        let local = listener.local;
        if let Some(parked) = listener.parked.take() {
            self.abort_unclaimed(parked);
        }
        if let Some(listener) = self.tcp.listeners.get_mut(&id) {
            if std::mem::replace(&mut listener.is_ended, true) {
                return;
            }
            let untaken = listener.acceptors.end(&self.wakes);
            untaken.for_each(|connection| self.abort_tcp(connection));
        }
        self.tcp.engine.close_listener(now, id);
        let binding = binding(local);
        if let Some(bound) = self.tcp.bindings.get_mut(&binding) {
            bound.has_listener = false;
            if bound.connections > 0 {
                bound.reservation.start_closing();
            } else {
                self.unbind_tcp(binding);
            }
        }
        self.wake();
    }

    /// The address that a listener is bound to.
    pub(crate) fn listener_local(&self, id: ListenerId) -> Option<SocketAddr> {
        self.tcp.listeners.get(&id).map(|listener| listener.local)
    }

    /// The next connection of a listener, or the end if there will be none.
    pub(crate) fn poll_accept(
        &mut self,
        id: ListenerId,
        waker: &Waker,
    ) -> Poll<Option<ConnectionId>> {
        let wait = |acceptors: &mut Acceptors, _: &mut _| acceptors.wait(waker);
        self.accept_or(id, &mut None, wait)
    }

    /// As [`poll_accept`](Self::poll_accept), for one of several tasks: it waits at its `place`.
    pub(crate) fn poll_accept_in_line(
        &mut self,
        id: ListenerId,
        place: &mut Option<Place>,
        waker: &Waker,
    ) -> Poll<Option<ConnectionId>> {
        let wait = |acceptors: &mut Acceptors, place: &mut _| acceptors.wait_in_line(place, waker);
        self.accept_or(id, place, wait)
    }

    /// The next connection for who has `place`, or has none, at a listener; waits by `wait` for it
    /// unless there will be none.
    fn accept_or(
        &mut self,
        id: ListenerId,
        place: &mut Option<Place>,
        wait: impl FnOnce(&mut Acceptors, &mut Option<Place>),
    ) -> Poll<Option<ConnectionId>> {
        let now = self.now();
        let is_closed = self.closed.is_some();
        let listener = self.tcp.listeners.get_mut(&id);
        let Some(listener) = listener.filter(|it| !is_closed && !it.is_ended) else {
            return Poll::Ready(None);
        };
        let given = listener.acceptors.take(place);
        if given.is_some() {
            return Poll::Ready(given);
        }
        let Some(connection) = self.tcp.engine.accept(now, id) else {
            wait(&mut listener.acceptors, place);
            return Poll::Pending;
        };
        if let Some(place) = place.take() {
            // It was not its turn, but there is a backlog.
            listener.acceptors.leave(place, &self.wakes);
        }
        let local = listener.local;
        self.tcp.insert_accepted(connection, local);
        Poll::Ready(Some(connection))
    }

    /// A task waits no more for a connection.
    pub(crate) fn leave_line(&mut self, id: ListenerId, place: Place) {
        let Some(listener) = self.tcp.listeners.get_mut(&id) else {
            return;
        };
        listener.acceptors.leave(place, &self.wakes);
        // An actor that was set meanwhile gets what nobody waits for.
        self.deliver_accepted(id);
    }

    /// Gives connections to the tasks that wait for them.
    pub(super) fn give_accepted(&mut self, id: ListenerId) {
        if self.closed.is_some() {
            return;
        }
        let now = self.now();
        while let Some(listener) = self.tcp.listeners.get_mut(&id)
            && listener.acceptors.is_awaited()
            && let Some(connection) = self.tcp.engine.accept(now, id)
        {
            let local = listener.local;
            listener.acceptors.give(connection, &self.wakes);
            self.tcp.insert_accepted(connection, local);
        }
    }

    /// Takes the next connection of a listener that was given to nobody.
    pub(super) fn accept_tcp(&mut self, id: ListenerId) -> Option<ConnectionId> {
        if self.closed.is_some() {
            return None;
        }
        let now = self.now();
        let listener = self.tcp.listeners.get_mut(&id)?;
        let left = listener.acceptors.take(&mut None);
        if left.is_some() {
            return left;
        }
        let local = listener.local;
        let connection = self.tcp.engine.accept(now, id)?;
        self.tcp.insert_accepted(connection, local);
        Some(connection)
    }

    /// Sets who gets the connections of a listener.
    pub(crate) fn deliver_accepted_to(
        &mut self,
        id: ListenerId,
        recipient: Recipient<TcpAccepted>,
        is_remote: bool,
    ) {
        if let Some(listener) = self.tcp.listeners.get_mut(&id) {
            listener.recipient = Some(recipient);
            listener.is_remote = is_remote;
            self.deliver_accepted(id);
            self.wake();
        }
    }

    /// A connection that was closed is over.
    pub(super) fn release_closed(&mut self, id: ConnectionId) {
        let Some(Kept { binding, flow, .. }) = self.tcp.closing.remove(&id) else {
            return;
        };
        self.tcp.over.extend(flow.map(|flow| *flow));
        let Some(binding) = binding else {
            return;
        };
        if let Some(bound) = self.tcp.bindings.get_mut(&binding) {
            bound.connections = bound.connections.saturating_sub(1);
            if bound.connections == 0 && !bound.has_listener {
                self.unbind_tcp(binding);
            }
        }
    }
}

impl Tcp {
    /// A connection of the listener at `local`, which an application has from now on.
    fn insert_accepted(&mut self, id: ConnectionId, local: SocketAddr) {
        let binding = binding(local);
        let bound = self.bindings.get_mut(&binding);
        let kept = Kept {
            binding: bound.map(|bound| {
                bound.connections += 1;
                binding
            }),
            ..Kept::default()
        };
        self.insert_socket(id, kept);
    }
}

/// What the other cpus know of a socket at `local`.
pub(super) fn binding(local: SocketAddr) -> Binding {
    Binding {
        transport: Transport::Tcp,
        port: local.port(),
        address: local.ip(),
    }
}
