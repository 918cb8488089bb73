//! The same with age: round trips, and every way in which ciphertext can be other than what was written.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::*;
use crate::encryption::{EncryptionOptions, KeyPair, Lock, To};
use crate::manifest::Encryption;

/// Bytes of ciphertext that are authenticated as one.
const PIECE: usize = (64 << 10) + 16;

struct Keys {
    pair: KeyPair,
    dir: tempfile::TempDir,
}

impl Keys {
    fn new() -> Self {
        let keys = Self { pair: KeyPair::generate(), dir: tempfile::tempdir().expect("a directory") };
        std::fs::write(keys.path(), format!("{}\n", keys.pair.identity().expose())).expect("written");
        keys
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("key")
    }

    fn lock(&self) -> Lock {
        let to = To::Recipients(vec![self.pair.recipient().parse().expect("a recipient")]);
        EncryptionOptions { to, ..EncryptionOptions::default() }.lock().expect("a lock").expect("on")
    }

    fn identities(&self) -> Identities {
        EncryptionOptions { to: To::Nobody, identity_file: Some(self.path()), ..EncryptionOptions::default() }
            .identities()
            .expect("identities")
    }
}

fn sealed(encoding: Encoding, packed: &Packed) -> Artifact {
    Artifact { encryption: Some(Encryption::Age), ..artifact(encoding, packed) }
}

