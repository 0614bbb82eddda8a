//! The TCP checksum with its pseudo-header, over IPv4 and IPv6 (RFC 9293, section 3.1; RFC 8200,
//! section 8.1).

use std::net::{IpAddr, Ipv6Addr};

use super::segment::Flow;
use crate::buffer::Buffer;
use crate::checksum::Checksum;
use crate::ipv4;

/// Whether the checksum of `packet`, an IP payload that begins with a TCP header, is right.
pub fn is_intact<B: Buffer>(source: IpAddr, destination: IpAddr, packet: &B) -> bool {
    let mut sum = pseudo_header(source, destination, packet.len());
    packet.for_each_segment(|segment| sum.add(segment));
    sum.is_valid()
}

/// The checksum of a segment from our end of `flow`: of `header`, whose checksum field is zero,
/// and the `payload` behind it.
pub fn of<'a>(flow: &Flow, header: &[u8], payload: impl Iterator<Item = &'a [u8]> + Clone) -> u16 {
    let mut sum = in_front(flow, header.len(), payload.clone());
    sum.add(header);
    payload.for_each(|part| sum.add(part));
    sum.finish()
}

/// [`of`] for a header that is at hand as numbers, high byte first.
#[inline]
pub(crate) fn of_numbers<'a, const COUNT: usize>(
    flow: &Flow,
    header: [u64; COUNT],
    payload: impl Iterator<Item = &'a [u8]> + Clone,
) -> u16 {
    let mut sum = in_front(flow, COUNT * 8, payload.clone());
    sum.add_numbers(header);
    payload.for_each(|part| sum.add(part));
    sum.finish()
}

/// The sum over the pseudo-header of a segment with so many bytes of header.
#[inline]
fn in_front<'a>(flow: &Flow, header: usize, payload: impl Iterator<Item = &'a [u8]>) -> Checksum {
    let length = header + payload.map(<[u8]>::len).sum::<usize>();
    pseudo_header(flow.local().ip(), flow.remote().ip(), length)
}

/// The sum of the pseudo-header alone, of a segment of `length` bytes from our end of `flow`: what
/// the field holds when the rest is still to be added.
pub fn partial(flow: &Flow, length: usize) -> u16 {
    !pseudo_header(flow.local().ip(), flow.remote().ip(), length).finish()
}

/// The sum over the pseudo-header of a segment of `length` bytes. Addresses of different
/// families never meet; the sum is then over both as they are.
#[inline]
fn pseudo_header(source: IpAddr, destination: IpAddr, length: usize) -> Checksum {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            Checksum::pseudo_header(source, destination, ipv4::TCP, length as u16)
        }
        _ => Checksum::pseudo_header_v6(
            as_ipv6(source),
            as_ipv6(destination),
            ipv4::TCP,
            length as u32,
        ),
    }
}

/// An address as one of IPv6 with the same sum.
fn as_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
