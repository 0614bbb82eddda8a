//! The stack behind a Linux router, with a narrower link beyond it.
//!
//! ```text
//! stack 10.0.0.2 --tap-- 10.0.0.1 router 10.1.0.1 --veth, narrow-- 10.1.0.2 client
//!       fd00::2          fd00::1         fd01::1                  fd01::2
//! ```

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use libtest_mimic::Trial;
use virtroupe::{ListenOptions, SocketEvent, UdpErrorKind};

use super::family::Family;
use super::host::{Host, kernel_socket};
use super::stream;
use crate::probe::Seen;
use crate::support::clients::{LONGEST, udp_echo};
use crate::support::namespace::Namespace;
use crate::support::requirement::{IP, Requirement};
use crate::support::{Outcome, Suite};

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    use Requirement::{Namespaces, Tun};
    let test = |name, body: fn(Family) -> Outcome<()>| {
        Family::tests(suite, name, &[Namespaces, Tun, IP], body)
    };
    let tests = [
        test(
            "paths::a_client_behind_the_gateway_is_answered",
            a_client_behind_the_gateway_is_answered,
        ),
        test(
            "paths::the_mtu_of_a_path_is_learnt_from_the_router",
            the_mtu_of_a_path_is_learnt_from_the_router,
        ),
        test(
            "paths::a_stream_goes_on_when_its_path_becomes_narrow",
            a_stream_goes_on_when_its_path_becomes_narrow,
        ),
    ];
    tests.into_iter().flatten().collect()
}

/// A stack whose gateway is the kernel, and the namespace of a client beyond it, on a link that
/// carries packets of `mtu` bytes.
fn routed(family: Family, mtu: u16) -> Outcome<(Host, Namespace)> {
    let gateway = family.host(1);
    let host = family.start_with(|config| config.host.gateway = Some(gateway))?;
    let (router, client) = (&host.kernel, Namespace::new()?);
    router.ip(&format!(
        "link add inner type veth peer name outer netns {}",
        client.path()
    ))?;
    let [inner, outer] = [1, 2].map(|number| beyond(family, number));
    let forward = family.choose("ipv4/ip_forward", "ipv6/conf/all/forwarding");
    let forward = format!("echo 1 > /proc/sys/net/{forward}");
    router.run("sh", &["-c", &forward])?;
    for (kernel, interface, address) in [(router, "inner", inner), (&client, "outer", outer)] {
        kernel.ip(&format!("link set {interface} mtu {mtu} up"))?;
        family.add_address(kernel, interface, address)?;
    }
    client.ip(&format!("route add default via {inner}"))?;
    family.wait_for_address(router, "inner", inner)?;
    family.wait_for_address(&client, "outer", outer)?;
    Ok((host, client))
}

/// An address of the narrow link.
fn beyond(family: Family, number: u8) -> IpAddr {
    family.choose(
        Ipv4Addr::new(10, 1, 0, number).into(),
        Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, number.into()).into(),
    )
}

/// A path that carries packets of `mtu` bytes, and the longest datagram in one: IPv6 has no link
/// with an MTU of less than 1280 bytes (RFC 8200, section 5).
fn narrow(family: Family) -> (u16, usize) {
    family.choose((1000, 1000 - 28), (1280, 1280 - 48))
}

fn a_client_behind_the_gateway_is_answered(family: Family) -> Outcome<()> {
    let (mtu, longest) = narrow(family);
    let (host, client) = routed(family, mtu)?;
    let _echo = host.actor(&family.any(7).to_string(), true)?;
    // What the stack sends in answer needs no fragmentation.
    udp_echo(&client, family.stack(7), 0..=longest)
}

fn the_mtu_of_a_path_is_learnt_from_the_router(family: Family) -> Outcome<()> {
    let (mtu, longest) = narrow(family);
    let (host, client) = routed(family, mtu)?;
    let ours = family.stack(1234);
    let mut actor = host.actor(&ours.to_string(), false)?;
    let _echo = host.actor(&family.any(7).to_string(), true)?;
    let peer = SocketAddr::new(beyond(family, 2), 4321);
    let socket = kernel_socket(&client, &peer.to_string())?;
    host.send(&actor, peer, &[1; 1400])?;
    match host.next(&mut actor)? {
        Seen::Event(SocketEvent::Failed(error)) => {
            assert_eq!(error.kind, UdpErrorKind::FragmentationNeeded { mtu });
            assert_eq!(error.peer, peer);
        }
        other => panic!("an error is expected, not {other:?}"),
    }
    // From now on it arrives, in fragments.
    host.send(&actor, peer, &[2; 1400])?;
    let mut buffer = [0; 2000];
    assert_eq!(socket.recv_from(&mut buffer)?, (1400, ours));
    assert_eq!(buffer[..1400], [2; 1400]);
    for lengths in [
        longest - 12..=longest + 18,
        1440..=1480,
        LONGEST - 3..=LONGEST,
    ] {
        udp_echo(&client, family.stack(7), lengths)?;
    }
    Ok(())
}

fn a_stream_goes_on_when_its_path_becomes_narrow(family: Family) -> Outcome<()> {
    const LENGTH: u64 = 16 << 20;
    let (host, client) = routed(family, 1500)?;
    let (report, ours) = channel();
    host.run(move |local| async move {
        let listening = local.listen_tcp(family.any(5001), ListenOptions::default());
        let listener = listening.await?;
        actix::spawn(async move {
            let mut stream = listener.accept().await?;
            let written = stream::write_async(&mut stream, LENGTH).await;
            let _ = report.send((written, stream.stats().map(|stats| stats.segment_size)));
            stream.linger().await
        });
        Ok::<_, virtroupe::BindError>(())
    })??;
    let mut kernel = client.enter(|| TcpStream::connect(family.stack(5001)))??;
    kernel.set_read_timeout(Some(Duration::from_secs(60)))?;
    // Something arrives as before; then nothing longer than 1280 bytes does.
    kernel.read_exact(&mut vec![0; 1 << 20])?;
    client.ip("link set outer mtu 1280")?;
    host.kernel.ip("link set inner mtu 1280")?;
    let mut rest = Vec::new();
    kernel.read_to_end(&mut rest)?;
    assert_eq!(rest.len() as u64, LENGTH - (1 << 20));
    let right = |(at, byte): (usize, &u8)| *byte == ((at + (1 << 20)) % 251) as u8;
    assert!(rest.iter().enumerate().all(right), "the content is another");
    let (written, segment_size) = ours.recv_timeout(Duration::from_secs(10))?;
    written?;
    // Less both headers, and 12 bytes for timestamps.
    assert_eq!(segment_size, Some(1280 - family.choose(20, 40) - 20 - 12));
    Ok(())
}
