//! Virtroupe: an actor-system network stack.
//!
//! A [`Supervisor`] starts a device and a stack on it. Applications are actix actors: they get
//! packets, datagrams and TCP connections as messages, on the cpu of their flow, and send by
//! calling a socket that lives there too. TCP connections are streams for asynchronous code, too.
//!
//! ```no_run
//! use actix::prelude::*;
//! use virtroupe::{Config, Supervisor, UdpReceived, UdpSocket};
//!
//! struct Echo(UdpSocket);
//!
//! impl Actor for Echo {
//!     type Context = Context<Self>;
//!
//!     fn started(&mut self, ctx: &mut Self::Context) {
//!         self.0.deliver_to(ctx.address());
//!     }
//! }
//!
//! impl Handler<UdpReceived> for Echo {
//!     type Result = ();
//!
//!     fn handle(&mut self, mut received: UdpReceived, _: &mut Self::Context) {
//!         self.0.reply_all(&mut received.datagrams);
//!     }
//! }
//!
//! #[actix::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let config = Config::new("tap:vt0".parse()?).address("10.0.0.2/24".parse()?);
//!     let stack = Supervisor::start(config).await?;
//!     let echo = stack.run_on(0, |local| async move {
//!         let socket = local.bind_udp("0.0.0.0:7".parse().unwrap()).await?;
//!         Ok::<_, virtroupe::BindError>(Echo(socket).start())
//!     });
//!     let _echo = echo.await??;
//!     tokio::signal::ctrl_c().await?;
//!     stack.shutdown().await;
//!     Ok(())
//! }
//! ```
//!
//! A TCP server has a listener on each cpu, and each connection is served where its flow
//! belongs:
//!
//! ```no_run
//! # use virtroupe::{BindError, ListenOptions, LocalStack, OpenError, Stack, TcpListener};
//! # async fn start(stack: &Stack) -> Result<(), OpenError<BindError>> {
//! let listen = |local: LocalStack| async move {
//!     let (at, options) = (([0, 0, 0, 0], 7).into(), ListenOptions::default());
//!     local.listen_tcp_per_cpu(at, options).await
//! };
//! let echo = |_: LocalStack, listener: TcpListener| {
//!     actix::spawn(async move {
//!         while let Ok(stream) = listener.accept().await {
//!             actix::spawn(async move {
//!                 let (mut reader, mut writer) = stream.into_split();
//!                 tokio::io::copy(&mut reader, &mut writer).await
//!             });
//!         }
//!     });
//! };
//! stack.open_on_each(listen, echo).await
//! # }
//! ```
//!
//! The crates, from the top: this one configures, starts and supervises;
//! [`virtroupe_actors`] has the actors and their messages; [`virtroupe_driver`] drives the
//! device; [`virtroupe_wire`] has the protocol engines. What programs need most is named here, too.
//!
//! | part of this crate | what it is |
//! |---|---|
//! | [`config`] | every setting, in code or from a TOML file |
//! | [`transport`] | the device that a [`DeviceUrl`] names |
//! | [`Supervisor`] | starts a stack stage by stage, watches it, tells its [`Lifecycle`], stops it |
//! | [`Stack`] | the handle to a running stack: work on its cpus, statistics, shutdown |
//! | [`stats`] | a snapshot of every counter |
//! | [`error`] | why a stack did not start: the stage, the cause, and what to do |

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod config;
pub mod error;
mod open;
mod stack;
mod start_up;
pub mod stats;
mod stopping;
mod supervisor;
pub mod transport;

/// The programs in the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use config::{Config, ConfigError, Cpus, DeviceUrl, TimeLimits};
pub use error::{Stage, StartError, StartFailure};
pub use open::OpenError;
pub use stack::{NotRunning, Stack};
pub use stats::Stats;
pub use supervisor::{Lifecycle, Supervisor};
pub use virtroupe_actors as actors;
pub use virtroupe_actors::{
    BindError, Burst, Capture, CloseReason, ConnectError, CpuRole, LocalStack, PacketSocket,
    PacketsReceived, SendOutcome, SendTcpStream, SocketEvent, TcpAccepted, TcpConnectError,
    TcpEvent, TcpEventKind, TcpListener, TcpPayload, TcpReadHalf, TcpReceived, TcpSendError,
    TcpSendOutcome, TcpStream, TcpWriteHalf, TxReadyPolicy, UdpReceived, UdpSocket,
};
pub use virtroupe_driver as driver;
pub use virtroupe_driver::{
    Chunk, DeviceOptions, FeatureBits, Features, Frame, ReceiveOffloadMode,
};
pub use virtroupe_wire as wire;
pub use virtroupe_wire::filter::Filter;
pub use virtroupe_wire::host::HostConfig;
pub use virtroupe_wire::tcp::{
    ConnectionId, ConnectionStats, Keepalive, ListenOptions, ListenerId, TcpError, TcpOptions,
};
pub use virtroupe_wire::udp::{UdpDatagram, UdpError, UdpErrorKind, UdpSend, UdpSocketId};
pub use virtroupe_wire::{Buffer, DropReason, Drops, MacAddr, Payload};
