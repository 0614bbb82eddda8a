//! The right to create network interfaces: root's, or that of a user namespace.

use std::fs;
use std::io;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// What this process may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Privileges {
    /// It is root on the machine.
    Root,
    /// It is not root on the machine, but has root's rights over namespaces that it creates.
    UserNamespace,
    /// It can create no namespace. Holds the reason and what to do.
    None(String),
}

/// Enters a user namespace unless the process may create network namespaces already. To be
/// called before any thread starts.
pub fn acquire() -> Privileges {
    // A container's root may lack the right, and may be some other user in truth.
    if can_create_network() {
        return match is_initial_user_namespace() && geteuid().is_root() {
            true => Privileges::Root,
            false => Privileges::UserNamespace,
        };
    }
    let entered = enter_user_namespace();
    if entered.is_ok() && can_create_network() {
        return Privileges::UserNamespace;
    }
    let error = entered
        .err()
        .map_or("it gives no rights".into(), |error| error.to_string());
    Privileges::None(format!(
        "no user namespace ({error}): run the test as root, or \
         sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000 \
         kernel.apparmor_restrict_unprivileged_userns=0 (those which exist)"
    ))
}

/// Tries it, on a thread that ends and takes the namespace with it.
fn can_create_network() -> bool {
    let attempt = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET));
    attempt.join().is_ok_and(|result| result.is_ok())
}

/// Whether user ids are those of the machine (user_namespaces(7)).
fn is_initial_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
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
