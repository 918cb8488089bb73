//! What each codec makes of 1 MiB chunks: `cargo bench --bench codecs [-- [--quick] [FILE…]]`.
//!
//! The table decides the default codec and level, so it is made to be trusted on a machine that others use too: what counts is the CPU
//! time of the measuring thread, taken in several rounds that go over all codecs by turns; the median is printed, and how far the rounds
//! lay apart. Three kinds of data are generated, always the same; a FILE (a real dump, say) is measured besides them.

#![allow(clippy::print_stdout, reason = "a table is what it is for")]

use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use libdeflater::{CompressionLvl, Compressor};
use sha2::{Digest, Sha256};

#[path = "codecs/data.rs"]
mod data;

const CHUNK: usize = 1 << 20;

/// Compresses one chunk, or hashes it, and says how many bytes it stores for it.
type Encode = Box<dyn FnMut(&[u8]) -> usize>;

struct Codec {
    name: String,
    encode: Encode,
}

impl Codec {
    fn new(name: impl Into<String>, encode: impl FnMut(&[u8]) -> usize + 'static) -> Self {
        Self { name: name.into(), encode: Box::new(encode) }
    }

    /// A gzip member by zlib-rs, written as the pipeline would: a new encoder for each chunk.
    fn flate2(level: u32) -> Self {
        Self::new(format!("zlib-rs -{level}"), move |chunk| {
            let mut encoder = GzEncoder::new(Vec::with_capacity(chunk.len() / 2), Compression::new(level));
            encoder.write_all(chunk).expect("a vector takes everything");
            encoder.finish().expect("a vector takes everything").len()
        })
    }

    fn libdeflate(level: i32) -> Self {
        let mut compressor = Compressor::new(CompressionLvl::new(level).expect("a level that exists"));
        let mut out = Vec::new();
        Self::new(format!("libdeflate -{level}"), move |chunk| {
            out.resize(compressor.gzip_compress_bound(chunk.len()), 0);
            compressor.gzip_compress(chunk, &mut out).expect("the bound is enough")
        })
    }

    fn zstd(level: i32) -> Self {
        let mut compressor = zstd::bulk::Compressor::new(level).expect("a level that exists");
        Self::new(format!("zstd -{level}"), move |chunk| compressor.compress(chunk).expect("the bound is enough").len())
    }

    /// What storing costs without compression: a copy.
    fn none() -> Self {
        Self::new("none (a copy)", |chunk| black_box(chunk.to_vec()).len())
    }

    fn sha256() -> Self {
        Self::new("SHA-256", |chunk| {
            black_box(Sha256::digest(chunk));
            chunk.len()
        })
    }

    fn blake3() -> Self {
        Self::new("BLAKE3", |chunk| {
            black_box(blake3::hash(chunk));
            chunk.len()
        })
    }

    fn all() -> Vec<Self> {
        let mut all: Vec<Self> = [1, 2, 3, 4, 6].into_iter().map(Self::flate2).collect();
        all.extend((1..=6).map(Self::libdeflate));
        all.extend([1, 3].map(Self::zstd));
        all.extend([Self::none(), Self::sha256(), Self::blake3()]);
        all
    }
}

/// One measurement: passes over all chunks until `at_least` has gone by.
struct Sample {
    /// Raw bytes a second of CPU time, in MB (10^6 bytes).
    speed: f64,
    /// Wall time over CPU time: 1 with a core of its own.
    waited: f64,
    /// Raw bytes over stored bytes.
    ratio: f64,
}

impl Sample {
    fn take(codec: &mut Codec, chunks: &[&[u8]], at_least: Duration) -> Self {
        let (mut raw, mut stored) = (0, 0);
        let (began, cpu_began) = (Instant::now(), thread_cpu());
        while began.elapsed() < at_least {
            for chunk in chunks {
                raw += chunk.len();
                stored += (codec.encode)(black_box(chunk));
            }
        }
        let (wall, cpu) = (began.elapsed().as_secs_f64(), (thread_cpu() - cpu_began).as_secs_f64());
        Self { speed: raw as f64 / 1e6 / cpu, waited: wall / cpu, ratio: raw as f64 / stored as f64 }
    }
}

/// CPU time of this thread so far. The kernel brings the figure up to date when it schedules, hence the yield; it may still lag by one
/// tick (4 ms), which a measurement of 250 ms and a median bear.
fn thread_cpu() -> Duration {
    std::thread::yield_now();
    let line = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with /proc, and CONFIG_SCHED_INFO");
    Duration::from_nanos(line.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds come first"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// How far the rounds lay apart, in percent of their median.
fn spread(values: &[f64]) -> f64 {
    let (min, max) = values.iter().fold((f64::MAX, f64::MIN), |(min, max), &v| (min.min(v), max.max(v)));
    (max - min) / median(values.to_vec()) * 100.0
}

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").map(|s| s.split(' ').take(3).collect::<Vec<_>>().join(" ")).unwrap_or_default()
}

fn main() {
    // cargo itself adds --bench
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let quick = arguments.iter().any(|a| a == "--quick");
    let (rounds, at_least, mib) = if quick { (3, Duration::from_millis(60), 4) } else { (7, Duration::from_millis(250), 16) };

    let mut inputs = vec![
        ("dump".to_owned(), data::dump(mib * CHUNK)),
        ("random".to_owned(), data::random(mib * CHUNK)),
        ("mixed".to_owned(), data::mixed(mib * CHUNK)),
    ];
    for path in arguments.iter().filter(|a| !a.starts_with("--")) {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("read {path}: {e}"));
        // chunks from all over the file, not its head alone
        let step = (bytes.len() / CHUNK).div_ceil(4 * mib).max(1);
        inputs.push((path.clone(), bytes.chunks(CHUNK).step_by(step).flatten().copied().collect()));
    }

    let load_before = load_average();
    let mut codecs = Codec::all();
    let mut samples: Vec<Vec<Vec<Sample>>> = inputs.iter().map(|_| codecs.iter().map(|_| Vec::new()).collect()).collect();
    for _ in 0..rounds {
        for ((_, bytes), samples) in inputs.iter().zip(&mut samples) {
            let chunks: Vec<&[u8]> = bytes.chunks(CHUNK).collect();
            for (codec, samples) in codecs.iter_mut().zip(samples) {
                samples.push(Sample::take(codec, &chunks, at_least));
            }
        }
    }

    println!("chunks of 1 MiB, one thread, MB = 10^6 bytes raw a second of CPU time, median of {rounds} rounds");
    for ((name, bytes), samples) in inputs.iter().zip(&samples) {
        println!("\n{name}, {} MiB\n{:<16} {:>8} {:>8} {:>8}", bytes.len() >> 20, "codec", "MB/s", "spread", "ratio");
        for (codec, samples) in codecs.iter().zip(samples) {
            let speeds: Vec<f64> = samples.iter().map(|s| s.speed).collect();
            println!("{:<16} {:>8.0} {:>6.0} % {:>8.3}", codec.name, median(speeds.clone()), spread(&speeds), samples[0].ratio);
        }
    }
    let all = || samples.iter().flatten().flatten();
    println!(
        "\nnoise: the thread waited {:.2} times its CPU time in the median ({:.2} at worst; 1.00 is a core of its own); \
         load average before {load_before}, after {}",
        median(all().map(|s| s.waited).collect()),
        all().map(|s| s.waited).fold(0.0, f64::max),
        load_average()
    );
}
