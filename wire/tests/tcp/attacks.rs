//! What an attacker may try, each by its name.

use std::time::Duration;

use virtroupe_wire::DropReason;
use virtroupe_wire::tcp::{
    HeaderOptions, SackBlock, SeqNumber, TcpConfig, TcpFlags, TcpHeader, TcpOptions, TcpState,
    Timestamps,
};

use crate::bed::{ACK, Bed, FIN, OURS, RST, SYN, THEIRS, flow, plain, sacking, wire};
use crate::network::{Network, Path};
use crate::streams::check_empty;
use crate::support::{Family, Random, content, milliseconds, options, seconds};

fn none() -> HeaderOptions {
    HeaderOptions::default()
}

/// SYNs from everywhere that nobody follows up, and between them clients who mean it.
#[test]
fn syn_flood() {
    let half_open = 1000;
    let mut bed = Bed::with(TcpConfig {
        half_open,
        ..TcpConfig::default()
    });
    let listener = bed.listen(TcpOptions {
        initial_sequence: None,
        ..options()
    });
    let mut random = Random::new(1);
    let floods = 1_000_000;
    let mut clients = 0_u32;
    for number in 0..floods {
        let from = [
            100,
            random.next() as u8,
            random.next() as u8,
            random.next() as u8,
        ];
        let flooding = virtroupe_wire::tcp::Flow::new(
            (from, random.next() as u16 | 1).into(),
            bed.flow.remote(),
        );
        let syn = TcpHeader {
            source_port: flooding.local().port(),
            destination_port: 80,
            sequence: SeqNumber(random.next() as u32),
            flags: SYN,
            window: 1000,
            ..TcpHeader::default()
        };
        bed.engine.receive_one(bed.now, wire(flooding, syn, b""));
        bed.sent();
        bed.now = bed.now + Duration::from_micros(10);
        bed.engine.handle_timeout(bed.now);
        if number % 100 == 99 {
            let port = 10_000 + (clients % 50_000) as u16;
            let uses_timestamps = clients.is_multiple_of(2);
            honest_client(&mut bed, port, uses_timestamps);
            let id = bed.engine.accept(bed.now, listener);
            let id = id.unwrap_or_else(|| panic!("client {clients} does not get through"));
            assert_eq!(bed.read(id), b"request");
            let stats = bed.engine.stats(id).expect("it is there");
            assert!(
                stats.sack || !uses_timestamps,
                "a cookie keeps it in the timestamp"
            );
            bed.engine.abort(bed.now, id);
            clients += 1;
        }
        assert!(bed.engine.usage().half_open <= half_open);
    }
    let counters = bed.engine.counters();
    assert!(counters.cookies_sent > floods / 2, "{counters:?}");
    assert!(
        u64::from(clients) > floods / 200 && counters.cookies_accepted > 0,
        "{counters:?}"
    );
    let usage = bed.engine.usage();
    assert!(usage.table_memory < 1 << 20, "{usage:?}");
}

/// Connects from `port` and sends a request.
fn honest_client(bed: &mut Bed, port: u16, uses_timestamps: bool) {
    let flow = flow(port);
    let syn = TcpHeader {
        source_port: port,
        destination_port: 80,
        sequence: SeqNumber(THEIRS),
        flags: SYN,
        window: 60_000,
        options: HeaderOptions {
            mss: Some(1460),
            sack_permitted: true,
            timestamps: uses_timestamps.then_some(Timestamps { value: 1, echo: 0 }),
            ..none()
        },
        ..TcpHeader::default()
    };
    bed.engine.receive_one(bed.now, wire(flow, syn, b""));
    let sent = bed.sent();
    let answer = sent.iter().find(|sent| sent.flow.remote() == flow.local());
    let answer = answer.expect("the SYN is answered").header;
    assert!(answer.flags.contains(SYN.with(ACK)));
    let request = TcpHeader {
        sequence: SeqNumber(THEIRS + 1),
        acknowledgment: answer.sequence + 1,
        flags: ACK,
        options: HeaderOptions {
            timestamps: answer.options.timestamps.map(|theirs| Timestamps {
                value: 2,
                echo: theirs.value,
            }),
            ..none()
        },
        ..syn
    };
    bed.engine
        .receive_one(bed.now, wire(flow, request, b"request"));
}

