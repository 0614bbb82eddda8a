//! One connection's life: what was negotiated on it, and what has to be stopped at its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::connection::Connection;
use super::message::{self, MAX_REPLY, NetConfig, ProtocolFeatures, Request};
use crate::features::FeatureBits;
use crate::memory::DmaMemory;
use crate::transport::{Doorbell, QueueNotifiers, RingLayout, TransportError};

/// Device status bits (virtio 1.3, section 2.1).
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;

/// Where a packed ring begins: both wrap counters at one (section 2.8.1), in the bits that
/// SET_VRING_BASE has for them.
const PACKED_RING_BASE: u32 = 1 << 15 | 1 << 31;

/// The fields of the configuration space exist with these features only.
const CONFIG_FEATURES: FeatureBits = FeatureBits(
    FeatureBits::MAC.0 | FeatureBits::STATUS.0 | FeatureBits::MQ.0 | FeatureBits::MTU.0,
);

/// A connected backend.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Connection,
    offered: FeatureBits,
    accepted: FeatureBits,
    protocol: ProtocolFeatures,
    queue_pairs: Option<u64>,
    memory: Option<Arc<DmaMemory>>,
    queues: Vec<u16>,
    lost: bool,
}

impl Session {
    /// Introduces us and learns what the backend can do.
    pub(crate) fn begin(connection: Connection) -> Result<Self, TransportError> {
        let mut session = Session {
            connection,
            offered: FeatureBits::NONE,
            accepted: FeatureBits::NONE,
            protocol: ProtocolFeatures::default(),
            queue_pairs: None,
            memory: None,
            queues: Vec::new(),
            lost: false,
        };
        session.connection.command(Request::SetOwner, &[], None)?;
        session.offered = FeatureBits(session.query_u64(Request::GetFeatures)?);
        if session.has_protocol_features() {
            session.negotiate_protocol()?;
        }
        session.set_status(ACKNOWLEDGE)?;
        session.set_status(ACKNOWLEDGE | DRIVER)?;
        Ok(session)
    }

    fn negotiate_protocol(&mut self) -> Result<(), TransportError> {
        let offered = ProtocolFeatures(self.query_u64(Request::GetProtocolFeatures)?);
        let protocol = offered.common(ProtocolFeatures::HANDLED);
        self.command_u64(Request::SetProtocolFeatures, protocol.0)?;
        self.protocol = protocol;
        if protocol.contains(ProtocolFeatures::REPLY_ACK) {
            self.connection.acknowledge_requests();
        }
        if protocol.contains(ProtocolFeatures::MQ) {
            self.queue_pairs = Some(self.query_u64(Request::GetQueueNum)?);
        }
        Ok(())
    }

    /// What the device offers: all but the bit that belongs to the transport.
    pub(crate) fn offered(&self) -> FeatureBits {
        self.offered - FeatureBits::VHOST_USER_PROTOCOL_FEATURES
    }

    /// The number of queue pairs that the backend has, if it says.
    pub(crate) fn queue_pairs(&self) -> Option<u64> {
        self.queue_pairs
    }

    /// Whether only the end of the connection is left to wait for.
    pub(crate) fn is_broken(&self) -> bool {
        self.connection.is_broken()
    }

