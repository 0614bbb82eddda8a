//! Congestion control: how many bytes may be under way (RFC 5681).
//!
//! An algorithm says how the window grows while nothing is lost, and where it goes when
//! something is. Everything between, which bytes to send again and at what pace during a
//! recovery, is the same for all and not its business.

mod cubic;
mod reno;

use std::fmt;
use std::time::Duration;

pub use cubic::Cubic;
pub use reno::Reno;

use crate::time::Instant;

/// What an acknowledgment told, as an algorithm sees it.
#[derive(Debug, Clone, Copy)]
pub struct AckSample {
    /// The time of the acknowledgment.
    pub now: Instant,
    /// Bytes that it acknowledged, for the first time.
    pub acknowledged: u64,
    /// The smoothed round-trip time; zero before it was measured.
    pub rtt: Duration,
    /// Whether the window kept us from sending more: one that is not used must not grow
    /// (RFC 7661; RFC 9438, section 5.8).
    pub is_limited: bool,
}

/// An algorithm for the congestion window of one connection. All sizes are bytes.
pub trait CongestionControl: fmt::Debug + Send {
    /// How many bytes may be under way. At least one segment.
    fn window(&self) -> u64;

    /// Where slow start ends.
    fn slow_start_threshold(&self) -> u64;

    /// Bytes were acknowledged, outside of a recovery.
    fn on_ack(&mut self, ack: &AckSample);

    /// Congestion was found: by loss (`in_flight` bytes were under way before it), or by a mark
    /// (RFC 3168). Called once in a round trip. Sets threshold and window to what they shall be
    /// after the recovery.
    fn on_congestion(&mut self, now: Instant, in_flight: u64);

    /// The retransmission timer went off: begin again with one segment (RFC 5681, section 3.1).
    fn on_timeout(&mut self, now: Instant, in_flight: u64);

    /// Nothing was sent for longer than a retransmission timeout (RFC 5681, section 4.1).
    fn on_idle(&mut self);

    /// The segment size has changed.
    fn set_segment_size(&mut self, bytes: u64);

    /// This algorithm in the state that it is in: kept before a response to congestion, and put
    /// back if there was none (RFC 4015).
    fn clone_boxed(&self) -> Box<dyn CongestionControl>;
}

/// Makes an algorithm for one connection from its segment size and initial window in bytes.
pub type MakeCongestionControl =
    fn(segment_size: u64, initial_window: u64) -> Box<dyn CongestionControl>;

/// Which algorithm a connection uses.
#[derive(Debug, Clone, Copy, Default)]
pub enum Congestion {
    /// CUBIC (RFC 9438), the default.
    #[default]
    Cubic,
    /// Reno (RFC 5681).
    Reno,
    /// Any other.
    Custom(MakeCongestionControl),
}

impl PartialEq for Congestion {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Congestion::Cubic, Congestion::Cubic) | (Congestion::Reno, Congestion::Reno) => true,
            (Congestion::Custom(one), Congestion::Custom(other)) => {
                std::ptr::fn_addr_eq(*one, *other)
            }
            _ => false,
        }
    }
}

/// The algorithm of one connection. The usual ones need no allocation.
#[derive(Debug)]
pub(crate) enum Controller {
    Cubic(Cubic),
    Reno(Reno),
    Custom(Box<dyn CongestionControl>),
}

impl Clone for Controller {
    fn clone(&self) -> Self {
        match self {
            Controller::Cubic(cubic) => Controller::Cubic(cubic.clone()),
            Controller::Reno(reno) => Controller::Reno(reno.clone()),
            Controller::Custom(custom) => Controller::Custom(custom.clone_boxed()),
        }
    }
}

impl Controller {
    pub(crate) fn new(kind: Congestion, segment_size: u64, initial_window: u64) -> Self {
        match kind {
            Congestion::Cubic => Controller::Cubic(Cubic::new(segment_size, initial_window)),
            Congestion::Reno => Controller::Reno(Reno::new(segment_size, initial_window)),
            Congestion::Custom(make) => Controller::Custom(make(segment_size, initial_window)),
        }
    }

    #[inline]
    pub(crate) fn get(&self) -> &dyn CongestionControl {
        match self {
            Controller::Cubic(cubic) => cubic,
            Controller::Reno(reno) => reno,
            Controller::Custom(custom) => custom.as_ref(),
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self) -> &mut dyn CongestionControl {
        match self {
            Controller::Cubic(cubic) => cubic,
            Controller::Reno(reno) => reno,
            Controller::Custom(custom) => custom.as_mut(),
        }
    }
}

/// The initial window (RFC 6928, section 2).
pub(crate) fn initial_window(segment_size: u64) -> u64 {
    (10 * segment_size).min((2 * segment_size).max(14_600))
}
