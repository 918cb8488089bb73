//! `profile`, or `$AWS_PROFILE` → [`Profile`].

use std::path::{Path, PathBuf};

use super::super::super::layer::Origin;
use super::super::super::raw::RawTarget;
use super::super::super::validate::{Check, filled};
use crate::storage::Profile;

/// What a `credential_process` may need to know: who it is, and how the network is reached.
const ENVIRONMENT: [&str; 16] = [
    "HOME",
    "PATH",
    "USER",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "https_proxy",
    "http_proxy",
    "no_proxy",
];

/// What credentials can come from besides.
const OTHERS: [&str; 4] = ["access_key_id", "secret_access_key", "session_token", "web_identity"];

/// The profile of the section; that of the environment only if there are no keys at all.
pub(super) fn profile(section: &str, name: &str, raw: &RawTarget, check: &mut Check<'_>) -> Option<Profile> {
    let path = [section, name, "profile"];
    let variable = |check: &Check<'_>, variable: &str| check.options.env.get(variable).filter(|v| !v.is_empty()).cloned();
    let is_ours = |key: &str, check: &Check<'_>| check.merged.origin(&[section, name, key]).is_some_and(Origin::is_ours);
    let mut named = filled(&raw.profile);
    for key in OTHERS {
        if named.is_none() || !is_ours(key, check) {
            continue;
        }
        if is_ours("profile", check) {
            check.fault(&[section, name, key], "cannot be used together with `profile`: credentials come from either");
        } else {
            // what authentik is told is not what we are told
            named = None;
        }
    }
    let keys = || {
        let given = OTHERS.iter().any(|key| check.merged.value(&[section, name, key]).is_some());
        given || variable(check, "AWS_ACCESS_KEY_ID").is_some()
    };
    let profile = match named {
        Some(named) => named,
        None if keys() => return None,
        None => variable(check, "AWS_PROFILE")?,
    };
    let file = |variable_name: &str, file: &str| -> Option<PathBuf> {
        let own = variable(check, variable_name).map(PathBuf::from);
        own.or_else(|| Some(Path::new(&variable(check, "HOME")?).join(".aws").join(file))).map(|path| check.absolute(path))
    };
    let files = (file("AWS_CONFIG_FILE", "config"), file("AWS_SHARED_CREDENTIALS_FILE", "credentials"));
    let (Some(config_file), Some(credentials_file)) = files else {
        check.fault(
            &path,
            format!("where is the profile `{profile}`? HOME is not set, nor both AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE"),
        );
        return None;
    };
    let environment = ENVIRONMENT.iter().filter_map(|name| Some(((*name).to_owned(), variable(check, name)?))).collect();
    Some(Profile { name: profile, config_file, credentials_file, environment })
}
