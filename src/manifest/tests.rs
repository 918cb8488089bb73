//! Tests of the stored format.

use super::*;

fn sample() -> Manifest {
    let text = r#"{
        "format": 1, "name": "default-2026-01-02-030405", "job": "default", "created": "2026-01-02T03:04:05Z",
        "finished": "2026-01-02T03:05:05Z", "tool": "backstay 0.1.0", "host": "h", "status": "partial",
        "components": [
            {"name": "media", "kind": "directory", "status": "complete", "seconds": 1.5, "facts": {"files": 3}, "warnings": ["w"],
             "artifacts": [{"path": "media/media.tar.gz", "format": "tar", "encoding": "gzip", "raw_bytes": 10, "stored_bytes": 5,
                            "sha256": "00", "blake3": "11", "from_the_future": true}]},
            {"name": "redis", "kind": "redis", "status": "failed", "reason": "down", "seconds": 0}
        ],
        "from_the_future": [1]
    }"#;
    serde_json::from_str(text).expect("unknown members are ignored")
}

#[test]
fn a_summary_says_what_the_manifest_does() {
    let mut manifest = sample();
    manifest.components[0].fingerprint = Some(serde_json::json!({"large": [1, 2, 3]}));
    let bytes = manifest.to_bytes();
    let summary = Summary::from_bytes(&bytes).expect("a manifest");
    assert_eq!((&summary.name, &summary.job, summary.finished), (&manifest.name, &manifest.job, manifest.finished));
    assert_eq!((summary.status, &summary.only, &summary.replaced_by), (Status::Partial, &manifest.only, &manifest.replaced_by));
    assert_eq!(summary.components, ["media".parse().expect("a name")]);
    assert_eq!((summary.raw_bytes, summary.stored_bytes), (manifest.raw_bytes(), manifest.stored_bytes()));
    // what a restore would stumble over is no sound backup in a list either
    let text = String::from_utf8(bytes).expect("JSON").replace("\"tar\"", "\"new\"");
    let at = digits_at(text.as_bytes()).expect("a mark");
    let zeroed = format!("{}{}{}", &text[..at], "0".repeat(DIGITS), &text[at + DIGITS..]);
    let forged = format!("{}{}{}", &text[..at], sha256_hex(zeroed.as_bytes()), &text[at + DIGITS..]);
    assert!(matches!(Summary::from_bytes(forged.as_bytes()), Err(ManifestError::Unreadable(_))));
}

#[test]
fn what_was_written_is_read_back() {
    assert_eq!(Manifest::from_bytes(&sample().to_bytes()).expect("sound"), sample());
}

#[test]
fn every_flipped_bit_is_found() {
    let bytes = sample().to_bytes();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(matches!(Manifest::from_bytes(&flipped), Err(ManifestError::Damaged)), "bit {bit} of byte {at}");
        }
    }
}

/// With a checksum that fits, as whoever forges one will make it.
fn resealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = digits_at(&bytes).expect("a mark");
    bytes[at..at + DIGITS].fill(b'0');
    let digits = sha256_hex(&bytes);
    bytes[at..at + DIGITS].copy_from_slice(digits.as_bytes());
    bytes
}

