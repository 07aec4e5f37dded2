//! Large input roots are kept and shared between actions: what an action does to one, no other action ever sees.

use crate::{FUNCTION, Input, Inputs, Job, Lab, config, run};
use bytes::Bytes;
use mortar_model::{
    ActionResult, BlobStoreExt, Context, Digest, DigestSet, Directory, Forget, Kind, LocalFiles,
};
use mortar_store::{DiskConfig, DiskStore};
use mortar_wire::decode_tree;
use mortar_worker::CacheLimits;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The job with so many inputs more that its root is kept.
fn large(job: Job) -> Job {
    (0..120)
        .fold(job, |job, index| job.file(&format!("fill/d{}/f{index}", index % 10), &format!("{index}\n")))
}

const COUNT: &str = "find fill -type f | wc -l; cat fill/*/* | sort -n | tail -1";

/// Every file and directory of the cache: what it is, and what it holds.
fn cached(lab: &Lab) -> BTreeMap<PathBuf, (u32, u32, i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut pending = caches(lab);
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(path).unwrap().flatten() {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            if metadata.is_dir() {
                pending.push(path.clone());
            }
            let times = (metadata.mtime(), metadata.mtime_nsec());
            found.insert(path, (metadata.mode(), metadata.uid(), times.0, times.1, content));
        }
    }
    found
}

fn caches(lab: &Lab) -> Vec<PathBuf> {
    let processes = fs::read_dir(lab.directory.path().join("work")).unwrap().flatten();
    processes.map(|entry| entry.path().join("cache")).filter(|path| path.exists()).collect()
}

/// The roots that are kept.
fn roots(lab: &Lab) -> Vec<PathBuf> {
    let roots =
        caches(lab).into_iter().flat_map(|cache| fs::read_dir(cache.join("roots")).unwrap().flatten());
    roots.map(|entry| entry.path()).collect()
}

#[tokio::test]
async fn a_root_is_made_once_and_a_near_one_from_what_differs() {
    for lab in Lab::both().await {
        let job = large(Job::new(COUNT)).file("top", "1").input("link", Input::Link("top".into()));
        assert_eq!(lab.stdout(&job).await, "120\n119\n");
        let (bytes, inodes) = lab.worker.kept();
        assert!(inodes > 120 && bytes > 120 * 4096, "{bytes} {inodes}");
        assert_eq!(lab.stdout(&job).await, "120\n119\n");
        assert_eq!(lab.worker.kept(), (bytes, inodes));

        // One file changed, one added, one gone with its directory, one in the place of a directory.
        let script =
            "cat fill/d1/f1 fill/d1/new top link; ls fill | tr '\n' ' '; ls fill/d3 | wc -l; cat fill/d2";
        let mut near = large(Job::new(script)).file("fill/d1/f1", "changed ").file("fill/d1/new", "new ");
        near = near.file("top", "2 ").input("link", Input::Link("fill/d1/new".into()));
        let Some(Input::Directory(fill)) = near.inputs.entries.get_mut("fill") else { panic!() };
        fill.entries.remove("d9");
        fill.entries.remove("d2");
        if let Some(Input::Directory(directory)) = fill.entries.get_mut("d3") {
            directory.entries.remove("f3");
        }
        let near = near.file("fill/d2", "file\n");
        let expected = "changed new 2 new d0 d1 d2 d3 d4 d5 d6 d7 d8 11\nfile\n";
        assert_eq!(lab.stdout(&near).await, expected);
        assert!(lab.worker.kept().1 - inodes < 20, "only what differs was made");
        assert_eq!(lab.stdout(&near).await, expected);
        assert_eq!(lab.stdout(&job).await, "120\n119\n");
        assert_eq!(roots(&lab).len(), 2);
    }
}

