//! Starts the command in the sandbox and waits for it.

use crate::{blocking::blocking, config::WorkerConfig, job::Job};
use mortar_model::{Action, Command, Error, Kind, Result};
use mortar_sandbox::{Ending, Exit, Limit, Limits, Sandbox, Spec};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// What is to be run, and where.
#[derive(Debug)]
pub struct Launch {
    /// The run's own directory, with the input root in it.
    pub directory: PathBuf,
    /// What the command may write to, relative to the input root.
    pub writable: Vec<PathBuf>,
    /// What the input root is laid over, the uppermost first.
    pub lower: Vec<PathBuf>,
    /// The root file system that it sees instead of the host's.
    pub image: Option<PathBuf>,
    /// When it is stopped.
    pub limit: Duration,
    /// What it may use.
    pub usable: Limits,
}

/// The time limit of an action.
pub fn time_limit(action: &Action, default: Duration, config: &WorkerConfig) -> Result<Duration> {
    let maximum = config.maximum_timeout;
    match action.timeout.filter(|asked| !asked.is_zero()) {
        Some(asked) if asked > maximum => {
            let message = format!(
                "the action asks for a timeout of {} s; at most {} s are accepted",
                asked.as_secs_f64(),
                maximum.as_secs_f64()
            );
            Err(Error::invalid("timeout", message))
        }
        Some(asked) => Ok(asked),
        None => Ok(default.min(maximum)),
    }
}

/// Runs the command to its end, whatever that is; nothing of it runs afterwards. A cancel is an error.
pub async fn run(job: &Job, sandbox: &Sandbox, command: &Command, launch: Launch) -> Result<Exit> {
    let spec = Spec {
        directory: launch.directory,
        arguments: command.arguments.clone(),
        environment: command.environment.clone(),
        working_directory: Path::new(&command.working_directory).into(),
        writable: launch.writable,
        lower: launch.lower,
        image: launch.image,
        timeout: Some(launch.limit),
        converses: false,
        limits: launch.usable,
    };
    let sandbox = sandbox.clone();
    let running = blocking(move || sandbox.start(spec).map_err(refused)).await?;
    let canceller = running.canceller();
    let end = blocking(move || running.wait().map_err(refused));
    tokio::pin!(end);
    let exit = tokio::select! {
        exit = &mut end => exit?,
        () = job.cancelled.cancelled() => {
            canceller.cancel();
            end.await?
        }
    };
    job.check().map(|()| exit)
}

/// What ended the command, for the person who reads the build's output; nothing where its exit code says it all.
pub fn explain(ending: Ending, limit: Duration, usable: &Limits) -> String {
    match ending {
        Ending::TimedOut => format!("the command was stopped at its time limit of {} s", limit.as_secs_f64()),
        Ending::Signal(signal) => format!("the command was ended by signal {signal}"),
        Ending::Exceeded { limit, .. } => exceeded(limit, usable),
        Ending::Code(_) | Ending::Cancelled => String::new(),
    }
}

fn exceeded(limit: Limit, usable: &Limits) -> String {
    let most = |most: Option<u64>| most.map_or("of this machine".into(), |most| format!("of {most} bytes"));
    match limit {
        Limit::Memory => {
            format!(
                "the command ran out of memory: a process was killed at the limit {}",
                most(usable.memory)
            )
        }
        Limit::Processes => {
            let most =
                usable.processes.map_or(String::new(), |most| format!(" of {most} processes and threads"));
            format!("the command failed when it had reached the limit{most}")
        }
        Limit::Scratch => {
            format!(
                "the command failed when `/tmp` or `/dev/shm` was full, at the limit {}",
                most(usable.scratch)
            )
        }
        Limit::Output => {
            format!("the command wrote more than the limit {} to outputs and logs", most(usable.output))
        }
    }
}

/// That the sandbox did not take a command.
pub fn refused(error: mortar_sandbox::Error) -> Error {
    match error {
        mortar_sandbox::Error::Spec(why) => Error::invalid("command", why),
        // Another worker may be able to.
        error => Error::new(Kind::Unavailable {
            message: error.to_string(),
            retry_after: Some(Duration::from_secs(1)),
        }),
    }
}

/// What the command used, as clients and the scheduler are told.
pub fn usage(exit: &Exit) -> mortar_model::Usage {
    let mortar_sandbox::Usage { user, system, peak_memory, read_bytes, written_bytes, .. } = exit.usage;
    mortar_model::Usage { user, system, peak_memory, read_bytes, written_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mortar_model::{Digest, DigestFunction::Sha256};

    #[test]
    fn each_ending_has_its_own_explanation() {
        let usable = Limits { memory: Some(1000), processes: Some(7), ..Limits::default() };
        let tell = |ending| explain(ending, Duration::from_millis(1500), &usable);
        let exceeded = |limit| Ending::Exceeded { limit, code: 1 };
        let cases = [
            (Ending::Code(3), ""),
            (Ending::TimedOut, "time limit of 1.5 s"),
            (Ending::Signal(11), "signal 11"),
            (exceeded(Limit::Memory), "out of memory: a process was killed at the limit of 1000 bytes"),
            (exceeded(Limit::Processes), "limit of 7 processes"),
            (exceeded(Limit::Scratch), "`/tmp`"),
            (exceeded(Limit::Output), "outputs and logs"),
        ];
        for (ending, expected) in cases {
            let told = tell(ending);
            assert!(told.contains(expected) && told.is_empty() == expected.is_empty(), "{ending:?}: {told}");
        }
    }

    #[test]
    fn limits_of_time() {
        let config =
            WorkerConfig { maximum_timeout: Duration::from_secs(100), ..WorkerConfig::new("w", "/nowhere") };
        let digest = Digest::empty(Sha256);
        let limit = |asked: Option<u64>, default: u64| {
            let timeout = asked.map(Duration::from_secs);
            let action = Action {
                command_digest: digest,
                input_root_digest: digest,
                timeout,
                do_not_cache: false,
                platform: None,
            };
            time_limit(&action, Duration::from_secs(default), &config).map(|limit| limit.as_secs())
        };
        assert_eq!(limit(None, 7).unwrap(), 7);
        assert_eq!(limit(Some(0), 7).unwrap(), 7);
        assert_eq!(limit(None, 700).unwrap(), 100);
        assert_eq!(limit(Some(100), 7).unwrap(), 100);
        let error = limit(Some(101), 7).unwrap_err().to_string();
        assert!(error.contains("101 s") && error.contains("100 s"), "{error}");
    }
}
