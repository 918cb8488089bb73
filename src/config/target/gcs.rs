//! The keys of Google Cloud Storage → [`GcsOptions`].

use std::path::Path;

use super::super::raw::RawTarget;
use super::super::validate::{Check, filled};
use super::{endpoint, part_size};
use crate::storage::{GcsCredentials, GcsOptions};

/// Smallest and largest part. <https://docs.cloud.google.com/storage/quotas#requests>
const PART: std::ops::RangeInclusive<u64> = 5 * 1024 * 1024..=5 * 1024 * 1024 * 1024;

/// All are read at once.
const CLASSES: [&str; 4] = ["STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"];

pub(super) fn gcs(name: &str, raw: &RawTarget, check: &mut Check<'_>) -> GcsOptions {
    endpoint("targets", name, raw, "`service_account`", check);
    if !raw.storage_class.is_empty() && !CLASSES.contains(&raw.storage_class.as_str()) {
        let text = format!("`{}` is not one of `STANDARD`, `NEARLINE`, `COLDLINE`, `ARCHIVE`", raw.storage_class);
        check.fault(&["targets", name, "storage_class"], text);
    }
    let of_environment = || check.options.env.get("GOOGLE_APPLICATION_CREDENTIALS").filter(|path| !path.is_empty()).cloned();
    let credentials = match &raw.service_account.0 {
        Some(key) => GcsCredentials::Account(key.clone()),
        None => of_environment().map_or(GcsCredentials::Ambient, GcsCredentials::File),
    };
    GcsOptions {
        credentials,
        endpoint: filled(raw.endpoint.trim_end_matches('/')),
        allow_http: raw.allow_http,
        ca_file: filled(&raw.ca_file).map(|path| check.absolute(Path::new(&path))),
        part_size: part_size(name, &raw.part_size, PART, "Google takes parts of 5MiB to 5GiB", check),
        storage_class: filled(&raw.storage_class),
    }
}
