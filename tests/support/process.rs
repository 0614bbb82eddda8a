//! A program that a test starts, talks to and ends.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Outcome;
use super::namespace::Namespace;

/// A running program, its output read line by line. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    printed: Vec<String>,
}

impl Process {
    /// Starts `command`, in `namespace` if there is one, with standard output and standard
    /// error read as one.
    pub fn start(mut command: Command, namespace: Option<&Namespace>) -> Outcome<Process> {
        let (reader, writer) = io::pipe()?;
        command
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut spawn = || command.spawn();
        let child = match namespace {
            Some(namespace) => namespace.enter(spawn)?,
            None => spawn(),
        };
        let child = child.map_err(|error| format!("cannot start {command:?}: {error}"))?;
        drop(command); // and with it our ends of the pipe
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Process {
            child,
            lines,
            printed: Vec::new(),
        })
    }

    /// The time that the program has spent on cpus, with its threads that have ended.
    pub fn cpu_time(&self) -> Outcome<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // proc(5): after the name in brackets, utime and stime are the 12th and 13th field, in
        // ticks of a hundredth of a second.
        let (_, fields) = stat.rsplit_once(')').ok_or("stat has no name")?;
        let mut ticks = 0;
        for field in fields.split_whitespace().skip(11).take(2) {
            ticks += field.parse::<u64>()?;
        }
        Ok(Duration::from_millis(10 * ticks))
    }

    /// Writes a line to the program's standard input.
    pub fn write_line(&mut self, line: &str) -> Outcome<()> {
        let input = self
            .child
            .stdin
            .as_mut()
            .ok_or("standard input is closed")?;
        writeln!(input, "{line}").map_err(Into::into)
    }

    /// Waits for a line that contains `text` and returns it.
    pub fn expect_line(&mut self, text: &str, limit: Duration) -> Outcome<String> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.printed.push(line.clone());
                    if line.contains(text) {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.failure(&format!("no `{text}` within {limit:?}")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.failure(&format!("ended without `{text}`")));
                }
            }
        }
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) -> Outcome<()> {
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGINT,
        )?;
        Ok(())
    }

    /// Closes standard input, waits for the end, and returns the status and all that was
    /// printed.
    pub fn wait(mut self, limit: Duration) -> Outcome<(ExitStatus, String)> {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + limit;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    return Err(self.failure(&format!("did not end within {limit:?}")));
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        // Its children may hold the pipe for longer: what they print is not waited for.
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(200)) {
            self.printed.push(line);
        }
        Ok((status, self.printed.join("\n")))
    }

    fn failure(&self, what: &str) -> super::Failure {
        format!(
            "the program {what}; it printed:\n{}",
            self.printed.join("\n")
        )
        .into()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The path of an example of this package, which `cargo test` has built.
pub fn example(name: &str) -> Outcome<PathBuf> {
    // This program is <target>/<profile>/deps/<test>-<hash>.
    let mut path = std::env::current_exe()?;
    path.pop();
    path.pop();
    path.extend(["examples", name]);
    match path.is_file() {
        true => Ok(path),
        false => Err(format!(
            "{} is missing: cargo build --example {name}",
            path.display()
        )
        .into()),
    }
}

/// A path in the folder for temporary files. Dropped, what is there is removed.
#[derive(Debug)]
pub struct TemporaryPath(PathBuf);

impl TemporaryPath {
    /// A path for `role` that no other process uses.
    pub fn new(role: &str) -> TemporaryPath {
        let name = format!("virtroupe-{role}-{}", std::process::id());
        TemporaryPath(std::env::temp_dir().join(name))
    }
}

impl Deref for TemporaryPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryPath {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}
