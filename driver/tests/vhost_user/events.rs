//! The end of a connection: loss, reset, and setting up again.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use virtroupe_driver::transport::{DeviceEvent, Transport, TransportError};

use crate::backend::{
    self, Backend, Fault, GET_QUEUE_NUM, GET_VRING_BASE, SET_MEM_TABLE, SET_VRING_NUM, Script,
};
use crate::{
    LONG, STATUS, faulty, memory, ring, script, start, start_error, transport, whole_sequence,
};

#[test]
fn a_closed_connection_is_reported_once() {
    let script = Script {
        close_after: Some(SET_VRING_NUM),
        ..script()
    };
    let mut backend = Backend::start(script);
    let mut transport = transport(&backend, LONG);
    let offered = transport.offered_features().expect("connected");
    transport.accept_features(offered).expect("accepted");
    assert_eq!(transport.take_event(), None);
    let events = transport
        .event_fd()
        .expect("connected")
        .try_clone_to_owned()
        .expect("a file");
    assert!(!readable(&events));
    transport.map_memory(&memory()).expect("mapped");
    let error = transport.set_up_queue(0, &ring(0)).expect_err("closed");
    assert!(matches!(error, TransportError::Closed { .. }), "{error}");
    backend.release();
    assert!(readable(&events));
    assert!(matches!(transport.take_event(), Some(DeviceEvent::Lost(_))));
    assert_eq!(transport.take_event(), None);
    assert!(transport.event_fd().is_none());
    transport
        .reset()
        .expect("a backend that closed has stopped");
}

#[test]
fn a_backend_that_ends_while_idle_is_noticed() {
    let protocol = script().protocol & !STATUS;
    let mut backend = Backend::start(Script {
        protocol,
        close_after: Some(GET_QUEUE_NUM),
        ..script()
    });
    let mut transport = transport(&backend, LONG);
    transport.offered_features().expect("connected");
    backend.release();
    assert!(readable(
        &transport
            .event_fd()
            .expect("connected")
            .try_clone_to_owned()
            .expect("fd")
    ));
    let event = transport.take_event().expect("lost");
    let reason = "the backend closed the connection or ended".to_owned();
    assert_eq!(event, DeviceEvent::Lost(reason));
}

#[test]
fn data_that_nobody_asked_for_is_a_loss() {
    let mut answer = backend::reply(GET_QUEUE_NUM, &1u64.to_ne_bytes());
    answer.push(0);
    let protocol = script().protocol & !STATUS;
    let mut backend = Backend::start(Script {
        protocol,
        ..faulty(GET_QUEUE_NUM, Fault::Raw(answer))
    });
    let mut transport = transport(&backend, LONG);
    transport.offered_features().expect("connected");
    backend.release();
    let reason = "the backend sent data that nobody asked for".to_owned();
    assert_eq!(transport.take_event(), Some(DeviceEvent::Lost(reason)));
    assert_eq!(
        transport.take_event(),
        None,
        "and not again, although the byte is still there"
    );
}

fn readable(file: &OwnedFd) -> bool {
    let mut files = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    poll(&mut files, PollTimeout::ZERO).expect("polled") > 0
}

#[test]
fn after_a_reset_everything_is_set_up_again() {
    let backend = Backend::start(Script {
        connections: 2,
        ..script()
    });
    let mut transport = transport(&backend, LONG);
    for _ in 0..2 {
        start(&mut transport, &memory()).expect("started");
        transport.reset().expect("stopped");
    }
    let requests: Vec<u32> = backend
        .finish()
        .iter()
        .map(|message| message.request)
        .collect();
    assert_eq!(requests, whole_sequence().repeat(2));
}

#[test]
fn after_a_loss_the_transport_connects_again() {
    let script = Script {
        connections: 2,
        close_after: Some(SET_MEM_TABLE),
        ..script()
    };
    let backend = Backend::start(script);
    let mut transport = transport(&backend, LONG);
    for _ in 0..2 {
        let error = start_error(&mut transport);
        assert!(matches!(error, TransportError::Closed { .. }), "{error}");
    }
    backend.finish();
}

#[test]
fn a_backend_that_does_not_stop_keeps_the_memory() {
    let mut backend = Backend::start(faulty(GET_VRING_BASE, Fault::Silence));
    let mut transport = transport(&backend, Duration::from_millis(250));
    start(&mut transport, &memory()).expect("started");
    for _ in 0..2 {
        let error = transport.reset().expect_err("it may still use the memory");
        assert!(matches!(error, TransportError::TimedOut { .. }), "{error}");
    }
    assert!(
        transport.offered_features().is_err(),
        "nor is there a second connection"
    );
    backend.release();
    transport.reset().expect("it has closed, so it has stopped");
}
