//! What users of the host engine rely on, checked from outside: bytes in, bytes and events out,
//! time and memory as arguments. Packets are made and read by etherparse, not by the code under
//! test.

mod arp;
mod icmp;
mod ipv4;
mod link;
mod offloads;
mod robustness;
mod sockets;
mod support;
mod trains;
mod udp;
