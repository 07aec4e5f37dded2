//! Under what name debts are paid. Servers keep what an invocation was told is there for as long as it makes calls; what
//! names none may go as soon as they have no room, in the worst case a blob between its upload and that of the result that
//! needs it. So the payers call as invocations of their own: one for all of them, and a new one now and then, since what
//! is upstream for long is not to be kept for the sake of what is owed now.

use mortar_model::RequestMetadata;
use parking_lot::Mutex;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// For how long a name is used.
const TERM: Duration = Duration::from_secs(10 * 60);

/// The name that is used now, since when.
pub(super) struct Errand(Mutex<(Instant, Arc<RequestMetadata>)>);

impl Errand {
    pub fn new() -> Self {
        Self(Mutex::new((Instant::now(), name())))
    }

    /// Of calls that begin at this time.
    pub fn at(&self, now: Instant) -> Arc<RequestMetadata> {
        let mut current = self.0.lock();
        if now.saturating_duration_since(current.0) >= TERM {
            *current = (now, name());
        }
        current.1.clone()
    }
}

fn name() -> Arc<RequestMetadata> {
    Arc::new(RequestMetadata {
        tool_name: "mortar-companion".into(),
        tool_version: env!("CARGO_PKG_VERSION").into(),
        tool_invocation_id: uuid::Uuid::new_v4().to_string(),
        ..RequestMetadata::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_serves_for_a_while() {
        let (errand, start) = (Errand::new(), Instant::now());
        let first = errand.at(start);
        assert_eq!(errand.at(start + TERM / 2), first);
        let second = errand.at(start + TERM);
        assert_ne!(second.tool_invocation_id, first.tool_invocation_id);
        assert_eq!(errand.at(start + TERM + TERM / 2), second);
    }
}
