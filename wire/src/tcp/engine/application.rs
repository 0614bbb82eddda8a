//! What applications do with connections and listeners.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{ConnectionId, Entry, ListenerId, TcpEngine};
use crate::buffer::Buffer;
use crate::tcp::config::{Keepalive, ListenOptions, TcpOptions};
use crate::tcp::connection::{Connection, Owner};
use crate::tcp::counters::ConnectionStats;
use crate::tcp::flow::Flow;
use crate::tcp::payload::SharedPayload;
use crate::tcp::slab::Slab;
use crate::tcp::state::{ListenError, TcpConnectError, TcpError, TcpState, WriteError};
use crate::time::Instant;

impl<B: Buffer, S: SharedPayload> TcpEngine<B, S> {
    /// Waits for connections at `local`. The unspecified address means any address of its
    /// family; a listener on one address takes precedence over it.
    ///
    /// # Errors
    /// Why that can not be.
    pub fn listen(
        &mut self,
        local: SocketAddr,
        options: ListenOptions,
    ) -> Result<ListenerId, ListenError> {
        if self.listeners.len() >= self.config.listeners {
            return Err(ListenError::TooMany);
        }
        self.listeners.insert(local, options).map(ListenerId)
    }

    /// Holds a listener back (`true`), or lets it have connections: meanwhile what would open one is
    /// dropped as [`ListenerNotReady`](crate::DropReason::ListenerNotReady) without an answer, so
    /// that its sender tries again, and nothing of a connection that is not known is reset. For one
    /// engine of several, while it is not sure whose connections are its own. Default: no.
    pub fn hold_listener(&mut self, id: ListenerId, is_held: bool) {
        if let Some(listener) = self.listeners.get_mut(id.0) {
            listener.is_held = is_held;
        }
    }

    /// Both ends of all connections, then of half-open ones, and then of those in TIME-WAIT if asked
    /// for: who has no room for all begins with those that matter most, and that peers can not make
    /// up. Visits all of them.
    pub fn flows(&self, with_time_wait: bool) -> impl Iterator<Item = Flow> {
        let connections = self.connections.iter().filter(|it| it.is_attached);
        let time_wait = with_time_wait.then_some(&self.time_wait);
        let time_wait = time_wait.into_iter().flat_map(Slab::iter);
        connections
            .map(|it| it.flow)
            .chain(self.half_open.iter().map(|it| it.flow))
            .chain(time_wait.map(|it| it.flow))
    }

    /// Waits no more. Connections that were not accepted are reset.
    pub fn close_listener(&mut self, now: Instant, id: ListenerId) {
        let Some(listener) = self.listeners.remove(id.0) else {
            return;
        };
        for key in listener.ready {
            self.with(now, key, |connection| {
                connection.owner = Owner::Nobody;
                connection.abort();
            });
        }
    }

    /// The next connection that a listener has for its application.
    pub fn accept(&mut self, now: Instant, id: ListenerId) -> Option<ConnectionId> {
        let key = self.listeners.get_mut(id.0)?.ready.pop_front()?;
        self.with(now, key, |connection| connection.owner = Owner::Application)?;
        Some(ConnectionId(key))
    }

    /// Asks `remote` for a connection from `local`, an address of ours.
    ///
    /// With port 0 in `local` an ephemeral port is chosen at random among those that
    /// `is_acceptable` (RFC 6056, section 3.3.1): there a caller can demand that replies come
    /// home to its own cpu. Every port in the range is tried once at most.
    ///
    /// # Errors
    /// Why no attempt was made.
    pub fn connect(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        options: TcpOptions,
        is_acceptable: impl FnMut(u16) -> bool,
    ) -> Result<ConnectionId, TcpConnectError> {
        if remote.port() == 0 || remote.ip().is_unspecified() || remote.ip().is_multicast() {
            return Err(TcpConnectError::BadPeer(remote));
        }
        if local.is_ipv4() != remote.is_ipv4() {
            let local = local.ip();
            return Err(TcpConnectError::OtherFamily { local, remote });
        }
        if self.connections.len() >= self.config.connections {
            return Err(TcpConnectError::TooMany);
        }
        let (flow, hash) = match local.port() {
            0 => self.choose_port(now, local, remote, is_acceptable)?,
            _ => {
                let flow = Flow::new(local, remote);
                let hash = self.secrets.table_hash(&flow);
                if !self.is_free(now, &flow, hash) {
                    return Err(TcpConnectError::InUse(local));
                }
                (flow, hash)
            }
        };
        let (mut initial, offset) = self.secrets.first_numbers(now, &flow);
        if let Some(Entry::TimeWait(index)) = self.find_hashed(hash, &flow) {
            // RFC 6191: behind all numbers of the old connection.
            if let Some(record) = self.time_wait.at(index)
                && initial.is_before(record.behind())
            {
                initial = record.behind();
            }
            self.remove_time_wait(index);
        }
        let initial = options.initial_sequence.unwrap_or(initial);
        let options = self.share(options);
        let mtu = self.config.mtu;
        let key = self
            .connections
            .insert_with(|| Connection::new(flow, options, initial, mtu, now));
        if let Some(connection) = self.connections.at_mut(key.index) {
            connection.is_attached = true;
            connection.hash = hash;
            connection.connect(offset, now);
            if let Some(queues) = self.spare.take() {
                connection.adopt(queues);
            }
            self.agenda.enter(now, key.index, connection, true);
        }
        self.attach(hash, Entry::Connection(key.index));
        self.counters.connects += 1;
        Ok(ConnectionId(key))
    }

