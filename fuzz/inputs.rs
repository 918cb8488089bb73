//! What is done with hostile bytes: one function a target, which panics when something that must hold does not.
//!
//! `fuzz/fuzz_targets/` hands them what libFuzzer makes up; `tests/e2e/reliability/inputs.rs`, which includes this file, the corpus and
//! random changes of it. So a finding of either is one of both.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::io::{BufReader, Cursor};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use backstay::catalog::{Entry, candidates};
use backstay::component::directory::archive::read::Reader;
use backstay::component::directory::archive::{ArchiveError, Member};
use backstay::component::directory::{remove_tree, unpack as unpacking};
use backstay::component::postgres::archive::{Archive, walk};
use backstay::component::postgres::conninfo::{self, Params};
use backstay::component::postgres::globals::{self, Present};
use backstay::component::postgres::plain::{Filter, Fit, PlainError};
use backstay::component::postgres::{Contents, script as sql};
use backstay::component::redis::info::Info;
use backstay::component::redis::keys::{KeyCounter, Keys};
use backstay::component::redis::master::words;
use backstay::component::redis::rdb::{RdbFault, RdbSummary, Verifier};
use backstay::component::redis::replication::{Transfer, resync_with};
use backstay::config::{self as configuration, LoadOptions};
use backstay::legacy;
use backstay::manifest::{Encoding, Manifest, Summary, sha256_hex};
use backstay::name::{ArtifactPath, BackupName, ComponentName, JobName, RestoreId, TargetName, file_stem};
use backstay::pipeline::Decoder;
use backstay::retention::{self, Policy};
use backstay::schedule::Schedule;
use backstay::storage::layout::Layout;
use backstay::verdict::Verdict;
use chrono::{DateTime, Utc};
use tokio::io::AsyncReadExt;
use tokio_util::bytes::BytesMut;
use tokio_util::sync::CancellationToken;

/// One target.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("archive", archive),
    ("config", config),
    ("cron", cron),
    ("decode", decode),
    ("manifest", manifest),
    ("names", names),
    ("rdb", rdb),
    ("replication", replication),
    ("script", script),
    ("tar", tar),
    ("unpack", unpack),
];

/// Most bytes that are taken out of one compressed input: what the manifest says, in the program.
const DECODED: usize = 16 << 20;

/// `manifest.json`, as it stands and with its checksum put right; then what is made of it before a byte of its backup is read.
pub fn manifest(data: &[u8]) {
    for bytes in [data.to_vec(), sealed(data)] {
        let Ok(manifest) = Manifest::from_bytes(&bytes) else { continue };
        let again = Manifest::from_bytes(&manifest.to_bytes()).expect("what is written is read");
        assert_eq!((&again.name, &again.status, again.components.len()), (&manifest.name, &manifest.status, manifest.components.len()));
        assert!(again.artifacts().eq(manifest.artifacts()));
        assert!(manifest.raw_bytes().checked_add(manifest.stored_bytes()).is_some());
        let layout = Layout::new("some/prefix");
        for artifact in manifest.artifacts() {
            let key = layout.artifact(&manifest.name, &artifact.path);
            assert!(key.as_ref().starts_with(&format!("some/prefix/{}/", manifest.name)), "{key}");
            assert_eq!(key.parts().count(), 5);
            assert!(!key.as_ref().split('/').any(|part| part.is_empty() || part == "." || part == ".."), "{key}");
        }
        for component in &manifest.components {
            if let Ok(contents) = Contents::of(component) {
                assert!(!contents.databases.is_empty() && !contents.names().is_empty());
            }
        }
        let summary = Summary::from_bytes(&bytes).expect("what is read is listed");
        assert_eq!(
            (&summary.name, summary.raw_bytes, summary.stored_bytes),
            (&manifest.name, manifest.raw_bytes(), manifest.stored_bytes())
        );
        let policy = Policy { last: NonZeroU32::new(1), daily: NonZeroU32::new(2), ..Policy::default() };
        let plan = retention::plan(&policy, &candidates(&[Entry::Sound(Box::new(summary))], &BTreeMap::new()), now());
        assert!(plan.iter().all(|decision| decision.keep), "the only backup of a job goes: {plan:?}");
    }
}

