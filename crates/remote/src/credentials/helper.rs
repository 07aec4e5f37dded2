//! Bazel's credential helpers: programs that are asked `get` with a URI on stdin and answer with headers on stdout.

use super::{Credentials, Grant, LOOK_AGAIN, Proof, Secret, time};
use async_trait::async_trait;
use http::{HeaderMap, HeaderName, Uri};
use mortar_model::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Output, Stdio},
    time::{Duration, SystemTime},
};
use tokio::{io::AsyncWriteExt, process::Command};

/// As much of what a helper says on stderr as messages repeat.
const LONGEST_TALK: usize = 500;

/// A helper. What it answers serves until the time that it names, and without one for as long as no server refuses it.
#[derive(Debug)]
pub struct Helper {
    program: PathBuf,
    timeout: Duration,
}

/// What a helper is asked.
#[derive(Debug, Deserialize, Serialize)]
pub struct Question {
    /// The address for which credentials are wanted.
    pub uri: String,
}

#[derive(Debug, Default, Deserialize)]
struct Answer {
    /// All values of each header.
    #[serde(default)]
    headers: BTreeMap<String, Vec<Secret>>,
    /// RFC 3339.
    #[serde(default)]
    expires: Option<String>,
}

/// What a helper answers: these headers, in JSON, with the secrets in them.
pub fn answer(headers: &HeaderMap, expires: Option<SystemTime>) -> Result<Secret> {
    let mut by_name = BTreeMap::<&str, Vec<&str>>::new();
    for (name, value) in headers {
        let value = value.to_str().map_err(|_| {
            Error::invalid("headers", format!("the header `{name}` holds characters that JSON cannot"))
        })?;
        by_name.entry(name.as_str()).or_default().push(value);
    }
    let mut answer = serde_json::json!({ "headers": by_name });
    if let Some(expires) = expires {
        answer["expires"] = time::rfc3339(expires).into();
    }
    Ok(Secret::new(answer.to_string()))
}

impl Helper {
    /// The helper at `program`, by path or found in `PATH`.
    pub fn new(program: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self { program: program.into(), timeout }
    }

    /// How long helpers usually may take.
    pub const USUAL_TIMEOUT: Duration = Duration::from_secs(10);

    async fn run(&self, question: Vec<u8>) -> Result<Output> {
        let program = self.program.display();
        let failed = |error| Error::io(format!("running the credential helper `{program}`"), error);
        let mut child = Command::new(&self.program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        let work = async {
            // A helper that does not read what it is asked may answer all the same.
            let asked = async move {
                let _ = stdin.write_all(&question).await;
            };
            tokio::join!(asked, child.wait_with_output()).1
        };
        match tokio::time::timeout(self.timeout, work).await {
            Ok(output) => output.map_err(failed),
            Err(_) => {
                let message =
                    format!("the credential helper `{program}` has not answered within {:?}", self.timeout);
                Err(Error::new(Kind::DeadlineExceeded { message }))
            }
        }
    }
}

#[async_trait]
impl Credentials for Helper {
    fn name(&self) -> String {
        format!("the credential helper `{}`", self.program.display())
    }

    async fn grant(&self, uri: &Uri) -> Result<Grant> {
        let question = Question { uri: uri.to_string() };
        let mut question = serde_json::to_vec(&question).expect("a text makes JSON");
        // A whole line, for helpers that read one.
        question.push(b'\n');
        let output = self.run(question).await?;
        if !output.status.success() {
            let talk = String::from_utf8_lossy(&output.stderr);
            let talk: String = talk.trim().chars().take(LONGEST_TALK).collect();
            let message = format!("the helper ended with {}: {talk}", output.status);
            return Err(Error::new(Kind::Unauthenticated { message }));
        }
        // What is wrong with the answer is told by place only: its text may be a secret.
        let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Error::invalid("helper", format!("its answer is wrong at line {line}, column {column}"))
        })?;
        answer.grant()
    }
}

impl Answer {
    fn grant(self) -> Result<Grant> {
        let mut headers = HeaderMap::new();
        for (name, values) in &self.headers {
            let parsed: HeaderName = name.parse().map_err(|_| {
                Error::invalid("helper", format!("its answer has `{name}`, which is no name of a header"))
            })?;
            for value in values {
                headers.append(parsed.clone(), value.header("", &format!("the header `{name}`"))?);
            }
        }
        let expires = match &self.expires {
            None => None,
            Some(text) => Some(time::parse(text).ok_or_else(|| {
                Error::invalid("helper", format!("its answer expires at `{text}`, which is no RFC 3339 time"))
            })?),
        };
        let look_again = headers.is_empty().then_some(LOOK_AGAIN);
        Ok(Grant { proof: Proof::Headers(headers), expires, look_again })
    }
}
