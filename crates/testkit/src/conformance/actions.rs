//! Checks of the action cache. Results name no blobs here, so that they are complete wherever they are kept.

use super::{Random, Subject};
use anyhow::{Context as _, Result, ensure};
use mortar_model::{ActionCache, ActionKey, ActionResult, DigestFunction};

fn actions(subject: &Subject) -> Result<&dyn ActionCache> {
    subject.actions.as_deref().context("the subject has no action cache")
}

fn new_key(function: DigestFunction) -> ActionKey {
    Random::new().blob(function, 100).0.into()
}

fn saying(words: &'static str) -> ActionResult {
    ActionResult { stdout_raw: words.into(), ..Default::default() }
}

async fn expect(subject: &Subject, key: ActionKey, words: &'static str) -> Result<()> {
    let result =
        actions(subject)?.get(&subject.context, key).await?.context("a result that was put is unknown")?;
    // Servers may add to the metadata.
    ensure!(result.stdout_raw == words && result.exit_code == 0, "got another result: {result:?}");
    Ok(())
}

pub(super) async fn an_unknown_action_has_no_result(subject: &Subject) -> Result<()> {
    for function in &subject.functions {
        let result = actions(subject)?.get(&subject.context, new_key(*function)).await?;
        ensure!(result.is_none(), "an unknown action has a result: {result:?}");
    }
    Ok(())
}

pub(super) async fn a_result_comes_back(subject: &Subject) -> Result<()> {
    for function in &subject.functions {
        let key = new_key(*function);
        actions(subject)?.put(&subject.context, key, saying("hello")).await?;
        expect(subject, key, "hello").await?;
    }
    Ok(())
}

pub(super) async fn a_newer_result_replaces_an_older_one(subject: &Subject) -> Result<()> {
    for function in &subject.functions {
        let key = new_key(*function);
        for words in ["older", "newer", "newest"] {
            actions(subject)?.put(&subject.context, key, saying(words)).await?;
            expect(subject, key, words).await?;
        }
    }
    Ok(())
}

pub(super) async fn digest_functions_have_keys_of_their_own(subject: &Subject) -> Result<()> {
    let hash = new_key(DigestFunction::Sha256).hash;
    let keys = || subject.functions.iter().map(|function| ActionKey { function: *function, hash });
    for key in keys() {
        let earlier = actions(subject)?.get(&subject.context, key).await?;
        ensure!(earlier.is_none(), "{key:?} has the result of another function's action");
        actions(subject)?.put(&subject.context, key, saying(key.function.name())).await?;
    }
    for key in keys() {
        expect(subject, key, key.function.name()).await?;
    }
    Ok(())
}

pub(super) async fn instances_have_results_of_their_own(subject: &Subject) -> Result<()> {
    let other = subject.other_instance.clone().context("the subject has one instance only")?;
    let other = subject.context.clone().with_instance(other);
    for function in &subject.functions {
        let key = new_key(*function);
        actions(subject)?.put(&subject.context, key, saying("here")).await?;
        let there = actions(subject)?.get(&other, key).await?;
        ensure!(there.is_none(), "an instance has the result of another one");
        actions(subject)?.put(&other, key, saying("there")).await?;
        expect(subject, key, "here").await?;
    }
    Ok(())
}
