//! The vhost-user transport against a scripted backend: the order and content of the messages,
//! the files that go with them, and every way in which a backend can fail.

mod backend;
mod events;
mod failures;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use backend::{
    Backend, Fault, GET_CONFIG, GET_FEATURES, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, GET_STATUS,
    GET_VRING_BASE, NET_SET_MTU, SET_FEATURES, SET_MEM_TABLE, SET_OWNER, SET_PROTOCOL_FEATURES,
    SET_STATUS, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_KICK,
    SET_VRING_NUM, Script,
};
use virtroupe_driver::features::FeatureBits;
use virtroupe_driver::memory::{DmaMemory, HugePages};
use virtroupe_driver::transport::{QueueNotifiers, RingLayout, Transport, TransportError};
use virtroupe_driver::vhost_user::{VhostUser, VhostUserConfig};
use virtroupe_wire::MacAddr;

const PROTOCOL_FEATURES: u64 = 1 << 30;
const MQ: u64 = 1 << 0;
const REPLY_ACK: u64 = 1 << 3;
const NET_MTU: u64 = 1 << 4;
const BACKEND_REQ: u64 = 1 << 5;
const CONFIG: u64 = 1 << 9;
const STATUS: u64 = 1 << 16;

/// Long enough never to be reached, unless a test means to.
const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(30);

/// What DPDK's backend offers, as far as it matters here.
fn script() -> Script {
    Script {
        features: FeatureBits::VERSION_1.0
            | FeatureBits::IN_ORDER.0
            | FeatureBits::MTU.0
            | FeatureBits::MQ.0
            | PROTOCOL_FEATURES,
        protocol: MQ | REPLY_ACK | NET_MTU | BACKEND_REQ | STATUS,
        queue_num: 128,
        space: [0; 12],
        fault: None,
        connections: 1,
        close_after: None,
    }
}

fn faulty(at: u32, fault: Fault) -> Script {
    Script {
        fault: Some((at, fault)),
        ..script()
    }
}

fn transport(backend: &Backend, timeout: Duration) -> VhostUser {
    VhostUser::new(VhostUserConfig {
        timeout,
        ..VhostUserConfig::new(backend.path())
    })
}

fn memory() -> Arc<DmaMemory> {
    Arc::new(DmaMemory::allocate(1 << 16, HugePages::Never).expect("memory"))
}

fn ring(queue: u16) -> RingLayout {
    let start = usize::from(queue) * 0x4000;
    RingLayout {
        size: 256,
        descriptors: start,
        driver: start + 0x1000,
        device: start + 0x2000,
    }
}

/// The whole start-up with one queue pair.
fn start(
    transport: &mut VhostUser,
    memory: &Arc<DmaMemory>,
) -> Result<(u64, [QueueNotifiers; 2]), TransportError> {
    let offered = transport.offered_features()?;
    transport.accept_features(offered - FeatureBits::MQ)?;
    transport.config()?;
    let base = transport.map_memory(memory)?;
    let queues = [
        transport.set_up_queue(0, &ring(0))?,
        transport.set_up_queue(1, &ring(1))?,
    ];
    transport.enable(1)?;
    Ok((base, queues))
}

fn start_error(transport: &mut VhostUser) -> TransportError {
    start(transport, &memory()).expect_err("the backend is faulty")
}

const RING: [u32; 5] = [
    SET_VRING_NUM,
    SET_VRING_BASE,
    SET_VRING_ADDR,
    SET_VRING_KICK,
    SET_VRING_CALL,
];

fn whole_sequence() -> Vec<u32> {
    let hello = [
        SET_OWNER,
        GET_FEATURES,
        GET_PROTOCOL_FEATURES,
        SET_PROTOCOL_FEATURES,
        GET_QUEUE_NUM,
        SET_STATUS,
        SET_STATUS,
        SET_FEATURES,
        SET_STATUS,
        GET_STATUS,
        SET_MEM_TABLE,
    ];
    let end = [
        SET_VRING_ENABLE,
        SET_VRING_ENABLE,
        SET_STATUS,
        GET_VRING_BASE,
        GET_VRING_BASE,
    ];
    [&hello[..], &RING, &RING, &end].concat()
}

