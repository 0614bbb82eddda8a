//! Counters of the embedded device.

use std::ops::AddAssign;

/// A number of frames and of the bytes in them, without virtio headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Frames.
    pub frames: u64,
    /// Bytes, from the Ethernet destination to the end of the payload.
    pub bytes: u64,
}

impl Count {
    /// Counts one frame of `bytes` bytes.
    pub fn add(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, more: Count) {
        let Count { frames, bytes } = more;
        self.frames += frames;
        self.bytes += bytes;
    }
}

/// What one embedded device did since it was made; a reset does not clear it.
///
/// Two equations hold exactly in every snapshot, in frames and in bytes:
/// `from_driver + segments_added = to_backend + dropped_from_driver()` and
/// `from_backend = to_driver + dropped_to_driver()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EmbeddedStats {
    /// Taken from the transmit rings.
    pub from_driver: Count,
    /// What was added when the device segmented frames for a backend that can not: all pieces of
    /// a frame but one, and the bytes of their headers.
    pub segments_added: Count,
    /// Passed to the backend.
    pub to_backend: Count,
    /// Dropped: the header asks for an offload that was not negotiated, or breaks another rule
    /// of section 5.1.6.2. A fault of the driver.
    pub violations: Count,
    /// Dropped: shorter than an Ethernet header. A fault of the driver.
    pub runts: Count,
    /// Dropped: longer than the MTU of the device allows. A fault of the driver.
    pub oversized: Count,
    /// Dropped on transmit: the link is down.
    pub link_down_from_driver: Count,
    /// Dropped on transmit: the operating system did not take it.
    pub backend_refused: Count,
    /// Taken from the backend. A frame that the device cut, because the driver does not take it
    /// whole, is counted as its pieces, each when it goes to the driver.
    pub from_backend: Count,
    /// Written into receive buffers.
    pub to_driver: Count,
    /// Dropped on receive: longer than the buffers that the driver posts can hold.
    pub no_room: Count,
    /// Dropped on receive: the backend left undone what the driver does not take, and what the
    /// device can not do either, as the header does not fit to the frame.
    pub undoable: Count,
    /// Dropped on receive: the link is down.
    pub link_down_to_driver: Count,
    /// How often frames had to wait in the backend because the driver had posted no buffer.
    pub no_buffer: u64,
    /// Rings found broken: each is out of use until the next reset.
    pub ring_faults: u64,
    /// Notifications sent to the driver.
    pub interrupts: u64,
    /// Times that the device's thread went to sleep.
    pub sleeps: u64,
}

impl EmbeddedStats {
    /// Everything that was dropped on its way from the driver.
    pub fn dropped_from_driver(&self) -> Count {
        let mut sum = self.violations;
        sum += self.runts;
        sum += self.oversized;
        sum += self.link_down_from_driver;
        sum += self.backend_refused;
        sum
    }

    /// Everything that was dropped on its way to the driver.
    pub fn dropped_to_driver(&self) -> Count {
        let mut sum = self.no_room;
        sum += self.undoable;
        sum += self.link_down_to_driver;
        sum
    }
}

impl AddAssign<&EmbeddedStats> for EmbeddedStats {
    fn add_assign(&mut self, more: &EmbeddedStats) {
        let EmbeddedStats {
            from_driver,
            segments_added,
            to_backend,
            violations,
            runts,
            oversized,
            link_down_from_driver,
            backend_refused,
            from_backend,
            to_driver,
            no_room,
            undoable,
            link_down_to_driver,
            no_buffer,
            ring_faults,
            interrupts,
            sleeps,
        } = *more;
        self.from_driver += from_driver;
        self.segments_added += segments_added;
        self.to_backend += to_backend;
        self.violations += violations;
        self.runts += runts;
        self.oversized += oversized;
        self.link_down_from_driver += link_down_from_driver;
        self.backend_refused += backend_refused;
        self.from_backend += from_backend;
        self.to_driver += to_driver;
        self.no_room += no_room;
        self.undoable += undoable;
        self.link_down_to_driver += link_down_to_driver;
        self.no_buffer += no_buffer;
        self.ring_faults += ring_faults;
        self.interrupts += interrupts;
        self.sleeps += sleeps;
    }
}
