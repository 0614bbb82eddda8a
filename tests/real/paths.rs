//! The stack behind a Linux router, with a narrower link beyond it.
//!
//! ```text
//! stack 10.0.0.2 --tap-- 10.0.0.1 router 10.1.0.1 --veth, narrow-- 10.1.0.2 client
//! ```

use std::io::Read;
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::time::Duration;

use libtest_mimic::Trial;
use virtroupe::{ListenOptions, SocketEvent, UdpErrorKind};

use super::host::{ECHO, Host, kernel_socket};
use super::stream;
use crate::probe::Seen;
use crate::support::clients::{LONGEST, udp_echo};
use crate::support::namespace::Namespace;
use crate::support::requirement::{IP, Requirement};
use crate::support::{Outcome, Suite};

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    use Requirement::{Namespaces, Tun};
    vec![
        suite.test(
            "paths::a_client_behind_the_gateway_is_answered",
            &[Namespaces, Tun, IP],
            a_client_behind_the_gateway_is_answered,
        ),
        suite.test(
            "paths::the_mtu_of_a_path_is_learnt_from_the_router",
            &[Namespaces, Tun, IP],
            the_mtu_of_a_path_is_learnt_from_the_router,
        ),
        suite.test(
            "paths::a_stream_goes_on_when_its_path_becomes_narrow",
            &[Namespaces, Tun, IP],
            a_stream_goes_on_when_its_path_becomes_narrow,
        ),
    ]
}

/// A stack whose gateway is the kernel, and the namespace of a client beyond it, on a link that
/// carries packets of `mtu` bytes.
fn routed(mtu: u16) -> Outcome<(Host, Namespace)> {
    let gateway = "10.0.0.1".parse()?;
    let host = Host::start_with(|config| config.host.gateway = Some(gateway))?;
    let (router, client) = (&host.kernel, Namespace::new()?);
    router.ip(&format!(
        "link add inner type veth peer name outer netns {}",
        client.path()
    ))?;
    router.ip("address add 10.1.0.1/24 dev inner")?;
    router.ip(&format!("link set inner mtu {mtu} up"))?;
    router.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
    client.ip("address add 10.1.0.2/24 dev outer")?;
    client.ip(&format!("link set outer mtu {mtu} up"))?;
    client.ip("route add default via 10.1.0.1")?;
    Ok((host, client))
}

fn a_client_behind_the_gateway_is_answered() -> Outcome<()> {
    let (host, client) = routed(1000)?;
    let _echo = host.echo()?;
    // The stack's packets of up to 1000 bytes need no fragmentation.
    udp_echo(&client, ECHO.parse()?, 0..=972)
}

fn the_mtu_of_a_path_is_learnt_from_the_router() -> Outcome<()> {
    let (host, client) = routed(1000)?;
    let mut actor = host.actor("10.0.0.2:1234", false)?;
    let _echo = host.echo()?;
    let socket = kernel_socket(&client, "10.1.0.2:4321")?;
    let peer = socket.local_addr()?;
    host.send(&actor, peer, &[1; 1400])?;
    match host.next(&mut actor)? {
        Seen::Event(SocketEvent::Failed(error)) => {
            assert_eq!(error.kind, UdpErrorKind::FragmentationNeeded { mtu: 1000 });
            assert_eq!(error.peer, peer);
        }
        other => panic!("an error is expected, not {other:?}"),
    }
    // From now on it arrives, in fragments.
    host.send(&actor, peer, &[2; 1400])?;
    let mut buffer = [0; 2000];
    assert_eq!(
        socket.recv_from(&mut buffer)?,
        (1400, "10.0.0.2:1234".parse()?)
    );
    assert_eq!(buffer[..1400], [2; 1400]);
    for lengths in [960..=990, 1460..=1480, LONGEST - 3..=LONGEST] {
        udp_echo(&client, ECHO.parse()?, lengths)?;
    }
    Ok(())
}

fn a_stream_goes_on_when_its_path_becomes_narrow() -> Outcome<()> {
    const LENGTH: u64 = 16 << 20;
    let (host, client) = routed(1500)?;
    let (report, ours) = channel();
    host.run(move |local| async move {
        let any = "0.0.0.0:5001".parse().expect("an address");
        let listener = local.listen_tcp(any, ListenOptions::default()).await?;
        actix::spawn(async move {
            let mut stream = listener.accept().await?;
            let written = stream::write_async(&mut stream, LENGTH).await;
            let _ = report.send((written, stream.stats().map(|stats| stats.segment_size)));
            stream.linger().await
        });
        Ok::<_, virtroupe::BindError>(())
    })??;
    let mut kernel = client.enter(|| TcpStream::connect("10.0.0.2:5001"))??;
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
    // Less 20 bytes for each header, and 12 for timestamps.
    assert_eq!(segment_size, Some(1228));
    Ok(())
}
