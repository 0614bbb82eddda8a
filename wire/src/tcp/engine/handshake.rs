//! Connections that peers ask for: listeners, half-open records, SYN cookies (RFC 9293, sections
//! 3.10.7.2 and 3.10.7.4; RFC 4987; RFC 5961).

use std::time::Duration;

use super::{Entry, TcpEngine, Told};
use crate::buffer::Buffer;
use crate::drops::DropReason;
use crate::tcp::config::TcpOptions;
use crate::tcp::connection::{Connection, Negotiated, Opened, Refusal, clock};
use crate::tcp::cookies;
use crate::tcp::header::{TcpFlags, TcpHeader, Timestamps};
use crate::tcp::payload::SharedPayload;
use crate::tcp::records::{HalfOpen, Offer, SynAck};
use crate::tcp::segment::Handled;
use crate::tcp::sequence::SeqNumber;
use crate::tcp::user_timeout;
use crate::time::Instant;

/// How long after a cookie was sent one is looked for in acknowledgments.
const COOKIE_LIFETIME: Duration = Duration::from_secs(130);

impl<B: Buffer, S: SharedPayload> TcpEngine<B, S> {
    /// Handles a segment of no connection that we know (RFC 9293, sections 3.10.7.1 and
    /// 3.10.7.2).
    pub(super) fn receive_stranger(
        &mut self,
        now: Instant,
        hash: u64,
        segment: Handled<'_, B>,
    ) -> Result<(), Refusal> {
        let flags = segment.header.flags;
        let refused = |reset| Refusal {
            reason: DropReason::NoSocket,
            reset,
        };
        let Some(listener) = self.listeners.find(segment.flow) else {
            return Err(refused(true));
        };
        if self.listeners.at(listener).is_some_and(|it| it.is_held) {
            return Err(DropReason::ListenerNotReady.into());
        }
        if flags.contains(TcpFlags::RST) {
            return Err(refused(false));
        }
        if flags.contains(TcpFlags::ACK) {
            return self.receive_cookie(now, hash, listener, segment);
        }
        if !flags.contains(TcpFlags::SYN) || flags.contains(TcpFlags::FIN) {
            return Err(DropReason::BadFlags.into());
        }
        self.receive_syn(now, hash, listener, &segment, None)
    }

    /// Somebody asks for a connection. What a SYN carries besides is sent again by its sender.
    /// Our initial sequence number is not before `least`.
    pub(super) fn receive_syn(
        &mut self,
        now: Instant,
        hash: u64,
        listener: u32,
        segment: &Handled<'_, B>,
        least: Option<SeqNumber>,
    ) -> Result<(), Refusal> {
        let flow = *segment.flow;
        let is_plausible = flow.remote_port() != 0 && !flow.addresses().1.is_multicast();
        let Some(entry) = self.listeners.at(listener).filter(|_| is_plausible) else {
            return Err(DropReason::BadSource.into());
        };
        if entry.is_full() {
            return Err(DropReason::BacklogFull.into());
        }
        let options = &entry.options;
        let header = &*segment.header;
        let (initial, timestamp_offset) = self.secrets.first_numbers(now, &flow);
        let initial = least
            .filter(|least| initial.is_before(*least))
            .unwrap_or(initial);
        let mut opened = Opened {
            flow,
            ours: options.initial_sequence.unwrap_or(initial),
            theirs: header.sequence,
            negotiated: agree(options, header),
            peer_mss: header.options.mss,
            recent: header.options.timestamps.map_or(0, |it| it.value),
            timestamp_offset,
            sent: Some(now),
        };
        if self.half_open.len() < self.config.half_open {
            let value = clock(now).wrapping_add(timestamp_offset);
            self.send_syn_ack(&opened, value, listener)?;
            let record = HalfOpen::new(&opened, listener, now);
            let key = self.half_open.insert(record);
            self.attach(hash, Entry::HalfOpen(key.index));
            self.half_open_timers
                .arm(now, key.index, now + record.timeout());
            self.counters.half_opened += 1;
            return Ok(());
        }
        // RFC 4987, section 3.6: too many are half-open, so nothing is kept.
        let peer_mss = opened.peer_mss.unwrap_or(0);
        opened.ours = cookies::make(&self.secrets, &flow, opened.theirs, peer_mss, now);
        if !opened.negotiated.timestamps {
            opened.negotiated = Negotiated::default();
        }
        let offer = Offer::new(&opened.negotiated);
        let value = cookies::timestamp(now, timestamp_offset, offer);
        self.send_syn_ack(&opened, value, listener)?;
        self.counters.cookies_sent += 1;
        if let Some(entry) = self.listeners.at_mut(listener) {
            entry.cookie_sent = Some(now);
        }
        Ok(())
    }

