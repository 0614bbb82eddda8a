//! One queue pair of the device: moves bursts between two rings and a port.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::sys::eventfd::EventFd;
use virtroupe_wire::Instant;

use super::backend::{Packet, Port};
use super::inbound::Inbound;
use super::offloads::Scratch;
use super::outbound::{Outbound, Rules};
use super::ring::{Chain, Ring, RingFault};
use super::stats::EmbeddedStats;
use super::steering::Steering;
use crate::features::FeatureBits;

use closed::Closed;

mod closed;

/// Frames in each direction per step.
pub(super) const BURST: usize = 64;

/// Why a pair stopped working.
#[derive(Debug)]
pub(super) enum PairFault {
    /// The driver broke the rules of ring number `queue`.
    Ring { queue: u16, fault: RingFault },
    /// The backend is gone.
    Backend(io::Error),
}

/// A ring with the notification of its driver.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) ring: Ring,
    pub(super) interrupt: EventFd,
}

impl Queue {
    /// Shows the driver what was used. Returns whether it had to be notified.
    pub(super) fn publish(&mut self) -> bool {
        let notify = self.ring.publish();
        if notify {
            // A full counter is the only failure, and then it is readable anyway.
            let _ = nix::unistd::write(self.interrupt.as_fd(), &1u64.to_ne_bytes());
        }
        notify
    }
}

/// A queue pair. Without rings, before the driver has set them up and after a reset, it does
/// nothing.
pub(super) struct Pair {
    pub(super) index: u16,
    pub(super) receive: Option<Queue>,
    pub(super) transmit: Option<Queue>,
    /// Whether the driver has started this pair.
    pub(super) running: bool,
    pub(super) features: FeatureBits,
    pub(super) stats: EmbeddedStats,
    port: Box<dyn Port>,
    /// A duplicate of the port's file, so that it can be polled without a lock.
    readiness: Option<Arc<OwnedFd>>,
    steering: Arc<Steering>,
    mtu: u16,
    /// The driver posts too few buffers for what waits to be received.
    starved: bool,
    burst: Vec<Packet>,
    scratch: Scratch,
    chains: Vec<Chain>,
    /// Pieces of a frame for the driver that find no buffer yet.
    pieces: VecDeque<Packet>,
}

impl Pair {
    /// # Errors
    /// When the port's file cannot be duplicated.
    pub(super) fn new(
        index: u16,
        port: Box<dyn Port>,
        steering: Arc<Steering>,
        mtu: u16,
    ) -> io::Result<Self> {
        let readiness = port.readiness().map(|file| file.try_clone_to_owned());
        let readiness = readiness.transpose()?.map(Arc::new);
        Ok(Pair {
            index,
            receive: None,
            transmit: None,
            running: false,
            features: FeatureBits::NONE,
            stats: EmbeddedStats::default(),
            port,
            steering,
            mtu,
            starved: false,
            burst: vec![Packet::default(); BURST],
            scratch: Scratch::default(),
            chains: vec![Chain::default()],
            pieces: VecDeque::new(),
            readiness,
        })
    }

    /// Forgets the rings and everything that waited for them.
    pub(super) fn reset(&mut self) {
        if self.running {
            self.port.reset();
        }
        self.running = false;
        self.receive = None;
        self.transmit = None;
        self.starved = false;
        self.pieces.clear();
    }

    /// Starts, with a driver that has accepted `features`.
    pub(super) fn start(&mut self, features: FeatureBits) {
        self.features = features;
        self.port.accept(features);
        self.running = true;
    }

    /// Moves at most one burst each way. Returns how much was done.
    pub(super) fn step(&mut self, now: Instant, link_up: bool) -> Result<usize, PairFault> {
        if !self.running {
            return Ok(0);
        }
        let sent = self.step_transmit(now, link_up).map_err(|fault| {
            self.transmit = None;
            self.stats.ring_faults += 1;
            PairFault::Ring {
                queue: self.index * 2 + 1,
                fault,
            }
        })?;
        Ok(sent + self.step_receive(now, link_up)?)
    }

    fn step_transmit(&mut self, now: Instant, link_up: bool) -> Result<usize, RingFault> {
        let (Some(queue), Some(chain)) = (&mut self.transmit, self.chains.first_mut()) else {
            return Ok(0);
        };
        queue.ring.disable_notifications();
        let mut outbound = Outbound {
            pair: self.index,
            queue,
            chain,
            burst: &mut self.burst,
            scratch: &mut self.scratch,
            steering: &self.steering,
            rules: Rules::new(self.features, self.mtu, link_up),
            stats: &mut self.stats,
            taken: 0,
            filled: 0,
        };
        outbound.transmit(&mut *self.port, now)
    }

    fn step_receive(&mut self, now: Instant, link_up: bool) -> Result<usize, PairFault> {
        let Some(queue) = &mut self.receive else {
            return Ok(0);
        };
        queue.ring.disable_notifications();
        let mut inbound = Inbound {
            ring: &mut queue.ring,
            chains: &mut self.chains,
            pieces: &mut self.pieces,
            scratch: &mut self.scratch,
            features: self.features,
            link_up,
            stats: &mut self.stats,
            starved: false,
            fault: None,
        };
        let work = inbound.receive(&mut *self.port, now, BURST);
        let Inbound { starved, fault, .. } = inbound;
        self.starved = starved;
        if queue.publish() {
            self.stats.interrupts += 1;
        }
        if let Some(fault) = fault {
            self.receive = None;
            self.stats.ring_faults += 1;
            return Err(PairFault::Ring {
                queue: self.index * 2,
                fault,
            });
        }
        work.map_err(|error| {
            self.running = false;
            PairFault::Backend(error)
        })
    }

    /// Asks the driver for the notifications without which the device could sleep through work.
    /// True if there is work already.
    pub(super) fn prepare_sleep(&mut self) -> bool {
        if !self.running {
            return false;
        }
        // A broken index is found, and reported, by the next step.
        let more = |queue: &mut Queue| queue.ring.enable_notifications().unwrap_or(true);
        let transmit = self.transmit.as_mut().is_some_and(more);
        let receive = self.starved && self.receive.as_mut().is_some_and(more);
        transmit || receive
    }

    /// When the port will have something, if it could be delivered.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.can_receive().then(|| self.port.deadline()).flatten()
    }

    /// A file that is readable when the port has something, if it could be delivered.
    pub(super) fn readiness(&self) -> Option<Arc<OwnedFd>> {
        self.readiness.clone().filter(|_| self.can_receive())
    }

    fn can_receive(&self) -> bool {
        self.running && self.receive.is_some() && !self.starved
    }

    /// Closes the port for good.
    pub(super) fn close(&mut self) {
        self.reset();
        self.port = Box::new(Closed);
        self.readiness = None;
    }
}

#[cfg(test)]
mod tests;
