//! Receive offloads with Linux as the sender, over TAP: what it leaves undone, and what it merges.

use std::fs;
use std::sync::mpsc;
use std::time::Duration;

use actix::prelude::*;
use libtest_mimic::Trial;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;
use virtroupe::driver::embedded::{
    EmbeddedConfig, EmbeddedStepper, EmbeddedTransport, Tap, TapConfig, monotonic_now,
};
use virtroupe::driver::memory::HugePages;
use virtroupe::driver::{Device, DeviceOptions, QueuePair, ReceiveOffloadMode};
use virtroupe::wire::checksum::{self, Checksum};
use virtroupe::wire::offload::{ChecksumState, PartialChecksum, SegmentKind, Segmentation};
use virtroupe::wire::{Offload, ethernet};
use virtroupe::{Buffer, Capture, Filter, Frame, LocalStack, PacketSocket, PacketsReceived};

use super::host::{ECHO, Host, kernel_socket};
use crate::probe::Seen;
use crate::support::clients::{flood_ping, udp_echo};
use crate::support::requirement::{IP, PING, Requirement};
use crate::support::{Outcome, Suite};

/// The longest frame of the link.
const LONGEST_ON_LINK: usize = 14 + 1500;
/// Payload of a TCP segment on a link of 1500 bytes, without options.
const MSS: u16 = 1460;
/// No frame takes as long.
const LIMIT: Duration = Duration::from_secs(60);

const MODES: [ReceiveOffloadMode; 3] = [
    ReceiveOffloadMode::All,
    ReceiveOffloadMode::Checksum,
    ReceiveOffloadMode::Never,
];

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    use Requirement::{Namespaces, Tun};
    vec![
        suite.test(
            "receive::ping_and_udp_echo_with_all_receive_offloads",
            &[Namespaces, Tun, IP, PING],
            ping_and_udp_echo,
        ),
        suite.test(
            "receive::a_train_of_the_kernel_reaches_a_socket_as_datagrams",
            &[Namespaces, Tun, IP],
            a_train_reaches_a_socket_as_datagrams,
        ),
        suite.test(
            "receive::a_train_of_the_kernel_is_one_frame_where_it_may_be",
            &[Namespaces, Tun, IP],
            a_train_is_one_frame_where_it_may_be,
        ),
        suite.test(
            "receive::tcp_that_the_kernel_forwards_is_one_frame_where_it_may_be",
            &[Namespaces, Tun, IP],
            forwarded_tcp_is_one_frame_where_it_may_be,
        ),
    ]
}

