//! Why there are no credentials, and what to do about it.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::client::HttpError;
use thiserror::Error;

use crate::process::ProcessError;
use crate::secret::SecretError;

/// Nobody gives credentials; each variant names who was asked. Without tokens and secrets.
#[derive(Debug, Error)]
pub(in crate::storage) enum IdentityError {
    #[error("read `{key}` of `web_identity`")]
    Secret {
        key: &'static str,
        #[source]
        source: SecretError,
    },
    #[error("read the token file {}", path.display())]
    TokenFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("read the certificates in {}", path.display())]
    Certificates {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("ask the identity provider at {url} for a token")]
    ProviderUnreachable {
        url: String,
        #[source]
        source: HttpError,
    },
    /// `code`: that of RFC 6749 section 5.2, or empty.
    #[error("the identity provider at {url} gives no token: {}", answer(*status, code, text))]
    ProviderRefused { url: String, status: u16, code: String, text: String },
    #[error("the answer of the identity provider at {url} holds no {wanted}")]
    NoToken { url: String, wanted: &'static str },
    #[error("ask {url} for credentials")]
    StsUnreachable {
        url: String,
        #[source]
        source: HttpError,
    },
    /// `token`: what it says of itself. `ours`: it was issued for this request.
    #[error("{url} gives no credentials for the token: {}", answer(*status, code, text))]
    StsRefused { url: String, status: u16, code: String, text: String, token: String, ours: bool },
    #[error("{url} answers without credentials: nobody there gives them for tokens")]
    NoCredentials { url: String },
    #[error("read the AWS file {}", path.display())]
    ProfileFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("there is no profile `{profile}` in {files}")]
    NoProfile { profile: String, files: String },
    #[error("the profile `{profile}` {needs}, which only AWS's own tools do")]
    ProfileNeeds { profile: String, needs: Needs },
    #[error("the profile `{profile}` has no `{missing}`")]
    ProfileLacks { profile: String, missing: &'static str },
    #[error("the `credential_process` of profile `{profile}` is no command: a quote in it does not end")]
    Command { profile: String },
    #[error("there is no program `{program}`, the `credential_process` of profile `{profile}`")]
    NoProgram { profile: String, program: String },
    #[error("run the `credential_process` of profile `{profile}`")]
    Process {
        profile: String,
        #[source]
        source: ProcessError,
    },
    #[error("the `credential_process` of profile `{profile}` did not end within {}", humantime::format_duration(*after))]
    Slow { profile: String, after: Duration },
    #[error("the output of the `credential_process` of profile `{profile}` holds no credentials: {why}")]
    Output { profile: String, why: &'static str },
}

/// What a profile asks for and is not done here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) enum Needs {
    Sso,
    Role,
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sso => "signs in by SSO",
            Self::Role => "takes a role (`role_arn`)",
        })
    }
}

fn answer(status: u16, code: &str, text: &str) -> String {
    match (code, text) {
        ("", "") => format!("it answers {status}"),
        ("", text) => format!("it answers {status}: {text}"),
        (code, "") => code.to_owned(),
        (code, text) => format!("{code}: {text}"),
    }
}

/// What signing failed for.
pub(in crate::storage) fn identity_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a IdentityError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<Arc<IdentityError>>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

impl IdentityError {
    /// Whether the same question may be answered another time.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::ProviderUnreachable { .. } | Self::StsUnreachable { .. } => true,
            Self::ProviderRefused { status, .. } | Self::StsRefused { status, .. } => {
                *status >= 500 && *status != 501 || matches!(status, 408 | 429)
            }
            _ => false,
        }
    }

    /// With its innermost cause, in a line.
    pub(in crate::storage) fn told(&self) -> String {
        let mut innermost = self.source();
        while let Some(deeper) = innermost.and_then(std::error::Error::source) {
            innermost = Some(deeper);
        }
        innermost.map_or_else(|| self.to_string(), |cause| format!("{self}: {cause}"))
    }

    /// What the operator can do about it; `section` is where it is configured.
    pub(in crate::storage) fn advice(&self, section: &str) -> String {
        let text = match self {
            Self::Secret { .. } => "Check that the file or variable exists and that this user may read it.".to_owned(),
            Self::TokenFile { .. } => "Check `token_file` of `web_identity` in {section}, and that this user may read it.".to_owned(),
            Self::Certificates { .. } => "Check `ca_file` of {section} and of its `web_identity`.".to_owned(),
            Self::ProviderUnreachable { source, .. } => unreachable("`token_url` of `web_identity` in {section}", source),
            Self::StsUnreachable { source, .. } => {
                unreachable("`sts_endpoint` of `web_identity` in {section} (unset: its `endpoint`)", source)
            }
            Self::ProviderRefused { status, code, .. } => refused_by_provider(*status, code).to_owned(),
            Self::NoToken { wanted: "`id_token`", .. } => {
                "Add `openid` to `scope` of `web_identity` in {section}, or set `token = \"access_token\"`.".to_owned()
            }
            Self::NoToken { .. } => "Check that `token_url` of `web_identity` in {section} is a token endpoint.".to_owned(),
            Self::StsRefused { status, code, text, token, ours, .. } => refused_by_store(*status, code, text, token, *ours),
            Self::NoCredentials { .. } => NO_STS.to_owned(),
            Self::ProfileFile { .. } => "Let this user read it, or set AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE.".to_owned(),
            Self::NoProfile { .. } => {
                "Check `profile` of {section} (unset: AWS_PROFILE), and AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE, or HOME."
                    .to_owned()
            }
            Self::ProfileNeeds { profile, .. } => format!(
                "Make another profile with `credential_process = aws configure export-credentials --profile {profile} --format process`, and name \
                 that one as `profile` of {{section}}."
            ),
            Self::ProfileLacks { .. } | Self::Command { .. } => {
                "Correct the profile, or name another one as `profile` of {section}.".to_owned()
            }
            Self::NoProgram { .. } => "Install it, or write its whole path.".to_owned(),
            Self::Process { .. } | Self::Slow { .. } | Self::Output { .. } => {
                "Run the command by hand as this user: it has to print credentials, and must not ask anybody.".to_owned()
            }
        };
        text.replace("{section}", section)
    }
}

