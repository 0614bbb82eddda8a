//! The options that say which device an example runs on.

use std::error::Error;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use virtroupe::driver::RingFormat;
use virtroupe::wire::host::{Neighbor, Route};
use virtroupe::{Config, DeviceUrl, MacAddr};

/// Which device, and who we are on it.
#[derive(Debug, Clone, Args)]
pub struct DeviceArgs {
    /// Use the TAP interface NAME; it is created if it does not exist
    #[arg(long, value_name = "NAME", group = "device")]
    tap: Option<String>,
    /// Connect to the vhost-user backend at PATH
    #[arg(long, value_name = "PATH", group = "device")]
    vhost_user: Option<PathBuf>,
    /// Read the configuration from a TOML file; the other options change it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Our IPv4 or IPv6 address and its subnet; with no host bits set, a prefix that we own wholly
    #[arg(long, value_name = "IP/LEN")]
    ip: Vec<ipnet::IpNet>,
    /// Our Ethernet address
    #[arg(long)]
    mac: Option<MacAddr>,
    /// A neighbour whose Ethernet address is not asked for; over IPv6 only these are reached
    #[arg(long, value_name = "IP=MAC", value_parser = neighbor)]
    neighbor: Vec<Neighbor>,
    /// The memory format of the rings: auto, split or packed
    #[arg(long, value_name = "FORMAT", value_parser = ring_format)]
    ring_format: Option<RingFormat>,
    /// Ask the device for no checksums and no segmentation of what is sent: it need not look for
    /// such requests then, which is less work for short packets and more for long ones
    #[arg(long)]
    no_transmit_offloads: bool,
    #[command(flatten)]
    pub cpus: CpuArgs,
}

/// How many cpus and queues.
#[derive(Debug, Clone, Args)]
pub struct CpuArgs {
    /// The cpus of the stack; those without a queue are proxies [default: 1]
    #[arg(long, value_name = "N")]
    cpus: Option<u16>,
    /// The queue pairs of the device [default: 1]
    #[arg(long, value_name = "M")]
    queues: Option<u16>,
    /// Pin the cpus to these cores
    #[arg(long, value_name = "CORE,CORE...", value_delimiter = ',')]
    core: Vec<usize>,
}

impl CpuArgs {
    /// Sets what was given.
    pub fn apply_to(&self, config: &mut Config) {
        config.cpus.count = self.cpus.unwrap_or(config.cpus.count);
        config.options.queue_pairs = self.queues.unwrap_or(config.options.queue_pairs);
        if !self.core.is_empty() {
            config.cpus.cores.clone_from(&self.core);
        }
    }
}

/// What to say where a device is needed and none is named.
pub const NO_DEVICE: &str = "no device: name one by --tap NAME, --vhost-user PATH or --config FILE";

impl DeviceArgs {
    /// The configuration that the options describe; `None` if they name no device.
    ///
    /// # Errors
    /// When the file is not valid, or the other options have no device to be about.
    pub fn to_config(&self) -> Result<Option<Config>, Box<dyn Error>> {
        let mut config = match (&self.config, &self.tap, &self.vhost_user) {
            (Some(file), _, _) => Config::from_file(file)?,
            (None, Some(name), _) => Config::new(format!("tap:{name}").parse()?),
            (None, None, Some(path)) => Config::new(DeviceUrl::VhostUser(path.clone())),
            (None, None, None) if self.is_empty() => return Ok(None),
            (None, None, None) => return Err(NO_DEVICE.into()),
        };
        if let Some(name) = &self.tap {
            config.device = DeviceUrl::Tap(name.clone());
        }
        if let Some(path) = &self.vhost_user {
            config.device = DeviceUrl::VhostUser(path.clone());
        }
        for ip in &self.ip {
            let whole = ip.addr() == ip.network() && ip.prefix_len() < ip.max_prefix_len();
            config = if whole {
                config.owned(*ip)
            } else {
                config.address(*ip)
            };
        }
        config.options.mac = self.mac.or(config.options.mac);
        config.options.ring_format = self.ring_format.unwrap_or(config.options.ring_format);
        config.options.transmit_offloads &= !self.no_transmit_offloads;
        self.cpus.apply_to(&mut config);
        for neighbor in &self.neighbor {
            config.host.neighbors.push(*neighbor);
            // It may be outside of our subnets, and yet it is on the link.
            let route = Route {
                destination: neighbor.address.into(),
                gateway: None,
            };
            config.host.routes.push(route);
        }
        Ok(Some(config))
    }

    fn is_empty(&self) -> bool {
        let is_addressed = !self.ip.is_empty() || self.mac.is_some() || !self.neighbor.is_empty();
        !is_addressed && self.ring_format.is_none() && !self.no_transmit_offloads
    }
}

fn ring_format(text: &str) -> Result<RingFormat, String> {
    match text {
        "auto" => Ok(RingFormat::Auto),
        "split" => Ok(RingFormat::Split),
        "packed" => Ok(RingFormat::Packed),
        _ => Err("it is auto, split or packed".into()),
    }
}

fn neighbor(text: &str) -> Result<Neighbor, String> {
    let (ip, mac) = text
        .split_once('=')
        .ok_or("write it as 10.0.0.1=02:00:00:00:00:01")?;
    let address: IpAddr = ip.parse().map_err(|error| format!("{ip}: {error}"))?;
    let mac = mac.parse().map_err(|error| format!("{mac}: {error}"))?;
    Ok(Neighbor { address, mac })
}
