//! Starts the command in the sandbox and waits for it.

use crate::{blocking::blocking, config::WorkerConfig, job::Job};
use mortar_model::{Action, Command, Error, Kind, Result};
use mortar_sandbox::{Exit, Sandbox, Spec};
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
    /// When it is stopped.
    pub limit: Duration,
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
        timeout: Some(launch.limit),
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

fn refused(error: mortar_sandbox::Error) -> Error {
    match error {
        mortar_sandbox::Error::Spec(why) => Error::invalid("command", why),
        // Another worker may be able to.
        error => Error::new(Kind::Unavailable {
            message: error.to_string(),
            retry_after: Some(Duration::from_secs(1)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mortar_model::{Digest, DigestFunction::Sha256};

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
