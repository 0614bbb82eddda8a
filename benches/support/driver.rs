//! The drivers that are compared: DPDK's virtio-user, and Virtroupe in a process of its own.

use std::io::{BufRead, BufReader, PipeReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::testpmd::{ForwardStats, Options, Testpmd};
use super::{Outcome, cores};

/// How long a process may take to end after SIGINT.
const END: Duration = Duration::from_secs(15);

/// What the driver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Counts what it receives, and drops it.
    Receive,
    /// Sends as much as it can.
    Transmit,
    /// Swaps source and destination of what it receives and sends it back.
    Echo,
}

/// What is measured: a task, at frames of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    pub task: Task,
    /// Bytes of each frame, from the Ethernet header on, without the frame check sequence.
    pub length: usize,
}

impl Traffic {
    /// The frames that everybody measures with.
    pub const ECHO: Traffic = Traffic {
        task: Task::Echo,
        length: 64,
    };

    /// testpmd's forward mode for the driver, and its arguments.
    fn forward_mode(self) -> Vec<String> {
        match self.task {
            Task::Receive => vec!["--forward-mode=rxonly".into()],
            Task::Echo => vec!["--forward-mode=5tswap".into()],
            Task::Transmit => vec![
                "--forward-mode=txonly".into(),
                format!("--txpkts={}", self.length),
                "--eth-peer=0,00:01:02:03:04:00".into(),
            ],
        }
    }

    /// Cycles that a packet took testpmd in the rounds of its loop that had some. Its generator
    /// does as much for packets that find no room, so those count, but are not packets.
    fn busy_cycles(self, stats: ForwardStats) -> f64 {
        let packets = match self.task {
            Task::Transmit => stats.sent + stats.refused,
            Task::Receive | Task::Echo => stats.received,
        };
        stats.cycles as f64 / packets.max(1) as f64
    }
}

/// A driver under test.
#[derive(Debug, Clone)]
pub enum Driver {
    /// testpmd's `net_virtio_user`, with further device arguments (`packed_vq=1`).
    Testpmd {
        name: &'static str,
        device_arguments: &'static str,
    },
    /// A program that connects to the vhost-user socket and runs until SIGINT. Before it exits
    /// it prints a line `busy_cycles_per_packet X`, and may print `delivered_packets N`. In its
    /// arguments `{socket}` stands for the socket's path, and `{length}` for that of the frames.
    Program {
        name: &'static str,
        program: PathBuf,
        arguments: Vec<String>,
    },
}

/// DPDK's driver as it comes: split ring, in-order, mergeable buffers.
pub const DPDK_DEFAULT: Driver = Driver::Testpmd {
    name: "dpdk",
    device_arguments: "",
};

/// For speed, DPDK's users choose what reads and writes several descriptors of a split ring at once;
/// that needs the device's plainest mode.
pub const DPDK_VECTORIZED: Driver = Driver::Testpmd {
    name: "dpdk-vectorized",
    device_arguments: ",vectorized=1,mrg_rxbuf=0,in_order=0",
};

/// Or packed rings.
pub const DPDK_PACKED: Driver = Driver::Testpmd {
    name: "dpdk-packed",
    device_arguments: ",packed_vq=1,in_order=1,mrg_rxbuf=1",
};

/// A driver that runs. Dropped, its process is killed.
#[derive(Debug)]
pub enum Running {
    Testpmd(Testpmd, Traffic),
    Program(Program),
}

/// What a driver tells about itself at its end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Cycles of its core per packet, without the polls that found nothing.
    pub busy_cycles_per_packet: Option<f64>,
    /// Packets that reached the application, over the whole run.
    pub delivered_packets: Option<u64>,
}

impl Driver {
    /// How tables call it.
    pub fn name(&self) -> &'static str {
        match self {
            Driver::Testpmd { name, .. } | Driver::Program { name, .. } => name,
        }
    }

    /// Starts the driver on `core`, connected to the backend's `socket`.
    pub fn start(&self, traffic: Traffic, socket: &Path, core: usize) -> Outcome<Running> {
        match self {
            Driver::Testpmd {
                device_arguments, ..
            } => {
                let socket = socket.display();
                let mut testpmd = Testpmd::start(&Options {
                    role: "driver",
                    core,
                    vdev: format!("net_virtio_user0,path={socket},queues=1{device_arguments}"),
                    forward: traffic.forward_mode(),
                    namespace: None,
                })?;
                testpmd.forward()?;
                Ok(Running::Testpmd(testpmd, traffic))
            }
            Driver::Program {
                name,
                program,
                arguments,
            } => {
                let mut command = Command::new(program);
                let (socket, length) = (socket.display().to_string(), traffic.length.to_string());
                let fill = |text: &String| {
                    text.replace("{socket}", &socket)
                        .replace("{length}", &length)
                };
                command.args(arguments.iter().map(fill));
                Ok(Running::Program(Program::start(name, command, core)?))
            }
        }
    }
}

