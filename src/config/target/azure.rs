//! The keys of Azure → [`AzureOptions`].

use std::path::Path;

use super::super::raw::RawTarget;
use super::super::validate::{Check, filled};
use super::{endpoint, part_size};
use crate::secret::Secret;
use crate::storage::{AzureCredentials, AzureOptions};

/// Largest block, 4000 MiB. <https://learn.microsoft.com/en-us/rest/api/storageservices/put-block>
const BLOCK: std::ops::RangeInclusive<u64> = 1024 * 1024..=4000 * 1024 * 1024;

/// Tiers that are read at once. What lies in `Archive` has to be brought back first, which takes hours.
const TIERS: [&str; 3] = ["Hot", "Cool", "Cold"];

pub(super) fn azure(name: &str, raw: &RawTarget, check: &mut Check<'_>) -> AzureOptions {
    endpoint("targets", name, raw, "`account_key` or `sas_token`", check);
    let account =
        filled(&raw.account).or_else(|| variable(&["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"], check).map(|(_, text)| text));
    if account.is_none() {
        missing(name, "account", "which storage account is it in?", check);
    }
    if !raw.storage_class.is_empty() && !TIERS.contains(&raw.storage_class.as_str()) {
        let text = format!("`{}` is not one of `Hot`, `Cool`, `Cold`: what is archived cannot be restored at once", raw.storage_class);
        check.fault(&["targets", name, "storage_class"], text);
    }
    AzureOptions {
        account: account.unwrap_or_default(),
        credentials: credentials(name, raw, check),
        endpoint: filled(raw.endpoint.trim_end_matches('/')),
        allow_http: raw.allow_http,
        ca_file: filled(&raw.ca_file).map(|path| check.absolute(Path::new(&path))),
        part_size: part_size(name, &raw.part_size, BLOCK, "Azure takes blocks of 1MiB to 4000MiB", check),
        storage_class: filled(&raw.storage_class),
    }
}

/// Those of the section, or those of the environment: never some of both.
fn credentials(name: &str, raw: &RawTarget, check: &mut Check<'_>) -> AzureCredentials {
    let own = [
        ("account_key", raw.account_key.0.is_some()),
        ("sas_token", raw.sas_token.0.is_some()),
        ("client_secret", raw.client_secret.0.is_some()),
        ("federated_token_file", !raw.federated_token_file.is_empty()),
    ];
    let own: Vec<_> = own.iter().filter(|(_, set)| *set).map(|(key, _)| *key).collect();
    if let [first, second, ..] = own[..] {
        check.fault(&["targets", name, second], format!("is one of two credentials: `{first}` is set, too"));
    }
    let authority = variable(&["AZURE_AUTHORITY_HOST"], check).map(|(_, text)| text);
    let (tenant, client) = (filled(&raw.tenant_id), filled(&raw.client_id));
    let mut principal = |key: &str| {
        for (half, value) in [("tenant_id", &tenant), ("client_id", &client)] {
            if value.is_none() {
                missing(name, half, &format!("`{key}` is set"), check);
            }
        }
        (tenant.clone().unwrap_or_default(), client.clone().unwrap_or_default())
    };
    if let Some(key) = &raw.account_key.0 {
        return AzureCredentials::Key(key.clone());
    }
    if let Some(token) = &raw.sas_token.0 {
        return AzureCredentials::Sas(token.clone());
    }
    if let Some(secret) = &raw.client_secret.0 {
        let (tenant, client) = principal("client_secret");
        return AzureCredentials::Client { tenant, client, secret: secret.clone(), authority };
    }
    if let Some(token_file) = filled(&raw.federated_token_file) {
        let (tenant, client) = principal("federated_token_file");
        let token_file = check.absolute(token_file).display().to_string();
        return AzureCredentials::Federated { tenant, client, token_file, authority };
    }
    if tenant.is_none()
        && client.is_none()
        && let Some(found) = of_environment(authority, check)
    {
        return found;
    }
    AzureCredentials::Managed { client, endpoint: variable(&["IDENTITY_ENDPOINT"], check).map(|(_, text)| text) }
}

/// The names are those of Azure's own libraries and of its command line.
fn of_environment(authority: Option<String>, check: &Check<'_>) -> Option<AzureCredentials> {
    let secret = |names: &[&str]| variable(names, check).map(|(name, _)| Secret::Env { name, default: None });
    let text = |name: &str| variable(&[name], check).map(|(_, text)| text);
    if let Some(key) = secret(&["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCESS_KEY"]) {
        return Some(AzureCredentials::Key(key));
    }
    if let Some(token) = secret(&["AZURE_STORAGE_SAS_TOKEN"]) {
        return Some(AzureCredentials::Sas(token));
    }
    let (tenant, client) = (text("AZURE_TENANT_ID"), text("AZURE_CLIENT_ID")?);
    match (tenant, text("AZURE_FEDERATED_TOKEN_FILE"), secret(&["AZURE_CLIENT_SECRET"])) {
        (Some(tenant), Some(token_file), _) => Some(AzureCredentials::Federated { tenant, client, token_file, authority }),
        (Some(tenant), None, Some(secret)) => Some(AzureCredentials::Client { tenant, client, secret, authority }),
        _ => Some(AzureCredentials::Managed { client: Some(client), endpoint: text("IDENTITY_ENDPOINT") }),
    }
}

/// The first that is set of these variables, and its value.
fn variable(names: &[&str], check: &Check<'_>) -> Option<(String, String)> {
    let value = |name: &&str| check.options.env.get(*name).filter(|v| !v.is_empty()).map(|v| ((*name).to_owned(), v.clone()));
    names.iter().find_map(value)
}

fn missing(name: &str, key: &str, why: &str, check: &mut Check<'_>) {
    let path = ["targets", name, key];
    if !check.is_faulty(&path) {
        check.fault(&path, format!("is missing: {why}"));
    }
}
