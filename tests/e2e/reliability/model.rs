//! What comes back of trees that nobody would think of, and what a target holds after any sequence of what is done to it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backstay::catalog::{Catalog, Entry};
use backstay::clock::{Clock, FixedClock};
use backstay::component::directory::{DirectoryOptions, DirectorySource};
use backstay::component::{Source, StoredComponent};
use backstay::encryption::Identities;
use backstay::fetch;
use backstay::job::{self, Job, Request};
use backstay::manifest::{Encoding, Manifest, Status};
use backstay::name::{BackupName, JobName, TargetName};
use backstay::pipeline::{Budget, Codec, Engine, Progress};
use backstay::retention::Policy;
use backstay::signature::Authenticity;
use backstay::storage::{Access, Lease, Location, Target, TargetOptions};
use chrono::{TimeDelta, Utc};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::directory::{set_time, stage};
use crate::support::{Row, Scratch, Tree, assert_same_tree};

const KEEP: u32 = 2;
const GRACE: TimeDelta = TimeDelta::hours(24);

/// The same cases each time, or others, and more of them, with `BACKSTAY_THOROUGH=1`.
fn runner(cases: u32) -> (TestRunner, u32) {
    let thorough = std::env::var_os("BACKSTAY_THOROUGH").is_some();
    let cases = if thorough { cases * 40 } else { cases };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let rng = if thorough {
        TestRng::from_seed(RngAlgorithm::ChaCha, &rand::random::<[u8; 32]>())
    } else {
        TestRng::deterministic_rng(RngAlgorithm::ChaCha)
    };
    (TestRunner::new_with_rng(config, rng), cases)
}

/// A target, and a job that stores directories in it.
struct House {
    scratch: Scratch,
    runtime: Runtime,
    clock: FixedClock,
    engine: Engine,
    encoding: Encoding,
}

impl House {
    fn new(encoding: Encoding) -> Self {
        let scratch = Scratch::new();
        std::fs::create_dir(scratch.join("media")).expect("created");
        Self {
            scratch,
            runtime: Runtime::new().expect("a runtime"),
            clock: FixedClock::at(Utc::now()),
            engine: Engine::new(Budget::new(16 << 20), 2),
            encoding,
        }
    }

    fn tree(&self) -> PathBuf {
        self.scratch.join("media")
    }

    fn target(&self) -> Target {
        let name: TargetName = "local".parse().expect("a name");
        let options = TargetOptions { name, location: Location::File(self.scratch.join("target")), limit: None };
        Target::open(&options, Access::Write).expect("a target")
    }

    fn catalog(&self) -> Catalog {
        Catalog::new(self.target())
    }

    fn source(&self, name: &str, path: PathBuf) -> Arc<dyn Source> {
        Arc::new(DirectorySource::new(DirectoryOptions::new(name.parse().expect("a name"), path)))
    }

    /// A backup of the tree; with `lacking`, of a second directory too, which is not there.
    fn back_up(&self, lacking: bool) -> Manifest {
        self.clock.advance(TimeDelta::seconds(2));
        let mut sources = vec![self.source("media", self.tree())];
        if lacking {
            sources.push(self.source("gone", self.scratch.join("gone")));
        }
        let job = Job {
            name: job(),
            sources,
            targets: vec![("local".parse().expect("a name"), Ok(self.target()))],
            policy: Policy { last: NonZeroU32::new(KEEP), ..Policy::default() },
            codec: Codec::new(self.encoding, 0).expect("a codec"),
            lock: None,
            authenticity: Authenticity::default(),
            stall_timeout: Duration::from_secs(60),
            timeout: None,
        };
        let cancel = CancellationToken::new();
        let run = job::run(job, Request::default(), &self.engine, &self.clock, &cancel);
        self.runtime.block_on(run).expect("a backup").manifest
    }

