//! The driver's memory as the device sees it: every access of the device goes through here.
//!
//! The driver may write any byte of the mapping at any time, so there is never a reference
//! into it. Ring fields are read and written as atomics or volatile, payload is copied to and
//! from buffers that belong to the device alone, and only the copy is judged.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;

use super::ring::Segment;
use crate::memory::DmaMemory;

pub(super) use area::{Area, PackedPlace};

mod area;

/// Segments that are written to a file with one system call, at most: the longest frame in slots of
/// the driver's pool, and some.
pub(super) const MOST_WRITTEN: usize = 64;

/// A mapped [`DmaMemory`] and the address at which the driver was told that it starts.
#[derive(Debug, Clone)]
pub(super) struct GuestMemory {
    memory: Arc<DmaMemory>,
    iova: u64,
}

impl GuestMemory {
    /// `memory`, as the driver addresses it from `iova` on.
    pub(super) fn new(memory: Arc<DmaMemory>, iova: u64) -> Self {
        GuestMemory { memory, iova }
    }

    /// The offset of the `length` bytes at `address`, or `None` if they are not all mapped.
    pub(super) fn translate(&self, address: u64, length: usize) -> Option<usize> {
        let offset = usize::try_from(address.checked_sub(self.iova)?).ok()?;
        self.memory.range(offset, length)?;
        Some(offset)
    }

    /// Appends the `length` bytes at `offset` to `to`. False, and nothing appended, if they are
    /// not all mapped.
    #[must_use]
    pub(super) fn read(&self, offset: usize, length: usize, to: &mut Vec<u8>) -> bool {
        self.read_behind::<0>(offset, length, to).is_some()
    }

    /// The `N` bytes at `offset`; the `length` bytes behind them are appended to `to`. `None`, and
    /// nothing appended, if they are not all mapped.
    #[inline(always)]
    pub(super) fn read_behind<const N: usize>(
        &self,
        offset: usize,
        length: usize,
        to: &mut Vec<u8>,
    ) -> Option<[u8; N]> {
        let source = self.memory.range(offset, N.checked_add(length)?)?;
        to.reserve(length);
        let free = to.spare_capacity_mut();
        // SAFETY: `source` is as many mapped bytes as both have together and `free` is at least
        // `length` bytes after `reserve`. They do not overlap: `free` is in an allocation of ours,
        // not in the mapping. The driver may write the source meanwhile; the bytes copied are then
        // any mix of old and new, all of them initialised, and are judged only after the copy.
        unsafe {
            let rest = source.as_ptr().add(N);
            ptr::copy_nonoverlapping(rest, free.as_mut_ptr().cast(), length);
            to.set_len(to.len() + length);
            Some(source.cast::<[u8; N]>().read())
        }
    }

    /// The descriptor at `offset`, an entry of an indirect table, read once; `None` if it is not all
    /// mapped. A table may lie anywhere: the standard asks for no alignment.
    pub(super) fn table_entry(&self, offset: usize) -> Option<Descriptor> {
        let source = self.memory.range(offset, Descriptor::BYTES)?;
        // SAFETY: sixteen mapped bytes; `Unaligned` needs no alignment and any bytes are one. Volatile,
        // because the driver may write them: they are read once and then judged.
        let Unaligned([low, high]) = unsafe { source.cast::<Unaligned>().read_volatile() };
        Some(Descriptor::from_words(
            u64::from_le(low),
            u64::from_le(high),
        ))
    }

    /// Fills `to` from `offset`. False, and nothing read, if the bytes are not all mapped.
    #[must_use]
    pub(super) fn read_exact(&self, offset: usize, to: &mut [u8]) -> bool {
        let Some(source) = self.memory.range(offset, to.len()) else {
            return false;
        };
        // SAFETY: as in `read_behind`; `to` is an exclusive slice outside the mapping.
        unsafe { ptr::copy_nonoverlapping(source.as_ptr(), to.as_mut_ptr(), to.len()) };
        true
    }

