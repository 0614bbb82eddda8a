//! Packets that ask for transmit offloads, crafted from a seed: with every field and option that
//! segmentation may get wrong. Nothing here is taken from the engines.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use virtroupe::wire::offload::{
    ChecksumState, PartialChecksum, SegmentKind, Segmentation, complete_checksum, segment,
};
use virtroupe::wire::{Heap, HeapBuffer, Offload};
use virtroupe::{Buffer, FeatureBits};

/// Where all packets come from.
pub const SOURCE: [u8; 6] = [2, 0, 0, 0, 0xcc, 1];
/// Where all packets go to.
pub const DESTINATION: [u8; 6] = [2, 0, 0, 0, 0xcc, 2];
/// Most pieces that a packet is cut into.
const MOST_PIECES: usize = 100;
/// Payload that a TCP segment or a fragment has at most.
const MOST_SIZE: usize = 1400;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A packet, and what it asks for.
#[derive(Debug, Clone)]
pub struct Crafted {
    pub bytes: Vec<u8>,
    pub offload: Offload,
}

/// A source of packets.
#[derive(Debug)]
pub struct Crafter {
    random: ChaCha8Rng,
}

/// What a packet asks for, and over which IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp { is_v6: bool, ecn: bool },
    Udp { is_v6: bool },
    Fragments,
    Checksum { is_v6: bool, protocol: u8 },
    Nothing,
}

impl Crafter {
    /// A source that gives the same packets for the same seed.
    pub fn new(seed: u64) -> Self {
        Crafter {
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// A number below `bound`, which is above 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.random.next_u64() % bound as u64) as usize
    }

    /// Random bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.random.fill_bytes(&mut bytes);
        bytes
    }

    fn kind(&mut self) -> Kind {
        let (is_v6, ecn) = (self.below(2) == 0, self.below(2) == 0);
        match self.below(8) {
            0..=2 => Kind::Tcp { is_v6, ecn },
            3..=4 => Kind::Udp { is_v6 },
            5 => Kind::Fragments,
            6 => Kind::Checksum {
                is_v6,
                protocol: if ecn { TCP } else { UDP },
            },
            _ => Kind::Nothing,
        }
    }

    /// The next packet.
    pub fn packet(&mut self) -> Crafted {
        let kind = self.kind();
        let (is_v6, protocol) = match kind {
            Kind::Tcp { is_v6, .. } => (is_v6, TCP),
            Kind::Udp { is_v6 } => (is_v6, UDP),
            Kind::Checksum { is_v6, protocol } => (is_v6, protocol),
            Kind::Fragments | Kind::Nothing => (false, UDP),
        };
        let transport = self.transport(protocol);
        let network = if is_v6 { 40 } else { 20 + 4 * self.below(3) };
        let longest = 65_535 - if is_v6 { 0 } else { network } - transport.len();
        let (size, length) = self.lengths(kind, longest);
        let mut bytes = [&DESTINATION[..], &SOURCE].concat();
        if self.below(4) == 0 {
            bytes.extend([0x81, 0, 0, 1 + self.below(255) as u8]);
        }
        let behind = transport.len() + length;
        match is_v6 {
            true => self.push_ipv6(&mut bytes, protocol, behind),
            false => self.push_ipv4(&mut bytes, protocol, network, behind, kind),
        }
        let start = bytes.len();
        let transport_length = transport.len();
        bytes.extend(transport);
        bytes.extend(self.bytes(length));
        let offset = finish_transport(&mut bytes, start - network, start, protocol);
        let partial = PartialChecksum {
            start: start as u16,
            offset: offset as u16,
        };
        let header_length = start + transport_length;
        let offload = offload(kind, partial, size, header_length);
        if kind == Kind::Nothing {
            bytes = completed(&bytes, partial);
        }
        let mut crafted = Crafted { bytes, offload };
        if kind != Kind::Nothing && size > 1 && length > 1 && self.below(6) == 0 {
            crafted.make_sum_zero(header_length, start + offset);
        }
        crafted
    }

