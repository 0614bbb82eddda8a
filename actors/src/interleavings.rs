//! Wake-up and credits in every interleaving that matters, by loom.

use std::future::poll_fn;
use std::task::{Context, Poll};

use loom::cell::UnsafeCell;
use loom::future::block_on;
use loom::sync::Arc;
use loom::thread;

use crate::bell::Bell;
use crate::credits::Credits;
use crate::sync::{AtomicU32, Ordering};

/// Every interleaving in which no thread is interrupted more often than this: loom's authors found
/// that two or three find nearly all faults, and more would take minutes.
const INTERRUPTIONS: usize = 3;

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(INTERRUPTIONS);
    builder.check(model);
}

/// What a cpu does before it sleeps: announces it, and looks once more.
fn sleep_unless(bell: &Bell, cx: &mut Context<'_>, has_work: impl Fn() -> bool) -> Poll<()> {
    bell.cancel();
    if has_work() {
        return Poll::Ready(());
    }
    bell.announce_sleep(cx.waker());
    if has_work() {
        bell.cancel();
        return Poll::Ready(());
    }
    Poll::Pending
}

/// Loom finds a deadlock if the cpu sleeps on. The work is told by relaxed counters, so nothing
/// but the bell orders what is brought before the look at it.
#[test]
fn a_cpu_that_goes_to_sleep_sees_what_others_bring_or_is_woken() {
    explore(|| {
        let bell = Arc::new(Bell::default());
        let work = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let threads: Vec<_> = (0..2)
            .map(|from: usize| {
                let (bell, work) = (bell.clone(), work.clone());
                thread::spawn(move || {
                    work[from].store(1, Ordering::Relaxed);
                    bell.ring();
                })
            })
            .collect();
        for from in 0..2 {
            let has_work = || work[from].load(Ordering::Relaxed) == 1;
            block_on(poll_fn(|cx| sleep_unless(&bell, cx, has_work)));
        }
        for thread in threads {
            thread.join().expect("it rings");
        }
    });
}

/// Credits in all.
const LIMIT: u32 = 2;

#[test]
fn a_sender_that_waits_for_credits_is_woken_and_none_is_lost() {
    explore(|| {
        let credits = Arc::new(Credits::new(LIMIT));
        let bell = Arc::new(Bell::default());
        let owner = thread::spawn({
            let (credits, bell) = (credits.clone(), bell.clone());
            move || {
                for out in (0..LIMIT).rev() {
                    if credits.give_back(1, out) {
                        bell.ring();
                    }
                }
            }
        });
        let taken = LIMIT;
        let is_roomy = || credits.left(taken) >= LIMIT / 2;
        block_on(poll_fn(|cx| {
            bell.cancel();
            if is_roomy() {
                return Poll::Ready(());
            }
            bell.announce_sleep(cx.waker());
            credits.want();
            match is_roomy() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        }));
        owner.join().expect("it gives all back");
        assert_eq!(credits.left(taken), LIMIT);
    });
}

/// The owner of the ring, and with it the device, used the memory of a packet before its credit
/// came back.
#[test]
fn what_the_owner_did_with_a_packet_happened_before_its_credit_came_back() {
    explore(|| {
        let credits = Arc::new(Credits::new(1));
        let packet = Arc::new(UnsafeCell::new(()));
        let owner = thread::spawn({
            let (credits, packet) = (credits.clone(), packet.clone());
            move || {
                packet.with_mut(|_| ());
                credits.give_back(1, 0);
            }
        });
        while credits.left(1) == 0 {
            thread::yield_now();
        }
        packet.with_mut(|_| ());
        owner.join().expect("it gives one back");
    });
}
