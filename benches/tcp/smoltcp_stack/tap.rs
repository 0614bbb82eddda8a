//! A TAP interface as smoltcp's device.

use std::num::NonZeroUsize;

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;
use virtroupe::driver::embedded::NetHeader;

use super::ETHERNET;
use crate::link::{MTU, TAP};
use crate::support::Outcome;
use crate::tap::TapFile;

/// The longest frame that a device may be asked to segment.
const LONGEST: usize = ETHERNET + 65_535;

/// The interface, and a buffer for each direction.
pub struct TapDevice {
    file: TapFile,
    segmentation: bool,
    received: Vec<u8>,
    sent: Vec<u8>,
}

impl TapDevice {
    /// Opens the interface of the link.
    pub fn open(segmentation: bool) -> Outcome<Self> {
        Ok(TapDevice {
            file: TapFile::open(TAP, segmentation)?,
            segmentation,
            received: vec![0; LONGEST],
            sent: vec![0; LONGEST],
        })
    }
}

impl Device for TapDevice {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Sending<'_>)> {
        let length = self.file.read(&mut self.received)?;
        let received = Received(self.received.get(..length)?);
        let sending = Sending {
            file: &self.file,
            buffer: &mut self.sent,
            meta: PacketMeta::default(),
        };
        Some((received, sending))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending {
            file: &self.file,
            buffer: &mut self.sent,
            meta: PacketMeta::default(),
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = ETHERNET + usize::from(MTU);
        capabilities.checksum.tcp = Checksum::None;
        if self.segmentation {
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(LONGEST);
        }
        capabilities
    }
}

pub struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub struct Sending<'a> {
    file: &'a TapFile,
    buffer: &'a mut [u8],
    meta: PacketMeta,
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let frame = &mut self.buffer[..length];
        let result = f(frame);
        self.file.write(header(frame, self.meta), frame);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}

/// What the kernel is to do with a frame: complete the checksum of TCP over IPv4 without options,
/// and split it if it is long.
fn header(frame: &[u8], meta: PacketMeta) -> NetHeader {
    const TCP: usize = ETHERNET + 20;
    let is_tcp = frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&6);
    if !is_tcp {
        return NetHeader::default();
    }
    let size = meta.segmentation_offload_size.map_or(0, |size| size.get());
    let tcp_header = frame.get(TCP + 12).map_or(0, |byte| byte >> 4) * 4;
    NetHeader {
        flags: 1, // VIRTIO_NET_HDR_F_NEEDS_CSUM
        csum_start: TCP as u16,
        csum_offset: 16,
        gso_type: u8::from(size > 0), // VIRTIO_NET_HDR_GSO_TCPV4
        gso_size: size,
        hdr_len: TCP as u16 + u16::from(tcp_header),
        ..NetHeader::default()
    }
}
