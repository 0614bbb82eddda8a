//! smoltcp as a server: its newest release, with the settings that served it best.
//!
//! Its device is a TAP interface like ours. The kernel completes the checksums of what smoltcp
//! sends, and verifies none of what it receives over memory: so smoltcp leaves out those of TCP
//! too. With `--segmentation` it sends segments of up to 64 KiB (its feature
//! `segmentation-offload`), and the kernel may hand it merged ones; smoltcp's own phy for TAP
//! does neither.

#[path = "smoltcp_stack/cable.rs"]
mod cable;
#[path = "smoltcp_stack/tap.rs"]
mod tap;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, SocketHandle, SocketSet};
use smoltcp::phy::Device;
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use crate::bulk::{self, CONTENT, Direction};
use crate::cable::CableEnd;
use crate::generator::{self, REQUEST};
use crate::link::{SERVER, SERVER_MAC};
use crate::support::{Outcome, option};
use cable::CableDevice;
use tap::TapDevice;

/// Bytes in an Ethernet header.
const ETHERNET: usize = 14;
/// Frames that are taken in before what has become due is sent.
const BURST: usize = 64;

/// smoltcp on a device, with its sockets.
struct Stack<D> {
    device: D,
    interface: Interface,
    sockets: SocketSet<'static>,
}

impl<D: Device> Stack<D> {
    fn new(mut device: D) -> Self {
        let mut config = Config::new(EthernetAddress(SERVER_MAC).into());
        config.random_seed = 1;
        let mut interface = Interface::new(config, &mut device, Instant::now());
        interface.update_ip_addrs(|addresses| {
            let [a, b, c, d] = SERVER;
            let address = IpCidr::new(IpAddress::v4(a, b, c, d), 24);
            addresses.push(address).expect("there is room for one");
        });
        Stack {
            device,
            interface,
            sockets: SocketSet::new(Vec::new()),
        }
    }

    /// Takes a burst in. What is due goes out with [`send`](Self::send). Whether there was any.
    fn receive(&mut self) -> bool {
        let now = Instant::now();
        for count in 0..BURST {
            let taken =
                self.interface
                    .poll_ingress_single(now, &mut self.device, &mut self.sockets);
            if matches!(taken, PollIngressSingleResult::None) {
                return count > 0;
            }
        }
        true
    }

    fn send(&mut self) {
        let now = Instant::now();
        self.interface
            .poll_egress(now, &mut self.device, &mut self.sockets);
    }
}

/// Serves one connection after the other on a TAP interface, until it is killed.
///
/// Options: `--congestion none|reno|cubic`, `--buffer BYTES`, `--segmentation yes|no`.
pub fn serve_bulk(direction: Direction) -> Outcome<()> {
    let segmentation = option("--segmentation", String::from("no"))? == "yes";
    let mut stack = Stack::new(TapDevice::open(segmentation)?);
    let socket = stack.sockets.add(bulk_socket()?);
    loop {
        stack.receive();
        move_bulk(direction, &mut stack.sockets, socket);
        stack.send();
    }
}

fn bulk_socket() -> Outcome<tcp::Socket<'static>> {
    let length: usize = option("--buffer", 1 << 20)?;
    let buffer = || tcp::SocketBuffer::new(vec![0; length]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    let congestion = match option("--congestion", String::from("cubic"))?.as_str() {
        "none" => tcp::CongestionControl::None,
        "reno" => tcp::CongestionControl::Reno,
        "cubic" => tcp::CongestionControl::Cubic,
        other => return Err(format!("--congestion {other}: none, reno or cubic").into()),
    };
    socket.set_congestion_control(congestion);
    socket.set_nagle_enabled(false);
    Ok(socket)
}

fn move_bulk(direction: Direction, sockets: &mut SocketSet<'_>, handle: SocketHandle) {
    let socket = sockets.get_mut::<tcp::Socket>(handle);
    if !socket.is_open() {
        socket.listen(bulk::PORT).expect("the port is valid");
    }
    match direction {
        // What the ring has room for, in two parts where it wraps.
        Direction::Send => while socket.can_send() && socket.send_slice(&CONTENT) != Ok(0) {},
        // Nothing is copied and nothing is read.
        Direction::Receive => {
            while socket.can_recv() && socket.recv(|bytes| (bytes.len(), bytes.len())) != Ok(0) {}
        }
    }
    if socket.may_send() && !socket.may_recv() {
        socket.close();
    }
}

/// Answers requests of 64 bytes on a cable, for ever: with `sockets` sockets that listen, as
/// smoltcp has no backlog. Counts in `busy` the nanoseconds of turns that found something to do, and
/// says when it is `listening`.
pub fn serve_connections(
    cable: CableEnd,
    sockets: usize,
    busy: &AtomicU64,
    listening: &SyncSender<()>,
) -> Outcome<()> {
    let mut stack = Stack::new(CableDevice::new(cable));
    let handles: Vec<SocketHandle> = (0..sockets)
        .map(|_| {
            let buffer = || tcp::SocketBuffer::new(vec![0; 1024]);
            let mut socket = tcp::Socket::new(buffer(), buffer());
            socket.set_nagle_enabled(false);
            // Listens.
            answer(&mut socket);
            stack.sockets.add(socket)
        })
        .collect();
    listening.send(())?;
    loop {
        let started = std::time::Instant::now();
        let was_busy = stack.receive();
        for handle in &handles {
            answer(stack.sockets.get_mut(*handle));
        }
        stack.send();
        stack.device.flush();
        if was_busy {
            let nanoseconds = started.elapsed().as_nanos() as u64;
            busy.fetch_add(nanoseconds, Ordering::Relaxed);
        }
    }
}

/// Does what is next on one socket.
fn answer(socket: &mut tcp::Socket<'_>) {
    if !socket.is_open() {
        socket.listen(generator::PORT).expect("the port is valid");
    } else if socket.recv_queue() >= REQUEST {
        let mut request = [0; REQUEST];
        let received = socket.recv_slice(&mut request);
        let sent = received.is_ok() && socket.send_slice(&request) == Ok(REQUEST);
        assert!(
            sent,
            "a socket that has received {REQUEST} bytes has room for as many"
        );
    } else if socket.state() == tcp::State::CloseWait {
        socket.close();
    }
}
