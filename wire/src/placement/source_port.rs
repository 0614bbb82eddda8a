//! The choice of a source port whose replies come home.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use super::Placement;
use super::flow::{Flow, Transport};

/// A flow that is about to begin, but for its source port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePortSearch {
    /// UDP or TCP.
    pub transport: Transport,
    /// The address of this host from which the flow is sent.
    pub local: IpAddr,
    /// Where it is sent to.
    pub peer: SocketAddr,
    /// The ports that may be chosen. Port 0 never is.
    pub range: RangeInclusive<u16>,
    /// A random number: where in the range the search begins, so that nobody outside can guess
    /// the port (RFC 6056, section 3.3.1).
    pub start: u16,
}

/// Why there is no source port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourcePortError {
    /// The cpu owns no bucket, so no reply could reach it.
    #[error(
        "cpu {0} owns no flow: its weight is 0; connect on another cpu, or bind to a port first"
    )]
    NoBucket(u16),
    /// One address is IPv4 and the other IPv6.
    #[error(
        "the local address and the peer are of different IP versions; use one of the peer's version"
    )]
    VersionsDiffer,
    /// Of the ports in the range, each is in use or has replies that go to another cpu.
    #[error(
        "no free port from {first} to {last} has replies that reach cpu {cpu}; widen the range or close sockets"
    )]
    NoPort {
        /// The cpu.
        cpu: u16,
        /// The first port in the range.
        first: u16,
        /// The last port in the range.
        last: u16,
    },
}

impl Placement {
    /// Finds a source port on which the replies of the peer are owned by `cpu`, which is about to
    /// send. `is_in_use` says which ports can not be had: on this or any other cpu, since a socket
    /// that is bound to the same port later would draw the replies to its cpu.
    ///
    /// Each port of the range is looked at no more than once. If none is in use, about as many are
    /// as cpus share the flows.
    ///
    /// # Errors
    /// See [`SourcePortError`].
    pub fn choose_source_port(
        &self,
        cpu: u16,
        search: &SourcePortSearch,
        mut is_in_use: impl FnMut(u16) -> bool,
    ) -> Result<u16, SourcePortError> {
        if !self.buckets().owners().contains(&cpu) {
            return Err(SourcePortError::NoBucket(cpu));
        }
        let (first, last) = (*search.range.start(), *search.range.end());
        let length = (u32::from(last) + 1).saturating_sub(first.into());
        let start = u32::from(search.start).checked_rem(length).unwrap_or(0);
        for step in (start..length).chain(0..start) {
            let port = first.saturating_add(step as u16);
            if port == 0 || is_in_use(port) {
                continue;
            }
            let local = SocketAddr::new(search.local, port);
            let replies = Flow::received_from(search.transport, search.peer, local)
                .ok_or(SourcePortError::VersionsDiffer)?;
            if self.owner(&replies) == cpu {
                return Ok(port);
            }
        }
        Err(SourcePortError::NoPort { cpu, first, last })
    }
}

#[cfg(test)]
mod tests;
