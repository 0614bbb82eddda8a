//! A device that does as the test says: it sees all of the driver's memory and where its rings
//! are, and follows no rule of its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::eventfd::{EfdFlags, EventFd};
use virtroupe_driver::features::FeatureBits;
use virtroupe_driver::memory::DmaMemory;
use virtroupe_driver::transport::{
    DeviceConfig, DeviceEvent, Doorbell, QueueNotifiers, RingLayout, Transport, TransportError,
};

/// The receive queue.
pub const RX: usize = 0;
/// The transmit queue.
pub const TX: usize = 1;
/// Bytes in front of every packet.
pub const HEADER: usize = 12;
/// Where the device sees the memory; far from where the driver does.
const IOVA: u64 = 0x7000_0000_0000;

/// What the transport learns from the driver.
#[derive(Default)]
pub struct Parts {
    memory: Option<Arc<DmaMemory>>,
    queues: Vec<Queue>,
}

struct Queue {
    layout: RingLayout,
    doorbell: OwnedFd,
    interrupt: OwnedFd,
}

/// The transport to a [`HostileDevice`] with one queue pair.
pub struct HostileTransport {
    parts: Arc<Mutex<Parts>>,
    pub features: FeatureBits,
    pub config: DeviceConfig,
}

impl HostileTransport {
    pub fn new(features: FeatureBits) -> (Self, Arc<Mutex<Parts>>) {
        let parts = Arc::new(Mutex::new(Parts::default()));
        let transport = HostileTransport {
            parts: Arc::clone(&parts),
            features,
            config: DeviceConfig::default(),
        };
        (transport, parts)
    }
}

fn eventfd() -> (OwnedFd, OwnedFd) {
    let file = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
    let file = file.expect("an eventfd");
    let copy = file.as_fd().try_clone_to_owned().expect("a descriptor");
    (file.into(), copy)
}

impl Transport for HostileTransport {
    fn name(&self) -> &str {
        "hostile"
    }

    fn offered_features(&mut self) -> Result<FeatureBits, TransportError> {
        Ok(self.features)
    }

    fn accept_features(&mut self, _accepted: FeatureBits) -> Result<(), TransportError> {
        Ok(())
    }

    fn config(&mut self) -> Result<DeviceConfig, TransportError> {
        Ok(self.config)
    }

    fn max_queue_size(&mut self, _queue: u16) -> Result<u16, TransportError> {
        Ok(u16::MAX)
    }

    fn map_memory(&mut self, memory: &Arc<DmaMemory>) -> Result<u64, TransportError> {
        self.parts.lock().expect("unpoisoned").memory = Some(Arc::clone(memory));
        Ok(IOVA)
    }

    fn set_up_queue(
        &mut self,
        _queue: u16,
        ring: &RingLayout,
    ) -> Result<QueueNotifiers, TransportError> {
        let (doorbell, rung) = eventfd();
        let (interrupt, raised) = eventfd();
        self.parts.lock().expect("unpoisoned").queues.push(Queue {
            layout: *ring,
            doorbell: rung,
            interrupt: raised,
        });
        Ok(QueueNotifiers {
            doorbell: Doorbell::EventFd(doorbell),
            interrupt,
        })
    }

    fn enable(&mut self, _pairs: u16) -> Result<(), TransportError> {
        Ok(())
    }

    fn reset(&mut self) -> Result<(), TransportError> {
        Ok(())
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn take_event(&mut self) -> Option<DeviceEvent> {
        None
    }
}

/// A descriptor as the driver wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Offset into the memory.
    pub offset: usize,
    pub length: u32,
    pub flags: u16,
    pub next: u16,
}

/// The hands of the device.
pub struct HostileDevice {
    memory: Arc<DmaMemory>,
    queues: Vec<Queue>,
}

impl HostileDevice {
    pub fn new(parts: &Mutex<Parts>) -> Self {
        let mut parts = parts.lock().expect("unpoisoned");
        HostileDevice {
            memory: parts.memory.take().expect("the driver mapped its memory"),
            queues: std::mem::take(&mut parts.queues),
        }
    }

    fn layout(&self, queue: usize) -> RingLayout {
        self.queues[queue].layout
    }

    /// Descriptors in a ring.
    pub fn size(&self, queue: usize) -> u16 {
        self.layout(queue).size
    }

    /// Who keeps the memory mapped, this device included.
    pub fn memory_owners(&self) -> usize {
        Arc::strong_count(&self.memory)
    }

    pub fn memory_length(&self) -> usize {
        self.memory.len()
    }

    /// Offset of an address of the driver; beyond the memory if it is not in it.
    pub fn offset_of(&self, address: *const u8) -> usize {
        let base = self.memory.base().as_ptr().addr();
        address.addr().wrapping_sub(base)
    }

    pub fn load(&self, offset: usize) -> u16 {
        let cell = self.memory.range(offset, 2).expect("inside");
        // SAFETY: inside the mapping, which lives as long as `self`, and even.
        let cell = unsafe { AtomicU16::from_ptr(cell.as_ptr().cast()) };
        u16::from_le(cell.load(Ordering::Acquire))
    }

    pub fn store(&self, offset: usize, value: u16) {
        let cell = self.memory.range(offset, 2).expect("inside");
        // SAFETY: as in `load`.
        let cell = unsafe { AtomicU16::from_ptr(cell.as_ptr().cast()) };
        cell.store(value.to_le(), Ordering::Release);
    }

