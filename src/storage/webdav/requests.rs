//! The requests of WebDAV that object_store does not make, repeated as its own are.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody, HttpResponse};
use object_store::path::Path;
use object_store::signer::Method;
use object_store::{ClientOptions, Error, PutPayload, Result};
use reqwest::header::HeaderValue;
use url::Url;

use super::super::client::Connector;
use super::super::folders::{Folders, Found, NO_BASE};
use super::super::retry::Retries;
use super::failed;
use super::listing;

#[derive(Debug)]
pub(super) struct Requests {
    base: Url,
    client: HttpClient,
    /// For bodies whose length nobody knows yet.
    streams: reqwest::Client,
    /// Folders that are known to be there.
    folders: Mutex<HashSet<Path>>,
}

/// One request, which may be made several times.
struct Call<'a> {
    method: &'static str,
    url: Url,
    key: &'a Path,
    headers: Vec<(&'static str, String)>,
    body: HttpRequestBody,
}

impl Requests {
    pub(super) fn new(base: Url, options: &ClientOptions, streams: reqwest::Client) -> Result<Self> {
        Ok(Self { base, client: Connector.connect(options)?, streams, folders: Mutex::default() })
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    pub(super) fn streams(&self) -> &reqwest::Client {
        &self.streams
    }

    pub(super) fn url(&self, key: &Path) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(key.parts());
        }
        url
    }

    /// Servers want a slash at the end of a folder.
    fn folder_url(&self, key: &Path) -> Url {
        let mut url = self.url(key);
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        url
    }

    /// # Errors
    /// When the object is not there, or has another size: a server may take what it does not keep.
    pub(super) async fn expect_size(&self, key: &Path, bytes: u64) -> Result<()> {
        let answer = self.propfind(self.url(key), key, "0").await?;
        // seen from the folder that holds it
        let folder: Path = key.parts().take(key.parts().count().saturating_sub(1)).collect();
        let found = listing::children(&answer, &self.base, &folder).map_err(failed)?;
        match found.first() {
            Some(Found::Object(meta)) if meta.size == bytes => Ok(()),
            Some(Found::Object(meta)) => Err(failed(format!("the server has stored {} of {bytes} bytes", meta.size))),
            _ => Err(failed("the server does not tell of what it has stored")),
        }
    }

    async fn propfind(&self, url: Url, key: &Path, depth: &str) -> Result<String> {
        let headers = vec![("depth", depth.to_owned()), ("content-type", "application/xml; charset=utf-8".to_owned())];
        let answer = self.send(Call { method: "PROPFIND", url, key, headers, body: listing::QUESTION.to_owned().into() }).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    pub(super) async fn put(&self, key: &Path, payload: PutPayload, content_type: Option<&str>) -> Result<()> {
        self.make_folders_of(key).await?;
        let headers = content_type.map(|kind| ("content-type", kind.to_owned())).into_iter().collect();
        self.send(Call { method: "PUT", url: self.url(key), key, headers, body: payload.into() }).await.map(drop)
    }

    /// # Errors
    /// [`Error::AlreadyExists`] if something is there that may not be replaced; [`Error::NotFound`] if there is nothing to move.
    pub(super) async fn move_to(&self, from: &Path, to: &Path, overwrite: bool) -> Result<()> {
        self.make_folders_of(to).await?;
        let overwrite = if overwrite { "T" } else { "F" };
        let headers = vec![("destination", self.url(to).to_string()), ("overwrite", overwrite.to_owned())];
        let moved = self.send(Call { method: "MOVE", url: self.url(from), key: from, headers, body: HttpRequestBody::empty() }).await;
        match moved {
            Err(Error::Precondition { source, .. }) => Err(Error::AlreadyExists { path: to.to_string(), source }),
            moved => moved.map(drop),
        }
    }

    pub(super) async fn delete(&self, key: &Path) -> Result<()> {
        self.delete_at(self.url(key), key).await
    }

    async fn delete_at(&self, url: Url, key: &Path) -> Result<()> {
        self.send(Call { method: "DELETE", url, key, headers: Vec::new(), body: HttpRequestBody::empty() }).await.map(drop)
    }

    /// The folders from the target's down to the one of `key`.
    pub(super) async fn make_folders_of(&self, key: &Path) -> Result<()> {
        let parts: Vec<_> = key.parts().collect();
        for depth in 1..parts.len() {
            let folder: Path = parts[..depth].iter().cloned().collect();
            if held(&self.folders).contains(&folder) {
                continue;
            }
            let url = self.folder_url(&folder);
            match self.send(Call { method: "MKCOL", url, key: &folder, headers: Vec::new(), body: HttpRequestBody::empty() }).await {
                // what this answers, it answers to a folder that is there
                Ok(_) | Err(Error::NotSupported { .. }) => {}
                // only of the first can the one above be missing
                Err(Error::NotFound { .. } | Error::AlreadyExists { .. }) if depth == 1 => return Err(self.no_base()),
                Err(error) => return Err(error),
            }
            held(&self.folders).insert(folder);
        }
        Ok(())
    }

    async fn send(&self, call: Call<'_>) -> Result<Bytes> {
        let mut retries = Retries::new();
        loop {
            let error = match self.attempt(&call).await {
                Ok(answer) => return answer,
                Err(passing) => passing,
            };
            let Some(pause) = retries.next() else { return Err(error) };
            tracing::debug!(%error, ?pause, "a request to a WebDAV server is repeated");
            tokio::time::sleep(pause).await;
        }
    }

    /// Once. The outer error may pass, the inner will not.
    async fn attempt(&self, call: &Call<'_>) -> Result<Result<Bytes>> {
        let mut request = HttpRequest::new(call.body.clone());
        *request.method_mut() = Method::from_bytes(call.method.as_bytes()).expect("a method is a token");
        *request.uri_mut() = match call.url.as_str().parse() {
            Ok(uri) => uri,
            Err(error) => return Ok(Err(failed(error))),
        };
        for (name, value) in &call.headers {
            let Ok(value) = HeaderValue::from_str(value) else { return Ok(Err(failed(format!("`{name}` cannot be sent")))) };
            request.headers_mut().insert(*name, value);
        }
        let length = call.body.content_length();
        request.headers_mut().insert("content-length", HeaderValue::from(length));
        let response: HttpResponse = self.client.execute(request).await.map_err(failed)?;
        let status = response.status();
        let body = response.into_body().bytes().await.map_err(failed)?;
        if status.is_success() {
            // a part of what was asked for has failed: a deletion, or a move, of several
            if status.as_u16() == 207 && call.method != "PROPFIND" {
                return Ok(Err(failed(format!("Server returned non-2xx status code: within 207: {}", said(&body)))));
            }
            return Ok(Ok(body));
        }
        match status.as_u16() {
            408 | 429 | 500 | 503 | 504 => Err(refusal(status, &body, call.key)),
            _ => Ok(Err(refusal(status, &body, call.key))),
        }
    }
}

