//! A TAP interface behind the device: the other end of the wire is the kernel.

mod interface;

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::sys::uio::{readv, writev};
use virtroupe_wire::Instant;

use super::backend::{Attachment, Backend, Deliver, Delivery, LentFrame, Packet, Port};
use super::header::NetHeader;
use super::stats::Count;
use crate::features::FeatureBits;
use crate::transport::TransportError;

/// Which TAP interface, and how the kernel's side of it is set up. By default nothing but the
/// interface itself is: that suits one that the administrator has made and configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TapConfig {
    /// Name of the interface, 1 to 15 bytes. It is created if there is none, and then goes away
    /// with the device; creating needs `CAP_NET_ADMIN`.
    pub name: String,
    /// Whether to bring the interface up.
    pub up: bool,
    /// MTU of the kernel's side in bytes. Default none: it stays as it is (1500 if new).
    pub mtu: Option<u16>,
    /// Address and network of the kernel's side. Default none: it stays as it is.
    pub kernel_address: Option<Ipv4Net>,
    /// Whether the interface has a queue for each queue pair (`IFF_MULTI_QUEUE`). Needed with
    /// more than one pair; an existing interface must have been created so.
    pub multi_queue: bool,
}

/// A TAP interface as a backend. It is opened when its device is made.
#[derive(Debug)]
pub struct Tap {
    config: TapConfig,
}

impl Tap {
    /// The interface that `config` describes.
    pub fn new(config: TapConfig) -> Self {
        Tap { config }
    }

    /// Opens one queue of the interface for a program that reads and writes frames itself: each has
    /// a [`NetHeader`] in front, in both directions. The file does not block. The kernel may leave
    /// undone what of `undone` are receive offloads, as far as it knows them. Of the configuration
    /// only `name` and `multi_queue` count: the kernel's side stays as it is.
    ///
    /// # Errors
    /// `Device` for a bad name, `System` when the kernel does not open the interface: without
    /// `CAP_NET_ADMIN` only one that exists and belongs to the user.
    pub fn open_queue(&self, undone: FeatureBits) -> Result<OwnedFd, TransportError> {
        let file = interface::open_queue(&self.config.name, self.config.multi_queue)?;
        interface::set_offloads(&file, undone);
        Ok(file)
    }
}

impl Backend for Tap {
    fn name(&self) -> String {
        format!("tap:{}", self.config.name)
    }

    /// A frame is a system call.
    fn prefers_large_receive(&self) -> bool {
        true
    }

    fn open(self: Box<Self>, device: &Attachment) -> Result<Vec<Box<dyn Port>>, TransportError> {
        let TapConfig {
            name,
            up,
            mtu,
            kernel_address,
            multi_queue,
        } = &self.config;
        if device.pairs > 1 && !multi_queue {
            return Err(TransportError::Device {
                device: self.name(),
                problem: format!(
                    "{} queue pairs need a TAP interface with as many queues; set `multi_queue`",
                    device.pairs
                ),
            });
        }
        let mut ports: Vec<Box<dyn Port>> = Vec::new();
        for _ in 0..device.pairs {
            ports.push(Box::new(TapPort::new(interface::open_queue(
                name,
                *multi_queue,
            )?)));
        }
        if let Some(mtu) = mtu {
            interface::set_mtu(name, *mtu)?;
        }
        if let Some(address) = kernel_address {
            interface::set_address(name, *address)?;
        }
        if *up {
            interface::bring_up(name)?;
        }
        Ok(ports)
    }
}

/// The longest packet that the kernel hands out: IP and Ethernet with a VLAN tag.
const LONGEST: usize = 65_535 + 18;

/// One queue of the interface. The interface and its file exchange each packet behind the header
/// that virtio has, because `IFF_VNET_HDR` is set.
struct TapPort {
    file: OwnedFd,
    buffer: Vec<u8>,
    /// Header, and length of a frame in `buffer` that waits for the driver to post a receive
    /// buffer. A reset forgets it; like whatever waits in the kernel's queue it is then nobody's.
    held: Option<(NetHeader, usize)>,
}

impl TapPort {
    fn new(file: OwnedFd) -> Self {
        TapPort {
            file,
            buffer: vec![0; LONGEST],
            held: None,
        }
    }

    /// Reads one frame into `buffer`: its header and length; `None` if there is none.
    fn read(&mut self) -> io::Result<Option<(NetHeader, usize)>> {
        let mut header = [0; NetHeader::LENGTH];
        let mut parts = [
            IoSliceMut::new(&mut header),
            IoSliceMut::new(&mut self.buffer),
        ];
        match readv(&self.file, &mut parts) {
            Ok(length) => {
                let length = length.checked_sub(NetHeader::LENGTH);
                Ok(length.map(|length| (NetHeader::from_bytes(header), length)))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Port for TapPort {
    fn takes(&self, _packet: &Packet) -> bool {
        true
    }

    /// Lets the kernel leave undone what the driver takes. Where it refuses, it does all itself.
    fn accept(&mut self, features: FeatureBits) {
        interface::set_offloads(&self.file, features);
    }

    fn transmit(&mut self, _now: Instant, burst: &mut [Packet]) -> Count {
        let mut refused = Count::default();
        for packet in burst.iter() {
            let header = packet.header.to_bytes();
            let parts = [IoSlice::new(&header), IoSlice::new(&packet.bytes)];
            if writev(&self.file, &parts).is_err() {
                refused.add(packet.bytes.len());
            }
        }
        refused
    }

    fn transmits_in_place(&self) -> bool {
        true
    }

    /// Fails while the interface is down (EIO), and for frames that the kernel does not take; a
    /// file that is gone is found by the next read.
    fn transmit_in_place(&mut self, _now: Instant, frame: &LentFrame<'_>) -> bool {
        frame.write_to(self.file.as_fd()).is_ok()
    }

    fn receive(
        &mut self,
        _now: Instant,
        limit: usize,
        deliver: &mut Deliver<'_>,
    ) -> io::Result<usize> {
        let mut delivered = 0;
        while delivered < limit {
            let (header, length) = match self.held.take() {
                Some(held) => held,
                None => match self.read()? {
                    Some(read) => read,
                    None => break,
                },
            };
            let frame = self.buffer.get(..length).unwrap_or_default();
            if deliver(&header, frame) == Delivery::NoBuffer {
                self.held = Some((header, length));
                break;
            }
            delivered += 1;
        }
        Ok(delivered)
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn reset(&mut self) {
        self.held = None;
        self.accept(FeatureBits::NONE);
    }
}
