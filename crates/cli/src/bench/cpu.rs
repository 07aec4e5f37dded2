//! Processor time, of this process and of others.

use anyhow::{Context, Result};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use std::time::Duration;

/// What this process has used.
pub(super) fn own() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let span = |time: TimeVal| {
        let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
        Duration::from_secs(u64::try_from(time.tv_sec()).unwrap_or(0)) + Duration::from_micros(micros)
    };
    Some(span(usage.user_time()) + span(usage.system_time()))
}

/// What a process of this machine has used, its threads that ended included, to some 10 ms.
pub(super) fn of(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading `{path}`"))?;
    let ticks = ticks(&text).with_context(|| format!("`{path}` is not as expected"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// User and system time together. The name of the process may hold anything, so it is skipped to its last bracket.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 110 22 13 14";
        assert_eq!(ticks(stat), Some(132));
        assert_eq!(ticks("42 (a"), None);
        assert!(of(std::process::id()).is_ok());
    }
}
