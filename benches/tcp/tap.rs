//! A TAP interface for stacks that bring no code of their own for one: what smoltcp gets, of the
//! same kind as the embedded device has.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::libc;
use nix::sys::uio::{readv, writev};
use virtroupe::driver::embedded::NetHeader;

use crate::support::Outcome;

nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_header_size, libc::TUNSETVNETHDRSZ, libc::c_int);
nix::ioctl_write_int_bad!(set_offload, libc::TUNSETOFFLOAD);

/// What the kernel may hand over undone (linux/if_tun.h): checksums, and TCP segments.
const CHECKSUM: libc::c_int = 1;
const TSO4: libc::c_int = 2;

/// One queue of an interface. Each frame has the header of virtio in front.
pub struct TapFile(File);

impl TapFile {
    /// Opens interface `name`, which is created if there is none. The kernel hands over packets
    /// without their checksums, and with `segmentation` also segments above the MTU.
    pub fn open(name: &str, segmentation: bool) -> Outcome<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        // SAFETY: ifreq consists of integers and a union of integers and pointers that are not
        // followed here; all zero is a value of it.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        let header = NetHeader::LENGTH as libc::c_int;
        let offload = CHECKSUM | if segmentation { TSO4 } else { 0 };
        // SAFETY: the file is open, and each request gets the type that the kernel reads for it
        // (linux/if_tun.h): an ifreq, an int, and no pointer.
        unsafe {
            set_interface(file.as_raw_fd(), &raw const request)?;
            set_header_size(file.as_raw_fd(), &raw const header)?;
            set_offload(file.as_raw_fd(), offload)?;
        }
        Ok(TapFile(file))
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
