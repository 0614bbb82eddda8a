//! What stands behind the embedded device: the other side of its wire.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use virtroupe_wire::Instant;

use super::header::NetHeader;
use super::memory::GuestMemory;
use super::ring::Segment;
use super::runner::Waker;
use super::stats::Count;
use super::steering::Steering;
use crate::features::FeatureBits;
use crate::transport::TransportError;

/// A frame in memory of the device, with the header that the driver gave it.
#[derive(Debug, Clone, Default)]
pub struct Packet {
    /// The offloads that the frame asks for.
    pub header: NetHeader,
    /// The Ethernet frame, without header and check sequence.
    pub bytes: Vec<u8>,
}

/// A frame that the driver sends, in its memory. The driver may change it at any time, so it can be
/// handed to the operating system, and not be read here.
#[derive(Debug)]
pub struct LentFrame<'a> {
    header: NetHeader,
    memory: &'a GuestMemory,
    /// With the header that was read in front.
    segments: &'a [Segment],
}

impl<'a> LentFrame<'a> {
    pub(super) fn new(header: NetHeader, memory: &'a GuestMemory, segments: &'a [Segment]) -> Self {
        LentFrame {
            header,
            memory,
            segments,
        }
    }

    /// Writes the frame to `file` behind its header, with one system call.
    ///
    /// # Errors
    /// What the operating system says, or that the frame is in too many pieces for it.
    pub fn write_to(&self, file: BorrowedFd<'_>) -> io::Result<usize> {
        let header = self.header.to_bytes();
        self.memory
            .write_to(file, &header, self.segments, NetHeader::LENGTH)
    }
}

/// What became of a frame that a backend offered to the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The device is done with it: delivered, or dropped and counted by the device.
    Taken,
    /// The driver has posted no buffer for it. The backend keeps it and offers it again.
    NoBuffer,
}

/// Hands one frame to the driver, with what is left to do for it or known of it (section
/// 5.1.6.4); `num_buffers` is the device's and not looked at.
pub type Deliver<'a> = dyn FnMut(&NetHeader, &[u8]) -> Delivery + 'a;

/// What a backend needs to know of the device that it serves.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Number of queue pairs; the backend returns as many ports.
    pub pairs: u16,
    /// Wakes the device's thread.
    pub(super) waker: Arc<Waker>,
    /// Chooses the queue on which the driver receives a frame.
    pub(super) steering: Arc<Steering>,
}

/// The other side of the device's wire, before the device is made.
pub trait Backend: Send {
    /// What the backend is, for the name of the device: `tap:virtroupe0`.
    fn name(&self) -> String;

    /// Whether each frame that it receives costs so much that long ones are worth a header that is
    /// written for each. Default: no.
    fn prefers_large_receive(&self) -> bool {
        false
    }

    /// Opens one [`Port`] for each queue pair.
    ///
    /// # Errors
    /// When the operating system refuses, with what to do about it.
    fn open(self: Box<Self>, device: &Attachment) -> Result<Vec<Box<dyn Port>>, TransportError>;
}

/// The part of a backend that serves one queue pair. The device calls it once per burst.
pub trait Port: Send {
    /// Takes a burst that the driver sent. The backend may swap the buffers of the packets for
    /// others. Returns how much of it was refused by the operating system, and so dropped.
    fn transmit(&mut self, now: Instant, burst: &mut [Packet]) -> Count;

    /// Whether [`transmit`](Self::transmit) does what the header of `packet` asks for. If not, which
    /// is the default, the device does it before: the packet then asks for nothing.
    fn takes(&self, _packet: &Packet) -> bool {
        false
    }

    /// Whether frames that the driver sends go to [`transmit_in_place`](Self::transmit_in_place), and
    /// not, copied, to [`transmit`](Self::transmit). Such a port takes whatever headers ask for.
    /// Default: no.
    fn transmits_in_place(&self) -> bool {
        false
    }

    /// Takes a frame from where it lies in memory. Returns whether the operating system took it;
    /// else it is dropped.
    fn transmit_in_place(&mut self, _now: Instant, _frame: &LentFrame<'_>) -> bool {
        false
    }

    /// The driver has accepted `features`, and starts. What of them are receive offloads, the
    /// backend may leave undone on the frames that it offers, and say so in their headers. A
    /// backend need not care: the device does what the driver does not take.
    fn accept(&mut self, _features: FeatureBits) {}

    /// Offers at most `limit` frames to `deliver`, until it says [`Delivery::NoBuffer`]. Returns
    /// how much was done; zero means that it is of no use to call again at once.
    ///
    /// # Errors
    /// When the backend is gone; the device then reports itself lost.
    fn receive(
        &mut self,
        now: Instant,
        limit: usize,
        deliver: &mut Deliver<'_>,
    ) -> io::Result<usize>;

    /// When [`receive`](Self::receive) will have something that it does not have now.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// A file that is readable when [`receive`](Self::receive) has something.
    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The driver reset the device: forget what waits to be received, and what was accepted.
    fn reset(&mut self) {}
}

#[cfg(test)]
pub(super) mod one_frame;
