//! The vhost-user transport: a virtio-net device that another process serves over a Unix socket.
//!
//! This is the front-end side of the vhost-user protocol. The backend (DPDK, a virtual switch)
//! owns the socket; we connect, negotiate, and hand it our memory and one pair of eventfds for
//! each ring. The order of the messages is
//!
//! ```text
//! offered_features  SET_OWNER  GET_FEATURES  GET_/SET_PROTOCOL_FEATURES  GET_QUEUE_NUM
//!                   SET_STATUS 1, 3
//! accept_features   SET_FEATURES  NET_SET_MTU  SET_STATUS 11  GET_STATUS
//! config            GET_CONFIG
//! map_memory        SET_MEM_TABLE, with one region
//! set_up_queue      SET_VRING_NUM  _BASE  _ADDR  _KICK  _CALL
//! enable            SET_VRING_ENABLE for each ring  SET_STATUS 15
//! reset             GET_VRING_BASE for each ring, then the connection is closed
//! ```
//!
//! where a message that needs a feature is left out if the backend lacks it.
//!
//! The files below each have one layer: `message` has the bytes, `connection` whole messages
//! within a time limit, `dial` the connecting, `session` the meaning.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use virtroupe_wire::MacAddr;

use crate::features::FeatureBits;
use crate::memory::DmaMemory;
use crate::transport::{
    DeviceConfig, DeviceEvent, QueueNotifiers, RingLayout, Transport, TransportError,
};

mod connection;
mod deadline;
mod dial;
mod message;
mod session;

use connection::Connection;
use message::NetConfig;
use session::Session;

/// The largest ring of virtio (virtio 1.3, section 2.7). vhost-user has no request that asks.
const MAX_QUEUE_SIZE: u16 = 32_768;

/// The largest number of queue pairs: SET_VRING_KICK has eight bits for the ring.
const MAX_QUEUE_PAIRS: u16 = 128;

/// Where the backend is, how long to wait for it, and what it may not tell by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhostUserConfig {
    /// The socket on which the backend listens. At most 107 bytes.
    pub path: PathBuf,
    /// The limit for connecting and for each request with its answer. A backend that takes
    /// longer counts as dead. Default: 3 s. A shorter one may give up on a healthy backend:
    /// DPDK looks for its first connection once a second only.
    pub timeout: Duration,
    /// How long to try again while the socket does not exist or nobody listens on it, for when
    /// both sides are started at once. Default: 0, one attempt.
    pub wait_for_socket: Duration,
    /// Our Ethernet address; overrides that of the device. Most backends have none.
    pub mac: Option<MacAddr>,
    /// Largest IP packet in bytes, 68 to 65535; the device's own is used if that is smaller.
    pub mtu: Option<u16>,
    /// The most queue pairs to use, 1 to 128: many backends claim to have more than they were
    /// started with. Default: 1.
    pub queue_pairs: u16,
}

impl VhostUserConfig {
    /// The defaults for the backend that listens at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        VhostUserConfig {
            path: path.into(),
            timeout: Duration::from_secs(3),
            wait_for_socket: Duration::ZERO,
            mac: None,
            mtu: None,
            queue_pairs: 1,
        }
    }
}

/// The transport to a vhost-user backend.
///
/// After [`reset`](Transport::reset), or after a failure, `offered_features` connects anew, and
/// everything is set up again. Dropping it closes the connection, which also stops the backend,
/// but without waiting for it.
#[derive(Debug)]
pub struct VhostUser {
    config: VhostUserConfig,
    name: String,
    session: Option<Session>,
}

impl VhostUser {
    /// A transport that connects when it is first used.
    pub fn new(config: VhostUserConfig) -> Self {
        let name = format!("vhost-user:{}", config.path.display());
        VhostUser {
            config,
            name,
            session: None,
        }
    }

    fn session(&mut self) -> Result<&mut Session, TransportError> {
        self.session.as_mut().ok_or_else(|| TransportError::Device {
            device: self.name.clone(),
            problem: "not connected; read the offered features first".to_owned(),
        })
    }

