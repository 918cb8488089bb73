//! `[encryption]` → [`EncryptionOptions`].

use super::raw::RawEncryption;
use super::validate::{Check, filled};
use crate::encryption::{EncryptionOptions, MOST_RECIPIENTS, Recipient, To};
use crate::signature::VerifyingKey;

const SECTION: &str = "encryption";

pub(super) fn options(raw: &RawEncryption, check: &mut Check<'_>) -> EncryptionOptions {
    let mut recipients: Vec<Recipient> = Vec::new();
    for text in raw.recipients.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        match text.parse() {
            Ok(recipient) if recipients.contains(&recipient) => {}
            Ok(recipient) => recipients.push(recipient),
            Err(problem) => check.fault(&[SECTION, "recipients"], problem),
        }
    }
    if recipients.len() > MOST_RECIPIENTS {
        check.fault(&[SECTION, "recipients"], format!("there are {}, and at most {MOST_RECIPIENTS} can be", recipients.len()));
    }
    let to = match (&raw.passphrase.0, recipients.is_empty()) {
        (None, true) => To::Nobody,
        (None, false) => To::Recipients(recipients),
        (Some(passphrase), true) => To::Passphrase(passphrase.clone()),
        (Some(_), false) => {
            check.fault(&[SECTION, "passphrase"], "cannot be used together with `recipients`: an age file has either");
            To::Nobody
        }
    };
    let mut trusted_signers: Vec<VerifyingKey> = Vec::new();
    for text in raw.trusted_signers.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        match text.parse() {
            Ok(signer) => trusted_signers.push(signer),
            Err(problem) => check.fault(&[SECTION, "trusted_signers"], problem),
        }
    }
    let identity_file = filled(&raw.identity_file).map(|path| check.absolute(path));
    EncryptionOptions { to, identity_file, signing_key: raw.signing_key.0.clone(), trusted_signers }
}
