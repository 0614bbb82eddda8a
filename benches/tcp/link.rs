//! The link between a server and the kernel, and the addresses at its ends.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use nix::sys::socket::{setsockopt, sockopt};

use crate::support::Outcome;
use crate::support::netns::Namespace;

/// The address of the server.
pub const SERVER: [u8; 4] = [10, 0, 0, 2];
/// The kernel's.
pub const CLIENT: [u8; 4] = [10, 0, 0, 1];
/// Ethernet address of the server.
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Ethernet address of the client, where it is not the kernel's.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The longest IP packet on the link.
pub const MTU: u16 = 1500;
/// The name of the TAP interface in its namespace, and that of the client's end of a veth pair.
pub const TAP: &str = "tap0";

/// What is between a server and the kernel's client.
pub enum Link {
    /// A TAP interface, which the server opens; the client is in the same namespace.
    Tap(Namespace),
    /// A veth pair: the server in the first namespace, the client in the second.
    Veth(Namespace, Namespace),
}

impl Link {
    /// A namespace with a TAP interface, which nobody has opened yet.
    pub fn tap() -> Outcome<Link> {
        let namespace = Namespace::create("tap")?;
        namespace.ip(&format!("tuntap add dev {TAP} mode tap vnet_hdr"))?;
        set_up(&namespace, TAP, CLIENT)?;
        Ok(Link::Tap(namespace))
    }

    /// Two namespaces with a veth pair between them.
    pub fn veth() -> Outcome<Link> {
        let (server, client) = (Namespace::create("server")?, Namespace::create("client")?);
        server.ip(&format!(
            "link add eth0 type veth peer name {TAP} netns {}",
            client.name()
        ))?;
        set_up(&server, "eth0", SERVER)?;
        set_up(&client, TAP, CLIENT)?;
        Ok(Link::Veth(server, client))
    }

    /// Runs a program on the server's side.
    pub fn server_command(&self, program: &Path) -> Command {
        match self {
            Link::Tap(namespace) | Link::Veth(namespace, _) => namespace.command(program),
        }
    }

    /// Runs a program on the client's side.
    pub fn client_command(&self, program: &Path) -> Command {
        match self {
            Link::Tap(namespace) | Link::Veth(_, namespace) => namespace.command(program),
        }
    }
}

/// Gives a socket of the kernel Linux's default congestion control: another one may be set on this
/// machine, and one that paces would be measured instead of the server.
pub fn set_cubic(socket: &impl AsFd) -> Outcome<()> {
    let cubic = OsString::from("cubic");
    Ok(setsockopt(socket, sockopt::TcpCongestion, &cubic)?)
}

fn set_up(namespace: &Namespace, interface: &str, address: [u8; 4]) -> Outcome<()> {
    let [a, b, c, d] = address;
    namespace.ip(&format!("link set {interface} mtu {MTU} up"))?;
    namespace.ip(&format!("address add {a}.{b}.{c}.{d}/24 dev {interface}"))
}
