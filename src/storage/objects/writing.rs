//! A large object on its way, part by part.

use bytes::Bytes;
use object_store::signer::Method;

use super::{Call, ObjectError, Objects, failed, unescaped};
use crate::storage::error::element;

/// A large object on its way into the bucket, part by part. It becomes visible by [`Writing::finish`]; one that is dropped leaves parts, so
/// call [`Writing::abort`].
#[derive(Debug, Clone)]
pub struct Writing {
    pub(super) objects: Objects,
    pub(super) key: String,
    pub(super) id: String,
}

impl Writing {
    /// Stores part `index`, counted from 0; what it answers is for [`Writing::finish`].
    pub async fn part(&self, index: usize, body: Bytes) -> Result<String, ObjectError> {
        self.send("write a part of", index, Vec::new(), body).await
    }

    pub(super) async fn send(
        &self,
        action: &'static str,
        index: usize,
        headers: Vec<(String, String)>,
        body: Bytes,
    ) -> Result<String, ObjectError> {
        let query = vec![("partNumber", (index + 1).to_string()), ("uploadId", self.id.clone())];
        let copies = !headers.is_empty();
        let call = Call { query, headers, body, ..Call::new(action, Method::PUT, &self.key) };
        let missing = || self.objects.error(action, &self.key, failed("the answer has no ETag"));
        if copies {
            let text = self.objects.text(&call).await?;
            return element(&text, "ETag").map(unescaped).ok_or_else(missing);
        }
        let response = self.objects.send(&call).await?;
        response.headers().get("etag").and_then(|etag| etag.to_str().ok()).map(str::to_owned).ok_or_else(missing)
    }

    /// Makes the object visible; `parts` in their order, of `size` bytes in all. A completion whose answer was lost is not found when it is asked for
    /// again, and the object is there.
    pub async fn finish(&self, parts: Vec<String>, size: u64) -> Result<(), ObjectError> {
        let part = |(index, tag): (usize, &String)| {
            format!("<Part><PartNumber>{}</PartNumber><ETag>{}</ETag></Part>", index + 1, quick_xml::escape::escape(tag.as_str()))
        };
        let parts: String = parts.iter().enumerate().map(part).collect();
        let mut call = Call::new("complete the upload of", Method::POST, &self.key);
        call.query.push(("uploadId", self.id.clone()));
        call.body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>").into();
        match self.objects.text(&call).await {
            Err(error) if error.is_not_found() && self.objects.head(&self.key).await?.is_some_and(|found| found.size == size) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Removes its parts, as far as the store can be reached.
    pub async fn abort(&self) {
        let mut call = Call::new("abort the upload of", Method::DELETE, &self.key);
        call.query.push(("uploadId", self.id.clone()));
        if let Err(error) = self.objects.send(&call).await {
            tracing::warn!("{}: {}", error, error.source);
        }
    }
}
