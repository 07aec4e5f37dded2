//! The servers behind the companion: which one an instance name leads to, what it offers, what it is known to have, and
//! how it was the last time that it was asked.

use crate::{
    knowledge::{Knowledge, Scope},
    terms::{Terms, TermsBook},
};
use mortar_model::{BlobStore, Context, Digest, DigestSet, Error, InstanceName, Kind, Result};
use mortar_remote::{Endpoint, Options, Remote};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How long an upstream may take to say what it offers, where nothing is known of it from before.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// Where an instance name leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamAddress {
    /// The instance name, or what it begins with, that leads there; empty for all that lead nowhere else. It is not told
    /// to the server.
    pub name: InstanceName,
    /// Such as `grpc://HOST:PORT`.
    pub uri: String,
}

/// All of them.
pub(crate) struct Upstreams {
    /// The longest names first; the default one, which has no name, is the last.
    all: Vec<Arc<Upstream>>,
}

impl Upstreams {
    /// Nothing is asked yet.
    pub fn new(
        addresses: &[UpstreamAddress],
        options: &Options,
        knowledge: &Arc<Knowledge>,
        terms: &Arc<TermsBook>,
    ) -> Result<Self> {
        let mut all = Vec::with_capacity(addresses.len());
        for address in addresses {
            let remote = Endpoint::connect(&address.uri, options.clone())?;
            all.push(Upstream {
                index: 0,
                name: address.name.clone(),
                uri: remote.endpoint().to_string(),
                remote,
                knowledge: knowledge.clone(),
                terms: terms.clone(),
                trouble: Mutex::default(),
                counts: Counts::default(),
            });
        }
        all.sort_by_key(|upstream| std::cmp::Reverse(upstream.name.as_str().len()));
        let number = |(index, upstream)| Arc::new(Upstream { index, ..upstream });
        Ok(Self { all: all.into_iter().enumerate().map(number).collect() })
    }

    pub fn all(&self) -> &[Arc<Upstream>] {
        &self.all
    }

    /// The one that an instance name leads to.
    pub fn of(&self, instance: &InstanceName) -> Result<&Arc<Upstream>> {
        self.all.iter().find(|upstream| upstream.rest(instance).is_some()).ok_or_else(|| {
            let names: Vec<_> = self.all.iter().map(|upstream| format!("`{}`", upstream.name)).collect();
            let message =
                format!("instance `{instance}` leads to no upstream; expected one of {}", names.join(", "));
            Error::new(Kind::FailedPrecondition { message })
        })
    }
}

/// One server.
pub(crate) struct Upstream {
    /// Among all of them.
    pub index: usize,
    pub name: InstanceName,
    pub uri: String,
    pub remote: Remote,
    pub counts: Counts,
    knowledge: Arc<Knowledge>,
    terms: Arc<TermsBook>,
    trouble: Mutex<Option<String>>,
}

