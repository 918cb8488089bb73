//! What S3 can do besides object_store's traits: a part that is a copy of another object, and the list of unfinished uploads.
//!
//! Both requests are signed and sent as object_store does it, with its own authorizer, credentials, and kind of client.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AwsAuthorizer};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody};
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::signer::{HeaderName, HeaderValue, Method, Signer};
use object_store::{ClientOptions, Error, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::OnceCell;
use url::Url;

use super::error::element;
use super::identity::S3Connector;
use super::retry::Retries;
use super::sse::CustomerKey;

/// What a key keeps in a URL and in `x-amz-copy-source`.
pub(super) const KEY: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A bucket, and what its requests need.
#[derive(Clone)]
pub(super) struct Bucket {
    store: AmazonS3,
    name: String,
    connector: S3Connector,
    options: ClientOptions,
    client: Arc<OnceCell<HttpClient>>,
    customer_key: CustomerKey,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("name", &self.name).field("region", &self.connector.region).finish_non_exhaustive()
    }
}

/// An upload that was neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unfinished {
    pub(super) key: Path,
    pub(super) id: String,
}

enum Failure {
    /// The same request may succeed.
    Passing(Error),
    Lasting(Error),
}

impl Bucket {
    /// `connector` and `options` are those that the store was built with.
    pub(super) fn new(store: AmazonS3, name: &str, connector: S3Connector, options: ClientOptions) -> Self {
        Self { store, name: name.to_owned(), connector, options, client: Arc::default(), customer_key: CustomerKey::default() }
    }

    /// Whose objects are encrypted with that key.
    pub(super) fn with_customer_key(self, customer_key: CustomerKey) -> Self {
        Self { customer_key, ..self }
    }

    pub(super) fn store(&self) -> &AmazonS3 {
        &self.store
    }

    /// UploadPartCopy: the object `from`, or a range of it, becomes part `index`, counted from 0, of the upload `id` of `to`.
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_UploadPartCopy.html>
    pub(super) async fn copy_part(&self, from: &Path, range: Option<Range<u64>>, to: &Path, id: &str, index: u32) -> Result<PartId> {
        let mut url = self.url(to).await?;
        url.query_pairs_mut().append_pair("partNumber", &(index + 1).to_string()).append_pair("uploadId", id);
        let source = format!("{}/{}", self.name, utf8_percent_encode(from.as_ref(), &KEY));
        // the last byte belongs to it
        let range = range.map(|range| ("x-amz-copy-source-range", format!("bytes={}-{}", range.start, range.end.saturating_sub(1))));
        let named = [("x-amz-copy-source", source)].into_iter().chain(range).map(|(name, value)| (name.to_owned(), value));
        let headers: Vec<_> = named.chain(self.customer_key.of_copy()).collect();
        let answer = self.send(Method::PUT, &url, &headers).await?;
        let Some(tag) = element(&answer, "ETag") else { return Err(failed(format!("the copy of a part has no ETag: {answer}"))) };
        let checksum = [("sha256", "ChecksumSHA256"), ("crc64nvme", "ChecksumCRC64NVME")];
        let checksum = checksum.into_iter().find_map(|(name, in_answer)| Some((name, element(&answer, in_answer)?)));
        Ok(PartId { content_id: part_of(tag, checksum) })
    }

