//! Transmit offloads against Linux, which cuts what it gets whole from a TAP interface when it
//! passes it on to one without offloads: its own segmentation in software makes the pieces.

use std::io::Read;
use std::net::{IpAddr, TcpListener};
use std::thread;
use std::time::Duration;

use etherparse::{PacketBuilder, PacketBuilderStep, SlicedPacket, TcpHeader, TransportSlice};
use ipnet::IpNet;
use libtest_mimic::Trial;
use virtroupe::driver::embedded::{EmbeddedConfig, Tap, TapConfig};
use virtroupe::driver::{ReceiveOffloads, RingFormat, TransmitOffloads};
use virtroupe::{FeatureBits, MacAddr};

use super::family::Family;
use crate::support::crafted::{Crafted, Crafter, DESTINATION, SOURCE};
use crate::support::namespace::Namespace;
use crate::support::requirement::{IP, Requirement};
use crate::support::station::{Station, UnboundStation};
use crate::support::{Outcome, Suite};

/// A TCP segment that is being built.
type Tcp = PacketBuilderStep<TcpHeader>;

/// Packets for each set of features.
const PACKETS: usize = 40;

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    use Requirement::{Namespaces, Tun};
    vec![
        suite.test(
            "offloads::our_segments_are_those_of_linux_with_every_set_of_offloads",
            &[Namespaces, Tun, IP],
            our_segments_are_those_of_linux_with_every_set_of_offloads,
        ),
        suite.test(
            "offloads::tcp_of_the_kernel_reads_super_segments",
            &[Namespaces, Tun, IP],
            tcp_of_the_kernel_reads_super_segments,
        ),
    ]
}

/// Two TAP interfaces on a bridge, the second without offloads.
struct Bridge {
    kernel: Namespace,
    output: Station,
}

impl Bridge {
    fn new() -> Outcome<Bridge> {
        let kernel = Namespace::new()?;
        kernel.ip("link add br0 type bridge")?;
        kernel.ip("link set br0 addrgenmode none up")?;
        let plain = EmbeddedConfig::SUPPORTED - TransmitOffloads::ALL - ReceiveOffloads::ALL;
        let output = station(&kernel, "output", plain, RingFormat::Split)?;
        Ok(Bridge { kernel, output })
    }

    /// Sends packets through `input`, and compares what Linux passes on.
    fn compare(&mut self, input: &mut Station, seed: u64) {
        let mut crafter = Crafter::new(seed);
        for number in 0..PACKETS {
            let packet = crafter.packet();
            let expected = packet.in_software();
            let taken = input.send(&packet, &mut crafter);
            let is_taken = input.features().contains(packet.needs());
            let frames = if is_taken { 1 } else { expected.len() as u64 };
            let context = format!("seed {seed}, packet {number}, {:?}", packet.offload);
            assert_eq!(taken, frames, "frames to the device; {context}");
            let is_ours = |frame: &[u8]| frame[6..12] == SOURCE;
            let passed_on = self.output.receive(expected.len(), is_ours);
            for (place, (frame, expected)) in passed_on.iter().zip(&expected).enumerate() {
                let head = |frame: &[u8]| frame[..frame.len().min(120)].to_vec();
                assert!(
                    frame == expected,
                    "piece {place} of {}; {context}:\nLinux {:02x?}\nours  {:02x?}",
                    passed_on.len(),
                    head(frame),
                    head(expected),
                );
            }
        }
    }

    /// An interface of a new name: a program that another test is just starting may have the one
    /// before still open, between fork and exec.
    fn input(
        &self,
        number: u64,
        features: FeatureBits,
        ring_format: RingFormat,
    ) -> Outcome<Station> {
        let name = format!("input{number}");
        station(&self.kernel, &name, features, ring_format)
    }
}

/// A TAP interface on the bridge.
fn station(
    kernel: &Namespace,
    name: &str,
    features: FeatureBits,
    ring_format: RingFormat,
) -> Outcome<Station> {
    let station = tap(kernel, name, features, ring_format)?;
    kernel.ip(&format!("link set {name} addrgenmode none master br0 up"))?;
    Ok(station)
}

/// A TAP interface.
fn tap(
    kernel: &Namespace,
    name: &str,
    features: FeatureBits,
    ring_format: RingFormat,
) -> Outcome<Station> {
    let tap = Tap::new(TapConfig {
        name: name.into(),
        ..TapConfig::default()
    });
    let station = kernel.enter(|| UnboundStation::new(tap, features, ring_format))??;
    Ok(station.bind())
}

/// All offloads, none, each alone, and all but each.
fn sets() -> Vec<FeatureBits> {
    let all = EmbeddedConfig::SUPPORTED;
    let none = all - TransmitOffloads::ALL;
    let checksum = none | FeatureBits::CSUM;
    let mut sets = vec![all, none, checksum];
    for offload in [
        FeatureBits::HOST_TSO4,
        FeatureBits::HOST_TSO6,
        FeatureBits::HOST_ECN,
        FeatureBits::HOST_UFO,
        FeatureBits::HOST_USO,
    ] {
        sets.extend([checksum | offload, all - offload]);
    }
    sets
}

