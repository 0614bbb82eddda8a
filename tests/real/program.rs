//! The echo server as its user sees it: what it costs when idle, and how it fails.

use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::support::clients::{flood_ping, udp_echo};
use crate::support::namespace::Namespace;
use crate::support::process::{Process, TemporaryPath, example};
use crate::support::requirement::{IP, PING, Requirement, TSHARK};
use crate::support::testpmd::{Options, Testpmd};
use crate::support::{Outcome, Suite, take_turn};

/// A program that has not done it by then hangs.
const LIMIT: Duration = Duration::from_secs(30);
/// For how long an idle program is watched.
const IDLE: Duration = Duration::from_secs(10);

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    use Requirement::{Dpdk, Namespaces, Root, Tun};
    vec![
        suite.test(
            "program::idle_over_tap_costs_no_cpu",
            &[Namespaces, Tun, IP],
            idle_over_tap_costs_no_cpu,
        ),
        suite.test(
            "program::idle_over_vhost_user_costs_no_cpu",
            &[Dpdk { huge_pages: 512 }],
            idle_over_vhost_user_costs_no_cpu,
        ),
        suite.test(
            "program::no_permission_for_tap",
            &[Root, Tun],
            no_permission_for_tap,
        ),
        suite.test(
            "program::an_interface_that_is_in_use",
            &[Namespaces, Tun, IP],
            an_interface_that_is_in_use,
        ),
        suite.test(
            "program::a_killed_backend_ends_it_with_one_line",
            &[Dpdk { huge_pages: 512 }],
            a_killed_backend_ends_it_with_one_line,
        ),
        suite.test(
            "program::tshark_reads_a_capture",
            &[Namespaces, Tun, IP, PING, TSHARK],
            tshark_reads_a_capture,
        ),
    ]
}

fn echo_server(arguments: &str) -> Outcome<Command> {
    let mut command = Command::new(example("echo_server")?);
    command.args(arguments.split_whitespace());
    Ok(command)
}

/// Watches `program` for a while and checks that it used less than 1 % of a cpu.
fn expect_idle(program: &Process) -> Outcome<()> {
    let before = program.cpu_time()?;
    thread::sleep(IDLE);
    let used = program.cpu_time()? - before;
    assert!(
        used < IDLE / 100,
        "idle for {IDLE:?}, it used {used:?} of cpu time"
    );
    Ok(())
}

fn idle_over_tap_costs_no_cpu() -> Outcome<()> {
    let kernel = Namespace::new()?;
    kernel.ip("tuntap add dev vt0 mode tap vnet_hdr")?;
    kernel.ip("address add 10.0.0.1/24 dev vt0")?;
    let server = echo_server("--tap vt0 --ip 10.0.0.2/24")?;
    let server = Process::start(server, Some(&kernel))?;
    wait_for_echo(&kernel)?;
    expect_idle(&server)?;
    udp_echo(&kernel, "10.0.0.2:7".parse()?, 100..=110)
}

/// Asks until there is an answer.
fn wait_for_echo(kernel: &Namespace) -> Outcome<()> {
    kernel.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            // Refused while the interface is down.
            let _ = socket.send_to(b"up?", "10.0.0.2:7");
            if socket.recv(&mut [0; 16]).is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(format!("no echo within {LIMIT:?}").into())
    })?
}

fn idle_over_vhost_user_costs_no_cpu() -> Outcome<()> {
    let _turn = take_turn();
    let (mut backend, server) = echo_server_on_dpdk("idle")?;
    expect_idle(&server)?;
    backend.forward()?;
    wait_for_answers(&mut backend)?;
    server.interrupt()?;
    let (status, printed) = server.wait(LIMIT)?;
    assert!(status.success(), "{status}: {printed}");
    backend.quit()
}

/// A backend that will generate flows once told to, and the program connected to it.
fn echo_server_on_dpdk(role: &str) -> Outcome<(Testpmd, Process)> {
    // Once they are connected, they need its file no more.
    let socket = TemporaryPath::new(role);
    let backend = Testpmd::start(&Options {
        role,
        core: 0,
        vdev: format!("net_vhost0,iface={},queues=1", socket.display()),
        forward: vec!["--forward-mode=flowgen".into()],
        namespace: None,
    })?;
    let mut command = echo_server(
        "--mac 00:01:02:03:04:01 --ip 10.253.0.0/22 \
         --neighbor 10.254.0.0=00:01:02:03:04:00 --port 1001 --vhost-user",
    )?;
    command.arg(&*socket).env("RUST_LOG", "virtroupe=debug");
    let mut server = Process::start(command, None)?;
    server.expect_line("receive", LIMIT)?;
    Ok((backend, server))
}

