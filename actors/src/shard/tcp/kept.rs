//! Connections that stay on their cpu when their port is bound on another one, too.
//!
//! Flows go by hash, and by what is bound where. When a cpu begins to listen where others do
//! already, it comes to own flows of which some are their connections. Before they acknowledge that
//! it listens, they tell all cpus which ones these are; it holds its listener back until then
//! ([`hold_listener`](virtroupe_wire::tcp::TcpEngine::hold_listener)), so that it neither resets
//! nor takes over what it does not know yet.
//!
//! What has ended is let go with the turn in which it did, so that its peer's next connection from
//! the same port goes to who listens. Of a handshake that comes to nothing the engine tells nobody:
//! those are looked for once a minute.

use std::future::Future;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use virtroupe_wire::Instant;
use virtroupe_wire::placement::{Binding, Flow, Transport};
use virtroupe_wire::tcp::ConnectionId;

use super::listeners::binding;
use crate::peers::{KeepFlows, TcpPort};
use crate::shard::Shard;

/// How often a cpu looks which of the connections that it keeps are over without its having been
/// told: handshakes that came to nothing, and where it listens what was in TIME-WAIT, which lasts as
/// long.
const REVIEW: Duration = Duration::from_secs(60);

impl Shard {
    /// Has the connections of this cpu stay here after a binding has changed on some cpu. The
    /// result is done when all other cpus know; `None` if there is nothing to know.
    pub(crate) fn keep_connections(
        &mut self,
        changed: Binding,
    ) -> Option<impl Future<Output = ()> + use<>> {
        if changed.transport != Transport::Tcp {
            return None;
        }
        let bound = self.tcp.bindings.get(&changed);
        if bound.is_some_and(|bound| !bound.has_listener) && self.is_shared(changed) {
            // Only connections were left here, and now another gets what begins.
            self.leave_binding(changed);
        }
        let at = TcpPort::of(&changed);
        let is_bound = self
            .tcp
            .bindings
            .keys()
            .any(|bound| TcpPort::of(bound) == at);
        if !is_bound && !self.tcp.kept.contains(&at) {
            return None;
        }
        let keep = self.keep_at(at)?;
        Some(self.peers.keep(keep))
    }

    /// When to look which of the kept connections are over.
    pub(crate) fn kept_deadline(&self) -> Option<Instant> {
        self.tcp.review_at
    }

    /// Tells the other cpus which of the kept connections are over, if it is time.
    pub(crate) fn review_kept(&mut self, now: Instant) {
        if self.tcp.review_at.is_none_or(|at| now < at) {
            return;
        }
        self.tcp.review_at = None;
        let ports: Vec<_> = self.tcp.kept.iter().copied().collect();
        ports.into_iter().for_each(|at| self.keep_and_tell(at));
    }

    /// The binding of a listener ends while others are bound there, too. Its connections stay here;
    /// those that begin later go to the others. Visits all connections.
    pub(super) fn leave_binding(&mut self, binding: Binding) {
        let sockets = self.tcp.sockets.values_mut();
        let kept = sockets.map(|socket| &mut socket.kept);
        for kept in kept.chain(self.tcp.closing.values_mut()) {
            kept.binding.take_if(|bound| *bound == binding);
        }
        self.unbind_tcp(binding);
    }

    /// A binding is needed no more, but for connections that stay.
    pub(super) fn unbind_tcp(&mut self, binding: Binding) {
        let Some(bound) = self.tcp.bindings.remove(&binding) else {
            return;
        };
        self.change_binding(binding, self.cpu, false);
        // The others hear of these first.
        self.keep_and_tell(TcpPort::of(&binding));
        self.peers.retract(bound.reservation, self.cpu);
    }

    /// Whether other cpus are bound to the same.
    pub(super) fn is_shared(&self, binding: Binding) -> bool {
        let ports = self.ports.borrow();
        ports.crossings.as_ref().is_some_and(|crossings| {
            let cpus = crossings.placement.exceptions().bound_on(binding);
            cpus.iter().any(|cpu| *cpu != self.cpu)
        })
    }

    /// As [`keep_connections`](Self::keep_connections), where nobody waits until the others know.
    fn keep_and_tell(&mut self, at: TcpPort) {
        if let Some(keep) = self.keep_at(at) {
            self.peers.note_kept(&keep);
        }
    }

