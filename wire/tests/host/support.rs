//! A host with the things around it: its time, memory and neighbours.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, ArpPacket, EtherType, Ethernet2Header, IpFragOffset, IpNumber,
    Ipv4Header, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};
use virtroupe_wire::{
    Allocator, Buffer, DropReason, HeapBuffer, Host, HostConfig, Instant, MacAddr, Neighbor,
    Payload, SendOutcome, UdpDatagram, UdpSend, UdpSocketId,
};

pub const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub const OUR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 255);

/// Memory that can run short.
pub struct Pool {
    pub left: usize,
    /// The longest segment in bytes.
    pub segment: usize,
}

impl Allocator for Pool {
    type Buffer = HeapBuffer;

    fn allocate(&mut self, capacity: usize) -> Option<HeapBuffer> {
        if capacity > self.segment {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        Some(HeapBuffer::new(&[]))
    }

    fn longest_segment(&self) -> usize {
        self.segment
    }
}

pub struct Bed {
    pub host: Host<HeapBuffer>,
    pub pool: Pool,
    pub now: Instant,
}

/// 10.0.0.1/24 with the peer as static neighbour.
pub fn config() -> HostConfig {
    HostConfig {
        neighbors: vec![Neighbor {
            address: PEER.into(),
            mac: PEER_MAC,
        }],
        ..dynamic()
    }
}

/// 10.0.0.1/24, knowing nobody.
pub fn dynamic() -> HostConfig {
    HostConfig {
        mac: OUR_MAC,
        addresses: vec!["10.0.0.1/24".parse().unwrap()],
        ..HostConfig::default()
    }
}

impl Bed {
    pub fn new(config: HostConfig) -> Self {
        let mut host = Host::new(config, 42).unwrap();
        host.set_transmit_room(1000);
        Bed {
            host,
            pool: Pool {
                left: 1_000_000,
                segment: 65_536,
            },
            now: Instant::from_nanos(1_000_000_000),
        }
    }

    /// Lets time pass, handling what becomes due.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.host.next_deadline()
            && deadline <= end
        {
            self.now = self.now.max(deadline);
            self.host.handle_timeout(self.now, &mut self.pool);
        }
        self.now = end;
    }

    /// The host receives one frame. Returns what it sends then.
    pub fn receive(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        let mut burst = vec![HeapBuffer::new(frame)];
        self.host.receive(self.now, &mut burst, &mut self.pool);
        assert!(burst.is_empty());
        self.check();
        self.sent()
    }

    /// What waits in the transmit queue.
    pub fn sent(&mut self) -> Vec<Vec<u8>> {
        let frames: Vec<_> = self
            .host
            .transmit()
            .drain(..)
            .map(|frame| frame.to_vec())
            .collect();
        let room = self.host.transmit_room() + frames.len();
        self.host.set_transmit_room(room);
        frames
    }

    pub fn bind(&mut self, local: &str) -> UdpSocketId {
        self.host.bind_udp(local.parse().unwrap()).unwrap()
    }

    /// Sends payloads to one destination; returns what was refused.
    pub fn send(
        &mut self,
        id: UdpSocketId,
        destination: (Ipv4Addr, u16),
        payloads: &[&[u8]],
    ) -> (SendOutcome, Vec<UdpSend<HeapBuffer>>) {
        let destination = SocketAddr::from(destination);
        let mut burst: Vec<_> = payloads
            .iter()
            .map(|bytes| UdpSend::new(destination, Payload::Buffer(HeapBuffer::new(bytes))))
            .collect();
        let outcome = self.send_burst(id, &mut burst);
        (outcome, burst)
    }

    pub fn send_burst(
        &mut self,
        id: UdpSocketId,
        burst: &mut Vec<UdpSend<HeapBuffer>>,
    ) -> SendOutcome {
        let offered = burst.len();
        let dropped = self.host.drops().total();
        let outcome = self.host.send_udp(self.now, id, burst, &mut self.pool);
        assert_eq!(outcome.accepted + outcome.refused, offered);
        assert_eq!(outcome.refused, burst.len());
        assert!(burst.iter().all(|send| send.refused.is_some()));
        assert!(self.host.drops().total() - dropped >= outcome.refused as u64);
        self.check();
        outcome
    }

    /// The datagrams that wait in a socket.
    pub fn received(&mut self, id: UdpSocketId) -> Vec<UdpDatagram<HeapBuffer>> {
        self.host.udp_received(id).unwrap().drain(..).collect()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.host.drops()[reason]
    }

    /// The two sums that must hold between any two calls.
    pub fn check(&self) {
        let counters = self.host.counters();
        assert_eq!(
            counters.rx_frames + counters.looped + counters.split,
            counters.delivered + counters.consumed + counters.rx_dropped + counters.held,
            "{counters:?}"
        );
        assert_eq!(
            self.host.drops().total(),
            counters.rx_dropped + counters.tx_dropped + counters.closed
        );
    }
}

