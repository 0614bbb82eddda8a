//! What the standards ask for at the border of what is acceptable.

use virtroupe_wire::Instant;
use virtroupe_wire::tcp::{
    HeaderOptions, Outgoing, SeqNumber, TcpFlags, TcpIcmp, TcpIcmpKind, TcpOptions, TcpState,
    WindowScale, WindowScaling,
};

use crate::bed::{ACK, Bed, FIN, OURS, RST, SYN, Sent, plain};
use crate::network::{Network, Path};
use crate::support::{Family, content, milliseconds, options, seconds};

fn none() -> HeaderOptions {
    HeaderOptions::default()
}

/// RFC 9293, section 3.8.6: a window that shrank and opened again.
#[test]
fn what_a_shrinking_window_dropped_is_sent_again_when_it_opens() {
    let (mut bed, id) = Bed::accepted(plain());
    assert_eq!(bed.write(id, &[1; 1000]).len(), 1);
    bed.window = 0;
    bed.ack(1, 1);
    bed.window = 60_000;
    let mut sent = bed.ack(1, 1);
    sent.extend(bed.pass(seconds(5)).into_iter().map(|(_, sent)| sent));
    assert!(sent.iter().any(|it| it.payload.len() == 1000), "{sent:?}");
}

/// No more than a segment probes a window that has closed over what is under way.
#[test]
fn a_closed_window_is_probed_by_one_segment() {
    let (mut bed, id) = Bed::accepted(plain());
    bed.engine.set_most_payload(65_000);
    let written = bed.engine.write(bed.now, id, content(0, 0, 8000));
    assert_eq!(written.map_err(|(error, _)| error), Ok(()));
    let mut outgoing = Outgoing::new();
    assert!(bed.engine.poll_transmit(bed.now, &mut outgoing));
    assert_eq!(outgoing.payload_length(), 8000);
    bed.window = 0;
    bed.ack(1, 1);
    for _ in 0..3 {
        bed.now = bed.now + seconds(10);
        bed.engine.handle_timeout(bed.now);
        assert!(bed.engine.poll_transmit(bed.now, &mut outgoing));
        assert_eq!(outgoing.payload_length(), 1000);
        assert!(!bed.engine.poll_transmit(bed.now, &mut outgoing));
    }
}

/// RFC 3168, section 6.1.6: neither ECT nor CWR on a window probe.
#[test]
fn a_window_probe_is_not_ecn_capable() {
    let mut bed = Bed::new();
    let listener = bed.listen(TcpOptions {
        ecn: true,
        ..plain()
    });
    let ecn = TcpFlags::ECE.with(TcpFlags::CWR);
    bed.send(SYN.with(ecn), (0, 0), none(), b"");
    bed.ack(1, 1);
    let id = bed.engine.accept(bed.now, listener).expect("open");
    assert_eq!(bed.write(id, b"data")[0].ecn, 2);
    bed.window = 0;
    bed.ack(1, 5);
    bed.write(id, b"probe");
    let sent = bed.pass(seconds(2));
    assert_eq!(sent[0].1.payload, b"p");
    assert!(sent.iter().all(|(_, probe)| probe.ecn == 0));
}
