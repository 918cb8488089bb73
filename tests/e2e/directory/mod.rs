//! Directories: what is stored of a tree, what comes back, and what a restore refuses.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay::component::directory::{DirectoryOptions, DirectoryRestorer, DirectorySource};
use backstay::component::{
    ByteStream, ComponentError, Destination, RestoreOptions, Restored, Restorer, RunContext, Source, Staged, StoredComponent,
};
use backstay::manifest::{Artifact, Component, ComponentStatus, Encoding, Facts, Format, Kind};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags, lsetxattr, makedev, mknodat, utimensat};
use tokio::io::AsyncReadExt;

mod fingerprint;
pub mod hostile;
mod mounts;
mod restore;
mod source;

fn options(path: &Path) -> DirectoryOptions {
    DirectoryOptions::new("media".parse().expect("valid"), path.to_owned())
}

/// A tree that was read to its end.
struct Taken {
    tar: Vec<u8>,
    facts: Facts,
    warnings: Vec<String>,
    fingerprint: Option<serde_json::Value>,
}

async fn open(options: DirectoryOptions, run: &RunContext) -> Result<ByteStream, ComponentError> {
    let mut artifacts = DirectorySource::new(options).open(run).await?;
    assert_eq!(artifacts.len(), 1);
    let artifact = artifacts.remove(0);
    assert_eq!((artifact.file.as_str(), artifact.format), ("media.tar", Format::Tar));
    artifact.open.await
}

async fn take(options: DirectoryOptions) -> io::Result<Taken> {
    let run = RunContext::default();
    let mut stream = open(options, &run).await.expect("the root can be opened");
    let mut tar = Vec::new();
    stream.read_to_end(&mut tar).await?;
    let (facts, warnings) = run.notes.take();
    Ok(Taken { tar, facts, warnings, fingerprint: run.notes.take_fingerprint() })
}

/// The archive that is made of a tree.
pub async fn tar_of(root: &Path) -> Vec<u8> {
    take(options(root)).await.expect("read").tar
}

/// What a manifest says of an archive whose bytes `open` gives.
fn stored_as(raw_bytes: usize, facts: Facts, open: impl Fn() -> ByteStream + Send + Sync + 'static) -> StoredComponent {
    let artifact = Artifact {
        path: "media/media.tar".parse().expect("valid"),
        format: Format::Tar,
        encoding: Encoding::None,
        encryption: None,
        database: None,
        raw_bytes: raw_bytes as u64,
        stored_bytes: raw_bytes as u64,
        sha256: String::new(),
        blake3: String::new(),
    };
    let component = Component {
        name: "media".parse().expect("valid"),
        kind: Kind::Directory,
        status: ComponentStatus::Complete,
        reason: None,
        seconds: 0.0,
        facts,
        warnings: Vec::new(),
        fingerprint: None,
        artifacts: vec![artifact],
    };
    StoredComponent {
        component,
        open: Arc::new(move |_| {
            let stream = open();
            Box::pin(async move { Ok(stream) })
        }),
    }
}

fn stored(taken: &Taken) -> StoredComponent {
    let tar: Arc<[u8]> = taken.tar.as_slice().into();
    let mut stored = stored_as(tar.len(), taken.facts.clone(), move || Box::new(io::Cursor::new(tar.clone())));
    stored.component.fingerprint.clone_from(&taken.fingerprint);
    stored
}

pub async fn stage(part: &StoredComponent, to: &Path, keep_old: bool) -> Result<Box<dyn Staged>, ComponentError> {
    let restore = RestoreOptions { to: Destination::Into(to.to_str().expect("UTF-8").to_owned()), keep_old, ..RestoreOptions::default() };
    let restorer = DirectoryRestorer::new(options(Path::new("/nonexistent")));
    restorer.plan(part, &restore).await?;
    restorer.stage(part, &restore, &RunContext::default()).await
}

async fn restore(part: &StoredComponent, to: &Path) -> Restored {
    let mut staged = stage(part, to, false).await.expect("staged");
    staged.publish().await.expect("published");
    staged.finish().await.expect("finished")
}

/// The names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Many bytes that do not repeat with any block size.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&length.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos },
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("set a time");
}

fn attribute(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap_or_else(|e| panic!("{name} of {}: {e}", path.display()));
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

fn node(path: &Path, kind: FileType, device: (u32, u32)) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), makedev(device.0, device.1)).expect("mknod needs root");
}

