//! The conformance suite: what every store, every decorator and every server must do, as named checks over the
//! ports. Runs in tests, and against a live server, foreign ones too: content is random, so that checks can be
//! repeated, and nothing is asked for but what the traits promise.
//!
//! Faults of the medium beneath a store are not its business; those are tested where the store is.

mod actions;
mod content;
mod encodings;
mod powers;
mod reads;
mod uploads;
mod writes;

pub use content::Random;

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::future::BoxFuture;
use mortar_model::{
    ActionCache, BlobStore, Context, Digest, DigestFunction, DigestSet, EncodedBlobs, HashIndex,
    InstanceName, LocalFiles, Range, UploadSessions, Values,
};
use std::sync::Arc;

/// What is put to the test: the ports of one store or server, as far as it has them.
#[derive(Clone)]
pub struct Subject {
    /// Blobs; everything else is optional.
    pub blobs: Arc<dyn BlobStore>,
    /// Uploads that resume.
    pub uploads: Option<Arc<dyn UploadSessions>>,
    /// Blobs as zstd frames. Where there are uploads too, they take frames.
    pub encoded: Option<Arc<dyn EncodedBlobs>>,
    /// Action results.
    pub actions: Option<Arc<dyn ActionCache>>,
    /// Blobs by hash alone.
    pub hashes: Option<Arc<dyn HashIndex>>,
    /// Opaque values.
    pub values: Option<Arc<dyn Values>>,
    /// Blobs as files.
    pub files: Option<Arc<dyn LocalFiles>>,
    /// The digest functions that it speaks.
    pub functions: Vec<DigestFunction>,
    /// The context of all calls.
    pub context: Context,
    /// An instance besides that of the context, where results are kept apart; none if there is but one.
    pub other_instance: Option<InstanceName>,
}

impl Subject {
    /// A store of blobs alone, with all digest functions. Further powers are set as fields.
    pub fn new(blobs: Arc<dyn BlobStore>) -> Self {
        Self {
            blobs,
            uploads: None,
            encoded: None,
            actions: None,
            hashes: None,
            values: None,
            files: None,
            functions: DigestFunction::ALL.to_vec(),
            context: Context::internal(),
            other_instance: InstanceName::parse("conformance/other").ok(),
        }
    }

    /// New content of each digest function.
    fn fresh(&self, length: usize) -> Vec<(Digest, Bytes)> {
        self.functions.iter().map(|function| Random::new().blob(*function, length)).collect()
    }

    /// Reads a range to its end.
    async fn fetch(&self, digest: Digest, range: Range) -> mortar_model::Result<Bytes> {
        self.blobs.read(&self.context, digest, range).await?.into_bytes().await
    }

    async fn is_missing(&self, digest: Digest) -> Result<bool> {
        let missing = self.blobs.find_missing(&self.context, &DigestSet::from_iter([digest])).await?;
        Ok(missing.contains(&digest))
    }

    /// That a blob is called present and can be read whole.
    async fn expect_whole(&self, digest: Digest, bytes: &Bytes) -> Result<()> {
        ensure!(!self.is_missing(digest).await?, "`{digest}` was written and is called missing");
        let read = self.fetch(digest, Range::ALL).await?;
        ensure!(read == *bytes, "`{digest}` was read with other content, of {} bytes", read.len());
        Ok(())
    }

    /// That a blob is called missing and cannot be read.
    async fn expect_missing(&self, digest: Digest) -> Result<()> {
        ensure!(self.is_missing(digest).await?, "`{digest}` was not written and is called present");
        match self.fetch(digest, Range::ALL).await {
            Ok(_) => anyhow::bail!("`{digest}` was not written and can be read"),
            Err(error) => {
                ensure!(error.is_not_found(), "reading a missing blob: expected not found, got: {error}");
                Ok(())
            }
        }
    }
}

/// One thing that must hold.
#[derive(Clone, Copy)]
pub struct Check {
    /// What must hold, in words divided by underscores.
    pub name: &'static str,
    needs: Power,
    run: fn(&Subject) -> BoxFuture<'_, Result<()>>,
}

#[derive(Clone, Copy)]
enum Power {
    Blobs,
    Uploads,
    Encoded,
    EncodedUploads,
    Actions,
    Instances,
    Hashes,
    Values,
    Files,
}

/// How a check went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Passed,
    /// The subject does not have what is checked.
    NotOffered,
    /// It does not hold, and how.
    Failed(String),
}

