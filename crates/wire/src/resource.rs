//! ByteStream resource names: which blob, of which instance, in which form.
//!
//! ```text
//! read   [INSTANCE/] blobs/[FUNCTION/]HASH/SIZE
//!        [INSTANCE/] compressed-blobs/COMPRESSOR/[FUNCTION/]HASH/SIZE
//! write  [INSTANCE/] uploads/UUID/ (either of the above) [/anything]
//! ```

use mortar_model::{Digest, DigestFunction, Encoding, Error, InstanceName, Result};

/// A parsed name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The instance that is addressed.
    pub instance: InstanceName,
    /// The upload, where this names one.
    pub upload: Option<String>,
    /// The blob, of uncompressed content.
    pub digest: Digest,
    /// How the bytes on the stream are encoded.
    pub encoding: Encoding,
}

impl Resource {
    /// A name for reading.
    pub fn parse_read(name: &str) -> Result<Self> {
        let resource = parse(name, "[INSTANCE/]blobs/[FUNCTION/]HASH/SIZE")?;
        match resource.upload {
            None => Ok(resource),
            Some(_) => {
                Err(malformed(name, "an upload cannot be read", "[INSTANCE/]blobs/[FUNCTION/]HASH/SIZE"))
            }
        }
    }

    /// A name for writing.
    pub fn parse_write(name: &str) -> Result<Self> {
        const SHAPE: &str = "[INSTANCE/]uploads/UUID/blobs/[FUNCTION/]HASH/SIZE";
        let resource = parse(name, SHAPE)?;
        match resource.upload {
            Some(_) => Ok(resource),
            None => Err(malformed(name, "it has no `uploads` part", SHAPE)),
        }
    }

    /// The name of a whole blob for reading.
    pub fn read_name(instance: &InstanceName, digest: Digest) -> String {
        format!("{}blobs/{}", prefix(instance), path(digest))
    }

    /// The name of a whole blob for reading it as zstd.
    pub fn zstd_read_name(instance: &InstanceName, digest: Digest) -> String {
        format!("{}compressed-blobs/zstd/{}", prefix(instance), path(digest))
    }

    /// The name of an upload of zstd frames.
    pub fn zstd_write_name(instance: &InstanceName, upload: &str, digest: Digest) -> String {
        format!("{}uploads/{upload}/compressed-blobs/zstd/{}", prefix(instance), path(digest))
    }

    /// The name of an upload.
    pub fn write_name(instance: &InstanceName, upload: &str, digest: Digest) -> String {
        format!("{}uploads/{upload}/blobs/{}", prefix(instance), path(digest))
    }
}

/// `[FUNCTION/]HASH/SIZE`; SHA-256 goes without saying.
pub fn path(digest: Digest) -> String {
    match digest.function() {
        DigestFunction::Sha256 => digest.to_string(),
        function => format!("{function}/{digest}"),
    }
}

fn prefix(instance: &InstanceName) -> String {
    if instance.as_str().is_empty() { String::new() } else { format!("{instance}/") }
}

fn malformed(name: &str, why: &str, shape: &str) -> Error {
    let shown: String = name.chars().take(200).collect();
    Error::invalid(
        "resource_name",
        format!("resource name `{}`: {why}; expected `{shape}`", shown.escape_debug()),
    )
}

fn parse(name: &str, shape: &'static str) -> Result<Resource> {
    // Some clients begin with a slash where their instance is empty.
    let segments: Vec<&str> = name.strip_prefix('/').unwrap_or(name).split('/').collect();
    let is_start = |segment: &&str| ["blobs", "compressed-blobs", "uploads"].contains(segment);
    let start =
        segments.iter().position(is_start).ok_or_else(|| malformed(name, "it names no blob", shape))?;
    let instance = InstanceName::parse(&segments[..start].join("/"))?;
    let mut rest = segments[start..].iter().copied();
    let mut next = || rest.next().ok_or_else(|| malformed(name, "it ends too early", shape));

    let mut keyword = next()?;
    let mut upload = None;
    if keyword == "uploads" {
        upload = Some(next()?.to_owned()).filter(|id| !id.is_empty());
        if upload.is_none() {
            return Err(malformed(name, "the upload has no id", shape));
        }
        keyword = next()?;
    }
    let encoding = match keyword {
        "blobs" => Encoding::Identity,
        "compressed-blobs" => encoding(next()?)?,
        other => return Err(malformed(name, &format!("`{other}` is unexpected"), shape)),
    };
    let mut hash = next()?;
    let mut function = DigestFunction::Sha256;
    if !hash.is_empty() && hash.len() < 32 {
        function = hash.parse()?;
        hash = next()?;
    }
    let size = next()?;
    let size = size.parse().map_err(|_| malformed(name, &format!("`{size}` is no size"), shape))?;
    let digest =
        Digest::parse(function, hash, size).map_err(|error| malformed(name, &error.to_string(), shape))?;
    if upload.is_none() && rest.next().is_some() {
        return Err(malformed(name, "something follows the size", shape));
    }
    Ok(Resource { instance, upload, digest, encoding })
}

