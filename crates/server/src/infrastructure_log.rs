//! The executor before the queue that keeps a log of what went wrong with the infrastructure while an action was executed:
//! workers that were lost or failed, and errors of our own. It is a blob for the client to fetch, which the response names
//! as `infrastructure`; an execution without trouble has none.

use async_trait::async_trait;
use mortar_model::{
    Blame, Blob, BlobStore, Clock, Context, Digest, Error, ExecuteRequest, ExecutionMetadata, Executor, Kind,
    LogFile, Outcome, Progress, Result, Stage, Termination,
};
use mortar_wire::timestamp_to_wire;
use parking_lot::Mutex;
use std::{fmt::Write, sync::Arc, time::SystemTime};

/// What responses name the log.
const NAME: &str = "infrastructure";

/// Writes the log where there is something to tell, and is silent else.
pub(crate) struct InfrastructureLog {
    next: Arc<dyn Executor>,
    blobs: Arc<dyn BlobStore>,
    clock: Arc<dyn Clock>,
}

impl InfrastructureLog {
    /// Stands behind the look-up, so that what the cache answers passes it by; its logs go to `blobs`.
    pub(crate) fn new(next: Arc<dyn Executor>, blobs: Arc<dyn BlobStore>, clock: Arc<dyn Clock>) -> Self {
        Self { next, blobs, clock }
    }

    /// Adds the log to how it ended, where there is something to tell.
    async fn conclude(&self, told: Told<'_>, end: Result<Outcome>) -> Result<Outcome> {
        let (context, action) = (told.context, told.action);
        match end {
            Ok(mut outcome) if !told.setbacks.is_empty() => {
                let log = self.keep(context, action, told.text(&ending(&outcome))).await;
                outcome.server_logs.extend(log.map(|log| (NAME.to_owned(), log)));
                Ok(outcome)
            }
            Err(error) if !told.setbacks.is_empty() || is_ours(&error) => {
                // As clients are told it: the error itself may name local paths.
                let status = mortar_wire::status::to_status(&error);
                let ending = format!("the execution failed: {}", status.message());
                Err(match self.keep(context, action, told.text(&ending)).await {
                    Some(log) => error.with_log(NAME, log),
                    None => error,
                })
            }
            end => end,
        }
    }

    /// Stores the log. Where that fails, the execution ends as it would have.
    async fn keep(&self, context: &Context, action: Digest, text: String) -> Option<LogFile> {
        let digest = Digest::of(action.function(), text.as_bytes());
        match self.blobs.write(context, digest, Blob::bytes(text)).await {
            Ok(()) => Some(LogFile { digest, human_readable: true }),
            Err(error) => {
                tracing::warn!(%action, "the log of what went wrong cannot be stored: {error}");
                None
            }
        }
    }
}

#[async_trait]
impl Executor for InfrastructureLog {
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        let action = request.action_digest;
        let begun = self.clock.wall();
        let history = History { progress, clock: &*self.clock, setbacks: Mutex::default() };
        let end = self.next.execute(context, request, &history).await;
        if let Ok(outcome) = &end {
            history.note(&outcome.result.metadata);
        }
        let setbacks = history.setbacks.into_inner().all;
        let told = Told { context, action, begun, setbacks: &setbacks, over: self.clock.wall() };
        // In a box: what waits in the queue needs no room for it.
        Box::pin(self.conclude(told, end)).await
    }
}

/// Whether it was nothing about the request.
fn is_ours(error: &Error) -> bool {
    error.blame() == Blame::Server || matches!(error.kind(), Kind::Unavailable { .. } | Kind::Aborted { .. })
}

fn ending(outcome: &Outcome) -> String {
    let ExecutionMetadata { worker, .. } = &outcome.result.metadata;
    match outcome.termination {
        Termination::Exited => {
            format!("worker `{worker}` ran it to its end, with exit code {}", outcome.result.exit_code)
        }
        Termination::TimedOut { limit } => {
            format!("worker `{worker}` stopped it at its time limit of {} s", limit.as_secs_f64())
        }
    }
}

/// Passes progress on, and notes the setbacks in it.
struct History<'a> {
    progress: &'a dyn Progress,
    clock: &'a dyn Clock,
    setbacks: Mutex<Setbacks>,
}

#[derive(Default)]
struct Setbacks {
    /// Each when it was heard of.
    all: Vec<(SystemTime, String)>,
    /// How many were in the last progress.
    heard: usize,
}

impl History<'_> {
    fn note(&self, metadata: &ExecutionMetadata) {
        let told = metadata.setbacks.as_deref().unwrap_or_default();
        let mut known = self.setbacks.lock();
        // The action may have been queued anew, since inputs were lost; then the count begins anew.
        let heard = if told.len() < known.heard { 0 } else { known.heard };
        let now = self.clock.wall();
        known.all.extend(told[heard..].iter().map(|setback| (now, setback.clone())));
        known.heard = told.len();
    }
}

impl Progress for History<'_> {
    fn report(&self, stage: Stage, metadata: &ExecutionMetadata) {
        self.note(metadata);
        self.progress.report(stage, metadata);
    }
}