#[test]
fn the_messages_come_in_order_with_their_files() {
    let backend = Backend::start(script());
    let mut transport = transport(&backend, LONG);
    let memory = memory();
    let (base, queues) = start(&mut transport, &memory).expect("started");
    transport.reset().expect("stopped");
    let messages = backend.finish();
    let requests: Vec<u32> = messages.iter().map(|message| message.request).collect();
    assert_eq!(requests, whole_sequence());
    let one = |request| {
        messages
            .iter()
            .filter(move |message| message.request == request)
    };

    let protocol = one(SET_PROTOCOL_FEATURES).next().expect("sent").u64(0);
    assert_eq!(
        protocol,
        MQ | REPLY_ACK | NET_MTU | STATUS,
        "BACKEND_REQ is not served"
    );
    let features = one(SET_FEATURES).next().expect("sent").u64(0);
    assert_eq!(
        features,
        script().features & !FeatureBits::MQ.0,
        "bit 30 is acknowledged"
    );
    let status: Vec<u64> = one(SET_STATUS).map(|message| message.u64(0)).collect();
    assert_eq!(status, [1, 3, 11, 15]);

    let table = one(SET_MEM_TABLE).next().expect("sent");
    assert_eq!((table.u32(0), table.payload.len()), (1, 40), "one region");
    let region = [8, 16, 24, 32].map(|at| table.u64(at));
    assert_eq!(region, [base, memory.len() as u64, base, 0]);
    assert_eq!(base, memory.base().addr().get() as u64);
    let shared = File::from(table.files[0].try_clone().expect("a file"));
    let own = File::from(memory.file().try_clone_to_owned().expect("a file"));
    let inode = |file: &File| file.metadata().expect("metadata").ino();
    assert_eq!(
        inode(&shared),
        inode(&own),
        "the backend got the DMA memory"
    );

    for (index, queue) in (0u32..).zip(queues) {
        let of_ring = |request| one(request).nth(index as usize).expect("sent");
        assert_eq!(
            (of_ring(SET_VRING_NUM).u32(0), of_ring(SET_VRING_NUM).u32(4)),
            (index, 256)
        );
        assert_eq!(
            (
                of_ring(SET_VRING_BASE).u32(0),
                of_ring(SET_VRING_BASE).u32(4)
            ),
            (index, 0)
        );
        let addresses = of_ring(SET_VRING_ADDR);
        assert_eq!((addresses.u32(0), addresses.u32(4)), (index, 0));
        let start = base + u64::from(index) * 0x4000;
        assert_eq!(
            [8, 16, 24].map(|at| addresses.u64(at)),
            [start, start + 0x2000, start + 0x1000]
        );
        assert_eq!(of_ring(SET_VRING_KICK).u64(0), u64::from(index));
        assert_eq!(of_ring(SET_VRING_ENABLE).u32(4), 1);
        check_notifications(
            queue,
            &of_ring(SET_VRING_KICK).files,
            &of_ring(SET_VRING_CALL).files,
        );
    }
}

/// What one side signals the other sees, and neither can be made to block.
fn check_notifications(queue: QueueNotifiers, kick: &[OwnedFd], call: &[OwnedFd]) {
    let [kick, call] = [kick, call].map(|files| {
        assert_eq!(files.len(), 1);
        File::from(files[0].try_clone().expect("a file"))
    });
    let mut interrupt = File::from(queue.interrupt);
    let mut count = [0; 8];
    let error = interrupt
        .read(&mut count)
        .expect_err("nothing was signalled");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    (&call).write_all(&1u64.to_ne_bytes()).expect("signalled");
    assert_eq!(interrupt.read(&mut count).expect("an interrupt"), 8);
    queue.doorbell.ring();
    queue.doorbell.ring();
    assert_eq!((&kick).read(&mut count).expect("a doorbell"), 8);
    assert_eq!(u64::from_ne_bytes(count), 2);
}

#[test]
fn a_packed_ring_begins_with_both_wrap_counters_set() {
    let features = script().features | FeatureBits::RING_PACKED.0;
    let backend = Backend::start(Script {
        features,
        ..script()
    });
    let mut transport = transport(&backend, LONG);
    start(&mut transport, &memory()).expect("started");
    drop(transport);
    let messages = backend.finish();
    let base = messages
        .iter()
        .find(|message| message.request == SET_VRING_BASE)
        .expect("sent");
    assert_eq!(base.u32(4), 0x8000_8000);
}