fn wait_for_answers(backend: &mut Testpmd) -> Outcome<()> {
    let deadline = Instant::now() + LIMIT;
    while backend.port_stats()?.received < 10_000 {
        assert!(Instant::now() < deadline, "no answers");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Expects that the program ends with one line that contains `words`.
fn fails(command: Command, kernel: Option<&Namespace>, words: &[&str]) -> Outcome<()> {
    let (status, printed) = Process::start(command, kernel)?.wait(LIMIT)?;
    assert_eq!(status.code(), Some(1), "{printed}");
    assert_eq!(printed.lines().count(), 1, "{printed}");
    for word in words {
        assert!(printed.contains(word), "'{word}' is not in: {printed}");
    }
    Ok(())
}

fn no_permission_for_tap() -> Outcome<()> {
    // The program may lie where only root may go.
    let folder = TemporaryPath::new("denied");
    std::fs::create_dir_all(&*folder)?;
    let copy = folder.join("echo_server");
    std::fs::copy(example("echo_server")?, &copy)?;
    let mut command = Command::new(copy);
    let nobody = 65_534;
    command.args(["--tap", "vt-denied", "--ip", "10.0.0.2/24"]);
    command.current_dir("/").uid(nobody).gid(nobody);
    fails(
        command,
        None,
        &[
            "error: ",
            "stage 'device'",
            "permission denied",
            "--sandbox",
            "as root",
        ],
    )
}

fn an_interface_that_is_in_use() -> Outcome<()> {
    let kernel = Namespace::new()?;
    kernel.ip("tuntap add dev vt0 mode tap vnet_hdr")?;
    kernel.ip("address add 10.0.0.1/24 dev vt0")?;
    let first = echo_server("--tap vt0 --ip 10.0.0.2/24")?;
    let _first = Process::start(first, Some(&kernel))?;
    wait_for_echo(&kernel)?;
    fails(
        echo_server("--tap vt0 --ip 10.0.0.3/24")?,
        Some(&kernel),
        &["stage 'device'", "vt0", "choose another name"],
    )
}

fn a_killed_backend_ends_it_with_one_line() -> Outcome<()> {
    let _turn = take_turn();
    let (mut backend, server) = echo_server_on_dpdk("killed")?;
    backend.forward()?;
    wait_for_answers(&mut backend)?;
    drop(backend);
    let (status, printed) = server.wait(LIMIT)?;
    assert_eq!(status.code(), Some(1), "{printed}");
    let errors: Vec<&str> = printed
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{printed}");
    assert!(errors[0].contains("device is lost"), "{printed}");
    Ok(())
}

fn tshark_reads_a_capture() -> Outcome<()> {
    let file = TemporaryPath::new("capture");
    let kernel = Namespace::new()?;
    let mut command = Command::new(example("capture")?);
    command.args(["--tap", "vt0", "--ip", "10.0.0.2/24", "--filter", "icmp"]);
    command.arg("--write").arg(&*file);
    let mut capture = Process::start(command, Some(&kernel))?;
    capture.expect_line("captured 0 packets", LIMIT)?;
    kernel.ip("address add 10.0.0.1/24 dev vt0")?;
    flood_ping(&kernel, "10.0.0.2".parse()?, 20, 500)?;
    capture.interrupt()?;
    let (status, printed) = capture.wait(LIMIT)?;
    assert!(status.success(), "{printed}");
    // Bad checksums and cut frames would be told.
    let path = file.display().to_string();
    let fields = "-T fields -e icmp.type -e frame.len -e frame.cap_len -e icmp.checksum.status";
    let mut arguments = vec!["-n", "-r", &path];
    arguments.extend(fields.split(' '));
    // It crashes over a home that it may not read, which root of a user namespace may have.
    arguments.splice(..0, ["HOME=/nonexistent", "tshark"]);
    let read = kernel.run("env", &arguments)?;
    let requests = read.lines().filter(|line| *line == "8\t542\t542\t1");
    assert_eq!(requests.count(), 20, "{read}");
    Ok(())
}