    /// What the backend says about queue pairs, cut to what we may use; `None` without MQ.
    fn max_queue_pairs(
        &self,
        offered: FeatureBits,
        backend: Option<u64>,
        space: Option<NetConfig>,
    ) -> Option<u16> {
        if !offered.contains(FeatureBits::MQ) {
            return None;
        }
        // Net backends count pairs in GET_QUEUE_NUM. Zero is not a legal number: ignored.
        let backend = backend.map(|pairs| u16::try_from(pairs).unwrap_or(u16::MAX));
        let told = [backend, space.map(|space| space.max_queue_pairs)];
        let told = told.into_iter().flatten().filter(|pairs| *pairs > 0);
        told.chain([self.config.queue_pairs.clamp(1, MAX_QUEUE_PAIRS)])
            .min()
    }
}

impl Transport for VhostUser {
    fn name(&self) -> &str {
        &self.name
    }

    fn offered_features(&mut self) -> Result<FeatureBits, TransportError> {
        if let Some(session) = &self.session {
            if !session.is_broken() {
                return Ok(session.offered());
            }
            self.reset()?;
        }
        let VhostUserConfig {
            path,
            timeout,
            wait_for_socket,
            ..
        } = &self.config;
        let connection = Connection::open(path, &self.name, *timeout, *wait_for_socket)?;
        let session = self.session.insert(Session::begin(connection)?);
        Ok(session.offered())
    }

    fn accept_features(&mut self, accepted: FeatureBits) -> Result<(), TransportError> {
        let mtu = self.config.mtu;
        self.session()?.accept(accepted, mtu)
    }

    /// SET_VRING_ENABLE starts each queue; the protocol has no control queue.
    fn enables_pairs_itself(&self) -> bool {
        true
    }

    fn config(&mut self) -> Result<DeviceConfig, TransportError> {
        let session = self.session()?;
        let space = session.net_config()?;
        let (offered, backend) = (session.offered(), session.queue_pairs());
        let with = |feature| space.filter(|_| offered.contains(feature));
        let mtu = [
            with(FeatureBits::MTU).map(|space| space.mtu),
            self.config.mtu,
        ];
        Ok(DeviceConfig {
            mac: self
                .config
                .mac
                .or(with(FeatureBits::MAC).map(|space| MacAddr(space.mac))),
            link_up: with(FeatureBits::STATUS).map(|space| space.status & 1 != 0),
            max_queue_pairs: self.max_queue_pairs(offered, backend, space),
            mtu: mtu.into_iter().flatten().min(),
        })
    }

    fn max_queue_size(&mut self, _queue: u16) -> Result<u16, TransportError> {
        Ok(MAX_QUEUE_SIZE)
    }

    fn map_memory(&mut self, memory: &Arc<DmaMemory>) -> Result<u64, TransportError> {
        self.session()?.share(memory)
    }

    fn set_up_queue(
        &mut self,
        queue: u16,
        ring: &RingLayout,
    ) -> Result<QueueNotifiers, TransportError> {
        self.session()?.set_up_queue(queue, ring)
    }

    fn enable(&mut self, pairs: u16) -> Result<(), TransportError> {
        self.session()?.enable(pairs)
    }

    /// Waits until the backend has stopped every ring, or has closed the connection. After an
    /// error the backend may still use the memory; `reset` can be called again. Takes at most
    /// one `timeout` for each ring and one more.
    fn reset(&mut self) -> Result<(), TransportError> {
        if let Some(session) = &mut self.session {
            session.stop()?;
            self.session = None;
        }
        Ok(())
    }

    /// The socket itself. `None` while not connected, and after [`DeviceEvent::Lost`] was taken:
    /// the socket stays readable from then on.
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.session
            .as_ref()
            .filter(|session| !session.is_lost())
            .map(AsFd::as_fd)
    }

    fn take_event(&mut self) -> Option<DeviceEvent> {
        self.session.as_mut()?.take_loss().map(DeviceEvent::Lost)
    }
}
