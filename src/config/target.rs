//! `[targets.NAME]` → [`TargetOptions`].

use std::num::NonZeroU64;
use std::ops::RangeInclusive;

use bytesize::ByteSize;

use super::raw::RawTarget;
use super::validate::{Check, filled};
use crate::storage::{KINDS, Limiter, Location, TargetOptions};

mod azure;
mod gcs;
mod kinds;
mod s3;
mod sftp;
mod webdav;

pub(super) use s3::s3;

/// The target, if its keys make one; else the faults are in `check`.
pub(super) fn options(name: &str, raw: &RawTarget, check: &mut Check<'_>) -> Option<TargetOptions> {
    let mut location = location("targets", name, raw, check);
    match &mut location {
        Some(Location::File(_)) => {}
        Some(Location::S3 { options, .. }) => **options = s3("targets", name, raw, check),
        Some(Location::Azure { options, .. }) => **options = azure::azure(name, raw, check),
        Some(Location::Gcs { options, .. }) => **options = gcs::gcs(name, raw, check),
        Some(Location::WebDav { options, .. }) => **options = webdav::webdav(name, raw, check),
        Some(Location::Sftp { options, .. }) => **options = sftp::sftp(name, raw, check),
        // the keys of a target whose url is wrong are still looked at, as far as they may be of S3
        None => drop(s3("targets", name, raw, check)),
    }
    if let Some(location) = &location {
        kinds::foreign_keys(name, location, check);
    }
    let limit = limit(name, &raw.limit, check);
    Some(TargetOptions { name: check.name("targets", name)?, location: location?, limit })
}

/// What a `url` may be.
fn kinds(section: &str) -> &'static str {
    if section == "bucket" { "`s3://bucket/prefix`" } else { KINDS }
}

fn location(section: &str, name: &str, raw: &RawTarget, check: &mut Check<'_>) -> Option<Location> {
    let path = [section, name, "url"];
    let (url, kinds) = (raw.url.as_str(), kinds(section));
    if url.is_empty() {
        if !check.is_faulty(&path) {
            check.fault(&path, format!("is missing: where do backups go? ({kinds})"));
        }
        return None;
    }
    let is_scheme = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-'));
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        let hint = if url.starts_with(['/', '.']) { format!(" (did you mean `file://{url}`?)") } else { String::new() };
        check.fault(&path, format!("is not a URL: expected {kinds}{hint}"));
        return None;
    };
    // before any message that would quote it
    let authority = rest.split('/').next().unwrap_or_default();
    let holds_credentials = match (scheme, authority.rsplit_once('@')) {
        ("file", _) => false,
        // ssh's name of a user is no secret
        ("sftp", Some((user, _))) => user.contains(':'),
        (_, Some(_)) => true,
        (_, None) => rest.contains('@') && authority.contains(':'),
    };
    if holds_credentials {
        let instead = match scheme {
            "az" => "`account_key` or `sas_token`",
            "gs" => "`service_account`",
            "http" | "https" => "`user` and `password`",
            "sftp" => "`identity_file` or `password`",
            _ => "`access_key_id` and `secret_access_key`",
        };
        check.fault(&path, format!("must not hold credentials: use {instead}"));
        return None;
    }
    // what follows is often a pasted signature, and would be taken for a part of the names of objects
    if matches!(scheme, "s3" | "az" | "gs" | "http" | "https") && rest.contains(['?', '#']) {
        let instead = match scheme {
            "az" => "a shared access signature goes into `sas_token`, other options into keys",
            _ => "options go into keys of their own",
        };
        check.fault(&path, format!("must not hold `?` or `#`: {instead}"));
        return None;
    }
    match scheme {
        "file" | "s3" => {}
        "sftp" if !cfg!(feature = "sftp") => {
            check.fault(&path, "is not in this build of the program: it was made without the feature `sftp`");
            return None;
        }
        "az" | "gs" | "http" | "https" | "sftp" if section == "targets" => {}
        "az" | "gs" | "http" | "https" | "sftp" => {
            check.fault(&path, format!("`{scheme}://` is no place for it: use {kinds}"));
            return None;
        }
        _ => {
            let hint = super::keys::hint(scheme, ["file", "s3", "az", "gs", "https", "sftp"]);
            check.fault(&path, format!("there is no kind of target `{scheme}://`{hint}: expected {kinds}"));
            return None;
        }
    }
    if scheme == "file" && !rest.is_empty() && !rest.starts_with(['/', '.']) {
        check.fault(&path, format!("`{url}` names a host: expected `file:///{rest}` or `file://./{rest}`"));
        return None;
    }
    match Location::parse(url) {
        Ok(Location::File(directory)) => Some(Location::File(check.absolute(directory))),
        Ok(Location::S3 { bucket, .. } | Location::Gcs { bucket, .. }) if !is_bucket(&bucket) => {
            check.fault(&path, "is not a bucket: its name may hold letters, digits, `.`, `-` and `_`");
            None
        }
        Ok(Location::Azure { container, .. }) if !is_container(&container) => {
            check.fault(&path, "is not a container: its name may hold lower-case letters, digits and `-`");
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
        _ => None,
    }
}

/// <https://learn.microsoft.com/en-us/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata>
fn is_container(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_bucket(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// Looks at the URL of a server; `instead` is where its credentials belong.
fn endpoint(section: &str, name: &str, raw: &RawTarget, instead: &str, check: &mut Check<'_>) {
    url(&[section, name, "endpoint"], &raw.endpoint, raw.allow_http, instead, check);
}

/// The URL of a server, which is not encrypted only where that was allowed.
fn url(path: &[&str], text: &str, allow_http: bool, instead: &str, check: &mut Check<'_>) {
    if text.is_empty() {
        return;
    }
    match url::Url::parse(text) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            check.fault(path, format!("must not hold credentials: use {instead}"));
        }
        // such as a signature
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            check.fault(path, format!("must have nothing from `?` or `#` on: use {instead} for credentials"));
        }
        Ok(url) if url.scheme() == "https" && url.has_host() => {}
        Ok(url) if url.scheme() == "http" && url.has_host() => {
            if !allow_http {
                check.fault(
                    path,
                    format!("`{text}` is not encrypted: use `https://`, or set `allow_http = true` for a network that you trust"),
                );
            }
        }
        _ if text.contains('@') => check.fault(path, "is not a URL: expected `https://host:port`"),
        _ => check.fault(path, format!("`{text}` is not a URL: expected `https://host:port`")),
    }
}

/// Bytes of a part of an upload, within `range`.
fn part_size(name: &str, text: &str, range: RangeInclusive<u64>, limits: &str, check: &mut Check<'_>) -> Option<u64> {
    let text = filled(text)?;
    let path = ["targets", name, "part_size"];
    match text.parse::<ByteSize>() {
        Ok(size) if range.contains(&size.as_u64()) => Some(size.as_u64()),
        Ok(_) => {
            check.fault(&path, format!("`{text}` is out of range: {limits}"));
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
