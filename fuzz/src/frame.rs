//! Ethernet frames that are right in most fields: bytes at random would get no further than
//! the first check.

use arbitrary::Arbitrary;
use virtroupe_wire::checksum::{Checksum, checksum};

use crate::frame6::Ipv6;

/// Our own host in these frames: its Ethernet address.
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Its address, in a subnet of 24 bits.
pub const OUR_IP: [u8; 4] = [10, 0, 0, 1];
/// A prefix of 30 bits that it owns.
pub const OWNED: [u8; 4] = [10, 1, 0, 0];

/// A frame.
#[derive(Arbitrary, Debug, Clone)]
pub enum Frame {
    Raw(Vec<u8>),
    Arp(Arp),
    Ipv4(Ipv4),
    Ipv6(Ipv6),
}

/// Whom a frame is for.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub enum Station {
    Us,
    Broadcast,
    Multicast,
    Other(u8),
}

/// An address that means something to the host.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub enum Address {
    Ours,
    Owned(u8),
    OnLink(u8),
    Remote(u8),
    SubnetBroadcast,
    LimitedBroadcast,
    Multicast,
    Any(u32),
}

#[derive(Arbitrary, Debug, Clone)]
pub struct Arp {
    to: Station,
    operation: u8,
    sender_mac: Station,
    sender: Address,
    target: Address,
    cut: Option<u8>,
}

#[derive(Arbitrary, Debug, Clone)]
pub struct Ipv4 {
    to: Station,
    source: Address,
    destination: Address,
    identification: u8,
    /// Of a fragment: its offset in units of 8 bytes, and whether more follow.
    fragment: Option<(u8, bool)>,
    ttl: u8,
    options: Vec<u8>,
    transport: Transport,
    spoil: Spoil,
    /// The length of the first segment of the frame's memory behind its longest headers.
    split: Option<u8>,
}

#[derive(Arbitrary, Debug, Clone)]
pub enum Transport {
    Udp {
        source: u16,
        destination: Port,
        length_error: Option<u16>,
        checksum: UdpChecksum,
        payload: Vec<u8>,
    },
    Icmp {
        kind: u8,
        code: u8,
        rest: [u8; 4],
        payload: Vec<u8>,
        is_valid: bool,
    },
    EchoRequest {
        rest: [u8; 4],
        payload: Vec<u8>,
    },
    /// An ICMP error about a datagram that the host may have sent.
    IcmpError {
        kind: u8,
        code: u8,
        mtu: u16,
        peer: Address,
        local: Port,
        /// Where the quoted datagram ends, if not behind its UDP header.
        cut: Option<u8>,
    },
    Other {
        protocol: u8,
        payload: Vec<u8>,
    },
}

/// A port: one that is bound, or any.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub enum Port {
    Bound,
    Any(u16),
}

#[derive(Arbitrary, Debug, Clone, Copy)]
pub enum UdpChecksum {
    Right,
    None,
    Wrong(u16),
}

/// What is wrong with an IPv4 packet.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub enum Spoil {
    Nothing,
    Checksum(u16),
    Version(u8),
    HeaderLength(u8),
    TotalLength(u16),
    Cut(u8),
    Pad(u8),
}

/// The port that the targets bind.
pub const BOUND_PORT: u16 = 7;

impl Frame {
    /// The bytes, and where the memory of the frame is split in two.
    pub fn build(self) -> (Vec<u8>, Option<usize>) {
        match self {
            Frame::Raw(bytes) => (bytes, None),
            Frame::Arp(arp) => (arp.build(), None),
            Frame::Ipv6(packet) => (packet.build(), None),
            Frame::Ipv4(packet) => {
                // 14 of Ethernet, 60 of IPv4, 8 of UDP or ICMP lie in the first segment.
                let split = packet.split.map(|more| 14 + 60 + 8 + usize::from(more));
                (packet.build(), split)
            }
        }
    }
}

impl Station {
    pub fn octets(self) -> [u8; 6] {
        match self {
            Station::Us => OUR_MAC,
            Station::Broadcast => [0xff; 6],
            Station::Multicast => [1, 0, 0x5e, 0, 0, 1],
            Station::Other(last) => [2, 0, 0, 0, 1, last],
        }
    }
}

impl Address {
    pub fn octets(self) -> [u8; 4] {
        match self {
            Address::Ours => OUR_IP,
            Address::Owned(last) => [OWNED[0], OWNED[1], OWNED[2], last % 4],
            Address::OnLink(last) => [10, 0, 0, last],
            Address::Remote(last) => [192, 0, 2, last],
            Address::SubnetBroadcast => [10, 0, 0, 255],
            Address::LimitedBroadcast => [255; 4],
            Address::Multicast => [224, 0, 0, 1],
            Address::Any(address) => address.to_be_bytes(),
        }
    }
}

impl Port {
    pub fn number(self) -> u16 {
        match self {
            Port::Bound => BOUND_PORT,
            Port::Any(port) => port,
        }
    }
}

impl Arp {
    /// RFC 826, for Ethernet and IPv4.
    fn build(self) -> Vec<u8> {
        let mut frame = ethernet(self.to, 0x0806);
        frame.extend([0, 1, 8, 0, 6, 4, 0, self.operation]);
        frame.extend(self.sender_mac.octets());
        frame.extend(self.sender.octets());
        frame.extend([0; 6]);
        frame.extend(self.target.octets());
        if let Some(cut) = self.cut {
            frame.truncate(frame.len().saturating_sub(cut.into()));
        }
        frame
    }
}