/// A UDP frame from the peer to us.
pub fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(PEER_MAC.0, OUR_MAC.0)
        .ipv4(from.0.octets(), to.0.octets(), 64)
        .udp(from.1, to.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// An IPv4 packet from the peer, with the header as `change` leaves it and its checksum right.
pub fn ipv4(
    protocol: u8,
    to: Ipv4Addr,
    payload: &[u8],
    change: impl FnOnce(&mut Ipv4Header),
) -> Vec<u8> {
    let length = payload.len() as u16;
    let mut header =
        Ipv4Header::new(length, 64, IpNumber(protocol), PEER.octets(), to.octets()).unwrap();
    header.dont_fragment = false;
    change(&mut header);
    header.header_checksum = header.calc_header_checksum();
    let ethernet = Ethernet2Header {
        source: PEER_MAC.0,
        destination: OUR_MAC.0,
        ether_type: EtherType::IPV4,
    };
    let mut frame = Vec::new();
    ethernet.write(&mut frame).unwrap();
    header.write_raw(&mut frame).unwrap();
    frame.extend_from_slice(payload);
    frame
}

/// A fragment from the peer to us.
pub fn fragment(id: u16, offset: usize, more: bool, payload: &[u8]) -> Vec<u8> {
    ipv4(17, OUR, payload, |header| {
        header.identification = id;
        header.fragment_offset = IpFragOffset::try_new((offset / 8) as u16).unwrap();
        header.more_fragments = more;
    })
}

/// A UDP header, without checksum, and a payload.
pub fn segment(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let mut bytes = Vec::new();
    for field in [from, to, length, 0] {
        bytes.extend_from_slice(&field.to_be_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// An ARP frame.
pub fn arp(
    operation: ArpOperation,
    to: MacAddr,
    sender: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
) -> Vec<u8> {
    let packet = ArpPacket::from(ArpEthIpv4Packet {
        operation,
        sender_mac: sender.0.0,
        sender_ipv4: sender.1.octets(),
        target_mac: target.0.0,
        target_ipv4: target.1.octets(),
    });
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(sender.0.0, to.0)
        .arp(packet)
        .write(&mut frame)
        .unwrap();
    frame.resize(60, 0); // as Ethernet pads it
    frame
}

pub fn request_from(mac: MacAddr, address: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let nobody = (MacAddr::default(), target);
    arp(
        ArpOperation::REQUEST,
        MacAddr::BROADCAST,
        (mac, address),
        nobody,
    )
}

pub fn reply_from(mac: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    arp(ArpOperation::REPLY, OUR_MAC, (mac, address), (OUR_MAC, OUR))
}

/// The ARP packet in a frame, and whom the frame is for.
pub fn read_arp(frame: &[u8]) -> Option<(MacAddr, ArpEthIpv4Packet)> {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Arp(arp)) = packet.net else {
        return None;
    };
    let to = MacAddr(frame[..6].try_into().unwrap());
    Some((to, arp.to_packet().try_eth_ipv4().unwrap()))
}

/// The IPv4 header and payload of a frame whose checksums are right.
pub fn read_ipv4(frame: &[u8]) -> (Ipv4Header, Vec<u8>) {
    let (ethernet, rest) = Ethernet2Header::from_slice(frame).unwrap();
    assert_eq!(ethernet.ether_type, EtherType::IPV4);
    let (header, rest) = Ipv4Header::from_slice(rest).unwrap();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!(
        usize::from(header.total_len),
        header.header_len() + rest.len()
    );
    (header, rest.to_vec())
}

/// Ports and payload of a UDP frame whose checksums are right.
pub fn read_udp(frame: &[u8]) -> (u16, u16, Vec<u8>) {
    let (header, _) = read_ipv4(frame);
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Udp(udp)) = packet.transport else {
        panic!("not UDP: {frame:02x?}");
    };
    let expected = udp
        .to_header()
        .calc_checksum_ipv4(&header, udp.payload())
        .unwrap();
    assert_eq!(udp.checksum(), expected);
    (
        udp.source_port(),
        udp.destination_port(),
        udp.payload().to_vec(),
    )
}

/// Type, code and body (after 8 bytes) of an ICMP frame whose checksums are right.
pub fn read_icmp(frame: &[u8]) -> (Ipv4Header, u8, u8, Vec<u8>) {
    let (header, message) = read_ipv4(frame);
    assert_eq!(header.protocol, IpNumber::ICMP);
    assert!(virtroupe_wire::checksum::is_valid(&message));
    (header, message[0], message[1], message[8..].to_vec())
}

pub fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index * 7 + index / 251) as u8)
        .collect()
}
