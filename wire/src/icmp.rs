//! ICMP message numbers (RFC 792) and what they mean to a sender.

/// Bytes in front of an ICMP message's body.
pub const HEADER: usize = 8;

/// Type: answer to an echo request.
pub const ECHO_REPLY: u8 = 0;
/// Type: the datagram did not reach its destination.
pub const UNREACHABLE: u8 = 3;
/// Type: source quench, obsolete (RFC 6633).
pub const SOURCE_QUENCH: u8 = 4;
/// Type: redirect.
pub const REDIRECT: u8 = 5;
/// Type: asks for an echo.
pub const ECHO_REQUEST: u8 = 8;
/// Type: the datagram lived too long.
pub const TIME_EXCEEDED: u8 = 11;
/// Type: a header field is wrong.
pub const PARAMETER_PROBLEM: u8 = 12;

/// Code of [`UNREACHABLE`]: no engine for the protocol.
pub const PROTOCOL_UNREACHABLE: u8 = 2;
/// Code of [`UNREACHABLE`]: no socket at the port.
pub const PORT_UNREACHABLE: u8 = 3;
/// Code of [`UNREACHABLE`]: the packet is longer than a link and must not be fragmented.
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Code of [`TIME_EXCEEDED`]: not all fragments arrived in time.
pub const REASSEMBLY_TIME_EXCEEDED: u8 = 1;

/// Whether messages of this type report an error, so that none may answer them (RFC 1122,
/// section 3.2.2).
pub const fn is_error(kind: u8) -> bool {
    matches!(
        kind,
        UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM
    )
}
