//! The road through the kernel: two network namespaces with a veth pair between them.
//!
//! testpmd sends and counts on an AF_PACKET port in one of them; the other holds the kernel's
//! UDP sockets, and owns the addresses that testpmd's flowgen sends to.

use std::path::Path;
use std::process::Command;

use super::Outcome;

/// The two namespaces. Dropped, they are deleted.
#[derive(Debug)]
pub struct Veth {
    generator: String,
    peer: String,
}

/// The generator's end of the pair.
pub const GENERATOR_INTERFACE: &str = "gen0";

impl Veth {
    /// Creates namespaces, interfaces, addresses and routes. Needs root.
    pub fn create() -> Outcome<Veth> {
        let id = std::process::id();
        let veth = Veth {
            generator: format!("virtroupe-gen-{id}"),
            peer: format!("virtroupe-peer-{id}"),
        };
        ip(&["netns", "add", &veth.generator])?;
        ip(&["netns", "add", &veth.peer])?;
        veth.connect()?;
        veth.address()?;
        Ok(veth)
    }

    /// The namespace of the generator.
    pub fn generator(&self) -> &str {
        &self.generator
    }

    /// A command that runs `program` in the namespace of the kernel's sockets.
    pub fn peer_command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.peer]).arg(program);
        command
    }

    fn connect(&self) -> Outcome<()> {
        let (generator, peer) = (&self.generator, &self.peer);
        ip(&[
            "-n",
            generator,
            "link",
            "add",
            GENERATOR_INTERFACE,
            "address",
            "00:01:02:03:04:00",
            "type",
            "veth",
            "peer",
            "name",
            "peer0",
            "address",
            "00:01:02:03:04:01",
            "netns",
            peer,
        ])?;
        ip(&["-n", generator, "link", "set", GENERATOR_INTERFACE, "up"])?;
        ip(&["-n", peer, "link", "set", "peer0", "up"])?;
        ip(&["-n", peer, "link", "set", "lo", "up"])
    }

    /// The addresses of testpmd's flowgen: it sends from 10.254.0.0 to 10.253.0.0/22, and
    /// answers no ARP.
    fn address(&self) -> Outcome<()> {
        let peer = self.peer.as_str();
        for setting in ["all", "peer0"] {
            let setting = format!("net.ipv4.conf.{setting}.rp_filter=0");
            run(Command::new("ip").args(["netns", "exec", peer, "sysctl", "-qw", &setting]))?;
        }
        ip(&[
            "-n",
            peer,
            "address",
            "add",
            "10.253.0.1/32",
            "dev",
            "peer0",
        ])?;
        ip(&[
            "-n",
            peer,
            "route",
            "add",
            "local",
            "10.253.0.0/22",
            "dev",
            "lo",
        ])?;
        ip(&[
            "-n",
            peer,
            "route",
            "add",
            "10.254.0.0/32",
            "dev",
            "peer0",
            "src",
            "10.253.0.1",
        ])?;
        ip(&[
            "-n",
            peer,
            "neighbor",
            "add",
            "10.254.0.0",
            "lladdr",
            "00:01:02:03:04:00",
            "dev",
            "peer0",
        ])
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        for name in [&self.generator, &self.peer] {
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
        }
    }
}

fn ip(arguments: &[&str]) -> Outcome<()> {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> Outcome<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}", error.trim()).into())
}
