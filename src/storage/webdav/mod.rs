//! A target in a folder of a WebDAV server (RFC 4918).
//!
//! object_store has such a store, but it holds a whole object in memory to send it, writes under the final name, and reads no list of a
//! folder that is not the server's root. Here everything but what is small and private is sent under a name of its own, looked at, and then
//! moved to where it belongs: what breaks on the way is never seen there, and `Overwrite: F` makes a move create-only. Downloads,
//! deletions and copies are object_store's.

mod listing;
mod requests;
mod upload;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::Utc;
use futures_util::stream::BoxStream;
use object_store::http::{HttpBuilder, HttpStore};
use object_store::path::Path;
use object_store::{
    Attribute, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use url::Url;

use self::requests::Requests;
use self::upload::Streamed;
use super::client::{self, Connector};
use super::error::StorageError;
use super::folders::{self, Folders};
use super::layout;
use super::retry;
use crate::name::TargetName;
use crate::secret::{Revealed, Secret};

/// The keys of a target on a WebDAV server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WebDavOptions {
    pub credentials: WebDavCredentials,
    pub allow_http: bool,
    /// PEM, besides the system's roots.
    pub ca_file: Option<PathBuf>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum WebDavCredentials {
    #[default]
    Nobody,
    /// RFC 7617.
    Basic { user: String, password: Secret },
    /// RFC 6750.
    Bearer(Secret),
}

/// A folder of a WebDAV server. Clones share the connections.
#[derive(Debug, Clone)]
pub(super) struct WebDav {
    requests: Arc<Requests>,
    inner: Arc<HttpStore>,
}

impl fmt::Display for WebDav {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebDav({})", self.requests.base())
    }
}

/// `url` has no slash at its end.
pub(super) fn open(target: &TargetName, url: &str, options: &WebDavOptions) -> Result<WebDav, StorageError> {
    let setup = |source: Box<dyn std::error::Error + Send + Sync>| StorageError::Setup { target: target.clone(), source };
    let base = Url::parse(url).map_err(|source| setup(source.into()))?;
    let mut headers = HeaderMap::new();
    if let Some(who) = authorization(target, &options.credentials)? {
        let mut who = HeaderValue::from_str(who.expose()).map_err(|_| setup("the credentials hold what no header can".into()))?;
        who.set_sensitive(true);
        headers.insert(AUTHORIZATION, who);
    }
    let client = client::options(target, options.allow_http, options.ca_file.as_deref())?.with_default_headers(headers.clone());
    let builder = HttpBuilder::new().with_url(url).with_client_options(client.clone());
    let inner = builder.with_http_connector(Connector).with_retry(retry::config()).build().map_err(|source| setup(source.into()))?;
    let streams = upload::client(target, options, headers)?;
    let requests = Requests::new(base, &client, streams).map_err(|source| setup(source.into()))?;
    Ok(WebDav { requests: Arc::new(requests), inner: Arc::new(inner) })
}

fn authorization(target: &TargetName, credentials: &WebDavCredentials) -> Result<Option<Revealed>, StorageError> {
    use base64::Engine as _;
    let reveal = |secret: &Secret| secret.reveal().map_err(|source| StorageError::Secret { target: target.clone(), source });
    Ok(match credentials {
        WebDavCredentials::Nobody => None,
        WebDavCredentials::Basic { user, password } => {
            let both = Revealed::new(format!("{user}:{}", reveal(password)?.expose()));
            let encoded = base64::engine::general_purpose::STANDARD.encode(both.expose());
            Some(Revealed::new(format!("Basic {encoded}")))
        }
        WebDavCredentials::Bearer(token) => Some(Revealed::new(format!("Bearer {}", reveal(token)?.expose()))),
    })
}

impl WebDav {
    /// To sweep it.
    pub(super) fn folders(&self) -> Arc<dyn Folders> {
        self.requests.clone()
    }

    /// What is private to a run, and read by nobody who could not tell that it is not whole.
    fn is_private(key: &Path) -> bool {
        key.as_ref().starts_with(layout::PRIVATE)
    }

    async fn put_and_move(&self, key: &Path, payload: PutPayload, content_type: Option<&str>, overwrite: bool) -> Result<()> {
        let unfinished = folders::unfinished();
        let stored = async {
            self.requests.put(&unfinished, payload.clone(), content_type).await?;
            self.requests.expect_size(&unfinished, payload.content_length() as u64).await?;
            self.requests.move_to(&unfinished, key, overwrite).await
        };
        let stored = stored.await;
        if stored.is_err() {
            // what stays is swept a day from now
            let _ = self.requests.delete(&unfinished).await;
        }
        stored
    }
}

fn content_type(attributes: &object_store::Attributes) -> Option<String> {
    attributes.get(&Attribute::ContentType).map(|value| value.as_ref().to_owned())
}

#[async_trait]
impl ObjectStore for WebDav {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let kind = content_type(&options.attributes);
        match options.mode {
            PutMode::Overwrite if Self::is_private(key) => self.requests.put(key, payload, kind.as_deref()).await?,
            PutMode::Overwrite => self.put_and_move(key, payload, kind.as_deref(), true).await?,
            PutMode::Create => self.put_and_move(key, payload, kind.as_deref(), false).await?,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented { operation: "a conditional update".into(), implementer: self.to_string() });
            }
        }
        Ok(PutResult { e_tag: None, version: None, extensions: object_store::Extensions::new() })
    }

    async fn put_multipart_opts(&self, key: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let kind = content_type(&options.attributes);
        Ok(Box::new(Streamed::begin(self.requests.clone(), folders::unfinished(), key.clone(), kind).await?))
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        folders::list(self.requests.clone(), prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        folders::list_with_delimiter(&*self.requests, prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.requests.make_folders_of(to).await?;
        self.inner.copy_opts(from, to, options).await
    }
}

/// The time of an object whose server does not tell: as young as can be, so that nobody takes it for what the dead have left.
fn unknown_time() -> chrono::DateTime<Utc> {
    Utc::now()
}

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "WebDAV", source: source.into() }
}
