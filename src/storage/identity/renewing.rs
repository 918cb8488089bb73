//! Requests to S3 whose credentials the store takes no more, though they are not over: they were revoked, or its clock is another.
//!
//! object_store signs a request once and repeats it as it is, so that new credentials would never reach it. Here it is signed again, once,
//! with what whoever gave the old ones gives now.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService};
use object_store::signer::Method;
use object_store::{ClientOptions, Result};

use super::Identity;
use crate::storage::client::Connector;
use crate::storage::error::element;

/// Codes with status 400 or 403: of AWS for credentials that are over or revoked, of MinIO for the latter.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>, MinIO's cmd/api-errors.go
const REFUSED: [&str; 5] = ["ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId", "InvalidTokenId"];

const TOKEN: &str = "x-amz-security-token";
const DIGEST: &str = "x-amz-content-sha256";

/// Makes the clients of a bucket.
#[derive(Debug, Clone)]
pub(in crate::storage) struct S3Connector {
    /// What requests are signed with, if others can be had.
    pub(in crate::storage) identity: Option<Arc<Identity>>,
    pub(in crate::storage) region: String,
}

#[derive(Debug)]
struct Client {
    inner: HttpClient,
    identity: Arc<Identity>,
    region: String,
}

impl HttpConnector for S3Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let inner = Connector.connect(options)?;
        Ok(match &self.identity {
            Some(identity) => HttpClient::new(Client { inner, identity: identity.clone(), region: self.region.clone() }),
            None => inner,
        })
    }
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
        let again = request.clone();
        let response = self.inner.execute(request).await?;
        let status = response.status().as_u16();
        if !matches!(status, 400 | 403) {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let body = body.bytes().await?;
        if is_refused(again.method(), status, &body)
            && let Some(signed) = self.signed_again(again).await?
        {
            return self.inner.execute(signed).await;
        }
        Ok(HttpResponse::from_parts(parts, body.into()))
    }
}

impl Client {
    /// With other credentials; `None` where there are no others.
    async fn signed_again(&self, mut request: HttpRequest) -> std::result::Result<Option<HttpRequest>, HttpError> {
        let failed = |error: object_store::Error| HttpError::new(HttpErrorKind::Unknown, error);
        let Some(id) = key_id(&request) else { return Ok(None) };
        let credential = self.identity.instead_of(id).await.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let Some(credential) = credential else { return Ok(None) };
        let digest = digest(&request);
        request.headers_mut().remove(TOKEN);
        let authorizer = AwsAuthorizer::new(&credential, "s3", &self.region).with_sign_payload(digest.is_some());
        authorizer.try_authorize(&mut request, digest.as_ref().map(|digest| &digest[..])).map_err(failed)?;
        Ok(Some(request))
    }
}

/// An answer to HEAD has no body, and 400 is what AWS says with these codes.
fn is_refused(method: &Method, status: u16, body: &[u8]) -> bool {
    match element(&String::from_utf8_lossy(body), "Code") {
        Some(code) => REFUSED.contains(&code),
        None => *method == Method::HEAD && status == 400,
    }
}

/// Of the credentials that a request was signed with.
fn key_id(request: &HttpRequest) -> Option<&str> {
    let signature = request.headers().get("authorization")?.to_str().ok()?;
    let (_, scope) = signature.split_once("Credential=")?;
    scope.split_once('/').map(|(id, _)| id)
}

/// Of the body, as it was signed; `None`: it was not.
fn digest(request: &HttpRequest) -> Option<[u8; 32]> {
    let digits = request.headers().get(DIGEST)?.to_str().ok().filter(|digits| digits.len() == 64)?;
    let mut digest = [0; 32];
    for (byte, digits) in digest.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use object_store::client::HttpRequestBody;
    use object_store::signer::HeaderValue;

    use super::*;

    #[test]
    fn credentials_that_are_not_taken_are_told_from_rights_that_lack() {
        let refused = |method: Method, status, code: &str| {
            let body = if code.is_empty() { String::new() } else { format!("<Error><Code>{code}</Code><Message>x</Message></Error>") };
            is_refused(&method, status, body.as_bytes())
        };
        for code in REFUSED {
            assert!(refused(Method::PUT, 403, code) && refused(Method::GET, 400, code), "{code}");
        }
        for code in ["AccessDenied", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "InvalidArgument", ""] {
            assert!(!refused(Method::PUT, 403, code) && !refused(Method::GET, 400, code), "{code}");
        }
        assert!(refused(Method::HEAD, 400, ""));
        // where no list is allowed, so it is told that there is no such object
        assert!(!refused(Method::HEAD, 403, ""));
    }

    #[test]
    fn whose_signature_it_is_and_of_what_is_read_from_a_request() {
        let request = |digest: &'static str| {
            let mut request = HttpRequest::new(HttpRequestBody::empty());
            let signature = "AWS4-HMAC-SHA256 Credential=ASIA7/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0a";
            request.headers_mut().insert("authorization", HeaderValue::from_static(signature));
            request.headers_mut().insert(DIGEST, HeaderValue::from_static(digest));
            request
        };
        let empty = request("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(key_id(&empty), Some("ASIA7"));
        assert_eq!(digest(&empty).map(|digest| (digest[0], digest[31])), Some((0xe3, 0x55)));
        assert_eq!(digest(&request("UNSIGNED-PAYLOAD")), None);
        assert_eq!(key_id(&HttpRequest::new(HttpRequestBody::empty())), None);
    }
}