/// Cookies that were never sent: acknowledgments out of nothing.
#[test]
fn forged_cookies() {
    let mut bed = Bed::with(TcpConfig {
        half_open: 1,
        ..TcpConfig::default()
    });
    let listener = bed.listen(TcpOptions {
        initial_sequence: None,
        ..options()
    });
    for port in [1, 2] {
        let syn = TcpHeader {
            source_port: port,
            destination_port: 80,
            flags: SYN,
            ..TcpHeader::default()
        };
        bed.engine.receive_one(bed.now, wire(flow(port), syn, b""));
    }
    assert_eq!(bed.engine.counters().cookies_sent, 1);
    let mut random = Random::new(2);
    for _ in 0..100_000 {
        let (sequence, ack) = (random.next() as u32, random.next() as u32);
        bed.send(ACK, (sequence, ack), none(), b"");
    }
    assert!(bed.engine.accept(bed.now, listener).is_none());
    assert_eq!(bed.engine.usage().connections, 0);
}

/// Resets from somebody who knows the addresses and ports, but not the numbers (RFC 5961,
/// section 3).
#[test]
fn blind_reset() {
    let (mut bed, id) = Bed::accepted(plain());
    let mut answers = 0;
    for guess in (2..u32::MAX).step_by(10_007) {
        answers += bed.send(RST, (guess, 0), none(), b"").len();
        answers += bed.send(RST.with(ACK), (guess, guess), none(), b"").len();
    }
    assert_eq!(bed.engine.state(id), Some(TcpState::Established));
    assert!(answers <= 10, "{answers} challenges without time passing");
    let counters = bed.engine.counters();
    assert!(
        counters.challenge_acks_limited > 0 && counters.challenge_acks > 0,
        "{counters:?}"
    );
    bed.send(RST, (1, 0), none(), b"");
    assert_eq!(
        bed.engine.state(id),
        Some(TcpState::Closed),
        "the peer itself is believed"
    );
}

/// SYNs into an open connection (RFC 5961, section 4).
#[test]
fn blind_syn() {
    let (mut bed, id) = Bed::accepted(plain());
    let answer = bed.send(SYN, (1, 0), none(), b"");
    assert_eq!(
        (answer[0].header.flags, answer[0].numbers()),
        (ACK, (1, 1)),
        "a challenge"
    );
    let mut answers = 0;
    for guess in (0..u32::MAX).step_by(100_003) {
        answers += bed.send(SYN, (guess, 0), none(), b"").len();
        answers += bed.send(SYN.with(ACK), (guess, 1), none(), b"").len();
    }
    assert!(answers < 10);
    assert_eq!(bed.engine.state(id), Some(TcpState::Established));
}

/// Data from somebody who guesses (RFC 5961, section 5): the acknowledgment must fit too.
#[test]
fn blind_data_injection() {
    let (mut bed, id) = Bed::accepted(plain());
    for guess in (0..u32::MAX).step_by(500_009) {
        // The sequence number is right, the acknowledgment a guess.
        if guess > 1 && guess < u32::MAX - 100_000 {
            bed.send(ACK, (1, guess), none(), b"evil");
        }
        // Without an acknowledgment there is nothing to guess.
        bed.send(TcpFlags(0), (1, 0), none(), b"evil");
        bed.send(TcpFlags::PSH, (1, 0), none(), b"evil");
    }
    assert_eq!(bed.read(id), b"");
    assert!(bed.engine.drops()[DropReason::BadAck] > 1000);
    bed.data(1, 1, b"good");
    assert_eq!(bed.read(id), b"good");
}

/// Acknowledgments of what was not sent yet.
#[test]
fn ack_of_unsent_data() {
    let (mut bed, id) = Bed::accepted(plain());
    let sent = bed.write(id, &[0; 20_000]);
    let flight: u32 = sent.iter().map(|sent| sent.payload.len() as u32).sum();
    let before = bed.engine.stats(id).expect("it is there");
    let answer = bed.ack(1, flight + 2);
    assert_eq!(answer.len(), 1, "a challenge, and no data");
    assert_eq!(bed.engine.stats(id).expect("it is there"), before);
    assert_eq!(bed.engine.drops()[DropReason::BadAck], 1);
}

