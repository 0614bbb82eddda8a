//! The road through the kernel: two network namespaces with a veth pair between them.
//!
//! testpmd sends and counts on an AF_PACKET port in one of them; the other holds the kernel's
//! UDP sockets, and owns the addresses that testpmd's flowgen sends to.

use std::path::Path;
use std::process::Command;

use super::Outcome;
use super::netns::Namespace;

/// The two namespaces. Dropped, they are deleted.
#[derive(Debug)]
pub struct Veth {
    generator: Namespace,
    peer: Namespace,
}

/// The generator's end of the pair.
pub const GENERATOR_INTERFACE: &str = "gen0";

impl Veth {
    /// Creates namespaces, interfaces, addresses and routes. Needs root.
    pub fn create() -> Outcome<Veth> {
        let veth = Veth {
            generator: Namespace::create("gen")?,
            peer: Namespace::create("peer")?,
        };
        veth.connect()?;
        veth.address()?;
        Ok(veth)
    }

    /// The namespace of the generator.
    pub fn generator(&self) -> &str {
        self.generator.name()
    }

    /// A command that runs `program` in the namespace of the kernel's sockets.
    pub fn peer_command(&self, program: &Path) -> Command {
        self.peer.command(program)
    }

    fn connect(&self) -> Outcome<()> {
        self.generator.ip(&format!(
            "link add {GENERATOR_INTERFACE} address 00:01:02:03:04:00 type veth \
             peer name peer0 address 00:01:02:03:04:01 netns {}",
            self.peer.name()
        ))?;
        self.generator
            .ip(&format!("link set {GENERATOR_INTERFACE} up"))?;
        self.peer.ip("link set peer0 up")
    }

    /// The addresses of testpmd's flowgen: it sends from 10.254.0.0 to 10.253.0.0/22, and
    /// answers no ARP.
    fn address(&self) -> Outcome<()> {
        for setting in ["all", "peer0"] {
            self.peer
                .sysctl(&format!("net.ipv4.conf.{setting}.rp_filter=0"))?;
        }
        for arguments in [
            "address add 10.253.0.1/32 dev peer0",
            "route add local 10.253.0.0/22 dev lo",
            "route add 10.254.0.0/32 dev peer0 src 10.253.0.1",
            "neighbor add 10.254.0.0 lladdr 00:01:02:03:04:00 dev peer0",
        ] {
            self.peer.ip(arguments)?;
        }
        Ok(())
    }
}
