//! IPv6 frames that are right in most fields, as those of the module `frame`.

use arbitrary::Arbitrary;
use virtroupe_wire::checksum::Checksum;

use crate::frame::{OUR_MAC, Port};

/// Our address, in a subnet of 64 bits.
pub const OUR_IP6: [u8; 16] = last(0xfd00, 1);
/// A static neighbour.
pub const NEIGHBOR6: [u8; 16] = last(0xfd00, 2);

const fn last(first: u16, last: u8) -> [u8; 16] {
    let [high, low] = first.to_be_bytes();
    [high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

/// An address that means something to the host.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub enum Address6 {
    Ours,
    /// In a prefix of 120 bits that we own.
    Owned(u8),
    Neighbor,
    OnLink(u8),
    Remote(u8),
    Unspecified,
    AllNodes,
    SolicitedNode(u8),
    Any(u128),
}

/// A header between that of IPv6 and the transport.
#[derive(Arbitrary, Debug, Clone)]
pub enum Extension {
    HopByHop(Vec<u8>),
    DestinationOptions(Vec<u8>),
    Routing { kind: u8, left: u8, length: u8 },
    Fragment { offset: u8, more: bool, id: u8 },
    Other { kind: u8, bytes: [u8; 8] },
}

/// What is behind the headers.
#[derive(Arbitrary, Debug, Clone)]
pub enum Transport6 {
    Udp {
        source: u16,
        destination: Port,
        is_summed: bool,
        payload: Vec<u8>,
    },
    Icmp {
        kind: u8,
        code: u8,
        word: u32,
        payload: Vec<u8>,
    },
    Solicitation {
        target: Address6,
        options: Vec<u8>,
    },
    /// An error about a datagram that the host may have sent.
    Error {
        kind: u8,
        code: u8,
        mtu: u16,
        peer: Address6,
        local: Port,
    },
    Other {
        protocol: u8,
        payload: Vec<u8>,
    },
}

/// A packet.
#[derive(Arbitrary, Debug, Clone)]
pub struct Ipv6 {
    is_to_group: bool,
    source: Address6,
    destination: Address6,
    hops: Option<u8>,
    extensions: Vec<Extension>,
    transport: Transport6,
    is_valid: bool,
    cut: Option<u8>,
    pad: u8,
}

impl Address6 {
    /// The address on the wire.
    pub fn octets(self) -> [u8; 16] {
        match self {
            Address6::Ours => OUR_IP6,
            Address6::Owned(host) => last(0xfd01, host),
            Address6::Neighbor => NEIGHBOR6,
            Address6::OnLink(host) => last(0xfd00, host),
            Address6::Remote(host) => last(0x2001, host),
            Address6::Unspecified => [0; 16],
            Address6::AllNodes => last(0xff02, 1),
            Address6::SolicitedNode(host) => {
                [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, host]
            }
            Address6::Any(bits) => bits.to_be_bytes(),
        }
    }
}

impl Ipv6 {
    pub(crate) fn build(self) -> Vec<u8> {
        let (source, destination) = (self.source.octets(), self.destination.octets());
        let (mut next, transport) = self.transport.build(source, destination, self.is_valid);
        let mut body = transport;
        for extension in self.extensions.into_iter().rev() {
            let (kind, mut header) = extension.build(next);
            header.extend(body);
            (next, body) = (kind, header);
        }
        let mut frame = match self.is_to_group {
            true => [&[0x33, 0x33][..], &destination[12..]].concat(),
            false => OUR_MAC.to_vec(),
        };
        frame.extend([2, 0, 0, 0, 1, 1, 0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
        frame.extend([next, self.hops.unwrap_or(255)]);
        frame.extend(source);
        frame.extend(destination);
        frame.extend(body);
        frame.resize(frame.len() + usize::from(self.pad), 0);
        let cut = self.cut.map_or(0, usize::from);
        frame.truncate(frame.len().saturating_sub(cut));
        frame
    }
}

impl Extension {
    /// Its number, and the header in front of `next`.
    fn build(self, next: u8) -> (u8, Vec<u8>) {
        let options = |mut options: Vec<u8>| {
            options.truncate(256);
            let mut header = vec![next, 0];
            header.extend(options);
            header.resize(header.len().next_multiple_of(8), 0);
            header[1] = (header.len() / 8 - 1) as u8;
            header
        };
        match self {
            Extension::HopByHop(bytes) => (0, options(bytes)),
            Extension::DestinationOptions(bytes) => (60, options(bytes)),
            Extension::Routing { kind, left, length } => {
                let mut header = vec![next, length % 4, kind, left];
                header.resize((usize::from(length % 4) + 1) * 8, 0);
                (43, header)
            }
            Extension::Fragment { offset, more, id } => {
                let field = u16::from(offset) << 3 | u16::from(more);
                let [high, low] = field.to_be_bytes();
                (44, vec![next, 0, high, low, 0, 0, 0, id])
            }
            Extension::Other { kind, mut bytes } => {
                bytes[0] = next;
                (kind, bytes.to_vec())
            }
        }
    }
}

impl Transport6 {
    /// The protocol number and the bytes.
    fn build(self, source: [u8; 16], destination: [u8; 16], is_valid: bool) -> (u8, Vec<u8>) {
        let (protocol, mut bytes, field) = match self {
            Transport6::Udp {
                source: from,
                destination: to,
                is_summed,
                payload,
            } => {
                let mut bytes = udp_header(from, to.number(), 8 + payload.len());
                bytes.extend(payload);
                (17, bytes, is_summed.then_some(6))
            }
            Transport6::Icmp {
                kind,
                code,
                word,
                payload,
            } => (58, icmp(kind, code, word, &payload), Some(2)),
            Transport6::Solicitation { target, options } => {
                let body = [&target.octets()[..], &options].concat();
                (58, icmp(135, 0, 0, &body), Some(2))
            }
            Transport6::Error {
                kind,
                code,
                mtu,
                peer,
                local,
            } => {
                let mut cited = vec![0x60, 0, 0, 0, 5, 0, 17, 64];
                cited.extend(destination);
                cited.extend(peer.octets());
                cited.extend(udp_header(local.number(), 9, 1280));
                (58, icmp(1 + kind % 4, code, mtu.into(), &cited), Some(2))
            }
            Transport6::Other { protocol, payload } => (protocol, payload, None),
        };
        if let Some(field) = field.filter(|_| is_valid) {
            let mut sum = Checksum::new();
            sum.add(&source);
            sum.add(&destination);
            sum.add(&(bytes.len() as u32).to_be_bytes());
            sum.add(&[0, 0, 0, protocol]);
            sum.add(&bytes);
            let sum = match sum.finish() {
                0 => 0xffff,
                sum => sum,
            };
            bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        (protocol, bytes)
    }
}

fn udp_header(source: u16, destination: u16, length: usize) -> Vec<u8> {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    let fields = [source, destination, length, 0];
    fields.into_iter().flat_map(u16::to_be_bytes).collect()
}

fn icmp(kind: u8, code: u8, word: u32, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(word.to_be_bytes());
    message.extend(body);
    message
}
