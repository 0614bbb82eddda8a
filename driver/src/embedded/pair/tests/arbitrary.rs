//! A driver that writes anything anywhere, often what is nearly right: the device counts every frame,
//! takes none that is not one, and works again after a reset.

use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::super::super::memory::{Area, GuestMemory};
use super::super::super::ring::INDIRECT;
use super::*;
use crate::memory::{DmaMemory, HugePages};
use crate::transport::RingLayout;

const IOVA: u64 = 1 << 32;
const LENGTH: usize = 8192;
/// Bytes for all parts of a ring.
const RING: usize = 512;
const DRIVER: usize = 128;
const DEVICE: usize = 256;
/// Where tables are, a packet to segment, and zeros, which are the header of a plain one.
const TABLES: usize = 2048;
const TRAIN: usize = 2560;
const ZEROS: usize = 4608;
const MTU: u16 = 1500;
/// The shortest frame that is one, and the longest of any: with segments left to the device, 64 KiB.
const FRAMES: std::ops::RangeInclusive<usize> = 14..=65_593;

/// Checks what the driver sends, and always has another frame for it.
struct Wire {
    lengths: Vec<usize>,
    next: usize,
}

impl Port for Wire {
    fn transmit(&mut self, _now: Instant, burst: &mut [Packet]) -> Count {
        for packet in burst.iter() {
            assert!(FRAMES.contains(&packet.bytes.len()));
            assert!(packet.header.is_plain_transmit(), "{:?}", packet.header);
        }
        Count::default()
    }

    fn receive(
        &mut self,
        _now: Instant,
        limit: usize,
        deliver: &mut Deliver<'_>,
    ) -> io::Result<usize> {
        for count in 0..limit {
            let length = self.lengths[self.next % self.lengths.len()];
            if deliver(&NetHeader::default(), &vec![7; length]) == Delivery::NoBuffer {
                return Ok(count);
            }
            self.next += 1;
        }
        Ok(limit)
    }
}

/// What the driver does, from numbers.
type Words = (u8, u16, u16, u16, u16);

struct Driver {
    memory: GuestMemory,
    area: Area<16>,
    is_packed: bool,
    /// Of each ring, how many descriptors, or in a split one chains, were made available.
    available: [u16; 2],
}

impl Driver {
    fn act(&mut self, (what, first, second, third, fourth): Words) {
        let queue = usize::from(first & 1);
        match what {
            0..=3 => {
                self.describe(queue, first >> 1, second, third, fourth);
                if what > 0 && !self.is_packed {
                    self.offer(queue, first >> 8, second >> 4, fourth >> 8);
                }
            }
            4 => {
                // An entry of a table.
                let at = TABLES + usize::from(first % 8) * 16;
                let flags = if is_usual(second, 4) {
                    fourth & 2
                } else {
                    fourth
                };
                let entry = entry(second, third, flags, flags);
                assert!(self.memory.write(at, &entry));
            }
            _ => {
                let at = usize::from(second) % (LENGTH - 4);
                let bytes = [third.to_le_bytes(), fourth.to_le_bytes()].concat();
                assert!(self.memory.write(at, &bytes));
            }
        }
    }

    /// Writes the next descriptor of a ring, or, seldom, another.
    fn describe(&mut self, queue: usize, chosen: u16, place: u16, length: u16, bits: u16) {
        let available = self.available[queue];
        let index = if is_usual(chosen, 16) {
            available
        } else {
            chosen >> 4
        } % SIZE;
        let is_in_lap = (available / SIZE).is_multiple_of(2);
        // The receive ring is for writing.
        let mut flags = if is_usual(bits, 32) && queue == 0 {
            WRITE
        } else {
            0
        };
        let (mut place, mut length) = (place, length);
        match bits >> 5 & 7 {
            0 | 1 => flags |= NEXT,
            2 => {
                (flags, place) = (INDIRECT, 0);
                length %= 4;
            }
            3 => flags = bits,
            _ => {}
        }
        let entry = match self.is_packed {
            true => {
                self.available[queue] = available.wrapping_add(1);
                flags &= !(1 << 7 | 1 << 15);
                entry(
                    place,
                    length,
                    index,
                    flags | if is_in_lap { 1 << 7 } else { 1 << 15 },
                )
            }
            false => entry(place, length, flags, (index + 1) % SIZE),
        };
        assert!(
            self.memory
                .write(queue * RING + usize::from(index) * 16, &entry)
        );
    }

    /// Makes a chain of a split ring available: mostly the one that is next in order.
    fn offer(&mut self, queue: usize, chosen: u16, other: u16, jump: u16) {
        let available = &mut self.available[queue];
        let slot = *available % SIZE;
        let head = if is_usual(chosen, 16) {
            slot
        } else {
            other % (SIZE + 1)
        };
        *available = available.wrapping_add(if is_usual(jump, 64) { 1 } else { other });
        let ring = queue * RING + DRIVER;
        let at = ring + 4 + usize::from(slot) * 2;
        self.area.store_u16(at, head, Ordering::Relaxed);
        self.area.store_u16(ring + 2, *available, Ordering::Release);
    }
}