#[test]
fn a_forged_manifest_is_refused_however_well_its_checksum_fits() {
    let key = || SigningKey::generate().expect("a key").0;
    let (ours, older, theirs) = (key(), key(), key());
    let trusted = [older.public(), ours.public()];
    let signed = sample().to_signed_bytes(&ours);
    assert_eq!(Manifest::from_bytes(&signed).expect("sound"), sample());
    assert_eq!(Summary::from_bytes(&signed).expect("sound").raw_bytes, 10);
    authenticate(&signed, &trusted).expect("by one of ours");
    authenticate(&sample().to_signed_bytes(&older), &trusted).expect("by the other");
    // where nobody is named, everybody is believed
    authenticate(&sample().to_bytes(), &[]).expect("no signature is asked for");

    let refused = |bytes: &[u8]| {
        Manifest::from_bytes(bytes).expect("its checksum fits");
        let error = authenticate(bytes, &trusted).expect_err("refused");
        assert!(error.is_distrust(), "{error}");
        error
    };
    assert!(matches!(refused(&sample().to_bytes()), ManifestError::Unsigned));
    assert!(matches!(refused(&sample().to_signed_bytes(&theirs)), ManifestError::Stranger(who) if who == theirs.public().to_string()));
    let text = String::from_utf8(signed.clone()).expect("JSON");
    // a name that is not one's own, and the hash of another content
    let posing = String::from_utf8(sample().to_signed_bytes(&theirs)).expect("JSON");
    let posing = posing.replace(&theirs.public().to_string(), &ours.public().to_string());
    for forged in [posing, text.replace("\"raw_bytes\": 10", "\"raw_bytes\": 11"), text.replace("\"sha256\": \"00\"", "\"sha256\": \"01\"")]
    {
        assert!(matches!(refused(&resealed(forged.as_bytes())), ManifestError::Forged(_)));
    }
    // the signature of another manifest
    let other = Manifest { host: "other".into(), ..sample() }.to_signed_bytes(&ours);
    let (at, from) = (signature_at(&signed).expect("one"), signature_at(&other).expect("one"));
    let mut grafted = signed.clone();
    grafted[at..at + SIGNATURE_DIGITS].copy_from_slice(&other[from..from + SIGNATURE_DIGITS]);
    assert!(matches!(refused(&resealed(&grafted)), ManifestError::Forged(_)));
}

#[test]
fn no_byte_of_a_signed_manifest_can_be_changed_even_with_a_checksum_that_fits() {
    let (key, _) = SigningKey::generate().expect("a key");
    let signed = sample().to_signed_bytes(&key);
    let own = digits_at(&signed).expect("a mark");
    // but its checksum's own digits, which follow from the rest, and whose mark it is found by
    let free = own - MARK.len()..own + DIGITS;
    for at in (0..signed.len()).filter(|at| !free.contains(at)) {
        let mut changed = signed.clone();
        changed[at] ^= 1;
        assert!(authenticate(&resealed(&changed), &[key.public()]).is_err(), "byte {at}");
    }
}

#[test]
fn what_was_cut_or_grew_is_found() {
    let bytes = sample().to_bytes();
    for end in 0..bytes.len() {
        assert!(matches!(Manifest::from_bytes(&bytes[..end]), Err(ManifestError::Damaged)), "cut at {end}");
    }
    assert!(matches!(Manifest::from_bytes(&[bytes, b" ".to_vec()].concat()), Err(ManifestError::Damaged)));
}

#[test]
fn a_newer_format_is_named() {
    for format in [0, 3] {
        let manifest = Manifest { format, ..sample() };
        assert!(matches!(Manifest::from_bytes(&manifest.to_bytes()), Err(ManifestError::Format(f)) if f == format));
    }
}

#[test]
fn sizes_that_cannot_be_added_are_refused() {
    let mut manifest = sample();
    let artifact = manifest.components[0].artifacts[0].clone();
    manifest.components[0].artifacts = vec![Artifact { raw_bytes: u64::MAX, ..artifact.clone() }, artifact.clone()];
    assert!(matches!(Manifest::from_bytes(&manifest.to_bytes()), Err(ManifestError::Senseless)));
    manifest.components[0].artifacts = vec![Artifact { stored_bytes: MOST_CLAIMED / 4, ..artifact.clone() }, artifact];
    Manifest::from_bytes(&manifest.to_bytes()).expect("large, and no nonsense");
}

#[test]
fn a_path_that_leaves_the_backup_is_refused() {
    let mut value = serde_json::to_value(sample()).expect("serialises");
    value["components"][0]["artifacts"][0]["path"] = "../../etc/passwd".into();
    assert!(serde_json::from_value::<Manifest>(value).is_err());
}
