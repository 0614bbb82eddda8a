//! Transmit offloads against Linux, which cuts what it gets whole from a TAP interface when it
//! passes it on to one without offloads: its own segmentation in software makes the pieces.

use libtest_mimic::Trial;
use virtroupe::FeatureBits;
use virtroupe::driver::embedded::{EmbeddedConfig, Tap, TapConfig};
use virtroupe::driver::{RingFormat, TransmitOffloads};

use crate::support::crafted::{Crafter, SOURCE};
use crate::support::namespace::Namespace;
use crate::support::requirement::{IP, Requirement};
use crate::support::station::{Station, UnboundStation};
use crate::support::{Outcome, Suite};

/// Packets for each set of features.
const PACKETS: usize = 40;

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    use Requirement::{Namespaces, Tun};
    vec![suite.test(
        "offloads::our_segments_are_those_of_linux_with_every_set_of_offloads",
        &[Namespaces, Tun, IP],
        our_segments_are_those_of_linux_with_every_set_of_offloads,
    )]
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
        let plain = EmbeddedConfig::SUPPORTED - TransmitOffloads::ALL;
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

    fn input(&self, features: FeatureBits, ring_format: RingFormat) -> Outcome<Station> {
        station(&self.kernel, "input", features, ring_format)
    }
}

/// A TAP interface on the bridge.
fn station(
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
    kernel.ip(&format!("link set {name} addrgenmode none master br0 up"))?;
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
            let mut input = bridge.input(features, ring_format)?;
            seed += 1;
            bridge.compare(&mut input, seed);
        }
    }
    Ok(())
}
