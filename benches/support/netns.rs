//! Network namespaces in which programs run.

use std::path::Path;
use std::process::Command;

use super::Outcome;

/// A network namespace. Dropped, it is deleted.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates a namespace with nothing but loopback in it. Needs root.
    pub fn create(role: &str) -> Outcome<Namespace> {
        let name = format!("virtroupe-{role}-{}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Namespace { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// How other programs name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs `program` in the namespace.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `ip` in the namespace, with arguments that are separated by spaces.
    pub fn ip(&self, arguments: &str) -> Outcome<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]);
        run(command.args(arguments.split_whitespace()))
    }

    /// Sets a kernel parameter of the namespace.
    pub fn sysctl(&self, setting: &str) -> Outcome<()> {
        run(self.command(Path::new("sysctl")).args(["-qw", setting]))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let name = self.name.as_str();
        let _ = Command::new("ip").args(["netns", "delete", name]).output();
    }
}

fn run(command: &mut Command) -> Outcome<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}", error.trim()).into())
}