/// Acknowledgments ahead of what arrives, so that we send faster than the path allows: the
/// window grows by what was sent, no more, and stops at the send buffer.
#[test]
fn optimistic_acks() {
    let mut bed = Bed::new();
    bed.rtt = milliseconds(20);
    let id = bed.accept(TcpOptions {
        send_buffer: 1 << 20,
        ..plain()
    });
    let mut written = 0_u64;
    for _ in 0..2000 {
        if bed.engine.room(id) > 0 {
            let chunk = content(0, written, 50_000);
            written += 50_000;
            bed.engine.write(bed.now, id, chunk).expect("there is room");
        }
        let sent = bed.sent();
        bed.now = bed.now + Duration::from_micros(100);
        if let Some(last) = sent.last() {
            bed.ack(1, last.numbers().0 + last.payload.len() as u32);
        }
        let stats = bed.engine.stats(id).expect("it is there");
        assert!(
            stats.congestion_window <= 10_000 + 2 * stats.acknowledged,
            "{stats:?}"
        );
        assert!(
            stats.in_flight <= 65_535,
            "the announced window holds: {stats:?}"
        );
    }
}

/// An acknowledgment for each byte (ACK division): the window grows by bytes, not by
/// acknowledgments.
#[test]
fn divided_acks() {
    let mut bed = Bed::new();
    bed.rtt = milliseconds(20);
    let id = bed.accept(plain());
    bed.write(id, &[0; 50_000]);
    let before = bed.engine.stats(id).expect("it is there").congestion_window;
    for ack in 2..=1001 {
        bed.ack(1, ack);
    }
    let stats = bed.engine.stats(id).expect("it is there");
    assert!(
        stats.congestion_window <= before + 1000,
        "{before} became {stats:?}"
    );
}

/// Windows of a byte: they do not make us send a segment for each.
#[test]
fn tiny_windows() {
    let mut bed = Bed::new();
    bed.window = 1;
    let listener = bed.listen(plain());
    bed.send(
        SYN,
        (0, 0),
        HeaderOptions {
            mss: Some(1000),
            ..none()
        },
        b"",
    );
    bed.ack(1, 1);
    let id = bed.engine.accept(bed.now, listener).expect("it is open");
    bed.write(id, &[0; 10_000]);
    let mut segments = 0;
    let mut ack = 1;
    for _ in 0..600 {
        for (_, sent) in bed.pass(milliseconds(100)) {
            segments += 1;
            ack = ack.max(sent.numbers().0 + sent.payload.len() as u32);
        }
        bed.ack(1, ack);
    }
    assert!(segments < 400, "{segments} in a minute");
    let memory = bed.engine.stats(id).expect("it is there").records;
    assert!(memory < 10);
}

/// A window that shrinks below what was sent, again and again.
#[test]
fn shrinking_windows() {
    let (mut bed, id) = Bed::accepted(sacking());
    let mut ack = 1;
    let mut random = Random::new(3);
    for _ in 0..2000 {
        if bed.engine.room(id) > 100_000 {
            let chunk = content(0, 0, 10_000);
            bed.engine.write(bed.now, id, chunk).expect("there is room");
        }
        bed.window = random.below(20_000) as u16;
        for sent in bed.ack(1, ack) {
            let end = sent.numbers().0 + sent.payload.len() as u32;
            let is_probe = sent.numbers().0 == ack;
            assert!(
                is_probe || end <= ack + u32::from(bed.window),
                "beyond the window"
            );
            if random.happens(0.5) && is_probe {
                ack = end;
            }
        }
        bed.pass(milliseconds(50));
    }
    assert_eq!(bed.engine.state(id), Some(TcpState::Established));
    // When it behaves, everything arrives.
    bed.window = 65_535;
    for _ in 0..2000 {
        for sent in bed.ack(1, ack) {
            ack = ack.max(sent.numbers().0 + sent.payload.len() as u32);
        }
        for (_, sent) in bed.pass(milliseconds(5)) {
            ack = ack.max(sent.numbers().0 + sent.payload.len() as u32);
        }
    }
    assert_eq!(bed.engine.stats(id).expect("it is there").unacknowledged, 0);
}

