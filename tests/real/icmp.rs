//! ICMP errors between Linux and the stack, and what UDP sets in the IP header.

use std::io::IoSliceMut;
use std::os::fd::AsRawFd;

use libtest_mimic::Trial;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt::IpRecvTos,
    sockopt::Ipv4RecvTtl,
};
use virtroupe::{Payload, SocketEvent, UdpErrorKind, UdpSend};

use super::family::Family;
use super::host::{Host, KERNEL, kernel_socket};
use crate::probe::Seen;
use crate::support::clients::is_refused;
use crate::support::requirement::{IP, Requirement};
use crate::support::{Outcome, Suite};

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    use Requirement::{Namespaces, Tun};
    let mut tests = vec![
        suite.test(
            "icmp::a_closed_port_refuses_the_kernel",
            &[Namespaces, Tun, IP],
            a_closed_port_refuses_the_kernel,
        ),
        suite.test(
            "icmp::the_kernel_sees_ttl_and_dscp_as_they_were_set",
            &[Namespaces, Tun, IP],
            the_kernel_sees_ttl_and_dscp_as_they_were_set,
        ),
    ];
    tests.extend(Family::tests(
        suite,
        "icmp::a_closed_port_of_the_kernel_is_told_to_the_socket",
        &[Namespaces, Tun, IP],
        a_closed_port_of_the_kernel_is_told_to_the_socket,
    ));
    tests
}

fn a_closed_port_refuses_the_kernel() -> Outcome<()> {
    let host = Host::start()?;
    let _echo = host.echo()?;
    assert!(is_refused(&host.kernel, "10.0.0.2:9".parse()?)?);
    Ok(())
}

fn a_closed_port_of_the_kernel_is_told_to_the_socket(family: Family) -> Outcome<()> {
    let host = family.start()?;
    let local = family.stack(1234);
    let mut actor = host.actor(&local.to_string(), false)?;
    let closed = family.kernel(9);
    host.send(&actor, closed, b"anybody there?")?;
    match host.next(&mut actor)? {
        Seen::Event(SocketEvent::Failed(error)) => {
            assert_eq!(error.kind, UdpErrorKind::PortUnreachable);
            assert_eq!((error.peer, error.local), (closed, local));
        }
        other => panic!("an error is expected, not {other:?}"),
    }
    Ok(())
}

fn the_kernel_sees_ttl_and_dscp_as_they_were_set() -> Outcome<()> {
    let host = Host::start()?;
    let actor = host.actor("10.0.0.2:1234", false)?;
    let socket = kernel_socket(&host.kernel, &format!("{KERNEL}:4321"))?;
    setsockopt(&socket, Ipv4RecvTtl, &true)?;
    setsockopt(&socket, IpRecvTos, &true)?;
    for (ttl, dscp_ecn) in [(None, 0), (Some(1), 46 << 2), (Some(255), 0xff)] {
        let payload = Payload::Bytes(vec![7; 10].into());
        let mut send = UdpSend::new(socket.local_addr()?, payload);
        (send.ttl, send.dscp_ecn) = (ttl, dscp_ecn);
        host.send_with(&actor, send)?;
        let mut buffer = [0; 16];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let mut space = nix::cmsg_space!(i32, u8);
        let received = recvmsg::<SockaddrIn>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::empty(),
        )?;
        let mut seen = (None, None);
        for message in received.cmsgs()? {
            match message {
                ControlMessageOwned::Ipv4Ttl(ttl) => seen.0 = Some(ttl),
                ControlMessageOwned::Ipv4Tos(tos) => seen.1 = Some(tos),
                _ => (),
            }
        }
        let expected = i32::from(ttl.unwrap_or(64));
        assert_eq!(seen, (Some(expected), Some(dscp_ecn)));
    }
    Ok(())
}