/// An ACL as its attribute holds it (linux/posix_acl_xattr.h): owner, user 1234, group, mask, others.
fn acl() -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(0x01u16, 6u16, u32::MAX), (0x02, 4, 1234), (0x04, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)]
    {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// Fills `root`, which must be on a file system such as ext4 or XFS, with everything that a tree can hold but sockets. Needs root.
fn fill(root: &Path) {
    let file = |path: &[u8], content: &[u8]| -> PathBuf {
        let path = root.join(OsStr::from_bytes(path));
        std::fs::create_dir_all(path.parent().expect("below the root")).expect("created");
        std::fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    };
    let link = |text: &[u8], path: &[u8]| symlink(OsStr::from_bytes(text), root.join(OsStr::from_bytes(path))).expect("a link");
    for size in [0, 1, 511, 512, 513, (3 << 20) + 17] {
        file(format!("sizes/{size}").as_bytes(), &noise(size));
    }
    // names
    file(&[b"names/", "x".repeat(255).as_bytes()].concat(), b"255 bytes");
    file(b"names/\xff\xfe", b"not UTF-8");
    file(&[&b"names/\xffdir/"[..], &[0xfd; 250]].concat(), b"long and not UTF-8");
    file("names/grüße/日本".as_bytes(), b"UTF-8");
    file(&["names/", &"ü/".repeat(80), "long"].concat().into_bytes(), b"long UTF-8");
    file(b"names/with space\nand line end", b"odd");
    file(b"names/-rf", b"odd");
    file(b"names/100%=x", b"odd");
    file(&[b"names/exact/", "e".repeat(100 - b"./names/exact/".len()).as_bytes()].concat(), b"just fits");
    file(&[b"names/exact/", "f".repeat(101 - b"./names/exact/".len()).as_bytes()].concat(), b"just does not");
    // modes, owners
    chmod(&file(b"modes/none", b"x"), 0);
    chmod(&file(b"modes/setuid", b"x"), 0o4755);
    chmod(&file(b"modes/setgid", b"x"), 0o2711);
    std::fs::create_dir_all(root.join("modes/sticky/empty")).expect("created");
    chmod(&root.join("modes/sticky"), 0o1777);
    std::fs::create_dir(root.join("modes/closed")).expect("created");
    file(b"modes/closed/in", b"x");
    let owned = file(b"owners/high", b"x");
    lchown(&owned, Some(3_000_000_000), Some(2_097_152)).expect("chown needs root");
    chmod(&owned, 0o6755);
    lchown(root.join("owners"), Some(1001), Some(1002)).expect("chown needs root");
    // links
    link(b"../sizes/1", b"owners/relative");
    link(b"/nowhere/at all", b"owners/dangling");
    link(&[b'y'; 300], b"owners/long");
    link(b"\xff\xfd", b"owners/bytes");
    link(&[b"\xff/", &[b'z'; 200][..]].concat(), b"owners/long bytes");
    lchown(root.join("owners/dangling"), Some(77), Some(78)).expect("chown needs root");
    for (from, to) in [("sizes/513", "names/hard"), ("sizes/513", "sizes/hard"), ("owners/long", "owners/hard link to a link")] {
        std::fs::hard_link(root.join(from), root.join(to)).expect("a hard link");
    }
    // devices
    node(&root.join("fifo"), FileType::Fifo, (0, 0));
    node(&root.join("null"), FileType::CharacterDevice, (1, 3));
    node(&root.join("block"), FileType::BlockDevice, (259, 70_000));
    chmod(&root.join("null"), 0o666);
    // attributes
    let with = file(b"attributes/file", b"x");
    attribute(&with, "user.binary", b"\0\n=\xff%3D");
    attribute(&with, "user.a=b%c", b"");
    attribute(&with, "trusted.large", &noise(2000));
    attribute(&file(b"attributes/capable", b"x"), "security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    lchown(root.join("attributes/capable"), Some(5), Some(5)).expect("chown needs root");
    attribute(&root.join("attributes/capable"), "security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    attribute(&file(b"attributes/acl", b"x"), "system.posix_acl_access", &acl());
    std::fs::create_dir(root.join("attributes/default")).expect("created");
    file(b"attributes/default/no-acl", b"x");
    attribute(&root.join("attributes/default"), "system.posix_acl_default", &acl());
    attribute(&root.join("attributes"), "user.of.directory", b"1");
    // holes
    let sparse = |path: &str, size: u64, data: &[(u64, usize)]| {
        let file = std::fs::File::create(root.join(path)).expect("created");
        file.set_len(size).expect("sized");
        for (offset, length) in data {
            std::os::unix::fs::FileExt::write_all_at(&file, &noise(*length), *offset).expect("written");
        }
    };
    sparse("holes-only", 100 << 20, &[]);
    sparse("holes-front", (64 << 20) + 5, &[(64 << 20, 5)]);
    sparse("holes-end", 64 << 20, &[(0, 70_000), (20 << 20, 1)]);
    // times, last
    set_time(&file(b"times/negative", b"x"), -86_400 * 365, 250_000_000);
    set_time(&file(b"times/just-before", b"x"), -1, 999_999_999);
    set_time(&file(b"times/future", b"x"), 15_000_000_000, 1);
    set_time(&file(b"times/whole", b"x"), 1_000_000_000, 0);
    set_time(&root.join("owners/dangling"), 1_234_567_890, 123_456_789);
    set_time(&root.join("fifo"), 1, 2);
    chmod(&root.join("modes/closed"), 0o500);
    chmod(root, 0o751);
    lchown(root, Some(12), Some(13)).expect("chown needs root");
    attribute(root, "user.of.root", b"2");
    for directory in ["times", "modes/sticky/empty", "names", "."] {
        set_time(&root.join(directory), 1_111_111_111, 111_111_111);
    }
}
