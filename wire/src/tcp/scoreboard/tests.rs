use proptest::prelude::*;

use super::*;

const MSS: u64 = 10;

fn at(milliseconds: u64) -> Instant {
    Instant::from_nanos(milliseconds * 1_000_000)
}

fn range(start: u64, end: u64) -> Range {
    Range { start, end }
}

#[derive(Debug, Clone)]
enum Step {
    Send(u64),
    Sack(u64, u64),
    Acknowledge(u64),
    Resend,
    Probe,
    Detect(u64),
    LoseAll(bool),
    LoseFirst,
    LoseLonger,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1_u64..60).prop_map(Step::Send),
        (0_u64..500, 1_u64..80).prop_map(|(start, length)| Step::Sack(start, start + length)),
        (0_u64..500).prop_map(Step::Acknowledge),
        Just(Step::Resend),
        Just(Step::Probe),
        (0_u64..20).prop_map(Step::Detect),
        any::<bool>().prop_map(Step::LoseAll),
        Just(Step::LoseFirst),
        Just(Step::LoseLonger),
    ]
}

proptest! {
    /// Whatever a peer reports: records stay sorted and without gap, the sums are right, bytes
    /// are delivered once, and the number of records is bounded.
    #[test]
    fn the_sums_are_right_and_the_number_of_records_is_bounded(
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut board = Scoreboard::new();
        let (mut una, mut nxt, mut sends) = (0, 0, 0);
        let mut delivered = 0;
        let mut newest: Option<Newest> = None;
        for (time, step) in steps.into_iter().enumerate() {
            let now = at(time as u64);
            let mut delivery = Delivery::default();
            let mut is_reneging = false;
            match step {
                Step::Send(length) => {
                    board.sent(range(nxt, nxt + length), now);
                    nxt += length;
                    sends += 1;
                }
                Step::Sack(start, end) => {
                    let block = range(start.max(una), end.min(nxt));
                    if block.start < block.end {
                        board.sack(block, MSS, now, Duration::ZERO, &mut delivery);
                    }
                }
                Step::Acknowledge(position) => {
                    una = position.clamp(una, nxt);
                    board.acknowledge(una, now, Duration::ZERO, &mut delivery);
                }
                Step::Resend => {
                    if let Some(lost) = board.first_lost() {
                        let end = lost.end.min(lost.start + MSS);
                        board.resent(range(lost.start, end), now);
                    }
                }
                Step::Probe => {
                    if let Some(last) = board.last(MSS) {
                        board.resent(last, now);
                    }
                }
                Step::Detect(wait) => {
                    if let Some(newest) = newest {
                        let left = board.detect(newest, Duration::from_millis(wait), now);
                        prop_assert!(left.is_none_or(|left| !left.is_zero()));
                    }
                }
                Step::LoseAll(renege) => {
                    is_reneging = renege;
                    board.lose_all(renege);
                    prop_assert_eq!(board.in_flight(), 0);
                }
                Step::LoseFirst => board.lose_first(MSS),
                Step::LoseLonger => board.lose_longer(MSS),
            }
            delivered += delivery.bytes;
            newest = newest.or(delivery.newest);
            if is_reneging {
                // What was SACKed may be delivered again.
                delivered = una;
            }
            prop_assert_eq!(delivered, una + board.sacked());
            let mut end = una;
            for record in &board.records {
                prop_assert_eq!(record.start, end);
                prop_assert!(record.end > record.start);
                end = record.end;
            }
            prop_assert_eq!(end, nxt);
            let sum = |fate| {
                let of_it = board.records.iter().filter(|record| record.fate == fate);
                of_it.map(Record::length).sum::<u64>()
            };
            prop_assert_eq!(board.in_flight(), sum(Fate::InFlight));
            prop_assert_eq!(board.sacked(), sum(Fate::Sacked));
            prop_assert_eq!(board.lost(), sum(Fate::Lost));
            let again = board.records.iter().filter(|record| record.is_retransmitted);
            prop_assert_eq!(board.retransmitted, again.map(Record::length).sum::<u64>());
            // Two more than one for each segment of each burst: TLP may cut the last off.
            prop_assert!(board.records() as u64 <= sends * (60 / MSS + 3));
        }
    }
}

#[test]
fn rack_marks_what_was_sent_before_what_arrived() {
    let mut board = Scoreboard::new();
    for segment in 0..4 {
        board.sent(range(segment * 10, segment * 10 + 10), at(segment));
    }
    let mut delivery = Delivery::default();
    board.sack(range(20, 30), MSS, at(50), Duration::ZERO, &mut delivery);
    let newest = delivery.newest.expect("a segment arrived");
    assert_eq!(
        newest,
        Newest {
            sent: at(2),
            end: 30
        }
    );
    assert_eq!(delivery.rtt, Some(Duration::from_millis(48)));
    let wait = Duration::from_millis(50);
    let left = board.detect(newest, wait, at(50));
    assert_eq!(left, Some(Duration::from_millis(1)));
    assert_eq!(board.first_lost(), Some(range(0, 10)));
    assert_eq!(board.detect(newest, wait, at(51)), None);
    assert_eq!(board.lost(), 20);
    board.resent(range(0, 10), at(52));
    assert_eq!(board.first_lost(), Some(range(10, 20)));
}
