//! The keys of S3 → [`S3Options`].

use std::path::Path;

use super::super::raw::RawTarget;
use super::super::validate::{Check, filled};
use super::{endpoint, part_size};
use crate::secret::Secret;
use crate::storage::{Addressing, Checksum, Profile, S3Options, Sse};

mod profile;
mod web_identity;

/// Smallest and largest upload part of S3.
const PART: std::ops::RangeInclusive<u64> = 5 * 1024 * 1024..=5 * 1024 * 1024 * 1024;

/// The keys of S3, in a section of either kind.
pub(in crate::config) fn s3(section: &str, name: &str, raw: &RawTarget, check: &mut Check<'_>) -> S3Options {
    let from_env = |variable: &str, check: &Check<'_>| {
        check.options.env.get(variable).filter(|v| !v.is_empty()).map(|_| Secret::Env { name: variable.into(), default: None })
    };
    endpoint(section, name, raw, "`access_key_id` and `secret_access_key`", check);
    let (mut id, mut key, mut token) = (raw.access_key_id.0.clone(), raw.secret_access_key.0.clone(), raw.session_token.0.clone());
    let profile = profile::profile(section, name, raw, check);
    let region = region(raw, profile.as_ref(), check);
    let web_identity = web_identity::web_identity(section, name, raw, &region, check);
    if web_identity.is_some() || profile.is_some() {
        // those of authentik's environment; others are a fault
        (id, key, token) = (None, None, None);
    } else if id.is_none() && key.is_none() {
        // a token belongs to its keys: never one of the environment to keys of the file
        id = from_env("AWS_ACCESS_KEY_ID", check);
        key = from_env("AWS_SECRET_ACCESS_KEY", check);
        token = token.or_else(|| from_env("AWS_SESSION_TOKEN", check));
    }
    match (&id, &key) {
        (Some(_), None) => missing_half(section, name, "secret_access_key", "access_key_id", check),
        (None, Some(_)) => missing_half(section, name, "access_key_id", "secret_access_key", check),
        _ => {}
    }
    S3Options {
        endpoint: filled(raw.endpoint.trim_end_matches('/')),
        region: Some(region),
        access_key_id: id,
        secret_access_key: key,
        session_token: token,
        web_identity: web_identity.map(Box::new),
        profile,
        addressing: match raw.addressing.as_str() {
            "path" => Addressing::Path,
            "virtual" => Addressing::Virtual,
            _ => Addressing::Auto,
        },
        allow_http: raw.allow_http,
        ca_file: filled(&raw.ca_file).map(|p| check.absolute(Path::new(&p))),
        insecure_skip_verify: raw.insecure_skip_verify,
        part_size: part_size(name, &raw.part_size, PART, "S3 takes parts of 5MiB to 5GiB", check),
        max_parts: raw.max_parts,
        storage_class: filled(&raw.storage_class),
        checksum: match raw.checksum.as_str() {
            "sha256" => Checksum::Sha256,
            "crc64nvme" => Checksum::Crc64Nvme,
            _ => Checksum::None,
        },
        sse: sse(name, raw, check),
    }
}

fn sse(name: &str, raw: &RawTarget, check: &mut Check<'_>) -> Sse {
    let at = |key| ["targets", name, key];
    let (key, id) = (&raw.sse_customer_key.0, filled(&raw.sse_kms_key_id));
    if id.is_some() && !raw.sse.starts_with("aws:kms") {
        check.fault(&at("sse_kms_key_id"), "is not used: `sse` is not `aws:kms`");
    }
    if key.is_some() && raw.sse != "customer" {
        check.fault(&at("sse_customer_key"), "is not used: `sse` is not `customer`");
    }
    match (raw.sse.as_str(), key) {
        ("AES256", _) => Sse::Store,
        ("aws:kms" | "aws:kms:dsse", _) => Sse::Kms { key: id, dual: raw.sse.ends_with("dsse") },
        ("customer", Some(key)) => {
            if raw.checksum != "none" {
                check.fault(&at("checksum"), "must be `none`: AWS joins no parts of both a checksum and a customer's key");
            }
            Sse::Customer(key.clone())
        }
        ("customer", None) => {
            check.fault(&at("sse_customer_key"), "is missing: `sse` is `customer`");
            Sse::None
        }
        _ => Sse::None,
    }
}

fn region(raw: &RawTarget, profile: Option<&Profile>, check: &Check<'_>) -> String {
    let variable = |name: &str| check.options.env.get(name).filter(|v| !v.is_empty()).cloned();
    let region = filled(&raw.region).or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
    region.or_else(|| profile?.region()).unwrap_or_else(|| "us-east-1".into())
}

fn missing_half(section: &str, name: &str, missing: &str, given: &str, check: &mut Check<'_>) {
    let path = [section, name, missing];
    if !check.is_faulty(&path) {
        check.fault(&path, format!("is missing: `{given}` is set"));
    }
}
