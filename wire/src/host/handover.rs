//! Sharded hosts: what one host of several, that share their addresses, hands to the others.
//!
//! Which host a packet belongs to is decided by its flow. That of a datagram that came in
//! fragments is known only when it is whole, and a packet to ourselves may be for a socket of
//! another host. So a sharded host keeps neither: its caller takes each as a complete frame,
//! asks who owns it, and passes it to that host's
//! [`receive_handed_over`](Host::receive_handed_over).

use super::Host;
use super::receive::Link;
use crate::buffer::{Allocator, Buffer};
use crate::drops::DropReason;
use crate::ethernet::{self, EthernetHeader};
use crate::mac::MacAddr;
use crate::time::Instant;

/// The EtherType of a packet from us to ourselves between two shards: one of those for local
/// experiments (IEEE 802, section 9.2.4). It is believed only from
/// [`receive_handed_over`](Host::receive_handed_over), never from the link.
pub const LOOPED: u16 = 0x88b5;

/// The EtherType of a reassembled datagram between two shards; as [`LOOPED`], the other of those
/// for local experiments.
pub const REASSEMBLED: u16 = 0x88b6;

impl<B: Buffer> Host<B> {
    /// Makes this host one of several that share their addresses. From now on reassembled
    /// datagrams and packets to ourselves wait for
    /// [`take_handed_over`](Self::take_handed_over).
    pub fn set_sharded(&mut self) {
        self.is_sharded = true;
    }

    /// The next frame that must be handed to the host that owns its flow, which may be this one.
    /// Always `None` unless the host is [sharded](Self::set_sharded).
    ///
    /// Its EtherType is [`REASSEMBLED`] or [`LOOPED`]; an IP packet follows in both cases.
    pub fn take_handed_over(&mut self) -> Option<B> {
        if !self.is_sharded {
            return None;
        }
        if let Some(frame) = self.reassembled.pop_front() {
            self.counters.handed_over += 1;
            return Some(frame);
        }
        while let Some(mut packet) = self.looped.pop_front() {
            if self.push_link_header(&mut packet, self.mac, LOOPED) {
                self.counters.handed_over += 1;
                return Some(packet);
            }
        }
        None
    }

    /// Whether frames wait to be handed over.
    pub fn has_handed_over(&self) -> bool {
        self.is_sharded && !(self.reassembled.is_empty() && self.looped.is_empty())
    }

    /// Handles frames that another shard, or this one, [handed over](Self::take_handed_over) or
    /// received for us: as [`receive`](Self::receive), but believes [`LOOPED`] and [`REASSEMBLED`].
    pub fn receive_handed_over<A: Allocator<Buffer = B>>(
        &mut self,
        now: Instant,
        burst: &mut Vec<B>,
        pool: &mut A,
    ) {
        self.is_receiving_handed_over = true;
        self.receive(now, burst, pool);
        self.is_receiving_handed_over = false;
    }

    /// Keeps a whole datagram for [`take_handed_over`](Self::take_handed_over).
    pub(super) fn hand_over_reassembled(&mut self, mut packet: B, link: Link) {
        let destination = match link {
            Link::Broadcast => MacAddr::BROADCAST,
            Link::Unicast | Link::Loopback => self.mac,
        };
        if self.push_link_header(&mut packet, destination, REASSEMBLED) {
            self.reassembled.push_back(packet);
        }
    }

    fn push_link_header(&mut self, packet: &mut B, destination: MacAddr, ethertype: u16) -> bool {
        let header = EthernetHeader {
            destination,
            source: self.mac,
            ethertype,
        };
        match packet.prepend(ethernet::HEADER) {
            Some(room) => {
                room.copy_from_slice(&header.to_bytes());
                true
            }
            None => {
                // It had such a header before, so there is room.
                self.drop_sent(DropReason::PoolEmpty);
                false
            }
        }
    }
}
