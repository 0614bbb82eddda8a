//! A stack over TAP, with the kernel's side in a namespace of its own.

use std::future::Future;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use actix::prelude::*;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use virtroupe::driver::embedded::TapConfig;
use virtroupe::driver::memory::HugePages;
use virtroupe::transport::tap_transport;
use virtroupe::{Config, LocalStack, Payload, Stack, Stats, Supervisor, UdpSend};

use crate::probe::{Probe, Seen, Send, within};
use crate::support::Outcome;
use crate::support::namespace::Namespace;

/// The kernel's address on the link.
pub const KERNEL: &str = "10.0.0.1";
/// Where the stack echoes.
pub const ECHO: &str = "10.0.0.2:7";
/// The kernel's name for the interface.
pub const INTERFACE: &str = "vt0";

/// For work that moves much.
const LONG: Duration = Duration::from_secs(120);

/// A running stack, 10.0.0.2/24, and the kernel in front of it, 10.0.0.1/24.
pub struct Host {
    pub kernel: Namespace,
    stack: Stack,
    runtime: Runtime,
    stop: Option<oneshot::Sender<()>>,
    system: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts a stack with the usual configuration.
    pub fn start() -> Outcome<Host> {
        Host::start_with(|_| ())
    }

    /// Starts a stack with what `change` makes of the usual configuration.
    pub fn start_with(change: impl FnOnce(&mut Config)) -> Outcome<Host> {
        let kernel = Namespace::new()?;
        let mut config = Config::new(format!("tap:{INTERFACE}").parse()?)
            .address("10.0.0.2/24".parse()?)
            .mac("02:00:00:00:00:02".parse()?);
        config.options.huge_pages = HugePages::Never;
        change(&mut config);
        let (report, started) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        // The threads of the stack inherit the namespace from this one.
        let system = kernel.enter(|| {
            thread::spawn(move || {
                System::new().block_on(async {
                    let stack = start(config).await;
                    let handle = stack.as_ref().ok().cloned();
                    let _ = report.send(stack);
                    let _ = stopped.await;
                    if let Some(stack) = handle {
                        stack.shutdown().await;
                    }
                });
            })
        })?;
        let stack = started.recv()??;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let (stop, system) = (Some(stop), Some(system));
        Ok(Host {
            kernel,
            stack,
            runtime,
            stop,
            system,
        })
    }

    /// Waits for `work`, but not for ever.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(within(work))
    }

    /// Runs `work` on the stack's first cpu.
    pub fn run<T, F, Fut>(&self, work: F) -> Outcome<T>
    where
        T: std::marker::Send + 'static,
        F: FnOnce(LocalStack) -> Fut + std::marker::Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let done = async { tokio::time::timeout(LONG, self.stack.run_on(0, work)).await };
        Ok(self.runtime.block_on(done)??)
    }

    /// Runs `work` on each of the stack's cpus.
    pub fn run_on_each<T, F, Fut>(&self, work: F) -> Outcome<Vec<T>>
    where
        T: std::marker::Send + 'static,
        F: Fn(LocalStack) -> Fut + Clone + std::marker::Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let done = async { tokio::time::timeout(LONG, self.stack.run_on_each(work)).await };
        Ok(self.runtime.block_on(done)??)
    }

    /// A TCP listener of the kernel.
    pub fn listen(&self, local: SocketAddr) -> Outcome<TcpListener> {
        Ok(self.kernel.enter(|| TcpListener::bind(local))??)
    }

    /// Starts an actor that echoes at [`ECHO`].
    pub fn echo(&self) -> Outcome<Actor> {
        self.actor("0.0.0.0:7", true)
    }

    /// Starts actors that echo at [`ECHO`], one on each cpu.
    pub fn echo_on_each(&self) -> Outcome<Vec<Addr<Probe>>> {
        self.echo_on_each_at("0.0.0.0:7")
    }

    /// Starts actors that echo at `local`, one on each cpu.
    pub fn echo_on_each_at(&self, local: &str) -> Outcome<Vec<Addr<Probe>>> {
        Ok(self.wait(Probe::echo_on_each(&self.stack, local))?)
    }

    /// The stack.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Every counter of the stack.
    pub fn stats(&self) -> Outcome<Stats> {
        Ok(self.wait(self.stack.stats())?)
    }

    /// Starts an actor with a socket.
    pub fn actor(&self, local: &str, echo: bool) -> Outcome<Actor> {
        let (address, seen) = self.wait(Probe::start(&self.stack, local, echo))?;
        Ok(Actor { address, seen })
    }

    /// Has `actor` send a datagram.
    pub fn send(&self, actor: &Actor, destination: SocketAddr, payload: &[u8]) -> Outcome<()> {
        self.send_with(
            actor,
            UdpSend::new(destination, Payload::Bytes(payload.to_vec().into())),
        )
    }

    /// Has `actor` send a datagram.
    pub fn send_with(&self, actor: &Actor, send: UdpSend<virtroupe::Frame>) -> Outcome<()> {
        let (outcome, _) = self.wait(actor.address.send(Send(vec![send])))?;
        match outcome.accepted {
            1 => Ok(()),
            _ => Err(format!("the stack refused to send: {outcome:?}").into()),
        }
    }

    /// What `actor` gets next.
    pub fn next(&self, actor: &mut Actor) -> Outcome<Seen> {
        let seen = self.wait(actor.seen.recv());
        Ok(seen.ok_or("the actor ended")?)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(system) = self.system.take() {
            let _ = system.join();
        }
    }
}

/// An actor with a socket of the stack.
pub struct Actor {
    address: Addr<Probe>,
    seen: UnboundedReceiver<Seen>,
}

async fn start(config: Config) -> Outcome<Stack> {
    let tap = TapConfig {
        name: INTERFACE.into(),
        up: true,
        kernel_address: Some("10.0.0.1/24".parse()?),
        ..TapConfig::default()
    };
    let transport = tap_transport(tap, &config)?;
    Ok(Supervisor::start_on(Box::new(transport), config).await?)
}

/// A UDP socket of the kernel in `namespace`, that waits for a datagram but not for ever.
pub fn kernel_socket(namespace: &Namespace, local: &str) -> Outcome<UdpSocket> {
    let socket = namespace.enter(|| UdpSocket::bind(local))??;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(socket)
}

/// Frames that the kernel got through the interface.
pub fn frames_of_the_kernel(host: &Host) -> Outcome<u64> {
    let path = "/proc/thread-self/net/dev";
    let table = host.kernel.enter(|| std::fs::read_to_string(path))??;
    let mut lines = table.lines().filter_map(|line| line.trim().split_once(':'));
    let counters = lines.find(|(name, _)| *name == INTERFACE);
    let frames = counters.and_then(|(_, counters)| counters.split_whitespace().nth(1));
    Ok(frames.ok_or("the interface is not listed")?.parse()?)
}
