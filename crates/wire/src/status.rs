//! The one error and gRPC's status, both ways, with `google.rpc` details.

use crate::{resource, rpc};
use bytes::Bytes;
use mortar_model::{Blame, Digest, DigestFunction, Error, Kind};
use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The type of a violation that names a blob to upload.
pub const MISSING: &str = "MISSING";
/// The domain of our reasons.
const DOMAIN: &str = "mortar";

/// The code that the protocol prescribes.
pub fn code(error: &Error) -> Code {
    match error.kind() {
        Kind::InvalidArgument { .. } => Code::InvalidArgument,
        Kind::Mismatch { source_of_content: Blame::Client, .. } => Code::InvalidArgument,
        Kind::Mismatch { source_of_content: Blame::Server, .. } => Code::DataLoss,
        Kind::Mismatch { source_of_content: Blame::Circumstance, .. } => Code::Aborted,
        Kind::NotFound { .. } => Code::NotFound,
        Kind::MissingBlobs { .. } | Kind::FailedPrecondition { .. } => Code::FailedPrecondition,
        Kind::OutOfRange { .. } => Code::OutOfRange,
        Kind::ResourceExhausted { .. } => Code::ResourceExhausted,
        Kind::Unavailable { .. } => Code::Unavailable,
        Kind::DeadlineExceeded { .. } => Code::DeadlineExceeded,
        Kind::Cancelled { .. } => Code::Cancelled,
        Kind::Aborted { .. } => Code::Aborted,
        Kind::PermissionDenied { .. } => Code::PermissionDenied,
        Kind::Unauthenticated { .. } => Code::Unauthenticated,
        Kind::Unimplemented { .. } => Code::Unimplemented,
        Kind::DataLoss { .. } => Code::DataLoss,
        Kind::Io { .. } | Kind::Internal { .. } => Code::Internal,
    }
}

/// The status of a refused call. What only the server's operator may see (paths, causes) stays behind.
pub fn to_status(error: &Error) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason(error.kind()), DOMAIN, std::collections::HashMap::<String, String>::new());
    match error.kind() {
        Kind::InvalidArgument { field, message } => {
            details
                .set_bad_request(vec![tonic_types::FieldViolation::new(field, shortened(message.clone()))]);
        }
        Kind::MissingBlobs { missing } => {
            let violation = |digest: &Digest| {
                let subject = format!("blobs/{}", resource::path(*digest));
                tonic_types::PreconditionViolation::new(MISSING, subject, "this blob is not in the CAS")
            };
            details.set_precondition_failure(missing.iter().map(violation).collect::<Vec<_>>());
        }
        _ => {}
    }
    if let Some(after) = error.retry_after() {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(code(error), public_message(error), details)
}

/// The same inside a message.
pub fn to_rpc(error: &Error) -> rpc::Status {
    let status = to_status(error);
    rpc::Status::decode(Bytes::copy_from_slice(status.details())).unwrap_or_else(|_| rpc::Status {
        code: status.code() as i32,
        message: status.message().into(),
        details: vec![],
    })
}

/// The error that a server answered with.
pub fn from_status(status: &Status) -> Error {
    let message = status.message().to_owned();
    let details = status.get_error_details();
    let retry_after = details.retry_info().and_then(|info| info.retry_delay);
    let kind = match status.code() {
        Code::Ok | Code::Unknown | Code::Internal => Kind::Internal { message },
        Code::InvalidArgument => {
            let violation = details.bad_request().and_then(|bad| bad.field_violations.first());
            Kind::InvalidArgument { field: violation.map(|v| v.field.clone()).unwrap_or_default(), message }
        }
        Code::NotFound => Kind::NotFound { what: "resource", name: message },
        Code::FailedPrecondition => match missing(&details) {
            missing if missing.is_empty() => Kind::FailedPrecondition { message },
            missing => Kind::MissingBlobs { missing },
        },
        Code::OutOfRange => Kind::OutOfRange { message },
        Code::ResourceExhausted => Kind::ResourceExhausted { message, retry_after },
        Code::Unavailable => Kind::Unavailable { message, retry_after },
        Code::DeadlineExceeded => Kind::DeadlineExceeded { message },
        Code::Cancelled => Kind::Cancelled { message },
        Code::Aborted | Code::AlreadyExists => Kind::Aborted { message },
        Code::PermissionDenied => Kind::PermissionDenied { message },
        Code::Unauthenticated => Kind::Unauthenticated { message },
        Code::Unimplemented => Kind::Unimplemented { message },
        Code::DataLoss => Kind::DataLoss { message },
    };
    Error::new(kind)
}

/// The error inside a message.
pub fn from_rpc(status: rpc::Status) -> Error {
    let details = Bytes::from(status.encode_to_vec());
    from_status(&Status::with_details(Code::from_i32(status.code), status.message, details))
}

/// What a remote user is told.
fn public_message(error: &Error) -> String {
    let message = match error.kind() {
        Kind::Io { .. } => "the server could not do this; its log tells why".to_owned(),
        kind => kind.to_string(),
    };
    let message = shortened(message);
    match error.get_hint() {
        Some(hint) => format!("{message}\nHint: {hint}"),
        None => message,
    }
}

