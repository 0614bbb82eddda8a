//! The messages of the vhost-user protocol as bytes, without any I/O.
//!
//! A message is a header of 12 bytes and a payload, all in the byte order of the machine
//! (vhost-user specification, 'Message Specification'). What we send is built here; what the
//! backend sends is judged here, and nothing that it sends can panic.

/// Length of a header in bytes.
pub(crate) const HEADER_LENGTH: usize = 12;

/// The longest payload that a reply to any of our requests can have, in bytes.
pub(crate) const MAX_REPLY: usize = CONFIG_HEADER_LENGTH + NET_CONFIG_LENGTH as usize;

/// The part of the virtio-net configuration space that we read: MAC address, status, number of
/// queue pairs and MTU (virtio 1.3, section 5.1.4).
const NET_CONFIG_LENGTH: u32 = 12;

/// Offset, size and flags in front of the bytes of the configuration space.
const CONFIG_HEADER_LENGTH: usize = 12;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 0b11;
const FLAG_REPLY: u32 = 1 << 2;
const FLAG_NEED_REPLY: u32 = 1 << 3;

/// The requests that this front-end makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Request {
    GetFeatures = 1,
    SetFeatures = 2,
    SetOwner = 3,
    SetMemTable = 5,
    SetVringNum = 8,
    SetVringAddr = 9,
    SetVringBase = 10,
    GetVringBase = 11,
    SetVringKick = 12,
    SetVringCall = 13,
    GetProtocolFeatures = 15,
    SetProtocolFeatures = 16,
    GetQueueNum = 17,
    SetVringEnable = 18,
    NetSetMtu = 20,
    GetConfig = 24,
    SetStatus = 39,
    GetStatus = 40,
}

impl Request {
    /// The name in the specification, for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Request::GetFeatures => "GET_FEATURES",
            Request::SetFeatures => "SET_FEATURES",
            Request::SetOwner => "SET_OWNER",
            Request::SetMemTable => "SET_MEM_TABLE",
            Request::SetVringNum => "SET_VRING_NUM",
            Request::SetVringAddr => "SET_VRING_ADDR",
            Request::SetVringBase => "SET_VRING_BASE",
            Request::GetVringBase => "GET_VRING_BASE",
            Request::SetVringKick => "SET_VRING_KICK",
            Request::SetVringCall => "SET_VRING_CALL",
            Request::GetProtocolFeatures => "GET_PROTOCOL_FEATURES",
            Request::SetProtocolFeatures => "SET_PROTOCOL_FEATURES",
            Request::GetQueueNum => "GET_QUEUE_NUM",
            Request::SetVringEnable => "SET_VRING_ENABLE",
            Request::NetSetMtu => "NET_SET_MTU",
            Request::GetConfig => "GET_CONFIG",
            Request::SetStatus => "SET_STATUS",
            Request::GetStatus => "GET_STATUS",
        }
    }
}

/// The protocol features that this front-end handles ('Protocol features').
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ProtocolFeatures(pub(crate) u64);

impl ProtocolFeatures {
    pub(crate) const MQ: ProtocolFeatures = ProtocolFeatures(1 << 0);
    pub(crate) const REPLY_ACK: ProtocolFeatures = ProtocolFeatures(1 << 3);
    pub(crate) const NET_MTU: ProtocolFeatures = ProtocolFeatures(1 << 4);
    pub(crate) const CONFIG: ProtocolFeatures = ProtocolFeatures(1 << 9);
    pub(crate) const STATUS: ProtocolFeatures = ProtocolFeatures(1 << 16);

    /// All of them. BACKEND_REQ is not: its channel would have to be served.
    pub(crate) const HANDLED: ProtocolFeatures = ProtocolFeatures(
        Self::MQ.0 | Self::REPLY_ACK.0 | Self::NET_MTU.0 | Self::CONFIG.0 | Self::STATUS.0,
    );

    pub(crate) fn contains(self, other: ProtocolFeatures) -> bool {
        self.0 & other.0 == other.0
    }

    /// What both sides have.
    pub(crate) fn common(self, other: ProtocolFeatures) -> ProtocolFeatures {
        ProtocolFeatures(self.0 & other.0)
    }
}

/// Why what the backend sent is not a reply to what we asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the answer is for request {got} instead of {expected}")]
    Request { got: u32, expected: u32 },
    #[error("the answer has the flags {0:#x}, which are not those of a reply of version 1")]
    Flags(u32),
    #[error("the answer has a payload of {got} bytes instead of {expected}")]
    Size { got: u32, expected: usize },
    #[error("the answer is for ring {got} instead of {expected}")]
    Ring { got: u32, expected: u32 },
    #[error("the configuration space has {got} bytes instead of {expected} at offset {offset}")]
    Config {
        offset: u32,
        got: u32,
        expected: u32,
    },
}

