//! A queue pair of an embedded device without threads: the test steps it.

use std::time::{Duration, Instant};

use virtroupe::driver::embedded::{
    Backend, Count, EmbeddedConfig, EmbeddedHandle, EmbeddedStepper, EmbeddedTransport,
};
use virtroupe::driver::memory::HugePages;
use virtroupe::driver::{
    Device, DeviceError, DeviceOptions, Frame, QueuePair, RingFormat, UnboundQueuePair,
};
use virtroupe::{Buffer, FeatureBits};

use super::crafted::{Crafted, Crafter};

/// No frame takes as long.
const LIMIT: Duration = Duration::from_secs(60);

/// A device with one queue pair.
pub struct Station {
    device: Device,
    pair: QueuePair,
    stepper: EmbeddedStepper,
    handle: EmbeddedHandle,
}

/// A station that can still go to another thread.
pub struct UnboundStation {
    device: Device,
    pair: UnboundQueuePair,
    stepper: EmbeddedStepper,
    handle: EmbeddedHandle,
}

impl UnboundStation {
    /// A device that offers `features`, on `backend`.
    pub fn new(
        backend: impl Backend + 'static,
        features: FeatureBits,
        ring_format: RingFormat,
    ) -> Result<UnboundStation, DeviceError> {
        let config = EmbeddedConfig {
            features,
            ..EmbeddedConfig::default()
        };
        let (transport, handle, stepper) = EmbeddedTransport::inline(config, backend)?;
        let options = DeviceOptions {
            ring_format,
            huge_pages: HugePages::Never,
            ..DeviceOptions::default()
        };
        let (device, mut pairs) = Device::initialize(Box::new(transport), &options)?;
        Ok(UnboundStation {
            device,
            pair: pairs.pop().expect("there is one"),
            stepper,
            handle,
        })
    }

    /// Ties it to this thread, and posts receive buffers.
    pub fn bind(self) -> Station {
        let mut pair = self.pair.bind();
        assert_eq!(pair.receive(&mut Vec::new(), 1), Ok(0));
        Station {
            device: self.device,
            pair,
            stepper: self.stepper,
            handle: self.handle,
        }
    }
}

impl Station {
    pub fn features(&self) -> FeatureBits {
        self.device.features().bits
    }

    /// Lets the device do what there is to do.
    fn settle(&self) {
        while self.stepper.step(virtroupe::wire::Instant::ZERO) > 0 {}
    }

    /// Sends a packet as a shard does: what the device does not take is done before. Returns how
    /// many frames the device got.
    pub fn send(&mut self, packet: &Crafted, crafter: &mut Crafter) -> u64 {
        let before = self.handle.stats().from_driver.frames;
        let offloads = self.device.features().transmit_offloads();
        let mut burst = vec![self.frame(packet, crafter)];
        let dropped = offloads.carry_out(&mut burst, self.pair.pool());
        assert!(dropped.is_empty(), "{dropped:?}");
        while !burst.is_empty() {
            self.pair.transmit(&mut burst).expect("no violation");
            self.settle();
        }
        self.pair.reclaim().expect("no violation");
        assert_eq!(self.pair.transmit_counters().drops.total(), 0);
        let stats = self.handle.stats();
        // Not longer than the MTU unless it is cut, and nothing that was not negotiated.
        assert_eq!(stats.dropped_from_driver(), Count::default());
        stats.from_driver.frames - before
    }

    /// The packet as a frame on the heap, or in slots of the pool that are full to random places.
    fn frame(&mut self, packet: &Crafted, crafter: &mut Crafter) -> Frame {
        let mut frame = match crafter.below(3) {
            0 => Frame::on_heap(&packet.bytes),
            // Headers lie in one segment.
            _ => self.chain(&packet.bytes, 150 + crafter.below(1900)),
        };
        assert!(frame.set_offload(packet.offload));
        frame
    }

    fn chain(&mut self, bytes: &[u8], each: usize) -> Frame {
        let mut pieces = bytes.chunks(each).map(|piece| {
            let mut frame = self.pair.pool().frame().expect("the pool has enough");
            assert!(frame.extend_from_slice(piece));
            frame
        });
        let mut whole = pieces.next().expect("not empty");
        pieces.for_each(|piece| whole.append(piece));
        whole
    }

    /// The next `count` frames that `is_wanted`.
    pub fn receive(&mut self, count: usize, is_wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + LIMIT;
        let (mut burst, mut received) = (Vec::new(), Vec::new());
        while received.len() < count {
            self.settle();
            self.pair.receive(&mut burst, 64).expect("no violation");
            let frames = burst.drain(..).map(|frame| frame.to_vec());
            received.extend(frames.filter(|frame| is_wanted(frame)));
            assert!(
                Instant::now() < deadline,
                "{} of {count} frames came",
                received.len()
            );
        }
        received
    }
}
