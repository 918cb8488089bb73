//! Credentials for a token: AssumeRoleWithWebIdentity, <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>.
//!
//! The request is a form in the body: RustFS takes no other, and no proxy logs it. MinIO and RustFS answer at the endpoint of S3 itself, need
//! no role where the token names policies, and say the rest as AWS does.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use object_store::aws::AwsCredential;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest};
use object_store::signer::{HeaderValue, Method};
use object_store::{Certificate, ClientOptions};
use serde_json::Value as Json;

use super::error::IdentityError;
use super::{Given, grant};
use crate::secret::Revealed;
use crate::storage::client::Connector;
use crate::storage::error::element;
use crate::storage::options::{TokenSource, WebIdentity};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(30);

/// An answer's text is told up to so many characters.
const SHOWN: usize = 300;

/// Gives credentials for the token of an identity provider.
pub(in crate::storage) struct Web {
    options: WebIdentity,
    client: HttpClient,
}

/// What a server answered.
pub(super) struct Answer {
    pub(super) status: u16,
    /// When, by its own clock.
    pub(super) date: Option<DateTime<Utc>>,
    pub(super) body: Bytes,
}

impl Web {
    /// Sets the client up; no request is made yet.
    pub(in crate::storage) fn new(options: WebIdentity) -> Result<Self, IdentityError> {
        let mut client =
            ClientOptions::new().with_timeout(TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT).with_allow_http(options.allow_http);
        if let Some(path) = &options.ca_file {
            for certificate in certificates(path).map_err(|source| IdentityError::Certificates { path: path.clone(), source })? {
                client = client.with_root_certificate(certificate);
            }
        }
        let url = || options.sts_endpoint.clone();
        let client = Connector
            .connect(&client)
            .map_err(|error| IdentityError::StsUnreachable { url: url(), source: HttpError::new(HttpErrorKind::Unknown, error) })?;
        Ok(Self { options, client })
    }

    /// Once: a token, then credentials for it.
    pub(super) async fn ask(&self) -> Result<Given, IdentityError> {
        let token = self.token().await?;
        let url = &self.options.sts_endpoint;
        let answer = self.post(url, &assume(&self.options, &token)).await;
        let answer = answer.map_err(|source| IdentityError::StsUnreachable { url: url.clone(), source })?;
        given(&self.options, &token, &answer, Utc::now())
    }

    async fn token(&self) -> Result<Revealed, IdentityError> {
        match &self.options.token {
            TokenSource::File(path) => match tokio::fs::read_to_string(path).await {
                Ok(text) => Ok(Revealed::new(text.trim())),
                Err(source) => Err(IdentityError::TokenFile { path: path.clone(), source }),
            },
            TokenSource::Provider(provider) => {
                let answer = self.post(&provider.url, &grant::form(provider)?).await;
                let answer = answer.map_err(|source| IdentityError::ProviderUnreachable { url: provider.url.clone(), source })?;
                grant::token(provider, &answer)
            }
        }
    }

    async fn post(&self, url: &str, form: &Revealed) -> Result<Answer, HttpError> {
        let mut request = HttpRequest::new(form.expose().to_owned().into());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.parse().map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let headers = request.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert("accept", HeaderValue::from_static("application/json, application/xml, text/xml"));
        let response = self.client.execute(request).await?;
        let date = response.headers().get("date").and_then(|date| DateTime::parse_from_rfc2822(date.to_str().ok()?).ok());
        let status = response.status().as_u16();
        Ok(Answer { status, date: date.map(|date| date.to_utc()), body: response.into_body().bytes().await? })
    }
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Certificate::from_pem_bundle(&std::fs::read(path)?)?)
}

/// The body of the request.
fn assume(options: &WebIdentity, token: &Revealed) -> Revealed {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("Action", "AssumeRoleWithWebIdentity").append_pair("Version", "2011-06-15");
    if let Some(role) = &options.role_arn {
        form.append_pair("RoleArn", role);
    }
    form.append_pair("RoleSessionName", &options.role_session_name);
    form.append_pair("DurationSeconds", &options.duration.as_secs().to_string());
    Revealed::new(form.append_pair("WebIdentityToken", token.expose()).finish())
}

