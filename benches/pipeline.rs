//! What the pipeline costs beside the codec and the hashes that it is for: `cargo bench --bench pipeline [-- --quick]`.
//!
//! A stream from memory goes through the packer, its parts are thrown away. Beside it the same encoders' work is done in one plain loop:
//! chunk, compress, hash. The ratio of the CPU times is what reading, ordering, threads, memory budget and cutting into parts cost.

#![allow(clippy::print_stdout, reason = "a table is what it is for")]

use std::hint::black_box;
use std::io::Cursor;
use std::time::{Duration, Instant};

use backstay::manifest::Encoding;
use backstay::pipeline::{Budget, Codec, Encoder, Engine, PackOptions, Packer};
use sha2::{Digest, Sha256};

#[path = "codecs/data.rs"]
mod data;

const MIB: usize = 1 << 20;

/// Wall and CPU seconds of `work`.
fn measure(work: impl FnOnce()) -> (f64, f64) {
    let (began, cpu_began) = (Instant::now(), process_cpu());
    work();
    (began.elapsed().as_secs_f64(), (process_cpu() - cpu_began).as_secs_f64())
}

/// CPU time of the process, user and system, in ticks of 10 ms.
fn process_cpu() -> Duration {
    let line = std::fs::read_to_string("/proc/self/stat").expect("Linux with /proc");
    let fields: Vec<&str> = line.rsplit(')').next().map(|rest| rest.split_whitespace().collect()).unwrap_or_default();
    let ticks: u64 = fields[11..13].iter().map(|f| f.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

async fn pack(engine: &Engine, raw: &'static [u8], options: PackOptions) {
    let admission = engine.admit(options).await;
    let mut packer = Packer::new(engine, Cursor::new(raw), options, admission, None);
    while packer.next().await.expect("packed").is_some() {}
    packer.finish();
}

/// The work itself.
fn plain(codec: Codec, raw: &'static [u8]) {
    let (mut encoder, mut sha256, mut blake3) = (Encoder::new(codec).expect("an encoder"), Sha256::new(), blake3::Hasher::new());
    let mut out = Vec::new();
    for chunk in raw.chunks(MIB) {
        let length = encoder.encode(chunk, &mut out).expect("encoded");
        blake3.update(chunk);
        sha256.update(&out[..length]);
    }
    black_box((sha256.finalize(), blake3.finalize()));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let quick = std::env::args().any(|a| a == "--quick");
    let (rounds, mib) = if quick { (1, 16) } else { (5, 128) };
    let raw: &'static [u8] = Box::leak(data::mixed(mib * MIB).into_boxed_slice());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");

    println!("{mib} MiB, six tenths dense; {threads} threads; MB = 10^6 bytes raw; median of {rounds} rounds");
    println!("{:<10} {:>12} {:>14} {:>14} {:>8}", "codec", "wall MB/s", "pipeline CPU s", "plain CPU s", "ratio");
    for (name, encoding, level) in
        [("gzip", Encoding::Gzip, 0), ("zstd -1", Encoding::Zstd, 1), ("zstd -3", Encoding::Zstd, 3), ("none", Encoding::None, 0)]
    {
        let codec = Codec::new(encoding, level).expect("a codec");
        let options = PackOptions { codec, estimate: None, max_parts: None, part_size: None, stall: Duration::from_secs(60) };
        let (mut walls, mut cpus, mut plains) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let engine = Engine::new(Budget::new(96 * MIB), threads);
            let (wall, cpu) = measure(|| runtime.block_on(pack(&engine, raw, options)));
            walls.push(wall);
            cpus.push(cpu);
            plains.push(measure(|| plain(codec, raw)).1);
        }
        let (cpu, plain) = (median(cpus), median(plains));
        println!("{name:<10} {:>12.0} {cpu:>14.2} {plain:>14.2} {:>8.3}", raw.len() as f64 / 1e6 / median(walls), cpu / plain);
    }
}