/// Whether a number that may be any is not the one in so many that asks for what is seldom.
fn is_usual(chosen: u16, one_in: u16) -> bool {
    !chosen.is_multiple_of(one_in)
}

/// A descriptor of `place`: a table, a packet to segment, zeros, or anywhere.
fn entry(place: u16, length: u16, third: u16, fourth: u16) -> [u8; 16] {
    const LENGTHS: [u32; 12] = [16, 32, 48, 64, 1514, 100, 1526, 13, 12, 11, 0, u32::MAX];
    let offset = match place % 16 {
        0 => TABLES,
        1..=3 => TRAIN,
        4 => usize::from(place >> 4) * 3,
        _ => ZEROS + usize::from(place) % 2000,
    };
    // Mostly one that is neither too short nor too long.
    let length = if is_usual(place >> 8, 8) {
        length % 7
    } else {
        length % 12
    };
    let value = u128::from(IOVA + offset as u64)
        | u128::from(LENGTHS[usize::from(length)]) << 64
        | u128::from(third) << 96
        | u128::from(fourth) << 112;
    value.to_le_bytes()
}

/// A header that asks for segments of 100 bytes, and the headers of the packet to be cut: Ethernet, IPv4
/// and TCP.
fn train() -> Vec<u8> {
    let header = NetHeader {
        flags: 1,
        gso_type: 1,
        hdr_len: 54,
        gso_size: 100,
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 0,
    };
    let mut packet = header.to_bytes().to_vec();
    packet.extend([0; 12]);
    // IPv4, twenty bytes of header, of 1500 in all; TCP, the same.
    packet.extend([8, 0, 0x45, 0, 5, 220, 0, 0, 0, 0, 64, 6]);
    packet.extend([0; 10 + 12]);
    packet.push(0x50);
    packet
}

/// A pair with both rings in fresh memory.
fn start(pair: &mut Pair, features: FeatureBits) -> Driver {
    pair.reset();
    let memory = DmaMemory::allocate(LENGTH, HugePages::Never).expect("memory");
    let memory = GuestMemory::new(Arc::new(memory), IOVA);
    assert!(memory.write(TRAIN, &train()));
    for index in 0..8 {
        assert!(memory.write(TABLES + usize::from(index) * 16, &entry(5, index, 0, 0)));
        // Descriptors of split rings that nobody has written yet.
        assert!(memory.write(usize::from(index) * 16, &entry(5, 4, WRITE, 0)));
        assert!(memory.write(RING + usize::from(index) * 16, &entry(5, 4, 0, 0)));
    }
    let queue = |at: usize, reports| {
        let layout = RingLayout {
            size: SIZE,
            descriptors: at,
            driver: at + DRIVER,
            device: at + DEVICE,
        };
        let ring = Ring::new(memory.clone(), &layout, features, reports);
        Queue {
            ring: ring.expect("a ring"),
            interrupt: EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("an eventfd"),
        }
    };
    pair.receive = Some(queue(0, UsedReports::Each));
    pair.transmit = Some(queue(RING, UsedReports::Burst));
    pair.start(features);
    Driver {
        area: memory.area(0, LENGTH).expect("an area"),
        memory,
        is_packed: features.contains(FeatureBits::RING_PACKED),
        available: [0; 2],
    }
}

fn sum(mut one: Count, other: Count) -> Count {
    one += other;
    one
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn whatever_a_driver_writes_every_frame_is_counted(
        chosen in 0..64u64,
        lengths in prop::collection::vec(0..3000usize, 1..4),
        actions in prop::collection::vec(
            (0..9u8, any::<u16>(), any::<u16>(), any::<u16>(), any::<u16>()),
            1..120,
        ),
    ) {
        let mut features = FeatureBits::VERSION_1;
        for (bit, feature) in [
            FeatureBits::RING_PACKED,
            FeatureBits::IN_ORDER,
            FeatureBits::EVENT_IDX,
            FeatureBits::INDIRECT_DESC,
            FeatureBits::MRG_RXBUF,
            FeatureBits::CSUM | FeatureBits::HOST_TSO4,
        ].into_iter().enumerate() {
            if chosen >> bit & 1 != 0 {
                features |= feature;
            }
        }
        let steering = Arc::new(Steering::new());
        let wire = Wire { lengths, next: 0 };
        let mut pair = Pair::new(0, Box::new(wire), steering, MTU).expect("a pair");
        let mut driver = start(&mut pair, features);
        for words in actions {
            if words.0 < 6 {
                driver.act(words);
                continue;
            }
            let faults = pair.stats.ring_faults;
            let is_broken = pair.step(NOW, true).is_err();
            prop_assert_eq!(pair.stats.ring_faults, faults + u64::from(is_broken));
            let _ = pair.prepare_sleep();
            let stats = &pair.stats;
            prop_assert_eq!(
                sum(stats.from_driver, stats.segments_added),
                sum(stats.to_backend, stats.dropped_from_driver())
            );
            prop_assert_eq!(stats.from_backend, sum(stats.to_driver, stats.dropped_to_driver()));
            if is_broken {
                driver = start(&mut pair, features);
            }
        }
    }
}
