//! Who steps the device: its own thread, which sleeps while there is nothing to do.

use std::hint;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use virtroupe_wire::Instant;

use super::config::DeviceThread;
use super::device::Device;

/// The monotonic clock of the process, in nanoseconds since its first use. The thread of every
/// embedded device uses it.
pub fn monotonic_now() -> Instant {
    static EPOCH: OnceLock<std::time::Instant> = OnceLock::new();
    let elapsed = EPOCH.get_or_init(std::time::Instant::now).elapsed();
    Instant::ZERO + elapsed
}

/// Wakes the device's thread: by the doorbells of its driver, by the other end of its link, and
/// by the control path.
#[derive(Debug)]
pub(super) struct Waker {
    eventfd: EventFd,
    asleep: AtomicBool,
}

impl Waker {
    pub(super) fn new() -> nix::Result<Self> {
        Ok(Waker {
            eventfd: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            asleep: AtomicBool::new(false),
        })
    }

    /// Wakes the thread, whatever it does.
    pub(super) fn wake(&self) {
        // A full counter is the only failure, and then it is readable anyway.
        let _ = nix::unistd::write(self.eventfd.as_fd(), &1u64.to_ne_bytes());
    }

    /// Wakes the thread if it sleeps or is about to. What the caller made visible before, the
    /// thread sees before it sleeps: each side writes, then fences, then reads the other's flag.
    pub(super) fn wake_if_asleep(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.wake();
        }
    }

    /// A file that the driver writes to wake the device.
    pub(super) fn doorbell(&self) -> std::io::Result<OwnedFd> {
        self.eventfd.as_fd().try_clone_to_owned()
    }

    fn lie_down(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn get_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    fn drain(&self) {
        // Fails only when nothing was written.
        let _ = nix::unistd::read(self.eventfd.as_fd(), &mut [0; 8]);
    }
}

/// Steps `device` until it is stopped.
pub(super) fn run(device: &Device, thread: DeviceThread) {
    if let Some(cpu) = thread.cpu {
        pin(cpu);
    }
    let mut idle_since: Option<Instant> = None;
    while !device.is_stopped() {
        device.yield_to_control();
        let now = monotonic_now();
        if device.step(now) > 0 {
            idle_since = None;
            continue;
        }
        let idle = now.since(*idle_since.get_or_insert(now));
        if idle < thread.spin {
            hint::spin_loop();
            continue;
        }
        sleep(device, now);
        idle_since = None;
    }
}

/// Sleeps until a doorbell, the backend, the control path or a deadline.
fn sleep(device: &Device, now: Instant) {
    let waker = device.waker();
    waker.lie_down();
    // Whatever came before this step is found by it, and whatever comes after it wakes us.
    if device.step(now) == 0 && !device.prepare_sleep() && !device.is_stopped() {
        device.count_sleep();
        let deadline = device.deadline();
        wait(waker, &device.readiness(), deadline.map(|at| at.since(now)));
    }
    waker.get_up();
    waker.drain();
}

fn wait(waker: &Waker, ports: &[Arc<OwnedFd>], timeout: Option<Duration>) {
    let mut files = vec![PollFd::new(waker.eventfd.as_fd(), PollFlags::POLLIN)];
    let port = |file| PollFd::new(AsFd::as_fd(file), PollFlags::POLLIN);
    files.extend(ports.iter().map(port));
    match ppoll(&mut files, timeout.map(TimeSpec::from), None) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => {
            tracing::warn!(%error, "poll failed in the embedded device");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn pin(cpu: usize) {
    let mut set = nix::sched::CpuSet::new();
    let pinned = set
        .set(cpu)
        .and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        tracing::warn!(cpu, %error, "cannot pin the embedded device's thread");
    }
}
