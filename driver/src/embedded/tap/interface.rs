//! The requests to the kernel that make and configure a TAP interface.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;

use super::super::header::NetHeader;
use crate::features::FeatureBits;
use crate::transport::TransportError;

nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_write_ptr_bad!(tun_set_header_size, libc::TUNSETVNETHDRSZ, libc::c_int);
nix::ioctl_write_int_bad!(tun_set_offload, libc::TUNSETOFFLOAD);
nix::ioctl_read_bad!(interface_flags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_interface_address, libc::SIOCSIFADDR, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_interface_mask, libc::SIOCSIFNETMASK, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_interface_mtu, libc::SIOCSIFMTU, libc::ifreq);

/// What the kernel may leave undone (linux/if_tun.h).
const TUN_F_CSUM: libc::c_int = 0x01;
const TUN_F_TSO4: libc::c_int = 0x02;
const TUN_F_TSO6: libc::c_int = 0x04;
const TUN_F_TSO_ECN: libc::c_int = 0x08;
const TUN_F_USO4: libc::c_int = 0x20;
const TUN_F_USO6: libc::c_int = 0x40;

const DEVICE: &str = "/dev/net/tun";

/// Opens one queue of interface `name`, which is created if there is none.
pub(super) fn open_queue(name: &str, multi_queue: bool) -> Result<OwnedFd, TransportError> {
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = open(DEVICE, flags, Mode::empty())
        .map_err(|error| failure(format!("cannot open {DEVICE}"), error))?;
    let mut request = request(name)?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    request.ifr_ifru.ifru_flags = short(flags);
    let header = libc::c_int::try_from(NetHeader::LENGTH).unwrap_or_default();
    // SAFETY: the file is open, and each request gets the type that the kernel reads for it
    // (linux/if_tun.h): an ifreq, an int, and no pointer.
    let set = unsafe {
        tun_set_iff(file.as_raw_fd(), &raw const request)
            .and_then(|_| tun_set_header_size(file.as_raw_fd(), &raw const header))
            .and_then(|_| tun_set_offload(file.as_raw_fd(), 0))
    };
    set.map_err(|error| failure(format!("cannot create the TAP interface {name}"), error))?;
    Ok(file)
}

/// Tells the kernel what it may leave undone on the packets that it hands out: what of the
/// `features` are receive offloads, and the kernel knows. UFO it never leaves undone.
pub(super) fn set_offloads(file: &OwnedFd, features: FeatureBits) {
    let flag = |feature, flag| match features.contains(feature) {
        true => flag,
        false => 0,
    };
    let tcp = flag(FeatureBits::GUEST_CSUM, TUN_F_CSUM)
        | flag(FeatureBits::GUEST_TSO4, TUN_F_TSO4)
        | flag(FeatureBits::GUEST_TSO6, TUN_F_TSO6)
        | flag(FeatureBits::GUEST_ECN, TUN_F_TSO_ECN);
    // The kernel takes these together only, and not at all before Linux 6.2.
    let both = FeatureBits::GUEST_USO4 | FeatureBits::GUEST_USO6;
    let udp = flag(both, TUN_F_USO4 | TUN_F_USO6);
    for flags in [tcp | udp, tcp, 0] {
        // SAFETY: the file is open, and the argument is a number (linux/if_tun.h).
        if unsafe { tun_set_offload(file.as_raw_fd(), flags) }.is_ok() {
            return;
        }
    }
}

/// Sets the MTU of the kernel's side.
pub(super) fn set_mtu(name: &str, mtu: u16) -> Result<(), TransportError> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_mtu = libc::c_int::from(mtu);
    configure(format!("cannot set the MTU of {name} to {mtu}"), |socket| {
        // SAFETY: the socket is open and the kernel reads an ifreq.
        unsafe { set_interface_mtu(socket, &raw const request) }
    })
}

