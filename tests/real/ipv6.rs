//! IPv6 with Linux over TAP. The kernel finds the stack by neighbour solicitations; the stack knows
//! the kernel by its settings.

use libtest_mimic::Trial;

use super::family::Family;
use crate::support::clients::{LONGEST, flood_ping, is_refused, udp_echo};
use crate::support::requirement::{IP, PING, Requirement};
use crate::support::{Outcome, Suite};

/// Where the stack echoes.
const ECHO: &str = "[fd00::2]:7";

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    use Requirement::{Ipv6, Namespaces, Tun};
    vec![
        suite.test(
            "ipv6::pings_of_every_size_class",
            &[Namespaces, Tun, Ipv6, IP, PING],
            pings_of_every_size_class,
        ),
        suite.test(
            "ipv6::udp_echo_of_many_lengths",
            &[Namespaces, Tun, Ipv6, IP],
            udp_echo_of_many_lengths,
        ),
        suite.test(
            "ipv6::a_port_that_only_ipv4_has_is_refused",
            &[Namespaces, Tun, Ipv6, IP],
            a_port_that_only_ipv4_has_is_refused,
        ),
        suite.test(
            "ipv6::one_queue_and_three_cpus_answer_the_kernel",
            &[Namespaces, Tun, Ipv6, IP, PING],
            one_queue_and_three_cpus_answer_the_kernel,
        ),
    ]
}

fn pings_of_every_size_class() -> Outcome<()> {
    let host = Family::Ipv6.start()?;
    for size in [0, 1, 8, 56, 1451, 1452, 1453, 2900, 8972, 32_768, LONGEST] {
        flood_ping(&host.kernel, "fd00::2".parse()?, 20, size)?;
    }
    Ok(())
}

fn udp_echo_of_many_lengths() -> Outcome<()> {
    let host = Family::Ipv6.start()?;
    let _echo = host.actor("[::]:7", true)?;
    // Both families at one port.
    let _other = host.echo()?;
    for lengths in [
        0..=300,
        1440..=1460,
        2890..=2910,
        9000..=9010,
        LONGEST - 9..=LONGEST,
    ] {
        udp_echo(&host.kernel, ECHO.parse()?, lengths)?;
    }
    udp_echo(&host.kernel, super::host::ECHO.parse()?, 0..=9)
}

fn a_port_that_only_ipv4_has_is_refused() -> Outcome<()> {
    let host = Family::Ipv6.start()?;
    let _echo = host.echo()?;
    assert!(is_refused(&host.kernel, ECHO.parse()?)?);
    Ok(())
}

/// As over IPv4: pings and datagrams, whole and in fragments, from so many sockets that each cpu
/// owns the flows of some.
fn one_queue_and_three_cpus_answer_the_kernel() -> Outcome<()> {
    let host = Family::Ipv6.start_with(|config| config.cpus.count = 3)?;
    let _echoes = host.echo_on_each_at("[::]:7")?;
    for size in [0, 56, 1453, 8972] {
        flood_ping(&host.kernel, "fd00::2".parse()?, 20, size)?;
    }
    let server = ECHO.parse()?;
    for _ in 0..20 {
        udp_echo(&host.kernel, server, 0..=9)?;
        udp_echo(&host.kernel, server, 1450..=1455)?;
        udp_echo(&host.kernel, server, 9000..=9002)?;
    }
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