    /// Puts the tree of a backup in the place of `to`, or changes nothing.
    fn restore(&self, manifest: &Manifest, to: &Path) -> Result<(), String> {
        let open = fetch::opener(self.target(), manifest.name.clone(), Identities::default(), Progress::default());
        let component = manifest.component(&"media".parse().expect("a name")).expect("it is in it").clone();
        self.runtime.block_on(async {
            let mut staged = stage(&StoredComponent { component, open }, to, false).await.map_err(|e| e.to_string())?;
            staged.publish().await.map_err(|e| e.to_string())?;
            staged.finish().await.map(drop).map_err(|e| e.to_string())
        })
    }
}

fn job() -> JobName {
    "default".parse().expect("a name")
}

/// One entry of a tree; where it lies, and what it links to, is chosen among those before it.
#[derive(Debug, Clone)]
struct Node {
    within: prop::sample::Index,
    name: Vec<u8>,
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    time: (i64, i64),
    attribute: Option<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum Kind {
    Directory,
    File(Vec<u8>),
    /// Bytes at places, and the size.
    Sparse(Vec<(u32, Vec<u8>)>, u32),
    Symlink(Vec<u8>),
    HardLink(prop::sample::Index),
    Fifo,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|b| if b == 0 || b == b'/' { b'_' } else { b });
    let odd = ["-rf", "...", ".x", " ", "~", "*", "a\nb", "#1", "name#1", "x.tar", "ü", "\u{202e}"].map(|n| n.as_bytes().to_vec());
    prop_oneof![
        4 => prop::collection::vec(byte.clone(), 1..12),
        1 => prop::collection::vec(byte, 240..=255),
        2 => prop::sample::select(odd.to_vec()),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let bytes = |most: usize| prop::collection::vec(any::<u8>(), 0..most);
    let text = prop::collection::vec(any::<u8>().prop_map(|b| b.max(1)), 1..200);
    let kind = prop_oneof![
        3 => Just(Kind::Directory),
        4 => bytes(3000).prop_map(Kind::File),
        1 => (prop::collection::vec((0u32..8 << 20, bytes(500)), 0..4), 0u32..9 << 20).prop_map(|(data, size)| Kind::Sparse(data, size)),
        2 => text.prop_map(Kind::Symlink),
        2 => any::<prop::sample::Index>().prop_map(Kind::HardLink),
        1 => Just(Kind::Fifo),
    ];
    let attribute = (name().prop_filter("a name of an attribute", |n| n.len() < 200), bytes(300));
    let id = prop_oneof![Just(0u32), 0u32..70_000, Just(u32::MAX - 1), Just(2_097_152)];
    let time = (prop_oneof![-100_000_000i64..4_000_000_000, Just(0), Just(-1), Just(8_589_934_592)], 0i64..1_000_000_000);
    (any::<prop::sample::Index>(), name(), kind, 0u32..=0o7777, (id.clone(), id), time, prop::option::weighted(0.3, attribute))
        .prop_map(|(within, name, kind, mode, owner, time, attribute)| Node { within, name, kind, mode, owner, time, attribute })
}

/// Makes the tree, as far as names do not meet.
fn make(root: &Path, nodes: &[Node]) {
    let mut directories = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    let mut made: Vec<(PathBuf, &Node)> = Vec::new();
    for node in nodes {
        let path = node.within.get(&directories).join(OsStr::from_bytes(&node.name));
        if matches!(&node.name[..], b"." | b"..") || std::fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match &node.kind {
            Kind::Directory => {
                std::fs::create_dir(&path).expect("created");
                directories.push(path.clone());
            }
            Kind::File(content) => {
                std::fs::write(&path, content).expect("written");
                files.push(path.clone());
            }
            Kind::Sparse(data, size) => {
                let file = std::fs::File::create(&path).expect("created");
                for (at, bytes) in data {
                    std::os::unix::fs::FileExt::write_all_at(&file, bytes, u64::from(*at)).expect("written");
                }
                file.set_len(u64::from(*size)).expect("sized");
                files.push(path.clone());
            }
            Kind::Symlink(text) => symlink(OsStr::from_bytes(text), &path).expect("a link"),
            Kind::HardLink(first) if !files.is_empty() => {
                std::fs::hard_link(first.get(&files), &path).expect("a link");
                continue;
            }
            Kind::HardLink(_) => continue,
            Kind::Fifo => mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).expect("a FIFO"),
        }
        made.push((path, node));
    }
    for (path, node) in made.iter().rev() {
        let is_link = matches!(node.kind, Kind::Symlink(_));
        lchown(path, Some(node.owner.0), Some(node.owner.1)).expect("chown needs root");
        if let Some((name, value)) =
            node.attribute.as_ref().filter(|_| matches!(node.kind, Kind::File(_) | Kind::Directory | Kind::Sparse(..)))
        {
            let name = [b"user.".as_slice(), name].concat();
            lsetxattr(path, name.as_slice(), value, XattrFlags::empty()).expect("an attribute");
        }
        if !is_link {
            rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(node.mode), rustix::fs::AtFlags::empty()).expect("chmod");
        }
    }
    for (path, node) in made.iter().rev() {
        set_time(path, node.time.0, node.time.1);
    }
}