/// What a log tells.
struct Told<'a> {
    context: &'a Context,
    action: Digest,
    begun: SystemTime,
    setbacks: &'a [(SystemTime, String)],
    over: SystemTime,
}

impl Told<'_> {
    fn text(&self, ending: &str) -> String {
        let mut text =
            format!("What went wrong with the infrastructure while action {} was executed\n", self.action);
        let request = &self.context.request;
        let operation = self.context.operation.as_ref().map(|operation| operation.name.as_str());
        for (name, value) in [
            ("operation", operation.unwrap_or_default()),
            ("target", &request.target_id),
            ("kind", &request.action_mnemonic),
            ("invocation", &request.tool_invocation_id),
        ] {
            if !value.is_empty() {
                writeln!(text, "{name}: {value}").expect("a string takes everything");
            }
        }
        let begun = (&self.begun, "asked for".to_owned());
        let attempts = self.setbacks.iter().enumerate();
        let attempts = attempts.map(|(at, (when, what))| (when, format!("attempt {}: {what}", at + 1)));
        for (when, what) in std::iter::once(begun).chain(attempts).chain([(&self.over, ending.to_owned())]) {
            writeln!(text, "{} {what}", timestamp_to_wire(*when)).expect("a string takes everything");
        }
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mortar_model::{ActionResult, BlobStoreExt, DigestFunction, RequestMetadata, SystemClock};
    use mortar_store::MemoryStore;

    /// Tells of setbacks, one after the other, and ends like this.
    struct Scripted(Vec<&'static str>, fn() -> Result<Outcome>);

    #[async_trait]
    impl Executor for Scripted {
        async fn execute(&self, _: &Context, _: ExecuteRequest, progress: &dyn Progress) -> Result<Outcome> {
            for many in 0..=self.0.len() {
                let setbacks = self.0[..many].iter().map(|&setback| setback.to_owned()).collect();
                let setbacks = (many > 0).then_some(setbacks);
                progress.report(Stage::Queued, &ExecutionMetadata { setbacks, ..Default::default() });
            }
            (self.1)()
        }
    }

    fn outcome() -> Result<Outcome> {
        let metadata = ExecutionMetadata { worker: "w2".into(), ..Default::default() };
        Ok(Outcome {
            result: ActionResult { metadata, exit_code: 1, ..Default::default() },
            cached: false,
            termination: Termination::Exited,
            message: String::new(),
            server_logs: Vec::new(),
        })
    }

    /// What the log tells without its times, and what it is named; none where there is none.
    async fn log_of(scripted: Scripted) -> Option<(String, String)> {
        let store = MemoryStore::new(1 << 20);
        let logged = InfrastructureLog::new(Arc::new(scripted), store.clone(), Arc::new(SystemClock));
        let request = RequestMetadata { target_id: "//a:b".into(), ..Default::default() };
        let context = Context { request: Arc::new(request), ..Context::default() };
        let action_digest = Digest::of(DigestFunction::Sha256, b"action");
        let execute = ExecuteRequest { action_digest, skip_cache_lookup: true, priority: 0 };
        let end = logged.execute(&context, execute, &()).await;
        let logs = match &end {
            Ok(outcome) => outcome.server_logs.clone(),
            Err(error) => error.logs().to_vec(),
        };
        let [(name, LogFile { digest, human_readable: true })] = &logs[..] else { return None };
        let bytes = store.read_all(&context, *digest, 1 << 20).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let timeless = |line: &str| match line.split_once("Z ") {
            Some((time, what)) if time.starts_with("20") => what.to_owned(),
            _ => line.to_owned(),
        };
        Some((name.clone(), text.lines().skip(1).map(timeless).collect::<Vec<_>>().join("\n")))
    }

    #[tokio::test]
    async fn what_went_wrong_is_told_and_nothing_else() {
        assert_eq!(log_of(Scripted(vec![], outcome)).await, None);
        let refused = || Err(Error::invalid("command", "no arguments"));
        assert_eq!(log_of(Scripted(vec![], refused)).await, None, "the client's own doing");

        let (name, told) =
            log_of(Scripted(vec!["worker `w1` was lost", "worker `w3` failed"], outcome)).await.unwrap();
        assert_eq!(name, "infrastructure");
        assert_eq!(
            told,
            "target: //a:b\nasked for\nattempt 1: worker `w1` was lost\nattempt 2: worker `w3` failed\n\
             worker `w2` ran it to its end, with exit code 1"
        );
        let broken = || Err(Error::io("reading /secret", std::io::Error::other("disk on fire")));
        let (_, told) = log_of(Scripted(vec![], broken)).await.unwrap();
        assert!(told.contains("the execution failed: ") && !told.contains("secret"), "{told}");
        let refused = || Err(Error::invalid("command", "no arguments"));
        let (_, told) = log_of(Scripted(vec!["worker `w1` was lost"], refused)).await.unwrap();
        assert!(told.ends_with("the execution failed: no arguments"), "{told}");
    }
}
