//! What a process has used, and on which core it runs.

use std::{fs, path::Path, time::Duration};

use rustix::{
    param::clock_ticks_per_second,
    process::Pid,
    thread::{CpuSet, sched_setaffinity},
};

use crate::error::{Failed, Result};

/// Where what is measured runs.
pub(crate) const MEASURED: usize = 0;
/// Where the load runs, and the cluster with it.
pub(crate) const LOAD: usize = 1;

/// The threads that this one starts from now on, and itself, run on this core; on a machine with one, nothing changes.
pub(crate) fn stay_on(core: usize) -> Result<()> {
    pin(None, core)
}

/// A process that runs already, with all its threads.
pub(crate) fn move_to(pid: u32, core: usize) -> Result<()> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        pin(thread, core)?;
    }
    Ok(())
}

/// This thread, and those it starts, may run anywhere again.
pub(crate) fn roam() -> Result<()> {
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

/// Processor time used so far, by all threads, in user and kernel mode. To the kernel's tick, 10 ms.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // the name in parentheses may hold spaces
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>());
    let tick = |n: usize| fields.as_ref()?.get(n)?.parse::<u64>().ok();
    let ticks = tick(11).zip(tick(12)).map(|(user, system)| user + system);
    let ticks = ticks.ok_or_else(|| Failed::because("no times in /proc/…/stat"))?;
    Ok(Duration::from_secs(ticks) / u32::try_from(clock_ticks_per_second())?)
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) now: f64,
    pub(crate) peak: f64,
}

/// `VmRSS` and `VmHWM`.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = |key: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        kib.map(|kib| kib * 1024.0).ok_or_else(|| Failed::because(format!("no {key} in /proc/…/status")))
    };
    Ok(Memory { now: line("VmRSS")?, peak: line("VmHWM")? })
}

/// Lets `VmHWM` begin anew.
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}
