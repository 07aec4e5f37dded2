//! The port of action results: each is a message under `/ac/`.

use super::{HttpUpstream, Inner, check_function, exchange::Ask};
use crate::{MAX_MESSAGE, retry::Backoff};
use async_trait::async_trait;
use http::Method;
use mortar_model::{ActionCache, ActionKey, ActionResult, Codec, Context, Error, Result};
use mortar_wire::Protobuf;

#[async_trait]
impl ActionCache for HttpUpstream {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<ActionResult>> {
        check_function(key.function)?;
        let mut backoff = Backoff::new(&self.0.options.retry, context);
        loop {
            match self.0.result(context, key).await {
                Ok(result) => return Ok(Some(result)),
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => backoff.pause(error).await?,
            }
        }
    }

    async fn put(&self, context: &Context, key: ActionKey, result: ActionResult) -> Result<()> {
        check_function(key.function)?;
        let mut ask = Ask::new(Method::PUT, self.0.address.item(&context.instance, "ac", &key.hex()));
        ask.content = Some(Protobuf.encode_result(&result));
        self.0.put(context, &ask).await
    }
}

impl Inner {
    async fn result(&self, context: &Context, key: ActionKey) -> Result<ActionResult> {
        let ask = Ask::new(Method::GET, self.address.item(&context.instance, "ac", &key.hex()));
        let mut answer = self.success(context, self.ask(context, &ask).await?).await?;
        let message = self.whole(context, &mut answer, MAX_MESSAGE).await?;
        Protobuf.decode_result(key.function, message).map_err(|error| {
            let message =
                format!("the cache at `{}` holds no action result under `{}`", self.address, ask.path);
            Error::internal(message).with_source(error)
        })
    }

    /// Sends what can be sent again, until it is taken.
    pub(super) async fn put(&self, context: &Context, ask: &Ask) -> Result<()> {
        let mut backoff = Backoff::new(&self.options.retry, context);
        loop {
            let outcome = match self.ask(context, ask).await {
                Ok(answer) => self.taken(context, answer).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(error) => backoff.pause(error).await?,
            }
        }
    }
}
