//! From the engine to applications: wakers of streams, and messages into mailboxes.

use actix::Recipient;
use actix::prelude::SendError;
use virtroupe_driver::{Chunk, Frame};
use virtroupe_wire::tcp::{
    ConnectionId, ListenerId, Readiness, TcpEngine, TcpError, TcpEvent as EngineEvent, TcpState,
};
use virtroupe_wire::{Buffer, Instant};

use super::{Blocked, Delivery};
use crate::burst::Burst;
use crate::shard::Shard;
use crate::tcp::{TcpAccepted, TcpEvent, TcpEventKind, TcpReceived};

/// Frames and bytes in one message, at most.
const FRAMES: usize = 64;
const BYTES: usize = 256 << 10;

/// Receivers without room that are tried again in one turn.
const RETRIES: usize = 64;

impl Shard {
    /// Tells applications what happened to their connections and listeners.
    pub(crate) fn dispatch_tcp(&mut self) {
        while let Some(event) = self.tcp.engine.poll_event() {
            match event {
                EngineEvent::Connection(id, readiness) => self.tell_connection(id, readiness),
                EngineEvent::Acceptable(id) => self.tell_listener(id),
                EngineEvent::Ended(id) => self.release_closed(id),
            }
        }
        if !self.tcp.over.is_empty() {
            self.let_over_go();
        }
        self.begin_turn_of_writers();
        if !self.tcp.full.is_empty() {
            self.retry_full();
        }
        if !self.tcp.short.is_empty() {
            self.wake_short();
        }
        self.check_drained();
    }

    fn tell_connection(&mut self, id: ConnectionId, readiness: Readiness) {
        if readiness.closed {
            // Its application may keep the handle for long.
            self.tcp.over.extend(self.kept_flow(id));
        }
        let Some(socket) = self.tcp.sockets.get_mut(&id) else {
            return;
        };
        let is_over = readiness.closed;
        socket.flags.is_over |= is_over;
        if readiness.readable || is_over {
            self.wakes.take_from(&mut socket.reader);
        }
        if readiness.writable || readiness.connected || readiness.finished || is_over {
            self.wakes.take_from(&mut socket.writer);
        }
        if (readiness.finished || is_over)
            && !std::mem::replace(&mut socket.flags.is_finished, true)
            && let Some(drain) = &mut self.tcp.drain
        {
            drain.finished();
        }
        let owes_notice = readiness.writable && std::mem::take(&mut socket.flags.owes_notice);
        if let Some(delivery) = &mut socket.delivery {
            if owes_notice {
                delivery.tell(id, TcpEventKind::TxReady);
            }
            if readiness.finished {
                delivery.tell(id, TcpEventKind::Finished);
            }
            self.deliver_tcp(id);
        }
    }

    /// Puts what a connection has received into the mailbox of its receiver, and the end behind
    /// it. What finds the mailbox full stays in the engine, but for one message, and the window
    /// closes.
    pub(super) fn deliver_tcp(&mut self, id: ConnectionId) {
        let now = self.now();
        let tcp = &mut self.tcp;
        let Some(socket) = tcp.sockets.get_mut(&id) else {
            return;
        };
        let Some(delivery) = &mut socket.delivery else {
            return;
        };
        while let Some(recipient) = &delivery.received {
            let parked = delivery.parked.take();
            let Some(message) = parked.or_else(|| next_message(&mut tcp.engine, now, id)) else {
                break;
            };
            match recipient.try_send(message) {
                Ok(()) => {}
                Err(SendError::Full(message)) => {
                    delivery.parked = Some(message);
                    if !std::mem::replace(&mut socket.flags.is_full, true) {
                        tcp.full.push_back(Blocked::Connection(id));
                    }
                    // So that the loop does not sleep without a limit.
                    return self.wake();
                }
                Err(SendError::Closed(message)) => {
                    delivery.received = None;
                    tcp.undelivered_bytes += message.len() as u64;
                    if delivery.is_remote {
                        return self.abort_tcp(id);
                    }
                }
            }
        }
        self.tell_end(id);
        // What was taken may have made room in the window.
        self.wake();
    }

    /// Tells the end of the peer's stream, or of the connection, once all before was delivered.
    pub(super) fn tell_end(&mut self, id: ConnectionId) {
        let engine = &self.tcp.engine;
        let Some(delivery) = self
            .tcp
            .sockets
            .get_mut(&id)
            .and_then(|socket| socket.delivery.as_mut())
        else {
            return;
        };
        if engine.has_received(id) {
            return;
        }
        if engine.is_at_end(id) && !std::mem::replace(&mut delivery.told_end, true) {
            delivery.tell(id, TcpEventKind::EndOfStream);
        }
        let is_over = matches!(
            engine.state(id),
            Some(TcpState::Closed | TcpState::TimeWait)
        );
        // What the stack resets at its end, it closes afterwards, and says so.
        let is_reset = self.tcp.drain.is_some() && engine.error(id) == Some(TcpError::Aborted);
        if is_over && !is_reset {
            delivery.tell_over(id, TcpEventKind::Ended(engine.error(id)));
        }
    }

    /// Lets whoever waits at a listener have its connections.
    pub(super) fn tell_listener(&mut self, id: ListenerId) {
        let Some(listener) = self.tcp.listeners.get_mut(&id) else {
            return;
        };
        if listener.recipient.is_none() {
            listener.acceptors.wake_polled(&self.wakes);
            self.give_accepted(id);
        } else {
            self.deliver_accepted(id);
        }
    }