fn start(mode: ReceiveOffloadMode) -> Outcome<Host> {
    Host::start_with(|config| config.options.receive_offloads = mode)
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn ping_and_udp_echo() -> Outcome<()> {
    for mode in MODES {
        let host = start(mode)?;
        let _echo = host.echo()?;
        for size in [0, 56, 1472, 1473, 8972] {
            flood_ping(&host.kernel, "10.0.0.2".parse()?, 20, size)?;
        }
        for lengths in [0..=60, 1470..=1475, 9000..=9002, 60_000..=60_001] {
            udp_echo(&host.kernel, ECHO.parse()?, lengths)?;
        }
        let drops = host.stats()?.drops();
        assert_eq!(drops[virtroupe::DropReason::Checksum], 0, "{mode:?}");
    }
    Ok(())
}

/// Has a kernel socket send `payload` in datagrams of `size` bytes.
fn send_train(host: &Host, payload: &[u8], size: u16) -> Outcome<()> {
    let socket = kernel_socket(&host.kernel, "10.0.0.1:0")?;
    setsockopt(&socket, UdpGsoSegment, &size.into())?;
    socket.send_to(payload, ECHO)?;
    Ok(())
}

fn a_train_reaches_a_socket_as_datagrams() -> Outcome<()> {
    for mode in MODES {
        let host = start(mode)?;
        let mut actor = host.actor("0.0.0.0:7", false)?;
        for (length, size) in [(20_000, 1000), (64_000, 1472), (129, 128)] {
            let payload = content(length);
            send_train(&host, &payload, size)?;
            for expected in payload.chunks(size.into()) {
                match host.next(&mut actor)? {
                    Seen::Datagram { payload, .. } => {
                        assert!(payload == expected, "{length} by {size}, {mode:?}");
                    }
                    other => return Err(format!("{other:?}").into()),
                }
            }
        }
    }
    Ok(())
}

fn a_train_is_one_frame_where_it_may_be() -> Outcome<()> {
    let payload = content(20_000);
    for mode in MODES {
        let host = start(mode)?;
        let watcher = Watcher::start(&host, Filter::DestinationPort(7))?;
        send_train(&host, &payload, 1000)?;
        let frames = watcher.frames(&payload, 42)?;
        let expected = match mode {
            ReceiveOffloadMode::All => 1,
            _ => 20,
        };
        assert_eq!(frames.len(), expected, "{mode:?}");
        for (bytes, offload) in frames {
            let segmentation = (mode == ReceiveOffloadMode::All).then_some(Segmentation {
                kind: SegmentKind::Udp,
                size: 1000,
                header_length: 42,
            });
            assert_eq!(offload.segmentation, segmentation);
            check(&bytes, &offload, mode);
        }
    }
    Ok(())
}

/// A large TCP packet enters the kernel by a second interface, which forwards it to the first.
fn forwarded_tcp_is_one_frame_where_it_may_be() -> Outcome<()> {
    let payload = content(20_000);
    for mode in MODES {
        let host = start(mode)?;
        host.kernel
            .enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        let watcher = Watcher::start(&host, Filter::Protocol(6))?;
        let mut sender = Sender::new(&host)?;
        sender.send(tcp(&payload))?;
        let frames = watcher.frames(&payload, 54)?;
        let expected = match mode {
            ReceiveOffloadMode::All => 1,
            _ => payload.len().div_ceil(MSS.into()),
        };
        assert_eq!(frames.len(), expected, "{mode:?}");
        for (bytes, offload) in frames {
            let segmentation = (mode == ReceiveOffloadMode::All).then_some(Segmentation {
                kind: SegmentKind::Tcp { ecn: false },
                size: MSS,
                header_length: 54,
            });
            assert_eq!(offload.segmentation, segmentation);
            check(&bytes, &offload, mode);
        }
    }
    Ok(())
}

/// A frame is no longer than the link allows unless large ones were asked for, and its checksum
/// complete unless the kernel may leave that undone.
fn check(bytes: &[u8], offload: &Offload, mode: ReceiveOffloadMode) {
    let is_large = mode == ReceiveOffloadMode::All;
    assert!(is_large || bytes.len() <= LONGEST_ON_LINK, "{mode:?}");
    if mode == ReceiveOffloadMode::Never {
        assert!(offload.is_none());
    }
    if !matches!(offload.checksum, ChecksumState::Partial(_)) {
        let segment = &bytes[34..14 + usize::from(u16::from_be_bytes([bytes[16], bytes[17]]))];
        let address = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]].into();
        let length = segment.len() as u16;
        let mut sum = Checksum::pseudo_header(address(26), address(30), bytes[23], length);
        sum.add(segment);
        assert!(sum.is_valid(), "a wrong checksum with {mode:?}");
    }
}

/// A subscriber of the packet API that keeps frames with their descriptions.
struct Watcher {
    _address: Addr<Keeper>,
    seen: mpsc::Receiver<(Vec<u8>, Offload)>,
}

struct Keeper {
    _socket: PacketSocket,
    seen: mpsc::Sender<(Vec<u8>, Offload)>,
}

impl Watcher {
    fn start(host: &Host, filter: Filter) -> Outcome<Self> {
        let (seen, receiver) = mpsc::channel();
        let keeper = host.stack().run_on(0, move |local: LocalStack| async move {
            Keeper::create(|ctx| Keeper {
                _socket: local.subscribe(filter, Capture::Copy, ctx.address()),
                seen,
            })
        });
        Ok(Watcher {
            _address: host.wait(keeper)?,
            seen: receiver,
        })
    }

