//! What the actions of this machine may use together, where nobody said it.

use mortar_model::session::Capacity;
use std::fs;

/// What was said, and else what the machine has. More slots than processors were meant: each slot counts as one.
pub(crate) fn of(said: Capacity, slots: u32) -> Capacity {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let or = |said: u64, else_is: u64| if said == 0 { else_is } else { said };
    Capacity {
        cpu_millis: or(said.cpu_millis, cores.max(u64::from(slots)) * 1000),
        memory: or(said.memory, memory()),
    }
}

/// The memory of the machine, or of the cgroup that we are in where that is less; 0 where neither can be read.
fn memory() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = limits.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    limits.chain(machine).min().unwrap_or_default()
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_counts_and_the_rest_is_measured() {
        let said = Capacity { cpu_millis: 1_500, memory: 5 };
        assert_eq!(of(said, 100), said);
        let measured = of(Capacity::default(), 1_000);
        assert_eq!(measured.cpu_millis, 1_000_000);
        assert!(measured.memory > 1 << 20, "{measured:?}");
    }

    #[test]
    fn the_total_of_a_machine() {
        assert_eq!(total("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(total("MemFree: 1 kB\n"), None);
    }
}
