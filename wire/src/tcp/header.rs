//! The TCP header (RFC 9293, section 3.1) and its options, by value.
//!
//! The parser is total: whatever the bytes, it returns fields or says that the header is
//! malformed. An option that makes no sense is skipped, and one whose length is illegal ends
//! the list: to reset the connection instead would let a forged segment end it.

use super::sequence::{SeqNumber, WindowScale};
use crate::drops::DropReason;

/// Bytes in a header without options.
pub const HEADER: usize = 20;

/// Bytes in a header with as many options as there can be.
pub const MAX_HEADER: usize = 60;

/// Bytes in the header that most segments have: with timestamps, and no other option.
pub(crate) const COMMON: usize = 32;

/// Kinds of options.
mod kind {
    pub(super) const END: u8 = 0;
    pub(super) const NOP: u8 = 1;
    pub(super) const MSS: u8 = 2;
    pub(super) const WINDOW_SCALE: u8 = 3;
    pub(super) const SACK_PERMITTED: u8 = 4;
    pub(super) const SACK: u8 = 5;
    pub(super) const TIMESTAMPS: u8 = 8;
    pub(super) const USER_TIMEOUT: u8 = 28;
}

/// The control bits of a header, CWR to FIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// The sender has no more data.
    pub const FIN: TcpFlags = TcpFlags(1);
    /// Begins a connection.
    pub const SYN: TcpFlags = TcpFlags(2);
    /// Ends a connection at once.
    pub const RST: TcpFlags = TcpFlags(4);
    /// The data is to be handed on now.
    pub const PSH: TcpFlags = TcpFlags(8);
    /// The acknowledgment number counts.
    pub const ACK: TcpFlags = TcpFlags(16);
    /// The urgent pointer counts.
    pub const URG: TcpFlags = TcpFlags(32);
    /// Congestion was experienced (RFC 3168).
    pub const ECE: TcpFlags = TcpFlags(64);
    /// The congestion window was reduced (RFC 3168).
    pub const CWR: TcpFlags = TcpFlags(128);

    /// Whether all bits of `flags` are set.
    pub const fn contains(self, flags: TcpFlags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// These bits and those of `flags`.
    #[must_use]
    pub const fn with(self, flags: TcpFlags) -> TcpFlags {
        TcpFlags(self.0 | flags.0)
    }
}

/// Timestamps (RFC 7323, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamps {
    /// The sender's clock (TSval).
    pub value: u32,
    /// The clock of the other side that the sender saw (TSecr).
    pub echo: u32,
}

/// A range of sequence numbers that arrived: from `start` up to, but without, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SackBlock {
    /// The first number in the range.
    pub start: SeqNumber,
    /// The first number behind it.
    pub end: SeqNumber,
}

/// Up to four SACK blocks (RFC 2018, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SackBlocks {
    blocks: [SackBlock; 4],
    count: u8,
}

impl SackBlocks {
    /// Adds a block; false, and no change, if there are four.
    pub fn push(&mut self, block: SackBlock) -> bool {
        match self.blocks.get_mut(usize::from(self.count)) {
            Some(place) => {
                *place = block;
                self.count += 1;
                true
            }
            None => false,
        }
    }

    /// The blocks in the order of the option.
    pub fn as_slice(&self) -> &[SackBlock] {
        self.blocks
            .get(..usize::from(self.count))
            .unwrap_or_default()
    }

    /// Whether there is no block.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The options that the engine understands. An option that is absent is `None` or empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeaderOptions {
    /// The longest segment in bytes that the sender can receive (RFC 9293, section 3.7.1).
    pub mss: Option<u16>,
    /// The scale of the sender's windows (RFC 7323, section 2).
    pub window_scale: Option<WindowScale>,
    /// Whether SACK may be sent (RFC 2018, section 2).
    pub sack_permitted: bool,
    /// Timestamps (RFC 7323, section 3).
    pub timestamps: Option<Timestamps>,
    /// What arrived out of order (RFC 2018, section 3).
    pub sack: SackBlocks,
    /// The user timeout (RFC 5482, section 3): the granularity bit and 15 bits, as sent.
    pub user_timeout: Option<u16>,
}

/// A TCP header by value. The checksum is not part of it: see
/// [`checksum`](super::checksum::is_intact).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpHeader {
    /// Port of the sender.
    pub source_port: u16,
    /// Port of the receiver.
    pub destination_port: u16,
    /// The number of the first byte, or of the SYN.
    pub sequence: SeqNumber,
    /// The number that the sender expects next, if `ACK` is set.
    pub acknowledgment: SeqNumber,
    /// The control bits.
    pub flags: TcpFlags,
    /// The window, before scaling.
    pub window: u16,
    /// The urgent pointer. Urgent data is part of the stream (RFC 6093).
    pub urgent: u16,
    /// The options.
    pub options: HeaderOptions,
}