impl Ipv4 {
    fn build(mut self) -> Vec<u8> {
        self.options.truncate(40);
        self.options
            .resize(self.options.len().next_multiple_of(4), 0);
        let (source, destination) = (self.source.octets(), self.destination.octets());
        let (protocol, body) = self.transport.build(source, destination);
        let header_length = 20 + self.options.len();
        let total = u16::try_from(header_length + body.len()).unwrap_or(u16::MAX);
        let mut header = vec![0x40 | (header_length / 4) as u8, 0];
        header.extend(total.to_be_bytes());
        header.extend([0, self.identification]);
        let fragment = self.fragment.map_or(0, |(offset, more)| {
            u16::from(offset) | if more { 0x2000 } else { 0 }
        });
        header.extend(fragment.to_be_bytes());
        header.extend([self.ttl, protocol, 0, 0]);
        header.extend(source);
        header.extend(destination);
        header.extend(&self.options);
        self.spoil.before_checksum(&mut header);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut frame = ethernet(self.to, 0x0800);
        frame.extend(header);
        frame.extend(body);
        self.spoil.after_checksum(&mut frame);
        frame
    }
}

impl Spoil {
    fn before_checksum(self, header: &mut [u8]) {
        match self {
            Spoil::Version(version) => header[0] = header[0] & 0x0f | version << 4,
            Spoil::HeaderLength(length) => header[0] = header[0] & 0xf0 | length & 0x0f,
            Spoil::TotalLength(length) => header[2..4].copy_from_slice(&length.to_be_bytes()),
            Spoil::Nothing | Spoil::Checksum(_) | Spoil::Cut(_) | Spoil::Pad(_) => (),
        }
    }

    fn after_checksum(self, frame: &mut Vec<u8>) {
        match self {
            Spoil::Checksum(sum) => frame[24..26].copy_from_slice(&sum.to_be_bytes()),
            Spoil::Cut(bytes) => frame.truncate(frame.len().saturating_sub(bytes.into())),
            Spoil::Pad(bytes) => frame.resize(frame.len() + usize::from(bytes), 0),
            Spoil::Nothing | Spoil::Version(_) | Spoil::HeaderLength(_) | Spoil::TotalLength(_) => {
                ()
            }
        }
    }
}

impl Transport {
    /// The protocol number and the bytes behind the IPv4 header.
    fn build(self, source: [u8; 4], destination: [u8; 4]) -> (u8, Vec<u8>) {
        match self {
            Transport::Udp {
                source: from,
                destination: to,
                length_error,
                checksum,
                payload,
            } => {
                let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
                let mut body = udp_header(from, to.number(), length_error.unwrap_or(length));
                body.extend(payload);
                let sum = match checksum {
                    UdpChecksum::None => 0,
                    UdpChecksum::Wrong(sum) => sum,
                    UdpChecksum::Right => udp_checksum(source, destination, &body),
                };
                body[6..8].copy_from_slice(&sum.to_be_bytes());
                (17, body)
            }
            Transport::Icmp {
                kind,
                code,
                rest,
                payload,
                is_valid,
            } => (1, icmp(kind, code, rest, &payload, is_valid)),
            Transport::EchoRequest { rest, payload } => (1, icmp(8, 0, rest, &payload, true)),
            Transport::IcmpError {
                kind,
                code,
                mtu,
                peer,
                local,
                cut,
            } => {
                let mut quote = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
                quote.extend(destination);
                quote.extend(peer.octets());
                quote.extend(udp_header(local.number(), 9, 8));
                quote.truncate(cut.map_or(usize::MAX, usize::from));
                // Mostly the errors that concern a socket: unreachable, and time exceeded.
                let kind = match kind % 4 {
                    0 | 1 => 3,
                    2 => 11,
                    _ => kind,
                };
                let [high, low] = mtu.to_be_bytes();
                (1, icmp(kind, code, [0, 0, high, low], &quote, true))
            }
            Transport::Other { protocol, payload } => (protocol, payload),
        }
    }
}

fn ethernet(to: Station, ethertype: u16) -> Vec<u8> {
    let mut frame = to.octets().to_vec();
    frame.extend(Station::Other(1).octets());
    frame.extend(ethertype.to_be_bytes());
    frame
}

fn udp_header(source: u16, destination: u16, length: u16) -> Vec<u8> {
    [source, destination, length, 0]
        .into_iter()
        .flat_map(u16::to_be_bytes)
        .collect()
}

fn udp_checksum(source: [u8; 4], destination: [u8; 4], body: &[u8]) -> u16 {
    let mut sum = Checksum::new();
    sum.add(&source);
    sum.add(&destination);
    sum.add(&[0, 17]);
    sum.add(&u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
    sum.add(body);
    match sum.finish() {
        0 => 0xffff, // RFC 768: zero would mean that there is none
        sum => sum,
    }
}

fn icmp(kind: u8, code: u8, rest: [u8; 4], payload: &[u8], is_valid: bool) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(payload);
    if is_valid {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}
