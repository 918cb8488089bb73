//! The objects of a bucket by any key, with all of their headers: what a bucket as a source needs.
//!
//! object_store's paths cannot spell every key (`a//b`, `dir/`), one such key fails its whole listing, and its traits do not carry every
//! header. The requests here are those of <https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html>,
//! signed, sent and repeated as those of [`super::bucket`].

use std::collections::VecDeque;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::{self, Stream};
use object_store::client::{HttpRequest, HttpRequestBody, HttpResponse};
use object_store::signer::{HeaderName, HeaderValue, Method};
use percent_encoding::utf8_percent_encode;
use thiserror::Error;
use tokio_util::task::AbortOnDropHandle;

use super::bucket::{Bucket, KEY};
use super::error::{Cause, StorageError, advice_for, element, within};
use super::options::S3Options;
use super::retry::Retries;
use super::s3;
use crate::name::TargetName;

mod page;
mod reading;
mod writing;

use page::{Page, page};
pub use reading::Reading;
pub use writing::Writing;

/// Largest object that is copied by one request. <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html>
const LARGEST_COPY: u64 = 5 << 30;
/// Bytes of a part that the server copies: a multiple of a MiB, such that the largest object has at most 10,000.
const COPIED_PART: u64 = 1 << 30;

/// Headers that belong to an object, besides `x-amz-meta-*`.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html>
const KEPT: [&str; 6] = ["cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires"];
/// What the names of a user's own begin with.
pub const USER: &str = "x-amz-meta-";

/// A request about an object failed.
#[derive(Debug, Error)]
#[error("{action} {} bucket `{bucket}`", within(key))]
pub struct ObjectError {
    action: &'static str,
    bucket: String,
    key: String,
    #[source]
    source: Cause,
}

impl ObjectError {
    /// Whether there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self.source.0, object_store::Error::NotFound { .. })
    }

    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        if matches!(self.source.0, object_store::Error::Precondition { .. }) {
            return Some("It was replaced while it was read. Run again.".to_owned());
        }
        advice_for(&self.source.0, "the bucket's section")
    }
}

/// An object as a list tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    /// Bytes.
    pub size: u64,
    pub modified: DateTime<Utc>,
}

/// An object as its own answer tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Described {
    /// Bytes.
    pub size: u64,
    pub modified: Option<DateTime<Utc>>,
    /// Its own, sorted: lower-case name and value.
    pub headers: Vec<(String, String)>,
    etag: Option<HeaderValue>,
}

/// A bucket. Clones share the client.
#[derive(Debug, Clone)]
pub struct Objects {
    bucket: Bucket,
    name: String,
}

struct Call<'a> {
    action: &'static str,
    method: Method,
    key: &'a str,
    query: Vec<(&'static str, String)>,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl<'a> Call<'a> {
    fn new(action: &'static str, method: Method, key: &'a str) -> Self {
        Self { action, method, key, query: Vec::new(), headers: Vec::new(), body: Bytes::new() }
    }
}

impl Objects {
    /// Reads the secrets and sets the client up; no request is made yet. `name` is whose options they are.
    ///
    /// # Errors
    /// [`StorageError`] when a secret or a certificate cannot be read.
    pub fn open(name: &TargetName, bucket: &str, options: &S3Options) -> Result<Self, StorageError> {
        Ok(Self { bucket: s3::open(name, bucket, options)?, name: bucket.to_owned() })
    }

