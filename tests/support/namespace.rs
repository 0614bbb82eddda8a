//! Network namespaces for tests.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use super::Outcome;

/// A network namespace with its loopback interface up. It ends with the last of its handle,
/// threads, sockets and processes.
#[derive(Debug)]
pub struct Namespace {
    handle: File,
}

impl Namespace {
    /// Creates a namespace. Nothing but loopback is in it.
    pub fn new() -> Outcome<Namespace> {
        let created = thread::scope(|scope| {
            let creator = scope.spawn(|| -> Outcome<Namespace> {
                unshare(CloneFlags::CLONE_NEWNET)?;
                let handle = File::open("/proc/thread-self/ns/net")?;
                Ok(Namespace { handle })
            });
            creator.join()
        });
        let namespace = created.map_err(|_| "the thread of the namespace panicked")??;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Runs `work` on a thread in the namespace and waits for it. Sockets, threads and
    /// processes that it creates belong to the namespace, and stay in it. A panic goes on.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Outcome<T> {
        let result = thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(&self.handle, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            worker.join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a program in the namespace and returns its standard output.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Outcome<String> {
        let output = self.enter(|| Command::new(program).args(arguments).output())??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let (status, error) = (output.status, text(&output.stderr));
        let printed = text(&output.stdout);
        Err(format!(
            "{program} {}: {status}\n{printed}{error}",
            arguments.join(" ")
        )
        .into())
    }

    /// Where other programs find the namespace, as long as this process runs.
    pub fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.handle.as_raw_fd()
        )
    }

    /// Runs `ip` with arguments that are separated by spaces.
    pub fn ip(&self, arguments: &str) -> Outcome<String> {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        self.run("ip", &arguments)
    }
}
