//! How executions end, on the wire.

use crate::{digest_to_wire, optional_digest, reapi, result_from_wire, result_to_wire, rpc, status};
use mortar_model::{DigestFunction, Error, Kind, LogFile, Outcome, Result, Stage, Termination};

/// The response of a finished execution.
pub fn execute_response(outcome: Result<&Outcome, &Error>) -> reapi::ExecuteResponse {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            // The status tells what a remote user may see; the error itself may name local paths.
            let status = status::to_rpc(error);
            let message = status.message.clone();
            return reapi::ExecuteResponse { status: Some(status), message, ..Default::default() };
        }
    };
    let status = match &outcome.termination {
        Termination::Exited => rpc::Status::default(),
        Termination::TimedOut { limit } => status::to_rpc(&timed_out(*limit)),
    };
    let logs = outcome.server_logs.iter().map(|(name, log)| {
        let digest = Some(digest_to_wire(log.digest));
        (name.clone(), reapi::LogFile { digest, human_readable: log.human_readable })
    });
    reapi::ExecuteResponse {
        result: Some(result_to_wire(&outcome.result)),
        cached_result: outcome.cached,
        status: Some(status),
        server_logs: logs.collect(),
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
    if status.code != 0 && !(deadline_exceeded && response.result.is_some()) {
        return Err(status::from_rpc(status));
    }
    let logs = response.server_logs.into_iter().map(|(name, log)| {
        let digest = optional_digest("server_logs.digest", function, log.digest)?;
        let digest =
            digest.ok_or_else(|| Error::invalid("server_logs.digest", "a server log has no digest"))?;
        Ok((name, LogFile { digest, human_readable: log.human_readable }))
    });
    Ok(Outcome {
        result: result_from_wire(function, crate::required("result", response.result)?)?,
        cached: response.cached_result,
        termination: match deadline_exceeded {
            true => Termination::TimedOut { limit: timed_out_after.unwrap_or_default() },
            false => Termination::Exited,
        },
        message: response.message,
        server_logs: logs.collect::<Result<_>>()?,
    })
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
    fn local_paths_stay_here() {
        let error = Error::io("reading /secret/place", std::io::Error::other("/secret/cause"));
        let response = execute_response(Err(&error));
        assert!(!format!("{response:?}").contains("secret"), "{response:?}");
        assert_eq!(response.message, response.status.unwrap_or_default().message);
    }
}
