//! The sandbox: a user and network namespace with a TAP interface, in which a user who is not
//! root has a kernel to talk to the stack with (user_namespaces(7), network_namespaces(7)).

use std::io;
use std::os::fd::AsRawFd;
use std::process::{Command, ExitCode};
use std::{env, fs};

use clap::Args;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use nix::unistd::{getegid, geteuid};
use virtroupe::driver::embedded::TapConfig;
use virtroupe::driver::memory::HugePages;
use virtroupe::transport::tap_transport;
use virtroupe::{Config, DeviceUrl, Stack, Supervisor};

use crate::exit::Outcome;

/// The stack's address.
pub const STACK: &str = "10.0.0.2";
/// The kernel's.
const KERNEL: &str = "10.0.0.1/24";

/// Whether to serve in the sandbox, and whom.
#[derive(Debug, Args)]
pub struct SandboxArgs {
    /// Serve at 10.0.0.2 in a network of its own, and open a shell in it; needs no root
    #[arg(long, conflicts_with_all = ["device", "config", "ip", "mac", "neighbor", "cpus", "queues", "core", "seconds"])]
    pub sandbox: bool,
    /// What to run in the sandbox instead of a shell; its exit code becomes ours
    #[arg(last = true, requires = "sandbox", value_name = "COMMAND")]
    command: Vec<String>,
}

impl SandboxArgs {
    /// Serves with what `start` starts on a stack in the sandbox, which must have been entered,
    /// until the command or the shell ends; `hint` says what to try there.
    pub async fn serve(
        &self,
        hint: &str,
        start: impl AsyncFnOnce(&Stack) -> Outcome<()>,
    ) -> Outcome<ExitCode> {
        let stack = stack().await?;
        start(&stack).await?;
        let code = run(&self.command, hint).await?;
        stack.shutdown().await;
        Ok(code)
    }
}

/// Settings of the system that forbid the sandbox: the file, the value that does, and what to do.
const SETTINGS: [(&str, &str, &str); 4] = [
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "kernel.unprivileged_userns_clone is 0; allow it: sudo sysctl kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "kernel.apparmor_restrict_unprivileged_userns is 1; allow it: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "user.max_user_namespaces is 0; allow some: sudo sysctl user.max_user_namespaces=10000",
    ),
    (
        "/proc/sys/user/max_net_namespaces",
        "0",
        "user.max_net_namespaces is 0; allow some: sudo sysctl user.max_net_namespaces=10000",
    ),
];

/// Enters new namespaces, in which we are root. To be called before any thread starts.
///
/// # Errors
/// Where the system forbids it; names the setting that does.
pub fn enter() -> Outcome<()> {
    let refused = |what: &'static str| move |error: io::Error| explain(what, &error);
    let (user, group) = (geteuid(), getegid());
    match unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET) {
        Ok(()) => {
            let map = refused("map our user into it");
            // A group may be mapped only after setgroups(2) was given up.
            fs::write("/proc/self/setgroups", "deny").map_err(map)?;
            fs::write("/proc/self/uid_map", format!("0 {user} 1")).map_err(map)?;
            fs::write("/proc/self/gid_map", format!("0 {group} 1")).map_err(map)?;
        }
        // Root may do without a user namespace, where those are forbidden.
        Err(error) => unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|_| refused("enter a user and network namespace")(error.into()))?,
    }
    loopback_up().map_err(|error| refused("bring its loopback interface up")(error.into()))?;
    // Lets ping work without CAP_NET_RAW. It has that too, so a refusal does no harm.
    let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0");
    Ok(())
}

fn explain(what: &str, error: &io::Error) -> Box<dyn std::error::Error> {
    let advice = forbidding_setting().unwrap_or(
        "a container forbids it: run outside of it, or with a seccomp profile that allows it \
         (docker run --security-opt seccomp=unconfined)",
    );
    format!("the sandbox cannot {what}: {error}; {advice}").into()
}

/// What to do about the first setting that forbids the sandbox.
fn forbidding_setting() -> Option<&'static str> {
    let has =
        |file: &str, value: &str| fs::read_to_string(file).is_ok_and(|text| text.trim() == value);
    let mut settings = SETTINGS.into_iter();
    let (_, _, advice) = settings.find(|(file, forbids, _)| has(file, forbids))?;
    Some(advice)
}

/// Brings `lo` up by a message to the kernel (rtnetlink(7)): RTM_NEWLINK for interface 1, which
/// is the loopback interface of every network namespace, with the flag IFF_UP.
fn loopback_up() -> Result<(), Errno> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    let mut request = Vec::new();
    request.extend(32_u32.to_ne_bytes()); // struct nlmsghdr: length of the message,
    request.extend(RTM_NEWLINK.to_ne_bytes());
    request.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    request.extend([0; 8]); // sequence number and port
    request.extend([0; 4]); // struct ifinfomsg: family, padding, type,
    request.extend(1_u32.to_ne_bytes()); // index,
    request.extend(IFF_UP.to_ne_bytes()); // flags,
    request.extend(IFF_UP.to_ne_bytes()); // and which of them to change
    let kernel = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    send(kernel.as_raw_fd(), &request, MsgFlags::empty())?;
    // The answer is a struct nlmsgerr: behind its header of 16 bytes, 0 or a negative errno.
    let mut answer = [0; 256];
    recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let code = answer[16..]
        .first_chunk()
        .copied()
        .map_or(0, i32::from_ne_bytes);
    match code {
        0 => Ok(()),
        code => Err(Errno::from_raw(-code)),
    }
}

/// Starts a stack behind a TAP interface of the sandbox.
async fn stack() -> Outcome<Stack> {
    let tap = TapConfig {
        name: "virtroupe0".into(),
        up: true,
        kernel_address: Some(KERNEL.parse()?),
        ..TapConfig::default()
    };
    let mut config =
        Config::new(DeviceUrl::Own("sandbox".into())).address(format!("{STACK}/24").parse()?);
    config.options.huge_pages = HugePages::Never;
    let transport = tap_transport(tap, &config).map_err(|error| match forbidding_setting() {
        Some(advice) => format!("{error}; {advice}"),
        None => error.to_string(),
    })?;
    Ok(Supervisor::start_on(Box::new(transport), config).await?)
}

/// Runs `command` in the sandbox, or an interactive shell if it is empty, which begins with
/// `hint`: what to try. Gives its exit code.
async fn run(command: &[String], hint: &str) -> Outcome<ExitCode> {
    let shell = env::var("SHELL").unwrap_or_else(|_| "sh".into());
    let (program, arguments) = match command.split_first() {
        Some((program, arguments)) => (program.clone(), arguments.to_vec()),
        None => (shell, Vec::new()),
    };
    if command.is_empty() {
        println!("the stack is {STACK}: try {hint}; exit ends it");
    }
    // An interrupt is for the command; we end with it.
    actix::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    let mut child = Command::new(&program)
        .args(arguments)
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}; is it installed?"))?;
    let status = tokio::task::spawn_blocking(move || child.wait()).await??;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
