//! CPU time, memory and CPU affinity of processes.

use std::{fs, path::Path, time::Duration};

use rustix::{
    param::clock_ticks_per_second,
    process::{Pid, Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_setaffinity},
};

use crate::error::{BenchError, Result};

/// Core of the measured process.
pub(crate) const MEASURED_CORE: usize = 0;
/// Core of the load and the cluster.
pub(crate) const LOAD_CORE: usize = 1;

/// Pins the current thread, and threads and processes that it starts from now on, to this core. A core that does not
/// exist is ignored.
pub(crate) fn pin_current_thread(core: usize) -> Result<()> {
    pin(None, core)
}

/// Pins all threads of a running process to a core.
pub(crate) fn pin_process(pid: u32, core: usize) -> Result<()> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        pin(thread, core)?;
    }
    Ok(())
}

/// Raises the limit of open files of this process, and of processes that it starts from now on, to its maximum.
pub(crate) fn raise_file_limit() -> Result<()> {
    let files = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?)
}

/// Removes the pinning of the current thread.
pub(crate) fn unpin() -> Result<()> {
    let mut set = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}

fn pin(thread: Option<Pid>, core: usize) -> Result<()> {
    if !Path::new(&format!("/sys/devices/system/cpu/cpu{core}")).exists() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(thread, &set)?)
}

/// CPU time of all threads of a process in user and kernel mode, at the resolution of the kernel's tick (10 ms).
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // the name in parentheses may contain spaces
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>());
    let tick = |n: usize| fields.as_ref()?.get(n)?.parse::<u64>().ok();
    let ticks = tick(11).zip(tick(12)).map(|(user, system)| user + system);
    let ticks = ticks.ok_or_else(|| BenchError::because("no CPU times in /proc/…/stat"))?;
    Ok(Duration::from_secs(ticks) / u32::try_from(clock_ticks_per_second())?)
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) now: f64,
    pub(crate) peak: f64,
}

/// Reads `VmRSS` and `VmHWM`.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = |key: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        kib.map(|kib| kib * 1024.0).ok_or_else(|| BenchError::because(format!("no {key} in /proc/…/status")))
    };
    Ok(Memory { now: line("VmRSS")?, peak: line("VmHWM")? })
}

/// Resets `VmHWM` to the current memory.
pub(crate) fn reset_peak_memory(pid: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}
