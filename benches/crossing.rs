//! How frames cross between cpus: a lane beside a message of actix for each burst.
//!
//! ```sh
//! cargo bench --bench crossing
//! cargo bench --bench crossing -- --rounds 10 --seconds 0.5
//! ```
//!
//! Two arbiters, each pinned to a core, send bursts of frames to and fro: what one receives it
//! reads and sends back. As many bursts are under way as `--window` says, so both work at once. Time is for
//! one crossing of one burst. Three ways:
//!
//! - `lane`: a bounded ring with the receiver's bell, as the stack has it. Both arbiters poll.
//! - `message`: the same vector as a message to an actor on the other arbiter, which sleeps when
//!   there is none.
//! - `message, polling`: the same, while each arbiter also has a loop that polls a device: then
//!   tokio looks for messages of other threads only now and then.
//!
//! Options: `--rounds N` (5), `--seconds S` per measurement (0.2), `--window N` (4 bursts).

mod support;

use std::future::poll_fn;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use actix::prelude::*;
use support::stats::Summary;
use support::{Outcome, option};
use virtroupe::actors::bell::Bell;
use virtroupe::actors::cpu::start_arbiter;
use virtroupe::actors::lane::{LaneReceiver, LaneSender, lane};
use virtroupe::{Buffer, Frame};

const BURSTS: [usize; 4] = [1, 8, 32, 64];
const WAYS: [&str; 3] = ["lane", "message", "message, polling"];

/// What both sides know of a measurement.
#[derive(Clone, Default)]
struct Run {
    /// Frames that the first side got back.
    returned: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Run {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

fn main() -> ExitCode {
    support::run(|| {
        let rounds = option("--rounds", 5)?;
        let seconds = Duration::from_secs_f64(option("--seconds", 0.2)?);
        let window = option("--window", 4)?;
        let mut results: Vec<[Vec<f64>; WAYS.len()]> = vec![Default::default(); BURSTS.len()];
        System::new().block_on(async {
            for round in 0..rounds {
                for (row, burst) in results.iter_mut().zip(BURSTS) {
                    for turn in 0..WAYS.len() {
                        let way = (round + turn) % WAYS.len();
                        row[way].push(measure(way, burst, window, seconds).await?);
                    }
                }
            }
            Outcome::Ok(())
        })?;
        println!("nanoseconds for one crossing of a burst, median [min, max]; a packet");
        println!(
            "{:>5} {:>30} {:>34} {:>34}",
            "burst", WAYS[0], WAYS[1], WAYS[2]
        );
        for (row, burst) in results.iter().zip(BURSTS) {
            print!("{burst:>5}");
            for (way, width) in row.iter().zip([30, 34, 34]) {
                let time = Summary::of(way.iter().copied()).ok_or("no round was measured")?;
                let packet = time.median / burst as f64;
                print!(" {:>width$}", format!("{time:.0}; {packet:.1}"));
            }
            println!();
        }
        Ok(())
    })
}

/// Nanoseconds for one crossing of one burst.
async fn measure(way: usize, burst: usize, window: usize, seconds: Duration) -> Outcome<f64> {
    let sides = [
        start_arbiter(0, Some(0)).await?,
        start_arbiter(1, Some(1)).await?,
    ];
    let run = Run::default();
    match way {
        0 => start_lanes(&sides, burst, window, &run),
        _ => start_messages(&sides, burst, window, way == 2, &run).await?,
    }
    tokio::time::sleep(seconds / 4).await;
    let (before, start) = (run.returned.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(seconds).await;
    let (after, end) = (run.returned.load(Ordering::Relaxed), Instant::now());
    run.over.store(true, Ordering::Relaxed);
    for side in sides {
        side.stop();
        side.join().map_err(|_| "an arbiter panicked")?;
    }
    let crossings = 2.0 * (after - before) as f64 / burst as f64;
    Ok((end - start).as_nanos() as f64 / crossings)
}

fn frames(count: usize) -> Vec<Frame> {
    (0..count).map(|_| Frame::on_heap(&[0; 64])).collect()
}

/// Reads each handle, as whoever receives frames does.
fn touch(frames: &[Frame]) {
    black_box(frames.iter().map(Buffer::len).sum::<usize>());
}

fn start_lanes(sides: &[Arbiter; 2], burst: usize, window: usize, run: &Run) {
    let (there, here) = lane(burst * window, Arc::new(Bell::default()));
    let (back, home) = lane(burst * window, Arc::new(Bell::default()));
    let first = bounce(
        home,
        there,
        burst,
        frames(burst * window),
        run.clone(),
        true,
    );
    let second = bounce(here, back, burst, Vec::new(), run.clone(), false);
    sides[0].spawn(first);
    sides[1].spawn(second);
}

/// Sends back what comes, a burst in each turn.
async fn bounce(
    mut from: LaneReceiver,
    mut to: LaneSender,
    limit: usize,
    mut waiting: Vec<Frame>,
    run: Run,
    counts: bool,
) {
    let mut returned = 0;
    to.push(&mut waiting);
    poll_fn(move |cx| {
        let taken = from.take(&mut waiting, limit);
        if taken > 0 {
            touch(&waiting);
            to.push(&mut waiting);
        }
        if counts && taken > 0 {
            returned += taken as u64;
            run.returned.store(returned, Ordering::Relaxed);
        }
        if run.is_over() {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[derive(Message)]
#[rtype(result = "()")]
struct Crossing(Vec<Frame>);

#[derive(Message)]
#[rtype(result = "()")]
struct Meet(Recipient<Crossing>);

/// Sends back what comes.
struct Side {
    other: Option<Recipient<Crossing>>,
    run: Run,
    counts: bool,
    returned: u64,
}

impl Actor for Side {
    type Context = Context<Self>;
}

impl Handler<Meet> for Side {
    type Result = ();

    fn handle(&mut self, Meet(other): Meet, _: &mut Self::Context) {
        self.other = Some(other);
    }
}

impl Handler<Crossing> for Side {
    type Result = ();

    fn handle(&mut self, crossing: Crossing, _: &mut Self::Context) {
        if self.counts {
            self.returned += crossing.0.len() as u64;
            self.run.returned.store(self.returned, Ordering::Relaxed);
        }
        touch(&crossing.0);
        if let Some(other) = self.other.as_ref().filter(|_| !self.run.is_over()) {
            let _ = other.try_send(crossing);
        }
    }
}

async fn start_messages(
    sides: &[Arbiter; 2],
    burst: usize,
    window: usize,
    polls: bool,
    run: &Run,
) -> Outcome<()> {
    let [first, second] = [true, false].map(|counts| {
        let side = &sides[usize::from(!counts)];
        let idle = run.clone();
        if polls {
            side.spawn(poll_fn(move |cx| {
                if idle.is_over() {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            }));
        }
        let run = run.clone();
        Side::start_in_arbiter(&side.handle(), move |ctx| {
            ctx.set_mailbox_capacity(64);
            Side {
                other: None,
                run,
                counts,
                returned: 0,
            }
        })
    });
    first.send(Meet(second.clone().recipient())).await?;
    second.send(Meet(first.clone().recipient())).await?;
    for _ in 0..window {
        second.do_send(Crossing(frames(burst)));
    }
    Ok(())
}
