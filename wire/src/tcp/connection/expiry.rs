//! What a timer does when it fires.

use std::time::Duration;

use super::{Connection, Context, Owner};
use crate::buffer::Buffer;
use crate::tcp::header::HEADER;
use crate::tcp::payload::SharedPayload;
use crate::tcp::recovery::Mode;
use crate::tcp::sequence::Origin;
use crate::tcp::state::{TcpError, TcpState};
use crate::tcp::timers::Timer;

/// After so many timeouts in a row a long segment may be lost in a black hole: a path that
/// neither takes it nor says so (RFC 4821, section 7.7).
const BLACK_HOLE: u8 = 4;

/// The packet lengths to fall back to then: the IPv6 minimum, and what every host takes.
const FALLBACK: [u16; 2] = [1280, 576];

/// Keepalive probes are at least so far apart, whatever the setting.
const LEAST_KEEPALIVE: Duration = Duration::from_millis(1);

impl<B: Buffer, S: SharedPayload> Connection<B, S> {
    /// Does what is due.
    pub(crate) fn on_expiry(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        if self.timers.take(Timer::DelayedAck, now) {
            self.wanted.ack = true;
        }
        if self.timers.take(Timer::Reorder, now) {
            self.detect_loss(self.send.una, cx);
        }
        if self.timers.take(Timer::TailProbe, now) {
            self.wanted.tail_probe = true;
            // RFC 8985, section 7.3: the timeout begins anew with the probe.
            self.timers.set(Timer::Retransmit, now + self.rtt.timeout());
        }
        // Whoever called asks for output then.
        self.timers.take(Timer::Pace, now);
        if self.timers.take(Timer::Retransmit, now) {
            self.on_timeout(cx);
        }
        if self.timers.take(Timer::Keepalive, now) {
            self.on_keepalive(cx);
        }
        if self.timers.take(Timer::Close, now) {
            self.abort();
        }
        if self.timers.take(Timer::User, now) {
            self.on_user_timeout();
        }
        if self.timers.take(Timer::Idle, now) {
            self.send.shrink();
            self.receive.shrink();
            self.recovery.undo = None;
        }
    }

    /// Nothing was acknowledged in time (RFC 6298, rules 5.4 to 5.7), or a closed window is to be
    /// probed.
    fn on_timeout(&mut self, cx: &mut Context<'_>) {
        if self.send.board.is_empty() {
            if self.send.has_unsent() {
                self.wanted.window_probe = true;
                self.rtt.back_off();
            }
            return;
        }
        self.timeouts = self.timeouts.saturating_add(1);
        self.timeouts_in_row = self.timeouts_in_row.saturating_add(1);
        cx.counters.timeouts += 1;
        let is_reneged = self.send.board.is_reneged();
        self.send.board.lose_all(is_reneged);
        self.lose_path_probe(cx.now);
        let is_open = self.state.is_synchronized();
        // A closed window says nothing about the path.
        if is_open && self.send.window > 0 {
            self.enter_loss(cx);
        }
        self.rtt.back_off();
        self.timers
            .set(Timer::Retransmit, cx.now + self.rtt.timeout());
        self.timers.clear(Timer::Reorder);
        self.timers.clear(Timer::TailProbe);
    }

    fn enter_loss(&mut self, cx: &mut Context<'_>) {
        let is_first = self.timeouts_in_row == 1;
        if self.recovery.mode == Mode::Open {
            self.remember_congestion();
        }
        self.recovery.begin_loss(self.send.nxt, is_first);
        self.wanted.tail_probe = false;
        self.tell_reduced = self.negotiated.ecn;
        self.ecn_high = self.send.nxt;
        // RFC 5681, section 3.1: the threshold is not lowered again by the same loss.
        if is_first {
            let flight = self.send.nxt - self.send.una;
            self.congestion.get_mut().on_timeout(cx.now, flight);
        }
        self.escape_black_hole(cx);
    }

    fn escape_black_hole(&mut self, cx: &mut Context<'_>) {
        if !self.timeouts_in_row.is_multiple_of(BLACK_HOLE) {
            return;
        }
        let length = usize::from(self.path_mss) + self.flow.ip_header() + HEADER;
        let shorter = FALLBACK
            .iter()
            .find(|fallback| usize::from(**fallback) < length);
        if let Some(shorter) = shorter
            && self.lower_mtu(*shorter, cx.now)
        {
            cx.counters.path_mtu_lowered += 1;
        }
    }

    /// Asks a silent peer whether it is there, or gives it up (RFC 9293, section 3.8.4).
    fn on_keepalive(&mut self, cx: &mut Context<'_>) {
        let Some(keepalive) = self.options.keepalive else {
            return;
        };
        let due = self.last_received + keepalive.idle;
        if !self.send.board.is_empty() || due > cx.now {
            // Retransmission finds out, or the peer was heard.
            let next = due.max(cx.now + keepalive.interval.max(LEAST_KEEPALIVE));
            return self.timers.set(Timer::Keepalive, next);
        }
        if self.keepalives >= keepalive.probes {
            self.abort();
            self.error = Some(TcpError::KeepaliveTimedOut);
            return;
        }
        self.keepalives += 1;
        self.wanted.keepalive = true;
        let interval = keepalive.interval.max(LEAST_KEEPALIVE);
        self.timers.set(Timer::Keepalive, cx.now + interval);
    }

    fn on_user_timeout(&mut self) {
        let error = match self.state {
            TcpState::SynSent | TcpState::SynReceived => TcpError::ConnectTimedOut,
            _ => TcpError::TimedOut,
        };
        let is_orphan = self.owner == Owner::Nobody;
        let was_heard = self.send.una > Origin::SYN;
        self.end(Some(error));
        // RFC 9293, section 3.8.3: the peer may still be there, on a path that was cut.
        self.wanted.reset = was_heard && !is_orphan;
    }
}