#[tokio::test]
async fn all_files_of_equal_content_are_one() {
    let lab = Lab::memory().await;
    let same = (0..100)
        .fold(Job::new("stat -c '%h %a' d5/f5 d5/f50 | tr '\n' ' '; cat d5/f5"), |job, index| {
            job.file(&format!("d{}/f{index}", index % 10), "same")
        });
    let plain = Input::File { content: Bytes::from_static(b"same"), is_executable: false, properties: None };
    let same = same.input("d5/f50", plain);
    assert_eq!(lab.stdout(&same).await, "100 555 1 444 same");
    assert!(lab.worker.kept().1 < 20);
}

/// Every way that a shell knows to change something, and some that are overlay's own.
const ATTACKS: [&str; 20] = [
    "echo evil > FILE",
    "echo evil >> FILE",
    "chmod 0777 FILE",
    "chmod 0777 $(dirname FILE)",
    "touch -d 2001-01-01 FILE",
    "truncate -s 0 FILE",
    "rm -f FILE",
    "rm -rf $(dirname FILE)",
    "mv FILE FILE.moved",
    "mv $(dirname FILE) $(dirname FILE).moved",
    "ln FILE out/linked && echo evil > out/linked",
    "cp --remove-destination /bin/true FILE",
    "exec 3<FILE; echo evil > /proc/self/fd/3",
    "exec 3<>FILE; echo evil >&3",
    "exec 3<FILE; chmod 0777 /proc/self/fd/3",
    "ln -s ../FILE out/link; echo evil > out/link",
    "mknod out/nothing c 0 0",
    "mount -o remount,rw /mortar/exec || umount /mortar/exec",
    "mkdir out/new; mount --bind out/new $(dirname FILE)",
    "unshare -Ur -m sh -c 'mount -o remount,rw,bind /mortar/exec; umount FILE; umount $(dirname FILE); echo x > FILE'",
];

#[tokio::test]
async fn without_a_cache_a_large_root_is_made_for_its_action_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&directory);
    config.cache = None;
    let store = DiskConfig { directory: directory.path().join("store"), max_size: 1 << 30 };
    let disk = DiskStore::open(store).unwrap();
    let lab = Lab::with(directory, config, disk.clone(), Some(disk)).await;
    for _ in 0..2 {
        assert_eq!(lab.stdout(&large(Job::new(COUNT))).await, "120\n119\n");
        assert_eq!((lab.worker.kept(), caches(&lab).len()), ((0, 0), 0));
    }
}

async fn unharmed(file: &str, outputs: &[&str]) {
    let lab = Lab::disk().await;
    let prepare = |script: &str| large(Job::new(script)).file(file, "good").paths(outputs);
    lab.ok(&prepare("true")).await;
    let before = cached(&lab);
    assert!(before.len() > 130);
    for attack in ATTACKS {
        let script = format!("set -e; {}", attack.replace("FILE", file));
        let outcome = lab.run(&prepare(&script)).await.unwrap();
        assert_ne!(outcome.result.exit_code, 0, "{attack} on {file}");
        assert!(cached(&lab) == before, "{attack} on {file} changed the cache");
        let see = format!("cat {file}; stat -c ' %a' {file}; {COUNT}");
        assert_eq!(lab.stdout(&prepare(&see)).await, "good 555\n120\n119\n", "{attack} on {file}");
    }
}

#[tokio::test]
async fn inputs_in_directories_without_outputs_stay_as_they_are() {
    unharmed("lib/in", &["out/made"]).await;
}

#[tokio::test]
async fn inputs_beside_outputs_stay_as_they_are() {
    unharmed("out/in/file", &["out/made"]).await;
}

#[tokio::test]
async fn inputs_beside_outputs_in_the_root_stay_as_they_are() {
    unharmed("in/file", &["made", "out/made"]).await;
}