    fn send_syn_ack(
        &mut self,
        opened: &Opened,
        timestamp: u32,
        listener: u32,
    ) -> Result<(), Refusal> {
        let Some(entry) = self.listeners.at(listener) else {
            return Err(DropReason::NoSocket.into());
        };
        let options = &entry.options;
        let syn_ack = SynAck {
            ours: opened.ours,
            theirs: opened.theirs,
            agreed: opened.negotiated,
            mss: options.announced_mss(self.config.mtu, opened.flow.ip_header()),
            window: handshake_window(options),
            timestamps: Timestamps {
                value: timestamp,
                echo: opened.recent,
            },
            user_timeout: user_timeout::announced(options),
        };
        let dscp = options.dscp;
        self.reply(opened.flow, syn_ack.header(&opened.flow), dscp)
    }

    /// An acknowledgment of no connection: perhaps of a cookie.
    fn receive_cookie(
        &mut self,
        now: Instant,
        hash: u64,
        listener: u32,
        segment: Handled<'_, B>,
    ) -> Result<(), Refusal> {
        let refused = Refusal {
            reason: DropReason::NoSocket,
            reset: true,
        };
        let entry = self.listeners.at(listener).ok_or(refused)?;
        let is_recent = entry
            .cookie_sent
            .is_some_and(|sent| now.since(sent) < COOKIE_LIFETIME);
        if !is_recent || segment.header.flags.contains(TcpFlags::SYN) {
            return Err(refused);
        }
        let scale = entry.options.scale();
        let opened = cookies::open(&self.secrets, segment.flow, segment.header, scale, now);
        let opened = opened.ok_or(refused)?;
        let index = self.open(now, hash, listener, &opened)?;
        self.attach(hash, Entry::Connection(index));
        self.counters.cookies_accepted += 1;
        self.receive_for(now, index, segment)
    }

    /// Handles a segment of a half-open connection (RFC 9293, section 3.10.7.4).
    pub(super) fn receive_half_open(
        &mut self,
        now: Instant,
        hash: u64,
        index: u32,
        segment: Handled<'_, B>,
    ) -> Result<(), Refusal> {
        let Some(record) = self.half_open.at(index).copied() else {
            return Err(DropReason::NoSocket.into());
        };
        let Some(options) = self.listener_of(&record) else {
            self.remove_half_open(index);
            return Err(Refusal {
                reason: DropReason::NoSocket,
                reset: true,
            });
        };
        let header = &*segment.header;
        let window = handshake_window(options) as i64;
        let scale = options.scale();
        let ahead = i64::from(header.sequence.distance(record.theirs + 1));
        let is_within = (0..window).contains(&ahead);
        if header.flags.contains(TcpFlags::RST) {
            if ahead == 0 {
                self.counters.half_open_failed += 1;
                self.remove_half_open(index);
                return Ok(());
            }
            // RFC 5961, section 3.2.
            return match is_within {
                true => self.refuse_half_open(now, &record, DropReason::OutOfWindow),
                false => Err(DropReason::OutOfWindow.into()),
            };
        }
        if header.flags.contains(TcpFlags::SYN) {
            return self.receive_syn_again(now, index, header);
        }
        if !is_within {
            return self.refuse_half_open(now, &record, DropReason::OutOfWindow);
        }
        if let Err(reason) = record.check_timestamp(header) {
            return match header.options.timestamps {
                Some(_) => self.refuse_half_open(now, &record, reason),
                None => Err(reason.into()),
            };
        }
        if !header.flags.contains(TcpFlags::ACK) {
            return Err(DropReason::BadFlags.into());
        }
        if header.acknowledgment != record.ours + 1 {
            return Err(Refusal {
                reason: DropReason::BadAck,
                reset: true,
            });
        }
        let offset = self.secrets.timestamp_offset(&record.flow);
        let opened = record.opened(scale, offset, now);
        // If there is no room the record stays: the peer believes that the connection is open, and
        // tries again.
        let connection = self.open(now, hash, record.listener, &opened)?;
        self.half_open_timers.disarm(index);
        self.half_open.remove(index);
        let (old, new) = (Entry::HalfOpen(index), Entry::Connection(connection));
        self.replace(hash, old, new);
        self.receive_for(now, connection, segment)
    }

    /// Handles a SYN of a half-open connection.
    fn receive_syn_again(
        &mut self,
        now: Instant,
        index: u32,
        header: &TcpHeader,
    ) -> Result<(), Refusal> {
        let Some(record) = self.half_open.at_mut(index) else {
            return Err(DropReason::NoSocket.into());
        };
        let is_same = header.sequence == record.theirs && !header.flags.contains(TcpFlags::ACK);
        // Our answer was lost, or is late.
        record.is_repeated |= is_same;
        let record = *record;
        match is_same {
            true => self.repeat_syn_ack(now, &record),
            // One who began anew resets the old attempt then (RFC 5961, section 4.2).
            false => self.refuse_half_open(now, &record, DropReason::BadFlags),
        }
    }

