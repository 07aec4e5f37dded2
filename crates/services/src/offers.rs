//! What is offered where that is not settled at the start: who stands between a client and another server offers what
//! that one does.

use async_trait::async_trait;
use mortar_model::{Context, DigestFunction, Result};

/// What one instance offers, of all that the ports make possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Actions are executed.
    pub executes: bool,
    /// Clients may write action results.
    pub updates: bool,
    /// The digest functions of cache and executions.
    pub functions: Vec<DigestFunction>,
}

/// Knows what is offered.
#[async_trait]
pub trait Offers: Send + Sync {
    /// What the instance of the context offers.
    async fn offer(&self, context: &Context) -> Result<Offer>;
}
