//! A tiny split-ring driver that shares no code with the crate's: it does what the standard says
//! in the plainest way, and can be told to do what the standard forbids.

use std::os::fd::AsFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use virtroupe_driver::features::FeatureBits;
use virtroupe_driver::memory::{DmaMemory, HugePages};
use virtroupe_driver::transport::{QueueNotifiers, RingLayout, Transport};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Bytes of each buffer.
pub const BUFFER: usize = 2048;
const HEADER: usize = 12;

/// Plain access to the shared memory.
#[derive(Clone)]
pub struct Memory(Arc<DmaMemory>);

impl Memory {
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.0.range(offset, bytes.len()).expect("inside");
        // SAFETY: `range` checked the target, and `bytes` is outside the mapping.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
    }

    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let from = self.0.range(offset, length).expect("inside");
        let mut bytes = vec![0; length];
        // SAFETY: `range` checked the source, and `bytes` is outside the mapping.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), bytes.as_mut_ptr(), length) };
        bytes
    }

    fn index(&self, offset: usize) -> &AtomicU16 {
        let cell = self.0.range(offset, 2).expect("inside");
        // SAFETY: `range` checked it, ring offsets are even, the mapping outlives `self`, and
        // both sides access the field as an atomic.
        unsafe { AtomicU16::from_ptr(cell.as_ptr().cast()) }
    }
}

pub struct RawQueue {
    pub memory: Memory,
    pub iova: u64,
    pub layout: RingLayout,
    buffers: usize,
    pub notifiers: QueueNotifiers,
    event_index: bool,
    in_order_bursts: bool,
    /// The next descriptor to use; descriptors are used in ring order.
    next_descriptor: u16,
    pub available: u16,
    pub used: u16,
    /// Heads and descriptor counts of what is outstanding, in order.
    outstanding: std::collections::VecDeque<(u16, u16)>,
}

/// Parts of a descriptor: address, length, flags, next.
pub type Raw = (u64, u32, u16, u16);

impl RawQueue {
    pub fn write_descriptor(&self, index: u16, raw: Raw) {
        self.memory.write(
            self.layout.descriptors + usize::from(index) * 16,
            &encode(raw),
        );
    }

    pub fn buffer(&self, index: u16) -> usize {
        self.buffers + usize::from(index) * BUFFER
    }

    pub fn address(&self, offset: usize) -> u64 {
        self.iova + offset as u64
    }