    /// ListMultipartUploads: those of keys that begin with `prefix`, the first thousand.
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html>
    pub(super) async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        let mut url = self.root().await?;
        url.query_pairs_mut().append_pair("prefix", prefix).append_pair("uploads", "");
        Ok(uploads(&self.send(Method::GET, &url, &[]).await?))
    }

    /// The URL of the bucket itself, with a slash at its end.
    pub(super) async fn root(&self) -> Result<Url> {
        let some_key = Path::from("key");
        let mut url = self.url(&some_key).await?;
        let root = url.path().trim_end_matches(some_key.as_ref()).to_owned();
        url.set_path(&root);
        Ok(url)
    }

    pub(super) async fn client(&self) -> Result<&HttpClient> {
        self.client.get_or_try_init(async || self.connector.connect(&self.options)).await
    }

    /// Signs a request.
    pub(super) async fn authorize(&self, request: &mut HttpRequest) -> Result<()> {
        let credential = self.store.credentials().get_credential().await?;
        AwsAuthorizer::new(&credential, "s3", &self.connector.region).try_authorize(request, None)
    }

    /// The object's URL, in the style of addressing that the store was built with.
    async fn url(&self, key: &Path) -> Result<Url> {
        let mut url = self.store.signed_url(Method::PUT, key, Duration::from_secs(60)).await?;
        url.set_query(None);
        Ok(url)
    }

    async fn send(&self, method: Method, url: &Url, headers: &[(String, String)]) -> Result<String> {
        let mut retries = Retries::new();
        loop {
            let error = match self.attempt(method.clone(), url, headers).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(error)) => error,
            };
            let Some(pause) = retries.next() else { return Err(error) };
            tracing::debug!(%error, ?pause, "a request to S3 is repeated");
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&self, method: Method, url: &Url, headers: &[(String, String)]) -> Result<String, Failure> {
        let client = self.client().await.map_err(Failure::Lasting)?;
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method;
        *request.uri_mut() = url.as_str().parse().map_err(|e| Failure::Lasting(failed(e)))?;
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(|e| Failure::Lasting(failed(e)))?;
            let name = HeaderName::try_from(name).map_err(|e| Failure::Lasting(failed(e)))?;
            request.headers_mut().insert(name, value);
        }
        self.authorize(&mut request).await.map_err(Failure::Passing)?;
        let response = client.execute(request).await.map_err(|e| Failure::Passing(failed(e)))?;
        let status = response.status();
        let body = response.into_body().bytes().await.map_err(|e| Failure::Passing(failed(e)))?;
        let answer = String::from_utf8_lossy(&body).into_owned();
        // a copy that fails after the server began to answer is an error under status 200
        if status.is_success() && !answer.contains("<Error>") {
            return Ok(answer);
        }
        let error = failed(format!("Server returned non-2xx status code: {status}: {answer}"));
        let passing = status.is_success() || status.is_server_error() || matches!(status.as_u16(), 408 | 429);
        Err(if passing { Failure::Passing(error) } else { Failure::Lasting(error) })
    }
}

/// The text in which object_store keeps a part: its ETag, or with a checksum the XML of both. `tag` is as it stands in XML.
fn part_of(tag: &str, checksum: Option<(&str, &str)>) -> String {
    match checksum {
        None => tag.replace("&quot;", "\"").replace("&#34;", "\""),
        Some((name, sum)) => format!("<PartMetadata><e_tag>{tag}</e_tag><checksum_{name}>{sum}</checksum_{name}></PartMetadata>"),
    }
}

/// Our own keys need no escapes in XML; others are not ours.
fn uploads(answer: &str) -> Vec<Unfinished> {
    let upload = |text: &str| Some(Unfinished { key: Path::parse(element(text, "Key")?).ok()?, id: element(text, "UploadId")?.to_owned() });
    answer.split("<Upload>").skip(1).filter_map(upload).collect()
}

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "S3", source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_part_is_named_as_object_store_names_an_uploaded_one() {
        assert_eq!(part_of("&quot;9b2c&quot;", None), "\"9b2c\"");
        assert_eq!(
            part_of("&quot;9b2c&quot;", Some(("sha256", "qUiQ="))),
            "<PartMetadata><e_tag>&quot;9b2c&quot;</e_tag><checksum_sha256>qUiQ=</checksum_sha256></PartMetadata>"
        );
    }

    /// As in the documentation of AWS.
    #[test]
    fn unfinished_uploads_are_read_from_their_list() {
        let answer = "<ListMultipartUploadsResult><Bucket>bucket</Bucket><MaxUploads>1000</MaxUploads><IsTruncated>false</IsTruncated>\
            <Upload><Key>.backstay/parts/a/00001</Key><UploadId>VXBsb2Fk</UploadId><Initiator><ID>x</ID></Initiator>\
            <StorageClass>STANDARD</StorageClass><Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload>\
            <Upload><Key>a//b</Key><UploadId>Y</UploadId></Upload></ListMultipartUploadsResult>";
        let found = uploads(answer);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].key.as_ref(), found[0].id.as_str()), (".backstay/parts/a/00001", "VXBsb2Fk"));
    }
}
