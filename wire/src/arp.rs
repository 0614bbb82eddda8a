//! ARP packets (RFC 826) for IPv4 over Ethernet.

use std::net::Ipv4Addr;

use crate::mac::MacAddr;

/// Bytes in an ARP packet for IPv4 over Ethernet.
pub const LENGTH: usize = 28;

/// Hardware type Ethernet, protocol type IPv4, lengths 6 and 4.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What an ARP packet does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArpOperation {
    /// Asks who has the target address.
    Request,
    /// Answers a request.
    Reply,
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArpPacket {
    /// Request or reply.
    pub operation: ArpOperation,
    /// Ethernet address of the sender.
    pub sender_mac: MacAddr,
    /// IPv4 address of the sender; unspecified in a probe (RFC 5227, section 2.1.1).
    pub sender: Ipv4Addr,
    /// Ethernet address of the target; meaningless in a request.
    pub target_mac: MacAddr,
    /// IPv4 address that is asked for, or of the host that is answered.
    pub target: Ipv4Addr,
}

impl ArpPacket {
    /// Reads the packet behind an Ethernet header; `None` if it is too short, of another kind
    /// of address, or neither request nor reply. Padding behind it is ignored.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<LENGTH>()?;
        let (kind, rest) = bytes.split_first_chunk::<6>()?;
        let (operation, rest) = rest.split_first_chunk::<2>()?;
        let (sender_mac, rest) = rest.split_first_chunk::<6>()?;
        let (sender, rest) = rest.split_first_chunk::<4>()?;
        let (target_mac, rest) = rest.split_first_chunk::<6>()?;
        let target = rest.first_chunk::<4>()?;
        if *kind != KIND {
            return None;
        }
        let operation = match operation {
            [0, 1] => ArpOperation::Request,
            [0, 2] => ArpOperation::Reply,
            _ => return None,
        };
        Some(ArpPacket {
            operation,
            sender_mac: MacAddr(*sender_mac),
            sender: Ipv4Addr::from(*sender),
            target_mac: MacAddr(*target_mac),
            target: Ipv4Addr::from(*target),
        })
    }

    /// The packet as it goes on the wire, behind an Ethernet header.
    pub fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let operation = match self.operation {
            ArpOperation::Request => [0, 1],
            ArpOperation::Reply => [0, 2],
        };
        let fields: [&[u8]; 6] = [
            &KIND,
            &operation,
            &self.sender_mac.0,
            &self.sender.octets(),
            &self.target_mac.0,
            &self.target.octets(),
        ];
        for (byte, field) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *byte = *field;
        }
        bytes
    }
}