#[test]
fn any_tree_comes_back() {
    let (mut runner, cases) = runner(40);
    let trees = (prop::collection::vec(node(), 0..25), prop::sample::select(vec![Encoding::None, Encoding::Gzip, Encoding::Zstd]));
    let tried = runner.run(&trees, |(nodes, encoding)| {
        let house = House::new(encoding);
        make(&house.tree(), &nodes);
        let before = Tree::of(&house.tree());
        let manifest = house.back_up(false);
        prop_assert_eq!(manifest.status, Status::Complete);
        let place = house.scratch.join("place");
        house.restore(&manifest, &place).map_err(TestCaseError::fail)?;
        let found = before.differences(&Tree::of(&place));
        prop_assert!(found.is_empty(), "{}", found.join("\n"));
        Ok(())
    });
    tried.unwrap_or_else(|error| panic!("{error}"));
    Row {
        scenario: "backup and restore of trees that are made up",
        faults: "names of any bytes, modes, owners, times, attributes, holes, links of both kinds, FIFOs",
        runs: cases as usize,
    }
    .print();
}

/// Something that is done to a target.
#[derive(Debug, Clone)]
enum Deed {
    BackUp { lacking: bool },
    Wait { hours: i64 },
    Prune,
    Damage { which: prop::sample::Index, what: Damage },
    Restore { which: prop::sample::Index },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    FlipArtifact(u16),
    CutArtifact(u16),
    LoseArtifact,
    FlipManifest(u16),
    LoseManifest,
}

fn deed() -> impl Strategy<Value = Deed> {
    let damage = prop_oneof![
        any::<u16>().prop_map(Damage::FlipArtifact),
        any::<u16>().prop_map(Damage::CutArtifact),
        Just(Damage::LoseArtifact),
        any::<u16>().prop_map(Damage::FlipManifest),
        Just(Damage::LoseManifest),
    ];
    let which = any::<prop::sample::Index>;
    prop_oneof![
        4 => prop::bool::weighted(0.25).prop_map(|lacking| Deed::BackUp { lacking }),
        1 => (1i64..40).prop_map(|hours| Deed::Wait { hours }),
        1 => Just(Deed::Prune),
        2 => (which(), damage).prop_map(|(which, what)| Deed::Damage { which, what }),
        3 => which().prop_map(|which| Deed::Restore { which }),
    ]
}

/// What should be in the target, and be known of it.
#[derive(Debug, Clone)]
struct Known {
    manifest: Manifest,
    /// What the tree held.
    content: u32,
    complete: bool,
    is_sound: bool,
    record: Record,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    Sound,
    Damaged,
    Lost,
}

