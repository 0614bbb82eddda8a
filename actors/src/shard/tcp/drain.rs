//! The end of all connections: when the stack shuts down, or is lost.

use tokio::sync::oneshot;
use virtroupe_wire::tcp::{ListenerId, TcpState};

use super::Kept;
use crate::messages::CloseReason;
use crate::shard::Shard;
use crate::tcp::TcpEventKind;

/// A shutdown under way: every connection was finished.
#[derive(Debug)]
pub(super) struct Drain {
    /// Connections whose peers do not know that yet.
    unfinished: usize,
    done: Option<oneshot::Sender<()>>,
}

impl Drain {
    /// One more peer knows.
    pub(super) fn finished(&mut self) {
        self.unfinished = self.unfinished.saturating_sub(1);
    }
}

impl Shard {
    /// Finishes all connections, and closes all listeners. The result is there when the peers have
    /// acknowledged everything. Visits all connections.
    pub(crate) fn drain_tcp(&mut self) -> oneshot::Receiver<()> {
        let now = self.now();
        let listeners: Vec<ListenerId> = self.tcp.listeners.keys().copied().collect();
        listeners.into_iter().for_each(|id| self.end_listener(id));
        for (id, socket) in &mut self.tcp.sockets {
            // What is not open has nothing to finish, and is reset.
            let is_opening = self.tcp.engine.state(*id) == Some(TcpState::SynSent);
            socket.flags.is_finished |= is_opening;
            if !is_opening {
                self.tcp.engine.finish(now, *id);
            }
        }
        let sockets = self.tcp.sockets.values();
        let unfinished = sockets.filter(|socket| !socket.flags.is_finished).count();
        let (done, drained) = oneshot::channel();
        self.tcp.drain = Some(Drain {
            unfinished,
            done: Some(done),
        });
        self.wake();
        drained
    }

    /// Resets what is left of the connections.
    pub(crate) fn reset_tcp(&mut self) {
        let now = self.now();
        self.tcp.engine.abort_all(now);
        self.wake();
    }

    /// Whether the stack is about to end: nothing new begins.
    pub(super) fn is_draining_tcp(&self) -> bool {
        self.tcp.drain.is_some()
    }

    /// Looks whether the peers have acknowledged everything, of connections that were closed
    /// before, too.
    pub(super) fn check_drained(&mut self) {
        let Some(drain) = &mut self.tcp.drain else {
            return;
        };
        let has_orphans = self.tcp.engine.usage().connections > self.tcp.sockets.len();
        if drain.unfinished == 0
            && !has_orphans
            && let Some(done) = drain.done.take()
        {
            let _ = done.send(());
        }
    }

    /// The stack has ended: tells everybody who has a connection or listener.
    pub(in crate::shard) fn close_all_tcp(&mut self, reason: &CloseReason) {
        let tcp = &mut self.tcp;
        for (id, socket) in &mut tcp.sockets {
            self.wakes.take_from(&mut socket.reader);
            self.wakes.take_from(&mut socket.writer);
            socket.kept = Kept::default();
            if let Some(delivery) = &mut socket.delivery {
                delivery.tell_over(*id, TcpEventKind::Closed(reason.clone()));
            }
        }
        for listener in tcp.listeners.values_mut() {
            // Their connections are gone with all others.
            let _ = listener.acceptors.end(&self.wakes);
            if let Some(mut parked) = listener.parked.take() {
                parked.unclaimed = None;
            }
        }
        tcp.full.clear();
        tcp.short.clear();
        tcp.dropped.clear();
        tcp.closing.clear();
        let is_cpu_lost = matches!(reason, CloseReason::CpuLost(_));
        for (_, bound) in tcp.bindings.drain() {
            if is_cpu_lost {
                // The others go on, and whoever shares the address gets the flows.
                self.peers.retract(bound.reservation, self.cpu);
            }
        }
        if is_cpu_lost {
            self.let_kept_go();
        }
    }
}