    /// Settings behind a reference count: those of the last connection, if they are the same.
    fn share(&mut self, options: TcpOptions) -> Arc<TcpOptions> {
        match &self.last_options {
            Some(last) if **last == options => last.clone(),
            _ => self.last_options.insert(Arc::new(options)).clone(),
        }
    }

    /// A free port: the flow, and its hash.
    fn choose_port(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        mut is_acceptable: impl FnMut(u16) -> bool,
    ) -> Result<(Flow, u64), TcpConnectError> {
        let (first, last) = self.config.ephemeral_ports;
        let first = first.max(1);
        let count = u32::from(last.saturating_sub(first)) + 1;
        let start = self.secrets.below(count);
        let ports = (0..count).map(|step| first.saturating_add(((start + step) % count) as u16));
        for port in ports {
            let flow = Flow::new(SocketAddr::new(local.ip(), port), remote);
            if !is_acceptable(port) {
                continue;
            }
            let hash = self.secrets.table_hash(&flow);
            if self.is_free(now, &flow, hash) {
                return Ok((flow, hash));
            }
        }
        Err(TcpConnectError::NoPort)
    }

    /// Whether a connection may begin between these ends, whose hash is given.
    fn is_free(&self, now: Instant, flow: &Flow, hash: u64) -> bool {
        match self.find_hashed(hash, flow) {
            None => true,
            Some(Entry::TimeWait(index)) => {
                let record = self.time_wait.at(index);
                record.is_some_and(|record| record.admits_ours(now))
            }
            Some(_) => false,
        }
    }

    /// Writes `chunk` behind what was written before. One chunk is accepted as long as the send
    /// buffer has any room.
    ///
    /// # Errors
    /// Why not, with the chunk. After `Full` the connection will be told to be writable.
    pub fn write(
        &mut self,
        now: Instant,
        id: ConnectionId,
        chunk: S,
    ) -> Result<(), (WriteError, S)> {
        let mut chunk = Some(chunk);
        let result = self.with(now, id.0, |connection| match chunk.take() {
            Some(chunk) => connection.write(chunk),
            None => Ok(()),
        });
        match (result, chunk) {
            (Some(result), _) => result,
            (None, Some(chunk)) => Err((WriteError::Gone, chunk)),
            (None, None) => Ok(()),
        }
    }

    /// As [`write`](Self::write), for several chunks, one behind the other: there is less to do for
    /// each.
    ///
    /// # Errors
    /// Why not all were accepted; those that were not are dropped. Bytes within
    /// [`room`](Self::room) are always accepted where [`can_write`](Self::can_write).
    pub fn write_all(
        &mut self,
        now: Instant,
        id: ConnectionId,
        chunks: impl IntoIterator<Item = S>,
    ) -> Result<(), WriteError> {
        let result = self.with(now, id.0, |connection| {
            let mut chunks = chunks.into_iter();
            chunks.try_for_each(|chunk| connection.write(chunk))
        });
        match result {
            Some(result) => result.map_err(|(error, _)| error),
            None => Err(WriteError::Gone),
        }
    }

    /// Whether this side may still write: it has not finished, and the connection has not ended.
    pub fn can_write(&self, id: ConnectionId) -> bool {
        self.owned(id).is_some_and(Connection::can_write)
    }

    /// Bytes that may be written before the send buffer is full.
    pub fn room(&self, id: ConnectionId) -> usize {
        self.connections.get(id.0).map_or(0, Connection::room)
    }

    /// Asks to be told when the connection is writable, as after a refused write. Returns false if
    /// it is now, or will never be.
    pub fn want_room(&mut self, now: Instant, id: ConnectionId) -> bool {
        self.with(now, id.0, Connection::want_room).unwrap_or(false)
    }

    /// Takes the next payload that arrived in order; `None` if there is none now. What is taken
    /// makes room in the window.
    pub fn read(&mut self, now: Instant, id: ConnectionId) -> Option<B> {
        if !self.has_received(id) {
            return None;
        }
        self.with(now, id.0, |connection| connection.read(now))?
    }

