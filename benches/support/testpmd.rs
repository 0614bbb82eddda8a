//! A `dpdk-testpmd` process under control of the benchmark.
//!
//! It runs in interactive mode: commands go to its standard input, and what it prints is read
//! line by line. Its counters are read before and after the measured time, so a rate is a
//! difference of exact counts over the time between the two answers.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Outcome, cores, require};

/// How long testpmd may take to start: it reserves and clears its huge pages.
const START: Duration = Duration::from_secs(60);
/// How long it may take to answer a command.
const ANSWER: Duration = Duration::from_secs(10);
/// How long it may take to end.
const END: Duration = Duration::from_secs(15);
/// Lines that are kept for an error message.
const KEPT_LINES: usize = 15;

/// What to start.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// Names the process in messages and its files in the huge page file system.
    pub role: &'a str,
    /// The core of all its threads.
    pub core: usize,
    /// The virtual device, in DPDK's syntax.
    pub vdev: String,
    /// testpmd's forward mode, and its arguments.
    pub forward: Vec<String>,
    /// The network namespace (of `ip netns`) in which it runs.
    pub namespace: Option<&'a str>,
}

/// A running testpmd. Dropped, it is killed.
#[derive(Debug)]
pub struct Testpmd {
    role: String,
    prefix: String,
    child: Child,
    commands: ChildStdin,
    output: Receiver<(Instant, String)>,
    last_lines: VecDeque<String>,
}

/// The counters of testpmd's port, and when they were read.
#[derive(Debug, Clone, Copy)]
pub struct PortStats {
    pub received: u64,
    pub transmitted: u64,
    pub at: Instant,
}

/// What testpmd's forwarding loop did, as it counts itself with `--record-core-cycles`.
#[derive(Debug, Clone, Copy)]
pub struct ForwardStats {
    pub received: u64,
    pub sent: u64,
    /// Packets that it offered and the ring had no room for.
    pub refused: u64,
    /// Cycles of the time-stamp counter in the rounds of the loop that had packets: for a generator
    /// those are all, also where the ring took none.
    pub cycles: u64,
}

impl Testpmd {
    /// Starts the process and waits until it answers.
    pub fn start(options: &Options<'_>) -> Outcome<Testpmd> {
        let prefix = format!("virtroupe-{}-{}", options.role, std::process::id());
        let (reader, writer) = io::pipe()?;
        let mut command = command_line(options, &prefix);
        command
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut child = cores::spawn_on(options.core, &mut command)?;
        drop(command); // and with it our ends of the pipe
        let commands = child.stdin.take().ok_or("testpmd has no standard input")?;
        let mut testpmd = Testpmd {
            role: options.role.to_owned(),
            prefix,
            child,
            commands,
            output: read_lines(reader),
            last_lines: VecDeque::new(),
        };
        testpmd.port_stats_within(START)?;
        Ok(testpmd)
    }

    /// Starts forwarding.
    pub fn forward(&mut self) -> Outcome<()> {
        self.send("start")?;
        self.answer("packet forwarding", ANSWER)?;
        Ok(())
    }

    /// Reads the counters of port 0.
    pub fn port_stats(&mut self) -> Outcome<PortStats> {
        self.port_stats_within(ANSWER)
    }

    fn port_stats_within(&mut self, limit: Duration) -> Outcome<PortStats> {
        self.send("show port stats 0")?;
        let (_, received) = self.answer("RX-packets:", limit)?;
        let (at, transmitted) = self.answer("TX-packets:", ANSWER)?;
        Ok(PortStats {
            received: number_after(&received, "RX-packets:")?,
            transmitted: number_after(&transmitted, "TX-packets:")?,
            at,
        })
    }

    /// Sets the counters to zero that [`forward_stats`](Self::forward_stats) reads.
    pub fn clear_forward_stats(&mut self) -> Outcome<()> {
        self.send("clear fwd stats all")
    }

    /// What the forwarding loop did since [`clear_forward_stats`](Self::clear_forward_stats).
    pub fn forward_stats(&mut self) -> Outcome<ForwardStats> {
        self.send("show fwd stats all")?;
        let (_, received) = self.answer("RX-packets:", ANSWER)?;
        let (_, sent) = self.answer("TX-packets:", ANSWER)?;
        // Not printed where no packet moved.
        let (_, cycles) = self.answer("CPU cycles/packet=", ANSWER)?;
        Ok(ForwardStats {
            received: number_after(&received, "RX-packets:")?,
            sent: number_after(&sent, "TX-packets:")?,
            refused: number_after(&sent, "TX-dropped:")?,
            cycles: number_after(&cycles, "(total cycles=")?,
        })
    }

    /// Ends the process in its own way, which takes the device down cleanly.
    pub fn quit(&mut self) -> Outcome<()> {
        self.send("stop")?;
        self.send("quit")?;
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(self.failure("does not end when told to").into())
    }

    fn send(&mut self, command: &str) -> Outcome<()> {
        while let Ok((_, line)) = self.output.try_recv() {
            self.keep(line);
        }
        writeln!(self.commands, "{command}")
            .map_err(|error| self.failure(&format!("takes no command: {error}")).into())
    }

    /// The next line that contains `text`.
    fn answer(&mut self, text: &str, limit: Duration) -> Outcome<(Instant, String)> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok((at, line)) if line.contains(text) => return Ok((at, line)),
                Ok((_, line)) => self.keep(line),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.failure(&format!("prints no `{text}`")).into());
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.failure("ended").into()),
            }
        }
    }

    fn keep(&mut self, line: String) {
        if self.last_lines.len() == KEPT_LINES {
            self.last_lines.pop_front();
        }
        self.last_lines.push_back(line);
    }

    fn failure(&self, what: &str) -> String {
        let mut message = format!("dpdk-testpmd ({}) {what}; it printed last:", self.role);
        for line in &self.last_lines {
            message.push_str("\n    ");
            message.push_str(line);
        }
        message
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        remove_files(&self.prefix);
    }
}

fn command_line(options: &Options<'_>, prefix: &str) -> Command {
    let core = options.core;
    // The C library would buffer what goes to a pipe, and answers would not arrive.
    let mut command = match options.namespace {
        None => Command::new("stdbuf"),
        Some(name) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", name, "stdbuf"]);
            command
        }
    };
    command
        .args(["-oL", "dpdk-testpmd"])
        .args(["--lcores", &format!("0@{core},1@{core}")])
        .args(["--file-prefix", prefix])
        .args(["--no-pci", "--iova-mode=va", "--single-file-segments"])
        .args(["-m", "512", "--vdev", &options.vdev])
        .args([
            "--",
            "--interactive",
            "--nb-cores=1",
            "--disable-link-check",
        ])
        .arg("--record-core-cycles")
        .args(&options.forward);
    command
}

fn read_lines(reader: PipeReader) -> Receiver<(Instant, String)> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The whole number that follows `label` in a line of testpmd's.
fn number_after(line: &str, label: &str) -> Outcome<u64> {
    line.split_once(label)
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| format!("no number after `{label}` in `{line}`").into())
}

/// Removes what a killed testpmd leaves behind: huge pages stay reserved by their files.
fn remove_files(prefix: &str) {
    for folder in require::huge_page_mounts() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with("map_"))
            {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    let _ = fs::remove_dir_all(format!("/var/run/dpdk/{prefix}"));
}