    /// Every object whose key begins with `prefix`, in the order of the server; asks for pages as they are wanted.
    pub fn list(&self, prefix: &str) -> impl Stream<Item = Result<Listed, ObjectError>> + Send + 'static {
        struct Pages {
            objects: Objects,
            prefix: String,
            page: VecDeque<Listed>,
            next: Option<Option<String>>,
        }
        let pages = Pages { objects: self.clone(), prefix: prefix.to_owned(), page: VecDeque::new(), next: Some(None) };
        stream::try_unfold(pages, |mut pages| async move {
            loop {
                if let Some(listed) = pages.page.pop_front() {
                    return Ok(Some((listed, pages)));
                }
                let Some(token) = pages.next.take() else { return Ok(None) };
                let (objects, prefix) = (pages.objects.clone(), pages.prefix.clone());
                // a task of its own: nobody may look at this stream for longer than an answer is waited for
                let asking = tokio::spawn(async move { objects.page(&prefix, token.as_deref()).await });
                let asked = AbortOnDropHandle::new(asking).await;
                let page = asked.unwrap_or_else(|panic| Err(pages.objects.error("list", &pages.prefix, failed(panic))))?;
                pages.page = page.listed.into();
                pages.next = page.next.map(Some);
            }
        })
    }

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Page, ObjectError> {
        let mut call = Call::new("list", Method::GET, "");
        call.query = vec![("encoding-type", "url".to_owned()), ("list-type", "2".to_owned()), ("prefix", prefix.to_owned())];
        call.query.extend(token.map(|token| ("continuation-token", token.to_owned())));
        let text = self.text(&call).await?;
        let page = page(&text).map_err(|why| self.error("list", prefix, failed(why)))?;
        if page.next.is_some() && page.next.as_deref() == token {
            return Err(self.error("list", prefix, failed("the store answers with the same page again and again")));
        }
        Ok(page)
    }

    /// Size and headers; `None` if it is not there.
    pub async fn head(&self, key: &str) -> Result<Option<Described>, ObjectError> {
        match self.send(&Call::new("look at", Method::HEAD, key)).await {
            Ok(response) => self.described("look at", key, &response).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins to read an object: size and headers are those of the content that follows.
    pub async fn read(&self, key: &str) -> Result<Reading, ObjectError> {
        let response = self.send(&Call { headers: identity(), ..Call::new("read", Method::GET, key) }).await?;
        let described = self.described("read", key, &response)?;
        let body = Some(response.into_body().bytes_stream());
        Ok(Reading { objects: self.clone(), key: key.to_owned(), described, at: 0, body, retries: None })
    }

    /// Stores a small object, replacing what is there.
    pub async fn write(&self, key: &str, headers: &[(String, String)], body: Bytes) -> Result<(), ObjectError> {
        self.send(&Call { headers: headers.to_vec(), body, ..Call::new("write", Method::PUT, key) }).await.map(drop)
    }

    /// Begins a large object.
    pub async fn begin(&self, key: &str, headers: &[(String, String)]) -> Result<Writing, ObjectError> {
        let mut call = Call { headers: headers.to_vec(), ..Call::new("begin the upload of", Method::POST, key) };
        call.query.push(("uploads", String::new()));
        let text = self.text(&call).await?;
        let id = element(&text, "UploadId").ok_or_else(|| self.error(call.action, key, failed("the answer has no UploadId")))?;
        Ok(Writing { objects: self.clone(), key: key.to_owned(), id: unescaped(id) })
    }

    /// Copies an object of `size` bytes with its headers, within the server.
    pub async fn copy(&self, from: &str, to: &str, size: u64) -> Result<(), ObjectError> {
        let source = format!("{}/{}", self.name, utf8_percent_encode(from, &KEY));
        if size <= LARGEST_COPY {
            let headers = vec![("x-amz-copy-source".to_owned(), source)];
            return self.text(&Call { headers, ..Call::new("copy to", Method::PUT, to) }).await.map(drop);
        }
        let Some(whole) = self.head(from).await? else { return Err(self.error("copy", from, not_found(from))) };
        let writing = self.begin(to, &whole.headers).await?;
        let copied = async {
            let mut parts = Vec::new();
            for (index, start) in (0..size).step_by(usize::try_from(COPIED_PART).unwrap_or(1 << 30)).enumerate() {
                let range = format!("bytes={start}-{}", (start + COPIED_PART).min(size) - 1);
                let headers = vec![("x-amz-copy-source".to_owned(), source.clone()), ("x-amz-copy-source-range".to_owned(), range)];
                parts.push(writing.send("copy a part to", index, headers, Bytes::new()).await?);
            }
            writing.finish(parts, size).await
        };
        let result = copied.await;
        if result.is_err() {
            writing.abort().await;
        }
        result
    }

    /// Deletes an object; one that is not there is as good as deleted.
    pub async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        match self.send(&Call::new("delete", Method::DELETE, key)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Aborts the uploads of objects whose keys begin with `prefix`, as far as the store tells of them.
    pub async fn abort_unfinished(&self, prefix: &str) {
        for left in self.bucket.unfinished(prefix).await.unwrap_or_default() {
            Writing { objects: self.clone(), key: left.key.to_string(), id: left.id }.abort().await;
        }
    }

    /// An answer that does not say how large the object is could be taken for that of an empty one.
    fn described(&self, action: &'static str, key: &str, response: &HttpResponse) -> Result<Described, ObjectError> {
        described(response).ok_or_else(|| self.error(action, key, failed("the store does not say how large it is")))
    }

    fn error(&self, action: &'static str, key: &str, source: object_store::Error) -> ObjectError {
        ObjectError { action, bucket: self.name.clone(), key: key.to_owned(), source: Cause(source) }
    }

    /// The body of an answer that is XML. One that is an error under status 200 (a copy, the end of an upload) is an error.
    async fn text(&self, call: &Call<'_>) -> Result<String, ObjectError> {
        let mut retries = Retries::new();
        loop {
            let body = self.send(call).await?.into_body().bytes().await;
            let text = body.map(|body| String::from_utf8_lossy(&body).into_owned());
            let error = match text {
                Ok(text) if !text.contains("<Error>") => return Ok(text),
                Ok(text) => failed(format!("Server returned non-2xx status code: {text}")),
                Err(error) => failed(error),
            };
            let Some(pause) = retries.next() else { return Err(self.error(call.action, call.key, error)) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn send(&self, call: &Call<'_>) -> Result<HttpResponse, ObjectError> {
        let mut retries = Retries::new();
        loop {
            let error = match self.attempt(call).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(lasting)) => return Err(self.error(call.action, call.key, lasting)),
                Err(passing) => passing,
            };
            let Some(pause) = retries.next() else { return Err(self.error(call.action, call.key, error)) };
            tracing::debug!(%error, ?pause, "a request to S3 is repeated");
            tokio::time::sleep(pause).await;
        }
    }

    /// Once. The outer error may pass, the inner will not.
    async fn attempt(&self, call: &Call<'_>) -> Result<Result<HttpResponse, object_store::Error>, object_store::Error> {
        // clients and proxies take these for steps within a path, and ask for something else
        if call.key.split('/').any(|part| matches!(part, "." | "..")) {
            return Ok(Err(failed("a key with a part `.` or `..` cannot be asked for")));
        }
        // without a key, the bucket itself would be meant
        if call.key.is_empty() && call.method != Method::GET {
            return Ok(Err(failed("an object without a key")));
        }
        let mut url = match self.bucket.root().await {
            Ok(root) => format!("{root}{}", utf8_percent_encode(call.key, &KEY)),
            Err(error) => return Ok(Err(error)),
        };
        if !call.query.is_empty() {
            // a query of an object follows its key, that of the bucket its name
            if call.key.is_empty() {
                url.truncate(url.trim_end_matches('/').len());
            }
            let pairs = call.query.iter().map(|(key, value)| format!("{key}={}", utf8_percent_encode(value, &STRICT)));
            url = format!("{url}?{}", pairs.collect::<Vec<_>>().join("&"));
        }
        let mut request = HttpRequest::new(HttpRequestBody::from(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = match url.parse() {
            Ok(uri) => uri,
            Err(error) => return Ok(Err(failed(error))),
        };
        for (name, value) in &call.headers {
            let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::from_bytes(value.as_bytes())) else {
                return Ok(Err(failed(format!("`{name}` is not a header that can be sent"))));
            };
            request.headers_mut().insert(name, value);
        }
        let client = match self.bucket.client().await {
            Ok(client) => client,
            Err(error) => return Ok(Err(error)),
        };
        self.bucket.authorize(&mut request).await?;
        let response = client.execute(request).await.map_err(failed)?;
        let status = response.status();
        if status.is_success() {
            return Ok(Ok(response));
        }
        let body = response.into_body().bytes().await.map_err(failed)?;
        let text = format!("Server returned non-2xx status code: {status}: {}", String::from_utf8_lossy(&body));
        match status.as_u16() {
            408 | 429 | 500.. => Err(failed(text)),
            // a bucket that is not there is no object that is not there
            404 if !text.contains("NoSuchBucket") => Ok(Err(not_found(call.key))),
            412 => Ok(Err(object_store::Error::Precondition { path: call.key.to_owned(), source: text.into() })),
            _ => Ok(Err(failed(text))),
        }
    }
}

/// Everything but what RFC 3986 calls unreserved.
const STRICT: percent_encoding::AsciiSet = KEY.add(b'/');

/// Content is wanted as it is stored.
fn identity() -> Vec<(String, String)> {
    vec![("accept-encoding".to_owned(), "identity".to_owned())]
}

fn described(response: &HttpResponse) -> Option<Described> {
    let all = response.headers();
    let text = |name: &str| all.get(name).and_then(|value| value.to_str().ok());
    let is_kept = |name: &str| KEPT.contains(&name) || name.starts_with(USER);
    let kept = all.iter().filter(|(name, _)| is_kept(name.as_str()));
    let mut headers: Vec<(String, String)> =
        kept.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect();
    headers.sort();
    Some(Described {
        size: text("content-length")?.parse().ok()?,
        modified: text("last-modified").and_then(|time| DateTime::parse_from_rfc2822(time).ok()).map(|time| time.to_utc()),
        headers,
        etag: all.get("etag").cloned(),
    })
}

fn unescaped(text: &str) -> String {
    quick_xml::escape::unescape(text).map_or_else(|_| text.to_owned(), Into::into)
}

fn not_found(key: &str) -> object_store::Error {
    object_store::Error::NotFound { path: key.to_owned(), source: "there is no such object".into() }
}

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source: source.into() }
}
