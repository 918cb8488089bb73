//! Hostile bytes: the corpus of `fuzz/`, and random changes of it, through the very functions that are fuzzed there.

#[path = "../../../fuzz/inputs.rs"]
mod functions;
mod seeds;

use std::path::{Path, PathBuf};
use std::process::Command;

use backstay::catalog::{Catalog, Entry};
use backstay::encryption::Identities;
use backstay::manifest::{Artifact, Encoding, Format, sha256_hex};
use backstay::pipeline::{UnpackError, unpack as unpack_stored};
use backstay::storage::{Access, Location, Target, TargetOptions};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use tokio::io::AsyncReadExt;

use crate::support::{Row, Scratch};

/// Changed inputs of a target; with `BACKSTAY_THOROUGH=1`, as many as take some minutes, other ones each time.
const CASES: u32 = 192;
const THOROUGH: u32 = 20_000;

/// Most bytes of an input that is made up here.
const LONGEST: usize = 128 << 10;

/// Most memory that a process of these tests may have taken, in KiB: the test itself, and what its inputs made the program take.
const MOST_MEMORY: u64 = 256 << 10;

pub fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// The inputs of a target, by name. What is unpacked is what is read: both have the same ones.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let folders = [Some(target), (target == "unpack").then_some("tar")];
    let mut inputs = Vec::new();
    for folder in folders.into_iter().flatten().map(corpus) {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("an entry").path();
            inputs.push((path.display().to_string(), std::fs::read(&path).expect("an input")));
        }
    }
    inputs.sort();
    assert!(!inputs.is_empty(), "{target} has no corpus");
    inputs
}

/// One change of an input. Places and lengths are fractions of what there is.
#[derive(Debug, Clone)]
enum Edit {
    Flip(u16, u8),
    Set(u16, u8),
    Insert(u16, Vec<u8>),
    Remove(u16, u16),
    Repeat(u16, u16, u8),
    /// A number that is where numbers end, in so many bytes, or as digits.
    Number(u16, u64, bool),
    /// From another input of the target.
    Splice(u16, prop::sample::Index, u16, u16),
    Cut(u16),
}

