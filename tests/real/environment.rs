//! The means of the other tests, each shown to work without the stack: when one of these
//! fails, it is the machine that is to blame.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::support::clients::{LONGEST, flood_ping, is_refused, udp_echo};
use crate::support::namespace::Namespace;
use crate::support::process::Process;
use crate::support::requirement::{IP, PING, Requirement};
use crate::support::testpmd::{Options, Testpmd};
use crate::support::{Outcome, Suite, take_turn};

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
            "environment::the_kernel_answers_ping_of_all_sizes",
            &[Namespaces, IP, PING],
            the_kernel_answers_ping_of_all_sizes,
        ),
        suite.test(
            "environment::the_udp_client_accepts_an_echo_and_nothing_else",
            &[Namespaces, IP],
            the_udp_client_accepts_an_echo_and_nothing_else,
        ),
        suite.test(
            "environment::the_kernel_refuses_closed_ports",
            &[Namespaces, IP],
            the_kernel_refuses_closed_ports,
        ),
        suite.test(
            "environment::a_program_is_read_and_interrupted",
            &[],
            a_program_is_read_and_interrupted,
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

fn the_kernel_answers_ping_of_all_sizes() -> Outcome<()> {
    let namespace = Namespace::new()?;
    for size in [0, 1, 56, 1472, 1473, 8972, LONGEST] {
        flood_ping(&namespace, Ipv4Addr::LOCALHOST.into(), 10, size)?;
    }
    Ok(())
}

fn the_udp_client_accepts_an_echo_and_nothing_else() -> Outcome<()> {
    let namespace = Namespace::new()?;
    let server = namespace.enter(|| UdpSocket::bind("127.0.0.1:7"))??;
    let address = server.local_addr()?;
    let echo = thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = vec![0; LONGEST];
        loop {
            let (length, source) = server.recv_from(&mut buffer)?;
            match length {
                666 => buffer[333] ^= 1,
                13 => return Ok(()),
                _ => (),
            }
            server.send_to(&buffer[..length], source)?;
        }
    });
    udp_echo(&namespace, address, 0..=9)?;
    udp_echo(&namespace, address, LONGEST - 3..=LONGEST)?;
    let spoilt = udp_echo(&namespace, address, 665..=667).expect_err("a bit was turned");
    assert!(
        spoilt.to_string().contains("first difference at Some(333)"),
        "{spoilt}"
    );
    namespace.enter(|| UdpSocket::bind("127.0.0.1:0")?.send_to(&[0; 13], address))??;
    echo.join().expect("the server does not panic")?;
    Ok(())
}

fn the_kernel_refuses_closed_ports() -> Outcome<()> {
    let namespace = Namespace::new()?;
    assert!(is_refused(&namespace, (Ipv4Addr::LOCALHOST, 9).into())?);
    Ok(())
}

fn a_program_is_read_and_interrupted() -> Outcome<()> {
    let script = "trap 'echo bye; exit 3' INT; echo ready; read line; echo \"got $line\"; \
                  while :; do sleep 0.02; done";
    // A shell can not trap what was ignored when it began, as in whatever a script runs behind `&`.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", "sh", "-c", script]);
    let limit = Duration::from_secs(60);
    let mut program = Process::start(command, None)?;
    program.expect_line("ready", limit)?;
    program.write_line("a word")?;
    assert_eq!(program.expect_line("got", limit)?, "got a word");
    program.interrupt()?;
    let (status, printed) = program.wait(limit)?;
    assert_eq!(
        (status.code(), printed.lines().last()),
        (Some(3), Some("bye"))
    );
    Ok(())
}

fn dpdk_answers_its_own_backend() -> Outcome<()> {
    let _turn = take_turn();
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
        thread::sleep(Duration::from_millis(50));
    }
    driver.quit()?;
    backend.quit()
}
