//! The servers behind the companion: which one an instance name leads to, what it offers, what it is known to have, and
//! how it was the last time that it was asked. All calls pass its breaker (`calls`).

mod admission;
mod benefit;
mod calls;
mod link;
mod merged;

use crate::{
    assemble::Settings,
    knowledge::{Knowledge, Scope},
    terms::{Terms, TermsBook},
};
use admission::Admission;
use benefit::Benefit;
use calls::Guarded;
pub(crate) use link::Link;
use merged::{Asking, LookUps};
use mortar_model::{Context, Digest, DigestSet, Error, InstanceName, Kind, Result};
use mortar_remote::{Endpoint, HttpAddress, breaker::Breaker};
use parking_lot::Mutex;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// How long an upstream may take to say what it offers, where nothing is known of it from before.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// Where an instance name leads.
#[derive(Clone, PartialEq, Eq)]
pub struct UpstreamAddress {
    /// The instance name, or what it begins with, that leads there; empty for all that lead nowhere else. It is not told
    /// to the server.
    pub name: InstanceName,
    /// Such as `grpc://HOST:PORT`; that of an HTTP cache may hold a password.
    pub uri: String,
}

impl UpstreamAddress {
    /// The address without secrets.
    pub fn shown(&self) -> String {
        let http = self.uri.parse::<HttpAddress>().map(|address| address.to_string());
        let grpc = || self.uri.parse::<Endpoint>().map(|endpoint| endpoint.to_string());
        // What is neither may be anything.
        http.or_else(|_| grpc()).unwrap_or_else(|_| "***".into())
    }

    /// Fails if it is none.
    pub fn check(&self) -> Result<()> {
        match link::is_http(&self.uri) {
            true => self.uri.parse::<HttpAddress>().map(drop),
            false => self.uri.parse::<Endpoint>().map(drop).map_err(|error| {
                error.hint("an HTTP cache is given as `http://HOST:PORT/PATH` or `https://HOST/PATH`")
            }),
        }
    }
}

impl fmt::Debug for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.shown())
    }
}

/// All of them.
pub(crate) struct Upstreams {
    /// The longest names first; the default one, which has no name, is the last.
    all: Vec<Arc<Upstream>>,
}

impl Upstreams {
    /// Nothing is asked yet.
    pub fn new(settings: &Settings, knowledge: &Arc<Knowledge>, terms: &Arc<TermsBook>) -> Result<Self> {
        let mut all = Vec::with_capacity(settings.upstreams.len());
        for address in &settings.upstreams {
            let spoken = terms.protocol(&address.shown());
            let link = Link::to(&address.uri, &settings.remote, spoken)?;
            let uri = link.uri();
            let breaker = Breaker::new(uri.clone(), settings.breaker.clone(), Some(link.probe()));
            all.push(Upstream {
                index: 0,
                name: address.name.clone(),
                uri,
                guarded: Guarded::new(&link, &breaker),
                link,
                benefit: Benefit::new(breaker.clone()),
                breaker,
                looking_up: LookUps::default(),
                asking: Asking::default(),
                has_executed: AtomicBool::new(false),
                admission: Admission::default(),
                knowledge: knowledge.clone(),
                terms: terms.clone(),
                failure: Mutex::default(),
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
    pub link: Link,
    pub breaker: Breaker,
    pub counts: Counts,
    guarded: Guarded,
    benefit: Benefit,
    looking_up: LookUps,
    asking: Asking,
    /// Clients have it execute.
    has_executed: AtomicBool,
    /// Whether it takes our credentials.
    admission: Admission,
    knowledge: Arc<Knowledge>,
    terms: Arc<TermsBook>,
    /// Of the last call, if nobody was there.
    failure: Mutex<Option<String>>,
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

    /// Asks for those that nothing is known of, and that nobody else asks for now, and takes note of the answer.
    pub async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let scope = self.scope(context);
        let mut missing = DigestSet::new();
        let mut left = self.unknown(context, digests.iter());
        loop {
            let (absent, unknown): (Vec<_>, Vec<_>) =
                left.iter().partition(|digest| self.knowledge.was_absent(scope, *digest));
            missing.extend(absent);
            if unknown.is_empty() {
                return Ok(missing);
            }
            let answered = self.asking.answered.notified();
            let mut answered = std::pin::pin!(answered);
            answered.as_mut().enable();
            let claim = self.asking.claim(scope, &unknown);
            if claim.digests.is_empty() {
                answered.await;
            } else {
                // Some may have been answered just before they were claimed.
                let claimed = self.unknown(context, claim.digests.iter());
                let (absent, asked): (DigestSet, DigestSet) =
                    claimed.iter().partition(|digest| self.knowledge.was_absent(scope, *digest));
                missing.extend(absent);
                missing.extend(self.find_claimed(context, &asked).await?);
            }
            let others = unknown.into_iter().filter(|digest| !claim.digests.contains(digest));
            left = self.unknown(context, others);
        }
    }

    async fn find_claimed(&self, context: &Context, asked: &DigestSet) -> Result<DigestSet> {
        if asked.is_empty() {
            return Ok(DigestSet::new());
        }
        let told = self.ask_missing(&self.context(context), asked).await?;
        self.note(context, asked.iter().filter(|digest| !told.contains(digest)));
        self.knowledge.note_absent(self.scope(context), told.iter());
        Ok(told)
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
            match this.ask_terms(&asked).await {
                Ok(told) => this.terms.learn(&this.uri, &rest, &told, this.link.protocol()),
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

    /// How many blobs are known to be there.
    pub fn known(&self) -> u64 {
        self.knowledge.count(&self.uri)
    }
}

/// Whether this says that nobody was there, and nothing about what was asked.
pub(crate) fn is_away(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable { .. } | Kind::DeadlineExceeded { .. } | Kind::Aborted { .. })
}

/// Whether this says that the upstream does not know who we are, which others may change.
pub(crate) fn is_stranger(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unauthenticated { .. })
}

/// Whether this says that the upstream has no room now, which may change.
pub(crate) fn is_full(error: &Error) -> bool {
    matches!(error.kind(), Kind::ResourceExhausted { .. })
}