fn edit() -> impl Strategy<Value = Edit> {
    let numbers = prop::sample::select(vec![0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, i64::MAX as u64, u64::MAX]);
    prop_oneof![
        (any::<u16>(), 0u8..8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        (any::<u16>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (any::<u16>(), prop::collection::vec(any::<u8>(), 1..16)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (any::<u16>(), 0u16..64).prop_map(|(at, length)| Edit::Remove(at, length)),
        (any::<u16>(), 1u16..600, 1u8..40).prop_map(|(at, length, times)| Edit::Repeat(at, length, times)),
        (any::<u16>(), numbers, any::<bool>()).prop_map(|(at, number, digits)| Edit::Number(at, number, digits)),
        (any::<u16>(), any::<prop::sample::Index>(), any::<u16>(), 1u16..2000)
            .prop_map(|(at, other, from, n)| Edit::Splice(at, other, from, n)),
        any::<u16>().prop_map(Edit::Cut),
    ]
}

fn place(at: u16, length: usize) -> usize {
    length * usize::from(at) / usize::from(u16::MAX)
}

fn apply(edit: &Edit, bytes: &mut Vec<u8>, all: &[(String, Vec<u8>)]) {
    let length = bytes.len();
    match edit {
        Edit::Flip(at, bit) => bytes.iter_mut().skip(place(*at, length)).take(1).for_each(|byte| *byte ^= 1 << bit),
        Edit::Set(at, to) => bytes.iter_mut().skip(place(*at, length)).take(1).for_each(|byte| *byte = *to),
        Edit::Insert(at, more) => {
            let at = place(*at, length);
            bytes.splice(at..at, more.iter().copied());
        }
        Edit::Remove(at, n) => {
            let at = place(*at, length);
            bytes.drain(at..(at + usize::from(*n)).min(length));
        }
        Edit::Repeat(at, n, times) => {
            let at = place(*at, length);
            let piece = bytes[at..(at + usize::from(*n)).min(length)].repeat(usize::from(*times));
            bytes.splice(at..at, piece);
        }
        Edit::Number(at, number, digits) => {
            let at = place(*at, length);
            let written = if *digits { number.to_string().into_bytes() } else { number.to_le_bytes().to_vec() };
            bytes.splice(at..(at + written.len()).min(length), written);
        }
        Edit::Splice(at, other, from, n) => {
            let at = place(*at, length);
            let other = &other.get(all).1;
            let from = place(*from, other.len());
            bytes.splice(at..at, other[from..(from + usize::from(*n)).min(other.len())].iter().copied());
        }
        Edit::Cut(at) => bytes.truncate(place(*at, length)),
    }
    bytes.truncate(LONGEST);
}

fn is_thorough() -> bool {
    std::env::var_os("BACKSTAY_THOROUGH").is_some()
}

/// Whether this process runs this test only, so that its memory is the test's.
fn is_alone() -> bool {
    std::env::var_os("NEXTEST").is_some()
}

/// The most memory that this process ever had, in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

#[track_caller]
fn assert_memory_is_bounded() {
    let peak = peak_memory();
    assert!(!is_alone() || peak <= MOST_MEMORY, "{peak} KiB of memory were taken");
}

fn replay(target: &str) {
    let (_, run) = functions::TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let inputs = inputs(target);
    for (name, bytes) in &inputs {
        let outcome = std::panic::catch_unwind(|| run(bytes));
        assert!(outcome.is_ok(), "{name}: see above");
    }
    let cases = if is_thorough() { THOROUGH } else { CASES };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    // the same ones each time: a test that fails now and then helps nobody; the fuzzers are for others
    let rng = if is_thorough() {
        TestRng::from_seed(RngAlgorithm::ChaCha, &rand::random::<[u8; 32]>())
    } else {
        TestRng::deterministic_rng(RngAlgorithm::ChaCha)
    };
    let changes = (any::<prop::sample::Index>(), prop::collection::vec(edit(), 1..6));
    let tried = TestRunner::new_with_rng(config, rng).run(&changes, |(seed, edits)| {
        let mut bytes = seed.get(&inputs).1.clone();
        edits.iter().for_each(|edit| apply(edit, &mut bytes, &inputs));
        std::panic::catch_unwind(|| run(&bytes)).map_err(|_| TestCaseError::fail(format!("from {}", seed.get(&inputs).0)))
    });
    tried.unwrap_or_else(|error| panic!("{target}: {error}"));
    assert_memory_is_bounded();
    let what = WHAT.iter().find(|(name, _)| *name == target).expect("it is described").1;
    let scenario = format!("hostile bytes as {what}");
    Row {
        scenario: &scenario,
        faults: "the corpus of `fuzz/`, random changes of it; peak memory at most 256 MiB",
        runs: inputs.len() + cases as usize,
    }
    .print();
}

/// What `command` makes of so many zeros.
fn squeezed(command: &str, zeros: u64) -> Vec<u8> {
    let text = format!("head -c {zeros} /dev/zero | {command}");
    let output = Command::new("sh").args(["-c", &text]).output().expect("a shell");
    assert!(output.status.success(), "{text}");
    output.stdout
}

#[tokio::test]
async fn a_bomb_yields_no_more_than_its_manifest_says() {
    const ZEROS: u64 = 400 << 20;
    const SAID: u64 = 5000;
    let bombs = [
        (Encoding::Gzip, "gzip -1"),
        (Encoding::Zstd, "zstd -1"),
        // a window as large as the content
        (Encoding::Zstd, "zstd --long=29"),
        (Encoding::Gzip, "gzip -1 | gzip -1"),
    ];
    for (encoding, command) in bombs {
        let stored = squeezed(command, ZEROS);
        let artifact = Artifact {
            path: "media/media.tar".parse().expect("valid"),
            format: Format::Tar,
            encoding,
            encryption: None,
            database: None,
            raw_bytes: SAID,
            stored_bytes: stored.len() as u64,
            sha256: sha256_hex(&stored),
            blake3: blake3::hash(&[0; SAID as usize]).to_hex().to_string(),
        };
        let chunks = stored.chunks(1 << 16).map(|chunk| Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(chunk))).collect::<Vec<_>>();
        let mut raw = unpack_stored(&artifact, &Identities::default(), futures_util::stream::iter(chunks));
        let (mut read, mut buffer) = (0, vec![0; 1 << 16]);
        let error = loop {
            match raw.read(&mut buffer).await {
                Ok(0) => panic!("{command}: it passed for what the manifest says"),
                Ok(n) => read += n as u64,
                Err(error) => break error,
            }
        };
        assert!(read <= SAID, "{command}: {read} bytes");
        assert!(backstay::chain::find::<UnpackError>(&error).is_some_and(UnpackError::is_damage), "{command}: {error:?}");
    }
    assert_memory_is_bounded();
    Row { scenario: "decompression bombs", faults: "400 MiB of zeros where the manifest says 5,000 bytes", runs: bombs.len() }.print();
}

#[tokio::test]
async fn many_large_manifests_are_not_read_at_once() {
    let scratch = Scratch::new();
    let options =
        TargetOptions { name: "local".parse().expect("a name"), location: Location::File(scratch.path().to_owned()), limit: None };
    for second in 10..18 {
        let manifest = scratch.write(format!("default-2026-01-02-0304{second}/manifest.json"), "");
        std::fs::File::options().write(true).open(manifest).expect("opened").set_len(50 << 20).expect("grown");
    }
    let catalog = Catalog::new(Target::open(&options, Access::Read).expect("a target"));
    let entries = catalog.list(None).await.expect("a list");
    assert!(entries.len() == 8 && entries.iter().all(|entry| matches!(entry, Entry::Damaged(..))));
    assert_memory_is_bounded();
    Row { scenario: "a target full of hostile manifests", faults: "8 of 50 MiB each; peak memory at most 256 MiB", runs: 1 }.print();
}

const WHAT: &[(&str, &str)] = &[
    ("archive", "an archive of pg_dump"),
    ("config", "a configuration"),
    ("cron", "a cron expression"),
    ("decode", "a compressed stream"),
    ("manifest", "a manifest"),
    ("names", "names and keys"),
    ("rdb", "an RDB"),
    ("replication", "the peer of a replication"),
    ("script", "a script of pg_dump or pg_dumpall"),
    ("tar", "a tar archive, read"),
    ("unpack", "a tar archive, unpacked"),
];

macro_rules! replayed {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target));
            }
        )*
        #[test]
        fn every_target_is_replayed() {
            let named: Vec<&str> = functions::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(named, [$(stringify!($target)),*]);
            let binaries = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
            assert!(named.iter().all(|name| binaries.join(format!("{name}.rs")).exists()));
            assert_eq!(std::fs::read_dir(binaries).expect("listed").count(), named.len());
        }
    };
}

replayed!(archive config cron decode manifest names rdb replication script tar unpack);