#[async_trait]
impl Folders for Requests {
    async fn children(&self, folder: &Path) -> Result<Option<Vec<Found>>> {
        let answer = match self.propfind(self.folder_url(folder), folder, "1").await {
            Err(Error::NotFound { .. }) => return Ok(None),
            answer => answer?,
        };
        listing::children(&answer, &self.base, folder).map(Some).map_err(failed)
    }

    /// A server removes it with what has come into it meanwhile.
    async fn remove_folder(&self, folder: &Path) -> Result<()> {
        held(&self.folders).retain(|known| !known.prefix_matches(folder));
        self.delete_at(self.folder_url(folder), folder).await
    }

    fn no_base(&self) -> Error {
        failed(format!("{NO_BASE} (status code: 404)"))
    }
}

/// What a status means.
pub(super) fn refusal(status: reqwest::StatusCode, body: &[u8], key: &Path) -> Error {
    let text = format!("Server returned non-2xx status code: {status}{}", said(body));
    let (path, source) = (key.to_string(), text.clone().into());
    match status.as_u16() {
        404 => Error::NotFound { path, source },
        405 => Error::NotSupported { source },
        409 => Error::AlreadyExists { path, source },
        412 => Error::Precondition { path, source },
        _ => failed(text),
    }
}

/// What sabre/dav (Nextcloud, ownCloud) says of it; the pages of others are for people.
fn said(body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body);
    super::super::error::element(&body, "s:message").map_or_else(String::new, |message| format!(": {message}"))
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
