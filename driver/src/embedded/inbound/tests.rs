//! A frame into whatever buffers a driver posts: in one descriptor or several, in one buffer or merged.

use proptest::prelude::*;

use super::super::backend::one_frame::OneFrame;
use super::super::ring::driver_side::{BUFFERS, DEVICE, DriverSide, MEMORY};
use super::super::ring::{NEXT, UsedReports, WRITE};
use super::*;

const SIZE: u16 = 8;
/// What nobody wrote.
const UNTOUCHED: u8 = 0xee;

/// A receive ring, and its driver.
struct Rig {
    features: FeatureBits,
    ring: Ring,
    driver: DriverSide,
    /// Where the parts of each buffer are.
    buffers: Vec<Vec<Segment>>,
}

impl Rig {
    /// With buffers whose parts have these lengths, and a byte that is in no buffer behind each part.
    fn new(features: FeatureBits, buffers: &[Vec<usize>]) -> Self {
        let mut driver = DriverSide::new(features.contains(FeatureBits::RING_PACKED), SIZE);
        assert!(driver.memory.write(BUFFERS, &[UNTOUCHED; MEMORY - BUFFERS]));
        let mut offset = BUFFERS;
        let mut place = |length: &usize| {
            let segment = Segment {
                offset,
                length: *length,
            };
            offset += length + 1;
            segment
        };
        let buffers: Vec<Vec<_>> = buffers
            .iter()
            .map(|parts| parts.iter().map(&mut place).collect())
            .collect();
        for (id, parts) in (0..).zip(&buffers) {
            for (index, part) in parts.iter().enumerate() {
                let is_last = index + 1 == parts.len();
                let flags = if is_last { WRITE } else { WRITE | NEXT };
                driver.write(part.offset, part.length as u32, flags, id);
            }
        }
        let memory = driver.memory.clone();
        let ring = Ring::new(memory, &driver.layout, features, UsedReports::Each);
        Rig {
            features,
            ring: ring.expect("a ring"),
            driver,
            buffers,
        }
    }

    /// Offers `frame` to the device.
    fn receive(&mut self, frame: &[u8]) -> EmbeddedStats {
        let mut stats = EmbeddedStats::default();
        let mut inbound = Inbound {
            ring: &mut self.ring,
            chains: &mut vec![Chain::default()],
            pieces: &mut VecDeque::new(),
            scratch: &mut Scratch::default(),
            features: self.features,
            link_up: true,
            stats: &mut stats,
            starved: false,
            fault: None,
        };
        let work = inbound.receive(&mut OneFrame(frame.to_vec()), Instant::ZERO, 1);
        assert_eq!((inbound.fault, work.is_ok()), (None, true));
        let _ = self.ring.publish();
        stats
    }

    /// The length that the driver is told of the buffer whose first descriptor is number `at`, the
    /// `index`th.
    fn used_length(&self, index: usize, at: usize) -> usize {
        let place = match self.ring {
            Ring::Split(_) => DEVICE + 4 + index * 8 + 4,
            Ring::Packed(_) => at * 16 + 8,
        };
        let length = self
            .driver
            .memory
            .read_behind::<4>(place, 0, &mut Vec::new());
        u32::from_le_bytes(length.expect("inside")) as usize
    }

    /// What is where buffers may be, and between them.
    fn contents(&self) -> Vec<u8> {
        let mut found = Vec::new();
        assert!(
            self.driver
                .memory
                .read(BUFFERS, MEMORY - BUFFERS, &mut found)
        );
        found
    }
}

/// What the memory of `buffers` holds when the first `count` are filled from `packet`.
fn filled(buffers: &[Vec<Segment>], count: usize, mut packet: &[u8]) -> Vec<u8> {
    let mut expected = vec![UNTOUCHED; MEMORY - BUFFERS];
    for part in buffers.iter().take(count).flatten() {
        let (now, later) = packet.split_at(part.length.min(packet.len()));
        let from = part.offset - BUFFERS;
        expected[from..from + now.len()].copy_from_slice(now);
        packet = later;
    }
    assert!(packet.is_empty());
    expected
}

/// Lengths of the parts of some buffers, that all fit into the ring, each with room for a header.
fn buffers() -> impl Strategy<Value = Vec<Vec<usize>>> {
    let parts = prop::collection::vec(prop_oneof![0..30usize, 0..200usize], 1..4);
    prop::collection::vec(parts, 1..6).prop_map(|mut buffers| {
        let mut descriptors = 0;
        buffers.retain(|parts| {
            descriptors += parts.len();
            descriptors <= usize::from(SIZE)
        });
        for parts in &mut buffers {
            let missing = NetHeader::LENGTH.saturating_sub(parts.iter().sum());
            *parts.last_mut().expect("a part") += missing;
        }
        buffers
    })
}

proptest! {
    #[test]
    fn a_frame_fills_its_buffers_in_order_and_nothing_else(
        is_packed: bool,
        in_order: bool,
        merges: bool,
        lengths in buffers(),
        // The frame is so much shorter than the buffers, or longer.
        spare in prop_oneof![-2..3isize, -60..700isize],
        whole in 1..6usize,
    ) {
        let mut features = FeatureBits::VERSION_1;
        for (is_set, feature) in [
            (is_packed, FeatureBits::RING_PACKED),
            (in_order, FeatureBits::IN_ORDER),
            (merges, FeatureBits::MRG_RXBUF),
        ] {
            if is_set {
                features |= feature;
            }
        }
        let sizes: Vec<usize> = lengths.iter().map(|parts| parts.iter().sum()).collect();
        // Mostly around the end of one of the buffers.
        let around: usize = sizes.iter().take(whole).sum();
        let needed = around.saturating_add_signed(-spare).max(NetHeader::LENGTH);
        let frame: Vec<u8> = (NetHeader::LENGTH..needed).map(|at| (at % 199) as u8).collect();

        let mut rig = Rig::new(features, &lengths);
        let stats = rig.receive(&frame);
        let ends = sizes.iter().scan(0, |end, size| { *end += size; Some(*end) });
        let most = if merges { sizes.len() } else { 1 };
        let count = ends.take(most).position(|end| end >= needed).map(|last| last + 1);
        let descriptors: usize = lengths.iter().map(Vec::len).sum();
        let is_never = !merges || descriptors == usize::from(SIZE);
        let frames = (stats.to_driver.frames, stats.no_room.frames, stats.no_buffer);
        prop_assert_eq!(frames, match count {
            Some(_) => (1, 0, 0),
            None if is_never => (0, 1, 0),
            None => (0, 0, 1),
        });
        let Some(count) = count else {
            prop_assert_eq!(rig.contents(), filled(&rig.buffers, 0, &[]));
            return Ok(());
        };
        let num_buffers = count as u16;
        let header = NetHeader { num_buffers, ..NetHeader::default() }.to_bytes();
        let packet = [&header[..], &frame].concat();
        prop_assert_eq!(rig.contents(), filled(&rig.buffers, count, &packet));
        let (mut left, mut at) = (needed, 0);
        for (index, parts) in lengths.iter().enumerate().take(count) {
            let used = left.min(parts.iter().sum());
            prop_assert_eq!(rig.used_length(index, at), used);
            left -= used;
            at += parts.len();
        }
    }
}
