//! Notifications, both ways, with and without EVENT_IDX.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use virtroupe_driver::embedded::{EmbeddedConfig, Link, LinkConfig};
use virtroupe_driver::features::FeatureBits;
use virtroupe_driver::transport::{DeviceEvent, Transport, TransportError};
use virtroupe_wire::Instant;

use crate::raw::{BUFFER, frame};
use crate::{Station, linked, settle};

const NOW: Instant = Instant::ZERO;

#[test]
fn interrupts_come_when_asked_for_and_only_then() {
    for without in [FeatureBits::NONE, FeatureBits::EVENT_IDX] {
        let (mut a, mut b, _) = linked(LinkConfig::default(), without, 64);
        b.driver.rx().post(64, BUFFER);
        a.driver.tx().set_interrupts(false);
        b.driver.rx().set_interrupts(false);
        for i in 0..10 {
            a.driver.tx().send(&frame(i, 60));
            settle(&[&a, &b], NOW);
        }
        assert_eq!(a.driver.tx().interrupts(), 0);
        assert_eq!(b.driver.rx().interrupts(), 0);
        assert_eq!(a.handle.stats().interrupts, 0);

        assert_eq!(b.driver.rx().receive().len(), 10);
        a.driver.tx().take_used();
        b.driver.rx().set_interrupts(true);
        for i in 0..5 {
            a.driver.tx().send(&frame(i, 60));
        }
        settle(&[&a, &b], NOW);
        assert_eq!(b.driver.rx().interrupts(), 1, "one for the burst");
        assert_eq!(a.driver.tx().interrupts(), 0);
    }
}

#[test]
fn with_event_idx_there_is_one_interrupt_until_the_driver_asks_again() {
    let (mut a, mut b, _) = linked(LinkConfig::default(), FeatureBits::NONE, 64);
    b.driver.rx().post(64, BUFFER);
    b.driver.rx().set_interrupts(true);
    for i in 0..10 {
        a.driver.tx().send(&frame(i, 60));
        settle(&[&a, &b], NOW);
    }
    assert_eq!(b.driver.rx().interrupts(), 1);
}

#[test]
fn a_device_that_is_stepped_asks_for_no_doorbell() {
    let (a, b, _) = linked(LinkConfig::default(), FeatureBits::EVENT_IDX, 64);
    settle(&[&a, &b], NOW);
    for queue in &a.driver.queues {
        assert_eq!(queue.used_flags(), 1, "VIRTQ_USED_F_NO_NOTIFY");
    }
    // With EVENT_IDX the index is the wish, and the flags stay zero (section 2.7.10).
    let (mut a, b, _) = linked(LinkConfig::default(), FeatureBits::NONE, 64);
    for i in 0..10 {
        a.driver.tx().send(&frame(i, 60));
        settle(&[&a, &b], NOW);
    }
    assert_eq!(
        (a.driver.tx().used_flags(), a.driver.tx().avail_event()),
        (0, 0)
    );
}

#[test]
fn a_link_change_is_an_event_and_frames_meanwhile_are_counted() {
    let (mut a, mut b, _) = linked(LinkConfig::default(), FeatureBits::NONE, 16);
    b.driver.rx().post(16, BUFFER);
    a.handle.set_link(false);
    a.handle.set_link(false);
    assert!(readable(&a));
    assert_eq!(a.transport.take_event(), Some(DeviceEvent::ConfigChanged));
    assert_eq!(a.transport.take_event(), None);
    assert!(!readable(&a));
    assert_eq!(a.transport.config().expect("config").link_up, Some(false));
    a.driver.rx().post(16, BUFFER);
    a.driver.tx().send(&frame(1, 60));
    b.driver.tx().send(&frame(2, 70));
    settle(&[&a, &b, &a], NOW);
    assert_eq!(a.handle.stats().link_down_from_driver.bytes, 60);
    assert_eq!(a.handle.stats().link_down_to_driver.bytes, 70);
    a.handle.set_link(true);
    a.driver.tx().send(&frame(3, 60));
    settle(&[&a, &b], NOW);
    assert_eq!(b.driver.rx().receive(), [frame(3, 60)]);
}

#[test]
fn an_unplugged_device_is_lost_until_it_is_back() {
    let (left, _right) = Link::pair(LinkConfig::default());
    let mut a = Station::new(EmbeddedConfig::default(), left, FeatureBits::NONE, 16);
    a.handle.unplug();
    assert!(matches!(
        a.transport.take_event(),
        Some(DeviceEvent::Lost(_))
    ));
    a.driver.tx().send(&frame(1, 60));
    settle(&[&a], NOW);
    assert_eq!(a.driver.tx().used_index(), 0);
    let offered = a.transport.offered_features();
    assert!(matches!(offered, Err(TransportError::Closed { .. })));
    a.handle.plug_in();
    a.driver = crate::RawDriver::start(&mut a.transport, FeatureBits::NONE, 16, 1);
    a.driver.tx().send(&frame(1, 60));
    settle(&[&a], NOW);
    assert_eq!(a.driver.tx().used_index(), 1);
}

fn readable(station: &Station) -> bool {
    let file = station.transport.event_fd().expect("the device has events");
    let mut files = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    poll(&mut files, PollTimeout::ZERO).expect("poll") == 1
}