impl Running {
    /// Called when the measured time begins.
    pub fn begin(&mut self) -> Outcome<()> {
        match self {
            Running::Testpmd(testpmd, _) => testpmd.clear_forward_stats(),
            Running::Program(program) => program.check_alive(),
        }
    }

    /// Ends the driver when the measured time is over.
    pub fn finish(self) -> Outcome<Report> {
        match self {
            Running::Testpmd(mut testpmd, traffic) => {
                let stats = testpmd.forward_stats()?;
                testpmd.quit()?;
                Ok(Report {
                    busy_cycles_per_packet: Some(traffic.busy_cycles(stats)),
                    delivered_packets: None,
                })
            }
            Running::Program(program) => program.finish(),
        }
    }
}

/// A running process of [`Driver::Program`].
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    child: Child,
    output: JoinHandle<()>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Starts `command` on `core` with its output collected.
    pub fn start(name: &'static str, mut command: Command, core: usize) -> Outcome<Program> {
        let (reader, writer) = std::io::pipe()?;
        command
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let child = cores::spawn_on(core, &mut command)?;
        drop(command); // and with it our ends of the pipe
        let lines = Arc::default();
        let collected = Arc::clone(&lines);
        Ok(Program {
            name,
            child,
            output: thread::spawn(move || collect_lines(reader, &collected)),
            lines,
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with the program's output if it has ended by itself.
    pub fn check_alive(&mut self) -> Outcome<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(self.failure(&format!("ended early ({status})")).into()),
        }
    }

    /// Ends the program by SIGINT and reads its report.
    pub fn finish(mut self) -> Outcome<Report> {
        self.check_alive()?;
        let pid = i32::try_from(self.child.id())?;
        kill(Pid::from_raw(pid), Signal::SIGINT)?;
        let deadline = Instant::now() + END;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    let _ = self.child.kill();
                    return Err(self.failure("does not end after SIGINT").into());
                }
                None => thread::sleep(Duration::from_millis(20)),
            }
        };
        if !status.success() {
            return Err(self.failure(&format!("failed ({status})")).into());
        }
        let lines = self.lines();
        let value = |label: &str| {
            lines
                .iter()
                .rev()
                .find_map(|line| line.strip_prefix(label)?.strip_prefix(' '))
        };
        Ok(Report {
            busy_cycles_per_packet: value("busy_cycles_per_packet")
                .map(|cycles| cycles.trim().parse())
                .transpose()?,
            delivered_packets: value("delivered_packets")
                .map(|count| count.trim().parse())
                .transpose()?,
        })
    }

    /// What the program printed. Its own children may hold the pipe open after its end, so the
    /// end of the output is waited for within a limit.
    fn lines(&mut self) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(1);
        while !self.output.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let lines = self.lines.lock();
        lines.map(|lines| lines.clone()).unwrap_or_default()
    }

    fn failure(&mut self, what: &str) -> String {
        let lines = self.lines();
        let last = lines.len().saturating_sub(15);
        format!(
            "{} {what}; it printed last:\n    {}",
            self.name,
            lines[last..].join("\n    ")
        )
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Reads to the end; of a long output the last lines are kept.
fn collect_lines(reader: PipeReader, collected: &Mutex<Vec<String>>) {
    for line in BufReader::new(reader).lines().map_while(Result::ok) {
        let Ok(mut lines) = collected.lock() else {
            return;
        };
        if lines.len() >= 2000 {
            lines.drain(..1000);
        }
        lines.push(line);
    }
}

/// Builds an example of this package in the release profile and returns its path.
pub fn build_example(name: &str) -> Outcome<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let built = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--manifest-path",
            manifest,
            "--example",
            name,
        ])
        .status()?;
    if !built.success() {
        return Err(format!("cargo build --release --example {name} failed").into());
    }
    // This program is <target>/release/deps/<bench>-<hash>.
    let mut path = std::env::current_exe()?;
    path.pop();
    path.pop();
    path.extend(["examples", name]);
    match path.is_file() {
        true => Ok(path),
        false => Err(format!("the example was not built as {}", path.display()).into()),
    }
}
