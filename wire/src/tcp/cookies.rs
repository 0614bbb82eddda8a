//! SYN cookies (RFC 4987, section 3.6): a handshake of which we keep nothing.
//!
//! What a half-open record would hold goes into our initial sequence number: 5 bits of a clock,
//! 3 bits for the segment size, and 24 bits that only we can compute. If the peer uses
//! timestamps, what else it offered is in the lowest bits of ours, which it echoes.

use super::connection::{Opened, clock};
use super::flow::Flow;
use super::header::{TcpHeader, Timestamps};
use super::records::Offer;
use super::secrets::Secrets;
use super::sequence::{SeqNumber, WindowScale};
use crate::time::Instant;

/// The segment sizes that a cookie can hold.
const SIZES: [u16; 8] = [536, 1024, 1220, 1360, 1400, 1440, 1460, 8940];

/// Seconds in which the clock ticks.
const TICK: u64 = 64;

/// Ticks for which a cookie is good, besides the current one.
const LIFETIME: u32 = 1;

/// The initial sequence number that says what `peer_mss` is.
pub(crate) fn make(
    secrets: &Secrets,
    flow: &Flow,
    theirs: SeqNumber,
    peer_mss: u16,
    now: Instant,
) -> SeqNumber {
    let size = SIZES
        .iter()
        .rposition(|size| *size <= peer_mss)
        .unwrap_or(0) as u32;
    number(secrets, flow, theirs, tick(now), size)
}

/// The timestamp that says what `offer` is: the last one at which the low bits are so.
pub(crate) fn timestamp(now: Instant, offset: u32, offer: Offer) -> u32 {
    let mask = (1 << Offer::COOKIE_BITS) - 1;
    let value = clock(now).wrapping_add(offset);
    let marked = value & !mask | u32::from(offer.0) & mask;
    match SeqNumber(value).is_before(SeqNumber(marked)) {
        true => marked.wrapping_sub(mask + 1),
        false => marked,
    }
}

/// What the acknowledgment in `header` says, if it answers a cookie of ours.
pub(crate) fn open(
    secrets: &Secrets,
    flow: &Flow,
    header: &TcpHeader,
    ours: Option<WindowScale>,
    now: Instant,
) -> Option<Opened> {
    let cookie = SeqNumber(header.acknowledgment.0.wrapping_sub(1));
    let theirs = SeqNumber(header.sequence.0.wrapping_sub(1));
    let size = cookie.0 >> 24 & 7;
    let made = (0..=LIFETIME)
        .map(|age| tick(now).wrapping_sub(age))
        .find(|made| number(secrets, flow, theirs, *made, size) == cookie);
    made?;
    let offer = match header.options.timestamps {
        Some(Timestamps { echo, .. }) => Offer::from_cookie(echo as u8 & 63),
        None => Offer::none(),
    };
    Some(Opened {
        flow: *flow,
        ours: cookie,
        theirs,
        negotiated: offer.negotiated(ours),
        peer_mss: SIZES.get(size as usize).copied(),
        recent: header
            .options
            .timestamps
            .map_or(0, |timestamps| timestamps.value),
        timestamp_offset: secrets.timestamp_offset(flow),
        sent: None,
    })
}

fn number(secrets: &Secrets, flow: &Flow, theirs: SeqNumber, tick: u32, size: u32) -> SeqNumber {
    let data = u64::from(theirs.0) << 32 | u64::from(tick << 3 | size);
    let secret = secrets.cookie(flow, data) & 0xff_ffff;
    SeqNumber(tick << 27 | size << 24 | secret)
}

fn tick(now: Instant) -> u32 {
    (now.as_nanos() / 1_000_000_000 / TICK) as u32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn flow(port: u16) -> Flow {
        Flow::new(([10, 0, 0, 1], 80).into(), ([10, 0, 0, 2], port).into())
    }

    #[test]
    fn a_cookie_is_good_for_a_while_and_for_its_flow_only() {
        let secrets = Secrets::new(7);
        let now = Instant::ZERO + Duration::from_secs(1000);
        let theirs = SeqNumber(99);
        let cookie = make(&secrets, &flow(1), theirs, 1400, now);
        let header = TcpHeader {
            sequence: theirs + 1,
            acknowledgment: cookie + 1,
            ..TcpHeader::default()
        };
        let open = |flow: &Flow, header: &TcpHeader, seconds| {
            let now = now + Duration::from_secs(seconds);
            super::open(&secrets, flow, header, None, now)
        };
        let opened = open(&flow(1), &header, 60).expect("it is good");
        assert_eq!((opened.peer_mss, opened.theirs), (Some(1400), theirs));
        assert!(open(&flow(2), &header, 0).is_none());
        assert!(open(&flow(1), &header, 129).is_none());
        let other = TcpHeader {
            acknowledgment: cookie + 2,
            ..header
        };
        assert!(open(&flow(1), &other, 0).is_none());
    }

    #[test]
    fn the_timestamp_carries_the_offer_and_does_not_run_ahead() {
        for milliseconds in 1000..1200 {
            let now = Instant::from_nanos(milliseconds * 1_000_000);
            for bits in [0, 1, 31, 63] {
                let value = timestamp(now, 0, Offer(bits));
                assert_eq!(value & 63, u32::from(bits));
                assert!(u64::from(value) <= milliseconds && u64::from(value) + 64 > milliseconds);
            }
        }
    }
}
