//! `keygen`: a key pair, of which only the public half belongs on the host that is backed up.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::args::KeygenArgs;
use super::output;
use crate::clock::{Clock, SystemClock};
use crate::encryption::KeyPair;
use crate::error::Error;
use crate::secret::Revealed;
use crate::signature::SigningKey;

pub(super) fn run(args: &KeygenArgs) -> Result<(), Error> {
    if args.signing { signing(args) } else { encryption(args) }
}

fn encryption(args: &KeygenArgs) -> Result<(), Error> {
    let pair = KeyPair::generate();
    let public = pair.recipient();
    deliver(args.output.as_deref(), &pair.identity(), &public)?;
    let place = args.output.as_ref().map_or("AGE-SECRET-KEY-1…".to_owned(), |path| path.display().to_string());
    output::story(&format!(
        "Put the public key into the configuration:\n\n  [encryption]\n  recipients = [\"{public}\"]\n\nWhoever loses the identity ({place}) \
         loses every backup that is encrypted to it alone, and whoever has it reads them. Keep it apart from the host that is backed up and \
         from the backups, in two places; only restore, verify, export and drill need it."
    ));
    Ok(())
}

fn signing(args: &KeygenArgs) -> Result<(), Error> {
    let no_random = |why: String| Error::Io { action: "make a key".into(), source: io::Error::other(why) };
    let (key, text) = SigningKey::generate().map_err(no_random)?;
    let public = key.public();
    deliver(args.output.as_deref(), &text, &public.to_string())?;
    let place = args.output.as_ref().map_or("/etc/backstay/signing.key".to_owned(), |path| path.display().to_string());
    output::story(&format!(
        "On the host that is backed up, where the worker can read the file and others cannot:\n\n  [encryption]\n  signing_key = \
         \"file://{place}\"\n\nand wherever backups are read:\n\n  [encryption]\n  trusted_signers = [\"{public}\"]\n\nBackups that are not \
         signed by it are refused there. If the key is lost, make another and trust both."
    ));
    Ok(())
}

/// The secret half into a file that did not exist, and the public one as the answer; without a file, the secret is the answer.
fn deliver(path: Option<&Path>, secret: &Revealed, public: &str) -> Result<(), Error> {
    let created = SystemClock.now().format("%Y-%m-%dT%H:%M:%SZ");
    // as age-keygen writes it
    let text = Zeroizing::new(format!("# created: {created}\n# public key: {public}\n{}\n", secret.expose()));
    let Some(path) = path else { return output::answer(text.trim_end()) };
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Usage {
            what: format!("{} exists, and a key is never overwritten", path.display()),
            advice: Some("Name another file.".into()),
        },
        _ => Error::Io { action: format!("write {}", path.display()), source },
    })?;
    output::answer(public)
}
