//! A packet source and sink behind the device, for benchmarks.
//!
//! The source fills the receive ring with copies of given frames as fast as buffers are posted;
//! the sink counts what the driver sends, and can compare it with what is expected. There is no
//! wire in between, so every frame that the source counts was given to the device.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use virtroupe_wire::Instant;

use super::backend::{Attachment, Backend, Deliver, Delivery, Packet, Port};
use super::header::NetHeader;
use super::stats::Count;
use crate::transport::TransportError;

/// What a [`PacketSource`] sends to the driver, and what it expects from it. The limits are for
/// each queue pair; the default sends nothing and counts what comes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceConfig {
    /// Ethernet frames, sent one after the other and again from the first. Queue pair n of N
    /// sends every Nth frame, from the nth on, so different pairs carry different flows; a pair
    /// for which none is left sends nothing.
    pub frames: Vec<Vec<u8>>,
    /// Frames after which a pair stops. Default none: it never stops.
    pub count: Option<u64>,
    /// Frames per second and pair. Default none: as fast as the driver posts buffers.
    pub rate: Option<u64>,
    /// With a rate, how many frames may be made up for after a delay. Default 0 means 64.
    pub burst: u64,
    /// Frames that the driver is expected to send, in any order; each other frame counts as
    /// unexpected. Empty, the default: any frame will do.
    pub expected: Vec<Vec<u8>>,
}

/// Counters of a source, over all queue pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceStats {
    /// Given to the device for the driver.
    pub sent: Count,
    /// Received from the driver.
    pub received: Count,
    /// Of these, frames that are not among the expected ones.
    pub unexpected: u64,
}

/// The backend: a source and a sink.
#[derive(Debug)]
pub struct PacketSource {
    config: SourceConfig,
    counters: Arc<Vec<PortCounters>>,
}

/// Reads the counters of a source while the device runs.
#[derive(Debug, Clone)]
pub struct SourceMonitor {
    counters: Arc<Vec<PortCounters>>,
}

/// One pair's counters, on a cache line of their own: written once a burst by the thread that
/// steps the pair.
#[derive(Debug, Default)]
#[repr(align(128))]
struct PortCounters {
    sent_frames: AtomicU64,
    sent_bytes: AtomicU64,
    received_frames: AtomicU64,
    received_bytes: AtomicU64,
    unexpected: AtomicU64,
}

/// More pairs than a device can have.
const PORTS: usize = 128;

impl PacketSource {
    /// A source and sink as `config` says.
    pub fn new(mut config: SourceConfig) -> Self {
        config.expected.sort_unstable();
        PacketSource {
            config,
            counters: Arc::new((0..PORTS).map(|_| PortCounters::default()).collect()),
        }
    }

    /// The counters.
    pub fn monitor(&self) -> SourceMonitor {
        SourceMonitor {
            counters: Arc::clone(&self.counters),
        }
    }
}

impl SourceMonitor {
    /// The sum over all queue pairs.
    pub fn stats(&self) -> SourceStats {
        let mut sum = SourceStats::default();
        for counters in self.counters.iter() {
            let PortCounters {
                sent_frames,
                sent_bytes,
                received_frames,
                received_bytes,
                unexpected,
            } = counters;
            let count = |frames: &AtomicU64, bytes: &AtomicU64| Count {
                frames: frames.load(Ordering::Relaxed),
                bytes: bytes.load(Ordering::Relaxed),
            };
            sum.sent += count(sent_frames, sent_bytes);
            sum.received += count(received_frames, received_bytes);
            sum.unexpected += unexpected.load(Ordering::Relaxed);
        }
        sum
    }
}

impl Backend for PacketSource {
    fn name(&self) -> String {
        "source".into()
    }

