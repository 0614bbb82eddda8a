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
use crate::time::Instant;
use crate::udp::{UdpDatagram, UdpSocketId};

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
        // What is known of the frame in front, if anything.
        let mut known = None;
        while let Some(frame) = frames.as_slice().first() {
            let fast = known.take().or_else(|| read(frame, mac));
            match fast.and_then(|fast| Some((self.find_run(&fast)?, fast))) {
                Some((run, first)) => known = self.receive_run(run, first, &mut frames),
                None => {
                    if let Some(frame) = frames.next() {
                        self.receive_slow(now, frame, pool);
                    }
                }
            }
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

    /// Delivers the datagram `first`, which is in the frame in front, and those behind it that are
    /// of its run. Returns what the frame behind them is, if it is of the common kind.
    ///
    /// They are all read before any of them moves: a vector that grows by a known number takes
    /// them where they go to, and a loop in which it might grow would put each together first,
    /// and then copy it, narrow stores by wide loads that have to wait for them.
    fn receive_run(
        &mut self,
        run: Run,
        first: FastUdp,
        frames: &mut Drain<'_, B>,
    ) -> Option<FastUdp> {
        let (mac, addresses) = (self.mac, &self.addresses);
        let Some((queue, room)) = self.sockets.open_queue(run.socket) else {
            self.counters.rx_bytes += frames.next().map_or(0, |frame| frame.len() as u64);
            self.drop_received(DropReason::MailboxFull);
            return None;
        };
        let most = room.min(frames.len());
        let others = frames.as_slice().get(1..most).unwrap_or_default();
        let mut behind = None;
        let mut bytes = frames
            .as_slice()
            .first()
            .map_or(0, |frame| frame.head().len());
        self.run.clear();
        self.run.reserve(most);
        self.run.push(first);
        for frame in others {
            let Some(fast) = read(frame, mac) else { break };
            let is_like = fast.destination_port == first.destination_port
                && (run.is_whole_port || first.is_same_flow(&fast))
                && (fast.source == first.source || addresses.is_foreign_source(fast.source))
                && addresses.is_own_like(run.owner, fast.destination);
            if !is_like {
                behind = Some(fast);
                break;
            }
            bytes += frame.head().len();
            self.run.push(fast);
        }
        self.counters.rx_bytes += bytes as u64;
        self.counters.delivered += self.run.len() as u64;
        let run = self.run.iter().zip(frames);
        queue.extend(run.map(|(fast, frame)| datagram(fast, frame)));
        behind
    }

    /// Delivers a datagram like those of a run, or an ordinary segment, whose checksum the device has
    /// verified or never completed. Gives back any other frame.
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
            return self.receive_verified_segment(frame);
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
fn read<B: Buffer>(frame: &B, mac: MacAddr) -> Option<FastUdp> {
    match frame.is_simple() {
        true => FastUdp::parse(frame.head(), mac),
        false => None,
    }
}

/// The datagram `fast` in `frame`, without headers and padding.
#[inline(always)]
fn datagram<B: Buffer>(fast: &FastUdp, frame: B) -> UdpDatagram<B> {
    UdpDatagram {
        payload: frame.narrow(fast::HEADERS, usize::from(fast.payload)),
        source: SocketAddr::V4(SocketAddrV4::new(fast.source, fast.source_port)),
        destination: SocketAddr::V4(SocketAddrV4::new(fast.destination, fast.destination_port)),
        ttl: fast.ttl,
        dscp_ecn: fast.dscp_ecn,
    }
}
