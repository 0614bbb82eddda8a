//! The means of the other tests, each shown to work without the stack: when one of these
//! fails, it is the machine that is to blame.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::support::namespace::Namespace;
use crate::support::requirement::{IP, Requirement};
use crate::support::testpmd::{Options, Testpmd};
use crate::support::{Outcome, Suite};

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    use Requirement::{Dpdk, Namespaces, Tun};
    vec![
        suite.test(
            "environment::a_tap_exists_in_its_namespace_only",
            &[Namespaces, Tun, IP],
            a_tap_exists_in_its_namespace_only,
        ),
        suite.test(
            "environment::sockets_of_two_namespaces_do_not_meet",
            &[Namespaces, IP],
            sockets_of_two_namespaces_do_not_meet,
        ),
        suite.test(
            "environment::dpdk_answers_its_own_backend",
            &[Dpdk { huge_pages: 512 }],
            dpdk_answers_its_own_backend,
        ),
    ]
}

fn a_tap_exists_in_its_namespace_only() -> Outcome<()> {
    let (inside, outside) = (Namespace::new()?, Namespace::new()?);
    inside.ip("tuntap add dev tap-env mode tap vnet_hdr")?;
    inside.ip("address add 10.9.0.1/24 dev tap-env")?;
    inside.ip("link set tap-env up")?;
    assert!(inside.ip("-brief link show")?.contains("tap-env"));
    assert!(inside.ip("route show")?.contains("10.9.0.0/24 dev tap-env"));
    assert!(!outside.ip("-brief link show")?.contains("tap-env"));
    Ok(())
}

fn sockets_of_two_namespaces_do_not_meet() -> Outcome<()> {
    let (left, right) = (Namespace::new()?, Namespace::new()?);
    let bind = || UdpSocket::bind("127.0.0.1:7");
    let (server, other_server) = (left.enter(bind)??, right.enter(bind)??);
    let client = left.enter(|| UdpSocket::bind("127.0.0.1:0"))??;
    client.send_to(b"hello", "127.0.0.1:7")?;
    server.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut buffer = [0; 16];
    let (length, source) = server.recv_from(&mut buffer)?;
    assert_eq!(
        (&buffer[..length], source),
        (&b"hello"[..], client.local_addr()?)
    );
    // The kernel delivers over loopback within send_to, so nothing is on its way any more.
    other_server.set_nonblocking(true)?;
    assert!(other_server.recv_from(&mut buffer).is_err());
    Ok(())
}

fn dpdk_answers_its_own_backend() -> Outcome<()> {
    let folder = std::env::temp_dir();
    let socket = folder.join(format!("virtroupe-environment-{}.sock", std::process::id()));
    let start = |role, core, vdev, mode: &str| {
        Testpmd::start(&Options {
            role,
            core,
            vdev,
            forward: vec![format!("--forward-mode={mode}")],
            namespace: None,
        })
    };
    let path = socket.display();
    let mut backend = start(
        "test-backend",
        0,
        format!("net_vhost0,iface={path},queues=1"),
        "flowgen",
    )?;
    backend.forward()?;
    let mut driver = start(
        "test-driver",
        1,
        format!("net_virtio_user0,path={path},queues=1"),
        "5tswap",
    )?;
    driver.forward()?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while backend.port_stats()?.received < 1000 {
        assert!(
            Instant::now() < deadline,
            "no packet came back: {:?}",
            driver.port_stats()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    driver.quit()?;
    backend.quit()
}
