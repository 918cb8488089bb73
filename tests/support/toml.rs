//! Sections of a configuration.

use std::path::Path;

use super::{Azurite, Postgres, Redis, Seaweed};

/// A TOML string, quoted so that any text stays what it is.
pub fn quoted(text: impl AsRef<str>) -> String {
    ::toml::Value::String(text.as_ref().to_owned()).to_string()
}

/// A PostgreSQL component of this name, all its databases or those given, as the superuser.
pub fn postgres(name: &str, server: &Postgres, databases: &[&str]) -> String {
    let databases: Vec<String> = databases.iter().map(quoted).collect();
    format!("[postgres.{name}]\nurl = {}\ndatabases = [{}]\n", quoted(server.url("postgres")), databases.join(", "))
}

pub fn redis(name: &str, server: &Redis) -> String {
    format!("[redis.{name}]\nurl = {}\n", quoted(server.url()))
}

pub fn directory(name: &str, path: &Path) -> String {
    format!("[directory.{name}]\npath = {}\n", quoted(path.display().to_string()))
}

pub fn file_target(name: &str, path: &Path) -> String {
    format!("[targets.{name}]\nurl = {}\n", quoted(format!("file://{}", path.display())))
}

pub fn s3_target(name: &str, server: &Seaweed, place: &str) -> String {
    s3_target_as(name, server, place, &server.access_key, &server.secret_key)
}

/// As [`s3_target`], through something in front of the server.
pub fn s3_target_by(name: &str, endpoint: &str, server: &Seaweed, place: &str) -> String {
    s3_target(name, server, place).replace(&quoted(server.endpoint()), &quoted(endpoint))
}

/// A container in Azure, reached at `endpoint` with this line of credentials.
pub fn azure_target(name: &str, endpoint: &str, place: &str, credential: &str) -> String {
    format!(
        "[targets.{name}]\nurl = {}\naccount = {}\nendpoint = {}\nallow_http = true\n{credential}\n",
        quoted(format!("az://{place}")),
        quoted(Azurite::ACCOUNT),
        quoted(endpoint),
    )
}

/// A bucket as a source.
pub fn bucket(name: &str, url: &str, endpoint: &str, access_key: &str, secret_key: &str) -> String {
    format!(
        "[bucket.{name}]\nurl = {}\nendpoint = {}\nregion = \"us-east-1\"\nallow_http = true\naccess_key_id = {}\n\
         secret_access_key = {}\n",
        quoted(url),
        quoted(endpoint),
        quoted(access_key),
        quoted(secret_key)
    )
}

/// With other keys than the server's own.
pub fn s3_target_as(name: &str, server: &Seaweed, place: &str, access_key: &str, secret_key: &str) -> String {
    format!(
        "[targets.{name}]\nurl = {}\nendpoint = {}\nregion = \"us-east-1\"\naddressing = \"path\"\nallow_http = true\n\
         access_key_id = {}\nsecret_access_key = {}\n",
        quoted(format!("s3://{place}")),
        quoted(server.endpoint()),
        quoted(access_key),
        quoted(secret_key)
    )
}