/// What fits into HTTP trailers, in bytes: messages repeat names that clients sent, of whatever length.
const LONGEST_MESSAGE: usize = 1024;

fn shortened(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        let end = (0..=LONGEST_MESSAGE).rev().find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or(0));
        message.push('…');
    }
    message
}

/// A stable word for programs.
fn reason(kind: &Kind) -> &'static str {
    match kind {
        Kind::InvalidArgument { .. } => "INVALID_ARGUMENT",
        Kind::Mismatch { .. } => "DIGEST_MISMATCH",
        Kind::NotFound { .. } => "NOT_FOUND",
        Kind::MissingBlobs { .. } => "MISSING_BLOBS",
        Kind::FailedPrecondition { .. } => "FAILED_PRECONDITION",
        Kind::OutOfRange { .. } => "OUT_OF_RANGE",
        Kind::ResourceExhausted { .. } => "RESOURCE_EXHAUSTED",
        Kind::Unavailable { .. } => "UNAVAILABLE",
        Kind::DeadlineExceeded { .. } => "DEADLINE_EXCEEDED",
        Kind::Cancelled { .. } => "CANCELLED",
        Kind::Aborted { .. } => "ABORTED",
        Kind::PermissionDenied { .. } => "PERMISSION_DENIED",
        Kind::Unauthenticated { .. } => "UNAUTHENTICATED",
        Kind::Unimplemented { .. } => "UNIMPLEMENTED",
        Kind::DataLoss { .. } => "DATA_LOSS",
        Kind::Io { .. } => "IO",
        Kind::Internal { .. } => "INTERNAL",
    }
}

fn missing(details: &ErrorDetails) -> Vec<Digest> {
    let violations =
        details.precondition_failure().map(|failure| failure.violations.as_slice()).unwrap_or_default();
    let digest = |violation: &tonic_types::PreconditionViolation| {
        let name = violation.subject.strip_prefix("blobs/")?;
        let mut parts = name.rsplit('/');
        let (size, hash) = (parts.next()?.parse().ok()?, parts.next()?);
        let function = parts.next().map_or(Ok(DigestFunction::Sha256), str::parse).ok()?;
        Digest::parse(function, hash, size).ok()
    };
    violations.iter().filter(|violation| violation.r#type == MISSING).filter_map(digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn codes_and_details_survive_the_round_trip() {
        let digest = Digest::of(DigestFunction::Blake3, b"x");
        let second = Some(Duration::from_secs(1));
        let text = || "why".to_owned();
        let cases = [
            (Kind::InvalidArgument { field: "f".into(), message: text() }, Code::InvalidArgument),
            (Kind::NotFound { what: "resource", name: text() }, Code::NotFound),
            (Kind::MissingBlobs { missing: vec![digest] }, Code::FailedPrecondition),
            (Kind::FailedPrecondition { message: text() }, Code::FailedPrecondition),
            (Kind::OutOfRange { message: text() }, Code::OutOfRange),
            (Kind::ResourceExhausted { message: text(), retry_after: second }, Code::ResourceExhausted),
            (Kind::Unavailable { message: text(), retry_after: second }, Code::Unavailable),
            (Kind::DeadlineExceeded { message: text() }, Code::DeadlineExceeded),
            (Kind::Cancelled { message: text() }, Code::Cancelled),
            (Kind::Aborted { message: text() }, Code::Aborted),
            (Kind::PermissionDenied { message: text() }, Code::PermissionDenied),
            (Kind::Unauthenticated { message: text() }, Code::Unauthenticated),
            (Kind::Unimplemented { message: text() }, Code::Unimplemented),
            (Kind::DataLoss { message: text() }, Code::DataLoss),
            (Kind::Internal { message: text() }, Code::Internal),
        ];
        for (kind, expected) in cases {
            let status = to_status(&Error::new(kind.clone()));
            assert_eq!(status.code(), expected, "{kind:?}");
            let back = from_rpc(to_rpc(&Error::new(kind.clone())));
            let same = match back.kind() {
                Kind::NotFound { name, .. } => name.contains("why"),
                back => *back == kind,
            };
            assert!(same, "{kind:?} became {back:?}");
        }
    }

    #[test]
    fn the_blame_for_wrong_content_decides_the_code() {
        let digest = Digest::of(DigestFunction::Sha256, b"x");
        for (blame, expected) in [
            (Blame::Client, Code::InvalidArgument),
            (Blame::Server, Code::DataLoss),
            (Blame::Circumstance, Code::Aborted),
        ] {
            assert_eq!(code(&Error::mismatch(digest, "y".into(), blame)), expected);
        }
    }

    #[test]
    fn long_messages_fit_into_trailers() {
        let status = to_status(&Error::invalid("f", "é".repeat(100_000)));
        assert!(status.message().len() < 1100 && status.details().len() < 3000);
        assert!(status.message().ends_with('…'));
    }

    #[test]
    fn local_paths_stay_here() {
        let error = Error::io("reading /secret/place", std::io::Error::other("/secret/cause"));
        let status = to_status(&error);
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret"), "{}", status.message());
    }
}