impl TcpHeader {
    /// Reads the header at the front of `bytes`. Returns it and its length in bytes, 20 to 60.
    ///
    /// # Errors
    /// `Malformed` if `bytes` ends within the header or the data offset is below 5.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), DropReason> {
        let mut header = TcpHeader::default();
        let length = header.read(bytes)?;
        Ok((header, length))
    }

    /// As [`parse`](Self::parse), into a header without options, where it is to stay: returns the
    /// length.
    #[inline]
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<usize, DropReason> {
        let fixed = bytes.first_chunk::<HEADER>().ok_or(DropReason::Malformed)?;
        let [
            s0,
            s1,
            d0,
            d1,
            q0,
            q1,
            q2,
            q3,
            a0,
            a1,
            a2,
            a3,
            offset,
            flags,
            w0,
            w1,
            _,
            _,
            u0,
            u1,
        ] = *fixed;
        let length = usize::from(offset >> 4) * 4;
        let options = bytes.get(HEADER..length).ok_or(DropReason::Malformed)?;
        self.source_port = u16::from_be_bytes([s0, s1]);
        self.destination_port = u16::from_be_bytes([d0, d1]);
        self.sequence = SeqNumber(u32::from_be_bytes([q0, q1, q2, q3]));
        self.acknowledgment = SeqNumber(u32::from_be_bytes([a0, a1, a2, a3]));
        self.flags = TcpFlags(flags);
        self.window = u16::from_be_bytes([w0, w1]);
        self.urgent = u16::from_be_bytes([u0, u1]);
        self.options.read(options);
        Ok(length)
    }

    /// The fixed part of a header of `length` bytes as it goes on the wire with a checksum of zero, in
    /// numbers high byte first. The checksum is in the upper 16 bits of the last.
    #[inline]
    fn fixed(&self, length: usize) -> [u32; HEADER / 4] {
        let offset = (length as u32 / 4) << 12;
        [
            u32::from(self.source_port) << 16 | u32::from(self.destination_port),
            self.sequence.0,
            self.acknowledgment.0,
            (offset | u32::from(self.flags.0)) << 16 | u32::from(self.window),
            u32::from(self.urgent),
        ]
    }

    /// The header as it goes on the wire with a checksum of zero, in numbers high byte first, if it
    /// has timestamps and no other option: what most have. The checksum is in the upper 16 bits
    /// of the third.
    #[inline]
    pub(crate) fn common_numbers(&self) -> Option<[u64; COMMON / 8]> {
        const TIMESTAMPS: u32 = u32::from_be_bytes([kind::NOP, kind::NOP, kind::TIMESTAMPS, 10]);
        let timestamps = self.options.timestamps?;
        if self.options.length() != COMMON - HEADER || self.options.sack_permitted {
            return None;
        }
        let [ports, sequence, acknowledgment, window, urgent] = self.fixed(COMMON);
        let pair = |first: u32, second: u32| u64::from(first) << 32 | u64::from(second);
        Some([
            pair(ports, sequence),
            pair(acknowledgment, window),
            pair(urgent, TIMESTAMPS),
            pair(timestamps.value, timestamps.echo),
        ])
    }

    /// The header as it goes on the wire with a checksum of zero: bytes and how many of them
    /// count. Options that do not fit into 40 bytes are left out, SACK blocks first.
    #[inline]
    pub fn to_bytes(&self) -> ([u8; MAX_HEADER], usize) {
        let mut bytes = [0; MAX_HEADER];
        let (fixed, options) = bytes.split_at_mut(HEADER);
        let length = HEADER + self.options.write(options);
        let rooms = fixed.as_chunks_mut().0.iter_mut();
        for (room, number) in rooms.zip(self.fixed(length)) {
            *room = number.to_be_bytes();
        }
        (bytes, length)
    }
}

/// Copies `part` to the front of `room`, which is long enough, and returns what is behind.
fn put<'a>(room: &'a mut [u8], part: &[u8]) -> &'a mut [u8] {
    match room.split_at_mut_checked(part.len()) {
        Some((here, rest)) => {
            here.copy_from_slice(part);
            rest
        }
        None => &mut [],
    }
}

impl HeaderOptions {
    /// Reads a list of options (RFC 9293, section 3.2).
    #[inline]
    fn read(&mut self, list: &[u8]) {
        // What most segments have, as RFC 7323 recommends in appendix A.
        if let &[
            kind::NOP,
            kind::NOP,
            kind::TIMESTAMPS,
            10,
            v0,
            v1,
            v2,
            v3,
            e0,
            e1,
            e2,
            e3,
        ] = list
        {
            self.timestamps = Some(Timestamps {
                value: u32::from_be_bytes([v0, v1, v2, v3]),
                echo: u32::from_be_bytes([e0, e1, e2, e3]),
            });
        } else {
            self.read_any(list);
        }
    }

