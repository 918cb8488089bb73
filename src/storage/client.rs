//! The HTTP client of a bucket or container: what it tells object_store of an answer decides whether the request is repeated.
//!
//! object_store repeats what fails on the way, by the rules of [`super::retry`], but it does not see all of it. Here
//!
//! - an answer other than the content of an object is read to its end first: one that breaks off is a request that failed. (The content
//!   goes on from where it broke: [`super::read`].)
//! - every request may be repeated, whatever became of it: one that puts the same bytes again, finds nothing left to delete, or finds its
//!   own object where it creates one ([`super::Target::create`] looks) does no harm. An upload that was begun twice is swept.
//! - what S3 answers with status 400 though the request was sound ([`GARBLED`]) counts as the fault on the way that it is.
//! - a store that says when to come back is not asked before, within reason.
//! - whoever sends much, or has much joined, is waited for longer: the time runs while the request is still being sent.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector};
use object_store::signer::Method;
use object_store::{Certificate, ClientOptions};

use super::error::{StorageError, element};
use crate::name::TargetName;

/// A store that sends nothing for so long is asked again.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A request that carries a part, or asks for parts to be copied or joined, may take so long. What takes longer a job's `stall_timeout` cuts.
const WORK_TIMEOUT: Duration = Duration::from_secs(1800);

/// Bytes that may be sent within [`READ_TIMEOUT`] over any line that is of use.
const SMALL: usize = 1 << 20;

/// The longest that a store's wish to be asked later is heeded.
const LONGEST_WISH: Duration = Duration::from_secs(30);

/// Codes with status 400 of requests that did not arrive as they were sent.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>
const GARBLED: [&str; 4] = ["RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"];

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How to connect to the store of a target. `ca_file` is trusted besides the system's roots.
///
/// # Errors
/// When it cannot be read, or holds no certificates.
pub(super) fn options(target: &TargetName, allow_http: bool, ca_file: Option<&Path>) -> Result<ClientOptions, StorageError> {
    // The whole-request timeout would cut a long body: what must not stand still is each read, which `Connector` sees to.
    let mut options = ClientOptions::new().with_timeout_disabled().with_connect_timeout(CONNECT_TIMEOUT).with_allow_http(allow_http);
    if let Some(path) = ca_file {
        let unread = |source| StorageError::Directory { target: target.clone(), path: path.display().to_string(), source };
        let pem = std::fs::read(path).map_err(unread)?;
        let certificates =
            Certificate::from_pem_bundle(&pem).map_err(|source| StorageError::Setup { target: target.clone(), source: source.into() })?;
        for certificate in certificates {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

/// Makes [`Client`]s.
#[derive(Debug)]
pub(super) struct Connector;

#[derive(Debug)]
struct Client {
    usual: HttpClient,
    patient: HttpClient,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let connect = |timeout| ReqwestConnector::default().connect(&options.clone().with_read_timeout(timeout));
        Ok(HttpClient::new(Client { usual: connect(READ_TIMEOUT)?, patient: connect(WORK_TIMEOUT)? }))
    }
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let client = if is_work(&request) { &self.patient } else { &self.usual };
        let content = is_content(&request);
        let response = client.execute(request).await.map_err(repeatable)?;
        let status = response.status();
        if content && status.is_success() {
            return Ok(response);
        }
        let wish = matches!(status.as_u16(), 429 | 503).then(|| wish(&response, Utc::now())).flatten();
        let (mut parts, body) = response.into_parts();
        let body = body.bytes().await.map_err(repeatable)?;
        if status.as_u16() == 400 && is_garbled(&body) {
            parts.status = 503.try_into().expect("a status");
        }
        if let Some(wish) = wish {
            tracing::debug!(?wish, "the store asks to be asked later");
            tokio::time::sleep(wish).await;
        }
        Ok(HttpResponse::from_parts(parts, body.into()))
    }
}

/// Whether the time until the answer is time that the request takes.
fn is_work(request: &HttpRequest) -> bool {
    let asks = |what: &str| request.uri().query().is_some_and(|query| query.contains(what));
    let completes =
        || (*request.method() == Method::POST && asks("uploadId=")) || (*request.method() == Method::PUT && asks("comp=blocklist"));
    let copies = || ["x-amz-copy-source", "x-goog-copy-source"].iter().any(|header| request.headers().contains_key(*header));
    let moves = || ["MOVE", "COPY"].contains(&request.method().as_str());
    request.body().content_length() > SMALL || copies() || moves() || completes()
}

/// Whether a good answer is the content of an object.
fn is_content(request: &HttpRequest) -> bool {
    let list = ["list-type=", "uploads", "comp="];
    let lists = |query: &str| query.split('&').any(|part| list.iter().any(|begins| part.starts_with(begins)));
    *request.method() == Method::GET && !request.uri().query().is_some_and(lists)
}

fn is_garbled(body: &[u8]) -> bool {
    element(&String::from_utf8_lossy(body), "Code").is_some_and(|code| GARBLED.contains(&code))
}

fn repeatable(error: HttpError) -> HttpError {
    match error.kind() {
        HttpErrorKind::Connect => error,
        _ => HttpError::new(HttpErrorKind::Request, error),
    }
}

/// What `Retry-After` says: seconds, or a date. RFC 9110 section 10.2.3.
fn wish(response: &HttpResponse, now: DateTime<Utc>) -> Option<Duration> {
    let text = response.headers().get("retry-after")?.to_str().ok()?;
    let wish = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now).to_std().ok()?,
    };
    Some(wish.min(LONGEST_WISH))
}

