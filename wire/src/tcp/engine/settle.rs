//! The end of connections: when they leave the tables, and what stays of them.

use super::{Entry, TcpEngine, Told};
use crate::buffer::Buffer;
use crate::tcp::connection::Owner;
use crate::tcp::payload::SharedPayload;
use crate::tcp::records::TimeWait;
use crate::tcp::state::TcpState;
use crate::time::Instant;

impl<B: Buffer, S: SharedPayload> TcpEngine<B, S> {
    /// Takes a connection that may have ended out of the tables, as far as nobody needs it.
    #[inline(never)]
    pub(super) fn settle(&mut self, now: Instant, index: u32) {
        let Some(connection) = self.connections.at_mut(index) else {
            return;
        };
        let has_output = connection.has_output();
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
        let (hash, owner) = (connection.hash, connection.owner);
        if std::mem::take(&mut connection.is_attached) {
            self.counters.closed += 1;
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
        let (hash, owner) = (connection.hash, connection.owner);
        let record = TimeWait::new(
            connection.flow,
            connection.numbers(),
            connection.recent_timestamp(),
            now,
        );
        if std::mem::take(&mut connection.is_attached) {
            self.counters.closed += 1;
            let old = Entry::Connection(index);
            if self.time_wait.len() < self.config.time_wait {
                let key = self.time_wait.insert(record);
                self.replace(hash, old, Entry::TimeWait(key.index));
                let until = now + self.config.time_wait_time;
                self.time_wait_timers.arm(now, key.index, until);
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
        self.agenda.timers.disarm(index);
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
            self.agenda.events.push_back(Told::Ended(key));
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
