//! One end of a link: a device, the driver's queue pair, and an application that knows what it
//! sent and what it must receive.

use std::collections::VecDeque;

use virtroupe_driver::embedded::{
    EmbeddedConfig, EmbeddedHandle, EmbeddedStepper, EmbeddedTransport, LinkEnd,
};
use virtroupe_driver::memory::HugePages;
use virtroupe_driver::{
    Chunk, Device, DeviceOptions, FeatureBits, Frame, Mergeable, QueuePair, RingFormat,
    batch_returns,
};
use virtroupe_wire::tcp::{Attach, SharedPayload};
use virtroupe_wire::{Buffer, Instant};

/// The shortest frame that a station sends.
const SHORTEST: usize = 14;

#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub event_idx: bool,
    pub in_order: bool,
    pub in_order_bursts: bool,
    pub packed: bool,
    pub indirect: bool,
    /// Whether buffers are merged although the MTU does not need it.
    pub mergeable: bool,
    pub queue_size: u16,
    pub mtu: u16,
}

impl Setup {
    /// Combinations of all features: the lowest bits of [`from_bits`](Self::from_bits).
    pub const COMBINATIONS: u16 = 1 << 6;

    /// One of all there are.
    pub fn from_bits(bits: u16) -> Self {
        let packed = bits & 8 != 0;
        let sizes = if packed {
            [16, 21, 64, 100, 255, 256]
        } else {
            [16, 32, 64, 128, 256, 1024]
        };
        Setup {
            event_idx: bits & 1 != 0,
            in_order: bits & 2 != 0,
            in_order_bursts: bits & 4 != 0,
            packed,
            indirect: bits & 16 != 0,
            mergeable: bits & 32 != 0,
            queue_size: sizes[usize::from(bits >> 6) % sizes.len()],
            mtu: 1500,
        }
    }

    /// With frames of up to 16 buffers, and a ring that holds them.
    pub fn jumbo(self) -> Self {
        Setup {
            mergeable: true,
            queue_size: self.queue_size.max(16),
            mtu: 16_000,
            ..self
        }
    }

    /// The longest frame that a station sends.
    fn longest(self) -> usize {
        usize::from(self.mtu) + 14
    }

    pub fn config(self) -> EmbeddedConfig {
        let mut features = EmbeddedConfig::SUPPORTED;
        if !self.event_idx {
            features = features - FeatureBits::EVENT_IDX;
        }
        if !self.in_order {
            features = features - FeatureBits::IN_ORDER;
        }
        if !self.packed {
            features = features - FeatureBits::RING_PACKED;
        }
        if !self.indirect {
            features = features - FeatureBits::INDIRECT_DESC;
        }
        EmbeddedConfig {
            features,
            in_order_bursts: self.in_order_bursts,
            mtu: self.mtu,
            max_queue_size: 1 << 15,
            ..EmbeddedConfig::default()
        }
    }

    pub fn options(self) -> DeviceOptions {
        DeviceOptions {
            queue_size: self.queue_size,
            pool_frames: 2 * u32::from(self.queue_size) + 128,
            huge_pages: HugePages::Never,
            ring_format: RingFormat::Packed,
            mergeable: if self.mergeable {
                Mergeable::Always
            } else {
                Mergeable::Auto
            },
            ..DeviceOptions::default()
        }
    }
}

pub struct Station {
    setup: Setup,
    device: Device,
    pub pair: QueuePair,
    stepper: EmbeddedStepper,
    pub handle: EmbeddedHandle,
    /// Made, but not accepted by the transmit ring yet.
    backlog: Vec<Frame>,
    /// What the other end must still receive, in order.
    under_way: VecDeque<Vec<u8>>,
    made: u32,
    /// Payload that is sent again, as TCP does.
    unacknowledged: VecDeque<Chunk>,
    /// Received and kept.
    pub held: Vec<Frame>,
    pub received: u64,
    /// Frames of the other end that never came.
    pub missing: u64,
    /// Whether it waits for an interrupt.
    asleep: bool,
}