/// With the checksum that belongs to it.
pub fn sealed(data: &[u8]) -> Vec<u8> {
    const MARK: &[u8] = b"\"integrity\": \"sha256:";
    let mut bytes = data.to_vec();
    let at = bytes.windows(MARK.len()).rposition(|w| w == MARK).map(|at| at + MARK.len()).filter(|at| at + 64 <= bytes.len());
    let at = at.unwrap_or_else(|| {
        let end = bytes.iter().rposition(|b| *b == b'}').unwrap_or(bytes.len());
        bytes.truncate(end);
        let comma = if bytes.trim_ascii_end().ends_with(b"{") { "" } else { "," };
        bytes.extend_from_slice(comma.as_bytes());
        bytes.extend_from_slice(MARK);
        let at = bytes.len();
        bytes.extend_from_slice(&[b'0'; 64]);
        bytes.extend_from_slice(b"\"}");
        at
    });
    bytes[at..at + 64].fill(b'0');
    let digits = sha256_hex(&bytes);
    bytes[at..at + 64].copy_from_slice(digits.as_bytes());
    bytes
}

/// `backstay.toml`: it is loaded, or every fault says where it is; what was loaded can be shown.
pub fn config(data: &[u8]) {
    in_scratch(|dir| {
        let file = dir.join("backstay.toml");
        std::fs::write(&file, data).expect("a file");
        let options = LoadOptions { file: Some(file), env: BTreeMap::new(), cwd: dir.to_owned(), root: dir.to_owned() };
        match configuration::load(&options) {
            Ok(loaded) => {
                configuration::show(&loaded);
                configuration::show_json(&loaded);
                assert!(loaded.settings.jobs.iter().all(|job| !job.targets.is_empty()));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

/// An RDB, in pieces of any size: what is said of it does not depend on them.
pub fn rdb(data: &[u8]) {
    let Some((piece, data)) = data.split_first() else { return };
    let whole = verified(data, data.len().max(1));
    let (pieces, keys) = verified(data, usize::from(piece % 64) + 1);
    assert_eq!((&whole.0, &whole.1), (&pieces, &keys));
    if let (Ok(_), Ok(keys)) = (pieces, keys) {
        keys.sentence();
    }
}

fn verified(data: &[u8], piece: usize) -> (Result<RdbSummary, RdbFault>, Result<Keys, String>) {
    let (mut verifier, mut counter) = (Verifier::default(), KeyCounter::default());
    let mut fault = None;
    for bytes in data.chunks(piece) {
        fault = fault.or(verifier.update(bytes).err());
        counter.update(bytes);
    }
    (fault.map_or_else(|| verifier.finish(), Err), counter.finish())
}

/// Both sides of a replication: what a master answers to us, and what anyone says to the port where we are one. And what INFO says.
pub fn replication(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    block_on(async {
        let wire = tokio::io::join(Cursor::new(data.to_vec()), tokio::io::sink());
        let transfer = if mode % 2 == 0 { Transfer::Disk } else { Transfer::Diskless };
        if let Ok(mut resync) = resync_with(wire, transfer).await {
            let (mut buffer, mut read) = (vec![0; 1 + usize::from(*mode)], 0);
            while let Ok(n @ 1..) = resync.stream.read(&mut buffer).await {
                read += n;
            }
            assert!(read <= data.len());
        }
        let mut peer = tokio::io::BufReader::with_capacity(64, data);
        while let Ok(words) = words(&mut peer).await {
            assert!(words.len() <= 32);
        }
    });
    let info = Info::parse(&String::from_utf8_lossy(data));
    let told = (info.modules(), info.keys(), info.server().number(), info.master());
    assert!(told.1.len() <= data.len());
}

/// A tar archive, member by member, whatever is at hand at once.
pub fn tar(data: &[u8]) {
    let (whole, pieces) = (members(Reader::new(data)), members(Reader::new(BufReader::with_capacity(7, data))));
    assert_eq!(whole, pieces);
}

/// Members with the bytes of their content, and how it ended.
fn members<R: std::io::BufRead>(mut reader: Reader<R>) -> (Vec<(Member, u64)>, Option<String>) {
    let mut members = Vec::new();
    let mut read = || -> Result<(), ArchiveError> {
        while let Some(member) = reader.next_member()? {
            let mut bytes = 0;
            loop {
                let piece = reader.data()?.len();
                if piece == 0 {
                    break;
                }
                reader.consume(piece);
                bytes += piece as u64;
            }
            assert_eq!(bytes, member.size);
            members.push((member, bytes));
        }
        Ok(())
    };
    let end = read().err().map(|error| error.to_string());
    (members, end)
}

/// The same archive, unpacked: nothing beside the place changes, whatever it says.
pub fn unpack(data: &[u8]) {
    in_scratch(|dir| {
        let house = dir.join("house");
        std::fs::create_dir_all(house.join("place")).expect("a directory");
        std::fs::write(house.join("canary"), "canary").expect("a file");
        let before = canary(&house);
        let place: OwnedFd = std::fs::File::open(house.join("place")).expect("a directory").into();
        let unpacked = unpacking::unpack(data, place, &CancellationToken::new());
        assert_eq!(before, canary(&house));
        let mut names: Vec<_> = std::fs::read_dir(&house).expect("listed").map(|e| e.expect("an entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["canary", "place"]);
        assert!(!Path::new(ELSEWHERE).exists());
        if let Ok((unpacked, _)) = unpacked {
            assert!(unpacked.entries > 0);
        }
        remove_tree(&house).expect("removed");
    });
}

/// Where inputs may say that something is to be written.
pub const ELSEWHERE: &str = "/tmp/backstay-hostile";

/// All that another name, another mode or another content of it would change.
fn canary(house: &Path) -> (Vec<u8>, u32, u64, i64) {
    let path = house.join("canary");
    let meta = std::fs::metadata(&path).expect("it is there");
    (std::fs::read(&path).expect("read"), meta.mode(), meta.nlink(), meta.mtime())
}

/// An archive of pg_dump's custom format: walked, and taken apart into what it was made of.
pub fn archive(data: &[u8]) {
    block_on(async {
        let walked = walk(data).await;
        let Ok((head, mut archive)) = Archive::open(data).await else { return assert!(walked.is_err()) };
        head.sections().count();
        head.encoding();
        let mut length = head.raw.len();
        let mut out = BytesMut::new();
        let whole = 'blocks: loop {
            match archive.next_block().await {
                Ok(None) => break true,
                Ok(Some(block)) => {
                    length += archive.block_head(block).len();
                    loop {
                        out.clear();
                        let more = archive.raw(&mut out, 1000).await;
                        length += out.len();
                        match more {
                            Ok(true) => {}
                            Ok(false) => break,
                            // a reader cannot go on after an error
                            Err(_) => break 'blocks false,
                        }
                    }
                }
                Err(_) => break false,
            }
        };
        assert!(length <= data.len() && (!whole || length == data.len()), "{length} of {} bytes", data.len());
        assert!(whole || walked.is_err());
    });
}

/// A stored stream: gzip, zstd, or as it is.
pub fn decode(data: &[u8]) {
    let Some((encoding, data)) = data.split_first() else { return };
    let encoding = [Encoding::Gzip, Encoding::Zstd, Encoding::None][usize::from(encoding % 3)];
    let Ok(mut decoder) = Decoder::new(encoding, data) else { return };
    let mut decoded = 0;
    while let Ok(Some(block)) = decoder.next() {
        assert!(!block.is_empty() && block.len() <= 1 << 20);
        decoded += block.len();
        if decoded > DECODED {
            return;
        }
    }
}

/// Names, and keys of a target.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    macro_rules! same {
        ($($type:ty),*) => {
            $(if let Ok(name) = text.parse::<$type>() {
                assert_eq!(name.to_string(), text, stringify!($type));
            })*
        };
    }
    same!(JobName, ComponentName, TargetName, ArtifactPath, BackupName, RestoreId);
    let layout = Layout::new("p");
    if let Ok(path) = text.parse::<ArtifactPath>() {
        let parts: Vec<_> = path.as_str().split('/').collect();
        assert!(parts.len() == 2 && parts.iter().all(|part| !part.is_empty() && !part.starts_with('.')), "{text:?}");
        layout.legacy(&path);
    }
    if let Ok(name) = text.parse::<BackupName>() {
        assert_eq!(layout.verdict_of(&layout.verdict(&name, "x")), Some(name.clone()));
        assert!(layout.manifest(&name).as_ref().starts_with("p/"));
        name.is_ahead(now());
    }
    let component: ComponentName = "c".parse().expect("valid");
    if !text.is_empty() {
        ArtifactPath::new(&component, &format!("{}.dump.gz", file_stem(text))).expect("any text becomes a file name");
    }
    if let Some(verdict) = Verdict::parse(text) {
        assert_eq!(Verdict::parse(&verdict.to_string()), Some(verdict));
    }
    if legacy::is_dump(text) {
        assert!(!text.contains('/'));
    }
}

/// A cron expression after the name of its zone, a line each.
pub fn cron(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (zone, text) = text.split_once('\n').unwrap_or(("Europe/Berlin", text));
    let Ok(schedule) = Schedule::parse(text, zone) else { return };
    let now = now();
    let slots = schedule.next_n(now, 3);
    assert!(slots.is_sorted_by(|a, b| a < b) && slots.iter().all(|slot| *slot > now), "{slots:?}");
    if let Some(last) = schedule.previous_slot(now) {
        assert!(last <= now, "{last}");
    }
    schedule.show(now);
}

/// SQL: what pg_dumpall and pg_dump write, and how a server is named.
pub fn script(data: &[u8]) {
    if let Ok(statements) = sql::statements(data) {
        globals::decide(&statements, &Present::default());
    }
    assert_eq!(filtered(data, data.len().max(1)), filtered(data, 3));
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(params) = Params::parse(text) {
            Params::default().or(&params);
        }
        let _ = conninfo::parse_service(text, "x");
        assert!(Params::parse(&format!("host={}", conninfo::quote_value(text))).is_ok() || text.contains('\0'));
    }
}

/// What of a script reaches psql, and the line at which it is refused.
fn filtered(data: &[u8], piece: usize) -> (Vec<u8>, Option<u64>) {
    let fit = Fit { major: 15, superuser: false, owners: HashSet::new(), grantees: HashSet::new() };
    let (mut filter, mut out) = (Filter::new(fit), Vec::new());
    let mut push = || {
        data.chunks(piece).try_for_each(|bytes| filter.push(bytes, &mut out))?;
        filter.finish(&mut out)
    };
    let refused = match push() {
        Err(PlainError::Command(line)) => Some(line),
        _ => None,
    };
    (out, refused)
}

fn now() -> DateTime<Utc> {
    "2026-03-29T00:30:00Z".parse().expect("a time")
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}

fn in_scratch<T>(work: impl FnOnce(&Path) -> T) -> T {
    thread_local! {
        static SCRATCH: RefCell<tempfile::TempDir> = RefCell::new(tempfile::tempdir().expect("a directory"));
    }
    SCRATCH.with(|scratch| work(scratch.borrow().path()))
}
