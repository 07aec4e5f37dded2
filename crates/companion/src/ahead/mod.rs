//! Looking ahead: a build that begins like one before it is sent the results that the other asked for next, with their
//! small blobs, before it asks for them itself.
//!
//! A look-up that finds nothing here asks the upstream, and has it told at the same time what followed in builds before
//! ([`Foresight`](mortar_model::Foresight)); an upstream that knows no such thing brings nothing. What comes is kept as it comes, and whoever asks
//! for it meanwhile is answered by whichever is first. `course` decides when to look.

mod course;

use crate::{results::NearResults, upstream::Upstream};
use bytes::Bytes;
use course::{Course, Look};
use futures::StreamExt;
use mortar_model::{ActionKey, AheadBounds, Coming, Context, DigestFunction, InstanceName, Result, Whence};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// How far one look goes.
const BOUNDS: AheadBounds = AheadBounds { results: 1_024, blob: 64 << 10, bytes: 32 << 20 };
/// Results that are being kept at the same time.
const KEEPING: usize = 64;
/// Invocations that are followed.
const COURSES: usize = 64;

/// Looks ahead for all invocations. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Ahead(Arc<Inner>);

#[derive(Default)]
struct Inner {
    courses: Mutex<HashMap<Whose, Course>>,
    asked: AtomicU64,
    sent_ahead: AtomicU64,
    used: AtomicU64,
    looking: TaskTracker,
}

/// An invocation.
type Whose = (InstanceName, String);

/// A result that came.
struct Kept {
    /// It did not come before.
    is_new: bool,
    /// Where to go on after it.
    further: (DigestFunction, Bytes),
}

/// One who waits for a result that may come by itself.
pub(crate) struct Arrival(Option<oneshot::Receiver<()>>);

impl Arrival {
    /// Returns when the result is here; never, if it does not come.
    pub async fn come(self) {
        let came = match self.0 {
            Some(told) => told.await.is_ok(),
            None => false,
        };
        if !came {
            pending().await
        }
    }
}

impl Ahead {
    /// A result was found here.
    pub fn found(&self, results: &NearResults, upstream: &Arc<Upstream>, context: &Context, key: ActionKey) {
        let further = self.with(context, |course| course.found(key));
        let Some((sent_ahead, further)) = further else { return };
        self.0.used.fetch_add(u64::from(sent_ahead), Ordering::Relaxed);
        if let Some(further) = further {
            self.look(results, upstream, context, further);
        }
    }

    /// A result was not found here. The caller asks the upstream for it, and may wait for it to come by itself too.
    pub fn missed(
        &self,
        results: &NearResults,
        upstream: &Arc<Upstream>,
        context: &Context,
        key: ActionKey,
    ) -> Arrival {
        let missed = self.with(context, |course| course.missed(key));
        let Some((looks, told)) = missed else { return Arrival(None) };
        if looks {
            self.look(results, upstream, context, Whence::Action(key));
        }
        Arrival(told)
    }

    /// Results that were sent ahead, and those of them that were asked for afterwards.
    pub fn counts(&self) -> (u64, u64) {
        (self.0.sent_ahead.load(Ordering::Relaxed), self.0.used.load(Ordering::Relaxed))
    }

    /// Ends all looks and waits for what is being kept.
    pub async fn settle(&self) {
        self.0.looking.close();
        self.0.looking.wait().await;
    }

    fn with<T>(&self, context: &Context, act: impl FnOnce(&mut Course) -> T) -> Option<T> {
        let invocation = &context.request.tool_invocation_id;
        if invocation.is_empty() || self.0.looking.is_closed() {
            return None;
        }
        let now = self.0.asked.fetch_add(1, Ordering::Relaxed);
        let whose = (context.instance.clone(), invocation.clone());
        let mut courses = self.0.courses.lock();
        if courses.len() >= COURSES && !courses.contains_key(&whose) {
            let oldest =
                courses.iter().min_by_key(|(_, course)| course.touched).map(|(whose, _)| whose.clone());
            oldest.and_then(|oldest| courses.remove(&oldest));
        }
        let course = courses.entry(whose).or_default();
        course.touched = now;
        Some(act(course))
    }

    fn look(&self, results: &NearResults, upstream: &Arc<Upstream>, context: &Context, whence: Whence) {
        let (this, results, upstream) = (self.clone(), results.clone(), upstream.clone());
        let context = Context { deadline: None, operation: None, ..context.clone() };
        self.0.looking.spawn(async move {
            let look = this.bring(&results, &upstream, &context, whence).await;
            let (brought, further) = look.unwrap_or_else(|error| {
                tracing::debug!(%error, "nothing is sent ahead");
                (0, None)
            });
            this.with(&context, |course| course.ended(brought, further));
        });
    }

    /// One look: how many new results it brought, and from where it can go on.
    async fn bring(
        &self,
        results: &NearResults,
        upstream: &Arc<Upstream>,
        context: &Context,
        whence: Whence,
    ) -> Result<(usize, Option<(DigestFunction, Bytes)>)> {
        let stream = upstream.follow(context, whence, BOUNDS).await?;
        let mut kept = stream.map(|coming| self.keep(results, upstream, context, coming)).buffered(KEEPING);
        let (mut look, mut last) = (Look::default(), None);
        while let Some(one) = kept.next().await {
            match one {
                Ok(Kept { is_new, further }) => {
                    look.brings(is_new);
                    last = Some(further);
                }
                Err(error) => {
                    tracing::debug!(%error, "no more is sent ahead");
                    return Ok((look.brought, None));
                }
            }
        }
        let goes_on = look.came >= BOUNDS.results as usize && !look.follows_another();
        Ok((look.brought, last.filter(|_| goes_on)))
    }

    /// Keeps one result that came.
    async fn keep(
        &self,
        results: &NearResults,
        upstream: &Upstream,
        context: &Context,
        coming: Result<Coming>,
    ) -> Result<Kept> {
        let coming = coming?;
        let key = coming.key;
        let further = (key.function, coming.cursor.clone());
        if self.with(context, |course| course.comes(key)) == Some(false) {
            return Ok(Kept { is_new: false, further });
        }
        results.keep_ahead(context, upstream, coming).await?;
        self.0.sent_ahead.fetch_add(1, Ordering::Relaxed);
        self.with(context, |course| course.came(key));
        Ok(Kept { is_new: true, further })
    }
}