    /// The frames that together carry `payload` behind headers of so many bytes.
    fn frames(&self, payload: &[u8], headers: usize) -> Outcome<Vec<(Vec<u8>, Offload)>> {
        let mut frames = Vec::new();
        let mut got = Vec::new();
        while got.len() < payload.len() {
            let (bytes, offload) = self.seen.recv_timeout(LIMIT)?;
            got.extend_from_slice(&bytes[headers..]);
            frames.push((bytes, offload));
        }
        assert!(got == payload, "not what was sent");
        Ok(frames)
    }
}

impl Actor for Keeper {
    type Context = Context<Self>;
}

impl Handler<PacketsReceived> for Keeper {
    type Result = ();

    fn handle(&mut self, received: PacketsReceived, _: &mut Self::Context) {
        for frame in received.frames.iter() {
            let _ = self.seen.send((frame.to_vec(), frame.offload()));
        }
    }
}

/// A driver on a second interface of the kernel, 10.0.1.1/24.
struct Sender {
    _device: Device,
    pair: QueuePair,
    stepper: EmbeddedStepper,
}

/// The kernel's Ethernet address on the second interface.
const ROUTER: [u8; 6] = [2, 0, 0, 0, 1, 1];

impl Sender {
    fn new(host: &Host) -> Outcome<Self> {
        let tap = TapConfig {
            name: "vt1".into(),
            up: true,
            kernel_address: Some("10.0.1.1/24".parse()?),
            ..TapConfig::default()
        };
        let config = EmbeddedConfig::default();
        let made = host
            .kernel
            .enter(|| EmbeddedTransport::inline(config, Tap::new(tap)))?;
        let (transport, _, stepper) = made?;
        host.kernel.ip("link set vt1 address 02:00:00:00:01:01")?;
        let options = DeviceOptions {
            huge_pages: HugePages::Never,
            ..DeviceOptions::default()
        };
        let (device, mut pairs) = Device::initialize(Box::new(transport), &options)?;
        let pair = pairs.pop().ok_or("no queue pair")?.bind();
        Ok(Sender {
            _device: device,
            pair,
            stepper,
        })
    }

    fn send(&mut self, frame: Frame) -> Outcome<()> {
        let mut burst = vec![frame];
        self.pair.transmit(&mut burst)?;
        assert!(burst.is_empty());
        self.stepper.step(monotonic_now());
        Ok(())
    }
}

/// A TCP packet that is to be cut, from 10.0.1.2 to the stack.
fn tcp(payload: &[u8]) -> Frame {
    let length = (20 + payload.len()) as u16;
    let mut ip = [
        0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 1, 2, 10, 0, 0, 2,
    ];
    ip[2..4].copy_from_slice(&(20 + length).to_be_bytes());
    let sum = checksum::checksum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    let mut header = [
        0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 255, 255, 0, 0, 0, 0,
    ];
    let (source, destination) = ([10, 0, 1, 2].into(), [10, 0, 0, 2].into());
    let pseudo = !Checksum::pseudo_header(source, destination, 6, length).finish();
    header[16..18].copy_from_slice(&pseudo.to_be_bytes());
    let link = [
        &ROUTER[..],
        &[2, 0, 0, 0, 1, 2],
        &ethernet::IPV4.to_be_bytes(),
    ]
    .concat();
    let mut frame = Frame::on_heap(&[&link[..], &ip, &header, payload].concat());
    frame.set_offload(Offload {
        checksum: ChecksumState::Partial(PartialChecksum {
            start: 34,
            offset: 16,
        }),
        segmentation: Some(Segmentation {
            kind: SegmentKind::Tcp { ecn: false },
            size: MSS,
            header_length: 54,
        }),
    });
    frame
}
