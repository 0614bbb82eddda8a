//! After something was done with a connection: the lists it goes into, its timer, and its end.

use super::{Entry, TcpEngine, Told};
use crate::buffer::Buffer;
use crate::tcp::connection::Owner;
use crate::tcp::payload::SharedPayload;
use crate::tcp::records::TimeWait;
use crate::tcp::state::TcpState;
use crate::time::Instant;

impl<B: Buffer, S: SharedPayload> TcpEngine<B, S> {
    /// Does what a connection wants after something was done with it: puts it into the lists,
    /// arms its timer, and takes it out of the tables if it has ended. `may_send` is false if
    /// it was just asked and had nothing.
    pub(super) fn settle(&mut self, now: Instant, index: u32, may_send: bool) {
        let Some(connection) = self.connections.at_mut(index) else {
            return;
        };
        let has_output = connection.has_output();
        if has_output && may_send && !connection.is_ready {
            connection.is_ready = true;
            self.ready.push_back(index);
        }
        let is_told = connection.readiness.is_any() && connection.owner == Owner::Application;
        if is_told && !connection.is_told {
            connection.is_told = true;
            self.events.push_back(Told::Connection(index));
        }
        self.connection_timers
            .arm(now, index, connection.timers.first());
        match connection.state {
            TcpState::Closed => self.settle_closed(index, has_output),
            TcpState::TimeWait if !has_output => self.settle_time_wait(now, index),
            _ => {}
        }
    }

    fn settle_closed(&mut self, index: u32, has_output: bool) {
        let Some(connection) = self.connections.at_mut(index) else {
            return;
        };
        let (flow, owner) = (connection.flow, connection.owner);
        if std::mem::take(&mut connection.is_attached) {
            self.counters.closed += 1;
            let hash = self.secrets.table_hash(&flow);
            self.detach(hash, Entry::Connection(index));
        }
        if owner == Owner::Nobody && !has_output {
            self.remove_connection(index);
        }
    }

    /// A connection has become one in TIME-WAIT: a record takes its place. What was not read
    /// stays with its owner.
    fn settle_time_wait(&mut self, now: Instant, index: u32) {
        let Some(connection) = self.connections.at_mut(index) else {
            return;
        };
        connection.timers.clear_all();
        self.connection_timers.disarm(index);
        let (flow, owner) = (connection.flow, connection.owner);
        let record = TimeWait::new(
            flow,
            connection.numbers(),
            connection.recent_timestamp(),
            now,
        );
        if std::mem::take(&mut connection.is_attached) {
            self.counters.closed += 1;
            let hash = self.secrets.table_hash(&flow);
            let old = Entry::Connection(index);
            if self.time_wait.len() < self.config.time_wait {
                let key = self.time_wait.insert(record);
                self.replace(hash, old, Entry::TimeWait(key.index));
                let until = now + self.config.time_wait_time;
                self.time_wait_timers.arm(now, key.index, Some(until));
            } else {
                self.detach(hash, old);
                self.counters.time_wait_overflows += 1;
            }
        }
        if owner == Owner::Nobody {
            self.remove_connection(index);
        }
    }

    fn remove_connection(&mut self, index: u32) {
        self.connection_timers.disarm(index);
        let key = self.connections.key(index);
        let Some(connection) = self.connections.at_mut(index) else {
            return;
        };
        self.memory = self.memory.saturating_sub(connection.receive.memory());
        self.spare.keep(connection.give_up_queues());
        self.connections.discard(index);
        if self.connections.len() == 0 {
            self.spare.shrink();
        }
        if self.tells_ends
            && let Some(key) = key
        {
            self.events.push_back(Told::Ended(key));
        }
    }

    pub(super) fn remove_time_wait(&mut self, index: u32) {
        self.time_wait_timers.disarm(index);
        if let Some(record) = self.time_wait.at(index).copied() {
            let hash = self.secrets.table_hash(&record.flow);
            self.detach(hash, Entry::TimeWait(index));
            self.time_wait.remove(index);
        }
    }
}