#[tokio::test]
async fn an_input_in_the_place_of_an_output_is_a_copy() {
    let lab = Lab::disk().await;
    let prepare = |script: &str| large(Job::new(script)).file("out/f", "old").paths(&["out/f", "out/g"]);
    lab.ok(&prepare("true")).await;
    let before = cached(&lab);
    let result = lab.ok(&prepare("cat out/f; ln out/f out/g; echo new > out/g; chmod 700 out/f")).await;
    assert_eq!(lab.text(result.stdout_digest).await, "old");
    assert_eq!(lab.text(Some(result.files[0].digest)).await, "new\n");
    assert_eq!(result.files[0].digest, result.files[1].digest);
    let result = lab.ok(&prepare("rm out/f; mkdir out/f; echo x > out/f/x")).await;
    assert_eq!((result.files.len(), result.directories.len()), (0, 1));
    let result = lab.ok(&prepare("rm out/f")).await;
    assert!(result.files.is_empty(), "what is gone is no output");
    assert!(cached(&lab) == before);
    assert_eq!(lab.stdout(&prepare("cat out/f")).await, "old");
}

fn outputs(mut result: ActionResult) -> ActionResult {
    result.metadata = Default::default();
    result
}

#[tokio::test]
async fn outputs_are_the_same_over_a_kept_root() {
    let make = "mkdir -p out/dir/sub out/dir/same1; echo f > out/file; echo x > out/exec; chmod +x out/exec; \
        echo a > out/dir/a; echo b > out/dir/sub/b; echo s > out/dir/same1/s; ln -s ../file out/dir/link; \
        ln -s file out/link; ln -s dir out/dirlink; ln -s gone out/dangling; ln -s ../in out/inputs; \
        mkdir out/closed; echo c > out/closed/c; chmod 0 out/closed/c out/closed; echo n > in/dir/new; ln -s old in/dir/same";
    let paths = [
        "out/file",
        "out/exec",
        "out/dir",
        "out/link",
        "out/dirlink",
        "out/dangling",
        "out/none",
        "out/closed",
        "out/dirlink/a",
        "out/inputs/deep/er",
        "in/dir",
        "in/empty",
        "out/link/x",
    ];
    for lab in Lab::both().await {
        let prepare = |job: Job| {
            let job =
                job.file("in/dir/old", "old").file("in/dir/below/old", "old").file("in/deep/er", "deep");
            job.input("in/empty", Input::Directory(Inputs::default())).paths(&paths)
        };
        let small = lab.ok(&prepare(Job::new(make))).await;
        let kept = lab.ok(&prepare(large(Job::new(make)))).await;
        assert_eq!(outputs(small), outputs(kept.clone()));
        let inside = kept.directories.iter().find(|directory| directory.path == "in/dir").unwrap();
        let tree = decode_tree(FUNCTION, lab.get(inside.tree_digest.unwrap()).await).unwrap();
        assert_eq!(names(&tree.root), ["new", "old", "below", "same"]);
        let missing = lab.blobs.find_missing(&Context::internal(), &kept.named_blobs()).await.unwrap();
        assert!(missing.is_empty());
        assert!(lab.leftovers().is_empty());
    }
}

fn names(directory: &Directory) -> Vec<&str> {
    directory.names().collect()
}

#[tokio::test]
async fn a_declared_directory_may_be_made_anew_in_a_kept_root() {
    let lab = Lab::disk().await;
    // The directory is an input, so it is opaque when it was made anew; nothing of the input may show through.
    let script =
        "rmdir in/was; mkdir in/was; echo x > in/was/x; rmdir in/gone; rmdir in/file; echo f > in/file";
    let empty = || Input::Directory(Inputs::default());
    let job = ["was", "gone", "file"]
        .iter()
        .fold(large(Job::new(script)), |job, name| job.input(&format!("in/{name}"), empty()));
    let result = lab.ok(&job.paths(&["in/was", "in/gone", "in/file"])).await;
    let directories: Vec<_> = result.directories.iter().map(|found| found.path.as_str()).collect();
    assert_eq!(directories, ["in/was"]);
    assert_eq!(result.files[0].path, "in/file");
}

