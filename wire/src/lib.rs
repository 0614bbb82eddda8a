//! Formats and protocol engines of the Virtroupe network stack.
//!
//! Everything here is *sans-IO*: bytes and the time go in, bytes and events come out. There is
//! no socket, no clock, no thread and no actor, and no `unsafe`.
//!
//! | part | what it is |
//! |---|---|
//! | [`buffer`] | the memory that packets live in, as a trait: the driver's DMA frames, or [`HeapBuffer`] |
//! | [`mac`], [`time`], [`drops`] | Ethernet addresses, the time as an argument, and why packets are dropped |
//! | [`ethernet`], [`arp`], [`ipv4`], [`icmp`], [`ipv6`], [`icmp6`], [`ndp`], [`udp`] | formats: headers and numbers by value |
//! | [`checksum`] | the Internet checksum |
//! | [`offload`] | what a device may do for a packet, and the same in software |
//! | [`filter`] | which raw frames someone wants to see |
//! | [`tcp`] | the engine of TCP connections |
//! | [`placement`] | which cpu owns a flow: the Toeplitz hash and the tables behind it |
//! | [`host`] | the engine of a [`Host`]: neighbours, IPv4, IPv6, ICMP and UDP over Ethernet |
//!
//! Two hosts on a link, in virtual time. One sends to the other, which must be asked for its
//! Ethernet address first, and gets its own datagram back:
//!
//! ```
//! use std::net::SocketAddr;
//! use virtroupe_wire::{Heap, HeapBuffer, Host, HostConfig, Instant, Payload, UdpSend};
//!
//! fn host(mac: &str, address: &str) -> Host<HeapBuffer> {
//!     let config = HostConfig {
//!         mac: mac.parse().expect("an Ethernet address"),
//!         addresses: vec![address.parse().expect("an address and prefix length")],
//!         ..HostConfig::default()
//!     };
//!     let mut host = Host::new(config, 1).expect("valid settings");
//!     host.set_transmit_room(64);
//!     host
//! }
//!
//! let mut client = host("02:00:00:00:00:01", "10.0.0.1/24");
//! let mut server = host("02:00:00:00:00:02", "10.0.0.2/24");
//! let echo: SocketAddr = "10.0.0.2:7".parse()?;
//! let from = client.bind_udp("0.0.0.0:0".parse()?)?;
//! server.bind_udp("0.0.0.0:7".parse()?)?;
//!
//! let mut now = Instant::ZERO;
//! let mut burst = vec![UdpSend::new(echo, Payload::Buffer(HeapBuffer::new(b"hello")))];
//! let outcome = client.send_udp(now, from, &mut burst, &mut Heap);
//! assert_eq!((outcome.accepted, outcome.refused), (1, 0));
//!
//! let mut answer = None;
//! for _ in 0..4 {
//!     now = now + std::time::Duration::from_micros(10); // the link
//!     let mut to_server = std::mem::take(client.transmit());
//!     server.receive(now, &mut to_server, &mut Heap);
//!     while let Some(socket) = server.take_ready_udp() {
//!         let received = server.udp_received(socket).into_iter().flat_map(|queue| queue.drain(..));
//!         let mut replies: Vec<_> = received.map(UdpSend::reply).collect();
//!         let outcome = server.send_udp(now, socket, &mut replies, &mut Heap);
//!         assert_eq!(outcome.refused, 0);
//!     }
//!     let mut to_client = std::mem::take(server.transmit());
//!     client.receive(now, &mut to_client, &mut Heap);
//!     while let Some(socket) = client.take_ready_udp() {
//!         answer = client.udp_received(socket).and_then(Vec::pop);
//!     }
//! }
//! let answer = answer.expect("the datagram came back");
//! assert_eq!(answer.source, echo);
//! assert_eq!(virtroupe_wire::Buffer::to_vec(&answer.payload), b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod arp;
pub mod buffer;
pub mod checksum;
pub mod drops;
pub mod ethernet;
pub mod filter;
pub mod host;
pub mod icmp;
pub mod icmp6;
pub mod ipv4;
pub mod ipv6;
pub mod mac;
pub mod ndp;
pub mod offload;
pub mod placement;
mod reserved;
pub mod tcp;
pub mod time;
pub mod udp;

pub use buffer::{Allocator, Buffer, Heap, HeapBuffer, Payload};
pub use drops::{DropReason, Drops};
pub use filter::Filter;
pub use host::{
    BindError, ConnectError, Host, HostConfig, HostCounters, HostError, Limits, Neighbor,
    NeighborEntry, NeighborState, Route,
};
pub use mac::MacAddr;
pub use offload::Offload;
pub use time::Instant;
pub use udp::{SendOutcome, UdpDatagram, UdpError, UdpErrorKind, UdpSend, UdpSocketId};