    /// Keeps the connections to a port that would be others'. What these are to know of it, if
    /// anything.
    fn keep_at(&mut self, at: TcpPort) -> Option<KeepFlows> {
        let flows = self.flows_of_others(at);
        let had_some = match flows.is_empty() {
            true => self.tcp.kept.remove(&at),
            false => !self.tcp.kept.insert(at),
        };
        if !had_some && flows.is_empty() {
            return None;
        }
        self.tcp.review_at.get_or_insert(self.clock.now() + REVIEW);
        let keep = KeepFlows {
            at,
            cpu: self.cpu,
            flows: flows.into(),
        };
        self.note_kept(&keep);
        Some(keep)
    }

    /// The connections of this cpu to a port that would be others' if they began now. Visits all.
    fn flows_of_others(&self, at: TcpPort) -> Vec<Flow> {
        let ports = self.ports.borrow();
        let Some(crossings) = &ports.crossings else {
            return Vec::new();
        };
        // Whose TIME-WAIT nobody could end by a new connection would be in the way of those.
        let flows = self.tcp.engine.flows(self.is_listening(at));
        let received = flows.filter_map(|flow| {
            let local = flow.local();
            let is_here = local.port() == at.port && local.is_ipv6() == at.is_ipv6;
            let received = Flow::received_from(Transport::Tcp, flow.remote(), local);
            received.filter(|_| is_here)
        });
        received
            .filter(|flow| crossings.placement.owner_of_new(flow) != self.cpu)
            .collect()
    }

    /// Whether this cpu has a listener at a port.
    fn is_listening(&self, at: TcpPort) -> bool {
        let listeners = self.tcp.listeners.values();
        let mut locals = listeners.filter(|it| !it.is_ended).map(|it| it.local);
        locals.any(|local| TcpPort::of(&binding(local)) == at)
    }

    /// The flow of a connection, if it stays here only because it is kept.
    pub(super) fn kept_flow(&self, id: ConnectionId) -> Option<Flow> {
        if self.tcp.kept.is_empty() {
            return None;
        }
        let flow = self.tcp.engine.flow(id)?;
        let (local, remote) = (flow.local(), flow.remote());
        if !self.tcp.kept.contains(&TcpPort::of(&binding(local))) {
            return None;
        }
        let ports = self.ports.borrow();
        let exceptions = ports.crossings.as_ref()?.placement.exceptions();
        let flow = Flow::received_from(Transport::Tcp, remote, local)?;
        exceptions.is_kept(&flow, self.cpu).then_some(flow)
    }

    /// Lets go of kept connections that have ended, and tells the other cpus, who may get what its
    /// peer begins next from the same port.
    pub(super) fn let_over_go(&mut self) {
        let mut flows = take(&mut self.tcp.over);
        // Where this cpu listens it gets that, and holds it against TIME-WAIT (RFC 6191).
        flows.retain(|flow| match flow.local_port() {
            Some(port) => !self.is_listening(TcpPort {
                port,
                is_ipv6: flow.is_ipv6(),
            }),
            None => false,
        });
        if !flows.is_empty() {
            let flows: Arc<[Flow]> = flows.into();
            self.note_ended(self.cpu, &flows);
            self.peers.note_ended(self.cpu, &flows);
        }
    }

    /// Takes note of kept connections of `cpu` that have ended.
    pub(crate) fn note_ended(&mut self, cpu: u16, flows: &[Flow]) {
        let now = self.clock.now();
        if let Some(crossings) = &mut self.ports.borrow_mut().crossings {
            crossings.placement.exceptions_mut().let_go(cpu, flows);
            crossings.settle(now);
        }
    }

    /// Takes note of connections that stay where they are.
    pub(crate) fn note_kept(&mut self, keep: &KeepFlows) {
        let now = self.clock.now();
        let mut ports = self.ports.borrow_mut();
        let Some(crossings) = &mut ports.crossings else {
            return;
        };
        let KeepFlows { at, cpu, flows } = keep;
        let exceptions = crossings.placement.exceptions_mut();
        let kept = exceptions.keep(Transport::Tcp, at.port, at.is_ipv6, *cpu, flows.clone());
        if kept < flows.len() {
            let lost = flows.len() - kept;
            tracing::warn!(cpu, port = at.port, lost, "too many connections to keep");
        }
        crossings.settle(now);
    }

    /// The cpu ends: what it keeps goes by binding and hash.
    pub(super) fn let_kept_go(&mut self) {
        for at in self.tcp.kept.drain() {
            let flows = Arc::new([]);
            let cpu = self.cpu;
            self.peers.note_kept(&KeepFlows { at, cpu, flows });
        }
    }
}

impl TcpPort {
    fn of(binding: &Binding) -> Self {
        TcpPort {
            port: binding.port,
            is_ipv6: binding.address.is_ipv6(),
        }
    }
}
