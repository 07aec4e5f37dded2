//! How executions end, on the wire.

use crate::{digest_to_wire, optional_digest, reapi, result_from_wire, result_to_wire, rpc, status};
use mortar_model::{DigestFunction, Error, Kind, LogFile, Outcome, Result, Stage, Termination};
use std::collections::HashMap;

/// The response of a finished execution.
pub fn execute_response(outcome: Result<&Outcome, &Error>) -> reapi::ExecuteResponse {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            // The status tells what a remote user may see; the error itself may name local paths.
            let status = status::to_rpc(error);
            let message = status.message.clone();
            let server_logs = logs_to_wire(error.logs());
            return reapi::ExecuteResponse {
                status: Some(status),
                message,
                server_logs,
                ..Default::default()
            };
        }
    };
    let status = match &outcome.termination {
        Termination::Exited => rpc::Status::default(),
        Termination::TimedOut { limit } => status::to_rpc(&timed_out(*limit)),
    };
    reapi::ExecuteResponse {
        result: Some(result_to_wire(&outcome.result)),
        cached_result: outcome.cached,
        status: Some(status),
        server_logs: logs_to_wire(&outcome.server_logs),
        message: outcome.message.clone(),
    }
}

/// The outcome in a response. `timed_out_after` is the limit where one was exceeded.
pub fn outcome_of(
    function: DigestFunction,
    response: reapi::ExecuteResponse,
    timed_out_after: Option<std::time::Duration>,
) -> Result<Outcome> {
    let status = response.status.unwrap_or_default();
    let deadline_exceeded = status.code == tonic::Code::DeadlineExceeded as i32;
    let logs = logs_from_wire(function, response.server_logs)?;
    if status.code != 0 && !(deadline_exceeded && response.result.is_some()) {
        let error = status::from_rpc(status);
        return Err(logs.into_iter().fold(error, |error, (name, log)| error.with_log(name, log)));
    }
    Ok(Outcome {
        result: result_from_wire(function, crate::required("result", response.result)?)?,
        cached: response.cached_result,
        termination: match deadline_exceeded {
            true => Termination::TimedOut { limit: timed_out_after.unwrap_or_default() },
            false => Termination::Exited,
        },
        message: response.message,
        server_logs: logs,
    })
}

fn logs_to_wire(logs: &[(String, LogFile)]) -> HashMap<String, reapi::LogFile> {
    let logs = logs.iter().map(|(name, log)| {
        let digest = Some(digest_to_wire(log.digest));
        (name.clone(), reapi::LogFile { digest, human_readable: log.human_readable })
    });
    logs.collect()
}

fn logs_from_wire(
    function: DigestFunction,
    logs: HashMap<String, reapi::LogFile>,
) -> Result<Vec<(String, LogFile)>> {
    let logs = logs.into_iter().map(|(name, log)| {
        let digest = optional_digest("server_logs.digest", function, log.digest)?;
        let digest =
            digest.ok_or_else(|| Error::invalid("server_logs.digest", "a server log has no digest"))?;
        Ok((name, LogFile { digest, human_readable: log.human_readable }))
    });
    logs.collect()
}

/// The stage as messages name it.
pub fn stage_to_wire(stage: Stage) -> reapi::execution_stage::Value {
    use reapi::execution_stage::Value;
    match stage {
        Stage::CacheCheck => Value::CacheCheck,
        Stage::Queued => Value::Queued,
        Stage::Executing => Value::Executing,
        Stage::Completed => Value::Completed,
    }
}

fn timed_out(limit: std::time::Duration) -> Error {
    let message = format!("the command was stopped at its time limit of {} s", limit.as_secs_f64());
    Error::new(Kind::DeadlineExceeded { message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_a_failure_come_back() {
        let log =
            LogFile { digest: mortar_model::Digest::of(DigestFunction::Blake3, b"x"), human_readable: true };
        let error = Error::internal("broken").with_log("infrastructure", log.clone());
        let response = execute_response(Err(&error));
        let again = outcome_of(DigestFunction::Blake3, response, None);
        let again = again.err().map(|error| error.logs().to_vec());
        assert_eq!(again, Some(vec![("infrastructure".to_owned(), log)]));
    }

    #[test]
    fn local_paths_stay_here() {
        let error = Error::io("reading /secret/place", std::io::Error::other("/secret/cause"));
        let response = execute_response(Err(&error));
        assert!(!format!("{response:?}").contains("secret"), "{response:?}");
        assert_eq!(response.message, response.status.unwrap_or_default().message);
    }
}
