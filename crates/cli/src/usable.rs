//! What each action may use of the machine that it runs on: the flags that everything has which runs actions.

use crate::{pools::processors, units::Size};
use anyhow::bail;

/// As much as there is where nothing is said.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct UsableFlags {
    /// Processor time of one action with all its processes, such as 1.5 for one and a half processors; only where control
    /// groups can limit it.
    #[arg(long, env = "MORTAR_ACTION_CPU", value_name = "NUMBER")]
    action_cpu: Option<f64>,
    /// Memory of one action with all its processes.
    #[arg(long, env = "MORTAR_ACTION_MEMORY", value_name = "SIZE")]
    action_memory: Option<Size>,
    /// Processes and threads of one action [default: 10000].
    #[arg(long, env = "MORTAR_ACTION_PROCESSES", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    action_processes: Option<u32>,
    /// What one action may hold in /tmp, and again in /dev/shm.
    #[arg(long, env = "MORTAR_ACTION_SCRATCH", value_name = "SIZE")]
    action_scratch: Option<Size>,
    /// What one action may write to outputs and logs.
    #[arg(long, env = "MORTAR_ACTION_OUTPUT", value_name = "SIZE")]
    action_output: Option<Size>,
}

/// The least of a processor that the kernel shares out, in thousandths.
const LEAST: u32 = 10;

impl UsableFlags {
    /// What was said, and else the defaults.
    pub fn settle(&self, defaults: mortar_sandbox::Limits) -> anyhow::Result<mortar_sandbox::Limits> {
        let bytes = |size: Option<Size>, default: Option<u64>| size.map(|size| size.0).or(default);
        Ok(mortar_sandbox::Limits {
            cpu_millis: self.cpu_millis()?.or(defaults.cpu_millis),
            memory: bytes(self.action_memory, defaults.memory),
            processes: self.action_processes.or(defaults.processes),
            scratch: bytes(self.action_scratch, defaults.scratch),
            output: bytes(self.action_output, defaults.output),
            ..defaults
        })
    }

    fn cpu_millis(&self) -> anyhow::Result<Option<u32>> {
        let Some(count) = self.action_cpu else { return Ok(None) };
        match u32::try_from(processors("--action-cpu", count)?) {
            Ok(millis) if millis >= LEAST => Ok(Some(millis)),
            _ => bail!("--action-cpu is {count}; expected a number of processors from 0.01 on, such as 1.5"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_cpu(action_cpu: f64) -> anyhow::Result<mortar_sandbox::Limits> {
        let flags = UsableFlags {
            action_cpu: Some(action_cpu),
            action_memory: Some(Size(7)),
            action_processes: None,
            action_scratch: None,
            action_output: None,
        };
        flags.settle(mortar_sandbox::Limits { processes: Some(3), ..Default::default() })
    }

    #[test]
    fn what_is_not_said_is_as_it_was() {
        let limits = with_cpu(1.5).unwrap();
        let expected = mortar_sandbox::Limits {
            cpu_millis: Some(1_500),
            memory: Some(7),
            processes: Some(3),
            ..Default::default()
        };
        assert_eq!(limits, expected);
    }

    #[test]
    fn parts_of_a_processor_that_cannot_be_shared_out_are_refused() {
        for count in [0.0, 0.001, -1.0, f64::NAN, 1e12] {
            let refused = with_cpu(count).map_err(|error| error.to_string());
            assert!(
                refused.as_ref().is_err_and(|told| told.contains("--action-cpu is")),
                "{count}: {refused:?}"
            );
        }
    }
}
