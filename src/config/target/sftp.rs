//! The keys of SFTP → [`SftpOptions`].

use super::super::raw::RawTarget;
use super::super::validate::{Check, filled};
use crate::storage::{SftpCredentials, SftpOptions};

pub(super) fn sftp(name: &str, raw: &RawTarget, check: &mut Check<'_>) -> SftpOptions {
    let credentials = match (filled(&raw.identity_file), &raw.password.0) {
        (None, None) => SftpCredentials::Ambient,
        (Some(file), None) => SftpCredentials::Identity(check.absolute(file)),
        (None, Some(password)) => SftpCredentials::Password(password.clone()),
        (Some(_), Some(_)) => {
            let text = "is one of two credentials: `identity_file` is set, too (a key with a passphrase has to be in an agent)";
            check.fault(&["targets", name, "password"], text);
            SftpCredentials::Ambient
        }
    };
    let agent = check.options.env.get("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty());
    SftpOptions {
        credentials,
        known_hosts_file: filled(&raw.known_hosts_file).map(|file| check.absolute(file)),
        agent: agent.map(Into::into),
    }
}
