//! TCP (RFC 9293): a sans-IO engine for many connections.
//!
//! ```text
//! receive()        Segment -> found by flow -> connection   -> reading, events
//!                                           |- half-open    -> listener -> accept()
//!                                           |- TIME-WAIT
//!                                           `- nobody       -> RST, SYN cookie
//! write(), ...     connection -> ready list
//! poll_transmit()  ready list -> Outgoing: header by value, payload as shared chunks
//! ```
//!
//! The caller owns time, memory and the network. It passes segments in with
//! [`TcpEngine::receive`], takes what is to be sent from [`TcpEngine::poll_transmit`], and what
//! happened from [`TcpEngine::poll_event`]; and it calls [`TcpEngine::handle_timeout`] when
//! [`TcpEngine::next_deadline`] has passed. Nothing visits all connections, but statistics.
//!
//! # Parts
//!
//! | part | what it is |
//! |---|---|
//! | [`header`], [`checksum`], [`sequence`] | formats and numbers by value |
//! | [`segment`], [`payload`] | what enters and leaves, and the memory of it |
//! | [`config`] | settings of the engine, of listeners and of connections |
//! | [`congestion`] | congestion control as a trait; CUBIC and Reno |
//! | `engine`, `records`, `cookies`, `listeners` | the tables in which connections are found |
//! | `connection` | one connection: `sender`, `receiver`, `recovery`, `pacing`, `timers`, `rtt`, `user_timeout` |
//! | `state`, `counters` | states, errors and what is ready; what is counted |
//! | `scoreboard`, `reassembly`, `send_queue` | what is under way, out of order, not acknowledged |
//! | `slab`, `spare`, `wheel`, `secrets` | stable indexes, memory for new connections, deadlines, and what must not be guessed |
//!
//! # Decisions
//!
//! - *Positions, not sequence numbers.* Inside, both streams are counted with 64 bits from a fixed
//!   origin, so that nothing wraps; SYN and FIN take a position each. Numbers are translated at
//!   the border (RFC 9293, section 3.4).
//! - *Records of what was sent*, one for each segment (a large one that is split later is one),
//!   split only at multiples of the segment size. So a peer can not make us keep more of them.
//! - *RACK instead of counting duplicates* wherever there is SACK (RFC 8985); counting (RFC 5681,
//!   RFC 6582) where there is not.
//! - *Memory is charged, not payload*: what received data hold on to counts. A window that was
//!   announced is not taken back, so up to twice the limit may be held.
//! - *Everything guessable is hashed* with a secret: initial sequence numbers (RFC 6528),
//!   timestamp offsets, SYN cookies. A timestamp offset follows from the flow, so that cookies and
//!   TIME-WAIT records need not keep it.
//! - *Half-open and TIME-WAIT connections are records* of at most 64 bytes.
//! - *Challenge ACKs are limited for each connection* (RFC 5961, section 7), since a limit for all
//!   tells one connection about another.
//!
//! - *A response to loss can be undone.* Timestamps (Eifel, RFC 3522), F-RTO (RFC 5682) and D-SACK
//!   (RFC 3708) find out that nothing was lost; then congestion control is put back into the state
//!   that it was in (RFC 4015).
//! - *What is new is paced*, where a round trip takes 2 ms or more: see [`TcpOptions::pacing`]. What is
//!   sent again follows the acknowledgments, and the initial window leaves at once.
//! - *A wider path is searched for with one segment*, ten minutes after it was found to be narrow,
//!   whose loss counts for nothing (RFC 4821, RFC 8899).
//!
//! # What is not there
//!
//! TCP Fast Open; AccECN; MPTCP; a first search for a path MTU above that of the link.
//!
//! # Example
//!
//! Two engines in virtual time, from bytes to bytes. Another program that drives an engine, for
//! example a conformance test, needs no more than this: every header field can be written and
//! read, and every option of an endpoint set, its initial sequence number too.
//!
//! ```
//! use bytes::Bytes;
//! use std::net::{IpAddr, SocketAddr};
//! use std::time::Duration;
//! use virtroupe_wire::tcp::{
//!     ListenOptions, Outgoing, Segment, SeqNumber, TcpConfig, TcpEngine, TcpOptions,
//! };
//! use virtroupe_wire::{Buffer, Heap, HeapBuffer, Instant};
//!
//! type Engine = TcpEngine<HeapBuffer, Bytes>;
//!
//! /// What an engine sends, as IP payloads, with source and destination.
//! fn sent(engine: &mut Engine, now: Instant) -> Vec<(IpAddr, IpAddr, Vec<u8>)> {
//!     let mut outgoing = Outgoing::new();
//!     let mut packets = Vec::new();
//!     while engine.poll_transmit(now, &mut outgoing) {
//!         let (source, destination) = outgoing.flow.addresses();
//!         let packet = outgoing.take_packet(&mut Heap).expect("there is memory");
//!         packets.push((source, destination, packet.to_vec()));
//!     }
//!     packets
//! }
//!
//! /// An engine receives IP payloads.
//! fn receive(engine: &mut Engine, now: Instant, packets: &[(IpAddr, IpAddr, Vec<u8>)]) {
//!     for (source, destination, bytes) in packets {
//!         let packet = HeapBuffer::new(bytes);
//!         // The ECN bits of the IP header, and whether to verify the checksum.
//!         match Segment::parse(*source, *destination, 0, packet, true) {
//!             Ok(segment) => engine.receive_one(now, segment),
//!             Err(reason) => println!("dropped: {}", reason.name()),
//!         }
//!     }
//! }
//!
//! let mut client: Engine = TcpEngine::new(TcpConfig::default(), 1);
//! let mut server: Engine = TcpEngine::new(TcpConfig::default(), 2);
//! let mut now = Instant::ZERO;
//!
//! let echo: SocketAddr = "10.0.0.2:7".parse()?;
//! let listener = server.listen(echo, ListenOptions::default())?;
//! let options = TcpOptions {
//!     initial_sequence: Some(SeqNumber(1_000)),
//!     timestamps: false,
//!     ..TcpOptions::default()
//! };
//! let id = client.connect(now, "10.0.0.1:0".parse()?, echo, options, |port| port % 2 == 0)?;
//! client.write(now, id, Bytes::from_static(b"hello")).map_err(|(error, _)| error)?;
//! client.finish(now, id);
//!
//! let (mut accepted, mut heard) = (None, Vec::new());
//! for _ in 0..10 {
//!     let to_server = sent(&mut client, now);
//!     now = now + Duration::from_millis(10); // the network
//!     receive(&mut server, now, &to_server);
//!     accepted = accepted.or_else(|| server.accept(now, listener));
//!     if let Some(id) = accepted {
//!         while let Some(payload) = server.read(now, id) {
//!             server.write(now, id, payload.to_vec().into()).map_err(|(error, _)| error)?;
//!         }
//!         if server.is_at_end(id) {
//!             server.finish(now, id);
//!         }
//!     }
//!     let to_client = sent(&mut server, now);
//!     now = now + Duration::from_millis(10);
//!     receive(&mut client, now, &to_client);
//!     while let Some(payload) = client.read(now, id) {
//!         heard.extend(payload.to_vec());
//!     }
//!     // What is due: retransmissions, delayed acknowledgments, the end of TIME-WAIT.
//!     for engine in [&mut client, &mut server] {
//!         if engine.next_deadline().is_some_and(|deadline| deadline <= now) {
//!             engine.handle_timeout(now);
//!         }
//!     }
//! }
//! assert_eq!(heard, b"hello");
//! assert!(client.is_at_end(id));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod checksum;
pub mod config;
pub mod congestion;
mod connection;
mod cookies;
mod counters;
mod engine;
mod flow;
pub mod header;
mod listeners;
mod pacing;
pub mod payload;
mod reassembly;
mod receiver;
mod records;
mod recovery;
mod rtt;
mod scoreboard;
mod secrets;
pub mod segment;
mod send_queue;
mod sender;
pub mod sequence;
mod slab;
mod spare;
mod state;
mod timers;
mod user_timeout;
mod wheel;

pub use config::{Keepalive, ListenOptions, TcpConfig, TcpOptions, WindowScaling};
pub use congestion::{AckSample, Congestion, CongestionControl};
pub use counters::{ConnectionStats, TcpCounters, TcpUsage};
pub use engine::{ConnectionId, ListenerId, TcpEngine, TcpEvent};
pub use flow::Flow;
pub use header::{HeaderOptions, SackBlock, SackBlocks, TcpFlags, TcpHeader, Timestamps};
pub use payload::{Attach, SharedPayload};
pub use segment::{Outgoing, Segment, TcpIcmp, TcpIcmpKind};
pub use sequence::{SeqNumber, WindowScale};
pub use state::{ListenError, Readiness, TcpConnectError, TcpError, TcpState, WriteError};
