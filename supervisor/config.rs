//! The configuration: a builder in code, or a TOML file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use virtroupe_actors::poll::PollSettings;
use virtroupe_actors::tcp::TcpSettings;
use virtroupe_driver::DeviceOptions;
use virtroupe_wire::MacAddr;
use virtroupe_wire::host::HostConfig;

/// Everything that can be set. See each part for units, defaults and consequences.
///
/// ```
/// use virtroupe::Config;
///
/// let config = Config::new("vhost-user:/tmp/vhost.sock".parse()?)
///     .address("10.0.0.1/24".parse()?)
///     .mac("02:00:00:00:00:01".parse()?);
/// assert!(config.validate().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The same from a file, with more of what can be set:
///
/// ```
/// # use virtroupe::Config;
/// # use virtroupe::driver::RingFormat;
/// let config = Config::from_toml(r#"
///     device = "vhost-user:/tmp/vhost.sock"
///     [options]
///     mac = "02:00:00:00:00:01"
///     queue_pairs = 2
///     ring_format = "packed"      # or "split", or "auto"
///     receive_offloads = "all"    # or "checksum", "never", or "auto"
///     [host]
///     addresses = ["10.0.0.1/24"]
///     [tcp]                       # of each cpu
///     connections = 100_000
///     memory = 268_435_456        # bytes
///     [cpus]
///     count = 4
/// "#)?;
/// assert!(config.validate().is_ok());
/// assert_eq!(config.options.ring_format, RingFormat::Packed);
/// assert_eq!(config.options.receive_offloads, virtroupe::ReceiveOffloadMode::All);
/// assert_eq!(config.tcp.connections, 100_000);
/// # Ok::<(), virtroupe::ConfigError>(())
/// ```
///
/// All lists of addresses take both families. Over IPv6, neighbours are not discovered: name those
/// that are to be reached, the router among them.
///
/// ```
/// # use virtroupe::Config;
/// let config = Config::from_toml(r#"
///     device = "tap:vt0"
///     [host]
///     addresses = ["10.0.0.1/24", "fd00::1/64"]
///     owned = ["fd00:1::/64"]
///     gateway = "10.0.0.254"
///     routes = [{ destination = "::/0", gateway = "fe80::1" }]
///     neighbors = [{ address = "fe80::1", mac = "02:00:00:00:00:fe" }]
/// "#)?;
/// assert!(config.validate().is_ok());
/// # Ok::<(), virtroupe::ConfigError>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The device, by URL.
    pub device: DeviceUrl,
    /// Rings, pool, MTU and Ethernet address.
    #[serde(default)]
    pub options: DeviceOptions,
    /// Addresses, routes, neighbours and limits. `mtu` in here is not used and `mac` must not be
    /// set: the device's are used, or those in `options`.
    #[serde(default)]
    pub host: HostConfig,
    /// Whether there is TCP, and the limits of each cpu's engine.
    #[serde(default)]
    pub tcp: TcpSettings,
    /// How the queue is polled.
    #[serde(default)]
    pub poll: PollSettings,
    /// The cpus of the stack, and how they share the device.
    #[serde(default)]
    pub cpus: Cpus,
    /// Time limits of start-up and shutdown.
    #[serde(default)]
    pub limits: TimeLimits,
}

/// The cpus of a stack: how many, where they run, and what each does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cpus {
    /// How many, 1 to 1024; 1 by default. A cpu is a logical number: by default each is one
    /// thread. Those beyond the device's queue pairs (`options.queue_pairs`) are proxies, which
    /// receive and send through the queue pairs of others.
    pub count: u16,
    /// The threads that the cpus run on, 1 to `count`: as many as cpus by default. With fewer,
    /// cpu `n` runs on thread `n` modulo `threads`: for tests and simulation.
    pub threads: Option<u16>,
    /// The cores to which the threads are pinned, in order; those beyond the list are not
    /// pinned. Empty by default.
    pub cores: Vec<usize>,
    /// The share of the flows that each cpu owns, in proportion to the others'; equal by
    /// default. A cpu that owns a queue pair also forwards for its proxies, so it may be given
    /// less, or 0 to do only that. As many numbers as there are cpus, or none.
    pub weights: Vec<u32>,
    /// The cpu that has the device: it owns the first queue pair, and the cpus behind it own the
    /// next ones. 0 by default.
    pub device: u16,
}

