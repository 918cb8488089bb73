//! How fast a tree is read, against GNU tar: `cargo bench --bench walk [-- [--quick] [--cold] [--files N] [DIRECTORY…]]`.
//!
//! Two trees are generated, always the same: many small files (0 to 2 KiB, 500 a directory), and fewer of all sizes, as a media folder has
//! them. A DIRECTORY is measured besides them. Each is read by turns by Backstay's source, by tar as it is usually called, and by tar told
//! to store what Backstay does (`--sort=name --xattrs --acls`); tar writes into `cat`, as into a codec, since into /dev/null it would read
//! no content at all. What is printed is the median of the rounds, and how many files a second that is in parts of the first tar.
//!
//! `--cold` empties the caches of the whole machine before each reading, and needs root.

#![allow(clippy::print_stdout, reason = "a table is what it is for")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use backstay::component::directory::{DirectoryOptions, DirectorySource};
use backstay::component::{RunContext, Source};
use tokio::io::AsyncReadExt;

const TAR: [&str; 2] = ["tar -C \"$0\" -cf - . | cat > /dev/null", "tar -C \"$0\" --sort=name --xattrs --acls -cf - . | cat > /dev/null"];
const NAMES: [&str; 3] = ["backstay", "tar", "tar, sorted, attributes"];

/// One reading of a tree.
struct Sample {
    /// Seconds.
    wall: f64,
    /// Seconds of user and system time of everything that took part.
    cpu: f64,
}

impl Sample {
    fn take(work: impl FnOnce()) -> Self {
        let (began, cpu_began) = (Instant::now(), cpu());
        work();
        Self { wall: began.elapsed().as_secs_f64(), cpu: cpu() - cpu_began }
    }
}

/// CPU time of this process and of the children that it waited for, in seconds (proc(5), `/proc/pid/stat`, in ticks of 10 ms).
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux with /proc");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(4).map(|ticks| ticks.parse::<f64>().expect("a number") / 100.0).sum()
}

fn backstay(runtime: &tokio::runtime::Runtime, root: &Path) {
    runtime.block_on(async {
        let options = DirectoryOptions::new("tree".parse().expect("a name"), root.to_owned());
        let mut artifacts = DirectorySource::new(options).open(&RunContext::default()).await.expect("the tree can be opened");
        let mut stream = artifacts.remove(0).open.await.expect("the tree can be opened");
        let mut buffer = vec![0; 1 << 20];
        while stream.read(&mut buffer).await.expect("the tree can be read") > 0 {}
    });
}

fn tar(command: &str, root: &Path) {
    let status = Command::new("sh").args(["-c", command]).arg(root).status().expect("sh and tar");
    assert!(status.success(), "{command}: {status}");
}

/// Numbers that look random and are always the same (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % end
    }
}

/// Files spread over directories of 500; `size` draws the size of each.
fn generate(root: &Path, files: usize, size: impl Fn(&mut Numbers) -> usize) {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let content: Vec<u8> = (0..4 << 20).map(|_| u8::try_from(numbers.below(256)).unwrap_or(0)).collect();
    for file in 0..files {
        let directory = root.join(format!("{:04}", file / 500));
        if file % 500 == 0 {
            std::fs::create_dir_all(&directory).expect("created");
        }
        std::fs::write(directory.join(format!("{file:07}.bin")), &content[..size(&mut numbers)]).expect("written");
    }
}

fn count(root: &Path) -> usize {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    entries.map(|entry| if entry.file_type().is_ok_and(|kind| kind.is_dir()) { count(&entry.path()) } else { 1 }).sum()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // cargo itself adds --bench
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let has = |flag: &str| arguments.iter().any(|a| a == flag);
    let value = arguments.iter().position(|a| a == "--files").map(|at| at + 1);
    let files = value.map_or(if has("--quick") { 20_000 } else { 200_000 }, |at| arguments[at].parse().expect("--files NUMBER"));
    let rounds = if has("--quick") { 3 } else { 5 };

    let scratch = tempfile::tempdir().expect("a temporary directory");
    let (small, media) = (scratch.path().join("small"), scratch.path().join("media"));
    generate(&small, files, |numbers| numbers.below(2049));
    generate(&media, files / 20, |numbers| {
        // even over the orders of magnitude: 512 bytes to 4 MiB
        let magnitude = 9 + numbers.below(13);
        (1 << magnitude) + numbers.below(1 << magnitude)
    });
    let mut trees = vec![("many small files".to_owned(), small), ("all sizes".to_owned(), media)];
    let given = arguments.iter().enumerate().filter(|(at, a)| !a.starts_with("--") && Some(*at) != value);
    trees.extend(given.map(|(_, a)| (a.clone(), PathBuf::from(a))));

    let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("a runtime");
    println!("median of {rounds} rounds, {} caches; rate: files a second, against plain tar", if has("--cold") { "cold" } else { "warm" });
    for (name, root) in &trees {
        let files = count(root);
        let mut samples: [Vec<Sample>; 3] = Default::default();
        // round 0 only fills the caches
        for round in 0..=rounds {
            for (at, samples) in samples.iter_mut().enumerate() {
                if has("--cold") {
                    rustix::fs::sync();
                    std::fs::write("/proc/sys/vm/drop_caches", "3").expect("--cold needs root");
                }
                let sample = Sample::take(|| match at {
                    0 => backstay(&runtime, root),
                    _ => tar(TAR[at - 1], root),
                });
                if round > 0 {
                    samples.push(sample);
                }
            }
        }
        println!("\n{name}, {files} files\n{:<24} {:>8} {:>8} {:>10} {:>6}", "", "wall s", "cpu s", "files/s", "rate");
        let plain = median(samples[1].iter().map(|sample| sample.wall).collect());
        for (name, samples) in NAMES.iter().zip(&samples) {
            let wall = median(samples.iter().map(|sample| sample.wall).collect());
            let cpu = median(samples.iter().map(|sample| sample.cpu).collect());
            println!("{name:<24} {wall:>8.2} {cpu:>8.2} {:>10.0} {:>6.2}", files as f64 / wall, plain / wall);
        }
    }
}