    /// Whether something arrived in order that was not taken.
    pub fn has_received(&self, id: ConnectionId) -> bool {
        let connection = self.connections.get(id.0);
        connection.is_some_and(|connection| !connection.receive.queue.is_empty())
    }

    /// Whether the peer has finished and everything that it sent was read.
    pub fn is_at_end(&self, id: ConnectionId) -> bool {
        self.connections.get(id.0).is_some_and(|connection| {
            connection.receive.is_finished() && connection.receive.queue.is_empty()
        })
    }

    /// Finishes this side: what was written is sent, and the end behind it. The peer may go on
    /// sending.
    pub fn finish(&mut self, now: Instant, id: ConnectionId) {
        self.with(now, id.0, Connection::finish);
    }

    /// Lets go of a connection: what was written is sent, and the end behind it, while nobody
    /// waits. If something was not read, or still arrives, the connection is reset instead, so
    /// that the peer does not believe that it was read. `id` names nothing afterwards.
    ///
    /// To linger, [`finish`](Self::finish) first and close when the connection has finished.
    pub fn close(&mut self, now: Instant, id: ConnectionId) {
        self.with(now, id.0, |connection| connection.close(now));
    }

    /// Resets a connection and lets go of it. `id` names nothing afterwards.
    pub fn abort(&mut self, now: Instant, id: ConnectionId) {
        self.with(now, id.0, |connection| {
            connection.owner = Owner::Nobody;
            connection.abort();
        });
    }

    /// Resets all connections, those too that were closed and are not over. Those that the
    /// application has stay its own. Visits all connections: for who goes away.
    pub fn abort_all(&mut self, now: Instant) {
        let keys: Vec<_> = self.connections.keys().collect();
        for key in keys {
            self.with(now, key, Connection::abort);
        }
    }

    /// The state of a connection; `None` if `id` names none.
    pub fn state(&self, id: ConnectionId) -> Option<TcpState> {
        self.owned(id).map(|connection| connection.state)
    }

    /// Both ends of a connection.
    pub fn flow(&self, id: ConnectionId) -> Option<Flow> {
        self.owned(id).map(|connection| connection.flow)
    }

    /// Why a connection ended, if not by both sides finishing.
    pub fn error(&self, id: ConnectionId) -> Option<TcpError> {
        self.owned(id)?.error
    }

    /// What is known about a connection.
    pub fn stats(&self, id: ConnectionId) -> Option<ConnectionStats> {
        self.owned(id).map(Connection::stats)
    }

    /// The [`TcpOptions::close_timeout`](crate::tcp::TcpOptions::close_timeout) of a connection;
    /// `None` if `id` names none.
    pub fn close_timeout(&self, id: ConnectionId) -> Option<Duration> {
        self.owned(id)
            .map(|connection| connection.options.close_timeout)
    }

    /// Turns Nagle's algorithm off (`true`) or on.
    pub fn set_nodelay(&mut self, now: Instant, id: ConnectionId, nodelay: bool) {
        self.change_options(now, id, |options| options.nodelay = nodelay);
    }

    /// Sets the differentiated services code point of what is sent, 0 to 63.
    pub fn set_dscp(&mut self, now: Instant, id: ConnectionId, dscp: u8) {
        self.change_options(now, id, |options| options.dscp = dscp & 63);
    }

    /// Turns keepalive on or off, or changes it.
    pub fn set_keepalive(&mut self, now: Instant, id: ConnectionId, keepalive: Option<Keepalive>) {
        self.change_options(now, id, |options| options.keepalive = keepalive);
        self.with(now, id.0, |connection| connection.start_keepalive(now));
    }

    /// Changes the settings of a connection, which it may share with others.
    fn change_options(
        &mut self,
        now: Instant,
        id: ConnectionId,
        change: impl FnOnce(&mut TcpOptions),
    ) {
        let Some(connection) = self.connections.get(id.0) else {
            return;
        };
        let mut options = TcpOptions::clone(&connection.options);
        change(&mut options);
        if options != *connection.options {
            let options = self.share(options);
            self.with(now, id.0, |connection| connection.options = options);
        }
    }

    /// Sets the user timeout.
    pub fn set_user_timeout(&mut self, now: Instant, id: ConnectionId, timeout: Duration) {
        self.with(now, id.0, |connection| {
            connection.set_user_timeout(timeout, now)
        });
    }

    /// The connection that `id` names, if the application has it.
    fn owned(&self, id: ConnectionId) -> Option<&Connection<B, S>> {
        let connection = self.connections.get(id.0)?;
        (connection.owner != Owner::Nobody).then_some(connection)
    }
}
