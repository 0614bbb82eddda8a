//! Runs of received datagrams for one socket, the common case: what was found for the first
//! serves the others.

use std::net::{SocketAddr, SocketAddrV4};
use std::vec::Drain;

use super::Host;
use super::addresses::Masked;
use super::fast::{self, FastUdp};
use crate::buffer::{Allocator, Buffer};
use crate::drops::DropReason;
use crate::mac::MacAddr;
use crate::offload::{ChecksumState, Offload};
use crate::reserved::push_reserved;
use crate::time::Instant;
use crate::udp::{UdpDatagram, UdpSocketId};

/// A frame, and what it is if it is of the common kind.
type Read<B> = (Option<FastUdp>, B);

/// Who gets datagrams that are like one of which that was found out.
#[derive(Debug, Clone, Copy)]
struct Run {
    socket: UdpSocketId,
    /// Whether the socket gets all that is sent to the port; else only what has equal addresses
    /// and ports.
    is_whole_port: bool,
    /// The prefix of ours that its destination is in.
    owner: Masked,
}

impl<B: Buffer> Host<B> {
    /// Handles complete Ethernet frames, in order.
    pub(super) fn receive_burst<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        burst: &mut Vec<B>,
        pool: &mut A,
    ) {
        let mac = self.mac;
        let mut frames = burst.drain(..);
        let mut next = frames.next().map(|frame| read(frame, mac));
        while let Some((fast, frame)) = next {
            let run = fast.and_then(|fast| Some((self.find_run(&fast)?, fast)));
            let stopped_at = match run {
                Some((run, fast)) => self.receive_run(run, fast, frame, &mut frames),
                None => {
                    self.receive_slow(now, frame, pool);
                    None
                }
            };
            next = stopped_at.or_else(|| frames.next().map(|frame| read(frame, mac)));
        }
    }

    /// Who gets the datagram `fast`; `None` if it is not ordinary.
    #[inline]
    fn find_run(&mut self, fast: &FastUdp) -> Option<Run> {
        let owner = self.addresses.owner(fast.destination)?;
        if !self.addresses.is_foreign_source(fast.source) {
            return None;
        }
        let source = SocketAddrV4::new(fast.source, fast.source_port);
        let destination = SocketAddrV4::new(fast.destination, fast.destination_port);
        let socket = self.sockets.find(source, destination, false)?;
        Some(Run {
            socket,
            is_whole_port: self.sockets.takes_all(socket, fast.destination_port),
            owner,
        })
    }

    /// Delivers the datagram `first`, which is in `frame`, and those behind it that are of its
    /// run. Returns the frame that is not.
    fn receive_run(
        &mut self,
        run: Run,
        first: FastUdp,
        frame: B,
        frames: &mut Drain<'_, B>,
    ) -> Option<Read<B>> {
        let (mac, addresses) = (self.mac, &self.addresses);
        let Some((queue, room)) = self.sockets.open_queue(run.socket) else {
            self.counters.rx_bytes += frame.len() as u64;
            self.drop_received(DropReason::MailboxFull);
            return None;
        };
        let before = queue.len();
        // No more can come, so that the queue grows once.
        let most = room.min(frames.len() + 1);
        queue.reserve(most);
        let mut bytes = frame.head().len();
        queue.push(datagram(&first, frame));
        let mut stopped_at = None;
        for frame in frames.take(most - 1) {
            let (fast, frame) = read(frame, mac);
            let Some(fast) = fast else {
                stopped_at = Some((None, frame));
                break;
            };
            let is_like = fast.destination_port == first.destination_port
                && (run.is_whole_port || first.is_same_flow(&fast))
                && (fast.source == first.source || addresses.is_foreign_source(fast.source))
                && addresses.is_own_like(run.owner, fast.destination);
            if !is_like {
                stopped_at = Some((Some(fast), frame));
                break;
            }
            bytes += frame.head().len();
            push_reserved(queue, datagram(&fast, frame));
        }
        self.counters.rx_bytes += bytes as u64;
        self.counters.delivered += (queue.len() - before) as u64;
        stopped_at
    }

    /// Delivers a datagram like those of a run, whose checksum the device has verified or never
    /// completed. Gives back any other frame.
    pub(super) fn receive_verified(&mut self, mut frame: B) -> Result<(), B> {
        let Offload {
            checksum,
            segmentation,
        } = frame.offload();
        if frame.is_chain() || segmentation.is_some() || checksum == ChecksumState::Plain {
            return Err(frame);
        }
        let fast = FastUdp::parse_verified(frame.head(), self.mac);
        let Some((fast, run)) = fast.and_then(|fast| Some((fast, self.find_run(&fast)?))) else {
            return Err(frame);
        };
        // What was said of it is not said of what may be sent in its memory.
        frame.set_offload(Offload::NONE);
        match self.sockets.deliver(run.socket, datagram(&fast, frame)) {
            Ok(()) => self.counters.delivered += 1,
            Err(_) => self.drop_received(DropReason::MailboxFull),
        }
        Ok(())
    }
}

/// Reads a frame. A chain, or a frame of which the device has said something, is not of the
/// common kind.
#[inline(always)]
fn read<B: Buffer>(frame: B, mac: MacAddr) -> Read<B> {
    let fast = match frame.is_simple() {
        true => FastUdp::parse(frame.head(), mac),
        false => None,
    };
    (fast, frame)
}

/// Removes the padding of a short frame. By value, so that all others stay in registers.
#[cold]
#[inline(never)]
fn shorten<B: Buffer>(mut frame: B, length: usize) -> B {
    frame.truncate(length);
    frame
}

/// The datagram `fast` in `frame`, which is no chain.
#[inline(always)]
fn datagram<B: Buffer>(fast: &FastUdp, mut frame: B) -> UdpDatagram<B> {
    frame.trim_front(fast::HEADERS);
    if frame.head().len() != fast.payload {
        frame = shorten(frame, fast.payload);
    }
    UdpDatagram {
        source: SocketAddr::V4(SocketAddrV4::new(fast.source, fast.source_port)),
        destination: SocketAddr::V4(SocketAddrV4::new(fast.destination, fast.destination_port)),
        ttl: fast.ttl,
        dscp_ecn: fast.dscp_ecn,
        payload: frame,
    }
}
