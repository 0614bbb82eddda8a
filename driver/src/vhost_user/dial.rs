//! Connecting to the backend's socket, and what to do when that fails.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt::SendTimeout,
};
use nix::sys::time::TimeVal;

use super::deadline::Deadline;
use crate::transport::TransportError;

/// Time between two attempts while nobody listens.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Connects to the socket at `path` within `timeout`, and for `wait` tries again while the
/// socket does not exist or refuses.
pub(crate) fn dial(
    path: &Path,
    device: &str,
    timeout: Duration,
    wait: Duration,
) -> Result<UnixStream, TransportError> {
    let patience = Deadline::after(wait);
    let address = UnixAddr::new(path).map_err(|errno| failure(path, errno))?;
    loop {
        let errno = match attempt(&address, &Deadline::after(timeout)) {
            Ok(stream) => return Ok(stream),
            Err(errno) => errno,
        };
        match (errno, patience.remaining()) {
            (Errno::ENOENT | Errno::ECONNREFUSED, Some(left)) => {
                std::thread::sleep(left.min(RETRY_INTERVAL));
            }
            (Errno::EAGAIN, _) => {
                return Err(TransportError::TimedOut {
                    device: device.to_owned(),
                    request: "connect",
                    milliseconds: Deadline::after(timeout).milliseconds(),
                });
            }
            _ => return Err(failure(path, errno)),
        }
    }
}

/// One connect. It blocks while the backend's queue of connections is full, at most until the
/// deadline: then the error is `EAGAIN`.
fn attempt(address: &UnixAddr, deadline: &Deadline) -> Result<UnixStream, Errno> {
    let file = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    loop {
        let left = deadline.remaining().ok_or(Errno::EAGAIN)?;
        setsockopt(&file, SendTimeout, &time_value(left))?;
        match connect(file.as_raw_fd(), address) {
            Ok(()) => return Ok(UnixStream::from(file)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// `duration` as a socket timeout: at least one microsecond, because zero means 'for ever', and
/// at most an hour, because the field is narrower than a `Duration`.
fn time_value(duration: Duration) -> TimeVal {
    let duration = duration.clamp(Duration::from_micros(1), Duration::from_secs(3600));
    TimeVal::new(
        i64::try_from(duration.as_secs()).unwrap_or(3600),
        i64::from(duration.subsec_micros()),
    )
}

fn failure(path: &Path, errno: Errno) -> TransportError {
    TransportError::System {
        context: format!("cannot connect to vhost-user socket {}", path.display()),
        source: io::Error::from(errno),
        advice: advice(path, errno).to_owned(),
    }
}

fn advice(path: &Path, errno: Errno) -> &'static str {
    let is_socket = || {
        path.metadata()
            .is_ok_and(|found| found.file_type().is_socket())
    };
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => "start the backend first or check the path",
        Errno::EACCES | Errno::EPERM => {
            "this user needs write permission on the socket and search permission on its directory"
        }
        Errno::ECONNREFUSED if is_socket() => {
            "nobody listens on it: start the backend again, as the server of the socket"
        }
        Errno::ECONNREFUSED => "it is not a socket: check the path",
        Errno::EPROTOTYPE => "it is a socket of another kind: check the path",
        Errno::ENAMETOOLONG => "use a path of at most 107 bytes",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Root, under whom tests may run, is never refused: so only the words are tested.
    #[test]
    fn a_missing_permission_is_explained() {
        let message = failure(Path::new("/run/x.sock"), Errno::EACCES).to_string();
        assert!(message.starts_with("cannot connect to vhost-user socket /run/x.sock: "));
        assert!(
            message.contains("needs write permission on the socket"),
            "{message}"
        );
    }

    #[test]
    fn a_socket_timeout_is_never_zero_which_would_mean_for_ever() {
        assert_eq!(time_value(Duration::ZERO), TimeVal::new(0, 1));
        assert_eq!(time_value(Duration::MAX), TimeVal::new(3600, 0));
    }
}
