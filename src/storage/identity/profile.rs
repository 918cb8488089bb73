//! A profile of the files that AWS's own tools use: keys, or a program that prints them. Read again each time that credentials are asked for.
//!
//! Sign-in by SSO and roles take AWS's own tools; `aws configure export-credentials --format process` hands what they get to any program.

use std::io::ErrorKind;

use object_store::aws::AwsCredential;

use super::error::{IdentityError, Needs};
use super::ini::{self, Keys, Kind};
use super::{Given, helper};
use crate::storage::options::Profile;

/// What a profile says of its credentials.
#[derive(Debug, PartialEq, Eq)]
enum Says<'a> {
    Keys {
        id: &'a str,
        secret: &'a str,
        token: Option<&'a str>,
    },
    Process(&'a str),
    /// What is not done here.
    Needs(Needs),
    /// One of the two keys.
    Half(&'static str),
    Nothing,
}

/// Once.
pub(super) async fn ask(profile: &Profile) -> Result<Given, IdentityError> {
    let keys = keys(profile)?;
    match says(&keys) {
        Says::Keys { id, secret, token } => {
            let credential = AwsCredential { key_id: id.into(), secret_key: secret.into(), token: token.map(Into::into) };
            Ok(Given { credential, lifetime: None })
        }
        Says::Process(command) => helper::ask(profile, command).await,
        Says::Needs(needs) => Err(IdentityError::ProfileNeeds { profile: profile.name.clone(), needs }),
        Says::Half(missing) => Err(IdentityError::ProfileLacks { profile: profile.name.clone(), missing }),
        Says::Nothing => {
            Err(IdentityError::ProfileLacks { profile: profile.name.clone(), missing: "aws_access_key_id` or `credential_process" })
        }
    }
}

impl Profile {
    /// Its `region`, if its files can be read and say one.
    pub fn region(&self) -> Option<String> {
        keys(self).ok()?.remove("region").filter(|region| !region.is_empty())
    }

    /// A variable of the environment in which the configuration was read.
    pub(super) fn environment(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What both files say; the credentials file wins.
fn keys(profile: &Profile) -> Result<Keys, IdentityError> {
    let files = [(&profile.config_file, Kind::Config), (&profile.credentials_file, Kind::Credentials)];
    let mut found: Option<Keys> = None;
    for (path, kind) in files {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(source) => return Err(IdentityError::ProfileFile { path: path.clone(), source }),
        };
        if let Some(more) = ini::profile(&text, kind, &profile.name) {
            found.get_or_insert_default().extend(more);
        }
    }
    let files = || files.map(|(path, _)| path.display().to_string()).join(" or ");
    found.ok_or_else(|| IdentityError::NoProfile { profile: profile.name.clone(), files: files() })
}

/// A role goes before the keys that it is taken with; keys go before a program, as in AWS's SDKs.
fn says(keys: &Keys) -> Says<'_> {
    let of = |key: &str| keys.get(key).map(String::as_str).filter(|value| !value.is_empty());
    if of("role_arn").is_some() {
        return Says::Needs(Needs::Role);
    }
    match (of("aws_access_key_id"), of("aws_secret_access_key"), of("credential_process")) {
        (Some(id), Some(secret), _) => Says::Keys { id, secret, token: of("aws_session_token") },
        (Some(_), None, _) => Says::Half("aws_secret_access_key"),
        (None, Some(_), _) => Says::Half("aws_access_key_id"),
        (None, None, Some(command)) => Says::Process(command),
        (None, None, None) if keys.keys().any(|key| key.starts_with("sso_")) => Says::Needs(Needs::Sso),
        (None, None, None) if keys.contains_key("login_session") => Says::Needs(Needs::Sso),
        (None, None, None) => Says::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_says_one_thing() {
        let of = |text: &str| {
            let keys = ini::profile(&format!("[x]\n{text}"), Kind::Credentials, "x").expect("a profile");
            format!("{:?}", says(&keys))
        };
        assert_eq!(of(""), "Nothing");
        assert_eq!(of("region = r"), "Nothing");
        assert_eq!(of("aws_access_key_id = A\naws_secret_access_key = S"), "Keys { id: \"A\", secret: \"S\", token: None }");
        assert_eq!(of("aws_access_key_id = A\naws_secret_access_key ="), "Half(\"aws_secret_access_key\")");
        assert_eq!(of("aws_secret_access_key = S"), "Half(\"aws_access_key_id\")");
        assert_eq!(of("credential_process = a b"), "Process(\"a b\")");
        assert_eq!(of("sso_session = s\nsso_account_id = 1"), "Needs(Sso)");
        assert_eq!(of("sso_session = s\ncredential_process = a"), "Process(\"a\")");
        assert_eq!(of("role_arn = r\naws_access_key_id = A\naws_secret_access_key = S"), "Needs(Role)");
    }
}
