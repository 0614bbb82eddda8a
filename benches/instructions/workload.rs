//! What is counted: one turn of the data path over a burst of 64-byte datagrams.
//!
//! The device is the embedded one, stepped by hand between two turns, so no instruction of its
//! is counted, no other thread runs, and the counts are the same each time.

use std::net::Ipv4Addr;

use virtroupe::wire::host::{Host, HostConfig, Neighbor, Route};
use virtroupe::wire::udp::{UdpDatagram, UdpSocketId};
use virtroupe::wire::{Buffer, DropReason, Instant, MacAddr, checksum};
use virtroupe_driver::embedded::{
    EmbeddedConfig, EmbeddedStepper, EmbeddedTransport, PacketSource, SourceConfig,
};
use virtroupe_driver::memory::HugePages;
use virtroupe_driver::{Device, DeviceOptions, Frame, QueuePair, RingFormat, drop_burst};

use crate::support::Outcome;

/// Packets in one turn.
pub const BURST: usize = 64;
/// Turns before counting: every descriptor and every slot has been used.
const WARM_UP: usize = 100;
/// Turns that are counted.
pub const TURNS: usize = 400;
/// Flows that the device sends, as testpmd's flowgen does.
const FLOWS: u32 = 1024;

const NOW: Instant = Instant::ZERO;
const OUR_MAC: MacAddr = MacAddr([0, 1, 2, 3, 4, 1]);
const PEER_MAC: MacAddr = MacAddr([0, 1, 2, 3, 4, 0]);
const OUR_FIRST: Ipv4Addr = Ipv4Addr::new(10, 253, 0, 0);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 0);
const OUR_PORT: u16 = 1001;
const PEER_PORT: u16 = 1000;

/// What is done for each packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    /// The driver takes frames from the device, and they are dropped.
    Receive,
    /// The driver takes frames from the pool and hands them to the device.
    Transmit,
    /// Driver and engines: datagrams are received by a socket and sent back.
    Echo,
}

/// What a row of the table counts: a task on rings of one format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    task: Task,
    ring_format: RingFormat,
    name: &'static str,
}

impl Row {
    /// All rows.
    pub const ALL: [Row; 6] = [
        Row::new(Task::Receive, RingFormat::Split, "receive"),
        Row::new(Task::Transmit, RingFormat::Split, "transmit"),
        Row::new(Task::Echo, RingFormat::Split, "echo"),
        Row::new(Task::Receive, RingFormat::Packed, "receive-packed"),
        Row::new(Task::Transmit, RingFormat::Packed, "transmit-packed"),
        Row::new(Task::Echo, RingFormat::Packed, "echo-packed"),
    ];

    const fn new(task: Task, ring_format: RingFormat, name: &'static str) -> Self {
        Row {
            task,
            ring_format,
            name,
        }
    }

    /// How the table calls it.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Runs the turns. Only what [`counted`] does is meant to be counted.
    pub fn run(self) -> Outcome<()> {
        let mut bench = Bench::new(self.ring_format)?;
        for _ in 0..WARM_UP {
            bench.turn(self.task)?;
        }
        bench.is_counting = true;
        for _ in 0..TURNS {
            bench.turn(self.task)?;
        }
        Ok(())
    }
}

struct Bench {
    _device: Device,
    stepper: EmbeddedStepper,
    pair: QueuePair,
    host: Host<Frame>,
    socket: UdpSocketId,
    burst: Vec<Frame>,
    datagrams: Vec<UdpDatagram<Frame>>,
    refused: Vec<DropReason>,
    is_counting: bool,
}

/// One turn. The profiler counts what happens inside of this function.
#[inline(never)]
fn counted(bench: &mut Bench, task: Task) -> Outcome<usize> {
    bench.work(task)
}