/// Every second byte, so that each needs a buffer: memory stays within twice the limit.
#[test]
fn out_of_order_flood() {
    let buffer = 256 << 10;
    let options = TcpOptions {
        receive_buffer: buffer,
        initial_receive_buffer: buffer,
        ..sacking()
    };
    let (mut bed, id) = Bed::accepted(options);
    let mut random = Random::new(4);
    for _ in 0..200_000 {
        let sequence = 3 + random.below(32_000) as u32 * 2;
        bed.data(sequence, 1, b"x");
        let usage = bed.engine.usage();
        assert!(usage.receive_memory <= 2 * buffer + 2048, "{usage:?}");
    }
    assert!(bed.engine.drops()[DropReason::ReceiveBufferFull] > 0);
    // What is missing still gets through.
    bed.data(1, 1, &[b'x'; 1000]);
    bed.data(1001, 1, &[b'x'; 1000]);
    assert!(bed.read(id).len() >= 2000);
    bed.engine.abort(bed.now, id);
    bed.sent();
    assert_eq!(bed.engine.usage().receive_memory, 0);
}

/// Out of order on many connections: all of them together have a limit too.
#[test]
fn out_of_order_flood_on_many_connections() {
    let memory = 4 << 20;
    let mut bed = Bed::with(TcpConfig {
        memory,
        ..TcpConfig::default()
    });
    let listener = bed.listen(plain());
    for port in 1..=100 {
        bed.flow = flow(port);
        bed.send(SYN, (0, 0), none(), b"");
        bed.ack(1, 1);
        bed.engine.accept(bed.now, listener).expect("it is open");
        for segment in 0..60 {
            bed.data(1001 + segment * 1000, 1, &[0; 1000]);
        }
    }
    assert!(
        bed.engine.usage().receive_memory <= memory + 2048,
        "{:?}",
        bed.engine.usage()
    );
}

/// SACK blocks that split what is under way into as many pieces as possible, and blocks that
/// make no sense.
#[test]
fn sack_flood() {
    let (mut bed, id) = Bed::accepted(sacking());
    bed.write(id, &[0; 60_000]);
    bed.engine.set_most_payload(60_000);
    for step in 0..20_000 {
        let start = 2 + step % 10_000 * 5;
        bed.sack(
            1,
            1,
            &[
                (start, start + 3),
                (start + 3, start),
                (u32::MAX - 5, 90_000),
            ],
        );
    }
    let stats = bed.engine.stats(id).expect("it is there");
    assert!(stats.records <= 200, "{stats:?}");
    assert_eq!(bed.engine.state(id), Some(TcpState::Established));
}

/// Timestamps of long ago, and far ahead (RFC 7323, section 5).
#[test]
fn old_timestamps() {
    let mut bed = Bed::new();
    bed.timestamp = Some(1_000_000);
    let id = bed.accept(TcpOptions {
        timestamps: true,
        ..plain()
    });
    bed.timestamp = Some(999_999);
    bed.data(1, 1, b"old");
    assert_eq!(bed.read(id), b"");
    assert_eq!(bed.engine.drops()[DropReason::OldTimestamp], 1);
    bed.timestamp = None;
    bed.data(1, 1, b"none");
    assert_eq!(bed.read(id), b"");
    bed.timestamp = Some(1_000_001);
    bed.data(1, 1, b"new");
    assert_eq!(bed.read(id), b"new");
    // A reset is not subject to it (section 3.2).
    bed.timestamp = Some(5);
    bed.send(RST, (4, 0), none(), b"");
    assert_eq!(bed.engine.state(id), Some(TcpState::Closed));
}

/// Half-open connections that are never acknowledged.
#[test]
fn half_open_that_never_end() {
    let mut bed = Bed::new();
    let listener = bed.listen(plain());
    for port in 1..=1000 {
        bed.flow = flow(port);
        bed.send(SYN, (0, 0), none(), b"");
    }
    assert_eq!(bed.engine.usage().half_open, 1000);
    bed.pass(seconds(70));
    assert_eq!(bed.engine.usage().half_open, 0);
    assert_eq!(bed.engine.counters().half_open_failed, 1000);
    // The model system counted them for ever, and closed the port after a hundred.
    bed.flow = flow(7);
    bed.send(SYN, (0, 0), none(), b"");
    bed.ack(1, 1);
    assert!(bed.engine.accept(bed.now, listener).is_some());
}

