//! `web_identity` → [`WebIdentity`].

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::super::super::layer::Origin;
use super::super::super::raw::{RawTarget, RawWebIdentity};
use super::super::super::validate::{Check, filled};
use crate::storage::{TokenChoice, TokenProvider, TokenSource, WebIdentity};

const TABLE: &str = "web_identity";

/// What every store takes: the least of AWS, MinIO and RustFS, and the most of MinIO. The role or the store may want less.
const DURATION: RangeInclusive<Duration> = Duration::from_secs(900)..=Duration::from_secs(365 * 24 * 3600);

/// The scopes of authentik's guide for MinIO.
const SCOPE: &str = "openid minio";

/// The table, if any key of it is set and all are right.
pub(super) fn web_identity(section: &str, name: &str, raw: &RawTarget, region: &str, check: &mut Check<'_>) -> Option<WebIdentity> {
    check.merged.value(&[section, name, TABLE])?;
    let table = &raw.web_identity;
    for key in ["access_key_id", "secret_access_key", "session_token"] {
        let path = [section, name, key];
        if check.merged.origin(&path).is_some_and(Origin::is_ours) {
            check.fault(&path, "cannot be used together with `web_identity`: credentials come from either");
        }
    }
    for (key, text) in [("token_url", &table.token_url), ("sts_endpoint", &table.sts_endpoint)] {
        super::super::url(&[section, name, TABLE, key], text, raw.allow_http, "`client_secret` or `password`", check);
    }
    let sts_endpoint = sts_endpoint(section, name, raw, region, check);
    let role_session_name = session_name(section, name, table, check);
    let duration = duration(section, name, table, check);
    let token = token(section, name, table, check)?;
    Some(WebIdentity {
        token,
        sts_endpoint,
        role_arn: filled(&table.role_arn),
        role_session_name,
        duration: duration?,
        ca_file: filled(&table.ca_file).or_else(|| filled(&raw.ca_file)).map(|p| check.absolute(Path::new(&p))),
        allow_http: raw.allow_http,
    })
}

/// From a file or from a provider: either, and whole.
fn token(section: &str, name: &str, table: &RawWebIdentity, check: &mut Check<'_>) -> Option<TokenSource> {
    let path = |key| [section, name, TABLE, key];
    let of_provider = ["token_url", "client_id", "client_secret", "username", "password", "scope", "token"];
    if !table.token_file.is_empty() {
        for key in of_provider.map(path).iter().filter(|p| check.merged.value(*p).is_some()).collect::<Vec<_>>() {
            check.fault(key, "cannot be used together with `token_file`: a token comes from a file or from a provider");
        }
        return Some(TokenSource::File(check.absolute(Path::new(&table.token_file))));
    }
    let missing = |key, why: &str, check: &mut Check<'_>| {
        if !check.is_faulty(&path(key)) {
            check.fault(&path(key), format!("is missing: {why}"));
        }
    };
    if table.token_url.is_empty() {
        missing("token_url", "who issues tokens? (or set `token_file`)", check);
        return None;
    }
    if table.client_id.is_empty() {
        missing("client_id", "as which client is the token asked for?", check);
    }
    match (table.username.is_empty(), &table.password.0) {
        (true, None) if table.client_secret.0.is_none() => missing("client_secret", "or set `username` and `password`", check),
        (true, Some(_)) => missing("username", "`password` is set", check),
        (false, None) => missing("password", "`username` is set", check),
        _ => {}
    }
    Some(TokenSource::Provider(TokenProvider {
        url: table.token_url.clone(),
        client_id: table.client_id.clone(),
        client_secret: table.client_secret.0.clone(),
        account: table.password.0.clone().map(|password| (table.username.clone(), password)),
        scope: filled(&table.scope).unwrap_or_else(|| SCOPE.to_owned()),
        choice: match table.token.as_str() {
            "id_token" => TokenChoice::Id,
            "access_token" => TokenChoice::Access,
            _ => TokenChoice::Auto,
        },
    }))
}

/// <https://docs.aws.amazon.com/general/latest/gr/sts.html>
fn sts_endpoint(section: &str, name: &str, raw: &RawTarget, region: &str, check: &mut Check<'_>) -> String {
    let own = filled(&raw.web_identity.sts_endpoint).or_else(|| filled(raw.endpoint.trim_end_matches('/')));
    own.unwrap_or_else(|| {
        if raw.web_identity.role_arn.is_empty() {
            check.fault(&[section, name, TABLE, "role_arn"], "is missing: AWS gives credentials for a role only");
        }
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        format!("https://sts.{region}.{domain}")
    })
}

/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>
fn session_name(section: &str, name: &str, table: &RawWebIdentity, check: &mut Check<'_>) -> String {
    let text = filled(&table.role_session_name).unwrap_or_else(|| "backstay".to_owned());
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_=,.@-+".contains(c);
    if !(2..=64).contains(&text.len()) || !text.chars().all(allowed) {
        check.fault(
            &[section, name, TABLE, "role_session_name"],
            format!("`{text}` is not a name of 2 to 64 letters, digits and characters of `_=,.@-+`"),
        );
    }
    text
}

fn duration(section: &str, name: &str, table: &RawWebIdentity, check: &mut Check<'_>) -> Option<Duration> {
    let path = [section, name, TABLE, "duration"];
    let Some(text) = filled(&table.duration) else { return Some(Duration::from_secs(3600)) };
    match humantime::parse_duration(&text) {
        Ok(duration) if DURATION.contains(&duration) => Some(duration),
        Ok(_) => {
            check.fault(&path, format!("`{text}` is out of range: stores give credentials for 15 minutes to a year"));
            None
        }
        Err(_) => {
            check.fault(&path, format!("`{text}` is not a duration, such as `15m` or `1h`"));
            None
        }
    }
}
