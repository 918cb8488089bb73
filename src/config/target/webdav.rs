//! The keys of WebDAV → [`WebDavOptions`].

use std::path::Path;

use super::super::raw::RawTarget;
use super::super::validate::{Check, filled};
use crate::storage::{WebDavCredentials, WebDavOptions};

pub(super) fn webdav(name: &str, raw: &RawTarget, check: &mut Check<'_>) -> WebDavOptions {
    let path = |key| ["targets", name, key];
    if raw.url.starts_with("http://") && !raw.allow_http {
        let text = "is not encrypted, and passwords would be readable on the way: use `https://`, or set `allow_http = true` for a network that \
            you trust";
        check.fault(&path("url"), text);
    }
    let credentials = match (filled(&raw.user), &raw.password.0, &raw.token.0) {
        (None, None, None) => WebDavCredentials::Nobody,
        (None, None, Some(token)) => WebDavCredentials::Bearer(token.clone()),
        (Some(user), Some(password), None) => {
            if user.contains(':') {
                check.fault(&path("user"), "must not hold a `:` (RFC 7617)");
            }
            WebDavCredentials::Basic { user, password: password.clone() }
        }
        (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
            check.fault(&path("token"), "is one of two credentials: `user` or `password` is set, too");
            WebDavCredentials::Nobody
        }
        (Some(_), None, None) => missing(name, "password", "`user` is set", check),
        (None, Some(_), None) => missing(name, "user", "`password` is set", check),
    };
    let ca_file = filled(&raw.ca_file).map(|path| check.absolute(Path::new(&path)));
    WebDavOptions { credentials, allow_http: raw.allow_http, ca_file }
}

fn missing(name: &str, key: &str, why: &str, check: &mut Check<'_>) -> WebDavCredentials {
    let path = ["targets", name, key];
    if !check.is_faulty(&path) {
        check.fault(&path, format!("is missing: {why}"));
    }
    WebDavCredentials::Nobody
}