    /// Answers what is not acceptable with what we expect, and drops it for `reason`. One answer
    /// of the same length to each: nobody gains by asking.
    fn refuse_half_open(
        &mut self,
        now: Instant,
        record: &HalfOpen,
        reason: DropReason,
    ) -> Result<(), Refusal> {
        let timestamps = record.timestamp().map(|echo| Timestamps {
            value: self.timestamp(now, &record.flow),
            echo,
        });
        // The window of the SYN-ACK: a peer for whom the connection is open believes this one.
        let window = self.listener_of(record).map_or(0, |options| {
            let scale = record.offer.negotiated(options.scale()).our_scale;
            scale.field(handshake_window(options))
        });
        let (ours, theirs) = (record.ours + 1, record.theirs + 1);
        self.acknowledge(record.flow, ours, theirs, window, timestamps)?;
        self.counters.challenge_acks += 1;
        Err(reason.into())
    }

    /// Sends a SYN-ACK again.
    fn repeat_syn_ack(&mut self, now: Instant, record: &HalfOpen) -> Result<(), Refusal> {
        let Some(options) = self.listener_of(record) else {
            return Err(DropReason::NoSocket.into());
        };
        let scale = options.scale();
        let offset = self.secrets.timestamp_offset(&record.flow);
        let opened = record.opened(scale, offset, now);
        let value = clock(now).wrapping_add(offset);
        self.send_syn_ack(&opened, value, record.listener)?;
        self.counters.retransmits += 1;
        Ok(())
    }

    /// The settings of the listener that a record belongs to, if it is still there.
    fn listener_of(&self, record: &HalfOpen) -> Option<&TcpOptions> {
        let listener = self.listeners.at(record.listener)?;
        // Another may have its place since.
        listener
            .serves(&record.flow)
            .then_some(listener.options.as_ref())
    }

    /// Whether no connection can be made for this listener now.
    fn is_full(&self, listener: u32) -> bool {
        let is_backlog_full = self
            .listeners
            .at(listener)
            .is_none_or(|entry| entry.is_full());
        is_backlog_full || self.connections.len() >= self.config.connections
    }

    /// A handshake is over: makes the connection, for its listener to be accepted. Returns where it
    /// is; the caller makes its flow, whose hash this is, lead there.
    fn open(
        &mut self,
        now: Instant,
        hash: u64,
        listener: u32,
        opened: &Opened,
    ) -> Result<u32, Refusal> {
        if self.is_full(listener) {
            return Err(DropReason::BacklogFull.into());
        }
        let Some(entry) = self.listeners.at_mut(listener) else {
            return Err(DropReason::NoSocket.into());
        };
        let (options, mtu) = (entry.options.clone(), self.config.mtu);
        let key = self
            .connections
            .insert_with(|| Connection::new(opened.flow, options, opened.ours, mtu, now));
        if let Some(connection) = self.connections.at_mut(key.index) {
            connection.is_attached = true;
            connection.hash = hash;
            connection.accept(opened, listener, now);
            if let Some(queues) = self.spare.take() {
                connection.adopt(queues);
            }
        }
        entry.ready.push_back(key);
        if !entry.is_told {
            entry.is_told = true;
            self.agenda.events.push_back(Told::Listener(listener));
        }
        self.last_found = key.index;
        self.counters.opened += 1;
        Ok(key.index)
    }

    /// A half-open connection was not acknowledged in time.
    pub(super) fn expire_half_open(&mut self, now: Instant, index: u32) {
        let Some(record) = self.half_open.at_mut(index) else {
            return;
        };
        if record.retries >= self.config.syn_ack_retries {
            self.counters.half_open_failed += 1;
            return self.remove_half_open(index);
        }
        record.retries += 1;
        record.is_repeated = true;
        let record = *record;
        self.half_open_timers
            .arm(now, index, now + record.timeout());
        // If too many answers wait, the next time will do.
        let _ = self.repeat_syn_ack(now, &record);
    }

    fn remove_half_open(&mut self, index: u32) {
        self.half_open_timers.disarm(index);
        if let Some(record) = self.half_open.at(index).copied() {
            let hash = self.secrets.table_hash(&record.flow);
            self.detach(hash, Entry::HalfOpen(index));
            self.half_open.remove(index);
        }
    }
}

/// The window in bytes of a connection that is not open yet: no SYN-ACK can announce more, as its
/// own is not scaled (RFC 7323, section 2.2).
fn handshake_window(options: &TcpOptions) -> u64 {
    options.first_buffer().min(u16::MAX.into()) as u64
}

/// What a SYN and our settings have in common (RFC 7323, section 1.3; RFC 2018, section 2; RFC
/// 3168, section 6.1.1).
fn agree(options: &TcpOptions, syn: &TcpHeader) -> Negotiated {
    let offered = &syn.options;
    let scales = offered.window_scale.zip(options.scale());
    let (peer_scale, our_scale) = scales.unwrap_or_default();
    let is_ecn = syn.flags.contains(TcpFlags::ECE.with(TcpFlags::CWR));
    Negotiated {
        timestamps: options.timestamps && offered.timestamps.is_some(),
        sack: options.sack && offered.sack_permitted,
        ecn: options.ecn && is_ecn,
        scaling: scales.is_some(),
        peer_scale,
        our_scale,
    }
}
