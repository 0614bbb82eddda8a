//! The family of addresses that a test runs over: every test of TCP runs over both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use virtroupe::Config;
use virtroupe::wire::{MacAddr, Neighbor};

use super::host::{Host, INTERFACE};
use crate::support::namespace::Namespace;
use crate::support::requirement::Requirement;
use crate::support::{Outcome, Suite};

/// The kernel's Ethernet address on the link: over IPv6 the stack knows it by its settings.
const KERNEL_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    /// The test `body` over each family. What the kernel lacks IPv6 for is skipped over that only.
    pub fn tests(
        suite: &Suite,
        name: &str,
        requirements: &[Requirement],
        body: fn(Family) -> Outcome<()>,
    ) -> [Trial; 2] {
        [Family::Ipv4, Family::Ipv6].map(|family| {
            let mut requirements = requirements.to_vec();
            let name = match family {
                Family::Ipv4 => format!("{name}_over_ipv4"),
                Family::Ipv6 => {
                    requirements.push(Requirement::Ipv6);
                    format!("{name}_over_ipv6")
                }
            };
            suite.test(&name, &requirements, move || body(family))
        })
    }

    /// One of two things.
    pub fn choose<T>(self, ipv4: T, ipv6: T) -> T {
        match self {
            Family::Ipv4 => ipv4,
            Family::Ipv6 => ipv6,
        }
    }

    /// The kernel's address on the link (1), the stack's (2), or another one.
    pub fn host(self, number: u8) -> IpAddr {
        self.choose(
            Ipv4Addr::new(10, 0, 0, number).into(),
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into(),
        )
    }

    /// A port of the stack.
    pub fn stack(self, port: u16) -> SocketAddr {
        (self.host(2), port).into()
    }

    /// A port of the kernel.
    pub fn kernel(self, port: u16) -> SocketAddr {
        (self.host(1), port).into()
    }

    /// A port of whatever address the stack has.
    pub fn any(self, port: u16) -> SocketAddr {
        let any = self.choose(
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        );
        (any, port).into()
    }

    /// The option of `ip` that names the family.
    fn option(self) -> &'static str {
        self.choose("-4", "-6")
    }

    /// An address with the length of its subnet.
    fn with_subnet(self, address: IpAddr) -> String {
        format!("{address}/{}", self.choose(24, 64))
    }

    /// How many bytes a test of bulk moves: a gibibyte. Over IPv6 less will do, for the sake of
    /// the suite's time: what only shows after so much is the same code for both.
    pub fn bulk(self) -> u64 {
        self.choose(1 << 30, 128 << 20)
    }

    /// A static neighbour of the stack.
    pub fn neighbor(self, number: u8) -> Neighbor {
        Neighbor {
            address: self.host(number),
            mac: MacAddr([2, 0, 0, 0, 0, number]),
        }
    }

    /// Starts a stack, and the kernel in front of it. Over IPv6 both have their IPv4 addresses too.
    pub fn start(self) -> Outcome<Host> {
        self.start_with(|_| ())
    }

    /// As [`Family::start`], with what `change` makes of the usual configuration.
    pub fn start_with(self, change: impl FnOnce(&mut Config)) -> Outcome<Host> {
        if self == Family::Ipv4 {
            return Host::start_with(change);
        }
        let ours = self.with_subnet(self.host(2)).parse()?;
        let host = Host::start_with(|config| {
            config.host.addresses.push(ours);
            config.host.neighbors.push(self.neighbor(1));
            change(config);
        })?;
        self.add_kernel(&host.kernel)?;
        self.wait_for_kernel(&host.kernel)?;
        Ok(host)
    }

    /// Gives the kernel its address on the link.
    pub fn add_kernel(self, kernel: &Namespace) -> Outcome<()> {
        kernel.ip(&format!("link set {INTERFACE} address {KERNEL_MAC}"))?;
        self.add_address(kernel, INTERFACE, self.host(1))
    }

    /// Takes the kernel's address away: it answers no more.
    pub fn delete_kernel(self, kernel: &Namespace) -> Outcome<()> {
        let (option, address) = (self.option(), self.with_subnet(self.host(1)));
        kernel.ip(&format!("{option} address del {address} dev {INTERFACE}"))?;
        Ok(())
    }

    /// Waits until the kernel uses the address on the link that it was given.
    pub fn wait_for_kernel(self, kernel: &Namespace) -> Outcome<()> {
        self.wait_for_address(kernel, INTERFACE, self.host(1))
    }

    /// Gives an interface of a kernel an address. Nobody is asked whether it is free (RFC 4862,
    /// section 5.4), as nobody else is there.
    pub fn add_address(self, kernel: &Namespace, interface: &str, address: IpAddr) -> Outcome<()> {
        let (option, address) = (self.option(), self.with_subnet(address));
        let nodad = self.choose("", " nodad");
        kernel.ip(&format!(
            "{option} address add {address} dev {interface}{nodad}"
        ))?;
        Ok(())
    }

    /// The kernel takes an IPv6 address into use in the background, and drops what comes before.
    pub fn wait_for_address(
        self,
        kernel: &Namespace,
        interface: &str,
        address: IpAddr,
    ) -> Outcome<()> {
        if self == Family::Ipv4 {
            return Ok(());
        }
        let route = format!("local {address} dev {interface}");
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            let routes = kernel.ip("-6 route show table local")?;
            let tentative = kernel.ip(&format!("-6 address show dev {interface} tentative"))?;
            if routes.contains(&route) && !tentative.contains(&address.to_string()) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(format!("the kernel does not take {address} into use").into())
    }

    /// The options of an example that is the stack on the link.
    pub fn arguments(self) -> Vec<String> {
        let mut arguments = vec!["--tap".into(), INTERFACE.into(), "--ip".into()];
        arguments.push(self.with_subnet(self.host(2)));
        if self == Family::Ipv6 {
            arguments.extend([
                "--neighbor".into(),
                format!("{}={KERNEL_MAC}", self.host(1)),
            ]);
        }
        arguments
    }
}
