//! The clients of the Linux kernel that a stack has to answer.
//!
//! They are shown to be right against the kernel's own stack in `real::environment`.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::Outcome;
use super::namespace::Namespace;

/// The longest UDP payload over IPv4: 65 535 less 20 of IP (RFC 791) and 8 of UDP (RFC 768).
/// It is the longest payload of an echo request too.
pub const LONGEST: usize = 65_507;

/// How long a client waits for one answer. Far more than it takes: only a lost packet waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends `count` echo requests with `size` bytes of payload, the next as soon as the last one
/// was answered, and has `ping` verify the content of what comes back. Each must be answered.
///
/// The kernel counts the answers: `ping` itself waits for its last one for twice the longest round
/// trip that it has seen, which is too short where a thread has to wait for a core once.
pub fn flood_ping(namespace: &Namespace, target: IpAddr, count: u64, size: usize) -> Outcome<()> {
    let is_ipv6 = target.is_ipv6();
    let before = echo_replies(namespace, is_ipv6)?;
    let (target, count_text, size) = (target.to_string(), count.to_string(), size.to_string());
    let arguments = [
        "-f",
        "-q",
        "-n",
        "-c",
        &count_text,
        "-s",
        &size,
        "-W",
        "10",
        &target,
    ];
    let printed = namespace.run("ping", &arguments)?;
    if printed.contains("wrong data byte") {
        return Err(format!("ping got back other content than it sent:\n{printed}").into());
    }
    if !printed.contains(&format!("{count} packets transmitted")) {
        return Err(format!("ping did not send {count} requests:\n{printed}").into());
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answered = echo_replies(namespace, is_ipv6)? - before;
        if answered == count {
            return Ok(());
        }
        if answered > count || Instant::now() > deadline {
            let size = format!("{count} requests of {size} bytes");
            return Err(format!("{answered} answers to {size}:\n{printed}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Echo replies that the kernel has received in a namespace.
fn echo_replies(namespace: &Namespace, is_ipv6: bool) -> Outcome<u64> {
    let value = match is_ipv6 {
        // One counter a line.
        true => {
            let counters = namespace.run("cat", &["/proc/self/net/snmp6"])?;
            let line = counters
                .lines()
                .find_map(|line| line.strip_prefix("Icmp6InEchoReplies"));
            line.map(|value| value.trim().to_owned())
        }
        // A line of names, and one of values.
        false => {
            let counters = namespace.run("cat", &["/proc/self/net/snmp"])?;
            let mut lines = counters.lines().filter(|line| line.starts_with("Icmp:"));
            let (names, values) = lines.next().zip(lines.next()).ok_or("no ICMP counters")?;
            let mut columns = names.split(' ').zip(values.split(' '));
            let replies = columns.find(|(name, _)| *name == "InEchoReps");
            replies.map(|(_, value)| value.to_owned())
        }
    };
    Ok(value.ok_or("echo replies are not counted")?.parse()?)
}

/// Sends one datagram of each length to an echo server and compares every answer. A few are
/// under way at a time; answers may come in any order, and each has to come once.
pub fn udp_echo(
    namespace: &Namespace,
    server: SocketAddr,
    lengths: RangeInclusive<usize>,
) -> Outcome<()> {
    namespace.enter(|| {
        let socket = connected(server)?;
        let pattern = pattern();
        let mut answer = vec![0; LONGEST + 1];
        let mut waiting = BTreeSet::new();
        let mut lengths = lengths.peekable();
        while lengths.peek().is_some() || !waiting.is_empty() {
            while let Some(&length) = lengths.peek()
                && waiting.len() < window(length)
            {
                socket.send(content(&pattern, length))?;
                waiting.insert(length);
                lengths.next();
            }
            let received = socket.recv(&mut answer).map_err(|error| {
                format!("no echo from {server} of the lengths {waiting:?}: {error}")
            })?;
            let (answer, sent) = (
                &answer[..received],
                content(&pattern, received.min(LONGEST)),
            );
            if !waiting.remove(&received) {
                return Err(format!("{received} bytes came back without being sent").into());
            }
            if answer != sent {
                let at = answer.iter().zip(sent).position(|(a, b)| a != b);
                return Err(format!(
                    "the echo of {received} bytes has its first difference at {at:?}"
                )
                .into());
            }
        }
        Ok(())
    })?
}

/// Whether a datagram to a closed port is answered by an ICMP port unreachable, which a
/// connected socket sees as ECONNREFUSED (RFC 1122, 4.1.3.3).
pub fn is_refused(namespace: &Namespace, closed: SocketAddr) -> Outcome<bool> {
    namespace.enter(|| {
        let socket = connected(closed)?;
        socket.send(b"anybody there?")?;
        match socket.recv(&mut [0; 64]) {
            Ok(_) => Err(format!("something answers on {closed}").into()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    })?
}

fn connected(server: SocketAddr) -> Outcome<UdpSocket> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0; 16], 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Datagrams of this length that may be under way: what Linux's default buffer of a socket holds
/// with what the kernel adds to each fragment, and fewer than wait anywhere for a neighbour.
fn window(length: usize) -> usize {
    (96 * 1024 / (length + 1024)).clamp(1, 32)
}

/// The period is prime, so no fragment repeats another.
const PERIOD: usize = 251;

fn pattern() -> Vec<u8> {
    (0..LONGEST + PERIOD)
        .map(|place| (place % PERIOD) as u8)
        .collect()
}

/// `length` bytes that differ between lengths, and between the places of one datagram.
fn content(pattern: &[u8], length: usize) -> &[u8] {
    let start = length % PERIOD;
    &pattern[start..start + length]
}