fn our_segments_are_those_of_linux_with_every_set_of_offloads() -> Outcome<()> {
    let mut bridge = Bridge::new()?;
    let mut seed = 0;
    for ring_format in [RingFormat::Split, RingFormat::Packed] {
        for features in sets() {
            seed += 1;
            let mut input = bridge.input(seed, features, ring_format)?;
            bridge.compare(&mut input, seed);
        }
    }
    Ok(())
}

/// A connection to the kernel, by hand: long segments, of which the last finishes.
fn tcp_of_the_kernel_reads_super_segments() -> Outcome<()> {
    let all = EmbeddedConfig::SUPPORTED;
    for features in [all, all - TransmitOffloads::ALL] {
        let kernel = Namespace::new()?;
        let mut input = tap(&kernel, "input", features, RingFormat::Auto)?;
        let destination = MacAddr(DESTINATION);
        kernel.ip(&format!(
            "link set input address {destination} addrgenmode none up"
        ))?;
        for (ours, theirs) in [("10.0.0.9", "10.0.0.1/24"), ("fd00::9", "fd00::1/64")] {
            let theirs: IpNet = theirs.parse()?;
            let flags = if theirs.addr().is_ipv6() { "nodad" } else { "" };
            kernel.ip(&format!("address add {theirs} dev input {flags}"))?;
            let source = MacAddr(SOURCE);
            kernel.ip(&format!("neigh add {ours} lladdr {source} dev input"))?;
            if theirs.addr().is_ipv6() {
                Family::Ipv6.wait_for_address(&kernel, "input", theirs.addr())?;
            }
            let listener = kernel.enter(|| TcpListener::bind((theirs.addr(), 80)))??;
            let reader = thread::spawn(move || {
                let (mut stream, _) = listener.accept()?;
                stream.set_read_timeout(Some(Duration::from_secs(60)))?;
                let mut read = Vec::new();
                stream.read_to_end(&mut read).map(|_| read)
            });
            let sent = Client::new(ours.parse()?, theirs.addr()).send(&mut input);
            let read = reader.join().expect("it does not panic")?;
            assert!(
                read == sent,
                "{} of {} bytes, {features}",
                read.len(),
                sent.len()
            );
        }
    }
    Ok(())
}

/// One side of a TCP connection that knows only what it takes to send.
struct Client {
    local: IpAddr,
    remote: IpAddr,
    sequence: u32,
    acknowledgment: u32,
}

impl Client {
    fn new(local: IpAddr, remote: IpAddr) -> Client {
        // Sequence numbers wrap on the way.
        let (sequence, acknowledgment) = (u32::MAX - 30_000, 0);
        Client {
            local,
            remote,
            sequence,
            acknowledgment,
        }
    }

    /// A segment; `shape` sets its flags.
    fn segment(&self, payload: &[u8], shape: impl FnOnce(Tcp) -> Tcp) -> Vec<u8> {
        let link = PacketBuilder::ethernet2(SOURCE, DESTINATION);
        let network = match (self.local, self.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                link.ipv4(local.octets(), remote.octets(), 64)
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                link.ipv6(local.octets(), remote.octets(), 64)
            }
            _ => unreachable!("both are of one version"),
        };
        let mut bytes = Vec::new();
        let tcp = shape(network.tcp(5000, 80, self.sequence, 65_000));
        tcp.write(&mut bytes, payload).expect("it is written");
        bytes
    }

    /// Waits until the kernel has acknowledged all. Returns its sequence number.
    fn wait(&self, station: &mut Station) -> u32 {
        loop {
            for frame in station.receive(1, |frame| frame[..6] == SOURCE) {
                let packet = SlicedPacket::from_ethernet(&frame).expect("well-formed");
                if let Some(TransportSlice::Tcp(tcp)) = packet.transport
                    && tcp.acknowledgment_number() == self.sequence
                {
                    assert!(!tcp.rst());
                    return tcp.sequence_number();
                }
            }
        }
    }

    /// Opens the connection, sends, and finishes. Returns what was sent.
    fn send(mut self, station: &mut Station) -> Vec<u8> {
        let mut crafter = Crafter::new(self.sequence.into());
        let synchronize = self.segment(&[], Tcp::syn);
        station.send(&Crafted::plain(synchronize), &mut crafter);
        self.sequence = self.sequence.wrapping_add(1);
        self.acknowledgment = self.wait(station).wrapping_add(1);
        let acknowledge = self.segment(&[], |tcp| tcp.ack(self.acknowledgment));
        station.send(&Crafted::plain(acknowledge), &mut crafter);
        let mut all = Vec::new();
        for (length, size, is_last) in [
            (30_000, 1400, false),
            (2, 1, false),
            (1401, 1400, false),
            (32_000, 536, false),
            (20_000, 1000, true),
        ] {
            let payload = crafter.bytes(length);
            let bytes = self.segment(&payload, |tcp| {
                let tcp = tcp.ack(self.acknowledgment).psh();
                if is_last { tcp.fin() } else { tcp }
            });
            let super_segment = Crafted::tcp(bytes, size);
            let taken = station.send(&super_segment, &mut crafter);
            let is_taken = station.features().contains(super_segment.needs());
            let segments = length.div_ceil(size.into()) as u64;
            assert_eq!(taken, if is_taken { 1 } else { segments });
            let used = length as u32 + u32::from(is_last);
            self.sequence = self.sequence.wrapping_add(used);
            self.wait(station);
            all.extend(payload);
        }
        all
    }
}