/// The credentials of the answer. How long they are good is counted by the server's own clock, if it says what that shows.
fn given(options: &WebIdentity, token: &Revealed, answer: &Answer, now: DateTime<Utc>) -> Result<Given, IdentityError> {
    let text = String::from_utf8_lossy(&answer.body);
    let of = |name: &str| element(&text, name).map(|found| quick_xml::escape::unescape(found).unwrap_or(found.into()).into_owned());
    let url = options.sts_endpoint.clone();
    if !(200..300).contains(&answer.status) {
        // a server that quotes the token must not bring it into a log
        let hide = |text: String| if token.expose().is_empty() { text } else { text.replace(token.expose(), "***") };
        let shown = |text: Option<String>| shown(&hide(text.unwrap_or_default()));
        return Err(IdentityError::StsRefused {
            url,
            status: answer.status,
            code: shown(of("Code")),
            text: shown(of("Message")),
            token: claims(token.expose()),
            ours: matches!(options.token, TokenSource::Provider(_)),
        });
    }
    let (Some(key_id), Some(secret_key)) = (of("AccessKeyId"), of("SecretAccessKey")) else {
        return Err(IdentityError::NoCredentials { url });
    };
    let until = of("Expiration").and_then(|time| DateTime::parse_from_rfc3339(&time).ok());
    let left = until.map(|until| (until.to_utc() - answer.date.unwrap_or(now)).to_std().unwrap_or_default());
    // one that does not say gives what was asked for
    let lifetime = left.unwrap_or(options.duration);
    Ok(Given { credential: AwsCredential { key_id, secret_key, token: of("SessionToken") }, lifetime: Some(lifetime) })
}

/// One line of printable characters.
pub(super) fn shown(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect()
}

