//! `[targets.NAME]` → [`TargetOptions`].

use std::num::NonZeroU64;

use bytesize::ByteSize;

use super::raw::RawTarget;
use super::validate::{Check, filled};
use crate::storage::{Limiter, Location, TargetOptions};

mod s3;

pub(super) use s3::s3;

/// The target, if its keys make one; else the faults are in `check`.
pub(super) fn options(name: &str, raw: &RawTarget, check: &mut Check<'_>) -> Option<TargetOptions> {
    let mut location = location("targets", name, raw, check);
    match &mut location {
        Some(Location::File(_)) => s3_keys_of_a_directory(name, check),
        Some(Location::S3 { options, .. }) => **options = s3("targets", name, raw, check),
        // the keys of a target whose url is wrong are still looked at
        None => drop(s3("targets", name, raw, check)),
    }
    let limit = limit(name, &raw.limit, check);
    Some(TargetOptions { name: check.name("targets", name)?, location: location?, limit })
}

fn location(section: &str, name: &str, raw: &RawTarget, check: &mut Check<'_>) -> Option<Location> {
    let path = [section, name, "url"];
    let url = raw.url.as_str();
    if url.is_empty() {
        if !check.is_faulty(&path) {
            check.fault(&path, "is missing: where do backups go? (`file:///path` or `s3://bucket/prefix`)");
        }
        return None;
    }
    let is_scheme = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-'));
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        let hint = if url.starts_with(['/', '.']) { format!(" (did you mean `file://{url}`?)") } else { String::new() };
        check.fault(&path, format!("is not a URL: expected `file:///path` or `s3://bucket/prefix`{hint}"));
        return None;
    };
    // before any message that would quote it
    let authority = rest.split('/').next().unwrap_or_default();
    if scheme != "file" && (authority.contains('@') || rest.contains('@') && authority.contains(':')) {
        check.fault(&path, "must not hold credentials: use `access_key_id` and `secret_access_key`");
        return None;
    }
    match scheme {
        "file" | "s3" => {}
        "az" | "gs" | "http" | "https" | "sftp" => {
            check.fault(&path, format!("`{scheme}://` targets are not in this version: use `file:///path` or `s3://bucket/prefix`"));
            return None;
        }
        _ => {
            let hint = super::keys::hint(scheme, ["file", "s3"]);
            check.fault(&path, format!("there is no kind of target `{scheme}://`{hint}: expected `file:///path` or `s3://bucket/prefix`"));
            return None;
        }
    }
    if scheme == "file" && !rest.is_empty() && !rest.starts_with(['/', '.']) {
        check.fault(&path, format!("`{url}` names a host: expected `file:///{rest}` or `file://./{rest}`"));
        return None;
    }
    match Location::parse(url) {
        Ok(Location::File(directory)) => Some(Location::File(check.absolute(directory))),
        Ok(Location::S3 { bucket, .. }) if !is_bucket(&bucket) => {
            check.fault(&path, "is not a bucket: its name may hold letters, digits, `.`, `-` and `_`");
            None
        }
        Ok(location) => Some(location),
        Err(text) => {
            check.fault(&path, text);
            None
        }
    }
}

/// The bucket of a source, and the prefix in it.
pub(super) fn bucket(name: &str, raw: &RawTarget, check: &mut Check<'_>) -> Option<(String, String)> {
    let path = ["bucket", name, "url"];
    if raw.url.is_empty() {
        if !check.is_faulty(&path) {
            check.fault(&path, "is missing: which bucket is it? (`s3://bucket/prefix`)");
        }
        return None;
    }
    if raw.url.starts_with("file://") {
        check.fault(&path, "is a directory: make it a `[directory.NAME]` with a `path`");
        return None;
    }
    match location("bucket", name, raw, check)? {
        Location::S3 { bucket, prefix, .. } => Some((bucket, prefix)),
        Location::File(_) => None,
    }
}

fn is_bucket(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// Keys that a directory does not have: more likely the `url` is not what was meant.
fn s3_keys_of_a_directory(name: &str, check: &mut Check<'_>) {
    for key in ["endpoint", "access_key_id", "secret_access_key", "session_token"] {
        let path = ["targets", name, key];
        if check.merged.value(&path).is_some() {
            check.fault(&path, "is a key of S3, but the `url` is that of a directory");
        }
    }
}

fn limit(name: &str, text: &str, check: &mut Check<'_>) -> Option<Limiter> {
    let text = filled(text)?;
    let rate = text.trim().strip_suffix("/s").and_then(|rate| rate.trim().parse::<ByteSize>().ok());
    match rate.and_then(|rate| NonZeroU64::new(rate.as_u64())) {
        Some(rate) => Some(Limiter::new(rate)),
        None => {
            check.fault(&["targets", name, "limit"], format!("`{text}` is not bytes a second, such as `20MiB/s`"));
            None
        }
    }
}
