//! Linux as the client of the stack, over TAP: ping and UDP echo of every length.

use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use virtroupe::{Payload, UdpSend};

use super::family::Family;
use super::host::{ECHO, Host, frames_of_the_kernel, kernel_socket};
use crate::support::clients::{LONGEST, flood_ping, udp_echo};
use crate::support::requirement::{IP, PING, Requirement};
use crate::support::{Outcome, Suite};

/// No frame takes as long.
const LIMIT: Duration = Duration::from_secs(60);

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    use Requirement::{Namespaces, Tun};
    let mut tests = vec![
        suite.test(
            "tap::ten_thousand_flood_pings_without_loss",
            &[Namespaces, Tun, IP, PING],
            ten_thousand_flood_pings_without_loss,
        ),
        suite.test(
            "tap::pings_of_every_size_class",
            &[Namespaces, Tun, IP, PING],
            pings_of_every_size_class,
        ),
        suite.test(
            "tap::udp_echo_of_every_length",
            &[Namespaces, Tun, IP],
            udp_echo_of_every_length,
        ),
        suite.test(
            "tap::udp_echo_with_long_frames",
            &[Namespaces, Tun, IP],
            udp_echo_with_long_frames,
        ),
        suite.test(
            "tap::a_long_datagram_is_one_frame_to_a_kernel_socket",
            &[Namespaces, Tun, IP],
            a_long_datagram_is_one_frame_to_a_kernel_socket,
        ),
        suite.test(
            "tap::two_queues_and_two_cpus_answer_the_kernel",
            &[Namespaces, Tun, IP, PING],
            || several_cpus_answer_the_kernel(2, 2),
        ),
        suite.test(
            "tap::one_queue_and_three_cpus_answer_the_kernel",
            &[Namespaces, Tun, IP, PING],
            || several_cpus_answer_the_kernel(1, 3),
        ),
    ];
    tests.extend(Family::tests(
        suite,
        "tap::a_train_reaches_a_kernel_socket_as_datagrams",
        &[Namespaces, Tun, IP],
        a_train_reaches_a_kernel_socket_as_datagrams,
    ));
    tests
}

/// Pings and datagrams of all size classes, from so many sockets of the kernel that each cpu owns
/// the flows of some.
fn several_cpus_answer_the_kernel(queues: u16, cpus: u16) -> Outcome<()> {
    let host = Host::start_with(|config| {
        config.options.queue_pairs = queues;
        config.cpus.count = cpus;
    })?;
    let _echoes = host.echo_on_each()?;
    for size in [0, 56, 1472, 1473, 8972, LONGEST] {
        flood_ping(&host.kernel, "10.0.0.2".parse()?, 20, size)?;
    }
    let server = ECHO.parse()?;
    // Each call has a socket of its own, and so a flow of its own.
    for _ in 0..20 {
        udp_echo(&host.kernel, server, 0..=9)?;
        udp_echo(&host.kernel, server, 1470..=1475)?;
        udp_echo(&host.kernel, server, 9000..=9002)?;
    }
    udp_echo(&host.kernel, server, LONGEST - 2..=LONGEST)?;
    let stats = host.stats()?;
    for cpu in &stats.cpus {
        assert!(
            cpu.shard.delivered > 0,
            "cpu {} owns no flow: {stats}",
            cpu.cpu
        );
    }
    Ok(())
}

fn ten_thousand_flood_pings_without_loss() -> Outcome<()> {
    let host = Host::start()?;
    flood_ping(&host.kernel, "10.0.0.2".parse()?, 10_000, 56)
}

fn pings_of_every_size_class() -> Outcome<()> {
    let host = Host::start()?;
    // None; without room for ping's time stamp; the default; around one, two and three packets
    // of 1500 bytes; many; and the greatest.
    let sizes = [
        0, 1, 7, 8, 56, 1471, 1472, 1473, 2951, 2952, 2953, 2960, 4432, 4433, 8000, 8972, 32_768,
        65_506, LONGEST,
    ];
    for size in sizes {
        flood_ping(&host.kernel, "10.0.0.2".parse()?, 20, size)?;
    }
    Ok(())
}

fn udp_echo_of_every_length() -> Outcome<()> {
    let host = Host::start()?;
    let _echo = host.echo()?;
    udp_echo(&host.kernel, ECHO.parse()?, 0..=LONGEST)
}

fn udp_echo_with_long_frames() -> Outcome<()> {
    // As long as one receive buffer.
    let host = Host::start_with(|config| config.options.mtu = Some(2094))?;
    let _echo = host.echo()?;
    // Around one frame, two and many, and the greatest.
    let edges = [
        0..=9,
        1470..=1480,
        2061..=2071,
        4130..=4142,
        31_066..=31_078,
        LONGEST - 9..=LONGEST,
    ];
    for lengths in edges {
        udp_echo(&host.kernel, ECHO.parse()?, lengths)?;
    }
    Ok(())
}

/// The kernel cuts what it gets whole from the TAP interface, and verifies what we cut ourselves.
fn a_train_reaches_a_kernel_socket_as_datagrams(family: Family) -> Outcome<()> {
    let longest = family.choose(1472, 1452);
    for offloads in [true, false] {
        let host = family.start_with(|config| config.options.transmit_offloads = offloads)?;
        let sender = host.actor(&family.any(5000).to_string(), false)?;
        let to = family.kernel(6000);
        let socket = kernel_socket(&host.kernel, &to.to_string())?;
        for (length, size) in [(3000usize, 1000u16), (20_000, longest), (129, 128), (5, 2)] {
            let payload: Vec<u8> = (0..length).map(|at| (at * 7 + length) as u8).collect();
            let train = UdpSend {
                segment_size: Some(size),
                ..UdpSend::new(to, Payload::Bytes(payload.clone().into()))
            };
            host.send_with(&sender, train)?;
            let mut buffer = [0; 2000];
            for expected in payload.chunks(size.into()) {
                let got = socket.recv(&mut buffer)?;
                assert!(buffer[..got] == *expected, "{length} by {size}, {offloads}");
            }
        }
    }
    Ok(())
}

/// It keeps whole what it is told to cut if it must; fragments of ours it puts together.
fn a_long_datagram_is_one_frame_to_a_kernel_socket() -> Outcome<()> {
    let peer = "10.0.0.1:6000".parse()?;
    for offloads in [true, false] {
        let host = Host::start_with(|config| config.options.transmit_offloads = offloads)?;
        let sender = host.actor("0.0.0.0:5000", false)?;
        let socket = kernel_socket(&host.kernel, "10.0.0.1:6000")?;
        let mut buffer = vec![0; LONGEST + 1];
        // Besides the first one, a question to the neighbour.
        let mut frames = 1;
        for length in [1, 1472, 1473, 2953, 9000, LONGEST] {
            let payload: Vec<u8> = (0..length).map(|at| (at * 7 + length) as u8).collect();
            host.send(&sender, peer, &payload)?;
            let got = socket.recv(&mut buffer)?;
            assert!(buffer[..got] == payload, "{length}, {offloads}");
            frames += match offloads {
                true => 1,
                false => (length as u64 + 8).div_ceil(1480),
            };
            // It counts a frame after it has delivered it.
            let deadline = Instant::now() + LIMIT;
            while frames_of_the_kernel(&host)? < frames && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(frames_of_the_kernel(&host)?, frames, "{length}, {offloads}");
        }
    }
    Ok(())
}
