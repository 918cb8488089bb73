use std::io::Write;

use super::*;

fn options(to: To, identities: &[&KeyPair]) -> (EncryptionOptions, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("key");
    let text: String = identities.iter().map(|pair| format!("# a comment\n\n{}\n", pair.identity().expose())).collect();
    fs::write(&path, text).expect("written");
    let identity_file = (!identities.is_empty()).then_some(path);
    (EncryptionOptions { to, identity_file, ..EncryptionOptions::default() }, dir)
}

fn recipients(pairs: &[&KeyPair]) -> To {
    To::Recipients(pairs.iter().map(|pair| pair.recipient().parse().expect("a recipient")).collect())
}

fn encrypt(options: &EncryptionOptions, plain: &[u8]) -> Vec<u8> {
    let seal = options.lock().expect("a lock").expect("encryption is on").seal().expect("a header");
    let mut writer = seal.0.wrap_output(Vec::new()).expect("a header");
    writer.write_all(plain).expect("written");
    writer.finish().expect("finished")
}

fn decrypt(options: &EncryptionOptions, stored: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut plain = Vec::new();
    options.identities().expect("identities").open(stored)?.read_to_end(&mut plain).map_err(OpenError::Read)?;
    Ok(plain)
}

#[test]
fn each_recipient_reads_it_and_nobody_else() {
    let (a, b, other) = (KeyPair::generate(), KeyPair::generate(), KeyPair::generate());
    let (first, _dir) = options(recipients(&[&a, &b]), &[&a]);
    let stored = encrypt(&first, b"content");
    assert!(stored.len() as u64 <= sealed_bytes(7, 2));
    for pairs in [vec![&a], vec![&b], vec![&other, &b]] {
        let (one, _dir) = options(To::Nobody, &pairs);
        assert_eq!(decrypt(&one, &stored).expect("decrypted"), b"content");
    }
    let (other, _dir) = options(To::Nobody, &[&other]);
    assert!(matches!(decrypt(&other, &stored), Err(OpenError::Locked)));
    assert!(matches!(decrypt(&EncryptionOptions::default(), &stored), Err(OpenError::Locked)));
}

#[test]
fn a_passphrase_opens_what_it_has_closed_within_bounds() {
    let with = |text: &str| EncryptionOptions { to: To::Passphrase(Secret::parse(text)), ..EncryptionOptions::default() };
    let stored = encrypt(&with("correct horse"), b"content");
    assert_eq!(decrypt(&with("correct horse"), &stored).expect("decrypted"), b"content");
    assert!(matches!(decrypt(&with("wrong"), &stored), Err(OpenError::Locked)));
    assert!(String::from_utf8_lossy(&stored[..100]).lines().nth(1).is_some_and(|line| line.ends_with(" 15")));
    assert_eq!(with("x").lock().expect("a lock").expect("on").memory(), 32 << 20);
    // age's own default would take 256 MiB of whoever reads it
    let text = String::from_utf8_lossy(&stored).into_owned();
    let hostile = text.replacen(" 15\n", " 18\n", 1);
    assert!(matches!(decrypt(&with("correct horse"), hostile.as_bytes()), Err(OpenError::Work(18))));
    assert!(with("").lock().is_err(), "an empty passphrase");
}

#[test]
fn what_is_no_age_file_is_refused_however_long() {
    let pair = KeyPair::generate();
    let (options, _dir) = options(recipients(&[&pair]), &[&pair]);
    let endless = [b"age-encryption.org/v1\n".to_vec(), b"-> X25519 a\n".repeat(1 << 20)].concat();
    for stored in [&b""[..], b"\x1f\x8b", b"age-encryption.org/v1\n--- x\n", b"age-encryption.org/v2\n--- x\n", &endless] {
        assert!(matches!(decrypt(&options, stored), Err(OpenError::NotAge)));
    }
}

#[test]
fn an_identity_file_is_read_or_refused_with_a_reason_that_holds_no_secret() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("key");
    let secret = KeyPair::generate().identity().expose().to_owned();
    for (text, expected) in [
        (String::new(), "holds no identity"),
        ("# only a comment\n".into(), "holds no identity"),
        (format!("{secret}x\n"), "line 1 is no age identity"),
        ("AGE-PLUGIN-YUBIKEY-1QQ\n".into(), "line 1 is for a plugin"),
        ("age-encryption.org/v1\n-> scrypt a 18\n".into(), "protected by a passphrase"),
        ("-----BEGIN AGE ENCRYPTED FILE-----\n".into(), "protected by a passphrase"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n".into(), "SSH keys are not supported"),
    ] {
        fs::write(&path, &text).expect("written");
        let error = EncryptionOptions { to: To::Nobody, identity_file: Some(path.clone()), ..EncryptionOptions::default() }
            .identities()
            .expect_err("refused")
            .to_string();
        assert!(error.contains(expected) && !error.contains(&secret), "{error}");
    }
    fs::remove_file(&path).expect("removed");
    let error =
        EncryptionOptions { to: To::Nobody, identity_file: Some(path), ..EncryptionOptions::default() }.identities().expect_err("missing");
    assert!(matches!(error, EncryptionError::Read { .. }));
}

#[test]
fn a_secret_key_is_no_recipient_and_is_not_repeated() {
    let pair = KeyPair::generate();
    let secret = pair.identity();
    for text in [secret.expose().to_owned(), secret.expose().to_lowercase()] {
        let error = text.parse::<Recipient>().expect_err("refused");
        assert!(error.contains("secret identity") && !error.contains(&text), "{error}");
    }
    for text in ["age1x", "ssh-ed25519 AAAA", "", "age1pq1xyz"] {
        assert!(text.parse::<Recipient>().is_err(), "{text}");
    }
    assert_eq!(pair.recipient().parse::<Recipient>().expect("one").to_string(), pair.recipient());
}
