//! TCP segments near to what an engine expects, and ICMP errors about those that it sent: numbers at
//! random would get no further than the first check.

use std::net::IpAddr;

use arbitrary::Arbitrary;
use virtroupe_wire::checksum::{Checksum, checksum};
use virtroupe_wire::tcp::{
    Flow, HeaderOptions, SackBlock, SeqNumber, TcpFlags, TcpHeader, Timestamps, WindowScale,
};

use crate::frame::{OUR_MAC, Station};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMP6: u8 = 58;

/// A segment whose numbers are near to what the engine last sent to its port.
#[derive(Arbitrary, Debug)]
pub struct Crafted {
    pub port: u8,
    flags: u8,
    sequence: i16,
    ack: i16,
    window: u16,
    payload: u16,
    mss: Option<u16>,
    scale: Option<u8>,
    sack_permitted: bool,
    timestamp: Option<(i8, i8)>,
    sack: Vec<(i16, i16)>,
    pub ecn: u8,
    pub merged: u8,
}

impl Crafted {
    /// The header from the other end of `flow`, near to `last`, which our end sent.
    pub fn header(&self, flow: &Flow, last: &TcpHeader) -> TcpHeader {
        let mut options = HeaderOptions {
            mss: self.mss,
            window_scale: self.scale.map(WindowScale::new),
            sack_permitted: self.sack_permitted,
            timestamps: self.timestamp.map(|(value, echo)| Timestamps {
                value: 1000_u32.wrapping_add_signed(value.into()),
                echo: last
                    .options
                    .timestamps
                    .map_or(0, |sent| sent.value.wrapping_add_signed(echo.into())),
            }),
            ..HeaderOptions::default()
        };
        for (start, end) in self.sack.iter().take(4) {
            options.sack.push(SackBlock {
                start: near(last.sequence, *start),
                end: near(last.sequence, *end),
            });
        }
        TcpHeader {
            source_port: flow.remote_port(),
            destination_port: flow.local_port(),
            sequence: near(last.acknowledgment, self.sequence),
            acknowledgment: near(last.sequence, self.ack),
            flags: TcpFlags(self.flags),
            window: self.window,
            urgent: self.window,
            options,
        }
    }

    /// What is behind the header.
    pub fn payload(&self) -> Vec<u8> {
        vec![0; usize::from(self.payload % 4000)]
    }

    /// The IP packet with it, whose checksums are right.
    pub fn packet(&self, flow: &Flow, last: &TcpHeader) -> Vec<u8> {
        let (header, length) = self.header(flow, last).to_bytes();
        let mut body = header[..length].to_vec();
        body.extend(self.payload());
        let ends = (flow.remote().ip(), flow.local().ip());
        let sum = transport_sum(ends, TCP, &body);
        body[16..18].copy_from_slice(&sum.to_be_bytes());
        packet(ends, TCP, self.ecn & 3, &body)
    }
}

/// A number at so much distance.
pub fn near(number: SeqNumber, distance: i16) -> SeqNumber {
    SeqNumber(number.0.wrapping_add_signed(distance.into()))
}

/// The IP packet with an ICMP error of a kind and code about a segment that our end of `flow` sent.
pub fn error(flow: &Flow, sequence: SeqNumber, (kind, code): (u8, u8), mtu: u16) -> Vec<u8> {
    let (local, remote) = (flow.local(), flow.remote());
    let mut cited = [local.port().to_be_bytes(), remote.port().to_be_bytes()].concat();
    cited.extend(sequence.0.to_be_bytes());
    let cited = packet((local.ip(), remote.ip()), TCP, 0, &cited);
    let is_ipv6 = local.is_ipv6();
    let kind = match (is_ipv6, kind % 4) {
        (true, kind) => 1 + kind,
        // Mostly those that concern a connection: unreachable, and time exceeded.
        (false, 0 | 1) => 3,
        (false, 2) => 11,
        (false, _) => kind,
    };
    let mut message = vec![kind, code, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(cited);
    let ends = (remote.ip(), local.ip());
    let (protocol, sum) = match is_ipv6 {
        true => (ICMP6, transport_sum(ends, ICMP6, &message)),
        false => (ICMP, checksum(&message)),
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(ends, protocol, 0, &message)
}

/// The two halves of an IPv4 packet without options, as fragments; other packets are as they were.
pub fn halves(packet: Vec<u8>) -> Vec<Vec<u8>> {
    let first = packet.len() / 16 * 8;
    if packet[0] != 0x45 || first < 8 {
        return vec![packet];
    }
    let fragment = |bytes: &[u8], field: u16| {
        let mut fragment = packet[..20].to_vec();
        fragment[2..4].copy_from_slice(&(20 + bytes.len() as u16).to_be_bytes());
        fragment[6..8].copy_from_slice(&field.to_be_bytes());
        fragment.extend(bytes);
        sum_header(&mut fragment);
        fragment
    };
    let (one, other) = packet[20..].split_at(first);
    vec![fragment(one, 0x2000), fragment(other, (first / 8) as u16)]
}

/// The frame to us with an IP packet.
pub fn frame(packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 6 {
        [0x86, 0xdd]
    } else {
        [8, 0]
    };
    [
        &OUR_MAC,
        &Station::Other(1).octets(),
        &ethertype[..],
        packet,
    ]
    .concat()
}

fn packet(ends: (IpAddr, IpAddr), protocol: u8, ecn: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u16;
    let mut packet = Vec::new();
    match ends {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet.extend([0x45, ecn]);
            packet.extend((20 + length).to_be_bytes());
            packet.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            sum_header(&mut packet);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend([0x60, ecn << 4, 0, 0]);
            packet.extend(length.to_be_bytes());
            packet.extend([protocol, 64]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        _ => unreachable!("both ends are of one family"),
    }
    packet.extend(body);
    packet
}

/// Completes the checksum of an IPv4 header without options.
fn sum_header(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The checksum over the pseudo-header and `body`.
fn transport_sum(ends: (IpAddr, IpAddr), protocol: u8, body: &[u8]) -> u16 {
    let mut sum = Checksum::new();
    for end in [ends.0, ends.1] {
        match end {
            IpAddr::V4(ip) => sum.add(&ip.octets()),
            IpAddr::V6(ip) => sum.add(&ip.octets()),
        }
    }
    sum.add(&[0, protocol]);
    sum.add(&(body.len() as u16).to_be_bytes());
    sum.add(body);
    sum.finish()
}
