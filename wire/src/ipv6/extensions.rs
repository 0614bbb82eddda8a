//! The chain of extension headers between an IPv6 header and what it carries (RFC 8200, section
//! 4).
//!
//! | header | what a host does |
//! |---|---|
//! | hop-by-hop and destination options | knows none: skips an option, or refuses the packet, as the option's type says |
//! | routing | skips one that has been followed to its end, and refuses any other (RFC 5095) |
//! | fragment | one at most; the chain of a whole packet goes on behind it |
//!
//! All others are left to whoever handles the protocol. What is refused is to be reported, or
//! not, as [`Problem`] says.

use super::{
    DESTINATION_OPTIONS, FRAGMENT, FRAGMENT_HEADER, HEADER, HOP_BY_HOP, Ipv6Header, NEXT_HEADER,
    ROUTING,
};
use crate::drops::DropReason;
use crate::icmp6;

/// The most extension headers that a packet may have. An honest one has three or four.
pub const MOST_EXTENSIONS: usize = 8;

/// The option that is one byte of padding.
const PAD1: u8 = 0;

/// What is behind an IPv6 header, as far as IPv6 itself goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extensions {
    /// What is behind the chain: a transport. Of a fragment, what is behind its header.
    pub protocol: u8,
    /// Where in the packet that begins, in bytes.
    pub header_length: usize,
    /// Where in the packet the byte is that names `protocol`.
    pub named_at: usize,
    /// The fragment header. A whole packet may have one too (RFC 6946).
    pub fragment: Option<Fragment>,
}

/// A fragment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Where in the datagram the fragment begins, in bytes; a multiple of 8.
    pub offset: usize,
    /// Whether a further fragment follows this one.
    pub more: bool,
    /// Equal in all fragments of one datagram.
    pub id: u32,
}

/// Why a packet is refused, and what its sender is told (ICMPv6 parameter problem).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// Why.
    pub reason: DropReason,
    /// The code of the report; `None` if there is none.
    pub code: Option<u8>,
    /// Where in the packet the problem is, in bytes.
    pub pointer: usize,
    /// Whether it is reported even if the packet was for a group.
    pub is_for_groups: bool,
}

impl Extensions {
    /// Reads the chain behind `header`, which is at the front of `head`, the first segment of the
    /// packet. All of the chain must be in that.
    ///
    /// Of a packet that is a part of a datagram, only what is in front of the fragment header and
    /// that header are looked at; the rest when the datagram is whole.
    ///
    /// # Errors
    /// Why the packet is refused.
    pub fn parse(header: &Ipv6Header, head: &[u8]) -> Result<Self, Problem> {
        let packet = head.get(..header.total_length).unwrap_or(head);
        let mut chain = Extensions {
            protocol: header.next_header,
            header_length: HEADER,
            named_at: NEXT_HEADER,
            fragment: None,
        };
        for _ in 0..=MOST_EXTENSIONS {
            let at = chain.header_length;
            let rest = packet.get(at..).unwrap_or_default();
            let length = match chain.protocol {
                // Only at the front (RFC 8200, section 4.1).
                HOP_BY_HOP if chain.named_at != NEXT_HEADER => {
                    return Err(Problem::next_header(chain.named_at));
                }
                HOP_BY_HOP | DESTINATION_OPTIONS => {
                    let extension = variable(rest)?;
                    check_options(extension, at)?;
                    extension.len()
                }
                ROUTING => {
                    let extension = variable(rest)?;
                    check_routing(extension, at)?;
                    extension.len()
                }
                FRAGMENT if chain.fragment.is_some() => {
                    return Err(Problem::silent(DropReason::BadExtension));
                }
                FRAGMENT => {
                    chain.fragment = Some(Fragment::parse(rest)?);
                    FRAGMENT_HEADER
                }
                _ => return Ok(chain),
            };
            chain.protocol = rest.first().copied().unwrap_or(chain.protocol);
            chain.named_at = at;
            chain.header_length = at + length;
            if chain.is_fragment() {
                return Ok(chain);
            }
        }
        Err(Problem::silent(DropReason::BadExtension))
    }

    /// Whether the packet is a part of a datagram.
    pub fn is_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.is_part())
    }
}

impl Fragment {
    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let header = bytes.first_chunk::<FRAGMENT_HEADER>();
        let [_, _, o0, o1, i0, i1, i2, i3] = *header.ok_or(Problem::MALFORMED)?;
        let field = u16::from_be_bytes([o0, o1]);
        Ok(Fragment {
            offset: usize::from(field & !7),
            more: field & 1 != 0,
            id: u32::from_be_bytes([i0, i1, i2, i3]),
        })
    }

    /// The header as it goes on the wire, in front of `protocol`.
    pub fn to_bytes(self, protocol: u8) -> [u8; FRAGMENT_HEADER] {
        let field = (self.offset as u16) & !7 | u16::from(self.more);
        let [o0, o1] = field.to_be_bytes();
        let [i0, i1, i2, i3] = self.id.to_be_bytes();
        [protocol, 0, o0, o1, i0, i1, i2, i3]
    }

    /// Whether it is of a datagram in several pieces.
    pub fn is_part(&self) -> bool {
        self.more || self.offset != 0
    }
}

impl Problem {
    const MALFORMED: Problem = Problem::silent(DropReason::Malformed);

    const fn silent(reason: DropReason) -> Self {
        Problem {
            reason,
            code: None,
            pointer: 0,
            is_for_groups: false,
        }
    }

    /// Nobody here handles the header that is named at `pointer`.
    pub const fn next_header(pointer: usize) -> Self {
        Problem {
            reason: DropReason::UnknownProtocol,
            code: Some(icmp6::UNKNOWN_NEXT_HEADER),
            pointer,
            is_for_groups: false,
        }
    }
}

/// The extension header at the front of `bytes`, of which the second byte says the length: in
/// units of 8 bytes, without the first.
fn variable(bytes: &[u8]) -> Result<&[u8], Problem> {
    let length = bytes.get(1).copied().ok_or(Problem::MALFORMED)?;
    let length = (usize::from(length) + 1) * 8;
    bytes.get(..length).ok_or(Problem::MALFORMED)
}

/// Options are not known here, but padding; the two upper bits of a type say what that means (RFC
/// 8200, section 4.2). `extension` begins at `at` in its packet.
fn check_options(extension: &[u8], at: usize) -> Result<(), Problem> {
    let mut index = 2;
    while let Some(kind) = extension.get(index).copied() {
        if kind == PAD1 {
            index += 1;
            continue;
        }
        let length = extension.get(index + 1).copied();
        let end = index + 2 + usize::from(length.ok_or(Problem::MALFORMED)?);
        if end > extension.len() {
            return Err(Problem::MALFORMED);
        }
        let action = kind >> 6;
        if action != 0 {
            return Err(Problem {
                reason: DropReason::BadExtension,
                code: (action > 1).then_some(icmp6::UNKNOWN_OPTION),
                pointer: at + index,
                is_for_groups: action == 2,
            });
        }
        index = end;
    }
    Ok(())
}

/// A host is no waypoint: a routing header must have been followed to its end (RFC 8200, section
/// 4.4), of whatever type.
fn check_routing(extension: &[u8], at: usize) -> Result<(), Problem> {
    match extension.get(3) {
        Some(0) => Ok(()),
        _ => Err(Problem {
            reason: DropReason::SourceRoute,
            code: Some(icmp6::BAD_FIELD),
            pointer: at + 2,
            is_for_groups: false,
        }),
    }
}