/// A whole request as bytes.
pub(crate) fn encode(request: Request, need_reply: bool, payload: &[u8]) -> Vec<u8> {
    let flags = VERSION | if need_reply { FLAG_NEED_REPLY } else { 0 };
    let mut message = Vec::with_capacity(HEADER_LENGTH + payload.len());
    // Our payloads have at most a few hundred bytes.
    put_u32s(&mut message, &[request as u32, flags, payload.len() as u32]);
    message.extend_from_slice(payload);
    message
}

/// Judges the header of a reply to `request` that should have `expected` bytes of payload.
pub(crate) fn check_reply(
    header: &[u8; HEADER_LENGTH],
    request: Request,
    expected: usize,
) -> Result<(), Malformed> {
    let [a, b, c] = words(header);
    if a != request as u32 {
        return Err(Malformed::Request {
            got: a,
            expected: request as u32,
        });
    }
    if b & VERSION_MASK != VERSION || b & FLAG_REPLY == 0 {
        return Err(Malformed::Flags(b));
    }
    if usize::try_from(c) != Ok(expected) {
        return Err(Malformed::Size { got: c, expected });
    }
    Ok(())
}

/// The payload 'a vring state description': a ring and a number.
pub(crate) fn vring_state(ring: u16, number: u32) -> [u8; 8] {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&u32::from(ring).to_ne_bytes());
    payload[4..].copy_from_slice(&number.to_ne_bytes());
    payload
}

/// The number in the answer to GET_VRING_BASE for `ring`.
pub(crate) fn decode_vring_state(payload: [u8; 8], ring: u16) -> Result<u32, Malformed> {
    let [a, b, c, d, e, f, g, h] = payload;
    let (got, expected) = (u32::from_ne_bytes([a, b, c, d]), u32::from(ring));
    if got != expected {
        return Err(Malformed::Ring { got, expected });
    }
    Ok(u32::from_ne_bytes([e, f, g, h]))
}

/// The payload 'a vring address description': addresses in this process, no logging.
pub(crate) fn vring_addresses(ring: u16, descriptors: u64, used: u64, available: u64) -> Vec<u8> {
    let mut payload = Vec::with_capacity(40);
    put_u32s(&mut payload, &[u32::from(ring), 0]);
    put_u64s(&mut payload, &[descriptors, used, available, 0]);
    payload
}

/// The payload 'memory regions description' with one region, whose file is mapped from its
/// start, and whose 'guest physical' address is its address in this process.
pub(crate) fn memory_table(address: u64, length: u64) -> Vec<u8> {
    let mut payload = Vec::with_capacity(40);
    put_u32s(&mut payload, &[1, 0]);
    put_u64s(&mut payload, &[address, length, address, 0]);
    payload
}

/// The payload of SET_VRING_KICK and SET_VRING_CALL with a file: bits 0 to 7 name the ring.
pub(crate) fn vring_file(ring: u8) -> [u8; 8] {
    u64::from(ring).to_ne_bytes()
}

/// The payload of GET_CONFIG ('virtio device config space').
pub(crate) fn net_config_request() -> Vec<u8> {
    let mut payload = Vec::with_capacity(MAX_REPLY);
    put_u32s(&mut payload, &[0, NET_CONFIG_LENGTH, 0]);
    payload.resize(MAX_REPLY, 0);
    payload
}

/// What the configuration space of the backend holds. Which of it is valid, features tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NetConfig {
    pub(crate) mac: [u8; 6],
    pub(crate) status: u16,
    pub(crate) max_queue_pairs: u16,
    pub(crate) mtu: u16,
}

impl NetConfig {
    /// The answer to GET_CONFIG. The fields of the space are little-endian.
    pub(crate) fn decode(payload: &[u8; MAX_REPLY]) -> Result<NetConfig, Malformed> {
        let [h0, h1, h2, h3, h4, h5, h6, h7, _, _, _, _, space @ ..] = *payload;
        let offset = u32::from_ne_bytes([h0, h1, h2, h3]);
        let got = u32::from_ne_bytes([h4, h5, h6, h7]);
        if offset != 0 || got != NET_CONFIG_LENGTH {
            return Err(Malformed::Config {
                offset,
                got,
                expected: NET_CONFIG_LENGTH,
            });
        }
        let [m0, m1, m2, m3, m4, m5, s0, s1, q0, q1, t0, t1] = space;
        Ok(NetConfig {
            mac: [m0, m1, m2, m3, m4, m5],
            status: u16::from_le_bytes([s0, s1]),
            max_queue_pairs: u16::from_le_bytes([q0, q1]),
            mtu: u16::from_le_bytes([t0, t1]),
        })
    }
}

fn put_u32s(message: &mut Vec<u8>, values: &[u32]) {
    values
        .iter()
        .for_each(|value| message.extend_from_slice(&value.to_ne_bytes()));
}

fn put_u64s(message: &mut Vec<u8>, values: &[u64]) {
    values
        .iter()
        .for_each(|value| message.extend_from_slice(&value.to_ne_bytes()));
}

fn words(bytes: &[u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
    ]
}

#[cfg(test)]
mod tests;
