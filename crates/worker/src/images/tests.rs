use super::*;
use mortar_model::{Platform, image};
use sha2::{Digest, Sha256};
use std::{
    io::Write,
    os::unix::fs::{MetadataExt, symlink},
};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// A store, and a place for sources.
struct Case {
    images: Images,
    place: TempDir,
}

/// What is in an archive: kind, path, content or target, mode.
type Entries<'a> = &'a [(EntryType, &'a str, &'a str, u32)];

use EntryType::{Directory as D, Link as H, Regular as F, Symlink as L};

/// Writes names as they are, also those that no archiver would write.
fn tar(entries: Entries<'_>) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, path, content, mode) in entries {
        let mut header = Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_mtime(1_000_000_000);
        let is_link = matches!(kind, L | H);
        if is_link {
            header.set_link_name_literal(content).unwrap();
        }
        let body = if is_link { "" } else { content };
        header.set_size(body.len() as u64);
        header.set_cksum();
        builder.append(&header, body.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn sha(bytes: &[u8]) -> String {
    layout::hex(&Sha256::digest(bytes))
}

impl Case {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("outside"), "outside").unwrap();
        Self { images: Images::new(place.path().join("images")), place }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.place.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn import(&self, bytes: &[u8]) -> Result<Imported> {
        self.images.import(&self.write("source.tar", bytes), "image")
    }

    fn root(&self) -> PathBuf {
        let found = self.images.find(&ImageReference::parse("image").unwrap()).unwrap();
        found.unwrap().root().to_owned()
    }

    /// A blob of an OCI layout in `layout`; its digest.
    fn blob(&self, bytes: &[u8]) -> String {
        let hash = sha(bytes);
        self.write(&format!("layout/blobs/sha256/{hash}"), bytes);
        format!("sha256:{hash}")
    }

    /// An OCI layout of these layers; the digest of its manifest.
    fn layout(&self, layers: &[Vec<u8>]) -> String {
        let layers: Vec<_> =
            layers.iter().map(|layer| format!(r#"{{"digest":"{}"}}"#, self.blob(layer))).collect();
        let manifest = self.blob(format!(r#"{{"layers":[{}]}}"#, layers.join(",")).as_bytes());
        let other = self.blob(br#"{"layers":[]}"#);
        let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let one = |digest: &str, architecture: &str| {
            format!(r#"{{"digest":"{digest}","platform":{{"os":"linux","architecture":"{architecture}"}}}}"#)
        };
        let index = format!(r#"{{"manifests":[{},{}]}}"#, one(&other, "mips"), one(&manifest, architecture));
        let index = self.blob(index.as_bytes());
        self.write("layout/index.json", format!(r#"{{"manifests":[{{"digest":"{index}"}}]}}"#));
        self.write("layout/oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        manifest
    }
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn archives_are_unpacked_whatever_their_compression() {
    let plain = tar(&[
        (D, "./", "", 0o755),
        (D, "usr/bin/", "", 0o555),
        (F, "usr/bin/tool", "#!tool", 0o4755),
        (L, "bin", "usr/bin", 0o777),
        (F, "bin/second", "second", 0o644),
        (H, "usr/bin/again", "./usr/bin/tool", 0o644),
    ]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    for bytes in [plain.clone(), gzip.finish().unwrap(), zstd::encode_all(&*plain, 1).unwrap()] {
        let case = Case::new();
        let imported = case.import(&bytes).unwrap();
        assert_eq!((imported.digest, imported.skipped), (sha(&bytes), 0));
        let tool = fs::metadata(case.root().join("usr/bin/tool")).unwrap();
        assert_eq!((tool.mode() & 0o7777, tool.mtime(), tool.nlink()), (0o755, 1_000_000_000, 2));
        assert_eq!(text(case.root().join("usr/bin/second")), "second", "through the link, inside");
        assert_eq!(fs::metadata(case.root()).unwrap().mode() & 0o777, 0o755);
    }
}

#[test]
fn nothing_is_written_or_linked_outside() {
    let case = Case::new();
    let outside = case.place.path().display().to_string();
    let up = "../".repeat(20);
    let cases: &[Entries<'_>] = &[
        &[(F, "../outside", "x", 0o644)],
        &[(F, "a/../../outside", "x", 0o644)],
        &[(L, "away", &outside, 0o777), (F, "away/outside", "x", 0o644)],
        &[(L, "away", &up, 0o777), (F, &format!("away{outside}/outside"), "x", 0o644)],
        &[(L, "link", &format!("{outside}/outside"), 0o777), (F, "link", "x", 0o644)],
        &[(H, "link", &format!("{outside}/outside"), 0o644), (F, "link", "x", 0o644)],
        &[(L, "away", &outside, 0o777), (H, "link", "away/outside", 0o644)],
        &[(H, "link", "../../../outside", 0o644)],
        &[(L, "away", &outside, 0o777), (D, "away", "", 0o777)],
    ];
    for entries in cases {
        let imported = case.import(&tar(entries));
        assert_eq!(text(case.place.path().join("outside")), "outside", "{entries:?}: {imported:?}");
        assert_eq!(fs::metadata(case.place.path().join("outside")).unwrap().nlink(), 1, "{entries:?}");
        assert!(!case.images.directory.join(INCOMING).exists());
        if imported.is_ok() {
            let inside = case.root().join("link");
            assert!(fs::symlink_metadata(&inside).is_ok_and(|link| !link.is_symlink()) || !inside.exists());
        }
    }
    let refused = case.import(&tar(cases[0])).unwrap_err().to_string();
    assert!(refused.contains("`../outside`") && refused.contains("leaves the root"), "{refused}");
}

#[test]
fn devices_are_left_out() {
    let case = Case::new();
    let entries =
        [(EntryType::Char, "dev/null", "", 0o666), (EntryType::Fifo, "pipe", "", 0o644), (F, "file", "x", 0)];
    assert_eq!(case.import(&tar(&entries)).unwrap().skipped, 2);
    assert_eq!(fs::read_dir(case.root()).unwrap().count(), 1);
}

#[test]
fn what_is_damaged_is_not_imported() {
    let case = Case::new();
    let whole = zstd::encode_all(&*tar(&[(F, "file", &"x".repeat(10_000), 0o644)]), 1).unwrap();
    for bytes in
        [&whole[..whole.len() - 3], b"no archive, but long enough to be read as the header of one".as_slice()]
    {
        case.import(bytes).unwrap_err();
        assert!(case.images.list().unwrap().is_empty());
    }
}

#[test]
fn layers_lie_over_each_other() {
    let layers = [
        tar(&[
            (F, "kept/below", "1", 0o644),
            (F, "gone", "1", 0o644),
            (F, "opaque/below", "1", 0o644),
            (F, "opaque/both", "1", 0o644),
            (F, "tree/deep/file", "1", 0o644),
            (F, "file-then-directory", "1", 0o644),
        ]),
        // Within a layer the order says nothing: what it removes is of the layers below it.
        tar(&[
            (F, "opaque/both", "2", 0o644),
            (F, "opaque/.wh..wh..opq", "", 0o644),
            (F, ".wh.gone", "", 0o644),
            (F, ".wh.tree", "", 0o644),
            (F, ".wh.never-there", "", 0o644),
            (F, "file-then-directory/file", "2", 0o644),
            (F, ".wh.file-then-directory", "", 0o644),
        ]),
    ];
    let packed: Vec<_> = layers.iter().map(|layer| zstd::encode_all(&**layer, 1).unwrap()).collect();
    let case = Case::new();
    let manifest = case.layout(&packed);
    let layout = case.place.path().join("layout");
    let mut archive = Builder::new(Vec::new());
    archive.append_dir_all(".", &layout).unwrap();
    let archive = case.write("layout.tar", archive.into_inner().unwrap());
    for source in [layout, archive] {
        let imported = case.images.import(&source, "image").unwrap();
        assert_eq!(format!("sha256:{}", imported.digest), manifest);
        let read = |path: &str| fs::read_to_string(case.root().join(path)).ok();
        assert_eq!(read("kept/below").as_deref(), Some("1"));
        assert_eq!(read("opaque/both").as_deref(), Some("2"));
        assert_eq!(read("file-then-directory/file").as_deref(), Some("2"));
        let mut names: Vec<_> =
            fs::read_dir(case.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["file-then-directory", "kept", "opaque"]);
        assert_eq!(fs::read_dir(case.root().join("opaque")).unwrap().count(), 1);
        case.images.remove("image").unwrap();
    }
}

#[test]
fn whiteouts_stay_inside() {
    let case = Case::new();
    let outside = case.place.path().display().to_string();
    let below = tar(&[(L, "away", &outside, 0o777)]);
    for above in ["away/.wh.outside", "away/.wh..wh..opq", "away/.wh...", ".wh..", ".wh."] {
        case.layout(&[below.clone(), tar(&[(F, above, "", 0o644)])]);
        case.images.import(&case.place.path().join("layout"), "image").ok();
        assert_eq!(text(case.place.path().join("outside")), "outside", "{above}");
    }
}

#[test]
fn digests_are_checked() {
    let case = Case::new();
    let layer = tar(&[(F, "file", "x", 0o644)]);
    let manifest = case.layout(std::slice::from_ref(&layer));
    let blob = |hash: &str| format!("layout/blobs/sha256/{hash}");
    let import = || case.images.import(&case.place.path().join("layout"), "image");
    import().unwrap();
    let mut changed = layer.clone();
    changed[600] ^= 1;
    case.write(&blob(&sha(&layer)), &changed);
    let error = import().unwrap_err().to_string();
    assert!(error.contains(&sha(&layer)) && error.contains(&sha(&changed)), "{error}");
    case.write(&blob(&sha(&layer)), &layer);
    case.write(&blob(manifest.strip_prefix("sha256:").unwrap()), "{}");
    assert!(import().unwrap_err().to_string().contains("does not have its digest"));
}

#[test]
fn what_docker_saved_is_known_by_its_configuration() {
    let layer = tar(&[(F, "file", "x", 0o644)]);
    let save = |case: &Case, id: &str| {
        let config = format!(r#"{{"rootfs":{{"diff_ids":["sha256:{id}"]}}}}"#);
        let name = format!("{}.json", sha(config.as_bytes()));
        let manifest = format!(r#"[{{"Config":"{name}","Layers":["first/layer.tar"]}}]"#);
        let mut archive = Builder::new(Vec::new());
        for (path, bytes) in
            [(&*name, config.as_bytes()), ("first/layer.tar", &layer), ("manifest.json", manifest.as_bytes())]
        {
            let mut header = Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, bytes).unwrap();
        }
        (sha(config.as_bytes()), case.import(&archive.into_inner().unwrap()))
    };
    let case = Case::new();
    let (digest, imported) = save(&case, &sha(&layer));
    assert_eq!(imported.unwrap().digest, digest);
    assert_eq!(text(case.root().join("file")), "x");
    let (_, refused) = save(&case, &sha(b"another"));
    assert!(refused.unwrap_err().to_string().contains("does not have its digest"));
}

#[test]
fn directories_are_copied_and_named_by_what_they_hold() {
    let case = Case::new();
    let source = case.place.path().join("source");
    let file = case.write("source/usr/bin/tool", "tool");
    fs::set_permissions(&file, Permissions::from_mode(0o6755)).unwrap();
    fs::hard_link(&file, source.join("again")).unwrap();
    symlink("/etc/passwd", source.join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    let first = case.images.import(&source, "image").unwrap();
    assert_eq!(first.skipped, 1);
    let tool = fs::metadata(case.root().join("usr/bin/tool")).unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.nlink()), (0o755, 2));
    assert_eq!(fs::read_link(case.root().join("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(case.images.import(&source, "other").unwrap().digest, first.digest);
    case.write("source/new", "");
    assert_ne!(case.images.import(&source, "image").unwrap().digest, first.digest);
    assert_eq!(fs::read_dir(case.images.directory.join(BY_DIGEST)).unwrap().count(), 2);
}

#[test]
fn roots_go_with_their_last_name_once_nobody_uses_them() {
    let case = Case::new();
    let digest = case.import(&tar(&[(F, "file", "x", 0o644)])).unwrap().digest;
    case.images.import(&case.place.path().join("source.tar"), "a/b:1").unwrap();
    let all = case.images.announced().unwrap();
    assert_eq!(all, [format!("a/b:1@sha256:{digest}"), format!("image@sha256:{digest}")]);
    case.images.remove("image:latest").unwrap();
    assert!(case.images.remove("image").unwrap_err().to_string().contains("image `image`"));
    let by_digest = ImageReference::parse(&format!("docker://a/b@sha256:{digest}")).unwrap();
    let in_use = case.images.find(&by_digest).unwrap().unwrap();
    case.images.remove("a/b:1").unwrap();
    assert_eq!(text(in_use.root().join("file")), "x");
    assert!(case.images.find(&by_digest).unwrap().is_none());
    let root = in_use.root().to_owned();
    drop(in_use);
    case.import(&tar(&[])).unwrap();
    assert!(!root.exists());
}

#[test]
fn what_is_not_there_is_refused_with_what_is() {
    let case = Case::new();
    let platform = |value: &str| Platform::new([(image::PROPERTY.to_owned(), value.to_owned())]);
    let choose = |wanted: &str, offered: &str| choose(&case.images, &platform(wanted), &platform(offered));
    case.import(&tar(&[(F, "file", "x", 0o644)])).unwrap();
    assert!(choose("docker://image", "").unwrap().is_some());
    assert!(choose("docker://host:1", "host:1").unwrap().is_none(), "offered as it is: the host's files");
    assert!(choose("anything at all", "*").unwrap().is_none());
    assert!(super::choose(&case.images, &Platform::default(), &platform("")).unwrap().is_none());
    let error = choose("docker://debian:12", "").unwrap_err();
    assert!(matches!(error.kind(), Kind::FailedPrecondition { .. }));
    let told = error.to_string();
    for part in ["`docker://debian:12`", "`image@sha256:", "`mortar image import SOURCE debian:12`"] {
        assert!(told.contains(part), "{told}");
    }
    let two = Platform { properties: [platform("a"), platform("b")].map(|one| one.properties).concat() };
    assert!(super::choose(&case.images, &two, &platform("")).is_err());
}
