//! A cable in memory between two threads: what a device of either stack sends, the generator
//! receives, and the other way round. A lock for each burst, and buffers that are used again.

use std::io;
use std::mem::{replace, swap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use virtroupe::driver::embedded::{
    Attachment, Backend, Count, Deliver, Delivery, NetHeader, Packet, Port,
};
use virtroupe::driver::transport::TransportError;
use virtroupe::wire::Instant;

/// Buffers of one direction that are kept to be used again.
const MOST_SPARE: usize = 4096;

/// One direction.
#[derive(Default)]
struct Lane {
    /// How many frames wait, so that an idle receiver need not lock.
    waiting: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    frames: Vec<Vec<u8>>,
    spare: Vec<Vec<u8>>,
}

/// One end.
pub struct CableEnd {
    outbound: Arc<Lane>,
    inbound: Arc<Lane>,
    /// What was sent since the last flush.
    sent: Vec<Vec<u8>>,
    /// What has arrived, the next one at the end.
    received: Vec<Vec<u8>>,
    /// Buffers to send in.
    spare: Vec<Vec<u8>>,
    /// Received buffers that go back at the next exchange.
    empty: Vec<Vec<u8>>,
}

impl CableEnd {
    /// Both ends of a new cable.
    pub fn pair() -> (CableEnd, CableEnd) {
        let lanes: [Arc<Lane>; 2] = Default::default();
        let end = |outbound: &Arc<Lane>, inbound: &Arc<Lane>| CableEnd {
            outbound: Arc::clone(outbound),
            inbound: Arc::clone(inbound),
            sent: Vec::new(),
            received: Vec::new(),
            spare: Vec::new(),
            empty: Vec::new(),
        };
        (end(&lanes[0], &lanes[1]), end(&lanes[1], &lanes[0]))
    }

    /// An empty buffer to send in.
    pub fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    /// Sends a frame at the next flush.
    pub fn send(&mut self, frame: Vec<u8>) {
        self.sent.push(frame);
    }

    /// Gives what was sent to the other end.
    pub fn flush(&mut self) {
        if self.sent.is_empty() {
            return;
        }
        let mut state = lock(&self.outbound);
        state.frames.append(&mut self.sent);
        self.spare.append(&mut state.spare);
        self.outbound
            .waiting
            .store(state.frames.len(), Ordering::Release);
    }

    /// The next frame that has arrived.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        if self.received.is_empty() {
            self.exchange();
        }
        self.received.pop()
    }

    /// Takes over what the other end has sent, when nothing of that is left.
    fn exchange(&mut self) {
        if self.inbound.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = lock(&self.inbound);
        swap(&mut self.received, &mut state.frames);
        self.received.reverse();
        if state.spare.len() < MOST_SPARE {
            state.spare.append(&mut self.empty);
        }
        self.inbound.waiting.store(0, Ordering::Relaxed);
    }

    /// Takes back the buffer of a frame that was received.
    pub fn done(&mut self, frame: Vec<u8>) {
        self.empty.push(frame);
    }
}

fn lock(lane: &Lane) -> std::sync::MutexGuard<'_, State> {
    lane.state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As the backend of an embedded device that is stepped by the thread of its driver.
impl Backend for CableEnd {
    fn name(&self) -> String {
        "cable".into()
    }

    fn open(self: Box<Self>, _: &Attachment) -> Result<Vec<Box<dyn Port>>, TransportError> {
        Ok(vec![self])
    }
}

impl Port for CableEnd {
    fn transmit(&mut self, _: Instant, burst: &mut [Packet]) -> Count {
        for packet in burst {
            let buffer = self.buffer();
            let frame = replace(&mut packet.bytes, buffer);
            self.send(frame);
        }
        self.flush();
        Count::default()
    }

    fn receive(
        &mut self,
        _: Instant,
        limit: usize,
        deliver: &mut Deliver<'_>,
    ) -> io::Result<usize> {
        if self.received.is_empty() {
            self.exchange();
        }
        for count in 0..limit {
            let Some(frame) = self.received.pop() else {
                return Ok(count);
            };
            if deliver(&NetHeader::default(), &frame) == Delivery::NoBuffer {
                self.received.push(frame);
                return Ok(count);
            }
            self.done(frame);
        }
        Ok(limit)
    }
}