#[tokio::test]
async fn the_bounds_hold_and_the_least_recently_used_goes_first() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&directory);
    config.cache = Some(CacheLimits { bytes: 1 << 30, inodes: 400 });
    let store = DiskConfig { directory: directory.path().join("store"), max_size: 1 << 30 };
    let disk = DiskStore::open(store).unwrap();
    let lab = Lab::with(directory, config, disk.clone(), Some(disk)).await;
    // Each 131 inodes, with contents of their own.
    let job = |version: usize| {
        (0..120).fold(Job::new("cat */* | sort -u | wc -l"), |job, index| {
            job.file(&format!("d{}/f{index}", index % 10), &format!("{version} {index}\n"))
        })
    };
    for version in [0, 1, 2, 0, 3] {
        assert_eq!(lab.stdout(&job(version)).await, "120\n");
        assert!(lab.worker.kept().1 <= 400);
    }
    let full = lab.worker.kept();
    assert_eq!(full.1, 3 * 131);
    for version in [0, 3, 2] {
        assert_eq!(lab.stdout(&job(version)).await, "120\n");
        assert_eq!(lab.worker.kept(), full, "{version} was kept");
    }
    // What went is gone from the disk too, in a moment.
    crate::life::until(|| roots(&lab).len() == 3).await;
    crate::life::until(|| cached(&lab).values().filter(|file| file.4.len() > 1).count() == 360).await;
}

#[tokio::test]
async fn what_is_in_use_stays_beyond_the_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&directory);
    config.cache = Some(CacheLimits { bytes: 0, inodes: 0 });
    let store = DiskConfig { directory: directory.path().join("store"), max_size: 1 << 30 };
    let disk = DiskStore::open(store).unwrap();
    let lab = Arc::new(Lab::with(directory, config, disk.clone(), Some(disk)).await);
    let running = (0..4).map(|version| {
        let lab = lab.clone();
        async move {
            let job = large(Job::new(&format!("for i in 1 2 3; do {COUNT}; done")))
                .file("own", &format!("{version}"));
            assert_eq!(lab.stdout(&job).await, "120\n119\n".repeat(3));
        }
    });
    futures::future::join_all(running).await;
    let job = large(Job::new("true"));
    lab.ok(&job).await;
    // The last root goes with the next one that is made.
    assert!(lab.worker.kept().1 < 2 * 140, "{:?}", lab.worker.kept());
}

#[tokio::test]
async fn one_root_that_many_want_at_once_is_made_once() {
    let lab = Arc::new(Lab::disk().await);
    let action = lab.action(&large(Job::new(COUNT))).await;
    let runs = (0..6).map(|_| {
        let lab = lab.clone();
        async move { lab.worker.run(run(action), Arc::new(()), CancellationToken::new()).await.unwrap() }
    });
    for outcome in futures::future::join_all(runs).await {
        assert_eq!(lab.text(outcome.result.stdout_digest).await, "120\n119\n");
    }
    assert_eq!(roots(&lab).len(), 1);
}

#[tokio::test]
async fn what_is_missing_is_named_at_once_and_nothing_is_left() {
    let lab = Lab::disk().await;
    let job = large(Job::new("true"));
    let action = lab.action(&job).await;
    let gone: DigestSet = ["7\n", "77\n"].iter().map(|text| Digest::of(FUNCTION, text.as_bytes())).collect();
    for digest in gone.iter() {
        assert!(lab.disk.as_ref().unwrap().forget(&Context::internal(), digest).await.unwrap());
    }
    let again = || lab.worker.run(run(action), Arc::new(()), CancellationToken::new());
    let error = again().await.unwrap_err();
    let Kind::MissingBlobs { missing } = error.kind() else { panic!("{error}") };
    assert_eq!(missing.len(), 2);
    assert!(gone.iter().all(|digest| missing.contains(&digest)));
    assert_eq!(lab.worker.kept(), (0, 0));
    lab.action(&job).await;
    again().await.unwrap();
    assert_eq!(roots(&lab).len(), 1);
}

#[tokio::test]
async fn a_cancelled_action_leaves_no_half_of_a_root() {
    let lab = Lab::disk().await;
    let action = lab.action(&large(Job::new("true"))).await;
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let error = lab.worker.run(run(action), Arc::new(()), cancelled).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Cancelled { .. }), "{error}");
    assert_eq!(lab.worker.kept(), (0, 0));
    assert!(roots(&lab).is_empty());
}

