//! A TAP interface for stacks that bring no code of their own for one: what smoltcp gets, of the
//! same kind as the embedded device has.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::uio::{readv, writev};
use virtroupe::driver::FeatureBits;
use virtroupe::driver::embedded::{NetHeader, Tap, TapConfig};

use crate::support::Outcome;

/// One queue of an interface. Each frame has the header of virtio in front.
pub struct TapFile(OwnedFd);

impl TapFile {
    /// Opens interface `name`, which is created if there is none. The kernel hands over packets
    /// without their checksums, and with `segmentation` also segments above the MTU.
    pub fn open(name: &str, segmentation: bool) -> Outcome<Self> {
        let tap = Tap::new(TapConfig {
            name: name.into(),
            ..TapConfig::default()
        });
        let undone = match segmentation {
            true => FeatureBits::GUEST_CSUM | FeatureBits::GUEST_TSO4,
            false => FeatureBits::GUEST_CSUM,
        };
        Ok(TapFile(tap.open_queue(undone)?))
    }

    /// Reads a frame; `None` if there is none. Panics if the interface is gone.
    pub fn read(&self, frame: &mut [u8]) -> Option<usize> {
        let mut header = [0; NetHeader::LENGTH];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(frame)];
        match readv(&self.0, &mut parts) {
            Ok(length) => length.checked_sub(NetHeader::LENGTH),
            Err(Errno::EAGAIN) => None,
            Err(error) => panic!("the TAP interface is gone: {error}"),
        }
    }

    /// Writes a frame. What the kernel does not take is lost.
    pub fn write(&self, header: NetHeader, frame: &[u8]) {
        let header = header.to_bytes();
        let _: nix::Result<usize> = writev(&self.0, &[IoSlice::new(&header), IoSlice::new(frame)]);
    }
}
