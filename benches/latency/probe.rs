//! The other side of the device's wire, which sends a datagram when the last one has come back.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use virtroupe::driver::embedded::{
    Attachment, Backend, Count, Deliver, Delivery, NetHeader, Packet, Port,
};
use virtroupe::driver::transport::TransportError;

use super::RoundTrips;

/// Ethernet addresses of the peer that the probe is, and of the stack.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const STACK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// An echo that takes longer is lost. The first ones are: nobody is bound yet.
const PATIENCE: Duration = Duration::from_millis(100);

/// The frame of a datagram with 22 bytes of payload.
pub fn request(from: [u8; 4], (to, port): ([u8; 4], u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(PEER_MAC, STACK_MAC)
        .ipv4(from, to, 64)
        .udp(1024, port)
        .write(&mut frame, &[0x5a; 22])
        .expect("a vector takes all");
    frame
}

/// Where the probe writes what it measures.
#[derive(Clone)]
pub struct Results(Arc<Mutex<RoundTrips>>);

impl Results {
    /// What was measured since the last call.
    pub fn take(&self) -> RoundTrips {
        let mut results = self.0.lock().unwrap_or_else(|held| held.into_inner());
        std::mem::replace(&mut results, RoundTrips::new())
    }
}

/// The backend and its only port.
pub struct Probe {
    request: Vec<u8>,
    sent: Option<Instant>,
    results: Results,
}

impl Probe {
    pub fn new(request: Vec<u8>) -> Self {
        Probe {
            request,
            sent: None,
            results: Results(Arc::new(Mutex::new(RoundTrips::new()))),
        }
    }

    pub fn results(&self) -> Results {
        self.results.clone()
    }
}

impl Backend for Probe {
    fn name(&self) -> String {
        "probe".into()
    }

    fn open(self: Box<Self>, _: &Attachment) -> Result<Vec<Box<dyn Port>>, TransportError> {
        Ok(vec![self])
    }
}

impl Port for Probe {
    fn transmit(&mut self, _: virtroupe::wire::Instant, burst: &mut [Packet]) -> Count {
        // Whatever else the stack says, an echo is as long as its request.
        if burst
            .iter()
            .any(|packet| packet.bytes.len() == self.request.len())
            && let Some(sent) = self.sent.take()
        {
            let time = sent.elapsed().as_nanos() as u64;
            let mut results = self
                .results
                .0
                .lock()
                .unwrap_or_else(|held| held.into_inner());
            results.times.saturating_record(time);
        }
        Count::default()
    }

    fn receive(
        &mut self,
        _: virtroupe::wire::Instant,
        _: usize,
        deliver: &mut Deliver<'_>,
    ) -> io::Result<usize> {
        if let Some(sent) = self.sent {
            if sent.elapsed() < PATIENCE {
                return Ok(0);
            }
            let mut results = self
                .results
                .0
                .lock()
                .unwrap_or_else(|held| held.into_inner());
            results.lost += 1;
        }
        let now = Instant::now();
        match deliver(&NetHeader::default(), &self.request) {
            Delivery::NoBuffer => Ok(0),
            Delivery::Taken => {
                self.sent = Some(now);
                Ok(1)
            }
        }
    }

    fn reset(&mut self) {
        self.sent = None;
    }
}
