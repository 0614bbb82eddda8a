//! A cable as smoltcp's device.

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::ETHERNET;
use crate::cable::CableEnd;
use crate::link::MTU;

/// One end of a cable, and the frame that is being received.
pub struct CableDevice {
    end: CableEnd,
    frame: Vec<u8>,
}

impl CableDevice {
    /// The device at an end of a cable.
    pub fn new(end: CableEnd) -> Self {
        CableDevice {
            end,
            frame: Vec::new(),
        }
    }

    /// Gives what was sent to the other end.
    pub fn flush(&mut self) {
        self.end.flush();
    }
}

impl Device for CableDevice {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Sending<'_>)> {
        let frame = self.end.receive()?;
        self.end.done(std::mem::replace(&mut self.frame, frame));
        Some((Received(&self.frame), Sending(&mut self.end)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.end))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = ETHERNET + usize::from(MTU);
        capabilities
    }
}

pub struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub struct Sending<'a>(&'a mut CableEnd);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = self.0.buffer();
        frame.resize(length, 0);
        let result = f(&mut frame);
        self.0.send(frame);
        result
    }
}