impl Default for Cpus {
    fn default() -> Self {
        Cpus {
            count: 1,
            threads: None,
            cores: Vec::new(),
            weights: Vec::new(),
            device: 0,
        }
    }
}

impl Cpus {
    /// The number of threads.
    pub(crate) fn threads(&self) -> u16 {
        self.threads.unwrap_or(self.count)
    }

    /// The weight of each cpu.
    pub(crate) fn weights(&self) -> Vec<u32> {
        match self.weights.is_empty() {
            true => vec![1; usize::from(self.count)],
            false => self.weights.clone(),
        }
    }
}

/// How long each stage may take, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeLimits {
    /// Connecting to the device, negotiation and memory; 15 000 by default. Each request to the
    /// device has a limit of its own below this.
    pub device_ms: u64,
    /// Starting the threads of the cpus; 5 000 by default.
    pub queue_ms: u64,
    /// Waiting for the link to come up; 10 000 by default.
    pub link_ms: u64,
    /// Handing each cpu its queue and building its stack; 5 000 by default.
    pub stack_ms: u64,
    /// Starting to receive; 5 000 by default.
    pub receive_ms: u64,
    /// Sending what waits at shutdown; 1 000 by default. What is not sent then is counted as
    /// dropped.
    pub drain_ms: u64,
}

impl Default for TimeLimits {
    fn default() -> Self {
        TimeLimits {
            device_ms: 15_000,
            queue_ms: 5_000,
            link_ms: 10_000,
            stack_ms: 5_000,
            receive_ms: 5_000,
            drain_ms: 1_000,
        }
    }
}

impl TimeLimits {
    pub(crate) fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}

/// Where the device is: `tap:NAME` or `vhost-user:PATH`.
///
/// Any other transport is handed to [`Supervisor::start_on`](crate::Supervisor::start_on).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceUrl {
    /// A TAP interface of the kernel, behind the embedded device. Created if it does not exist,
    /// which needs `CAP_NET_ADMIN`.
    Tap(String),
    /// The socket of a vhost-user backend.
    VhostUser(PathBuf),
    /// A transport that the program hands over itself; the text is for messages.
    Own(String),
}

impl FromStr for DeviceUrl {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text.split_once(':') {
            Some(("tap", name)) if (1..16).contains(&name.len()) => Ok(DeviceUrl::Tap(name.into())),
            Some(("vhost-user", path)) if !path.is_empty() => Ok(DeviceUrl::VhostUser(path.into())),
            Some(("own", name)) => Ok(DeviceUrl::Own(name.into())),
            _ => Err(ConfigError::Device(text.into())),
        }
    }
}

impl fmt::Display for DeviceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceUrl::Tap(name) => write!(f, "tap:{name}"),
            DeviceUrl::VhostUser(path) => write!(f, "vhost-user:{}", path.display()),
            DeviceUrl::Own(name) => write!(f, "own:{name}"),
        }
    }
}

impl TryFrom<String> for DeviceUrl {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<DeviceUrl> for String {
    fn from(url: DeviceUrl) -> String {
        url.to_string()
    }
}

/// The configuration is not valid.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can not be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not TOML, or has an unknown or ill-typed field. Says where.
    #[error("the configuration is not valid: {0}")]
    Syntax(String),
    /// The device's URL is not understood.
    #[error(
        "cannot understand the device '{0}'; use tap:NAME (1 to 15 characters) or vhost-user:PATH"
    )]
    Device(String),
    /// No address was given.
    #[error("no address: set host.addresses (--ip 10.0.0.1/24, or --ip fd00::1/64) or host.owned")]
    NoAddress,
    /// The Ethernet address is not one that a station can have.
    #[error(
        "options.mac is {0}, which no station can have; use a unicast address (02:00:00:00:00:01)"
    )]
    Mac(MacAddr),
    /// An Ethernet address was set where it has no effect.
    #[error("host.mac has no effect: the device's is used; to set another, use options.mac")]
    HostMac,
    /// A number is out of its range.
    #[error("{field} is {value}, but must be {expected}")]
    Range {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// Its range.
        expected: &'static str,
    },
}

impl ConfigError {
    /// The error in one line; its own text quotes the file over several.
    fn syntax(text: &str, error: &toml::de::Error) -> Self {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(0, |before| before.matches('\n').count()) + 1;
        ConfigError::Syntax(format!("line {line}: {}", error.message()))
    }
}

