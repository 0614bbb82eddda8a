//! Settings of the engine and of each connection.

use std::time::Duration;

use super::congestion::Congestion;
use super::sequence::{SeqNumber, WindowScale};

/// Settings of a [`TcpEngine`](super::TcpEngine). Every table is bounded by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpConfig {
    /// The longest IP packet in bytes that the link carries: 68 to 65 535. Default 1500.
    pub mtu: u16,
    /// Connections that are neither half-open nor in TIME-WAIT. Default 1 048 576. Beyond it
    /// `connect` is refused, and what asks to be accepted waits in its half-open record.
    pub connections: usize,
    /// Half-open connections of all listeners. Default 65 536. Beyond it SYN cookies are sent
    /// (RFC 4987, section 3.6).
    pub half_open: usize,
    /// Connections in TIME-WAIT. Default 262 144. Beyond it a connection ends without one.
    pub time_wait: usize,
    /// How long TIME-WAIT lasts. Default 60 s, twice a maximum segment lifetime of 30 s as
    /// Linux has it; RFC 9293 section 3.4.2 names 2 min for each but leaves it to experience.
    pub time_wait_time: Duration,
    /// Bytes of memory that received data may hold in all connections. Default 1 GiB. Beyond it
    /// windows do not open and what arrives out of order is dropped.
    pub memory: usize,
    /// Listeners. Default 65 536.
    pub listeners: usize,
    /// Answers outside of any connection (RST, SYN cookies, TIME-WAIT) that wait to be sent.
    /// Default 1024; beyond it they are dropped as `RateLimited`.
    pub replies: usize,
    /// The first and the last ephemeral port (RFC 6056, section 3.2). Default 32 768 to 60 999.
    pub ephemeral_ports: (u16, u16),
    /// How often a SYN-ACK is sent again before its half-open record is given up. Default 5: the
    /// last after 31 s.
    pub syn_ack_retries: u8,
    /// Whether the end of a peer's stream is acknowledged with the delay of data
    /// ([`ack_delay`](TcpOptions::ack_delay)), so that the end of ours can carry it, as Linux does:
    /// most applications end theirs at once. Default: no.
    pub delay_end_acks: bool,
}

impl Default for TcpConfig {
    fn default() -> Self {
        TcpConfig {
            mtu: 1500,
            connections: 1 << 20,
            half_open: 65_536,
            time_wait: 262_144,
            time_wait_time: Duration::from_secs(60),
            memory: 1 << 30,
            listeners: 65_536,
            replies: 1024,
            ephemeral_ports: (32_768, 60_999),
            syn_ack_retries: 5,
            delay_end_acks: false,
        }
    }
}

/// Whether and how far windows are scaled (RFC 7323, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WindowScaling {
    /// As far as `receive_buffer` needs.
    #[default]
    Fitting,
    /// By so many bits.
    Fixed(WindowScale),
    /// The option is neither offered nor accepted.
    Off,
}

/// When an idle peer is asked whether it is still there (RFC 9293, section 3.8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Time without a segment from the peer until the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes after which the connection ends.
    pub probes: u8,
}

impl Default for Keepalive {
    /// Two hours, then every 75 s, nine times.
    fn default() -> Self {
        Keepalive {
            idle: Duration::from_secs(7200),
            interval: Duration::from_secs(75),
            probes: 9,
        }
    }
}