/// What was done since the start.
#[derive(Default)]
pub(crate) struct Counts {
    pub sent_blobs: AtomicU64,
    pub sent_bytes: AtomicU64,
    pub sent_results: AtomicU64,
    pub found_blobs: AtomicU64,
    pub refused: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

impl Upstream {
    /// What the server is told of an instance name that leads here.
    fn rest<'a>(&self, instance: &'a InstanceName) -> Option<&'a str> {
        let rest = instance.as_str().strip_prefix(self.name.as_str())?;
        if self.name.as_str().is_empty() || rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
    }

    /// The context of a call there, for one here.
    pub fn context(&self, context: &Context) -> Context {
        let rest = self.rest(&context.instance).unwrap_or_default();
        let instance = InstanceName::parse(rest).expect("the end of an instance name is one");
        context.clone().with_instance(instance)
    }

    /// Under what its blobs are known.
    pub fn scope(&self, context: &Context) -> Scope {
        self.knowledge.scope(&self.uri, self.rest(&context.instance).unwrap_or_default())
    }

    /// Whether a blob is known to be there.
    pub fn knows(&self, context: &Context, digest: Digest) -> bool {
        digest.is_empty() || self.knowledge.knows(self.scope(context), digest)
    }

    /// Whether a blob was there once, and may still be.
    pub fn once_knew(&self, context: &Context, digest: Digest) -> bool {
        self.knowledge.once_knew(self.scope(context), digest)
    }

    /// Those that are not known to be there.
    pub fn unknown(&self, context: &Context, digests: impl IntoIterator<Item = Digest>) -> DigestSet {
        let scope = self.scope(context);
        let unknown = |digest: &Digest| !digest.is_empty() && !self.knowledge.knows(scope, *digest);
        digests.into_iter().filter(unknown).collect()
    }

    /// The server said, or it follows from what it said, that these are there.
    pub fn note(&self, context: &Context, digests: impl IntoIterator<Item = Digest>) {
        let lease = self.terms(context).lease;
        self.knowledge.note(self.scope(context), digests, lease);
    }

    /// These are not there any more, whatever was known.
    pub fn forget(&self, context: &Context, digests: impl IntoIterator<Item = Digest>) {
        self.knowledge.forget(self.scope(context), digests);
    }

    /// Asks for those that nothing is known of, and takes note of the answer.
    pub async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let scope = self.scope(context);
        let (absent, unknown): (Vec<_>, Vec<_>) = self
            .unknown(context, digests.iter())
            .into_iter()
            .partition(|digest| self.knowledge.was_absent(scope, *digest));
        let mut missing = DigestSet::from_iter(absent);
        if unknown.is_empty() {
            return Ok(missing);
        }
        let unknown = DigestSet::from_iter(unknown);
        let told = self.heard(self.remote.find_missing(&self.context(context), &unknown).await)?;
        self.note(context, unknown.iter().filter(|digest| !told.contains(digest)));
        self.knowledge.note_absent(scope, told.iter());
        missing.extend(told);
        Ok(missing)
    }

    /// What it offers, as far as that is known.
    pub fn terms(&self, context: &Context) -> Terms {
        self.terms
            .known(&self.uri, self.rest(&context.instance).unwrap_or_default())
            .unwrap_or(self.terms.assumed())
    }

    /// The lease of one of its own instances.
    pub fn lease_of(&self, there: &Context) -> Duration {
        self.terms.known(&self.uri, there.instance.as_str()).unwrap_or(self.terms.assumed()).lease
    }

    /// What it offers: at once where that is known from before, and then it is asked in the background; else it is asked
    /// first. One that has no answer is believed to offer what is usual.
    pub async fn current_terms(self: &Arc<Self>, context: &Context) -> Terms {
        let rest = self.rest(&context.instance).unwrap_or_default().to_owned();
        let (this, asked) = (self.clone(), Context { deadline: None, ..self.context(context) });
        let ask = async move {
            match this.heard(this.remote.capabilities(&asked).await) {
                Ok(told) => this.terms.learn(&this.uri, &rest, &told),
                Err(error) => tracing::debug!(%error, upstream = this.uri, "the capabilities are not told"),
            }
        };
        let asking = tokio::spawn(ask);
        let rest = self.rest(&context.instance).unwrap_or_default();
        if self.terms.known(&self.uri, rest).is_none() {
            // What it says later is learned all the same.
            let _ = tokio::time::timeout(FIRST_WORD, asking).await;
        }
        self.terms(context)
    }

    /// Takes note of how a call went.
    pub fn heard<T>(&self, outcome: Result<T>) -> Result<T> {
        match &outcome {
            Err(error) if is_away(error) => {
                let mut trouble = self.trouble.lock();
                if trouble.is_none() {
                    tracing::warn!("upstream {}: {error}", self.uri);
                }
                *trouble = Some(error.to_string());
            }
            _ => {
                if self.trouble.lock().take().is_some() {
                    tracing::info!("upstream {}: it answers again", self.uri);
                }
            }
        }
        outcome
    }

    /// Why it could not be used the last time.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// How many blobs are known to be there.
    pub fn known(&self) -> u64 {
        self.knowledge.count(&self.uri)
    }
}

/// Whether this says that nobody was there, and nothing about what was asked.
pub(crate) fn is_away(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable { .. } | Kind::DeadlineExceeded { .. } | Kind::Aborted { .. })
}