impl Station {
    pub fn new(setup: Setup, end: LinkEnd) -> Self {
        let (transport, handle, stepper) =
            EmbeddedTransport::inline(setup.config(), end).expect("a device");
        let (device, mut pairs) =
            Device::initialize(Box::new(transport), &setup.options()).expect("it starts");
        let mut pair = pairs.pop().expect("a pair").bind();
        let bits = device.features().bits;
        assert_eq!(bits.contains(FeatureBits::RING_PACKED), setup.packed);
        assert_eq!(bits.contains(FeatureBits::MRG_RXBUF), setup.mergeable);
        assert_eq!(pair.receive(&mut Vec::new(), 1), Ok(0));
        Station {
            setup,
            device,
            pair,
            stepper,
            handle,
            backlog: Vec::new(),
            under_way: VecDeque::new(),
            made: 0,
            unacknowledged: VecDeque::new(),
            held: Vec::new(),
            received: 0,
            missing: 0,
            asleep: false,
        }
    }

    pub fn step(&self) -> usize {
        self.stepper.step(Instant::ZERO)
    }

    pub fn backlog(&self) -> usize {
        self.backlog.len()
    }

    /// Makes a frame in one of several shapes and lets it wait to be sent.
    pub fn make(&mut self, shape: u16, length: usize) {
        if shape % 5 == 4 && shape & 64 != 0 {
            self.send_again(length);
            return;
        }
        let length = SHORTEST + length % (self.setup.longest() - SHORTEST + 1);
        let seed = self.made.wrapping_mul(0x9e37_79b9);
        let mut bytes: Vec<u8> = (0..length).map(|at| (seed >> (at % 24)) as u8).collect();
        bytes[..4].copy_from_slice(&self.made.to_le_bytes());
        let Some(frame) = self.shaped(shape, &bytes) else {
            return;
        };
        assert_eq!(frame.to_vec(), bytes);
        self.made += 1;
        self.backlog.push(frame);
        self.under_way.push_back(bytes);
    }

    fn shaped(&mut self, shape: u16, bytes: &[u8]) -> Option<Frame> {
        let in_long_slots = shape & 0x100 != 0;
        let mut fresh = |bytes: &[u8]| {
            if in_long_slots
                && let Some(mut frame) = self.pair.pool().long_frame()
                && frame.extend_from_slice(bytes)
            {
                return Some(frame);
            }
            // A long frame takes several slots; those taken come home if there are too few.
            let mut slots = bytes.chunks(2000);
            let mut frame = self.pair.pool().frame()?;
            assert!(frame.extend_from_slice(slots.next().unwrap_or_default()));
            for bytes in slots {
                let mut slot = self.pair.pool().frame()?;
                assert!(slot.extend_from_slice(bytes));
                frame.append(slot);
            }
            Some(frame)
        };
        let (head, tail) = bytes.split_at(bytes.len() / 3);
        match shape % 5 {
            0 => fresh(bytes),
            1 => Some(Frame::on_heap(bytes)),
            2 => {
                let mut frame = fresh(&tail[..tail.len() / 2])?;
                frame.append(fresh(&tail[tail.len() / 2..])?);
                frame.prepend(head.len().min(32))?.fill(0);
                frame.trim_front(head.len().min(32));
                let mut whole = fresh(head)?;
                whole.append(frame);
                Some(whole)
            }
            3 => {
                let mut frame = fresh(head)?;
                for piece in tail.chunks(tail.len().div_ceil(usize::from(shape >> 2) % 20 + 1)) {
                    frame.append(Frame::on_heap(piece));
                }
                frame.append(Frame::on_heap(b""));
                Some(frame)
            }
            _ => {
                let mut frame = fresh(head)?;
                for piece in tail.chunks(700) {
                    let chunk = fresh(piece)?.freeze();
                    self.unacknowledged.push_back(chunk.clone());
                    frame.attach(chunk);
                }
                let acknowledged = self.unacknowledged.len().saturating_sub(4);
                self.unacknowledged.drain(..acknowledged);
                Some(frame)
            }
        }
    }

