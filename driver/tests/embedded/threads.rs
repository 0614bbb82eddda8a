//! The device on a thread of its own: it works, sleeps, wakes and ends.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use virtroupe_driver::embedded::{
    DeviceThread, EmbeddedConfig, EmbeddedHandle, EmbeddedTransport, Link, LinkConfig, LinkEnd,
};
use virtroupe_driver::features::FeatureBits;
use virtroupe_driver::transport::Transport;

use crate::raw::{BUFFER, RawDriver, RawQueue, frame};

fn threaded(end: LinkEnd, without: FeatureBits) -> (EmbeddedTransport, EmbeddedHandle, RawDriver) {
    let (mut transport, handle) =
        EmbeddedTransport::threaded(EmbeddedConfig::default(), end, DeviceThread::default())
            .expect("device");
    let driver = RawDriver::start(&mut transport, without, 64, 1);
    (transport, handle, driver)
}

/// Sleeps until the device interrupts `queue`; fails after a minute.
fn wait(queue: &RawQueue) {
    let mut files = [PollFd::new(
        queue.notifiers.interrupt.as_fd(),
        PollFlags::POLLIN,
    )];
    let ready = poll(&mut files, PollTimeout::from(60_000u16)).expect("poll");
    assert_eq!(ready, 1, "no interrupt within a minute");
    queue.interrupts();
}

/// The interrupt protocol of a driver: ask, look again, sleep.
fn receive_one(queue: &mut RawQueue) -> Vec<u8> {
    loop {
        queue.set_interrupts(true);
        let mut frames = queue.receive();
        if !frames.is_empty() {
            assert_eq!(frames.len(), 1);
            post_and_notify(queue, 1);
            return frames.remove(0);
        }
        wait(queue);
    }
}

fn send_and_notify(queue: &mut RawQueue, bytes: &[u8]) {
    queue.take_used();
    notify_after(queue, |queue| queue.send(bytes));
}

fn post_and_notify(queue: &mut RawQueue, count: usize) {
    notify_after(queue, |queue| queue.post(count, BUFFER));
}

/// Rings the doorbell if `offer` made available what the device waits for.
fn notify_after(queue: &mut RawQueue, offer: impl FnOnce(&mut RawQueue)) {
    let old = queue.available;
    offer(queue);
    if queue.wants_doorbell(old) {
        queue.notifiers.doorbell.ring();
    }
}

#[test]
fn two_devices_sleep_between_frames_and_wake_for_each() {
    for without in [FeatureBits::NONE, FeatureBits::EVENT_IDX] {
        for latency in [Duration::ZERO, Duration::from_micros(300)] {
            let (left, right) = Link::pair(LinkConfig {
                latency,
                ..LinkConfig::default()
            });
            let (_ta, ha, mut a) = threaded(left, without);
            let (_tb, _hb, mut b) = threaded(right, without);
            post_and_notify(a.rx(), 4);
            post_and_notify(b.rx(), 4);
            for i in 0..100 {
                send_and_notify(a.tx(), &frame(i, 100));
                assert_eq!(receive_one(b.rx()), frame(i, 100));
                send_and_notify(b.tx(), &frame(i, 80));
                assert_eq!(receive_one(a.rx()), frame(i, 80));
            }
            let stats = ha.stats();
            assert_eq!(
                (stats.to_backend.frames, stats.to_driver.frames),
                (100, 100)
            );
        }
    }
}

#[test]
fn a_device_that_waits_for_buffers_wakes_when_they_are_posted() {
    let (left, right) = Link::pair(LinkConfig::default());
    let (_ta, ha, mut a) = threaded(left, FeatureBits::NONE);
    let (_tb, hb, mut b) = threaded(right, FeatureBits::NONE);
    for i in 0..10 {
        send_and_notify(a.tx(), &frame(i, 60));
    }
    // All is in the link when the sender has used every buffer; then let the receiver sleep.
    while a.tx().used_index() != 10 {
        std::thread::yield_now();
    }
    let sleeps = hb.stats().sleeps;
    while hb.stats().sleeps == sleeps && sleeps == 0 {
        std::thread::yield_now();
    }
    for i in 0..10 {
        b.rx().set_interrupts(true);
        post_and_notify(b.rx(), 1);
        let mut frames = b.rx().receive();
        while frames.is_empty() {
            wait(b.rx());
            frames = b.rx().receive();
        }
        assert_eq!(frames, [frame(i, 60)]);
    }
    assert_eq!(ha.stats().from_driver.frames, 10);
}

#[test]
fn an_idle_device_uses_no_cpu_and_ends_when_it_is_dropped() {
    let (left, _right) = Link::pair(LinkConfig::default());
    let (transport, handle, _driver) = threaded(left, FeatureBits::NONE);
    while handle.stats().sleeps == 0 {
        std::thread::yield_now();
    }
    let before = handle.stats().sleeps;
    std::thread::sleep(Duration::from_millis(50));
    assert!(
        handle.stats().sleeps <= before + 1,
        "an idle device sleeps on"
    );
    drop(transport);
    assert_eq!(handle.stats().ring_faults, 0);
}

#[test]
fn a_reset_under_load_stops_all_access_before_it_returns() {
    let (left, right) = Link::pair(LinkConfig::default());
    let (mut transport, _handle, mut a) = threaded(left, FeatureBits::NONE);
    let (_tb, _hb, mut b) = threaded(right, FeatureBits::NONE);
    for round in 0..50 {
        post_and_notify(a.rx(), 32);
        for i in 0..32 {
            send_and_notify(b.tx(), &frame(i, 60));
        }
        transport.reset().expect("reset");
        let used = (a.rx().used_index(), a.tx().used_index());
        b.tx().notifiers.doorbell.ring();
        while b.tx().used_index() != b.tx().available {
            std::thread::yield_now();
        }
        assert_eq!(
            (a.rx().used_index(), a.tx().used_index()),
            used,
            "round {round}"
        );
        a = RawDriver::start(&mut transport, FeatureBits::NONE, 64, 1);
    }
}
