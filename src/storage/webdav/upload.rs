//! An object of unknown length on its way to a WebDAV server, by one request.
//!
//! The parts of the upload are handed to the body of a PUT as they come, and each counts as stored when the connection has taken it. The
//! request goes to a name of its own. Only what ends is a whole object: one that is given up, or whose process dies, ends the connection
//! within the body. When the server has answered, the size that it tells is compared, and the object moved to its final name.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use object_store::path::Path;
use object_store::{Error, Extensions, MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use reqwest::header::HeaderMap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::super::client::CONNECT_TIMEOUT;
use super::super::error::StorageError;
use super::requests::{Requests, refusal};
use super::{WebDavOptions, failed};
use crate::name::TargetName;

/// A client without a limit on the time of a request: it lasts as long as the source. Whoever sends parts cuts one that stands still.
pub(super) fn client(target: &TargetName, options: &WebDavOptions, headers: HeaderMap) -> Result<reqwest::Client, StorageError> {
    let setup = |source: reqwest::Error| StorageError::Setup { target: target.clone(), source: source.without_url().into() };
    let mut builder =
        reqwest::Client::builder().default_headers(headers).connect_timeout(CONNECT_TIMEOUT).https_only(!options.allow_http).http1_only();
    if let Some(path) = &options.ca_file {
        let unread = |source| StorageError::Directory { target: target.clone(), path: path.display().to_string(), source };
        let pem = std::fs::read(path).map_err(unread)?;
        builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&pem).map_err(setup)?);
    }
    builder.build().map_err(setup)
}

enum Message {
    Part(PutPayload, oneshot::Sender<()>),
    End,
}

/// What became of the request.
type Outcome = Option<std::result::Result<(), String>>;

/// An upload in progress.
#[derive(Debug)]
pub(super) struct Streamed {
    requests: Arc<Requests>,
    unfinished: Path,
    key: Path,
    messages: Option<mpsc::UnboundedSender<Message>>,
    outcome: watch::Receiver<Outcome>,
    bytes: u64,
    _request: AbortOnDropHandle<()>,
}

impl Streamed {
    pub(super) async fn begin(requests: Arc<Requests>, unfinished: Path, key: Path, content_type: Option<String>) -> Result<Self> {
        requests.make_folders_of(&unfinished).await?;
        let (messages, inbox) = mpsc::unbounded_channel();
        let (tell, outcome) = watch::channel(None);
        let mut request = requests.streams().put(requests.url(&unfinished));
        if let Some(kind) = content_type {
            request = request.header("content-type", kind);
        }
        let request = request.body(reqwest::Body::wrap_stream(body(inbox)));
        let key_of_request = unfinished.clone();
        let task = tokio::spawn(async move {
            let done = async {
                let response = request.send().await.map_err(|error| failed(error.without_url()))?;
                let status = response.status();
                if status.is_success() {
                    return Ok(());
                }
                let said = response.bytes().await.unwrap_or_default();
                Err(refusal(status, &said, &key_of_request))
            };
            let done = done.await.map_err(|error| innermost(&error));
            // nobody may be left to hear of it
            let _ = tell.send(Some(done));
        });
        Ok(Self { requests, unfinished, key, messages: Some(messages), outcome, bytes: 0, _request: AbortOnDropHandle::new(task) })
    }
}

/// The parts in their order. One that is dropped before its end breaks the request.
fn body(inbox: mpsc::UnboundedReceiver<Message>) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    struct Body {
        inbox: mpsc::UnboundedReceiver<Message>,
        blocks: std::vec::IntoIter<Bytes>,
        taken: Option<oneshot::Sender<()>>,
    }
    let begun = Body { inbox, blocks: Vec::new().into_iter(), taken: None };
    stream::try_unfold(begun, |mut body| async move {
        loop {
            if let Some(block) = body.blocks.next() {
                return Ok(Some((block, body)));
            }
            if let Some(taken) = body.taken.take() {
                // one that has been given up needs no answer
                let _ = taken.send(());
            }
            match body.inbox.recv().await {
                Some(Message::Part(payload, taken)) => {
                    body.blocks = payload.into_iter().collect::<Vec<_>>().into_iter();
                    body.taken = Some(taken);
                }
                Some(Message::End) => return Ok(None),
                None => return Err(std::io::Error::other("the upload was given up")),
            }
        }
    })
}

/// Why a request failed, when it has.
async fn why(mut outcome: watch::Receiver<Outcome>) -> Error {
    match outcome.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(Err(why))) => failed(why.clone()),
        Ok(Some(Ok(()))) => failed("the server has answered before the end of what it was sent"),
        _ => failed("the upload was given up"),
    }
}

#[async_trait]
impl MultipartUpload for Streamed {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.bytes += data.content_length() as u64;
        let (taken, wait) = oneshot::channel();
        let sent = self.messages.as_ref().is_some_and(|messages| messages.send(Message::Part(data, taken)).is_ok());
        let outcome = self.outcome.clone();
        Box::pin(async move {
            if sent && wait.await.is_ok() {
                return Ok(());
            }
            Err(why(outcome).await)
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let ended = self.messages.take().is_some_and(|messages| messages.send(Message::End).is_ok());
        let stored = match self.outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Ok(()))) if ended => Ok(()),
            _ => Err(()),
        };
        if stored.is_err() {
            return Err(why(self.outcome.clone()).await);
        }
        self.requests.expect_size(&self.unfinished, self.bytes).await?;
        self.requests.move_to(&self.unfinished, &self.key, true).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Extensions::new() })
    }

    async fn abort(&mut self) -> Result<()> {
        // the body ends in an error, and with it the request
        self.messages = None;
        let _ = self.outcome.wait_for(Option::is_some).await;
        match self.requests.delete(&self.unfinished).await {
            Err(Error::NotFound { .. }) => Ok(()),
            done => done,
        }
    }
}

/// The cause that says most.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}
