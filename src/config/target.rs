//! `[targets.NAME]` → [`TargetOptions`].

use std::num::NonZeroU64;
use std::path::Path;

use bytesize::ByteSize;

use super::raw::RawTarget;
use super::validate::{Check, filled};
use crate::secret::Secret;
use crate::storage::{Addressing, Checksum, Limiter, Location, S3Options, TargetOptions};

/// Smallest and largest upload part of S3.
const PART: std::ops::RangeInclusive<u64> = 5 * 1024 * 1024..=5 * 1024 * 1024 * 1024;

/// The target, if its keys make one; else the faults are in `check`.
pub(super) fn options(name: &str, raw: &RawTarget, check: &mut Check<'_>) -> Option<TargetOptions> {
    let location = location("targets", name, raw, check);
    let s3 = match &location {
        Some(Location::File(_)) => {
            s3_keys_of_a_directory(name, check);
            S3Options { max_parts: raw.max_parts, ..S3Options::default() }
        }
        // the keys of a target whose url is wrong are still looked at
        _ => s3("targets", name, raw, check),
    };
    let limit = limit(name, &raw.limit, check);
    Some(TargetOptions { name: check.name("targets", name)?, location: location?, limit, s3 })
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
        Location::S3 { bucket, prefix } => Some((bucket, prefix)),
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

/// The keys of S3, in a section of either kind.
pub(super) fn s3(section: &str, name: &str, raw: &RawTarget, check: &mut Check<'_>) -> S3Options {
    let from_env = |variable: &str, check: &Check<'_>| {
        check.options.env.get(variable).filter(|v| !v.is_empty()).map(|_| Secret::Env { name: variable.into(), default: None })
    };
    endpoint(section, name, raw, check);
    let (mut id, mut key, mut token) = (raw.access_key_id.0.clone(), raw.secret_access_key.0.clone(), raw.session_token.0.clone());
    // a token belongs to its keys: never one of the environment to keys of the file
    if id.is_none() && key.is_none() {
        id = from_env("AWS_ACCESS_KEY_ID", check);
        key = from_env("AWS_SECRET_ACCESS_KEY", check);
        token = token.or_else(|| from_env("AWS_SESSION_TOKEN", check));
    }
    match (&id, &key) {
        (Some(_), None) => missing_half(section, name, "secret_access_key", "access_key_id", check),
        (None, Some(_)) => missing_half(section, name, "access_key_id", "secret_access_key", check),
        _ => {}
    }
    let variable = |name: &str| check.options.env.get(name).filter(|v| !v.is_empty()).cloned();
    let region = filled(&raw.region).or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
    S3Options {
        endpoint: filled(raw.endpoint.trim_end_matches('/')),
        region: Some(region.unwrap_or_else(|| "us-east-1".into())),
        access_key_id: id,
        secret_access_key: key,
        session_token: token,
        addressing: match raw.addressing.as_str() {
            "path" => Addressing::Path,
            "virtual" => Addressing::Virtual,
            _ => Addressing::Auto,
        },
        allow_http: raw.allow_http,
        ca_file: filled(&raw.ca_file).map(|p| check.absolute(Path::new(&p))),
        insecure_skip_verify: raw.insecure_skip_verify,
        part_size: part_size(name, &raw.part_size, check),
        max_parts: raw.max_parts,
        storage_class: filled(&raw.storage_class),
        checksum: if raw.checksum == "sha256" { Checksum::Sha256 } else { Checksum::None },
    }
}

fn missing_half(section: &str, name: &str, missing: &str, given: &str, check: &mut Check<'_>) {
    let path = [section, name, missing];
    if !check.is_faulty(&path) {
        check.fault(&path, format!("is missing: `{given}` is set"));
    }
}

fn endpoint(section: &str, name: &str, raw: &RawTarget, check: &mut Check<'_>) {
    let path = [section, name, "endpoint"];
    if raw.endpoint.is_empty() {
        return;
    }
    match url::Url::parse(&raw.endpoint) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            check.fault(&path, "must not hold credentials: use `access_key_id` and `secret_access_key`");
        }
        Ok(url) if url.scheme() == "https" && url.has_host() => {}
        Ok(url) if url.scheme() == "http" && url.has_host() => {
            if !raw.allow_http {
                check.fault(
                    &path,
                    format!("`{}` is not encrypted: use `https://`, or set `allow_http = true` for a network that you trust", raw.endpoint),
                );
            }
        }
        _ if raw.endpoint.contains('@') => check.fault(&path, "is not a URL: expected `https://host:port`"),
        _ => check.fault(&path, format!("`{}` is not a URL: expected `https://host:port`", raw.endpoint)),
    }
}

fn part_size(name: &str, text: &str, check: &mut Check<'_>) -> Option<u64> {
    let text = filled(text)?;
    let path = ["targets", name, "part_size"];
    match text.parse::<ByteSize>() {
        Ok(size) if PART.contains(&size.as_u64()) => Some(size.as_u64()),
        Ok(_) => {
            check.fault(&path, format!("`{text}` is out of range: S3 takes parts of 5MiB to 5GiB"));
            None
        }
        Err(_) => {
            check.fault(&path, format!("`{text}` is not a size, such as `16MiB`"));
            None
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