    fn open(self: Box<Self>, device: &Attachment) -> Result<Vec<Box<dyn Port>>, TransportError> {
        let config = Arc::new(self.config);
        let pairs = usize::from(device.pairs);
        let port = |pair| -> Box<dyn Port> {
            Box::new(SourcePort {
                pair,
                frames: config
                    .frames
                    .iter()
                    .skip(pair)
                    .step_by(pairs)
                    .cloned()
                    .collect(),
                config: Arc::clone(&config),
                counters: Arc::clone(&self.counters),
                next: 0,
                sent: Count::default(),
                received: Count::default(),
                unexpected: 0,
                pace: None,
            })
        };
        Ok((0..pairs).map(port).collect())
    }
}

struct SourcePort {
    pair: usize,
    frames: Vec<Vec<u8>>,
    config: Arc<SourceConfig>,
    counters: Arc<Vec<PortCounters>>,
    next: usize,
    sent: Count,
    received: Count,
    unexpected: u64,
    /// With a rate: when the next frame is due. Starts at the first call.
    pace: Option<Instant>,
}

impl SourcePort {
    /// How many frames may be sent now, by count and rate.
    fn allowance(&mut self, now: Instant) -> u64 {
        let left = match self.config.count {
            Some(count) => count.saturating_sub(self.sent.frames),
            None => u64::MAX,
        };
        let Some(interval) = self.interval() else {
            return left;
        };
        let burst = if self.config.burst == 0 {
            64
        } else {
            self.config.burst
        };
        let oldest = now - interval.saturating_mul(u32::try_from(burst - 1).unwrap_or(u32::MAX));
        let due = self.pace.unwrap_or(now).max(oldest);
        self.pace = Some(due);
        if due > now {
            return 0;
        }
        let behind = now.since(due).as_nanos() / interval.as_nanos().max(1);
        left.min(u64::try_from(behind).unwrap_or(u64::MAX).saturating_add(1))
    }

    fn interval(&self) -> Option<Duration> {
        let rate = self.config.rate?.max(1);
        Some(Duration::from_nanos((1_000_000_000 / rate).max(1)))
    }

    fn publish(&self) {
        let Some(counters) = self.counters.get(self.pair) else {
            return;
        };
        for (counter, value) in [
            (&counters.sent_frames, self.sent.frames),
            (&counters.sent_bytes, self.sent.bytes),
            (&counters.received_frames, self.received.frames),
            (&counters.received_bytes, self.received.bytes),
            (&counters.unexpected, self.unexpected),
        ] {
            counter.store(value, Ordering::Relaxed);
        }
    }
}

impl Port for SourcePort {
    fn transmit(&mut self, _now: Instant, burst: &mut [Packet]) -> Count {
        for packet in burst.iter() {
            self.received.add(packet.bytes.len());
            let expected = &self.config.expected;
            if !expected.is_empty() && expected.binary_search(&packet.bytes).is_err() {
                self.unexpected += 1;
            }
        }
        self.publish();
        Count::default()
    }

    fn receive(
        &mut self,
        now: Instant,
        limit: usize,
        deliver: &mut Deliver<'_>,
    ) -> io::Result<usize> {
        let allowed = self.allowance(now).min(limit as u64);
        let before = self.sent.frames;
        while self.sent.frames - before < allowed {
            let Some(frame) = self.frames.get(self.next) else {
                break;
            };
            if deliver(&NetHeader::default(), frame) == Delivery::NoBuffer {
                break;
            }
            self.sent.add(frame.len());
            self.next += 1;
            if self.next == self.frames.len() {
                self.next = 0;
            }
        }
        let sent = self.sent.frames - before;
        if let (Some(pace), Some(interval)) = (self.pace, self.interval()) {
            let steps = u32::try_from(sent).unwrap_or(u32::MAX);
            self.pace = Some(pace + interval.saturating_mul(steps));
        }
        if sent > 0 {
            self.publish();
        }
        Ok(usize::try_from(sent).unwrap_or(limit))
    }

    fn deadline(&self) -> Option<Instant> {
        let done = self.frames.is_empty()
            || self
                .config
                .count
                .is_some_and(|count| self.sent.frames >= count);
        self.pace.filter(|_| !done)
    }
}