#[test]
fn a_backend_without_protocol_features_is_asked_for_nothing_more() {
    // Also without VERSION_1: it is the driver that judges what is offered.
    let backend = Backend::start(Script {
        features: 0,
        ..script()
    });
    let mut transport = transport(&backend, LONG);
    assert_eq!(
        transport.offered_features().expect("connected"),
        FeatureBits::NONE
    );
    start(&mut transport, &memory()).expect("started");
    drop(transport);
    let requests: Vec<u32> = backend
        .finish()
        .iter()
        .map(|message| message.request)
        .collect();
    let hello = [SET_OWNER, GET_FEATURES, SET_FEATURES, SET_MEM_TABLE];
    assert_eq!(
        requests,
        [&hello[..], &RING, &RING, &[GET_FEATURES]].concat()
    );
}

#[test]
fn what_the_backend_cannot_tell_comes_from_the_configuration() {
    let backend = Backend::start(script());
    let mac = MacAddr([2, 0, 0, 0, 0, 7]);
    let config = VhostUserConfig {
        mac: Some(mac),
        mtu: Some(9000),
        queue_pairs: 4,
        timeout: LONG,
        ..VhostUserConfig::new(backend.path())
    };
    let mut transport = VhostUser::new(config);
    let offered = transport.offered_features().expect("connected");
    transport.accept_features(offered).expect("accepted");
    let found = transport.config().expect("config");
    assert_eq!((found.mac, found.link_up), (Some(mac), None));
    assert_eq!((found.max_queue_pairs, found.mtu), (Some(4), Some(9000)));
    drop(transport);
    let messages = backend.finish();
    let mtu = messages
        .iter()
        .find(|message| message.request == NET_SET_MTU)
        .expect("sent");
    assert_eq!(mtu.u64(0), 9000);
}

#[test]
fn a_configuration_space_is_read_and_only_its_valid_fields_used() {
    let mut with_space = script();
    with_space.features |= FeatureBits::MAC.0 | FeatureBits::STATUS.0;
    with_space.features &= !FeatureBits::MTU.0;
    with_space.protocol |= CONFIG;
    with_space.space = [2, 0, 0, 0, 0, 9, 1, 0, 2, 0, 0xdc, 0x05];
    let backend = Backend::start(with_space);
    let config = VhostUserConfig {
        queue_pairs: 8,
        timeout: LONG,
        ..VhostUserConfig::new(backend.path())
    };
    let mut transport = VhostUser::new(config);
    transport.offered_features().expect("connected");
    let found = transport.config().expect("config");
    assert_eq!(found.mac, Some(MacAddr([2, 0, 0, 0, 0, 9])));
    assert_eq!(
        (found.link_up, found.max_queue_pairs),
        (Some(true), Some(2))
    );
    assert_eq!(found.mtu, None, "MTU was not offered");
    drop(transport);
    assert!(
        backend
            .finish()
            .iter()
            .any(|message| message.request == GET_CONFIG)
    );
}

#[test]
fn calls_out_of_order_are_refused() {
    let backend = Backend::start(script());
    let mut transport = transport(&backend, LONG);
    assert!(transport.map_memory(&memory()).is_err(), "not connected");
    let offered = transport.offered_features().expect("connected");
    assert!(
        transport
            .accept_features(offered | FeatureBits::RSS)
            .is_err(),
        "not offered"
    );
    transport.accept_features(offered).expect("accepted");
    assert!(transport.set_up_queue(0, &ring(0)).is_err(), "no memory");
    transport.map_memory(&memory()).expect("mapped");
    assert!(
        transport.set_up_queue(0, &ring(9)).is_err(),
        "outside of the memory"
    );
    assert!(
        transport.set_up_queue(256, &ring(0)).is_err(),
        "no such ring"
    );
    transport.set_up_queue(0, &ring(0)).expect("set up");
    assert!(transport.enable(1).is_err(), "the transmit ring is missing");
    drop(transport);
    backend.finish();
}