    #[inline(never)]
    fn read_any(&mut self, mut list: &[u8]) {
        while let Some((&kind, rest)) = list.split_first() {
            match kind {
                kind::END => break,
                kind::NOP => list = rest,
                _ => {
                    // Not below 2: MUST-7 asks to be prepared for an illegal length.
                    let length = rest.first().copied().map_or(0, usize::from);
                    let Some(body) = list.get(2..length) else {
                        break;
                    };
                    self.take(kind, body);
                    list = list.get(length..).unwrap_or_default();
                }
            }
        }
    }

    /// Reads one option without its kind and length; a length that does not fit is ignored.
    fn take(&mut self, kind: u8, body: &[u8]) {
        match (kind, body) {
            (kind::MSS, &[m0, m1]) => self.mss = Some(u16::from_be_bytes([m0, m1])),
            (kind::WINDOW_SCALE, &[shift]) => self.window_scale = Some(WindowScale::new(shift)),
            (kind::SACK_PERMITTED, &[]) => self.sack_permitted = true,
            (kind::TIMESTAMPS, &[v0, v1, v2, v3, e0, e1, e2, e3]) => {
                self.timestamps = Some(Timestamps {
                    value: u32::from_be_bytes([v0, v1, v2, v3]),
                    echo: u32::from_be_bytes([e0, e1, e2, e3]),
                });
            }
            (kind::USER_TIMEOUT, &[t0, t1]) => {
                self.user_timeout = Some(u16::from_be_bytes([t0, t1]));
            }
            (kind::SACK, blocks) => {
                let (blocks, rest) = blocks.as_chunks::<8>();
                if rest.is_empty() {
                    self.sack = SackBlocks::default();
                    for &[s0, s1, s2, s3, e0, e1, e2, e3] in blocks {
                        self.sack.push(SackBlock {
                            start: SeqNumber(u32::from_be_bytes([s0, s1, s2, s3])),
                            end: SeqNumber(u32::from_be_bytes([e0, e1, e2, e3])),
                        });
                    }
                }
            }
            _ => {}
        }
    }

    /// Bytes that the options take in a header, a multiple of 4.
    #[inline]
    pub fn length(&self) -> usize {
        let length = self.fixed_length();
        match self.fitting_blocks(length) {
            0 => length,
            count => length + 4 + 8 * count,
        }
    }

    /// Bytes that the options without SACK blocks take: 24 at most, so that all have room.
    #[inline]
    fn fixed_length(&self) -> usize {
        let word = |is_there| if is_there { 4 } else { 0 };
        let timestamps = match self.timestamps {
            Some(_) => 12,
            None => word(self.sack_permitted),
        };
        word(self.mss.is_some())
            + timestamps
            + word(self.window_scale.is_some())
            + word(self.user_timeout.is_some())
    }

    /// How many SACK blocks have room behind `used` bytes.
    #[inline]
    fn fitting_blocks(&self, used: usize) -> usize {
        let fitting = (MAX_HEADER - HEADER).saturating_sub(used + 4) / 8;
        self.sack.as_slice().len().min(fitting)
    }

    /// Writes the options into 40 bytes of zeros; returns how many count, a multiple of 4.
    fn write(&self, room: &mut [u8]) -> usize {
        let mut list = List { room, used: 0 };
        if let Some(mss) = self.mss {
            let [m0, m1] = mss.to_be_bytes();
            list.push(&[kind::MSS, 4, m0, m1]);
        }
        let permitted: [u8; 2] = match self.sack_permitted {
            true => [kind::SACK_PERMITTED, 2],
            false => [kind::NOP; 2],
        };
        if let Some(timestamps) = self.timestamps {
            let mut option = [0; 12];
            let rest = put(&mut option, &permitted);
            let rest = put(rest, &[kind::TIMESTAMPS, 10]);
            let rest = put(rest, &timestamps.value.to_be_bytes());
            put(rest, &timestamps.echo.to_be_bytes());
            list.push(&option);
        } else if self.sack_permitted {
            list.push(&[kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2]);
        }
        if let Some(scale) = self.window_scale {
            list.push(&[kind::NOP, kind::WINDOW_SCALE, 3, scale.shift()]);
        }
        if let Some(timeout) = self.user_timeout {
            let [t0, t1] = timeout.to_be_bytes();
            list.push(&[kind::USER_TIMEOUT, 4, t0, t1]);
        }
        let count = self.fitting_blocks(list.used);
        if count > 0 {
            list.push(&[kind::NOP, kind::NOP, kind::SACK, (2 + 8 * count) as u8]);
            for block in self.sack.as_slice().iter().take(count) {
                list.push(&block.start.0.to_be_bytes());
                list.push(&block.end.0.to_be_bytes());
            }
        }
        list.used
    }
}

/// Options that were written so far.
struct List<'a> {
    room: &'a mut [u8],
    used: usize,
}

impl List<'_> {
    /// Writes an option of a multiple of 4 bytes, if there is room.
    fn push(&mut self, option: &[u8]) {
        let room = self.room.get_mut(self.used..).unwrap_or_default();
        if room.len() >= option.len() {
            put(room, option);
            self.used += option.len();
        }
    }
}

#[cfg(test)]
#[path = "header/tests.rs"]
mod tests;
