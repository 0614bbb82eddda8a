//! Linux and the stack find each other's Ethernet address.

use libtest_mimic::Trial;

use super::host::{ECHO, Host, INTERFACE, KERNEL, kernel_socket};
use crate::support::clients::udp_echo;
use crate::support::requirement::{IP, Requirement};
use crate::support::{Outcome, Suite};

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    use Requirement::{Namespaces, Tun};
    vec![
        suite.test(
            "neighbors::the_kernel_resolves_the_stack",
            &[Namespaces, Tun, IP],
            the_kernel_resolves_the_stack,
        ),
        suite.test(
            "neighbors::the_stack_resolves_the_kernel",
            &[Namespaces, Tun, IP],
            the_stack_resolves_the_kernel,
        ),
        suite.test(
            "neighbors::the_stack_follows_a_gratuitous_arp",
            &[Namespaces, Tun, IP],
            the_stack_follows_a_gratuitous_arp,
        ),
    ]
}

fn the_kernel_resolves_the_stack() -> Outcome<()> {
    let host = Host::start()?;
    let _echo = host.echo()?;
    for _ in 0..3 {
        host.kernel.ip(&format!("neigh flush dev {INTERFACE}"))?;
        udp_echo(&host.kernel, ECHO.parse()?, 100..=101)?;
        let neighbor = host.kernel.ip("neigh show 10.0.0.2")?;
        assert!(neighbor.contains("lladdr 02:00:00:00:00:02"), "{neighbor}");
    }
    Ok(())
}

fn the_stack_resolves_the_kernel() -> Outcome<()> {
    let host = Host::start()?;
    // The kernel has sent nothing, so the stack has to ask.
    let actor = host.actor("10.0.0.2:1234", false)?;
    let socket = kernel_socket(&host.kernel, &format!("{KERNEL}:4321"))?;
    for payload in [&b"first"[..], b"second"] {
        host.send(&actor, socket.local_addr()?, payload)?;
        let mut buffer = [0; 16];
        let (length, source) = socket.recv_from(&mut buffer)?;
        assert_eq!(&buffer[..length], payload);
        assert_eq!(source, "10.0.0.2:1234".parse()?);
    }
    Ok(())
}

fn the_stack_follows_a_gratuitous_arp() -> Outcome<()> {
    let host = Host::start()?;
    let actor = host.actor("10.0.0.2:1234", false)?;
    let _echo = host.echo()?;
    let socket = kernel_socket(&host.kernel, &format!("{KERNEL}:4321"))?;
    let mut buffer = [0; 16];
    host.send(&actor, socket.local_addr()?, b"before")?;
    socket.recv_from(&mut buffer)?;
    // The kernel neither asks for the stack's address again, which would tell its own, nor sees
    // a reason to: it says its new address by a gratuitous ARP alone.
    host.kernel.ip(&format!(
        "neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 nud permanent dev {INTERFACE}"
    ))?;
    let announce = format!("echo 1 > /proc/sys/net/ipv4/conf/{INTERFACE}/arp_notify");
    host.kernel.run("sh", &["-c", &announce])?;
    host.kernel
        .ip(&format!("link set {INTERFACE} address 02:00:00:00:00:99"))?;
    host.kernel.ip(&format!(
        "neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 nud permanent dev {INTERFACE}"
    ))?;
    // This follows the announcement on the link, so its answer shows what became of that.
    udp_echo(&host.kernel, ECHO.parse()?, 100..=101)?;
    host.send(&actor, socket.local_addr()?, b"after")?;
    let (length, _) = socket.recv_from(&mut buffer)?;
    assert_eq!(&buffer[..length], b"after");
    Ok(())
}