fn encoding(compressor: &str) -> Result<Encoding> {
    match compressor {
        "identity" => Ok(Encoding::Identity),
        "zstd" => Ok(Encoding::Zstd),
        other => Err(Error::invalid("resource_name", format!("the compressor `{other}` is not served"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn names_that_clients_send() {
        let digest = |function| Digest::parse(function, HASH, 3).unwrap();
        let (sha, blake) = (digest(DigestFunction::Sha256), digest(DigestFunction::Blake3));
        for (name, instance, digest, encoding) in [
            (format!("blobs/{HASH}/3"), "", sha, Encoding::Identity),
            (format!("/blobs/{HASH}/3"), "", sha, Encoding::Identity),
            (format!("a/b/blobs/{HASH}/3"), "a/b", sha, Encoding::Identity),
            (format!("main/blobs/blake3/{HASH}/3"), "main", blake, Encoding::Identity),
            (format!("compressed-blobs/zstd/{HASH}/3"), "", sha, Encoding::Zstd),
            (format!("compressed-blobs/zstd/blake3/{HASH}/3"), "", blake, Encoding::Zstd),
        ] {
            let expected =
                Resource { instance: InstanceName::parse(instance).unwrap(), upload: None, digest, encoding };
            assert_eq!(Resource::parse_read(&name).unwrap(), expected, "{name}");
            if instance.is_empty() {
                let upload = format!("uploads/u-1/{}/meta/data", name.trim_start_matches('/'));
                assert_eq!(
                    Resource::parse_write(&upload).unwrap(),
                    Resource { upload: Some("u-1".into()), ..expected },
                    "{upload}"
                );
            }
        }
        let named =
            Resource::parse_write(&Resource::write_name(&InstanceName::parse("x").unwrap(), "u", blake))
                .unwrap();
        assert_eq!((named.digest, named.instance.as_str()), (blake, "x"));
        let instance = InstanceName::parse("x").unwrap();
        for named in [
            Resource::parse_read(&Resource::zstd_read_name(&instance, blake)).unwrap(),
            Resource::parse_write(&Resource::zstd_write_name(&instance, "u", blake)).unwrap(),
        ] {
            assert_eq!(
                (named.digest, named.instance, named.encoding),
                (blake, instance.clone(), Encoding::Zstd)
            );
        }
    }

    #[test]
    fn malformed_names_tell_what_was_expected() {
        for (name, needle) in [
            ("", "names no blob"),
            ("blobs", "ends too early"),
            ("blobs/", "ends too early"),
            ("blobs/xyz/3", "`xyz`"),
            (&format!("blobs/{HASH}"), "ends too early"),
            (&format!("blobs/{HASH}/three"), "no size"),
            (&format!("blobs/{HASH}/-3"), "-3"),
            (&format!("blobs/{HASH}/3/x"), "follows the size"),
            (&format!("uploads/u/blobs/{HASH}/3"), "cannot be read"),
            (&format!("blobs/md5/{HASH}/3"), "md5"),
            (&format!("compressed-blobs/brotli/{HASH}/3"), "brotli"),
            (&format!("a/../blobs/{HASH}/3"), ".."),
        ] {
            let error = Resource::parse_read(name).unwrap_err().to_string();
            assert!(error.contains(needle), "{name}: {error}");
        }
        for name in
            [format!("blobs/{HASH}/3"), format!("uploads//blobs/{HASH}/3"), format!("uploads/u/{HASH}/3")]
        {
            assert!(Resource::parse_write(&name).is_err(), "{name}");
        }
    }
}
