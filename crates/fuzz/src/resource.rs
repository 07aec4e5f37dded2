//! Resource names: what is understood can be said again, and means the same.

use mortar_model::{Digest, DigestFunction, Encoding, InstanceName};
use mortar_wire::resource::{Resource, path};

/// The bytes as a name, for reading and for writing.
pub fn resource(data: &[u8]) -> String {
    let Ok(name) = std::str::from_utf8(data) else { return "no text".into() };
    let (read, write) = (Resource::parse_read(name), Resource::parse_write(name));
    assert!(read.is_err() || write.is_err(), "`{name}` is a name for reading and for writing");
    match read.or(write) {
        Ok(resource) => {
            let again = said(&resource);
            let parsed = match resource.upload {
                Some(_) => Resource::parse_write(&again),
                None => Resource::parse_read(&again),
            };
            assert_eq!(parsed.ok().as_ref(), Some(&resource), "`{name}`, said as `{again}`");
            let kind = if resource.upload.is_some() { "upload" } else { "blob" };
            format!("{kind} {:?} {}", resource.encoding, resource.digest.function())
        }
        Err(error) => why(&error.to_string()),
    }
}

/// The reason in a message, without the names that stand in it.
fn why(message: &str) -> String {
    let message = message.split("; expected").next().unwrap_or_default();
    message.rsplit('`').next().unwrap_or_default().into()
}

/// A resource as the protocol spells it.
fn said(resource: &Resource) -> String {
    let mut name = String::new();
    for part in [resource.instance.as_str()].into_iter().filter(|instance| !instance.is_empty()) {
        name += &format!("{part}/");
    }
    if let Some(upload) = &resource.upload {
        name += &format!("uploads/{upload}/");
    }
    name += match resource.encoding {
        Encoding::Identity => "blobs/",
        Encoding::Zstd => "compressed-blobs/zstd/",
    };
    name + &path(resource.digest)
}

/// A name of every kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for function in DigestFunction::ALL {
        for instance in ["", "main", "a/b"] {
            for (upload, encoding) in [(None, Encoding::Identity), (Some("u-1".into()), Encoding::Zstd)] {
                let instance = InstanceName::parse(instance).expect("these are names of instances");
                let digest = Digest::of(function, b"abc");
                seeds.push(said(&Resource { instance, upload, digest, encoding }).into_bytes());
            }
        }
    }
    seeds.push(format!("/uploads/u-1/blobs/{}/meta/data", Digest::of(DigestFunction::Sha256, b"")).into());
    seeds
}