async fn open(artifact: &Artifact, identities: &Identities, stored: &[u8]) -> io::Result<Vec<u8>> {
    let chunks: Vec<io::Result<Bytes>> = stored.chunks(100_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    let mut raw = Vec::new();
    unpack(artifact, identities, stream::iter(chunks)).read_to_end(&mut raw).await.map(|_| raw)
}

/// What fits into no block: random.
fn dense(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(len as u64).fill_bytes(&mut bytes);
    bytes
}

#[tokio::test]
async fn every_length_and_every_codec_comes_back_encrypted() {
    let keys = Keys::new();
    let chunk = seal::CHUNK;
    for encoding in ENCODINGS {
        for len in [0, 1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, chunk - 1, chunk, chunk + 1, 3 * chunk + 7] {
            for raw in [sample(len), dense(len)] {
                // parts end within blocks, too: what is left of a block is the beginning of the next part
                let options = PackOptions { part_size: Some(1_500_001), ..options(encoding) };
                let (parts, packed) =
                    pack_with(&engine(), io::Cursor::new(raw.clone()), options, Some(&keys.lock())).await.expect("packed");
                assert!(parts.iter().rev().skip(1).all(|part| part.len() == 1_500_001));
                let stored = parts.concat();
                assert_eq!((packed.raw_bytes, packed.stored_bytes), (len as u64, stored.len() as u64));
                if encoding == Encoding::None {
                    assert!(packed.stored_bytes <= crate::encryption::sealed_bytes(len as u64, 1));
                }
                let artifact = sealed(encoding, &packed);
                assert!(open(&artifact, &keys.identities(), &stored).await.expect("read back") == raw, "{encoding:?}, {len} bytes");
                read_over(&artifact, stream::iter([io::Result::Ok(Bytes::from(stored))])).await.expect("it is what was written");
            }
        }
    }
}

/// age's header differs from run to run, and so do the places that are cut: the pieces are counted from the end of the header.
#[tokio::test]
async fn no_changed_cut_or_moved_ciphertext_comes_back_as_an_end() {
    let keys = Keys::new();
    let identities = keys.identities();
    for encoding in ENCODINGS {
        let (parts, packed) =
            pack_with(&engine(), io::Cursor::new(dense(400_000)), options(encoding), Some(&keys.lock())).await.expect("packed");
        let stored = parts.concat();
        let artifact = sealed(encoding, &packed);
        let end = stored.windows(4).position(|w| w == b"\n---").expect("a header") + 1;
        let body = end + stored[end..].iter().position(|b| *b == b'\n').expect("its last line") + 1 + 16;
        let borders = (0..=6).map(|n| body + n * PIECE);
        let places: Vec<usize> = borders.flat_map(|at| [at - 1, at, at + 1]).filter(|at| *at < stored.len()).collect();
        for at in places.into_iter().chain((0..body).step_by(7)).chain([stored.len() - 1]) {
            let mut flipped = stored.clone();
            flipped[at] ^= 0x10;
            let swapped =
                [&stored[..body], &stored[body + PIECE..body + 2 * PIECE], &stored[body..body + PIECE], &stored[body + 2 * PIECE..]];
            for (what, bytes) in [("flipped", flipped), ("cut", stored[..at].to_vec()), ("swapped", swapped.concat())] {
                let error = open(&artifact, &identities, &bytes).await.expect_err(what);
                assert!(chain::find::<UnpackError>(&error).is_some_and(UnpackError::is_damage), "{encoding:?} {what} at {at}: {error}");
                let whole = read_over(&artifact, stream::iter([io::Result::Ok(Bytes::from(bytes))])).await.expect_err(what);
                assert!(whole.is_damage() && whole.is_different(), "{encoding:?} {what} at {at}: {whole}");
            }
        }
        // one who may write to the target can make the checksums fit; what he cannot make is a piece of his own
        let cut = &stored[..body + 2 * PIECE];
        let forged = Artifact { stored_bytes: cut.len() as u64, sha256: crate::manifest::sha256_hex(cut), ..artifact.clone() };
        let error = open(&forged, &identities, cut).await.expect_err("cut at a border");
        assert!(matches!(chain::find(&error), Some(UnpackError::Decrypt { .. })), "{encoding:?}: {error:?}");
    }
}

#[tokio::test]
async fn another_key_is_told_from_damage() {
    let (keys, others) = (Keys::new(), Keys::new());
    let (parts, packed) =
        pack_with(&engine(), io::Cursor::new(sample(3 * MIB)), options(Encoding::Gzip), Some(&keys.lock())).await.expect("packed");
    let (stored, artifact) = (parts.concat(), sealed(Encoding::Gzip, &packed));
    for identities in [others.identities(), Identities::default()] {
        let error = open(&artifact, &identities, &stored).await.expect_err("locked");
        let found = chain::find::<UnpackError>(&error).expect("ours");
        assert!(matches!(found, UnpackError::Locked { .. }) && !found.is_damage() && !found.is_different(), "{error:?}");
    }
    // a header that was changed opens for nobody: that is damage all the same
    let mut changed = stored.clone();
    let at = stored.windows(9).position(|w| w == b"-> X25519").expect("a recipient");
    changed[at + 12] = if changed[at + 12] == b'A' { b'B' } else { b'A' };
    let error = open(&artifact, &keys.identities(), &changed).await.expect_err("changed");
    assert!(chain::find::<UnpackError>(&error).is_some_and(UnpackError::is_damage), "{error:?}");
}

#[tokio::test]
async fn stock_age_and_the_stock_tools_behind_it_read_what_is_stored() {
    let keys = Keys::new();
    let raw = sample(5 * MIB);
    for (encoding, tool) in [(Encoding::Gzip, "gzip -dc"), (Encoding::Zstd, "zstd -dc"), (Encoding::None, "cat")] {
        let (parts, _) = pack_with(&engine(), io::Cursor::new(raw.clone()), options(encoding), Some(&keys.lock())).await.expect("packed");
        std::fs::write(keys.dir.path().join("stored"), parts.concat()).expect("written");
        let script = format!("age -d -i key stored | {tool}");
        let output = Command::new("bash").args(["-o", "pipefail", "-c", &script]).current_dir(keys.dir.path()).output().expect("a shell");
        assert!(output.status.success() && output.stdout == raw, "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn what_stock_age_encrypts_is_decrypted() {
    let keys = Keys::new();
    let raw = sample(MIB);
    let mut age = Command::new("age")
        .args(["-r", &keys.pair.recipient()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("age is needed: run ./test, which installs it ({e})"));
    let mut input = age.stdin.take().expect("piped");
    let writing = std::thread::spawn({
        let raw = raw.clone();
        move || input.write_all(&raw)
    });
    let stored = age.wait_with_output().expect("age ran").stdout;
    writing.join().expect("no panic").expect("written");
    let mut plain = Vec::new();
    keys.identities().open(stored.as_slice()).expect("opened").read_to_end(&mut plain).expect("read");
    assert!(plain == raw);
}

/// All streams ask for the memory of a passphrase at once, which is more than there is.
#[tokio::test]
async fn a_passphrase_takes_its_memory_from_the_budget_and_all_streams_end() {
    let engine = Engine::new(Budget::new(24 * MIB), 2);
    let with = || EncryptionOptions::by_passphrase("correct horse");
    let lock = with().lock().expect("a lock").expect("on");
    let work = (0..4).map(|i| {
        let (engine, lock) = (engine.clone(), lock.clone());
        async move {
            let (parts, packed) =
                pack_with(&engine, io::Cursor::new(sample(MIB + i)), options(Encoding::Gzip), Some(&lock)).await.expect("packed");
            (parts.concat(), packed)
        }
    });
    let all = tokio::time::timeout(Duration::from_secs(120), futures_util::future::join_all(work)).await.expect("none waits for ever");
    for (i, (stored, packed)) in all.into_iter().enumerate() {
        let artifact = sealed(Encoding::Gzip, &packed);
        let raw = open(&artifact, &with().identities().expect("identities"), &stored).await.expect("read back");
        assert!(raw == sample(MIB + i));
    }
}
