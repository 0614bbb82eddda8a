//! Answers ARP and pings for one address: a packet function on raw frames. No protocol of the
//! stack takes part; each answer is made in place, in the frame that asked.
//!
//! ```sh
//! cargo run --release --example responder -- --tap vt0 --answer 10.0.0.2
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

use std::net::Ipv4Addr;
use std::process::ExitCode;

use actix::prelude::*;
use clap::Parser;
use exit::Outcome;
use virtroupe::{
    Buffer, Capture, Filter, LocalStack, MacAddr, PacketSocket, PacketsReceived, Supervisor,
};

/// Answers ARP and pings for one address, frame by frame.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    device: device::DeviceArgs,
    /// The address to answer for
    #[arg(long, value_name = "IP")]
    answer: Ipv4Addr,
    /// Stop after so many seconds; run until interrupted by default
    #[arg(long)]
    seconds: Option<u64>,
}

/// Turns the frame that asks into the answer. Returns whether it asked us.
fn answer(frame: &mut [u8], ip: [u8; 4], mac: MacAddr) -> bool {
    let Some((ethernet, packet)) = frame.split_first_chunk_mut::<14>() else {
        return false;
    };
    let is_for_us = match ethernet[12..] {
        [0x08, 0x06] => answer_arp(packet, ip, mac),
        [0x08, 0x00] => answer_ping(packet, ip),
        _ => false,
    };
    ethernet.copy_within(6..12, 0); // back to its source,
    ethernet[6..12].copy_from_slice(&mac.0); // from us
    is_for_us
}

/// A request of ARP for IPv4 over Ethernet (RFC 826) becomes the reply.
fn answer_arp(packet: &mut [u8], ip: [u8; 4], mac: MacAddr) -> bool {
    const REQUEST: [u8; 8] = [0, 1, 0x08, 0x00, 6, 4, 0, 1];
    let Some(arp) = packet.first_chunk_mut::<28>() else {
        return false;
    };
    if arp[..8] != REQUEST || arp[24..28] != ip {
        return false;
    }
    arp[7] = 2;
    arp.copy_within(8..18, 18); // the sender becomes the target,
    arp[8..14].copy_from_slice(&mac.0); // and we the sender
    arp[14..18].copy_from_slice(&ip);
    true
}

/// An ICMP echo (RFC 792) in an IPv4 packet (RFC 791) without options becomes the reply. What
/// was wrong with its checksums stays wrong.
fn answer_ping(packet: &mut [u8], ip: [u8; 4]) -> bool {
    let Some(packet) = packet.first_chunk_mut::<28>() else {
        return false;
    };
    let is_fragment = packet[6] & 0x3f != 0 || packet[7] != 0;
    let is_echo = packet[0] == 0x45 && packet[9] == 1 && packet[20] == 8;
    if is_fragment || !is_echo || packet[16..20] != ip {
        return false;
    }
    packet.copy_within(12..16, 16); // the source becomes the destination,
    packet[12..16].copy_from_slice(&ip); // and we the source: IP's checksum stays right
    packet[20] = 0; // type 8 becomes 0, which takes 0x0800 from ICMP's sum (RFC 1624)
    let (sum, carry) = u16::from_be_bytes([packet[22], packet[23]]).overflowing_add(0x0800);
    packet[22..24].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    true
}

/// Gets every frame and sends back those that it made answers of.
struct Responder {
    socket: PacketSocket,
    ip: [u8; 4],
    mac: MacAddr,
}

impl Responder {
    fn start_on(local: &LocalStack, ip: Ipv4Addr) -> Addr<Self> {
        Responder::create(|ctx| Responder {
            socket: local.subscribe(Filter::All, Capture::Take, ctx.address()),
            ip: ip.octets(),
            mac: local.features().mac,
        })
    }
}

impl Actor for Responder {
    type Context = Context<Self>;
}

impl Handler<PacketsReceived> for Responder {
    type Result = ();

    fn handle(&mut self, mut received: PacketsReceived, _: &mut Self::Context) {
        let frames = &mut received.frames;
        frames.retain_mut(|frame| answer(frame.head_mut(), self.ip, self.mac));
        // What finds no room stays in the burst, and is dropped with it.
        self.socket.transmit(frames);
    }
}

#[actix::main]
async fn main() -> ExitCode {
    exit::code(run(Options::parse()).await)
}

async fn run(options: Options) -> Outcome<ExitCode> {
    report::logs();
    let stack = Supervisor::start(packets::config(&options.device)?).await?;
    let ip = options.answer;
    let start = move |local: LocalStack| async move { Responder::start_on(&local, ip) };
    let _responders = stack.run_on_each(start).await?;
    println!("answering for {ip}");
    serve::until_end(&stack, report::wait(options.seconds), async |_| {}).await?;
    let stats = stack.stats().await?;
    cost::busy_cycles(&stats, stats.received_frames());
    print!("{stats}");
    stack.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
