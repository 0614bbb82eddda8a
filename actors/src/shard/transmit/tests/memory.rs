//! Who waits for packet memory is told of all of it.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake};

use virtroupe_wire::tcp::TcpOptions;

use super::shares::Proxy;
use super::*;

#[derive(Default)]
pub(super) struct Flag(pub(super) AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_writer_that_found_no_slot_is_woken_by_a_long_one_and_uses_it() {
    let mut proxy = Proxy::new(FeatureBits::CSUM, 64, TxReadyPolicy::Fair);
    let shard = &mut proxy.shard;
    let peer = SocketAddr::from(([10, 0, 0, 2], 80));
    let connecting = shard.connect_tcp(None, peer, &TcpOptions::default());
    let id = connecting.expect("a port");
    // More is under way than may be on the heap.
    let bytes = vec![7; 48 << 10];
    let write = |shard: &mut Shard, length: usize| {
        shard.write_tcp(id, &[IoSlice::new(&bytes[..length])]).ok()
    };
    assert_eq!(write(shard, bytes.len()), Some(bytes.len()));
    let ports = shard.ports.clone();
    let mut held = Vec::new();
    let mut long = Vec::new();
    {
        let ports = &mut *ports.borrow_mut();
        held.extend(std::iter::from_fn(|| ports.egress.pool().frame()));
        long.extend(std::iter::from_fn(|| ports.egress.pool().long_frame()));
    }
    let flag = Arc::new(Flag::default());
    let waker = flag.clone().into();
    let cx = Context::from_waker(&waker);
    assert!(shard.poll_ready_tcp(id, &cx).is_pending());
    let is_woken = |shard: &mut Shard| {
        shard.dispatch_tcp();
        shard.wakes.wake();
        flag.0.load(Ordering::Relaxed)
    };
    assert!(!is_woken(shard), "there is none");
    drop(long.pop());
    assert!(is_woken(shard));
    assert!(shard.poll_ready_tcp(id, &cx).is_ready());
    // However little is written: else who was told would wait again, and be told again.
    assert_eq!(write(shard, 1), Some(1));
    assert_eq!(write(shard, 1), None, "there was one");
    assert!(shard.poll_ready_tcp(id, &cx).is_pending());
}