impl Config {
    /// The default configuration for a device.
    pub fn new(device: DeviceUrl) -> Self {
        Config {
            device,
            options: DeviceOptions::default(),
            host: HostConfig::default(),
            tcp: TcpSettings::default(),
            poll: PollSettings::default(),
            cpus: Cpus::default(),
            limits: TimeLimits::default(),
        }
    }

    /// Reads a TOML text.
    ///
    /// # Errors
    /// When it is not valid; says the line and what was expected.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::syntax(text, &error))
    }

    /// Reads a TOML file.
    ///
    /// # Errors
    /// When it can not be read or is not valid.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        Self::from_toml(&text)
    }

    /// Adds an address of ours with the length of its subnet's prefix.
    pub fn address(mut self, address: IpNet) -> Self {
        self.host.addresses.push(address);
        self
    }

    /// Adds a prefix of which every address is a host of ours.
    pub fn owned(mut self, prefix: IpNet) -> Self {
        self.host.owned.push(prefix);
        self
    }

    /// Sets the Ethernet address.
    pub fn mac(mut self, mac: MacAddr) -> Self {
        self.options.mac = Some(mac);
        self
    }

    /// Sets the number of cpus.
    pub fn cpus(mut self, count: u16) -> Self {
        self.cpus.count = count;
        self
    }

    /// Sets the number of the device's queue pairs to use.
    pub fn queues(mut self, queue_pairs: u16) -> Self {
        self.options.queue_pairs = queue_pairs;
        self
    }

    /// Sets the cores that the threads of the cpus are pinned to.
    pub fn cores(mut self, cores: impl Into<Vec<usize>>) -> Self {
        self.cpus.cores = cores.into();
        self
    }

    /// Checks what can be checked without the device.
    ///
    /// # Errors
    /// Says which field must be what.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.host.addresses.is_empty() && self.host.owned.is_empty() {
            return Err(ConfigError::NoAddress);
        }
        if let Some(mac) = self.options.mac.filter(|mac| !mac.is_unicast()) {
            return Err(ConfigError::Mac(mac));
        }
        if self.host.mac != MacAddr::default() {
            return Err(ConfigError::HostMac);
        }
        self.validate_cpus()?;
        let (first, last) = self.tcp.ephemeral_ports;
        let expected = "a first port, 1 or more, and a last one that is not less";
        range(
            "tcp.ephemeral_ports",
            first.into(),
            1..=last.into(),
            expected,
        )?;
        range("poll.burst", self.poll.burst as u64, 1..=256, "1 to 256")?;
        let bursts = self.poll.bursts_per_poll as u64;
        range("poll.bursts_per_poll", bursts, 1..=16, "1 to 16")?;
        let credits = self.poll.credits.into();
        range("poll.credits", credits, 32..=65536, "32 to 65536")?;
        let frames = self.poll.lane_frames.into();
        range("poll.lane_frames", frames, 32..=65536, "32 to 65536")?;
        let pairs = self.options.queue_pairs.into();
        range("options.queue_pairs", pairs, 1..=128, "1 to 128")
    }

    fn validate_cpus(&self) -> Result<(), ConfigError> {
        let cpus = &self.cpus;
        let count = u64::from(cpus.count);
        range("cpus.count", count, 1..=1024, "1 to 1024")?;
        let threads = cpus.threads().into();
        range("cpus.threads", threads, 1..=count, "1 to cpus.count")?;
        let device = cpus.device.into();
        range("cpus.device", device, 0..=count - 1, "below cpus.count")?;
        let weights = cpus.weights();
        let number = weights.len() as u64;
        range(
            "cpus.weights",
            number,
            count..=count,
            "as many as cpus.count",
        )?;
        let total = weights.iter().map(|weight| u64::from(*weight)).sum();
        range("cpus.weights", total, 1..=u64::MAX, "more than 0 in all")
    }
}

fn range(
    field: &'static str,
    value: u64,
    range: std::ops::RangeInclusive<u64>,
    expected: &'static str,
) -> Result<(), ConfigError> {
    match range.contains(&value) {
        true => Ok(()),
        false => Err(ConfigError::Range {
            field,
            value,
            expected,
        }),
    }
}