/// Large enough to be a file of its own in the store, and lent as that.
fn big() -> String {
    "0123456789abcdef".repeat(20_000)
}

const BIG_SUM: &str = "sha256sum < big | cut -c 1-64";

#[tokio::test]
async fn a_large_blob_is_the_stores_own_file() {
    let lab = Lab::disk().await;
    let digest = Digest::of(FUNCTION, big().as_bytes());
    lab.ok(&large(Job::new("test $(stat -c %h big) = 2")).file("big", &big())).await;
    let file = lab.disk.as_ref().unwrap().local_file(&Context::internal(), digest).await.unwrap().unwrap();
    assert_eq!(fs::metadata(file.path()).unwrap().nlink(), 2, "the store's and the root's");
}

#[tokio::test]
async fn what_the_store_found_damaged_is_not_used_again() {
    let lab = Lab::disk().await;
    let disk = lab.disk.clone().unwrap();
    let (content, context) = (big(), Context::internal());
    let digest = Digest::of(FUNCTION, content.as_bytes());
    let sound = format!("{}\n", digest.hex());
    let job = |own: &str| large(Job::new(BIG_SUM)).file("big", &content).file("own", own);
    assert_eq!(lab.stdout(&job("1")).await, sound);
    assert_eq!(lab.stdout(&job("2")).await, sound);

    let path = disk.local_file(&context, digest).await.unwrap().unwrap().path().to_owned();
    flip(&path);
    assert!(disk.read_all(&context, digest, 1 << 30).await.is_err());
    let quarantined = disk.stats().quarantined;
    assert_eq!(quarantined, 1);
    for own in ["1", "2", "3"] {
        assert_eq!(lab.stdout(&job(own)).await, sound, "the client sent it anew, so it is right again");
    }
}

/// Damages the content of a file as a disk does: nothing else tells of it.
fn flip(path: &Path) {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let times = fs::metadata(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"X", 5).unwrap();
    file.set_modified(times.modified().unwrap()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o555)).unwrap();
}

#[tokio::test]
async fn what_was_changed_behind_the_workers_back_is_made_anew() {
    let lab = Lab::disk().await;
    let job = large(Job::new(&format!("cat own; {COUNT}"))).file("own", "mine\n");
    lab.ok(&job).await;
    fs::remove_dir_all(&roots(&lab)[0]).unwrap();
    assert_eq!(lab.stdout(&job).await, "mine\n120\n119\n");

    // A file that is another one now is not linked to.
    let file = roots(&lab)[0].join("own");
    assert_eq!(fs::read(&file).unwrap(), b"mine\n");
    fs::remove_file(&file).unwrap();
    fs::write(&file, "evil").unwrap();
    // So different that it is not made from the other one.
    let far = (0..120).fold(Job::new("cat own x/y/own fill/d/f"), |job, index| {
        job.file(&format!("other{index}/d/f"), &format!("far {index}\n"))
    });
    let far = far.file("own", "mine\n").file("x/y/own", "mine\n").file("fill/d/f", "77\n");
    assert_eq!(lab.stdout(&far).await, "mine\nmine\n77\n");
    assert_eq!(roots(&lab).len(), 2);
}

#[tokio::test]
async fn attributes_are_this_actions_own() {
    let lab = Lab::disk().await;
    let properties = mortar_model::NodeProperties {
        mtime: Some(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000)),
        unix_mode: Some(0o640),
        other: Vec::new(),
    };
    let file =
        Input::File { content: Bytes::from_static(b"x"), is_executable: true, properties: Some(properties) };
    let job = large(Job::new("stat -c '%a %Y' f; cat f")).input("f", file);
    assert_eq!(lab.stdout(&job).await, "640 1000000\nx");
    assert_eq!(lab.worker.kept(), (0, 0));
}