impl Check {
    /// Puts a subject to this check.
    pub async fn run(&self, subject: &Subject) -> Verdict {
        let offered = match self.needs {
            Power::Blobs => true,
            Power::Uploads => subject.uploads.is_some(),
            Power::Encoded => subject.encoded.is_some(),
            Power::EncodedUploads => subject.encoded.is_some() && subject.uploads.is_some(),
            Power::Actions => subject.actions.is_some(),
            Power::Instances => subject.actions.is_some() && subject.other_instance.is_some(),
            Power::Hashes => subject.hashes.is_some(),
            Power::Values => subject.values.is_some(),
            Power::Files => subject.files.is_some(),
        };
        if !offered {
            return Verdict::NotOffered;
        }
        match (self.run)(subject).await {
            Ok(()) => Verdict::Passed,
            Err(error) => Verdict::Failed(format!("{error:#}")),
        }
    }
}

/// Names an async function as a check.
macro_rules! check {
    ($needs:ident, $module:ident :: $name:ident) => {
        Check {
            name: stringify!($name),
            needs: Power::$needs,
            run: |subject| Box::pin($module::$name(subject)),
        }
    };
}

/// All checks, the simplest first.
pub fn checks() -> Vec<Check> {
    vec![
        check!(Blobs, reads::the_empty_blob_always_exists),
        check!(Blobs, reads::a_missing_blob_is_not_found),
        check!(Blobs, reads::blobs_of_all_sizes_come_back),
        check!(Blobs, reads::ranges_are_exact),
        check!(Blobs, reads::a_read_past_the_end_is_out_of_range),
        check!(Blobs, reads::find_missing_tells_present_from_missing),
        check!(Blobs, reads::a_wrong_size_names_no_blob),
        check!(Blobs, reads::a_read_may_be_dropped_in_the_middle),
        check!(Blobs, writes::streamed_content_comes_back),
        check!(Blobs, writes::writing_twice_is_writing_once),
        check!(Blobs, writes::writers_of_one_blob_do_not_disturb_each_other),
        check!(Blobs, writes::content_with_another_hash_is_refused),
        check!(Blobs, writes::content_that_is_too_short_is_refused),
        check!(Blobs, writes::content_that_is_too_long_is_refused),
        check!(Blobs, writes::content_that_fails_on_its_way_leaves_nothing),
        check!(Blobs, writes::a_dropped_write_leaves_nothing),
        check!(Blobs, writes::many_streams_at_once),
        check!(Uploads, uploads::an_upload_in_pieces_comes_back),
        check!(Uploads, uploads::an_upload_resumes_where_it_was_left),
        check!(Uploads, uploads::an_upload_can_be_taken_over),
        check!(Uploads, uploads::an_upload_that_does_not_match_is_discarded),
        check!(Uploads, uploads::an_upload_that_is_too_long_is_refused),
        check!(Uploads, uploads::an_upload_that_is_too_short_is_refused),
        check!(Uploads, uploads::an_unknown_upload_has_nothing_committed),
        check!(Encoded, encodings::a_blob_is_read_as_zstd),
        check!(Encoded, encodings::ranges_of_zstd_are_exact),
        check!(Encoded, encodings::zstd_that_is_written_comes_back),
        check!(Encoded, encodings::zstd_of_something_else_is_refused),
        check!(EncodedUploads, encodings::a_compressed_upload_comes_back),
        check!(EncodedUploads, encodings::a_compressed_upload_resumes_where_it_was_left),
        check!(EncodedUploads, encodings::a_compressed_upload_of_something_else_is_discarded),
        check!(Actions, actions::an_unknown_action_has_no_result),
        check!(Actions, actions::a_result_comes_back),
        check!(Actions, actions::a_newer_result_replaces_an_older_one),
        check!(Actions, actions::digest_functions_have_keys_of_their_own),
        check!(Instances, actions::instances_have_results_of_their_own),
        check!(Hashes, powers::a_blob_is_found_by_its_hash),
        check!(Values, powers::values_come_back_and_are_replaced),
        check!(Files, powers::a_blob_is_a_file),
    ]
}

/// Puts a subject to all checks; panics with the list of those that fail. For tests.
pub async fn assert_conforms(subject: &Subject) {
    let mut failures = Vec::new();
    for check in checks() {
        if let Verdict::Failed(why) = check.run(subject).await {
            failures.push(format!("{}: {why}", check.name));
        }
    }
    assert!(failures.is_empty(), "{} checks failed:\n{}", failures.len(), failures.join("\n"));
}
