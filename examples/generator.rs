//! Sends frames as fast as the device takes them: the packet API with back-pressure, and the sender
//! of `cargo bench --bench dpdk`.
//!
//! ```sh
//! cargo run --release --example generator -- --vhost-user /tmp/vhost.sock --length 64
//! ```

#[path = "common/cost.rs"]
mod cost;
#[path = "common/device.rs"]
mod device;
#[path = "common/exit.rs"]
mod exit;
#[path = "common/packets.rs"]
mod packets;
#[path = "common/report.rs"]
mod report;
#[path = "common/serve.rs"]
mod serve;

use std::process::ExitCode;

use actix::prelude::*;
use clap::Parser;
use etherparse::PacketBuilder;
use exit::Outcome;
use virtroupe::{
    Capture, Filter, Frame, LocalStack, MacAddr, PacketSocket, PacketsReceived, SocketEvent,
    Supervisor,
};

/// Frames that are offered at once: as many as a sender may send in its turn.
const BURST: usize = 128;
/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 42;

/// Sends UDP from 198.18.0.1 to port 9 of 198.18.0.2, addresses for benchmarks (RFC 2544), as fast
/// as the device takes it. The payload is what the memory held before.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    device: device::DeviceArgs,
    /// Bytes of a frame, from the Ethernet header on
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(64..=1514))]
    length: u16,
    /// The Ethernet address to send to
    #[arg(long, default_value_t = MacAddr::BROADCAST)]
    to: MacAddr,
    /// Stop after so many seconds; run until interrupted by default
    #[arg(long)]
    seconds: Option<u64>,
}

impl Options {
    /// The headers of each frame. A checksum of zero is none (RFC 768).
    fn headers(&self, from: MacAddr) -> Outcome<[u8; HEADERS]> {
        let mut frame = Vec::new();
        let payload = vec![0; usize::from(self.length) - HEADERS];
        PacketBuilder::ethernet2(from.0, self.to.0)
            .ipv4([198, 18, 0, 1], [198, 18, 0, 2], 64)
            .udp(9, 9)
            .write(&mut frame, &payload)?;
        let mut headers = *frame.first_chunk().ok_or("a frame has headers")?;
        headers[HEADERS - 2..].fill(0);
        Ok(headers)
    }
}

/// Sends whenever there is room.
struct Generator {
    socket: PacketSocket,
    headers: [u8; HEADERS],
    length: usize,
    /// What was refused, to be offered again.
    frames: Vec<Frame>,
}

impl Generator {
    fn start_on(local: &LocalStack, headers: [u8; HEADERS], length: usize) -> Addr<Self> {
        Generator::create(|ctx| Generator {
            socket: local.subscribe(Filter::All, Capture::Take, ctx.address()),
            headers,
            length,
            frames: Vec::new(),
        })
    }

    /// Makes up to a burst of frames. Returns whether there are any.
    fn fill(&mut self) -> bool {
        let waiting = self.frames.len();
        self.socket.frames(&mut self.frames, BURST - waiting);
        for frame in self.frames.iter_mut().skip(waiting) {
            let bytes = frame.put(self.length).and_then(<[u8]>::first_chunk_mut);
            if let Some(headers) = bytes {
                *headers = self.headers;
            }
        }
        !self.frames.is_empty()
    }

    fn send(&mut self) {
        while self.fill() && self.socket.transmit(&mut self.frames).refused == 0 {}
        self.socket.notify_when_ready();
    }
}

impl Actor for Generator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.socket.events_to(ctx.address());
        self.send();
    }
}

impl Handler<SocketEvent> for Generator {
    type Result = ();

    fn handle(&mut self, event: SocketEvent, _: &mut Self::Context) {
        if event == SocketEvent::TxReady {
            self.send();
        }
    }
}

impl Handler<PacketsReceived> for Generator {
    type Result = ();

    /// What comes in is dropped.
    fn handle(&mut self, _: PacketsReceived, _: &mut Self::Context) {}
}

#[actix::main]
async fn main() -> ExitCode {
    exit::code(run(Options::parse()).await)
}

async fn run(options: Options) -> Outcome<ExitCode> {
    report::logs();
    let stack = Supervisor::start(packets::config(&options.device)?).await?;
    let headers = options.headers(stack.features().mac)?;
    let length = usize::from(options.length);
    let start =
        move |local: LocalStack| async move { Generator::start_on(&local, headers, length) };
    let _generators = stack.run_on_each(start).await?;
    println!("sending frames of {length} bytes");
    serve::until_end(&stack, report::wait(options.seconds), async |_| {}).await?;
    let stats = stack.stats().await?;
    cost::busy_cycles(&stats, stats.sent_frames());
    println!("sent_packets {}", stats.sent_frames());
    stack.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
