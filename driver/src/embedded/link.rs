//! An in-memory link between two embedded devices, with the faults of real ones.
//!
//! Everything that happens to a frame follows from the configuration, the seed, the order of the
//! frames and the time that the devices are stepped with; so a test repeats exactly.
//!
//! A packet that one driver sends with offloads passes the link as it is if the other driver takes
//! it so: then it never was on a wire. Where the link has an MTU, or does things to single frames
//! that a wire does, the sending device completes and cuts it before.

mod direction;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use virtroupe_wire::Instant;

use super::backend::{Attachment, Backend, Deliver, Packet, Port};
use super::stats::Count;
use crate::features::FeatureBits;
use crate::transport::TransportError;

use direction::Direction;
pub use direction::LinkStats;

/// Properties of one direction of a link. The default is a link that is as fast as its devices
/// and loses nothing but what exceeds its queue.
///
/// Probabilities are per frame, from 0 (never, the default) to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkConfig {
    /// From the end of sending to arrival. Default zero.
    pub latency: Duration,
    /// Bits per second, counting frames without preamble and check sequence. Default 0: no limit.
    pub rate: u64,
    /// Frames under way or waiting for the receiver, default 4096. What exceeds it is dropped.
    /// A link with latency needs at least its rate times its latency.
    pub queue_limit: usize,
    /// Longest IP packet in bytes; longer frames are dropped. Default 0: no limit.
    pub mtu: usize,
    /// Probability that a frame is lost.
    pub loss: f64,
    /// Mean number of frames lost in a row (a Gilbert model), at least 1, which is the default
    /// and makes losses independent.
    pub loss_burst: f64,
    /// Probability that a frame arrives late by `reorder_delay`, and so behind later ones.
    pub reorder: f64,
    /// How late such a frame is. Default 1 ms.
    pub reorder_delay: Duration,
    /// Probability that a frame arrives twice.
    pub duplicate: f64,
    /// Probability that one bit of a frame, anywhere in it, is inverted.
    pub corrupt: f64,
    /// Seed of everything that is random. The two directions draw different numbers from it.
    pub seed: u64,
}

impl Default for LinkConfig {
    fn default() -> Self {
        LinkConfig {
            latency: Duration::ZERO,
            rate: 0,
            queue_limit: 4096,
            mtu: 0,
            loss: 0.0,
            loss_burst: 1.0,
            reorder: 0.0,
            reorder_delay: Duration::from_millis(1),
            duplicate: 0.0,
            corrupt: 0.0,
            seed: 0,
        }
    }
}

impl LinkConfig {
    /// Whether nothing on the link regards single frames of a wire.
    fn passes_whole(&self) -> bool {
        let faults = [self.loss, self.reorder, self.duplicate, self.corrupt];
        self.mtu == 0 && faults.iter().all(|probability| *probability <= 0.0)
    }
}

/// Makes links.
#[derive(Debug, Clone, Copy)]
pub struct Link;

impl Link {
    /// A link with the same properties in both directions.
    pub fn pair(config: LinkConfig) -> (LinkEnd, LinkEnd) {
        Self::asymmetric(config.clone(), config)
    }

    /// A link whose properties differ: `forth` from the first end to the second, and `back`.
    pub fn asymmetric(forth: LinkConfig, back: LinkConfig) -> (LinkEnd, LinkEnd) {
        let forth = Arc::new(Direction::new(forth, 0));
        let back = Arc::new(Direction::new(back, 1));
        (
            LinkEnd {
                outbound: Arc::clone(&forth),
                inbound: Arc::clone(&back),
            },
            LinkEnd {
                outbound: back,
                inbound: forth,
            },
        )
    }
}

/// One end of a link: the backend of one device.
#[derive(Debug)]
pub struct LinkEnd {
    outbound: Arc<Direction>,
    inbound: Arc<Direction>,
}

impl LinkEnd {
    /// Counters of the link, seen from this end, readable while the device runs.
    pub fn monitor(&self) -> LinkMonitor {
        LinkMonitor {
            outbound: Arc::clone(&self.outbound),
            inbound: Arc::clone(&self.inbound),
        }
    }
}

/// Reads the counters of a link.
#[derive(Debug, Clone)]
pub struct LinkMonitor {
    outbound: Arc<Direction>,
    inbound: Arc<Direction>,
}

impl LinkMonitor {
    /// What left this end.
    pub fn outbound(&self) -> LinkStats {
        self.outbound.stats()
    }

    /// What comes to this end.
    pub fn inbound(&self) -> LinkStats {
        self.inbound.stats()
    }
}

impl Backend for LinkEnd {
    fn name(&self) -> String {
        "link".into()
    }

    fn open(self: Box<Self>, device: &Attachment) -> Result<Vec<Box<dyn Port>>, TransportError> {
        self.inbound.attach_receiver(device);
        let port = |queue| -> Box<dyn Port> {
            Box::new(LinkPort {
                queue: usize::from(queue),
                outbound: Arc::clone(&self.outbound),
                inbound: Arc::clone(&self.inbound),
            })
        };
        Ok((0..device.pairs).map(port).collect())
    }
}

/// One queue pair's access to a link.
struct LinkPort {
    queue: usize,
    outbound: Arc<Direction>,
    inbound: Arc<Direction>,
}

impl Port for LinkPort {
    fn takes(&self, packet: &Packet) -> bool {
        self.outbound.takes(packet)
    }

    fn accept(&mut self, features: FeatureBits) {
        self.inbound.accept(features);
    }

    fn transmit(&mut self, now: Instant, burst: &mut [Packet]) -> Count {
        self.outbound.send(now, burst);
        Count::default()
    }

    fn receive(
        &mut self,
        now: Instant,
        limit: usize,
        deliver: &mut Deliver<'_>,
    ) -> io::Result<usize> {
        Ok(self.inbound.receive(now, self.queue, limit, deliver))
    }

    fn deadline(&self) -> Option<Instant> {
        self.inbound.deadline()
    }

    fn reset(&mut self) {
        self.inbound.accept(FeatureBits::NONE);
        self.inbound.flush();
    }
}
