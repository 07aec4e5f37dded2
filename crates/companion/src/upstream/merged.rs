//! Equal questions at the same time are one question to the upstream.

use crate::knowledge::Scope;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use mortar_model::{
    ActionCache, ActionKey, ActionResult, Context, Digest, DigestSet, Error, InstanceName, Result,
};
use mortar_remote::breaker::GuardedActions;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::Notify;

/// Beyond so many, those that nobody waits for any more are cleared away.
const MANY: usize = 1_000;

type LookUp = BoxFuture<'static, Result<Option<ActionResult>, Arc<Error>>>;

/// Look-ups under way. Those who wait drive them; when the last one goes, the look-up ends.
#[derive(Default)]
pub(super) struct LookUps(Mutex<HashMap<(InstanceName, ActionKey), WeakShared<LookUp>>>);

impl LookUps {
    /// The answer, and whether it was asked for here.
    pub async fn get(
        &self,
        actions: &Arc<GuardedActions>,
        there: &Context,
        key: ActionKey,
    ) -> (bool, Result<Option<ActionResult>>) {
        let name = (there.instance.clone(), key);
        let (begun_here, look_up) = self.board(&name, actions, there);
        let answer = look_up.await;
        if begun_here {
            self.0.lock().remove(&name);
        }
        let told_again = |error: Arc<Error>| Error::new(error.kind().clone()).with_source(error);
        (begun_here, answer.map_err(told_again))
    }

    /// The look-up under way, or a new one; and whether it is new.
    fn board(
        &self,
        name: &(InstanceName, ActionKey),
        actions: &Arc<GuardedActions>,
        there: &Context,
    ) -> (bool, Shared<LookUp>) {
        let mut under_way = self.0.lock();
        if let Some(look_up) = under_way.get(name).and_then(WeakShared::upgrade) {
            return (false, look_up);
        }
        if under_way.len() >= MANY {
            under_way.retain(|_, look_up| look_up.upgrade().is_some());
        }
        let (actions, there, key) = (actions.clone(), Context { deadline: None, ..there.clone() }, name.1);
        let look_up = async move { actions.get(&there, key).await.map_err(Arc::new) }.boxed().shared();
        let weak = look_up.downgrade().expect("what was not polled has not ended");
        under_way.insert(name.clone(), weak);
        (true, look_up)
    }
}

/// Blobs that are being asked about.
#[derive(Default)]
pub(super) struct Asking {
    blobs: Mutex<HashSet<(Scope, Digest)>>,
    pub answered: Notify,
}

/// Blobs that one caller asks about. Others wait for the end of this.
pub(super) struct Claim<'a> {
    asking: &'a Asking,
    scope: Scope,
    pub digests: DigestSet,
}

impl Asking {
    /// Those of `digests` that nobody else asks about.
    pub fn claim(&self, scope: Scope, digests: &[Digest]) -> Claim<'_> {
        let mut blobs = self.blobs.lock();
        let digests = digests.iter().copied().filter(|digest| blobs.insert((scope, *digest))).collect();
        drop(blobs);
        Claim { asking: self, scope, digests }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut blobs = self.asking.blobs.lock();
        for digest in self.digests.iter() {
            blobs.remove(&(self.scope, digest));
        }
        drop(blobs);
        self.asking.answered.notify_waiters();
    }
}
