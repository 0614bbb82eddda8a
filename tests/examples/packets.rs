//! `capture`, `responder` and `generator`: the packet API, with the kernel as the other end.

use std::fs::{self, File};
use std::io::BufReader;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Trial;
use pcap_file::pcapng::{Block, PcapNgReader};

use crate::path;
use crate::support::clients::flood_ping;
use crate::support::namespace::Namespace;
use crate::support::process::Process;
use crate::support::requirement::{IP, PING, Requirement};
use crate::support::{Outcome, Suite};

/// How long a program may take to start or end. Far more than it takes.
const LIMIT: Duration = Duration::from_secs(30);
const PINGS: u64 = 1000;
/// Bytes of payload: the frames have 1442.
const SIZE: usize = 1400;

pub fn tests(suite: &Suite) -> Vec<Trial> {
    let needs = [Requirement::Namespaces, Requirement::Tun, IP, PING];
    vec![
        suite.test("a_capture_has_every_matching_frame", &needs, captures),
        suite.test("the_responder_answers_pings", &needs, responds),
        suite.test("what_the_generator_sends_arrives", &needs[..3], generates),
    ]
}

/// Pings the stack behind TAP interface `cap0` of `namespace`, all of which must be answered.
fn ping(namespace: &Namespace) -> Outcome<()> {
    namespace.ip("address add 10.0.0.1/24 dev cap0")?;
    flood_ping(namespace, "10.0.0.2".parse()?, PINGS, SIZE)
}

fn captures() -> Outcome<()> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("capture");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let namespace = Namespace::new()?;
    let mut command = Command::new(path("capture")?);
    command.args(["--tap", "cap0", "--ip", "10.0.0.2/24", "--filter", "icmp"]);
    command.args(["--rotate-mib", "1", "--write"]);
    command.arg(folder.join("ping.pcapng"));
    let mut capture = Process::start(command, Some(&namespace))?;
    capture.expect_line("captured 0 packets", LIMIT)?;
    ping(&namespace)?;
    capture.interrupt()?;
    let (status, printed) = capture.wait(LIMIT)?;
    let first = frames(&folder.join("ping-00001.pcapng"))?;
    let second = frames(&folder.join("ping-00002.pcapng"))?;
    let all = [first.as_slice(), second.as_slice()].concat();
    let is_ping = |frame: &&Vec<u8>| frame.len() == SIZE + 42 && frame[34] == 8;
    let pings = all.iter().filter(is_ping).count() as u64;
    // A mebibyte takes 728 of these frames, less what their blocks need.
    let is_rotated = (700..728).contains(&first.len());
    match status.success() && pings == PINGS && is_rotated {
        true => Ok(()),
        false => Err(format!(
            "{pings} pings of {PINGS}, {} frames in the first file:\n{printed}",
            first.len()
        )
        .into()),
    }
}

/// The frames in a pcapng file with one Ethernet interface.
fn frames(path: &std::path::Path) -> Outcome<Vec<Vec<u8>>> {
    let mut reader = PcapNgReader::new(BufReader::new(File::open(path)?))?;
    let mut frames = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block? {
            if packet.original_len as usize != packet.data.len() {
                return Err("a frame was cut".into());
            }
            frames.push(packet.data.into_owned());
        }
    }
    Ok(frames)
}

fn responds() -> Outcome<()> {
    let namespace = Namespace::new()?;
    let mut command = Command::new(path("responder")?);
    command.args(["--tap", "cap0", "--answer", "10.0.0.2"]);
    let mut responder = Process::start(command, Some(&namespace))?;
    responder.expect_line("answering for 10.0.0.2", LIMIT)?;
    ping(&namespace)?;
    responder.interrupt()?;
    let (status, printed) = responder.wait(LIMIT)?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("the responder did not end well:\n{printed}").into()),
    }
}

fn generates() -> Outcome<()> {
    let namespace = Namespace::new()?;
    let mut command = Command::new(path("generator")?);
    command.args(["--tap", "cap0", "--length", "100"]);
    let mut generator = Process::start(command, Some(&namespace))?;
    generator.expect_line("sending frames of 100 bytes", LIMIT)?;
    namespace.ip("address add 198.18.0.2/15 dev cap0")?;
    let socket = namespace.enter(|| UdpSocket::bind("198.18.0.2:9"))??;
    socket.set_read_timeout(Some(LIMIT))?;
    // Far more than the ring holds at once.
    for _ in 0..10_000 {
        let (length, from) = socket.recv_from(&mut [0; 2048])?;
        if length != 100 - 42 || from != ([198, 18, 0, 1], 9).into() {
            return Err(format!("{length} bytes of payload from {from}").into());
        }
    }
    generator.interrupt()?;
    let (status, printed) = generator.wait(LIMIT)?;
    match status.success() && printed.contains("sent_packets") {
        true => Ok(()),
        false => Err(format!("the generator did not end well:\n{printed}").into()),
    }
}
