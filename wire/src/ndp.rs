//! Neighbour discovery for IPv6 (RFC 4861): the messages by which a host is found on its link.
//!
//! Only the two that tell a neighbour's Ethernet address. Routers, prefixes and redirects are not
//! handled.

use std::net::Ipv6Addr;

use crate::icmp6;
use crate::mac::MacAddr;

/// The hop limit of every message: whoever sees it less knows that it came through a router
/// (RFC 4861, section 3.1).
pub const HOP_LIMIT: u8 = 255;

/// Bytes in a neighbour advertisement with its option.
pub const ADVERTISEMENT: usize = 32;

/// Bytes in front of the options of both messages.
const FIXED: usize = 24;

/// Option: the Ethernet address of the sender.
const SOURCE_LINK_LAYER: u8 = 1;
/// Option: the Ethernet address that was asked for.
const TARGET_LINK_LAYER: u8 = 2;

/// Asks for the Ethernet address of `target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighborSolicitation {
    /// Whose address is asked for.
    pub target: Ipv6Addr,
    /// The Ethernet address of who asks.
    pub sender_mac: Option<MacAddr>,
}

impl NeighborSolicitation {
    /// Reads an ICMPv6 message, checksum and hop limit aside (RFC 4861, section 7.1.1); `None` if
    /// it is not a good one.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (fixed, mut options) = message.split_first_chunk::<FIXED>()?;
        let [kind, code, _, _, _, _, _, _, target @ ..] = *fixed;
        let target = Ipv6Addr::from(target);
        if kind != icmp6::NEIGHBOR_SOLICITATION || code != 0 || target.is_multicast() {
            return None;
        }
        let mut sender_mac = None;
        while let [kind, length, value @ ..] = options {
            let length = usize::from(*length) * 8;
            if length == 0 {
                return None;
            }
            if let (SOURCE_LINK_LAYER, 8, Some(mac)) = (*kind, length, value.first_chunk::<6>()) {
                sender_mac = Some(MacAddr(*mac));
            }
            options = options.get(length..)?;
        }
        options
            .is_empty()
            .then_some(NeighborSolicitation { target, sender_mac })
    }
}

/// Tells the Ethernet address of `target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighborAdvertisement {
    /// Whose address it is.
    pub target: Ipv6Addr,
    /// The Ethernet address.
    pub mac: MacAddr,
    /// Whether it answers a solicitation that named its sender.
    pub is_solicited: bool,
}

impl NeighborAdvertisement {
    /// The ICMPv6 message, with a checksum of zero; what is told is to override what is known.
    pub fn to_bytes(self) -> [u8; ADVERTISEMENT] {
        const SOLICITED: u8 = 0x40;
        const OVERRIDE: u8 = 0x20;
        let mut bytes = [0; ADVERTISEMENT];
        let flags = OVERRIDE | if self.is_solicited { SOLICITED } else { 0 };
        let (front, option) = bytes.split_at_mut(FIXED);
        let (front, target) = front.split_at_mut(8);
        front.copy_from_slice(&[icmp6::NEIGHBOR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0]);
        target.copy_from_slice(&self.target.octets());
        let [a, b, c, d, e, f] = self.mac.0;
        option.copy_from_slice(&[TARGET_LINK_LAYER, 1, a, b, c, d, e, f]);
        bytes
    }
}

/// The Ethernet address of a multicast group (RFC 2464, section 7).
pub fn group_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// Whether `mac` is the Ethernet address of IPv6 multicast groups.
#[inline]
pub fn is_group_mac(mac: MacAddr) -> bool {
    matches!(mac.0, [0x33, 0x33, ..])
}

/// The group that a neighbour with `address` listens to (RFC 4291, section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let low = address.to_bits() & 0xff_ffff;
    Ipv6Addr::from_bits(SOLICITED_NODE | low)
}

/// ff02::1:ff00:0.
const SOLICITED_NODE: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;

/// All nodes on the link (RFC 4291, section 2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