    /// Makes the chain at `head` available.
    pub fn offer(&mut self, head: u16) {
        let slot = usize::from(self.available % self.layout.size);
        self.memory
            .write(self.layout.driver + 4 + slot * 2, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.set_available_index(self.available);
    }

    pub fn set_available_index(&self, index: u16) {
        self.memory
            .index(self.layout.driver + 2)
            .store(index, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    fn take_descriptors(&mut self, count: u16) -> u16 {
        let head = self.next_descriptor;
        self.next_descriptor = (head + count) % self.layout.size;
        self.outstanding.push_back((head, count));
        head
    }

    pub fn room(&self) -> usize {
        let taken: u16 = self.outstanding.iter().map(|(_, count)| count).sum();
        usize::from(self.layout.size - taken)
    }

    /// One descriptor for each part.
    pub fn send_parts(&mut self, parts: &[&[u8]]) {
        let count = parts.len() as u16;
        let head = self.take_descriptors(count);
        for (i, part) in (0..).zip(parts) {
            let index = (head + i) % self.layout.size;
            let next = (index + 1) % self.layout.size;
            self.memory.write(self.buffer(index), part);
            let flags = if i + 1 < count { NEXT } else { 0 };
            let address = self.address(self.buffer(index));
            self.write_descriptor(index, (address, part.len() as u32, flags, next));
        }
        self.offer(head);
    }

    /// One indirect descriptor; the table and the parts share its buffer.
    pub fn send_indirect(&mut self, parts: &[&[u8]]) {
        let head = self.take_descriptors(1);
        let table = self.buffer(head);
        let mut data = table + parts.len() * 16;
        for (i, part) in parts.iter().enumerate() {
            self.memory.write(data, part);
            let last = i + 1 == parts.len();
            let flags = if last { 0 } else { NEXT };
            let raw = (self.address(data), part.len() as u32, flags, i as u16 + 1);
            self.memory.write(table + i * 16, &encode(raw));
            data += part.len();
        }
        let length = parts.len() as u32 * 16;
        self.write_descriptor(head, (self.address(table), length, INDIRECT, 0));
        self.offer(head);
    }

    /// A frame behind an empty header, in one descriptor.
    pub fn send(&mut self, frame: &[u8]) {
        let mut packet = vec![0; HEADER];
        packet.extend_from_slice(frame);
        self.send_parts(&[&packet]);
    }

    /// Posts `count` receive buffers of `length` bytes each.
    pub fn post(&mut self, count: usize, length: usize) {
        for _ in 0..count {
            let head = self.take_descriptors(1);
            let address = self.address(self.buffer(head));
            self.write_descriptor(head, (address, length as u32, WRITE, 0));
            self.offer(head);
        }
    }

    pub fn used_index(&self) -> u16 {
        self.memory
            .index(self.layout.device + 2)
            .load(Ordering::Acquire)
    }

    pub fn used_flags(&self) -> u16 {
        self.memory
            .index(self.layout.device)
            .load(Ordering::Acquire)
    }

    pub fn avail_event(&self) -> u16 {
        self.memory
            .index(self.layout.device + 4 + usize::from(self.layout.size) * 8)
            .load(Ordering::Acquire)
    }

    /// Whether the device asked for a doorbell for what became available since index `old`.
    pub fn wants_doorbell(&self, old: u16) -> bool {
        if self.event_index {
            // The event index lies in [old, available).
            self.avail_event().wrapping_sub(old) < self.available.wrapping_sub(old)
        } else {
            self.used_flags() == 0
        }
    }

    /// Asks for an interrupt when the device uses more than is known (or suppresses it).
    pub fn set_interrupts(&self, on: bool) {
        if self.event_index {
            let event = if on {
                self.used
            } else {
                self.used.wrapping_sub(1)
            };
            self.memory
                .index(self.layout.driver + 4 + usize::from(self.layout.size) * 2)
                .store(event, Ordering::Relaxed);
        } else {
            self.memory
                .index(self.layout.driver)
                .store(u16::from(!on), Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// How often the device interrupted since the last call.
    pub fn interrupts(&self) -> u64 {
        let mut count = [0; 8];
        match nix::unistd::read(self.notifiers.interrupt.as_fd(), &mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(_) => 0,
        }
    }

    /// What was used: buffer and written length, in order, checked against what was outstanding.
    pub fn take_used(&mut self) -> Vec<(u16, usize)> {
        let index = self.used_index();
        let mut used = Vec::new();
        while self.used != index {
            let slot = usize::from(self.used % self.layout.size);
            let element = self.memory.read(self.layout.device + 4 + slot * 8, 8);
            let id = u32::from_le_bytes(element[..4].try_into().expect("4")) as u16;
            let length = u32::from_le_bytes(element[4..].try_into().expect("4")) as usize;
            loop {
                let (head, _) = self
                    .outstanding
                    .pop_front()
                    .expect("used but not outstanding");
                self.used = self.used.wrapping_add(1);
                used.push((head, length));
                if head == id {
                    break;
                }
                assert!(
                    self.in_order_bursts,
                    "used out of order: {id} before {head}"
                );
                assert_ne!(self.used, index, "the batch names no outstanding buffer");
            }
        }
        used
    }

    /// Received frames, merged as their headers say.
    pub fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut used = self.take_used().into_iter();
        while let Some((head, length)) = used.next() {
            let mut bytes = self.memory.read(self.buffer(head), length);
            let header: Vec<u8> = bytes.drain(..HEADER).collect();
            assert_eq!(header[..10], [0; 10], "no offload was negotiated");
            let buffers = u16::from_le_bytes([header[10], header[11]]);
            for _ in 1..buffers {
                let (head, length) = used.next().expect("all buffers of a packet come at once");
                bytes.extend(self.memory.read(self.buffer(head), length));
            }
            frames.push(bytes);
        }
        frames
    }
}

pub fn encode((address, length, flags, next): Raw) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

/// A driver of `pairs` queue pairs: queue 2n receives, 2n + 1 transmits.
pub struct RawDriver {
    pub queues: Vec<RawQueue>,
}

impl RawDriver {
    /// Sets the device up with everything it offers except `without` and packed rings.
    pub fn start(
        transport: &mut dyn Transport,
        without: FeatureBits,
        size: u16,
        pairs: u16,
    ) -> RawDriver {
        let features = transport.offered_features().expect("offered");
        let features = features - without - FeatureBits::RING_PACKED;
        transport.accept_features(features).expect("accepted");
        let entries = usize::from(size);
        let ring_bytes =
            (entries * 16 + 6 + entries * 2 + 6 + entries * 8 + 64).next_multiple_of(64);
        let queue_bytes = ring_bytes + entries * BUFFER;
        let count = usize::from(pairs) * 2;
        let memory =
            Arc::new(DmaMemory::allocate(queue_bytes * count, HugePages::Never).expect("memory"));
        let iova = transport.map_memory(&memory).expect("mapped");
        let mut queues = Vec::new();
        for queue in 0..count {
            let base = queue * queue_bytes;
            let driver = base + entries * 16;
            let layout = RingLayout {
                size,
                descriptors: base,
                driver,
                device: (driver + 6 + entries * 2).next_multiple_of(4),
            };
            let notifiers = transport
                .set_up_queue(queue as u16, &layout)
                .expect("queue set up");
            queues.push(RawQueue {
                memory: Memory(Arc::clone(&memory)),
                iova,
                layout,
                buffers: base + ring_bytes,
                notifiers,
                event_index: features.contains(FeatureBits::EVENT_IDX),
                in_order_bursts: features.contains(FeatureBits::IN_ORDER) && queue % 2 == 1,
                next_descriptor: 0,
                available: 0,
                used: 0,
                outstanding: std::collections::VecDeque::new(),
            });
        }
        transport.enable(pairs).expect("enabled");
        RawDriver { queues }
    }

    pub fn rx(&mut self) -> &mut RawQueue {
        &mut self.queues[0]
    }

    pub fn tx(&mut self) -> &mut RawQueue {
        &mut self.queues[1]
    }
}

/// A frame of `length` bytes that can be told from others.
pub fn frame(number: u32, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length).map(|i| (i as u32 ^ number) as u8).collect();
    if let Some(place) = bytes.get_mut(14..18) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    bytes
}
