//! DMA memory: one sealed memfd that driver and device share.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::ftruncate;
use serde::{Deserialize, Serialize};

/// Whether DMA memory lies in huge pages of 2 MiB.
///
/// Huge pages save address translations in the driver and in the backend: several per cent of
/// the packet rate. They must have been reserved (`sysctl vm.nr_hugepages=N`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HugePages {
    /// Huge pages if there are enough, else ordinary ones, with a warning in the log.
    #[default]
    Prefer,
    /// Huge pages, or start-up fails.
    Require,
    /// Ordinary pages.
    Never,
}

/// No memory could be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Ordinary memory was refused.
    #[error(
        "cannot allocate {bytes} bytes of DMA memory: {source}; lower `pool_frames` or raise the memory limit (ulimit -v, cgroup memory.max)"
    )]
    Allocate {
        /// How much was asked for.
        bytes: usize,
        /// What the system said.
        source: io::Error,
    },
    /// Huge pages were required and refused.
    #[error(
        "cannot allocate {bytes} bytes in huge pages: {source}; reserve {pages} with 'sysctl vm.nr_hugepages={pages}' or set huge_pages = \"prefer\""
    )]
    HugePages {
        /// How much was asked for.
        bytes: usize,
        /// How many pages of 2 MiB that are.
        pages: usize,
        /// What the system said.
        source: io::Error,
    },
}

const HUGE_PAGE: usize = 2 << 20;
const PAGE: usize = 4096;

/// A mapping that a device may read and write at any time.
///
/// The memory is a memfd, sealed against growing and shrinking, so that no holder of the file
/// can make an access fault (SIGBUS). It is wholly populated at creation, so that a shortage
/// shows at start-up and not under load.
///
/// Because the device may write at any moment, Rust code never holds a reference into it except
/// to memory that the protocol of the ring says is the driver's; see `frame`.
#[derive(Debug)]
pub struct DmaMemory {
    base: NonNull<u8>,
    length: usize,
    file: OwnedFd,
    huge: bool,
}

// SAFETY: the mapping is plain memory that lives as long as this value; it is not tied to the
// thread that made it. Who may access which part when is decided by the types built on top.
unsafe impl Send for DmaMemory {}
// SAFETY: as above; all methods of this type only hand out addresses.
unsafe impl Sync for DmaMemory {}

impl DmaMemory {
    /// Allocates at least `bytes` bytes (rounded up to whole pages), zeroed and populated.
    ///
    /// # Errors
    /// When the system has not enough memory, or not enough huge pages and `huge_pages` is
    /// [`HugePages::Require`].
    pub fn allocate(bytes: usize, huge_pages: HugePages) -> Result<Self, MemoryError> {
        let bytes = bytes.max(1);
        if huge_pages != HugePages::Never {
            let length = bytes.next_multiple_of(HUGE_PAGE);
            match Self::map(length, true) {
                Ok(memory) => return Ok(memory),
                Err(source) if huge_pages == HugePages::Require => {
                    return Err(MemoryError::HugePages {
                        bytes,
                        pages: length / HUGE_PAGE,
                        source,
                    });
                }
                Err(error) => tracing::warn!(
                    bytes, %error,
                    "no huge pages for DMA memory, using ordinary pages; reserve {} with 'sysctl vm.nr_hugepages'",
                    length / HUGE_PAGE
                ),
            }
        }
        Self::map(bytes.next_multiple_of(PAGE), false)
            .map_err(|source| MemoryError::Allocate { bytes, source })
    }

    fn map(length: usize, huge: bool) -> io::Result<Self> {
        // More than there is would not fail below: the kernel would kill processes for it.
        if let Some(available) = available_memory().filter(|bytes| !huge && length > *bytes) {
            let problem = format!("only {available} bytes are available");
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, problem));
        }
        let mut flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        if huge {
            flags |= MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
        }
        let file = memfd_create(c"virtroupe-dma", flags)?;
        let size =
            i64::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        ftruncate(&file, size)?;
        fcntl(
            &file,
            FcntlArg::F_ADD_SEALS(
                SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL,
            ),
        )?;
        // memfd pages are charged when touched: allocate now, so that a shortage is an error
        // here and not a signal later.
        nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, size)?;
        let count = std::num::NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing.
        let base = unsafe {
            mmap(
                None,
                count,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE,
                &file,
                0,
            )?
        };
        Ok(DmaMemory {
            base: base.cast(),
            length,
            file,
            huge,
        })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Never: an allocation has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether the memory lies in huge pages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// The file behind the mapping, to be handed to a device.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The address of the first byte in this process.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The address of `length` bytes at `offset`, or `None` if they are not all inside.
    pub fn range(&self, offset: usize, length: usize) -> Option<NonNull<u8>> {
        let end = offset.checked_add(length)?;
        if end > self.length {
            return None;
        }
        // SAFETY: offset is at most `self.length`, so the result is inside the mapping or one
        // past its end.
        Some(unsafe { self.base.add(offset) })
    }
}

impl Drop for DmaMemory {
    fn drop(&mut self) {
        // SAFETY: `base` and `length` are what mmap returned, and the types that point into the
        // mapping hold an Arc of this value, so nobody is left.
        let unmapped = unsafe { munmap(self.base.cast(), self.length) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Starts fetching the cache line at `address`, to read it. Any address will do.
#[inline(always)]
pub(crate) fn prefetch_read(address: NonNull<u8>) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no effect but on the cache, at any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Starts fetching the cache line at `address`, to write it: takes it from the core that has it.
#[inline(always)]
pub(crate) fn prefetch_write(address: NonNull<u8>) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as for `prefetch_read`; processors without the instruction ignore it.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address.as_ptr(), options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Bytes of memory that the system could give without swapping; `None` if it does not say.
fn available_memory() -> Option<usize> {
    let report = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = report
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_memory_than_there_is_is_an_error_and_not_the_end_of_other_processes() {
        let available = available_memory().expect("Linux says");
        let error = DmaMemory::allocate(available + (1 << 40), HugePages::Never)
            .expect_err("there is not as much");
        assert!(error.to_string().contains("pool_frames"), "{error}");
    }

    #[test]
    fn memory_is_sealed_and_bounded() {
        let memory = DmaMemory::allocate(10_000, HugePages::Never).expect("memory");
        assert_eq!(memory.len(), 12_288);
        assert!(memory.range(12_287, 1).is_some());
        assert!(memory.range(12_288, 1).is_none());
        assert!(memory.range(usize::MAX, 2).is_none());
        assert!(
            ftruncate(memory.file(), 0).is_err(),
            "a sealed file must not shrink"
        );
    }
}