const NO_STS: &str = "Set `sts_endpoint` of `web_identity` in {section} to the server that gives credentials for tokens \
    (AssumeRoleWithWebIdentity), and configure the identity provider there.";

fn unreachable(keys: &str, source: &HttpError) -> String {
    let mut text = source.to_string();
    let mut next = source.source();
    while let Some(error) = next {
        text.push_str(&error.to_string());
        next = error.source();
    }
    if text.contains("UnknownIssuer") {
        return "Set `ca_file` of {section}, or of its `web_identity`, to the certificate of its authority.".to_owned();
    }
    format!("Check {keys}, and that the server runs.")
}

/// <https://www.rfc-editor.org/rfc/rfc6749#section-5.2>
fn refused_by_provider(status: u16, code: &str) -> &'static str {
    match code {
        "invalid_client" => {
            "Check `client_id` and `client_secret` of `web_identity` in {section}, and that the client still exists at the identity provider."
        }
        "invalid_grant" => {
            "Check `username` and `password` of `web_identity` in {section} (authentik: a token of the kind \"app password\", neither expired nor \
             revoked), the client's secret, and that this account may use the application."
        }
        "invalid_scope" => "Set `scope` of `web_identity` in {section} to scopes that this client may ask for.",
        "unauthorized_client" | "unsupported_grant_type" => {
            "Let this client use the grant \"client credentials\" at the identity provider; in authentik it has to be confidential."
        }
        _ if matches!(status, 404 | 405) => {
            "Check `token_url` of `web_identity` in {section}: the token endpoint, with the slash at its end if it has one \
             (authentik: `https://HOST/application/o/token/`)."
        }
        _ if status >= 500 => "Look at the log of the identity provider.",
        _ => "Check `web_identity` of {section} against the identity provider.",
    }
}

fn refused_by_store(status: u16, code: &str, text: &str, token: &str, ours: bool) -> String {
    let says = |advice: &str| if token.is_empty() { advice.to_owned() } else { format!("{advice} The token says: {token}.") };
    let text = text.to_lowercase();
    if code == "ExpiredToken" || code == "ExpiredTokenException" || text.contains("expired") {
        return says(if ours {
            "Set the clocks of this machine, the identity provider and the store, and let its tokens live for some minutes."
        } else {
            "Let `token_file` be renewed: the token in it has expired."
        });
    }
    if text.contains("audience") || text.contains("client id") {
        return says(
            "Let the store take this token's audience, or set `client_id` of `web_identity` in {section} to the one that it takes.",
        );
    }
    if text.contains("rolearn") && text.contains("required") {
        return says(
            "Set `role_arn` of `web_identity` in {section}, or have the identity provider name the store's policies in the claim that the \
             store reads (MinIO, RustFS: `policy`).",
        );
    }
    if matches!(status, 404 | 405 | 501) || matches!(code, "MethodNotAllowed" | "NotImplemented" | "InvalidAction" | "NoSuchBucket") {
        return NO_STS.to_owned();
    }
    match code {
        "InvalidIdentityToken" | "InvalidParameterValue" | "InvalidClientTokenId" => {
            says("Check that the store knows the token's issuer, and trusts the keys that it signs with.")
        }
        "AccessDenied" => says(
            "Check `role_arn` of `web_identity` in {section} and what the role trusts; without a role, that the token names policies of the store \
             in the claim that it reads (MinIO, RustFS: `policy`).",
        ),
        _ => says("Check `web_identity` of {section} against the store's configuration."),
    }
}
