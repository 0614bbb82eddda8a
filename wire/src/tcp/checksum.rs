//! The TCP checksum with its pseudo-header, over IPv4 and IPv6 (RFC 9293, section 3.1; RFC 8200,
//! section 8.1).

use std::net::IpAddr;

use super::flow::Flow;
use crate::buffer::Buffer;
use crate::checksum::Checksum;
use crate::ipv4;

/// Whether the checksum of `packet`, an IP payload that begins with a TCP header, is right.
pub fn is_intact<B: Buffer>(source: IpAddr, destination: IpAddr, packet: &B) -> bool {
    let flow = Flow::between((source, 0), (destination, 0));
    let mut sum = pseudo_header(&flow, packet.len());
    packet.for_each_segment(|segment| sum.add(segment));
    sum.is_valid()
}

/// The checksum of a segment from our end of `flow`: of `header`, whose checksum field is zero,
/// and the `length` bytes of `payload` behind it.
pub fn of<'a>(
    flow: &Flow,
    header: &[u8],
    (length, payload): (usize, impl Iterator<Item = &'a [u8]>),
) -> u16 {
    let mut sum = pseudo_header(flow, header.len() + length);
    sum.add(header);
    payload.for_each(|part| sum.add(part));
    sum.finish()
}

/// [`of`] for a header that is at hand as numbers, high byte first.
#[inline]
pub(crate) fn of_numbers<'a, const COUNT: usize>(
    flow: &Flow,
    header: [u64; COUNT],
    (length, payload): (usize, impl Iterator<Item = &'a [u8]>),
) -> u16 {
    let mut sum = pseudo_header(flow, COUNT * 8 + length);
    sum.add_numbers(header);
    payload.for_each(|part| sum.add(part));
    sum.finish()
}

/// The sum of the pseudo-header alone, of a segment of `length` bytes from our end of `flow`: what
/// the field holds when the rest is still to be added.
pub fn partial(flow: &Flow, length: usize) -> u16 {
    !pseudo_header(flow, length).finish()
}

/// The sum over the pseudo-header of a segment of `length` bytes, from either end: both addresses,
/// and as numbers protocol and length, whose places differ between the families.
#[inline]
fn pseudo_header(flow: &Flow, length: usize) -> Checksum {
    let mut sum = Checksum::new();
    sum.add(flow.as_bytes());
    sum.add_numbers([u64::from(ipv4::TCP) + length as u64]);
    sum
}