type Model = BTreeMap<BackupName, Known>;

/// Retention, as the handbook tells it: the newest complete ones stay, so many; a partial one goes when a newer complete one is there; what
/// cannot be read stays and does not count; what has no manifest goes a day later.
fn retain(model: &mut Model, now: chrono::DateTime<Utc>) {
    let readable = |known: &Known| known.record == Record::Sound;
    let complete: Vec<BackupName> = model.iter().rev().filter(|(_, k)| readable(k) && k.complete).map(|(name, _)| name.clone()).collect();
    let newest = complete.first().cloned();
    let kept: BTreeSet<BackupName> = complete.into_iter().take(KEEP as usize).collect();
    model.retain(|name, known| match known.record {
        Record::Damaged => true,
        Record::Lost => now - name.created() < GRACE,
        Record::Sound if known.complete => kept.contains(name),
        Record::Sound => newest.as_ref().is_none_or(|newest| newest < name),
    });
}

/// The house, what its target should hold, and what was done so far.
struct Play {
    house: House,
    model: Model,
    content: u32,
}

impl Play {
    fn new() -> Self {
        Self { house: House::new(Encoding::Gzip), model: Model::new(), content: 0 }
    }

    fn fill(tree: &Path, content: u32) {
        for name in ["a", "b"] {
            std::fs::write(tree.join(name), format!("{name} {content} ").repeat(300)).expect("written");
        }
    }

    fn act(&mut self, deed: &Deed) -> Result<(), TestCaseError> {
        match deed {
            Deed::BackUp { lacking } => {
                self.content += 1;
                Self::fill(&self.house.tree(), self.content);
                let manifest = self.house.back_up(*lacking);
                prop_assert_eq!(manifest.status == Status::Complete, !lacking);
                let (name, content) = (manifest.name.clone(), self.content);
                self.model.insert(name, Known { manifest, content, complete: !lacking, is_sound: true, record: Record::Sound });
                if !lacking {
                    retain(&mut self.model, self.house.clock.now());
                }
            }
            Deed::Wait { hours } => self.house.clock.advance(TimeDelta::hours(*hours)),
            Deed::Prune => {
                let policy = Policy { last: NonZeroU32::new(KEEP), ..Policy::default() };
                let pruned = self.house.runtime.block_on(async {
                    let lease = Lease::acquire(&self.house.target(), &job(), "the test").await.expect("free");
                    let pruned = job::prune(&self.house.catalog(), &job(), &policy, self.house.clock.now()).await;
                    lease.release().await;
                    pruned
                });
                prop_assert_eq!(pruned.failures, Vec::<String>::new());
                retain(&mut self.model, self.house.clock.now());
            }
            Deed::Damage { which, what } => {
                if let Some(name) = self.pick(*which) {
                    self.damage(&name, *what);
                }
            }
            Deed::Restore { which } => {
                if let Some(name) = self.pick(*which) {
                    self.restore(&name)?;
                }
            }
        }
        self.compare()
    }

    fn pick(&self, which: prop::sample::Index) -> Option<BackupName> {
        let names: Vec<&BackupName> = self.model.keys().collect();
        (!names.is_empty()).then(|| (*which.get(&names)).clone())
    }

