//! ICMPv6 message numbers (RFC 4443, RFC 4861) and what they mean to a sender.

/// Bytes in front of an ICMPv6 message's body.
pub const HEADER: usize = 8;

/// Type: the packet did not reach its destination.
pub const UNREACHABLE: u8 = 1;
/// Type: the packet is longer than a link on its path.
pub const PACKET_TOO_BIG: u8 = 2;
/// Type: the packet lived too long.
pub const TIME_EXCEEDED: u8 = 3;
/// Type: a header field is wrong.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Type: asks for an echo.
pub const ECHO_REQUEST: u8 = 128;
/// Type: answer to an echo request.
pub const ECHO_REPLY: u8 = 129;
/// Type: tells of a router.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Type: asks for a neighbour's address.
pub const NEIGHBOR_SOLICITATION: u8 = 135;
/// Type: tells a neighbour's address.
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Type: tells of a better first hop.
pub const REDIRECT: u8 = 137;

/// Code of [`UNREACHABLE`]: no socket at the port.
pub const PORT_UNREACHABLE: u8 = 4;
/// Code of [`TIME_EXCEEDED`]: not all fragments arrived in time.
pub const REASSEMBLY_TIME_EXCEEDED: u8 = 1;
/// Code of [`PARAMETER_PROBLEM`]: a header field is wrong.
pub const BAD_FIELD: u8 = 0;
/// Code of [`PARAMETER_PROBLEM`]: no engine for the next header.
pub const UNKNOWN_NEXT_HEADER: u8 = 1;
/// Code of [`PARAMETER_PROBLEM`]: an option that must not be ignored.
pub const UNKNOWN_OPTION: u8 = 2;

/// Whether messages of this type report an error, so that none may answer them (RFC 4443,
/// section 2.4 (e)). Nor may one answer a redirect, which is one by its type only.
pub const fn is_error(kind: u8) -> bool {
    kind < 128 || kind == REDIRECT
}
