//! The peers in the kernel: UDP echo servers over sockets, one core each.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

use super::Outcome;

/// The port that testpmd's flowgen sends to.
const PORT: u16 = 1001;
/// Datagrams per system call of [`mmsg`].
const BATCH: usize = 64;
/// Bytes of a receive buffer; flowgen's datagrams are smaller.
const LENGTH: usize = 2048;

/// What people use today: tokio's `UdpSocket`, one datagram per call.
///
/// Replies leave from the address that the route says, not from the one that was asked: that
/// spares this peer the ancillary data, and flowgen counts them all the same.
pub fn tokio() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let socket = tokio::net::UdpSocket::bind(("0.0.0.0", PORT)).await?;
        let mut buffer = [0; LENGTH];
        loop {
            let (length, source) = socket.recv_from(&mut buffer).await?;
            ignore_full_queue(socket.send_to(&buffer[..length], source).await)?;
        }
    })
}

/// The best that sockets do without a special kernel interface: `recvmmsg` and `sendmmsg`.
pub fn mmsg() -> Outcome<()> {
    let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
    let mut buffers = vec![[0; LENGTH]; BATCH];
    let mut receive = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut send = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut received: Vec<(usize, Option<SockaddrIn>)> = Vec::with_capacity(BATCH);
    loop {
        received.clear();
        let mut slices: Vec<_> = buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        let messages = recvmmsg(
            socket.as_raw_fd(),
            &mut receive,
            slices.iter_mut(),
            flags,
            None,
        )?;
        received.extend(messages.map(|message| (message.bytes, message.address)));
        let replies: Vec<_> = buffers
            .iter()
            .zip(&received)
            .map(|(buffer, (length, _))| [IoSlice::new(&buffer[..*length])])
            .collect();
        let addresses: Vec<_> = received.iter().map(|(_, address)| *address).collect();
        let sent = sendmmsg(
            socket.as_raw_fd(),
            &mut send,
            &replies,
            &addresses,
            [],
            MsgFlags::empty(),
        );
        ignore_full_queue(sent.map(drop).map_err(io::Error::from))?;
    }
}

/// A full transmit queue loses the datagram, as it does for every UDP sender.
fn ignore_full_queue<T>(result: io::Result<T>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => Ok(()),
        other => other.map(drop),
    }
}

/// Datagrams that the kernel dropped because the socket's buffer was full, in the network
/// namespace of the process `pid`.
pub fn receive_buffer_errors(pid: u32) -> Outcome<u64> {
    let snmp = std::fs::read_to_string(format!("/proc/{pid}/net/snmp"))?;
    let mut udp = snmp.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (names, values) = (udp.next().unwrap_or(""), udp.next().unwrap_or(""));
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find(|(name, _)| *name == "RcvbufErrors")
        .and_then(|(_, value)| value.parse().ok())
        .ok_or_else(|| "/proc/net/snmp has no RcvbufErrors".into())
}
