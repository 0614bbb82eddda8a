//! The right to create network interfaces: root's, or that of a user namespace.

use std::fs;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// What this process may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Privileges {
    /// It is root on the machine.
    Root,
    /// It is root in a user namespace of its own, with a network of its own.
    UserNamespace,
    /// It can create no namespace. Holds the reason and what to do.
    None(String),
}

/// Enters a user namespace unless the process is root. To be called before any thread starts.
pub fn acquire() -> Privileges {
    if geteuid().is_root() {
        return Privileges::Root;
    }
    match enter_user_namespace() {
        Ok(()) => Privileges::UserNamespace,
        Err(error) => Privileges::None(format!(
            "no user namespace ({error}): run the test as root, or \
             sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000 \
             kernel.apparmor_restrict_unprivileged_userns=0 (those which exist)"
        )),
    }
}

fn enter_user_namespace() -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    // user_namespaces(7): a group map may be written only after setgroups was given up.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    Ok(())
}