    /// Makes a frame out of parts of what was sent before, perhaps while the device has that.
    fn send_again(&mut self, choice: usize) {
        let mut bytes = vec![0; SHORTEST];
        bytes[..4].copy_from_slice(&self.made.to_le_bytes());
        let Some(mut frame) = self.pair.pool().frame() else {
            return;
        };
        assert!(frame.extend_from_slice(&bytes));
        for chunk in &self.unacknowledged {
            let part =
                SharedPayload::slice(chunk, choice % 300, chunk.len().saturating_sub(choice % 7));
            if bytes.len() + part.len() <= self.setup.longest() {
                bytes.extend_from_slice(&part);
                assert!(frame.attach(part));
            }
        }
        self.made += 1;
        self.backlog.push(frame);
        self.under_way.push_back(bytes);
    }

    pub fn transmit(&mut self) {
        self.pair.transmit(&mut self.backlog).expect("no violation");
    }

    /// Receives what `other` sent, and compares it.
    pub fn receive(&mut self, other: &mut Station, limit: usize) -> usize {
        if self.asleep {
            return 0;
        }
        let before = self.held.len();
        let count = self
            .pair
            .receive(&mut self.held, limit)
            .expect("no violation");
        for frame in &self.held[before..] {
            let bytes = frame.to_vec();
            loop {
                let sent = other.under_way.pop_front();
                let sent = sent.expect("received what was not sent, or twice, or out of order");
                if sent == bytes {
                    break;
                }
                self.missing += 1;
            }
        }
        self.received += count as u64;
        count
    }

    /// Drops the first frames that are held, here or on another thread.
    pub fn release(&mut self, count: usize, elsewhere: bool) {
        let frames: Vec<_> = self.held.drain(..count.min(self.held.len())).collect();
        if elsewhere {
            let dropper = std::thread::spawn(move || batch_returns(|| drop(frames)));
            dropper.join().expect("dropped");
        }
    }

    /// Sleeps if `arm` allows it.
    pub fn sleep(&mut self, transmit: bool) {
        self.asleep = self.asleep || self.pair.arm(transmit);
        if !self.asleep {
            self.pair.disarm();
        }
    }

    /// Wakes if an interrupt came.
    pub fn wake(&mut self) -> bool {
        let mut came = false;
        for interrupt in self.pair.interrupts() {
            came |= nix::unistd::read(interrupt, &mut [0; 8]).is_ok();
        }
        if self.asleep && came {
            self.asleep = false;
            self.pair.disarm();
        }
        came
    }

    /// Every frame comes home.
    pub fn finish(mut self) {
        let drops = self.pair.transmit_counters().drops.total();
        assert_eq!(self.under_way.len() as u64, 0, "with {drops} dropped");
        assert_eq!(self.pair.transmit_outstanding(), 0);
        assert_eq!(self.handle.stats().ring_faults, 0);
        assert_eq!(self.pair.receive_counters().frames, self.received);
        self.held.clear();
        self.unacknowledged.clear();
        self.device.reset().expect("it resets");
        assert_eq!(self.pair.reclaim_after_reset(), 0);
        self.pair.pool().collect();
        let (capacity, free) = self.pair.pool_level();
        assert_eq!(free, capacity, "every slot is home");
    }

    /// Takes note of frames that the driver dropped and so will never come.
    pub fn forget_tail(&mut self, receiver: &mut Station) {
        receiver.missing += self.under_way.drain(..).count() as u64;
        let drops = self.pair.transmit_counters().drops.total();
        assert_eq!(receiver.missing, drops, "lost, and not counted");
    }
}
