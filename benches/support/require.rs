//! What a benchmark needs of the machine, checked before anything starts.

use std::fs;
use std::path::{Path, PathBuf};

use super::Outcome;

/// Root, two cores, `dpdk-testpmd`, and free huge pages. The error names all that is missing
/// and what to do.
///
/// `huge_pages` is the number of 2 MiB pages that have to be free.
pub fn dpdk(huge_pages: u64) -> Outcome<()> {
    let checks = [
        root(),
        cores(2),
        program("dpdk-testpmd", "dpdk-dev"),
        pages(huge_pages),
    ];
    all(checks)
}

/// Root, two cores, `ip`, and TAP interfaces.
pub fn namespaces() -> Outcome<()> {
    all([root(), cores(2), program("ip", "iproute2"), tun()])
}

/// [`dpdk`], and `ip` for the namespace of the kernel's sockets.
pub fn dpdk_and_namespaces(huge_pages: u64) -> Outcome<()> {
    all([dpdk(huge_pages), program("ip", "iproute2")])
}

fn all<const N: usize>(checks: [Outcome<()>; N]) -> Outcome<()> {
    let missing: Vec<String> = checks
        .into_iter()
        .filter_map(|check| check.err().map(|failure| failure.to_string()))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(missing.join("; ").into())
}

fn root() -> Outcome<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err("run the benchmark as root: DPDK and network namespaces need it".into())
}

fn cores(count: usize) -> Outcome<()> {
    let available = std::thread::available_parallelism()?.get();
    if available >= count {
        return Ok(());
    }
    Err(format!("{count} cores are needed, one for each side; here are {available}").into())
}

fn tun() -> Outcome<()> {
    match Path::new("/dev/net/tun").exists() {
        true => Ok(()),
        false => Err("no /dev/net/tun: load the module with 'modprobe tun'".into()),
    }
}

/// A program in `PATH`; `package` is what brings it on Debian.
pub fn program(name: &str, package: &str) -> Outcome<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    if found {
        return Ok(());
    }
    Err(format!("{name} is not installed: apt-get install {package}").into())
}

fn pages(needed: u64) -> Outcome<()> {
    let mounts = huge_page_mounts();
    if mounts.is_empty() {
        return Err("no hugetlbfs: mkdir -p /dev/hugepages && \
                    mount -t hugetlbfs nodev /dev/hugepages"
            .into());
    }
    let path = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    let free: u64 = fs::read_to_string(path)?.trim().parse()?;
    if free >= needed {
        return Ok(());
    }
    Err(format!(
        "{needed} free huge pages of 2 MiB are needed and {free} are free: \
         sysctl -w vm.nr_hugepages=1024"
    )
    .into())
}

/// The folders in which a hugetlbfs is mounted.
pub fn huge_page_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (folder, kind) = (fields.next()?, fields.next()?);
            (kind == "hugetlbfs").then(|| PathBuf::from(folder))
        })
        .collect()
}