/// A peer that never finishes, after we have closed.
#[test]
fn fin_wait_2_that_never_ends() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.engine.close(bed.now, id);
    bed.sent();
    bed.ack(1, 2);
    assert_eq!(bed.engine.usage().connections, 1);
    bed.pass(seconds(61));
    assert_eq!(bed.engine.usage().connections, 0);
    assert_eq!(bed.engine.next_deadline(), None);
}

/// A peer that keeps its window closed after we have closed, and answers every probe.
#[test]
fn closed_window_after_close() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.window = 0;
    bed.ack(1, 1);
    bed.write(id, b"never read");
    bed.engine.close(bed.now, id);
    for _ in 0..700 {
        bed.pass(milliseconds(100));
        bed.ack(1, 1);
    }
    assert_eq!(bed.engine.usage().connections, 0);
}

/// More connections than the application accepts.
#[test]
fn accept_queue_flood() {
    let mut bed = Bed::new();
    let options = virtroupe_wire::tcp::ListenOptions {
        backlog: 10,
        connection: plain(),
    };
    let local = bed.flow.remote();
    let listener = bed.engine.listen(local, options).expect("it is free");
    for port in 1..=100 {
        bed.flow = flow(port);
        bed.send(SYN, (0, 0), none(), b"");
        bed.ack(1, 1);
    }
    assert_eq!(bed.engine.usage().connections, 10);
    assert!(bed.engine.drops()[DropReason::BacklogFull] >= 90);
    for _ in 0..10 {
        assert!(bed.engine.accept(bed.now, listener).is_some());
    }
    bed.flow = flow(101);
    bed.send(SYN, (0, 0), none(), b"");
    bed.ack(1, 1);
    assert!(bed.engine.accept(bed.now, listener).is_some(), "it goes on");
}

/// Segments that want to be answered, faster than anybody reads the answers.
#[test]
fn reflection() {
    let mut bed = Bed::with(TcpConfig {
        replies: 50,
        ..TcpConfig::default()
    });
    for port in 1..=1000 {
        let header = TcpHeader {
            source_port: port,
            destination_port: 9,
            flags: SYN,
            ..TcpHeader::default()
        };
        bed.engine
            .receive_one(bed.now, wire(flow(port), header, b""));
    }
    assert_eq!(bed.sent().len(), 50);
}

/// Two sides that disagree do not acknowledge each other for ever.
#[test]
fn ack_storm() {
    let (mut bed, _) = Bed::accepted(plain());
    let mut answers = 0;
    for _ in 0..1000 {
        answers += bed.ack(100_000_000, 1).len();
    }
    assert!(answers <= 10, "{answers}");
}

/// Every combination of control bits, in every state: nothing panics, and no connection ends
/// by what is not exactly right.
#[test]
fn all_control_bits() {
    for flags in 0..=255 {
        let (mut bed, id) = Bed::accepted(sacking());
        let flags = TcpFlags(flags);
        for (sequence, ack) in [(0, 0), (2, 1), (1, 500), (100_000, 1), (u32::MAX, 1)] {
            if flags.contains(RST) && sequence == 1 {
                continue;
            }
            let mut options = none();
            options.sack.push(SackBlock {
                start: SeqNumber(OURS),
                end: SeqNumber(7),
            });
            bed.send(flags, (sequence, ack), options, b"");
        }
        let is_open = matches!(
            bed.engine.state(id),
            Some(TcpState::Established | TcpState::CloseWait)
        );
        assert!(is_open, "{flags:?}: {:?}", bed.engine.state(id));
        bed.engine.finish(bed.now, id);
        bed.send(flags, (1, 1), none(), b"data");
        bed.send(flags.with(FIN), (1, 2), none(), b"data");
        bed.pass(seconds(1000));
        bed.engine.abort(bed.now, id);
        bed.sent();
        assert_eq!(bed.engine.usage().connections, 0);
    }
}

/// Corruption that the checksum does not see is not our business; all else is.
#[test]
fn corruption() {
    for seed in 0..5 {
        let path = Path {
            corruption: 0.15,
            ..Path::default()
        };
        let mut network = Network::new(Family::V6, path, seed);
        crate::streams::transfer(&mut network, options(), [100_000, 100_000]);
        assert!(network.corrupted > 5);
        check_empty(&mut network);
    }
}
