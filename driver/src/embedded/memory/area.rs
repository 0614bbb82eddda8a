//! Parts of a ring: fields that driver and device both access, each at once.

use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::Descriptor;
use crate::memory::DmaMemory;

/// A part of a ring: mapped, aligned to `ALIGNMENT`, and accessed field by field. Where it lies is
/// checked once, when it is made; an access checks only that its field is inside.
#[derive(Debug)]
pub(in super::super) struct Area<const ALIGNMENT: usize> {
    start: *mut u8,
    length: usize,
    /// Keeps the area mapped.
    _memory: Arc<DmaMemory>,
}

// SAFETY: `start` is an address in plain memory that `_memory` keeps mapped, and that is tied to no
// thread.
unsafe impl<const ALIGNMENT: usize> Send for Area<ALIGNMENT> {}

impl<const ALIGNMENT: usize> Area<ALIGNMENT> {
    /// The `length` bytes at `offset` of `memory`, or `None` if they are not all mapped or not
    /// aligned.
    pub(super) fn new(memory: &Arc<DmaMemory>, offset: usize, length: usize) -> Option<Self> {
        let start = memory.range(offset, length)?.as_ptr();
        start.addr().is_multiple_of(ALIGNMENT).then(|| Area {
            start,
            length,
            _memory: Arc::clone(memory),
        })
    }

    /// The address of a `T` at byte `at`, or `None` if it is not all inside, or not aligned.
    fn field<T>(&self, at: usize) -> Option<*mut T> {
        const { assert!(ALIGNMENT.is_multiple_of(align_of::<T>())) };
        let is_inside = at.checked_add(size_of::<T>())? <= self.length;
        let is_aligned = at.is_multiple_of(align_of::<T>());
        (is_inside && is_aligned).then(|| self.start.wrapping_add(at).cast())
    }

    /// The 16-bit little-endian field at byte `at`; zero if there is none.
    pub(in super::super) fn load_u16(&self, at: usize, ordering: Ordering) -> u16 {
        let Some(field) = self.field(at) else {
            debug_assert!(false, "ring offset {at} is outside its area");
            return 0;
        };
        // SAFETY: the pointer is aligned and to two mapped bytes, which live as long as `self`.
        // Driver and device access the field only as an atomic or volatile.
        let cell = unsafe { AtomicU16::from_ptr(field) };
        u16::from_le(cell.load(ordering))
    }

    /// Stores to the 16-bit little-endian field at byte `at`.
    pub(in super::super) fn store_u16(&self, at: usize, value: u16, ordering: Ordering) {
        let Some(field) = self.field(at) else {
            debug_assert!(false, "ring offset {at} is outside its area");
            return;
        };
        // SAFETY: as in `load_u16`.
        let cell = unsafe { AtomicU16::from_ptr(field) };
        cell.store(value.to_le(), ordering);
    }

    /// Writes two 32-bit little-endian fields at byte `at`: an element of a used ring.
    pub(in super::super) fn write_pair(&self, at: usize, first: u32, second: u32) {
        let Some(fields) = self.field::<[u32; 2]>(at) else {
            debug_assert!(false, "ring offset {at} is outside its area");
            return;
        };
        // SAFETY: eight mapped bytes, aligned to four. The driver reads them only after it saw
        // the used index pass them, which is stored later with release ordering.
        unsafe {
            ptr::write_volatile(fields.cast(), first.to_le());
            ptr::write_volatile(fields.cast::<u32>().add(1), second.to_le());
        }
    }
}

impl Area<{ Descriptor::BYTES }> {
    /// Descriptor number `index` of the table in this area, read once; `None` if the table has none
    /// such.
    pub(in super::super) fn descriptor(&self, index: u16) -> Option<Descriptor> {
        let place = self.field::<[u64; 2]>(usize::from(index) * Descriptor::BYTES)?;
        // SAFETY: sixteen mapped bytes, aligned to eight. Volatile, because the driver may write
        // them: they are read once and then judged.
        let (low, high) = unsafe {
            (
                ptr::read_volatile(place.cast::<u64>()),
                ptr::read_volatile(place.cast::<u64>().add(1)),
            )
        };
        Some(Descriptor::from_words(
            u64::from_le(low),
            u64::from_le(high),
        ))
    }

    /// Descriptor number `index` of the packed ring in this area; `None` if the ring has none such.
    pub(in super::super) fn packed(&self, index: u16) -> Option<PackedPlace<'_>> {
        let place = self.field(usize::from(index) * Descriptor::BYTES)?;
        Some(PackedPlace {
            place,
            _area: PhantomData,
        })
    }
}

/// A descriptor as it lies in a packed ring (section 2.8.13), little-endian.
#[repr(C)]
struct PackedDescriptor {
    address: u64,
    length: u32,
    id: u16,
    flags: u16,
}

/// The place of a descriptor in a packed ring: what the driver made available there, and then what the
/// device used.
pub(in super::super) struct PackedPlace<'a> {
    place: *mut PackedDescriptor,
    /// Keeps it mapped.
    _area: PhantomData<&'a DmaMemory>,
}

impl PackedPlace<'_> {
    /// The flags. Acquire pairs with the driver's release of the first flags of a burst: what it
    /// wrote before is visible after.
    pub(in super::super) fn flags(&self) -> u16 {
        u16::from_le(self.flags_cell().load(Ordering::Acquire))
    }

    fn flags_cell(&self) -> &AtomicU16 {
        // SAFETY: the place is of an aligned descriptor in memory that is mapped while `self` is
        // borrowed. Driver and device access its flags only as an atomic.
        unsafe { AtomicU16::from_ptr(&raw mut (*self.place).flags) }
    }

    /// Address, length and id, each read once.
    pub(in super::super) fn buffer(&self) -> (u64, u32, u16) {
        // SAFETY: an aligned descriptor in mapped memory. Volatile, because the driver may write it:
        // its fields are read once and then judged.
        let (address, length, id) = unsafe {
            (
                ptr::read_volatile(&raw const (*self.place).address),
                ptr::read_volatile(&raw const (*self.place).length),
                ptr::read_volatile(&raw const (*self.place).id),
            )
        };
        (
            u64::from_le(address),
            u32::from_le(length),
            u16::from_le(id),
        )
    }

    /// Writes length and id of a used descriptor, and then its flags.
    pub(in super::super) fn report(&self, length: u32, id: u16, flags: u16, ordering: Ordering) {
        // SAFETY: an aligned descriptor in mapped memory. The driver reads the two only after it saw
        // flags that are stored later with release ordering: these, or those of an earlier place.
        unsafe {
            ptr::write_volatile(&raw mut (*self.place).length, length.to_le());
            ptr::write_volatile(&raw mut (*self.place).id, id.to_le());
        }
        self.flags_cell().store(flags.to_le(), ordering);
    }
}

#[cfg(test)]
mod tests;