/// Gives the kernel's side an address and a network.
pub(super) fn set_address(name: &str, address: Ipv4Net) -> Result<(), TransportError> {
    let mut host = request(name)?;
    host.ifr_ifru.ifru_addr = socket_address(address.addr());
    let mut mask = request(name)?;
    mask.ifr_ifru.ifru_netmask = socket_address(address.netmask());
    configure(
        format!("cannot set the address of {name} to {address}"),
        |socket| {
            // SAFETY: the socket is open and the kernel reads an ifreq.
            unsafe {
                set_interface_address(socket, &raw const host)
                    .and_then(|_| set_interface_mask(socket, &raw const mask))
            }
        },
    )
}

/// Brings the kernel's side up.
pub(super) fn bring_up(name: &str) -> Result<(), TransportError> {
    let mut request = request(name)?;
    configure(format!("cannot bring {name} up"), |socket| {
        // SAFETY: the socket is open; the kernel fills in the flags of an ifreq that it got by
        // name, so that the union holds flags, and then reads it again.
        unsafe {
            let read = interface_flags(socket, &raw mut request)?;
            if request.ifr_ifru.ifru_flags & short(libc::IFF_UP) != 0 {
                // Somebody else did it, so we need not be allowed to.
                return Ok(read);
            }
            request.ifr_ifru.ifru_flags |= short(libc::IFF_UP);
            set_interface_flags(socket, &raw const request)
        }
    })
}

fn configure(
    context: String,
    change: impl FnOnce(libc::c_int) -> nix::Result<libc::c_int>,
) -> Result<(), TransportError> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    match socket.and_then(|socket| change(socket.as_raw_fd())) {
        Ok(_) => Ok(()),
        Err(error) => Err(failure(context, error)),
    }
}

/// A request about interface `name`, everything else zero.
fn request(name: &str) -> Result<libc::ifreq, TransportError> {
    let bad = |c: u8| c == 0 || c == b'/' || c.is_ascii_whitespace();
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.bytes().any(bad) {
        return Err(TransportError::Device {
            device: format!("tap:{name}"),
            problem: "is not the name of an interface; use 1 to 15 letters and digits".into(),
        });
    }
    // SAFETY: ifreq consists of integers and a union of integers and pointers that this module
    // never follows; all zero is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let [a, b, c, d] = address.octets().map(|o| libc::c_char::from_ne_bytes([o]));
    // The layout of sockaddr_in: a port of two bytes, then the address in network order.
    let mut data = [0; 14];
    data[2..6].copy_from_slice(&[a, b, c, d]);
    libc::sockaddr {
        sa_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default(),
        sa_data: data,
    }
}

/// Interface flags are ints in the headers and a short in the request.
fn short(flags: libc::c_int) -> libc::c_short {
    libc::c_short::try_from(flags).unwrap_or_default()
}

fn failure(context: String, error: Errno) -> TransportError {
    let (source, advice) = match error {
        Errno::EACCES | Errno::EPERM => (
            io::Error::new(io::ErrorKind::PermissionDenied, "permission denied"),
            "run with --sandbox or as root",
        ),
        Errno::ENOENT | Errno::ENODEV => (
            error.into(),
            "load the module with 'modprobe tun', or give the container /dev/net/tun",
        ),
        Errno::EBUSY => (
            error.into(),
            "another process has the interface open; choose another name",
        ),
        Errno::EINVAL => (
            error.into(),
            "the interface exists with other properties; remove it or change `multi_queue`",
        ),
        _ => (error.into(), ""),
    };
    TransportError::System {
        context,
        source,
        advice: advice.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_to_do() {
        let denied = failure(format!("cannot open {DEVICE}"), Errno::EACCES);
        assert_eq!(
            denied.to_string(),
            "cannot open /dev/net/tun: permission denied; run with --sandbox or as root"
        );
        let missing = failure(format!("cannot open {DEVICE}"), Errno::ENOENT);
        assert!(missing.to_string().contains("modprobe tun"), "{missing}");
    }

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        for name in ["", "a/b", "a b", "0123456789abcdef", "a\0"] {
            assert!(request(name).is_err(), "{name:?}");
        }
        assert!(request("0123456789abcde").is_ok());
    }
}