impl Bench {
    fn new(ring_format: RingFormat) -> Outcome<Self> {
        let source = PacketSource::new(SourceConfig {
            frames: (0..FLOWS).map(request).collect(),
            ..SourceConfig::default()
        });
        let (transport, _, stepper) = EmbeddedTransport::inline(EmbeddedConfig::default(), source)?;
        let options = DeviceOptions {
            ring_format,
            huge_pages: HugePages::Never,
            ..DeviceOptions::default()
        };
        let (device, pairs) = Device::initialize(Box::new(transport), &options)?;
        let pair = pairs.into_iter().next().ok_or("the device has no pair")?;
        let mut host = Host::new(host_config()?, 1)?;
        let socket = host.bind_udp((Ipv4Addr::UNSPECIFIED, OUR_PORT).into())?;
        let mut pair = pair.bind();
        let mut burst = Vec::new();
        // Posts the first buffers.
        pair.receive(&mut burst, BURST)?;
        Ok(Bench {
            _device: device,
            stepper,
            pair,
            host,
            socket,
            burst,
            datagrams: Vec::new(),
            refused: Vec::new(),
            is_counting: false,
        })
    }

    /// Lets the device do its part, then does ours.
    fn turn(&mut self, task: Task) -> Outcome<()> {
        self.stepper.step(NOW);
        let packets = match self.is_counting {
            true => counted(self, task)?,
            false => self.work(task)?,
        };
        match packets {
            BURST => Ok(()),
            other => Err(format!("a turn moved {other} packets, not {BURST}").into()),
        }
    }

    #[inline(always)]
    fn work(&mut self, task: Task) -> Outcome<usize> {
        match task {
            Task::Receive => {
                let taken = self.pair.receive(&mut self.burst, BURST)?;
                drop_burst(&mut self.burst);
                Ok(taken)
            }
            Task::Transmit => {
                let filled = self.pair.pool().frames(&mut self.burst, BURST);
                for frame in &mut self.burst {
                    frame.extend_from_slice(&[0; 64]);
                }
                self.pair.transmit(&mut self.burst)?;
                Ok(filled - self.burst.len())
            }
            Task::Echo => self.echo(),
        }
    }

    /// What a shard and an echo actor do between them, without the message.
    #[inline(always)]
    fn echo(&mut self) -> Outcome<usize> {
        self.pair.receive(&mut self.burst, BURST)?;
        self.burst.iter().for_each(Frame::prefetch);
        self.host.receive(NOW, &mut self.burst, self.pair.pool());
        let socket = self.host.take_ready_udp().ok_or("nothing has arrived")?;
        let received = self.host.udp_received(socket).ok_or("it is closed")?;
        std::mem::swap(&mut self.datagrams, received);
        self.host.set_transmit_room(BURST);
        let outcome = self.host.reply_udp(
            NOW,
            self.socket,
            &mut self.datagrams,
            &mut self.refused,
            self.pair.pool(),
        );
        self.pair.transmit(self.host.transmit())?;
        Ok(outcome.accepted)
    }
}

fn host_config() -> Outcome<HostConfig> {
    Ok(HostConfig {
        mac: OUR_MAC,
        owned: vec![format!("{OUR_FIRST}/22").parse()?],
        routes: vec![Route {
            destination: format!("{PEER}/32").parse()?,
            gateway: None,
        }],
        neighbors: vec![Neighbor {
            address: PEER.into(),
            mac: PEER_MAC,
        }],
        ..HostConfig::default()
    })
}

/// A datagram of 64 bytes from the peer to one of our addresses, with its checksum.
fn request(flow: u32) -> Vec<u8> {
    let destination = Ipv4Addr::from_bits(OUR_FIRST.to_bits() + flow);
    let ports = [PEER_PORT.to_be_bytes(), OUR_PORT.to_be_bytes()].concat();
    let mut datagram = [&ports[..], &[0, 30, 0, 0], &[flow as u8; 22]].concat();
    let mut sum = checksum::Checksum::pseudo_header(PEER, destination, 17, 30);
    sum.add(&datagram);
    datagram[6..8].copy_from_slice(&sum.finish().to_be_bytes());
    let mut header = [
        0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    header[12..16].copy_from_slice(&PEER.octets());
    header[16..20].copy_from_slice(&destination.octets());
    let header_sum = checksum::header_checksum(&header);
    header[10..12].copy_from_slice(&header_sum.to_be_bytes());
    [&OUR_MAC.0[..], &PEER_MAC.0, &[8, 0], &header, &datagram].concat()
}
