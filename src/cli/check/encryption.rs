//! What `check` says of keys: whether they can be read, who could read the backups, and what would be lost with this host.

use super::{Finding, Verdict};
use crate::chain::explain;
use crate::config::Settings;
use crate::encryption::{EncryptionOptions, Identities, To};
use crate::signature::Authenticity;

/// Nothing of what is not configured.
pub(super) fn encryption(settings: &Settings) -> Vec<Finding> {
    let options = &settings.encryption;
    let mut findings = Vec::new();
    if options.is_on() || options.identity_file.is_some() {
        let (verdict, text) = keys(options);
        findings.push(Finding { subject: "encryption".into(), verdict, text });
    }
    if options.signing_key.is_some() || !options.trusted_signers.is_empty() {
        let (verdict, text) = signatures(options);
        findings.push(Finding { subject: "signatures".into(), verdict, text });
    }
    if options.is_on() && matches!(options.to, To::Recipients(_)) && options.identity_file.is_none() {
        let drilled = settings.jobs.iter().filter(|job| job.drill.is_some());
        findings.extend(drilled.map(|job| {
            Finding {
                subject: format!("drill of {}", job.name),
                verdict: Verdict::Failed,
                text: "a drill decrypts what it restores, and there is no `encryption.identity_file` here: drill on another host, and set \
                   `drill = \"\"` on this one"
                    .into(),
            }
        }));
    }
    findings
}

fn keys(options: &EncryptionOptions) -> (Verdict, String) {
    let read = options.lock().and_then(|lock| Ok((lock, options.identities()?)));
    let (lock, identities) = match read {
        Ok(both) => both,
        Err(error) => return (Verdict::Failed, explain(&error, error.advice())),
    };
    match &options.to {
        To::Nobody => (Verdict::Ok, format!("new backups are not encrypted; {} can be decrypted here", here(&identities))),
        To::Passphrase(_) => (
            Verdict::Warning,
            "by a passphrase, which this host knows: whoever takes the host reads all backups, and if it is kept nowhere else it is lost \
             with the host; `recipients` need no secret here"
                .into(),
        ),
        To::Recipients(_) => recipients(&lock.map(|lock| lock.recipients()).unwrap_or_default(), &identities),
    }
}

fn recipients(to: &[String], identities: &Identities) -> (Verdict, String) {
    let held = identities.recipients();
    let keep = "Whoever loses the identity loses the backups: keep it apart from this host and from the targets, in two places.";
    let text = format!("to {}. {keep}", to.join(", "));
    let own = to.iter().filter(|key| held.contains(key)).count();
    match own {
        0 if held.is_empty() => (Verdict::Ok, text),
        0 => (
            Verdict::Warning,
            format!(
                "{text} `identity_file` holds none of their identities ({}): what is backed up now cannot be restored with it",
                held.join(", ")
            ),
        ),
        own if own == to.len() => (
            Verdict::Warning,
            format!(
                "{text} `identity_file` is on this host, so that whoever takes the host reads all backups; and no recipient is one whose \
                 identity is not here: without a copy elsewhere, the backups are lost with the host"
            ),
        ),
        _ => (Verdict::Warning, format!("{text} `identity_file` is on this host, so that whoever takes the host reads all backups")),
    }
}

fn signatures(options: &EncryptionOptions) -> (Verdict, String) {
    let Authenticity { signer, trusted } = match options.authenticity() {
        Ok(authenticity) => authenticity,
        Err(error) => return (Verdict::Failed, explain(&error, error.advice())),
    };
    let believed = match &*trusted {
        [] => "every backup is believed, signed or not (`trusted_signers` is empty)".to_owned(),
        trusted => format!("believed are those of {}", trusted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    match signer.map(|key| key.public()) {
        Some(own) if !trusted.is_empty() && !trusted.contains(&own) => {
            (Verdict::Failed, format!("backups are signed by {own}, which is not believed here: {believed}"))
        }
        Some(own) => (Verdict::Ok, format!("backups are signed by {own}; {believed}")),
        None => (Verdict::Warning, format!("backups made here are not signed, so that they are refused here: {believed}")),
    }
}

fn here(identities: &Identities) -> String {
    format!("what is encrypted to {}", identities.recipients().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encryption::KeyPair;

    #[test]
    fn what_would_be_lost_with_the_host_or_read_by_its_thief_is_said() {
        let pairs: Vec<KeyPair> = (0..3).map(|_| KeyPair::generate()).collect();
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        let of = |to: &[usize], held: &[usize]| {
            let text: String = held.iter().map(|at| format!("{}\n", pairs[*at].identity().expose())).collect();
            std::fs::write(&path, text).expect("written");
            let to = To::Recipients(to.iter().map(|at| pairs[*at].recipient().parse().expect("a key")).collect());
            keys(&EncryptionOptions { to, identity_file: (!held.is_empty()).then(|| path.clone()), ..EncryptionOptions::default() })
        };
        for (to, held, verdict, says) in [
            (&[0][..], &[][..], Verdict::Ok, "loses the backups"),
            (&[0], &[0], Verdict::Warning, "lost with the host"),
            (&[0, 1], &[0], Verdict::Warning, "reads all backups"),
            (&[0, 1], &[2], Verdict::Warning, "cannot be restored with it"),
        ] {
            let (found, text) = of(to, held);
            assert!(found == verdict && text.contains(says), "{to:?} {held:?}: {text}");
            assert_eq!(text.contains("lost with the host"), says == "lost with the host", "{text}");
        }
        let missing = EncryptionOptions { to: To::Nobody, identity_file: Some("/nonexistent/key".into()), ..EncryptionOptions::default() };
        assert!(matches!(keys(&missing), (Verdict::Failed, _)));
    }
}
