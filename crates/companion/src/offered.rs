//! What the companion offers: what the upstream does that an instance name leads to, and no more than it can itself;
//! executions also where there is a worker here.

use crate::{here::Places, upstream::Upstreams};
use async_trait::async_trait;
use mortar_model::{Context, Result};
use mortar_services::{Offer, Offers};
use std::sync::Arc;

pub(crate) struct Offered {
    upstreams: Arc<Upstreams>,
    places: Places,
}

impl Offered {
    pub fn new(upstreams: Arc<Upstreams>, places: Places) -> Self {
        Self { upstreams, places }
    }
}

#[async_trait]
impl Offers for Offered {
    async fn offer(&self, context: &Context) -> Result<Offer> {
        let terms = self.upstreams.of(&context.instance)?.current_terms(context).await;
        let executes = terms.executes || self.places.here().is_some();
        Ok(Offer { executes, updates: terms.updates, functions: terms.functions() })
    }
}
