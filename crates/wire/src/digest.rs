//! Digests on the wire: hex and a signed size, with the function told beside them or left out.

use crate::{reapi, required};
use mortar_model::{Digest, DigestFunction, Error, Result};

/// Requests that may name a digest function.
pub trait Functioned {
    /// The value of the field, 0 where it was left out.
    fn function_field(&self) -> i32;

    /// The function that holds for the digests of this request.
    fn function(&self) -> Result<DigestFunction> {
        digest_function(self.function_field())
    }
}

macro_rules! functioned {
    ($($request:ident),*) => { $(impl Functioned for reapi::$request {
        fn function_field(&self) -> i32 {
            self.digest_function
        }
    })* };
}
functioned!(
    ExecuteRequest,
    GetActionResultRequest,
    UpdateActionResultRequest,
    FindMissingBlobsRequest,
    BatchUpdateBlobsRequest,
    BatchReadBlobsRequest,
    GetTreeRequest,
    SplitBlobRequest,
    SpliceBlobRequest,
    GetChunkMappingRequest,
    RegisterChunkMappingRequest
);

/// The function of a request; left out, it is SHA-256, as the length of its hashes (64 digits) says first of all.
pub fn digest_function(value: i32) -> Result<DigestFunction> {
    use reapi::digest_function::Value;
    match Value::try_from(value) {
        Ok(Value::Unknown | Value::Sha256) => Ok(DigestFunction::Sha256),
        Ok(Value::Blake3) => Ok(DigestFunction::Blake3),
        other => {
            let name = other.map_or_else(|_| value.to_string(), |known| known.as_str_name().to_owned());
            Err(Error::invalid("digest_function", format!("the digest function `{name}` is not served"))
                .hint("this server speaks SHA256 and BLAKE3, as its capabilities tell; for Bazel: --digest_function=SHA256 (a startup option)"))
        }
    }
}

/// The function as requests name it.
pub fn function_to_wire(function: DigestFunction) -> reapi::digest_function::Value {
    match function {
        DigestFunction::Sha256 => reapi::digest_function::Value::Sha256,
        DigestFunction::Blake3 => reapi::digest_function::Value::Blake3,
    }
}

/// The digest as messages hold it.
pub fn digest_to_wire(digest: Digest) -> reapi::Digest {
    let size_bytes = i64::try_from(digest.size()).expect("sizes come from signed fields or from files");
    reapi::Digest { hash: digest.hex(), size_bytes }
}

/// Many of them.
pub fn digests_to_wire(digests: impl IntoIterator<Item = Digest>) -> Vec<reapi::Digest> {
    digests.into_iter().map(digest_to_wire).collect()
}

/// A digest that has to be there and well-formed.
pub fn required_digest(
    field: &str,
    function: DigestFunction,
    digest: Option<reapi::Digest>,
) -> Result<Digest> {
    let digest = required(field, digest)?;
    Digest::parse(function, &digest.hash, digest.size_bytes)
        .map_err(|error| Error::invalid(field, format!("the field `{field}` is malformed: {error}")))
}

/// A digest that may be left out but not be malformed.
pub fn optional_digest(
    field: &str,
    function: DigestFunction,
    digest: Option<reapi::Digest>,
) -> Result<Option<Digest>> {
    digest.map(|digest| required_digest(field, function, Some(digest))).transpose()
}