    /// Sends accepted connections to the receiver of a listener. By the one `Recipient` that there
    /// is: each further one may put a message into a full mailbox.
    pub(super) fn deliver_accepted(&mut self, id: ListenerId) {
        while let Some(accepted) = self.next_accepted(id) {
            let listener = self.tcp.listeners.get(&id);
            let recipient = listener.and_then(|listener| listener.recipient.as_ref());
            match recipient.map(|recipient| recipient.try_send(accepted)) {
                Some(Ok(())) | None => {}
                Some(Err(SendError::Full(accepted))) => return self.park_accepted(id, accepted),
                Some(Err(SendError::Closed(accepted))) => {
                    return self.lose_acceptor(id, accepted);
                }
            }
        }
    }

    /// What is next for the receiver of a listener, if it has one.
    fn next_accepted(&mut self, id: ListenerId) -> Option<TcpAccepted> {
        let listener = self.tcp.listeners.get_mut(&id)?;
        listener.recipient.as_ref()?;
        let parked = listener.parked.take();
        parked.or_else(|| self.accept_as_message(id))
    }

    fn accept_as_message(&mut self, id: ListenerId) -> Option<TcpAccepted> {
        let connection = self.accept_tcp(id)?;
        let flow = self.tcp.engine.flow(connection)?;
        Some(TcpAccepted {
            listener: id,
            connection,
            cpu: self.cpu,
            local: flow.local(),
            peer: flow.remote(),
            unclaimed: self.tcp.unclaimed.clone(),
        })
    }

    fn park_accepted(&mut self, id: ListenerId, accepted: TcpAccepted) {
        if let Some(listener) = self.tcp.listeners.get_mut(&id) {
            listener.parked = Some(accepted);
            if !std::mem::replace(&mut listener.is_full, true) {
                self.tcp.full.push_back(Blocked::Listener(id));
            }
            self.wake();
        }
    }

    /// The receiver of a listener takes no connections any more.
    fn lose_acceptor(&mut self, id: ListenerId, accepted: TcpAccepted) {
        let Some(listener) = self.tcp.listeners.get_mut(&id) else {
            // Its own drop would tell this cpu by a message.
            return self.abort_unclaimed(accepted);
        };
        listener.recipient = None;
        // Whoever waits has it, or asks next.
        let connection = accepted.into_connection();
        listener.acceptors.give(connection, &self.wakes);
        match listener.is_remote {
            true => self.close_listener(id),
            // Tasks may wait, too.
            false => self.tell_listener(id),
        }
    }

    /// Tries again those whose receiver had no room.
    fn retry_full(&mut self) {
        for _ in 0..self.tcp.full.len().min(RETRIES) {
            match self.tcp.full.pop_front() {
                Some(Blocked::Connection(id)) => {
                    if let Some(socket) = self.tcp.sockets.get_mut(&id) {
                        socket.flags.is_full = false;
                        self.deliver_tcp(id);
                    }
                }
                Some(Blocked::Listener(id)) => {
                    if let Some(listener) = self.tcp.listeners.get_mut(&id) {
                        listener.is_full = false;
                        self.deliver_accepted(id);
                    }
                }
                None => {}
            }
        }
    }

    /// Sets who gets the bytes of a connection.
    pub(crate) fn deliver_tcp_to(&mut self, id: ConnectionId, recipient: Recipient<TcpReceived>) {
        if let Some(delivery) = self.tcp.delivery_mut(id) {
            delivery.received = Some(recipient);
            self.deliver_tcp(id);
        }
    }

    /// Sets who is told what happens to a connection; at once what has happened already.
    pub(crate) fn tcp_events_to(&mut self, id: ConnectionId, recipient: Recipient<TcpEvent>) {
        if let Some(reason) = &self.closed {
            let kind = TcpEventKind::Closed(reason.clone());
            return recipient.do_send(TcpEvent {
                connection: id,
                kind,
            });
        }
        if let Some(delivery) = self.tcp.delivery_mut(id) {
            delivery.events = Some(recipient);
            self.deliver_tcp(id);
        }
    }

    /// Closes a connection when it finds its receiver gone: for receivers on other arbiters.
    pub(crate) fn close_tcp_with_receiver(&mut self, id: ConnectionId) {
        if let Some(delivery) = self.tcp.delivery_mut(id) {
            delivery.is_remote = true;
        }
    }
}

impl Delivery {
    /// At most a few of these are under way for each connection, so the mailbox's bound is not
    /// needed, and they can not be refused.
    pub(super) fn tell(&self, connection: ConnectionId, kind: TcpEventKind) {
        if let Some(events) = &self.events {
            events.do_send(TcpEvent { connection, kind });
        }
    }

    /// Tells once that the connection is over.
    pub(super) fn tell_over(&mut self, connection: ConnectionId, kind: TcpEventKind) {
        if !std::mem::replace(&mut self.told_over, true) {
            self.tell(connection, kind);
        }
    }
}

/// The next message for the receiver of a connection, if something has arrived.
fn next_message(
    engine: &mut TcpEngine<Frame, Chunk>,
    now: Instant,
    id: ConnectionId,
) -> Option<TcpReceived> {
    let mut next = engine.read(now, id)?;
    let mut payload = Burst::new();
    let mut bytes = 0;
    loop {
        bytes += next.len();
        payload.push(next);
        if payload.len() == FRAMES || bytes >= BYTES {
            break;
        }
        match engine.read(now, id) {
            Some(frame) => next = frame,
            None => break,
        }
    }
    Some(TcpReceived {
        connection: id,
        payload,
    })
}