    /// Bytes in a piece, and in the payload.
    fn lengths(&mut self, kind: Kind, longest: usize) -> (usize, usize) {
        let size = match self.below(6) {
            0 => 1 + self.below(16),
            1 => 536,
            2 => MOST_SIZE,
            _ => 1 + self.below(MOST_SIZE),
        };
        let (size, header) = match kind {
            Kind::Fragments => (size.next_multiple_of(8), 8),
            _ => (size, 0),
        };
        let most = longest.min(size * MOST_PIECES - header);
        let length = match kind {
            Kind::Checksum { .. } | Kind::Nothing => self.below(MOST_SIZE),
            // The longest; what just is more than one piece, and what is not more.
            _ if self.below(5) == 0 => most,
            _ if self.below(5) == 0 => size + 1 - header,
            _ if self.below(5) == 0 => size.saturating_sub(self.below(8 * header + 40)),
            _ => size + 1 + self.below(most.saturating_sub(size).max(1)),
        };
        (size, length)
    }

    /// A transport header without length and checksum.
    fn transport(&mut self, protocol: u8) -> Vec<u8> {
        if protocol == UDP {
            return [self.bytes(4), vec![0; 4]].concat();
        }
        let options = self.below(11);
        let mut header = self.bytes(20);
        // Sequence numbers that wrap; all flags but SYN and RST.
        if self.below(3) == 0 {
            header[4..7].fill(0xff);
        }
        header[12] = ((5 + options) << 4) as u8 | header[12] & 1;
        header[13] &= !0x06;
        header[16..18].fill(0);
        header.extend(self.bytes(options * 4));
        header
    }

