//! Which keys belong to which kind of target. A key of another kind is a fault: more likely the `url` is not what was meant.

use config::ValueKind;

use super::super::keys;
use super::super::validate::Check;
use crate::storage::Location;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    S3,
    Azure,
    Google,
    WebDav,
    Sftp,
}

impl Kind {
    fn of(location: &Location) -> Self {
        match location {
            Location::File(_) => Self::Directory,
            Location::S3 { .. } => Self::S3,
            Location::Azure { .. } => Self::Azure,
            Location::Gcs { .. } => Self::Google,
            Location::WebDav { .. } => Self::WebDav,
            Location::Sftp { .. } => Self::Sftp,
        }
    }

    /// After "a key of".
    fn name(self) -> &'static str {
        match self {
            Self::Directory => "directories",
            Self::S3 => "S3",
            Self::Azure => "Azure",
            Self::Google => "Google",
            Self::WebDav => "WebDAV",
            Self::Sftp => "SFTP",
        }
    }

    /// After "that of".
    fn place(self) -> &'static str {
        match self {
            Self::Directory => "a directory",
            Self::S3 => "a bucket in S3",
            Self::Azure => "a container in Azure",
            Self::Google => "a bucket of Google",
            Self::WebDav => "a folder on a WebDAV server",
            Self::Sftp => "a folder on an SFTP server",
        }
    }
}

/// Keys that every target has.
const COMMON: [&str; 2] = ["url", "limit"];

/// Keys of other kinds than S3, or of several; what stands nowhere here belongs to S3.
const OWNERS: [(&str, &[Kind]); 18] = [
    ("endpoint", &[Kind::S3, Kind::Azure, Kind::Google]),
    ("allow_http", &[Kind::S3, Kind::Azure, Kind::Google, Kind::WebDav]),
    ("ca_file", &[Kind::S3, Kind::Azure, Kind::Google, Kind::WebDav]),
    ("part_size", &[Kind::S3, Kind::Azure, Kind::Google]),
    ("storage_class", &[Kind::S3, Kind::Azure, Kind::Google]),
    ("account", &[Kind::Azure]),
    ("account_key", &[Kind::Azure]),
    ("sas_token", &[Kind::Azure]),
    ("tenant_id", &[Kind::Azure]),
    ("client_id", &[Kind::Azure]),
    ("client_secret", &[Kind::Azure]),
    ("federated_token_file", &[Kind::Azure]),
    ("service_account", &[Kind::Google]),
    ("user", &[Kind::WebDav]),
    ("password", &[Kind::WebDav, Kind::Sftp]),
    ("token", &[Kind::WebDav]),
    ("identity_file", &[Kind::Sftp]),
    ("known_hosts_file", &[Kind::Sftp]),
];

/// Tells the keys that a target at `location` does not have.
pub(super) fn foreign_keys(name: &str, location: &Location, check: &mut Check<'_>) {
    let kind = Kind::of(location);
    let Some(section) = keys::section("targets") else { return };
    for key in section.keys.iter().filter(|key| !COMMON.contains(&key.name.as_str()) && key.later.is_none()) {
        let owners = OWNERS.iter().find(|(name, _)| *name == key.name).map_or(&[Kind::S3][..], |(_, owners)| owners);
        let path = section.path_of(name, key);
        let is_set = check.merged.value(&path).is_some_and(|value| !matches!(&value.kind, ValueKind::String(text) if text.is_empty()));
        if is_set && !owners.contains(&kind) {
            let names: Vec<_> = owners.iter().map(|owner| owner.name()).collect();
            check.fault(&path, format!("is a key of {}, but the `url` is that of {}", names.join(", "), kind.place()));
        }
    }
}
