//! What a test needs of the machine.

use std::fs::OpenOptions;

use super::privileges::Privileges;
use super::require;

/// One thing that a machine may lack.
#[derive(Debug, Clone, Copy)]
pub enum Requirement {
    /// Network namespaces can be created.
    Namespaces,
    /// Root on the machine itself, to become another user.
    Root,
    /// `/dev/net/tun` can be opened.
    Tun,
    /// The kernel has IPv6.
    Ipv6,
    /// A program is installed; the package is its name in Debian.
    Program {
        name: &'static str,
        package: &'static str,
    },
    /// Root on the machine itself, `dpdk-testpmd`, and this many free huge pages of 2 MiB.
    Dpdk { huge_pages: u64 },
}

/// `ip`, which sets up interfaces.
pub const IP: Requirement = Requirement::Program {
    name: "ip",
    package: "iproute2",
};

/// `ping`.
pub const PING: Requirement = Requirement::Program {
    name: "ping",
    package: "iputils-ping",
};

/// `curl`, which speaks HTTP and HTTPS.
pub const CURL: Requirement = Requirement::Program {
    name: "curl",
    package: "curl",
};

/// `wrk`, which makes many HTTP requests.
pub const WRK: Requirement = Requirement::Program {
    name: "wrk",
    package: "wrk",
};

/// `tshark`, which reads captures.
pub const TSHARK: Requirement = Requirement::Program {
    name: "tshark",
    package: "tshark",
};

impl Requirement {
    /// What is missing and what to do about it, in one line; `None` if nothing is.
    pub fn missing(&self, privileges: &Privileges) -> Option<String> {
        match *self {
            Requirement::Namespaces => match privileges {
                Privileges::Root | Privileges::UserNamespace => None,
                Privileges::None(reason) => Some(reason.clone()),
            },
            Requirement::Root => match privileges {
                Privileges::Root => None,
                _ => Some("another user can be tried by root only: run the test as root".into()),
            },
            Requirement::Tun => {
                let path = "/dev/net/tun";
                let opened = OpenOptions::new().read(true).write(true).open(path);
                opened.err().map(|error| {
                    format!("cannot open {path} ({error}): modprobe tun, and chmod 666 {path}")
                })
            }
            Requirement::Ipv6 => {
                let file = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
                let is_on = std::fs::read_to_string(file).is_ok_and(|text| text.trim() == "0");
                (!is_on).then(|| format!("the kernel has no IPv6: {file} must exist and be 0"))
            }
            Requirement::Program { name, package } => missing(require::program(name, package)),
            Requirement::Dpdk { huge_pages } => match privileges {
                Privileges::Root => missing(require::dpdk(huge_pages)),
                _ => Some("DPDK needs root: run the test as root".into()),
            },
        }
    }
}

fn missing(check: super::Outcome<()>) -> Option<String> {
    check.err().map(|failure| failure.to_string())
}
