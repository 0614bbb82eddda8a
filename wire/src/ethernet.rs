//! Ethernet II headers.

use crate::mac::MacAddr;

/// Bytes in an Ethernet header without a VLAN tag.
pub const HEADER: usize = 14;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;

/// EtherType of ARP.
pub const ARP: u16 = 0x0806;

/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// EtherType of an IEEE 802.1Q tag.
pub const VLAN: u16 = 0x8100;

/// EtherType of an IEEE 802.1ad service tag.
pub const SERVICE_VLAN: u16 = 0x88a8;

/// What `frame` carries, behind one VLAN tag if there is one: its EtherType, and where it begins.
/// `None` if the frame ends before.
pub fn carried(frame: &[u8]) -> Option<(u16, usize)> {
    let ethertype = |at: usize| {
        let field = frame.get(at..)?.first_chunk()?;
        Some((u16::from_be_bytes(*field), at + 2))
    };
    let (outer, behind) = ethertype(HEADER - 2)?;
    match outer {
        VLAN | SERVICE_VLAN => ethertype(behind + 2),
        _ => Some((outer, behind)),
    }
}

/// An Ethernet II header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EthernetHeader {
    /// The station or group that the frame is for.
    pub destination: MacAddr,
    /// The station that sent it.
    pub source: MacAddr,
    /// What the frame carries.
    pub ethertype: u16,
}

impl EthernetHeader {
    /// The header at the front of `frame`; `None` if it is shorter than a header.
    #[inline]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = *frame.first_chunk::<HEADER>()?;
        Some(EthernetHeader {
            destination: MacAddr([a, b, c, d, e, f]),
            source: MacAddr([g, h, i, j, k, l]),
            ethertype: u16::from_be_bytes([m, n]),
        })
    }

    /// The header as it goes on the wire.
    #[inline]
    pub const fn to_bytes(self) -> [u8; HEADER] {
        let [a, b, c, d, e, f] = self.destination.0;
        let [g, h, i, j, k, l] = self.source.0;
        let [m, n] = self.ethertype.to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n]
    }
}