    /// Whether the loss of the connection was reported.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Tells the device the features in use, and the MTU if it is to know one.
    pub(crate) fn accept(
        &mut self,
        accepted: FeatureBits,
        mtu: Option<u16>,
    ) -> Result<(), TransportError> {
        let unknown = accepted - self.offered();
        if !unknown.is_empty() {
            return Err(self.connection.problem(format!(
                "the driver wants features that the backend does not offer: {unknown}"
            )));
        }
        let own = self.offered & FeatureBits::VHOST_USER_PROTOCOL_FEATURES;
        self.command_u64(Request::SetFeatures, (accepted | own).0)?;
        self.accepted = accepted;
        if let Some(mtu) = mtu
            && accepted.contains(FeatureBits::MTU)
            && self.protocol.contains(ProtocolFeatures::NET_MTU)
        {
            self.command_u64(Request::NetSetMtu, u64::from(mtu))?;
        }
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)?;
        self.check_features_ok()
    }

    /// A device that cannot work with the features clears FEATURES_OK (section 3.1.1).
    fn check_features_ok(&mut self) -> Result<(), TransportError> {
        if !self.protocol.contains(ProtocolFeatures::STATUS) {
            return Ok(());
        }
        let status = self.query_u64(Request::GetStatus)?;
        if status & u64::from(FEATURES_OK) == 0 {
            return Err(self.connection.problem(format!(
                "the backend refused the features {} (device status {status:#x}); turn some off",
                self.accepted
            )));
        }
        Ok(())
    }

    /// Reads the configuration space, if the backend has one to read.
    pub(crate) fn net_config(&mut self) -> Result<Option<NetConfig>, TransportError> {
        let present = self.protocol.contains(ProtocolFeatures::CONFIG)
            && !(self.offered & CONFIG_FEATURES).is_empty();
        if !present {
            return Ok(None);
        }
        let request = message::net_config_request();
        let reply = self
            .connection
            .query::<MAX_REPLY>(Request::GetConfig, &request)?;
        match NetConfig::decode(&reply) {
            Ok(config) => Ok(Some(config)),
            Err(malformed) => Err(self.connection.malformed(Request::GetConfig, malformed)),
        }
    }

    /// Shares all of `memory` and returns the address of its first byte, which is the same for
    /// ring addresses and for the addresses in descriptors.
    pub(crate) fn share(&mut self, memory: &Arc<DmaMemory>) -> Result<u64, TransportError> {
        let base = address(memory);
        let table = message::memory_table(base, memory.len() as u64);
        // From here on the backend may have it, whatever becomes of the answer.
        self.memory = Some(Arc::clone(memory));
        self.connection
            .command(Request::SetMemTable, &table, Some(memory.file()))?;
        Ok(base)
    }

    /// Describes ring `queue` and hands over its notifications.
    pub(crate) fn set_up_queue(
        &mut self,
        queue: u16,
        ring: &RingLayout,
    ) -> Result<QueueNotifiers, TransportError> {
        let index = u8::try_from(queue).map_err(|_| {
            self.connection
                .problem(format!("vhost-user has no ring {queue}; the last is 255"))
        })?;
        let [descriptors, driver, device] = self.ring_addresses(queue, ring)?;
        let packed = self.accepted.contains(FeatureBits::RING_PACKED);
        let base = if packed { PACKED_RING_BASE } else { 0 };
        let kick = self.notifier()?;
        let call = self.notifier()?;
        if !self.queues.contains(&queue) {
            self.queues.push(queue);
        }
        let size = message::vring_state(queue, u32::from(ring.size));
        self.connection.command(Request::SetVringNum, &size, None)?;
        let base = message::vring_state(queue, base);
        self.connection
            .command(Request::SetVringBase, &base, None)?;
        let addresses = message::vring_addresses(queue, descriptors, device, driver);
        self.connection
            .command(Request::SetVringAddr, &addresses, None)?;
        let file = message::vring_file(index);
        self.connection
            .command(Request::SetVringKick, &file, Some(kick.as_fd()))?;
        self.connection
            .command(Request::SetVringCall, &file, Some(call.as_fd()))?;
        Ok(QueueNotifiers {
            doorbell: Doorbell::EventFd(kick),
            interrupt: call,
        })
    }

    /// The addresses in this process of the three areas of `ring`.
    fn ring_addresses(&self, queue: u16, ring: &RingLayout) -> Result<[u64; 3], TransportError> {
        let Some(memory) = &self.memory else {
            return Err(self
                .connection
                .problem(format!("ring {queue} comes before its memory")));
        };
        let place = |offset| {
            memory
                .range(offset, 1)
                .map(|start| start.addr().get() as u64)
        };
        match (
            place(ring.descriptors),
            place(ring.driver),
            place(ring.device),
        ) {
            (Some(descriptors), Some(driver), Some(device)) => Ok([descriptors, driver, device]),
            _ => Err(self
                .connection
                .problem(format!("ring {queue} lies outside of its memory"))),
        }
    }

    /// A non-blocking eventfd.
    fn notifier(&self) -> Result<OwnedFd, TransportError> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let eventfd = EventFd::from_value_and_flags(0, flags);
        eventfd
            .map(OwnedFd::from)
            .map_err(|errno| TransportError::System {
                context: "cannot create an eventfd".to_owned(),
                source: errno.into(),
                advice: "raise the limit of open files (ulimit -n)".to_owned(),
            })
    }

    /// Starts the rings of the first `pairs` queue pairs.
    pub(crate) fn enable(&mut self, pairs: u16) -> Result<(), TransportError> {
        let rings = pairs.saturating_mul(2);
        if let Some(missing) = (0..rings).find(|ring| !self.queues.contains(ring)) {
            return Err(self
                .connection
                .problem(format!("ring {missing} was not set up")));
        }
        // Without protocol features a ring is enabled from its first kick.
        if self.has_protocol_features() {
            for &queue in &self.queues {
                let state = message::vring_state(queue, u32::from(queue < rings));
                self.connection
                    .command(Request::SetVringEnable, &state, None)?;
            }
        }
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)?;
        if !self.connection.is_acknowledged() {
            // The answer shows that everything before it was taken.
            self.query_u64(Request::GetFeatures)?;
        }
        Ok(())
    }

    /// Stops all rings. When this returns `Ok` the backend uses the memory no more; after an
    /// error it can be called again.
    pub(crate) fn stop(&mut self) -> Result<(), TransportError> {
        if self.memory.is_none() {
            return Ok(());
        }
        if !self.connection.is_broken() && self.stop_rings().is_ok() {
            return Ok(());
        }
        self.connection.close_and_wait()
    }

    /// The backend answers GET_VRING_BASE after it has stopped the ring ('Starting and stopping
    /// a vring').
    fn stop_rings(&mut self) -> Result<(), TransportError> {
        for &queue in &self.queues {
            let request = Request::GetVringBase;
            let reply = self
                .connection
                .query(request, &message::vring_state(queue, 0))?;
            if let Err(malformed) = message::decode_vring_state(reply, queue) {
                return Err(self.connection.malformed(request, malformed));
            }
        }
        Ok(())
    }

    /// Why the connection is lost; reported once.
    pub(crate) fn take_loss(&mut self) -> Option<String> {
        if self.lost {
            return None;
        }
        let reason = self.connection.lost()?;
        self.lost = true;
        Some(reason)
    }

    fn has_protocol_features(&self) -> bool {
        self.offered
            .contains(FeatureBits::VHOST_USER_PROTOCOL_FEATURES)
    }

    fn set_status(&mut self, status: u8) -> Result<(), TransportError> {
        if self.protocol.contains(ProtocolFeatures::STATUS) {
            self.command_u64(Request::SetStatus, u64::from(status))?;
        }
        Ok(())
    }

    fn query_u64(&mut self, request: Request) -> Result<u64, TransportError> {
        Ok(u64::from_ne_bytes(self.connection.query(request, &[])?))
    }

    fn command_u64(&mut self, request: Request, value: u64) -> Result<(), TransportError> {
        self.connection.command(request, &value.to_ne_bytes(), None)
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

fn address(memory: &DmaMemory) -> u64 {
    memory.base().addr().get() as u64
}