    fn push_ipv6(&mut self, out: &mut Vec<u8>, protocol: u8, behind: usize) {
        let class = self.bytes(4);
        out.extend([0x86, 0xdd, 0x60 | class[0] & 0xf]);
        out.extend(&class[1..4]);
        out.extend((behind as u16).to_be_bytes());
        out.extend([protocol, 1 + class[0] % 255]);
        out.extend([0xfd, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        out.extend([0xfd, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    }

    fn push_ipv4(
        &mut self,
        out: &mut Vec<u8>,
        protocol: u8,
        network: usize,
        behind: usize,
        kind: Kind,
    ) {
        let fields = self.bytes(4);
        out.extend([8, 0]);
        let start = out.len();
        out.extend([0x40 | (network / 4) as u8, fields[0]]);
        out.extend(((network + behind) as u16).to_be_bytes());
        out.extend([fields[1], fields[2]]);
        let may_fragment = kind == Kind::Fragments || fields[3] & 1 == 0;
        out.extend([if may_fragment { 0 } else { 0x40 }, 0]);
        out.extend([1 + fields[3] % 255, protocol, 0, 0]);
        out.extend([10, 9, 0, 1, 10, 9, 0, 2]);
        // No operation, and the end of the list.
        out.resize(start + network - usize::from(network > 20), 1);
        out.resize(start + network, 0);
        let sum = !sum_of(&out[start..], 0);
        out[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Writes lengths and the sum of the pseudo-header. Returns where the checksum is from `start` on.
fn finish_transport(bytes: &mut [u8], network: usize, start: usize, protocol: u8) -> usize {
    let length = bytes.len() - start;
    let offset = if protocol == TCP { 16 } else { 6 };
    if protocol == UDP {
        bytes[start + 4..start + 6].copy_from_slice(&(length as u16).to_be_bytes());
    }
    let addresses = match bytes[network] >> 4 {
        6 => network + 8..network + 40,
        _ => network + 12..network + 20,
    };
    let sum = sum_of(&bytes[addresses], u32::from(protocol) + length as u32);
    bytes[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
    offset
}

fn offload(kind: Kind, partial: PartialChecksum, size: usize, header_length: usize) -> Offload {
    let segment_kind = match kind {
        Kind::Tcp { ecn, .. } => Some(SegmentKind::Tcp { ecn }),
        Kind::Udp { .. } => Some(SegmentKind::Udp),
        Kind::Fragments => Some(SegmentKind::UdpFragments),
        Kind::Checksum { .. } => None,
        Kind::Nothing => return Offload::NONE,
    };
    Offload {
        checksum: ChecksumState::Partial(partial),
        segmentation: segment_kind.map(|kind| Segmentation {
            kind,
            size: size as u16,
            header_length: header_length as u16,
        }),
    }
}

fn completed(bytes: &[u8], partial: PartialChecksum) -> Vec<u8> {
    let mut packet = HeapBuffer::new(bytes);
    assert!(complete_checksum(&mut packet, partial));
    packet.to_vec()
}

impl Crafted {
    /// A complete TCP packet, whose options are none, that is to be cut into segments of `size`
    /// bytes.
    #[allow(dead_code, reason = "for the kernel's TCP")]
    pub fn tcp(mut bytes: Vec<u8>, size: u16) -> Crafted {
        let network = 14;
        let start = network + if bytes[12] == 0x86 { 40 } else { 20 };
        let offset = finish_transport(&mut bytes, network, start, TCP);
        let partial = PartialChecksum {
            start: start as u16,
            offset: offset as u16,
        };
        let kind = Kind::Tcp {
            is_v6: false,
            ecn: false,
        };
        let offload = offload(kind, partial, size.into(), start + 20);
        Crafted { bytes, offload }
    }

    /// A frame that asks for nothing.
    #[allow(dead_code, reason = "for the kernel's TCP")]
    pub fn plain(bytes: Vec<u8>) -> Crafted {
        Crafted {
            bytes,
            offload: Offload::NONE,
        }
    }

    /// Changes the payload so that the first piece has a sum of zero, which UDP may not say.
    fn make_sum_zero(&mut self, payload: usize, checksum: usize) {
        self.bytes[payload..payload + 2].fill(0);
        let first = self.in_software().swap_remove(0);
        let missing = &first[checksum..checksum + 2];
        self.bytes[payload..payload + 2].copy_from_slice(missing);
    }

    /// The features with which a device takes it as it is.
    pub fn needs(&self) -> FeatureBits {
        if self.offload.is_none() {
            return FeatureBits::NONE;
        }
        let is_v6 = self.bytes[12] == 0x86 || self.bytes[12] == 0x81 && self.bytes[16] == 0x86;
        let offload = self.offload.for_length(self.bytes.len());
        let kind = offload.segmentation.map(|segmentation| segmentation.kind);
        let segmentation = match kind {
            None => FeatureBits::NONE,
            Some(SegmentKind::Tcp { ecn }) => {
                let tso = [FeatureBits::HOST_TSO4, FeatureBits::HOST_TSO6][usize::from(is_v6)];
                let ecn = [FeatureBits::NONE, FeatureBits::HOST_ECN][usize::from(ecn)];
                tso | ecn
            }
            Some(SegmentKind::Udp) => FeatureBits::HOST_USO,
            Some(SegmentKind::UdpFragments) => FeatureBits::HOST_UFO,
        };
        FeatureBits::CSUM | segmentation
    }

    /// What our software makes of it.
    pub fn in_software(&self) -> Vec<Vec<u8>> {
        let mut packet = HeapBuffer::new(&self.bytes);
        match self.offload.for_length(self.bytes.len()) {
            Offload {
                segmentation: Some(_),
                ..
            } => {
                let mut pieces = Vec::new();
                segment(&mut packet, &self.offload, &mut Heap, &mut pieces).expect("well-formed");
                pieces.iter().map(HeapBuffer::to_vec).collect()
            }
            Offload {
                checksum: ChecksumState::Partial(partial),
                ..
            } => vec![completed(&self.bytes, partial)],
            _ => vec![self.bytes.clone()],
        }
    }
}

/// The one's complement sum of 16-bit words, on top of `sum`.
fn sum_of(bytes: &[u8], sum: u32) -> u16 {
    let words = bytes.chunks(2);
    let words = words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&b| b.into()));
    let mut sum = words.fold(sum, |sum, word| sum + word);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}
