//! How actions name the image that they run in, and how workers tell which they have: the exec property
//! `container-image`. The image itself is the worker's business.

use crate::{Error, Platform, Property, Result};

/// The property that names an image.
pub const PROPERTY: &str = "container-image";

/// An image as it is asked for: by name, or by digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReference {
    /// Such as `debian:12` or `registry.example/tools/gcc`; never empty.
    pub name: String,
    /// The SHA-256, in hexadecimal. The tag in the name says nothing then.
    pub digest: Option<String>,
}

impl ImageReference {
    /// Reads `NAME`, `NAME:TAG`, `NAME@sha256:…`, or one of these after `docker://`.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let message = format!(
                "`{text}` names no image: {why}; expected `NAME`, `NAME@sha256:…`, `docker://NAME:TAG` or \
                 `docker://NAME@sha256:…`"
            );
            Error::invalid(PROPERTY, message)
        };
        let rest = text.strip_prefix(SCHEME).unwrap_or(text);
        let (name, digest) = match rest.split_once('@') {
            None => (rest, None),
            Some((name, digest)) => {
                let hash = digest.strip_prefix("sha256:").filter(|hash| is_hash(hash));
                (name, Some(hash.ok_or_else(|| refuse("the digest is no SHA-256"))?.to_owned()))
            }
        };
        check_name(name).map_err(|why| refuse(&why))?;
        // What has no tag has this one, wherever images have tags.
        let name = name.strip_suffix(":latest").unwrap_or(name).to_owned();
        Ok(Self { name, digest })
    }

    /// The one spelling that all spellings of it have in common.
    pub fn canonical(&self) -> String {
        match &self.digest {
            Some(digest) => format!("{}@sha256:{digest}", untagged(&self.name)),
            None => self.name.clone(),
        }
    }

    /// Whether an image of this name and digest is what is asked for.
    pub fn is_met_by(&self, name: &str, digest: &str) -> bool {
        match &self.digest {
            Some(wanted) => wanted == digest && untagged(name) == untagged(&self.name),
            None => name == self.name,
        }
    }
}

/// What is asked for, or offered, in canonical spelling. A value that names no image stays as it is, and is matched so.
pub fn canonical(platform: &Platform) -> Platform {
    let value = |property: &Property| match ImageReference::parse(&property.value) {
        Ok(image) if property.name == PROPERTY => image.canonical(),
        _ => property.value.clone(),
    };
    Platform::new(platform.properties.iter().map(|property| (property.name.clone(), value(property))))
}

/// What a worker offers that has these images, as `NAME@sha256:…` or `NAME` each, besides what it says itself.
pub fn offered(platform: &Platform, images: &[String]) -> Platform {
    let mut all = canonical(platform).properties;
    for image in images {
        // The name by itself is offered too: the announcement tells what is behind it.
        let Some((name, _)) = image.split_once('@') else {
            all.push(Property { name: PROPERTY.into(), value: image.clone() });
            continue;
        };
        let by_digest =
            ImageReference::parse(image).map_or_else(|_| image.clone(), |image| image.canonical());
        all.extend([name.to_owned(), by_digest].map(|value| Property { name: PROPERTY.into(), value }));
    }
    all.sort();
    all.dedup();
    Platform { properties: all }
}

const SCHEME: &str = "docker://";
const LONGEST: usize = 200;

/// A name without its tag. A port stands before a slash.
fn untagged(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    }
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn check_name(name: &str) -> Result<(), String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:+".contains(&byte);
    if name.is_empty() {
        Err("there is no name".into())
    } else if name.len() > LONGEST {
        Err(format!("the name is longer than {LONGEST} bytes"))
    } else if !name.bytes().all(known) {
        Err("the name may hold letters, digits and `._-/:+`".into())
    } else if name.split(['/', ':']).any(|part| part.is_empty() || part.starts_with('.')) {
        Err("a part of the name is empty or begins with a dot".into())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn spellings_of_one_image_are_one() {
        let at = |name: &str| format!("{name}@sha256:{HASH}");
        for (spelling, canonical) in [
            ("debian".to_owned(), "debian".to_owned()),
            ("debian:latest".into(), "debian".into()),
            ("docker://debian:12".into(), "debian:12".into()),
            ("docker://host:5000/a/b".into(), "host:5000/a/b".into()),
            (at("debian"), at("debian")),
            (format!("docker://{}", at("debian:12")), at("debian")),
            (at("host:5000/a"), at("host:5000/a")),
        ] {
            assert_eq!(ImageReference::parse(&spelling).unwrap().canonical(), canonical, "{spelling}");
        }
    }

    #[test]
    fn what_names_no_image_is_refused() {
        let bad = ["", "docker://", "*", "a b", "../a", "a//b", "a:", ".a", "a@sha256:12", "a@md5:12", "/a"];
        for bad in bad.into_iter().chain([&*"x".repeat(201)]) {
            assert!(ImageReference::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn images_are_offered_in_each_spelling() {
        let platform =
            |values: &[&str]| Platform::new(values.iter().map(|value| (PROPERTY.into(), (*value).into())));
        let offer =
            offered(&platform(&["docker://own"]), &[format!("debian:12@sha256:{HASH}"), "old".into()]);
        let other = HASH.replace('e', "f");
        for (asked, is_met) in [
            ("debian:12", true),
            ("docker://debian:12", true),
            (&*format!("docker://debian@sha256:{HASH}"), true),
            (&*format!("debian:13@sha256:{HASH}"), true),
            (&*format!("debian@sha256:{other}"), false),
            ("own", true),
            ("old", true),
            ("debian", false),
            ("*", false),
        ] {
            let asked_for = canonical(&platform(&[asked]));
            assert_eq!(asked_for.unmet_by(&offer).next().is_none(), is_met, "{asked}");
        }
    }

    #[test]
    fn by_digest_the_tag_says_nothing() {
        let asked = ImageReference::parse(&format!("a:1@sha256:{HASH}")).unwrap();
        assert!(asked.is_met_by("a:2", HASH) && !asked.is_met_by("b", HASH) && !asked.is_met_by("a:1", ""));
        let asked = ImageReference::parse("a:1").unwrap();
        assert!(asked.is_met_by("a:1", HASH) && !asked.is_met_by("a:2", HASH));
    }
}