    /// Copies `from` to `offset`. False, and nothing written, if the bytes are not all mapped.
    #[must_use]
    pub(super) fn write(&self, offset: usize, from: &[u8]) -> bool {
        self.write_behind(offset, &[], from)
    }

    /// Copies `head`, and behind it `from`, to `offset`. False, and nothing written, if the bytes
    /// are not all mapped.
    #[must_use]
    #[inline(always)]
    pub(super) fn write_behind<const N: usize>(
        &self,
        offset: usize,
        head: &[u8; N],
        from: &[u8],
    ) -> bool {
        let length = N.saturating_add(from.len());
        let Some(target) = self.memory.range(offset, length) else {
            return false;
        };
        // SAFETY: `target` is as many mapped bytes as both have together, and both are outside the
        // mapping. By the protocol of the ring the driver does not touch them until the buffer is
        // used; if it does, it sees a mix, which is its own fault and no memory error, because it
        // has no reference either.
        unsafe {
            ptr::copy_nonoverlapping(head.as_ptr(), target.as_ptr(), N);
            ptr::copy_nonoverlapping(from.as_ptr(), target.as_ptr().add(N), from.len());
        }
        true
    }

    /// Writes `head`, and behind it `segments` without their first `skip` bytes, to `file`, with one
    /// system call. Returns how many bytes the kernel took.
    ///
    /// # Errors
    /// What the kernel says; `InvalidInput` if the bytes are not all mapped, or in more than
    /// [`MOST_WRITTEN`] segments.
    pub(super) fn write_to(
        &self,
        file: BorrowedFd<'_>,
        head: &[u8],
        segments: &[Segment],
        mut skip: usize,
    ) -> io::Result<usize> {
        let part = |start: *const u8, length| libc::iovec {
            iov_base: start.cast_mut().cast(),
            iov_len: length,
        };
        let mut parts = [part(ptr::null(), 0); MOST_WRITTEN + 1];
        let mut free = parts.iter_mut();
        let mut add = |start, length| match free.next() {
            Some(place) => {
                *place = part(start, length);
                Ok(())
            }
            None => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        };
        add(head.as_ptr(), head.len())?;
        for segment in segments {
            let skipped = skip.min(segment.length);
            skip -= skipped;
            let (offset, length) = (segment.offset + skipped, segment.length - skipped);
            let range = self.memory.range(offset, length);
            let start = range.ok_or(io::ErrorKind::InvalidInput)?;
            add(start.as_ptr(), length)?;
        }
        let count = MOST_WRITTEN + 1 - free.len();
        // SAFETY: the first `count` parts are `head`, a slice, and mapped bytes, which stay mapped
        // while `self.memory` lives; there are no references into the latter. The kernel only reads
        // them. If the driver writes them meanwhile, the kernel gets any mix of old and new.
        let written =
            unsafe { libc::writev(file.as_raw_fd(), parts.as_ptr(), count as libc::c_int) };
        Ok(Errno::result(written)?.unsigned_abs())
    }

    /// The `length` bytes at `offset` as a part of a ring, or `None` if they are not all mapped
    /// or not aligned to `ALIGNMENT`.
    pub(super) fn area<const ALIGNMENT: usize>(
        &self,
        offset: usize,
        length: usize,
    ) -> Option<Area<ALIGNMENT>> {
        Area::new(&self.memory, offset, length)
    }
}

/// The words of a descriptor, wherever it lies.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Unaligned([u64; 2]);

/// One descriptor, read once (virtio 1.3, section 2.7.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) length: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

impl Descriptor {
    /// Size in memory.
    pub(super) const BYTES: usize = 16;

    /// A descriptor from its address, and the eight bytes behind it as one number.
    fn from_words(address: u64, rest: u64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "each field is cut out of the 64 bits on purpose"
        )]
        Descriptor {
            address,
            length: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }
}

#[cfg(test)]
mod tests;