    fn damage(&mut self, name: &BackupName, what: Damage) {
        let folder = self.house.scratch.join("target").join(name.to_string());
        let known = self.model.get_mut(name).expect("it was picked");
        let (artifact, manifest) = (folder.join("media/media.tar.gz"), folder.join("manifest.json"));
        let change = |path: &Path, by: &dyn Fn(&mut Vec<u8>)| {
            let Ok(mut bytes) = std::fs::read(path) else { return false };
            by(&mut bytes);
            std::fs::write(path, bytes).is_ok()
        };
        let at = |length: usize, at: u16| (length - 1) * usize::from(at) / usize::from(u16::MAX);
        let flip = |place: u16| {
            move |bytes: &mut Vec<u8>| {
                if !bytes.is_empty() {
                    let place = at(bytes.len(), place);
                    bytes[place] ^= 0x10;
                }
            }
        };
        match what {
            Damage::FlipArtifact(place) => known.is_sound &= !change(&artifact, &flip(place)),
            Damage::CutArtifact(place) => {
                known.is_sound &= !change(&artifact, &|bytes: &mut Vec<u8>| bytes.truncate(at(bytes.len().max(1), place)));
            }
            Damage::LoseArtifact => {
                let _ = std::fs::remove_file(artifact);
                known.is_sound = false;
            }
            Damage::FlipManifest(place) if known.record == Record::Sound => {
                change(&manifest, &flip(place));
                known.record = Record::Damaged;
            }
            Damage::FlipManifest(_) => {}
            Damage::LoseManifest => {
                let _ = std::fs::remove_file(manifest);
                known.record = Record::Lost;
            }
        }
    }

    fn restore(&self, name: &BackupName) -> Result<(), TestCaseError> {
        let known = &self.model[name];
        let place = self.house.scratch.join("place");
        std::fs::create_dir_all(&place).expect("created");
        std::fs::write(place.join("was"), "there").expect("written");
        let before = Tree::of(&place);
        let found = self.house.runtime.block_on(self.house.catalog().find(name));
        prop_assert_eq!(found.is_ok(), known.record == Record::Sound);
        let restored = match found {
            Ok(manifest) => self.house.restore(&manifest, &place),
            // not even a manifest that somebody has kept brings back what is damaged
            Err(_) => self.house.restore(&known.manifest, &place),
        };
        prop_assert_eq!(restored.is_ok(), known.is_sound, "{:?}", restored);
        if known.is_sound {
            let expected = self.house.scratch.join("expected");
            std::fs::create_dir_all(&expected).expect("created");
            Self::fill(&expected, known.content);
            for name in ["a", "b"] {
                prop_assert!(std::fs::read(expected.join(name)).expect("read") == std::fs::read(place.join(name)).expect("restored"));
            }
            prop_assert!(!place.join("was").exists());
        } else {
            assert_same_tree(&before, &Tree::of(&place));
        }
        Ok(())
    }

    /// What the target holds is what it should hold.
    fn compare(&self) -> Result<(), TestCaseError> {
        let entries = self.house.runtime.block_on(self.house.catalog().list(None)).expect("a list");
        let listed: Vec<(String, Record)> = entries
            .iter()
            .map(|entry| (entry.name().to_string(), if matches!(entry, Entry::Sound(_)) { Record::Sound } else { Record::Damaged }))
            .collect();
        let expected: Vec<(String, Record)> =
            self.model.iter().filter(|(_, k)| k.record != Record::Lost).map(|(name, k)| (name.to_string(), k.record)).collect();
        prop_assert_eq!(listed, expected);
        let folders = std::fs::read_dir(self.house.scratch.join("target")).into_iter().flatten().flatten();
        let folders: BTreeSet<String> =
            folders.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| !n.starts_with('.')).collect();
        let expected: BTreeSet<String> = self.model.keys().map(ToString::to_string).collect();
        prop_assert_eq!(folders, expected, "folders");
        Ok(())
    }
}

#[test]
fn any_sequence_leaves_what_the_model_says() {
    let (mut runner, cases) = runner(40);
    let tried = runner.run(&prop::collection::vec(deed(), 1..16), |deeds| {
        let mut play = Play::new();
        deeds.iter().try_for_each(|deed| play.act(deed))
    });
    tried.unwrap_or_else(|error| panic!("{error}"));
    Row {
        scenario: "sequences of backups, retention, damage and restores against a model",
        faults: "flipped and cut artifacts, damaged manifests, lost objects, partial backups, passing days",
        runs: cases as usize,
    }
    .print();
}