/// What a token says of itself, as far as it decides who takes it: RFC 7519 section 4.1, and the policies for MinIO. Nothing of it is secret.
fn claims(token: &str) -> String {
    let payload = token.split('.').nth(1).and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
    let Some(Json::Object(claims)) = payload.and_then(|payload| serde_json::from_slice(&payload).ok()) else { return String::new() };
    let plain = |value: &Json| match value {
        Json::String(text) => text.clone(),
        Json::Array(items) => items.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    let mut told: Vec<String> = [("iss", "issuer"), ("aud", "audience"), ("policy", "policy")]
        .iter()
        .filter_map(|(claim, word)| Some(format!("{word} {}", plain(claims.get(*claim)?))))
        .collect();
    told.extend(
        claims
            .get("exp")
            .and_then(Json::as_i64)
            .and_then(|at| DateTime::from_timestamp(at, 0))
            .map(|at| at.format("until %F %T UTC").to_string()),
    );
    shown(&told.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> WebIdentity {
        WebIdentity {
            token: TokenSource::File("/token".into()),
            sts_endpoint: "https://s3".into(),
            role_arn: None,
            role_session_name: "backstay".into(),
            duration: Duration::from_secs(900),
            ca_file: None,
            allow_http: false,
        }
    }

    fn token(payload: &str) -> Revealed {
        Revealed::new(format!("head.{}.signature", BASE64_URL_SAFE_NO_PAD.encode(payload)))
    }

    fn ask(status: u16, date: Option<&str>, body: &str) -> Result<Given, IdentityError> {
        let date = date.map(|date| date.parse().expect("a time"));
        let answer = Answer { status, date, body: body.to_owned().into() };
        given(&options(), &token("{}"), &answer, "2026-01-01T11:00:00Z".parse().expect("a time"))
    }

    #[test]
    fn a_role_is_named_only_if_there_is_one() {
        let form = |role: Option<&str>| {
            let options = WebIdentity { role_arn: role.map(str::to_owned), ..options() };
            assume(&options, &Revealed::new("a.b+c.d")).expose().to_owned()
        };
        let rest = "RoleSessionName=backstay&DurationSeconds=900&WebIdentityToken=a.b%2Bc.d";
        assert_eq!(form(None), format!("Action=AssumeRoleWithWebIdentity&Version=2011-06-15&{rest}"));
        let with = format!("Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr&{rest}");
        assert_eq!(form(Some("arn:aws:iam::1:role/r")), with);
    }

    /// As in the documentation of AWS.
    const ANSWER: &str = "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
        <AssumeRoleWithWebIdentityResult><Credentials><SessionToken>AQoDYXdzEE0a8ANXXXXXXXXNO1ewxE5TijQyp+IEXAMPLE</SessionToken>\
        <SecretAccessKey>wJalrXUtnFEMI/K7&amp;MDENG/bPxRfiCYzEXAMPLEKEY</SecretAccessKey><Expiration>2026-01-01T12:00:00Z</Expiration>\
        <AccessKeyId>ASgeIAIOSFODNN7EXAMPLE</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult>\
        </AssumeRoleWithWebIdentityResponse>";

    #[test]
    fn credentials_and_their_life_are_read_by_the_clock_of_the_server() {
        let lifetime = |date: Option<&str>, body: &str| ask(200, date, body).expect("credentials").lifetime.expect("an end").as_secs();
        assert_eq!(lifetime(None, ANSWER), 3600);
        // half an hour ahead of this machine
        assert_eq!(lifetime(Some("2026-01-01T11:30:00Z"), ANSWER), 1800);
        assert_eq!(lifetime(Some("2026-01-01T12:30:00Z"), ANSWER), 0);
        assert_eq!(lifetime(None, &ANSWER.replace("Expiration", "Other")), 900);
        let credential = ask(200, None, ANSWER).expect("credentials").credential;
        assert_eq!(credential.key_id, "ASgeIAIOSFODNN7EXAMPLE");
        assert_eq!(credential.secret_key, "wJalrXUtnFEMI/K7&MDENG/bPxRfiCYzEXAMPLEKEY");
        assert_eq!(credential.token.as_deref(), Some("AQoDYXdzEE0a8ANXXXXXXXXNO1ewxE5TijQyp+IEXAMPLE"));
    }

    #[test]
    fn a_refusal_never_quotes_the_token() {
        let token = token("{\"aud\": [\"a\", \"b\"], \"iss\": \"https://auth/\", \"exp\": 1767268800, \"sub\": \"canary\"}");
        let body = format!(
            "<ErrorResponse><Error><Code>InvalidParameterValue</Code><Message>token {} has a wrong audience</Message></Error></ErrorResponse>",
            token.expose()
        );
        let answer = Answer { status: 400, date: None, body: body.into() };
        let error = given(&options(), &token, &answer, Utc::now()).expect_err("refused");
        assert_eq!(error.told(), "https://s3 gives no credentials for the token: InvalidParameterValue: token *** has a wrong audience");
        let advice = error.advice("the target");
        assert!(advice.ends_with("The token says: issuer https://auth/, audience a b, until 2026-01-01 12:00:00 UTC."), "{advice}");
        assert!(!format!("{error:?} {advice}").contains("canary") && !format!("{error:?}").contains(token.expose()));
    }

    #[test]
    fn who_gives_no_credentials_is_told_from_who_refuses() {
        let advice = |status, body: &str| ask(status, None, body).expect_err("none").advice("the target");
        assert!(advice(200, "<html></html>").contains("`sts_endpoint`"));
        assert!(advice(405, "").contains("`sts_endpoint`"));
        assert!(advice(403, "<Error><Code>AccessDenied</Code></Error>").contains("`role_arn`"));
        assert!(advice(400, "<Error><Code>ExpiredToken</Code></Error>").contains("`token_file`"));
    }

    #[test]
    fn what_is_no_token_says_nothing_of_itself() {
        for text in ["", "abc", "a.b.c", "a.!.c", token("[1]").expose()] {
            assert_eq!(claims(text), "", "{text}");
        }
    }
}
