//! The content of an object, as it comes.

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::client::HttpError;
use object_store::signer::{HeaderValue, Method};

use super::{Call, Described, ObjectError, Objects, failed, identity};
use crate::storage::retry::Retries;

/// An object whose content is being read.
pub struct Reading {
    pub(super) objects: Objects,
    pub(super) key: String,
    pub(super) described: Described,
    pub(super) at: u64,
    pub(super) body: Option<BoxStream<'static, Result<Bytes, HttpError>>>,
    /// Since the last bytes came; `None` as long as nothing has failed since.
    pub(super) retries: Option<Retries>,
}

impl Reading {
    pub fn described(&self) -> &Described {
        &self.described
    }

    /// The next bytes; `None` after exactly as many as [`Described::size`] says. A connection that breaks is replaced, and goes on where it
    /// broke if the object is still the same.
    ///
    /// # Errors
    /// [`ObjectError`] when it stays away, or the object was replaced.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ObjectError> {
        loop {
            if self.at == self.described.size {
                return Ok(None);
            }
            let error = match &mut self.body {
                None => match again(&self.objects, &self.key, self.at, self.described.etag.as_ref()).await {
                    Ok(body) => {
                        self.body = Some(body);
                        continue;
                    }
                    Err(error) => return Err(error),
                },
                Some(body) => match body.next().await {
                    Some(Ok(bytes)) if bytes.len() as u64 <= self.described.size - self.at => {
                        self.at += bytes.len() as u64;
                        self.retries = None;
                        return Ok(Some(bytes));
                    }
                    Some(Ok(_)) => failed("the store sent more than it said"),
                    Some(Err(error)) => failed(error),
                    None => failed("the store sent less than it said"),
                },
            };
            self.body = None;
            let Some(pause) = self.retries.get_or_insert_with(Retries::new).next() else {
                return Err(self.objects.error("read", &self.key, error));
            };
            tokio::time::sleep(pause).await;
        }
    }
}

/// The rest of an object that is still the one with that ETag.
async fn again(
    objects: &Objects,
    key: &str,
    at: u64,
    etag: Option<&HeaderValue>,
) -> Result<BoxStream<'static, Result<Bytes, HttpError>>, ObjectError> {
    let mut headers = identity();
    headers.push(("range".to_owned(), format!("bytes={at}-")));
    // ETags are quoted ASCII
    headers.extend(etag.and_then(|etag| etag.to_str().ok()).map(|etag| ("if-match".to_owned(), etag.to_owned())));
    let response = objects.send(&Call { headers, ..Call::new("read", Method::GET, key) }).await?;
    if at > 0 && response.status().as_u16() != 206 {
        return Err(objects.error("read", key, failed("the store does not know ranges")));
    }
    Ok(response.into_body().bytes_stream())
}
