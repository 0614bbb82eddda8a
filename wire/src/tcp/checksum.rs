//! The TCP checksum with its pseudo-header, over IPv4 and IPv6 (RFC 9293, section 3.1; RFC 8200,
//! section 8.1).

use std::net::IpAddr;

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
    let length = header.len() + payload.clone().map(<[u8]>::len).sum::<usize>();
    let mut sum = pseudo_header(flow.local().ip(), flow.remote().ip(), length);
    sum.add(header);
    payload.for_each(|part| sum.add(part));
    sum.finish()
}

/// The sum of the pseudo-header alone, of a segment of `length` bytes from our end of `flow`: what
/// the field holds when the rest is still to be added.
pub fn partial(flow: &Flow, length: usize) -> u16 {
    !pseudo_header(flow.local().ip(), flow.remote().ip(), length).finish()
}

/// The sum over the pseudo-header of a segment of `length` bytes. Addresses of different
/// families never meet; the sum is then over both as they are.
fn pseudo_header(source: IpAddr, destination: IpAddr, length: usize) -> Checksum {
    let mut sum = Checksum::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => sum.add(&address.octets()),
            IpAddr::V6(address) => sum.add(&address.octets()),
        }
    }
    sum.add(&(length as u32).to_be_bytes());
    sum.add(&[0, ipv4::TCP]);
    sum
}
