//! Images as other tools write them: an OCI layout (a directory, or one in an archive), and what `docker save` wrote
//! before it wrote those too. Everything that is named by a digest is checked against it before it is used.

use super::{
    archive::{Archive, decompress},
    tree::Tree,
};
use mortar_model::{Error, Kind, Result};
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The file by which an OCI layout is known, and the list of its images.
pub const MARK: &str = "oci-layout";
const INDEX: &str = "index.json";
/// The same of `docker save`.
pub const SAVED: &str = "manifest.json";
/// Messages that are larger are none.
const LARGEST: u64 = 4 << 20;
/// Indices within each other.
const DEEPEST: usize = 4;

/// An image that is in a layout.
#[derive(Debug)]
pub struct Found {
    /// SHA-256 of its manifest, or of its configuration where there is no manifest.
    pub digest: String,
    /// The lowest first.
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    path: PathBuf,
    digest: String,
    /// Whether the digest is of what is compressed in it.
    unpacked: bool,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    platform: Option<Platform>,
}

#[derive(Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// A manifest of an image, or another index.
#[derive(Deserialize)]
struct Manifest {
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: PathBuf,
    layers: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Configuration {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl Found {
    /// The image for this machine in an OCI layout.
    pub fn in_layout(layout: &Tree) -> Result<Self> {
        let Index { mut manifests } = json(&read(layout, Path::new(INDEX))?, INDEX)?;
        for _ in 0..DEEPEST {
            let chosen = choose(&manifests)?;
            let hash = sha256(&chosen.digest)?;
            let bytes = read(layout, &blob(hash))?;
            let actual = hex(&Sha256::digest(&bytes));
            check(&chosen.digest, hash, &actual)?;
            let manifest: Manifest = json(&bytes, &chosen.digest)?;
            if let Some(layers) = manifest.layers {
                let layer = |layer: &Descriptor| {
                    let hash = sha256(&layer.digest)?;
                    Ok(Layer { path: blob(hash), digest: hash.into(), unpacked: false })
                };
                let layers = layers.iter().map(layer).collect::<Result<_>>()?;
                return Ok(Self { digest: hash.into(), layers });
            }
            manifests = manifest.manifests.unwrap_or_default();
        }
        Err(refuse(format!("more than {DEEPEST} indices lie within each other")))
    }

    /// The image that `docker save` wrote.
    pub fn saved(layout: &Tree) -> Result<Self> {
        let saved: Vec<Saved> = json(&read(layout, Path::new(SAVED))?, SAVED)?;
        let [saved] = &saved[..] else {
            return Err(refuse(format!("it holds {} images; expected one", saved.len())));
        };
        let bytes = read(layout, &saved.config)?;
        let digest = hex(&Sha256::digest(&bytes));
        // It is named by its digest: `HASH.json` or `blobs/sha256/HASH`.
        let named = saved.config.file_stem().unwrap_or_default().to_string_lossy();
        check(&saved.config.to_string_lossy(), &named, &digest)?;
        let configuration: Configuration = json(&bytes, &saved.config.to_string_lossy())?;
        let ids = configuration.rootfs.diff_ids;
        if ids.len() != saved.layers.len() {
            let (ids, layers) = (ids.len(), saved.layers.len());
            return Err(refuse(format!("it has {layers} layers, and digests of {ids}")));
        }
        let layer = |(path, id): (&PathBuf, &String)| {
            Ok(Layer { path: path.clone(), digest: sha256(id)?.into(), unpacked: true })
        };
        let layers = saved.layers.iter().zip(&ids).map(layer).collect::<Result<_>>()?;
        Ok(Self { digest, layers })
    }

    /// Checks all layers and unpacks them over each other. How many devices, pipes and sockets were left out.
    pub fn unpack(&self, layout: &Tree, tree: &Tree) -> Result<u64> {
        let mut skipped = 0;
        for layer in &self.layers {
            let name = layer.path.display().to_string();
            let failed = |error| Error::io(format!("read the layer `{name}`"), error);
            let mut file = layout.read(&layer.path)?;
            let actual = if layer.unpacked {
                let mut content = decompress(&mut file).map_err(failed)?;
                hash(&mut content)
            } else {
                hash(&mut file)
            };
            check(&name, &layer.digest, &actual.map_err(failed)?)?;
            skipped += Archive::new(file, name).unpack_layer(tree)?;
        }
        Ok(skipped)
    }
}

/// The one image, or else the one for this machine.
fn choose(manifests: &[Descriptor]) -> Result<Descriptor> {
    if let [one] = manifests {
        return Ok(one.clone());
    }
    let ours = |manifest: &&Descriptor| {
        let platform = manifest.platform.as_ref();
        platform.is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture())
    };
    let ours: Vec<_> = manifests.iter().filter(ours).collect();
    match &ours[..] {
        [one] => Ok((*one).clone()),
        _ => {
            let all: Vec<_> = manifests.iter().map(|manifest| format!("`{}`", manifest.media_type)).collect();
            let (of, all) = (manifests.len(), all.join(", "));
            let (found, architecture) = (ours.len(), architecture());
            Err(refuse(format!(
                "{found} of its {of} manifests ({all}) are for linux/{architecture}; expected one"
            )))
        }
    }
}

/// This machine's, as images call it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn blob(hash: &str) -> PathBuf {
    Path::new("blobs/sha256").join(hash)
}

fn read(layout: &Tree, path: &Path) -> Result<Vec<u8>> {
    let (mut bytes, file) = (Vec::new(), layout.read(path)?);
    let failed = |error| Error::io(format!("read `{}`", path.display()), error);
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(refuse(format!("`{}` is larger than {LARGEST} bytes", path.display())));
    }
    Ok(bytes)
}

fn json<T: DeserializeOwned>(bytes: &[u8], name: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| refuse(format!("`{name}` cannot be read: {error}")))
}

fn check(what: &str, expected: &str, actual: &str) -> Result<()> {
    if expected == actual {
        return Ok(());
    }
    Err(refuse(format!("`{what}` does not have its digest: expected {expected}, got {actual}")))
}

fn sha256(digest: &str) -> Result<&str> {
    let is_hash = |hash: &&str| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    let hash = digest.strip_prefix("sha256:").filter(is_hash);
    hash.ok_or_else(|| refuse(format!("the digest `{digest}` is no SHA-256")))
}

fn refuse(why: String) -> Error {
    Error::new(Kind::FailedPrecondition { message: format!("the image cannot be imported: {why}") })
}

/// The SHA-256 of a file from its beginning.
pub fn hash_file(file: &mut File) -> io::Result<String> {
    io::Seek::rewind(file)?;
    hash(file)
}

fn hash(content: &mut dyn Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// In hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all that is written");
        text
    })
}
