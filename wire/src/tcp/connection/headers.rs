//! The headers of what a connection sends: flags, options, and the window (RFC 9293, section 3.1;
//! RFC 7323; RFC 2018; RFC 3168).

use super::{Connection, Context};
use crate::buffer::Buffer;
use crate::tcp::header::{HeaderOptions, SackBlock, SackBlocks, TcpFlags};
use crate::tcp::payload::SharedPayload;
use crate::tcp::reassembly::Range;
use crate::tcp::segment::Outgoing;
use crate::tcp::sequence::{Origin, SeqNumber, WindowScale};
use crate::tcp::state::TcpState;
use crate::tcp::timers::Timer;
use crate::tcp::user_timeout;
use crate::time::Instant;

impl<B: Buffer, S: SharedPayload> Connection<B, S> {
    pub(super) fn flags_of(
        &mut self,
        range: Range,
        data_end: u64,
        is_new: bool,
        length: u64,
    ) -> TcpFlags {
        if range.start == Origin::SYN {
            return self.syn_flags();
        }
        let mut flags = TcpFlags::ACK;
        if length > 0 && data_end == self.send.queue.end() {
            flags = flags.with(TcpFlags::PSH);
        }
        if range.end > self.send.queue.end() {
            flags = flags.with(TcpFlags::FIN);
        }
        if is_new && length > 0 && std::mem::take(&mut self.tell_reduced) {
            flags = flags.with(TcpFlags::CWR);
        }
        flags
    }

    /// RFC 3168, section 6.1.1: both bits offer ECN, the first alone accepts it; and an offer
    /// that was not answered is not repeated (section 6.1.1.1).
    fn syn_flags(&self) -> TcpFlags {
        let ecn = TcpFlags::ECE;
        match self.state {
            TcpState::SynSent if self.options.ecn && self.timeouts == 0 => {
                TcpFlags::SYN.with(ecn).with(TcpFlags::CWR)
            }
            TcpState::SynSent => TcpFlags::SYN,
            _ if self.negotiated.ecn => TcpFlags::SYN.with(TcpFlags::ACK).with(ecn),
            _ => TcpFlags::SYN.with(TcpFlags::ACK),
        }
    }

    /// The options of a segment; a SYN has others.
    pub(super) fn header_options(&self, now: Instant) -> HeaderOptions {
        let mut options = HeaderOptions::default();
        if self.negotiated.timestamps {
            options.timestamps = Some(self.timestamps(now));
        }
        if self.negotiated.sack && self.receive.has_blocks() {
            options.sack = self.sack_blocks();
        }
        if self.wanted.user_timeout {
            options.user_timeout = user_timeout::announced(&self.options);
        }
        options
    }

    fn sack_blocks(&self) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        let most = if self.negotiated.timestamps { 3 } else { 4 };
        for range in self.receive.blocks().take(most) {
            blocks.push(SackBlock {
                start: self.receive.origin.number(range.start),
                end: self.receive.origin.number(range.end),
            });
        }
        blocks
    }

    /// The options of a SYN: what is offered, or of that what was agreed on.
    fn syn_options(&self, mtu: u16, now: Instant) -> HeaderOptions {
        let ours = &self.options;
        let is_first = self.state == TcpState::SynSent;
        let agreed = &self.negotiated;
        let mut timestamps = self.timestamps(now);
        if is_first {
            timestamps.echo = 0;
        }
        HeaderOptions {
            mss: Some(ours.announced_mss(mtu, self.flow.ip_header())),
            window_scale: match is_first {
                true => ours.scale(),
                false => agreed.scaling.then_some(agreed.our_scale),
            },
            sack_permitted: if is_first { ours.sack } else { agreed.sack },
            timestamps: (if is_first {
                ours.timestamps
            } else {
                agreed.timestamps
            })
            .then_some(timestamps),
            sack: SackBlocks::default(),
            user_timeout: user_timeout::announced(ours),
        }
    }

    /// Fills in the header; its options are there, but those of a SYN. Whatever it is, it
    /// acknowledges what has arrived.
    pub(super) fn write_header(
        &mut self,
        sequence: u64,
        flags: TcpFlags,
        cx: &mut Context<'_>,
        out: &mut Outgoing<S>,
    ) {
        let is_syn = flags.contains(TcpFlags::SYN);
        let is_ack = flags.contains(TcpFlags::ACK);
        let scale = match is_syn {
            true => WindowScale::default(),
            false => self.negotiated.our_scale,
        };
        let mut flags = flags;
        if is_ack {
            // Memory that is short is not promised to more data.
            if !cx.is_memory_full {
                self.move_edge(scale);
            }
            if self.echo_congestion && !is_syn {
                flags = flags.with(TcpFlags::ECE);
            }
            self.ack_sent = self.receive.next;
            self.unacknowledged_segments = 0;
            self.receive.duplicate = None;
            self.wanted.ack = false;
            self.wanted.user_timeout &= is_syn;
            self.timers.clear(Timer::DelayedAck);
        }
        let window = match is_ack {
            true => self.receive.window(),
            false => self.options.first_buffer() as u64,
        };
        cx.counters.tx_segments += 1;
        if is_syn {
            out.header.options = self.syn_options(cx.mtu, cx.now);
        }
        let header = &mut out.header;
        header.source_port = self.flow.local_port();
        header.destination_port = self.flow.remote_port();
        header.sequence = self.send.origin.number(sequence);
        header.acknowledgment = match is_ack {
            true => self.receive.origin.number(self.receive.next),
            false => SeqNumber::default(),
        };
        header.flags = flags;
        header.window = scale.field(window);
        header.urgent = 0;
    }

    /// Opens the window as far as memory and the header allow.
    fn move_edge(&mut self, scale: WindowScale) {
        let most = self.receive.next + scale.window(u16::MAX);
        let edge = self.receive.movable_edge(self.receive_segment_size());
        self.receive.edge = self.receive.edge.max(edge.min(most));
    }

    /// A reset that the peer believes: exactly what it expects.
    pub(super) fn write_reset(&mut self, cx: &mut Context<'_>, out: &mut Outgoing<S>) {
        cx.counters.resets_sent += 1;
        let flags = TcpFlags::RST.with(TcpFlags::ACK);
        out.header.options = HeaderOptions {
            sack: SackBlocks::default(),
            ..self.header_options(cx.now)
        };
        self.write_header(self.send.nxt, flags, cx, out);
    }
}