    fn load_u32(&self, offset: usize) -> u32 {
        u32::from(self.load(offset)) | u32::from(self.load(offset + 2)) << 16
    }

    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.memory.range(offset, bytes.len()).expect("inside");
        // SAFETY: `range` checked the target, and `bytes` is outside the mapping.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
    }

    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let from = self.memory.range(offset, length).expect("inside");
        let mut bytes = vec![0; length];
        // SAFETY: `range` checked the source, and `bytes` is outside the mapping.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), bytes.as_mut_ptr(), length) };
        bytes
    }

    fn slot(&self, queue: usize, index: u16) -> usize {
        usize::from(index & (self.size(queue) - 1))
    }

    pub fn available_index(&self, queue: usize) -> u16 {
        self.load(self.layout(queue).driver + 2)
    }

    pub fn available_entry(&self, queue: usize, index: u16) -> u16 {
        self.load(self.layout(queue).driver + 4 + 2 * self.slot(queue, index))
    }

    /// Overwrites what only the driver may write.
    pub fn set_available_word(&self, queue: usize, word: u16, value: u16) {
        let word = usize::from(word) % (3 + usize::from(self.size(queue)));
        self.store(self.layout(queue).driver + 2 * word, value);
    }

    pub fn used_index(&self, queue: usize) -> u16 {
        self.load(self.layout(queue).device + 2)
    }

    pub fn set_used_index(&self, queue: usize, value: u16) {
        self.store(self.layout(queue).device + 2, value);
    }

    pub fn set_used_flags(&self, queue: usize, value: u16) {
        self.store(self.layout(queue).device, value);
    }

    pub fn set_available_event(&self, queue: usize, value: u16) {
        let end = 4 + 8 * usize::from(self.size(queue));
        self.store(self.layout(queue).device + end, value);
    }

    /// Id and length of the used entry at `index`.
    pub fn used_entry(&self, queue: usize, index: u16) -> (u32, u32) {
        let at = self.layout(queue).device + 4 + 8 * self.slot(queue, index);
        (self.load_u32(at), self.load_u32(at + 4))
    }

    pub fn set_used_entry(&self, queue: usize, index: u16, id: u32, length: u32) {
        let at = self.layout(queue).device + 4 + 8 * self.slot(queue, index);
        self.write(at, &id.to_le_bytes());
        self.write(at + 4, &length.to_le_bytes());
    }

    pub fn descriptor(&self, queue: usize, id: u16) -> Descriptor {
        self.descriptor_at(self.layout(queue).descriptors + 16 * usize::from(id % self.size(queue)))
    }

    /// The descriptor at `index` of a packed ring, with its id as `next`.
    pub fn packed_descriptor(&self, queue: usize, index: u16) -> Descriptor {
        let found = self.descriptor(queue, index);
        // In memory: address, length, id, flags.
        Descriptor {
            flags: found.next,
            next: found.flags,
            ..found
        }
    }

    /// The descriptor at offset `at`.
    pub fn descriptor_at(&self, at: usize) -> Descriptor {
        let address = u64::from(self.load_u32(at)) | u64::from(self.load_u32(at + 4)) << 32;
        Descriptor {
            offset: address.wrapping_sub(IOVA) as usize,
            length: self.load_u32(at + 8),
            flags: self.load(at + 12),
            next: self.load(at + 14),
        }
    }

    /// Overwrites all but the address of a descriptor of a packed ring.
    pub fn set_packed(&self, queue: usize, index: u16, id: u16, length: u32, flags: u16) {
        let at = self.layout(queue).descriptors + 16 * usize::from(index % self.size(queue));
        self.write(at + 8, &length.to_le_bytes());
        self.write(at + 12, &id.to_le_bytes());
        self.write(at + 14, &flags.to_le_bytes());
    }

    /// Overwrites the device's event suppression structure of a packed ring.
    pub fn set_packed_events(&self, queue: usize, position: u16, flags: u16) {
        self.store(self.layout(queue).device, position);
        self.store(self.layout(queue).device + 2, flags);
    }

    /// Position and flags of the driver's event suppression structure of a packed ring.
    pub fn packed_wish(&self, queue: usize) -> (u16, u16) {
        let driver = self.layout(queue).driver;
        (self.load(driver), self.load(driver + 2))
    }

    /// Overwrites the beginning of a descriptor, which only the driver may.
    pub fn spoil_descriptor(&self, queue: usize, index: u16, bytes: &[u8]) {
        let index = usize::from(index % self.size(queue));
        self.write(self.layout(queue).descriptors + 16 * index, bytes);
    }

    /// The descriptors of the chain that starts at `id`.
    pub fn chain(&self, queue: usize, id: u16) -> Vec<Descriptor> {
        let mut chain = vec![self.descriptor(queue, id)];
        while let Some(last) = chain.last().filter(|last| last.flags & 1 != 0) {
            assert!(chain.len() <= usize::from(self.size(queue)), "a loop");
            chain.push(self.descriptor(queue, last.next));
        }
        chain
    }

    /// Whether the driver asked to hear of the used buffer before `index` (section 2.7.7), given
    /// that it was told of those before `old`.
    pub fn is_interrupt_wanted(&self, queue: usize, event_idx: bool, old: u16, index: u16) -> bool {
        let driver = self.layout(queue).driver;
        if !event_idx {
            return self.load(driver) & 1 == 0;
        }
        let event = self.load(driver + 4 + 2 * usize::from(self.size(queue)));
        index.wrapping_sub(event).wrapping_sub(1) < index.wrapping_sub(old)
    }

    pub fn interrupt(&self, queue: usize) {
        let written = nix::unistd::write(&self.queues[queue].interrupt, &1u64.to_ne_bytes());
        assert!(written.is_ok());
    }

    /// How often the driver rang since the last call.
    pub fn doorbells(&self, queue: usize) -> u64 {
        let mut count = [0; 8];
        match nix::unistd::read(&self.queues[queue].doorbell, &mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(_) => 0,
        }
    }
}
