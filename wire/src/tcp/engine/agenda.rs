//! Where connections wait for their turn: to send, to tell something, and for their timers.

use std::collections::VecDeque;

use super::Told;
use crate::buffer::Buffer;
use crate::tcp::connection::{Connection, Owner};
use crate::tcp::payload::SharedPayload;
use crate::tcp::state::TcpState;
use crate::tcp::wheel::Wheel;
use crate::time::Instant;

/// The lists, and the timers.
#[derive(Debug)]
pub(super) struct Agenda {
    /// Connections that may have something to send, each once.
    pub(super) ready: VecDeque<u32>,
    /// Connections and listeners with something to tell, each once.
    pub(super) events: VecDeque<Told>,
    pub(super) timers: Wheel,
}

impl Agenda {
    pub(super) fn new() -> Self {
        Agenda {
            ready: VecDeque::new(),
            events: VecDeque::new(),
            timers: Wheel::new(),
        }
    }

    /// Puts the connection at `index`, after something was done with it, wherever it waits from now
    /// on. `may_send` is false if it was just asked and had nothing. Whether it may have ended.
    #[inline]
    pub(super) fn enter<B: Buffer, S: SharedPayload>(
        &mut self,
        now: Instant,
        index: u32,
        connection: &mut Connection<B, S>,
        may_send: bool,
    ) -> bool {
        if may_send && !connection.is_ready && connection.has_output() {
            connection.is_ready = true;
            self.ready.push_back(index);
        }
        let is_telling = connection.owner == Owner::Application && connection.readiness.is_any();
        if is_telling && !connection.is_told {
            connection.is_told = true;
            self.events.push_back(Told::Connection(index));
        }
        if let Some(look) = connection.timers.take_news() {
            self.timers.arm(now, index, look);
        }
        matches!(connection.state, TcpState::Closed | TcpState::TimeWait)
    }
}