#[cfg(test)]
mod tests {
    use object_store::client::HttpRequestBody;
    use object_store::signer::HeaderValue;

    use super::*;

    fn request(method: Method, uri: &str, bytes: usize) -> HttpRequest {
        let mut request = HttpRequest::new(HttpRequestBody::from(vec![0; bytes]));
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().expect("a URI");
        request
    }

    #[test]
    fn a_store_is_asked_again_when_it_wants_to_be_within_reason() {
        let now: DateTime<Utc> = "2026-01-02T03:04:05Z".parse().expect("a time");
        let asks = |text: &'static str| {
            let mut response = HttpResponse::new(String::new().into());
            response.headers_mut().insert("retry-after", HeaderValue::from_static(text));
            wish(&response, now)
        };
        assert_eq!(asks("0"), Some(Duration::ZERO));
        assert_eq!(asks("7"), Some(Duration::from_secs(7)));
        assert_eq!(asks("86400"), Some(LONGEST_WISH));
        assert_eq!(asks("Fri, 02 Jan 2026 03:04:15 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(asks("Fri, 02 Jan 2026 23:04:15 GMT"), Some(LONGEST_WISH));
        for past_or_nonsense in ["Fri, 02 Jan 2026 03:04:00 GMT", "soon", "-1", ""] {
            assert_eq!(asks(past_or_nonsense), None, "{past_or_nonsense}");
        }
    }

    #[test]
    fn a_request_that_did_not_arrive_as_it_was_sent_is_told_from_one_that_is_wrong() {
        let answer = |code: &str| format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>x</Message></Error>");
        assert!(GARBLED.iter().all(|code| is_garbled(answer(code).as_bytes())));
        for code in ["InvalidArgument", "EntityTooSmall", "ExpiredToken"] {
            assert!(!is_garbled(answer(code).as_bytes()), "{code}");
        }
        assert!(!is_garbled(b"") && !is_garbled(b"RequestTimeout"));
    }

    #[test]
    fn only_the_content_of_objects_is_not_read_before_it_is_handed_on() {
        assert!(is_content(&request(Method::GET, "http://s/b/uploads/key", 0)));
        assert!(is_content(&request(Method::GET, "http://s/b/key?versionId=1", 0)));
        assert!(is_content(&request(Method::GET, "http://s/c/key?sv=2022-11-02&sr=c&sig=x", 0)));
        for uri in [
            "http://s/b?list-type=2&prefix=a",
            "http://s/b?prefix=a&uploads=",
            "http://s/b?uploads",
            "http://s/c?restype=container&comp=list",
        ] {
            assert!(!is_content(&request(Method::GET, uri, 0)), "{uri}");
        }
        assert!(!is_content(&request(Method::PUT, "http://s/b/key", 1)));
    }

    #[test]
    fn a_line_that_is_slow_is_no_store_that_is_silent() {
        assert!(is_work(&request(Method::PUT, "http://s/b/key?partNumber=1&uploadId=x", SMALL + 1)));
        assert!(is_work(&request(Method::POST, "http://s/b/key?uploadId=x", 10)));
        assert!(is_work(&request(Method::PUT, "http://s/c/key?comp=blocklist", 10)));
        assert!(is_work(&request(Method::from_bytes(b"MOVE").expect("a method"), "http://s/c/key", 0)));
        // a lease that hung as long as that would be lost
        assert!(!is_work(&request(Method::PUT, "http://s/b/.backstay/leases/default/1.json", 300)));
        assert!(!is_work(&request(Method::POST, "http://s/b/key?uploads", 0)));
        assert!(!is_work(&request(Method::GET, "http://s/b/key", 0)));
    }
}
