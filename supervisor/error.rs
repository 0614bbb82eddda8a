//! Why the stack did not start.

use std::fmt;

use virtroupe_actors::cpu::CpuError;
use virtroupe_actors::device::InitializeError;
use virtroupe_driver::DeviceError;
use virtroupe_driver::transport::TransportError;
use virtroupe_wire::placement::PlacementError;

use crate::config::ConfigError;

/// The stages of start-up, in their order. Each begins when the one before has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Checking the configuration.
    Configuration,
    /// Connecting to the device, negotiation, memory and rings.
    Device,
    /// The threads of the cpus.
    Queue,
    /// Waiting for the link.
    Link,
    /// The stack of each cpu, on its queue or on the way to another's.
    Stack,
    /// Receiving begins.
    Receive,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Configuration => "configuration",
            Stage::Device => "device",
            Stage::Queue => "queue",
            Stage::Link => "link",
            Stage::Stack => "stack",
            Stage::Receive => "receive",
        })
    }
}

/// Start-up failed. The message is one line that names the stage and says what to do.
#[derive(Debug, thiserror::Error)]
#[error("start-up failed at stage '{stage}': {cause}")]
pub struct StartError {
    /// The stage that failed.
    pub stage: Stage,
    /// Why.
    #[source]
    pub cause: StartFailure,
}

/// What can fail in a stage of start-up.
#[derive(Debug, thiserror::Error)]
pub enum StartFailure {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The queues can not be shared among the cpus as asked.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The stack of a cpu.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The operating system.
    #[error("the system refused a thread, a file or a core in `cpus.cores`: {0}")]
    System(#[from] std::io::Error),
    /// The stage did not end in time.
    #[error("not done within {milliseconds} ms; {advice}")]
    TimedOut {
        /// The limit.
        milliseconds: u64,
        /// What to look at.
        advice: &'static str,
    },
    /// The device was lost meanwhile. Says what was seen.
    #[error("the device was lost during start-up: {0}; is the backend still running?")]
    DeviceLost(String),
    /// An actor or thread ended meanwhile.
    #[error("an actor of the stack ended during start-up; the log says why")]
    Ended,
}

impl From<TransportError> for StartFailure {
    fn from(error: TransportError) -> Self {
        StartFailure::Device(error.into())
    }
}

impl From<InitializeError> for StartFailure {
    fn from(error: InitializeError) -> Self {
        match error {
            InitializeError::Device(error) => error.into(),
            InitializeError::Placement(error) => error.into(),
        }
    }
}