/// Settings of one connection, or of all that a listener accepts. Connections that are made one
/// after the other with equal settings share them.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpOptions {
    /// The longest segment in bytes that we announce (RFC 9293, section 3.7.1), and also the
    /// longest that we send. `None`, the default: what the MTU allows.
    pub mss: Option<u16>,
    /// Window scaling. Default: fitting.
    pub window_scaling: WindowScaling,
    /// Whether timestamps are offered and accepted (RFC 7323, section 3). Default: yes.
    pub timestamps: bool,
    /// Whether SACK is offered and accepted (RFC 2018). Default: yes. Without it there is no
    /// RACK and no tail loss probe.
    pub sack: bool,
    /// Whether ECN is offered and accepted (RFC 3168). Default: yes.
    pub ecn: bool,
    /// Whether short segments are sent while others are under way: Nagle's algorithm (RFC 9293,
    /// section 3.7.4) off. Default: no.
    pub nodelay: bool,
    /// Whether what is sent is spread over the round trip, at twice the rate of the congestion
    /// window in slow start and 1.2 times it later, in quanta of about a millisecond or two
    /// segments. The initial window, and what is sent again, leave as fast as windows allow; and so
    /// does everything where a round trip takes less than 2 ms. Default: yes.
    pub pacing: bool,
    /// Keepalive. Default: `None`, none (RFC 9293, section 3.8.4: MUST default to off).
    pub keepalive: Option<Keepalive>,
    /// Bytes of memory that received data may hold, at most: 4096 or more. Default 4 MiB. The
    /// window begins with `initial_receive_buffer` and grows as far as the application reads.
    pub receive_buffer: usize,
    /// The window at the beginning. Default 128 KiB.
    pub initial_receive_buffer: usize,
    /// Bytes that may be written and not yet acknowledged. Default 4 MiB.
    pub send_buffer: usize,
    /// Congestion control. Default: CUBIC.
    pub congestion: Congestion,
    /// The initial congestion window in segments. Default 10 (RFC 6928).
    pub initial_window: u16,
    /// The differentiated services code point of what we send, 0 to 63. Default 0.
    pub dscp: u8,
    /// Our initial sequence number. Default: `None`, by RFC 6528. Anything else is for tests: who
    /// knows the number can forge segments.
    pub initial_sequence: Option<SeqNumber>,
    /// The least retransmission timeout beyond the round-trip time. Default 200 ms; RFC 6298
    /// rule 2.4 asks for 1 s, which delays recovery much and which no other stack keeps.
    pub least_timeout: Duration,
    /// How long an acknowledgment may be delayed: below 500 ms (RFC 9293, section 3.8.6.3).
    /// Default 40 ms. Zero: never.
    pub ack_delay: Duration,
    /// Time without an answer after which an attempt to connect ends. Default 3 min (RFC 9293,
    /// section 3.8.3: at least).
    pub connect_timeout: Duration,
    /// Time without acknowledgment of what was sent after which the connection ends (RFC 9293,
    /// section 3.8.3; RFC 5482). Default 5 min.
    pub user_timeout: Duration,
    /// Whether `user_timeout` is announced to the peer, in the SYN and the first segment behind it,
    /// and one from the peer used if it is longer (RFC 5482, section 3). Default: no.
    pub announce_user_timeout: bool,
    /// Time without progress after which a connection that the application closed is given up:
    /// in FIN-WAIT-1, FIN-WAIT-2, CLOSING and LAST-ACK. Default 60 s.
    pub close_timeout: Duration,
}

impl Default for TcpOptions {
    fn default() -> Self {
        TcpOptions {
            mss: None,
            window_scaling: WindowScaling::Fitting,
            timestamps: true,
            sack: true,
            ecn: true,
            nodelay: false,
            pacing: true,
            keepalive: None,
            receive_buffer: 4 << 20,
            initial_receive_buffer: 128 << 10,
            send_buffer: 4 << 20,
            congestion: Congestion::Cubic,
            initial_window: 10,
            dscp: 0,
            initial_sequence: None,
            least_timeout: Duration::from_millis(200),
            ack_delay: Duration::from_millis(40),
            connect_timeout: Duration::from_secs(180),
            user_timeout: Duration::from_secs(300),
            announce_user_timeout: false,
            close_timeout: Duration::from_secs(60),
        }
    }
}

/// The least receive buffer: below it silly window avoidance would stop the stream.
pub(crate) const LEAST_BUFFER: usize = 4096;

impl TcpOptions {
    /// The most memory that received data may hold.
    pub(crate) fn most_buffer(&self) -> usize {
        self.receive_buffer.max(LEAST_BUFFER)
    }

    /// The receive buffer at the beginning.
    pub(crate) fn first_buffer(&self) -> usize {
        self.initial_receive_buffer
            .clamp(LEAST_BUFFER, self.most_buffer())
    }

    /// The scale to offer, if any.
    pub(crate) fn scale(&self) -> Option<WindowScale> {
        match self.window_scaling {
            WindowScaling::Fitting => Some(WindowScale::for_window(self.most_buffer() as u64)),
            WindowScaling::Fixed(scale) => Some(scale),
            WindowScaling::Off => None,
        }
    }

    /// The segment size to announce, on a link of `mtu` bytes behind an IP header.
    pub(crate) fn announced_mss(&self, mtu: u16, ip_header: usize) -> u16 {
        let fitting = usize::from(mtu).saturating_sub(ip_header + super::header::HEADER) as u16;
        self.mss.map_or(fitting, |mss| mss.min(fitting)).max(1)
    }
}

/// What a listener does, beyond the settings of its connections.
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// Connections that are open and were not accepted yet, at most. Default 1024. Beyond it
    /// the last acknowledgment of a handshake is ignored, so that the peer tries again.
    pub backlog: usize,
    /// Settings of the connections.
    pub connection: TcpOptions,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions {
            backlog: 1024,
            connection: TcpOptions::default(),
        }
    }
}
