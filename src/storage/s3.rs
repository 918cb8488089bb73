//! A target in an S3 bucket.

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use url::Url;

use super::bucket::Bucket;
use super::client;
use super::error::StorageError;
use super::identity::{Giver, Identity, S3Connector, Web};
use super::options::{Addressing, Checksum, S3Options};
use super::retry;
use super::sse::{self, CustomerKey, Sse};
use crate::name::TargetName;
use crate::secret::{Revealed, Secret};

pub(super) fn open(target: &TargetName, bucket: &str, options: &S3Options) -> Result<Bucket, StorageError> {
    let setup = |source: Box<dyn std::error::Error + Send + Sync>| StorageError::Setup { target: target.clone(), source };
    let reveal = |secret: &Option<Secret>| -> Result<Option<Revealed>, StorageError> {
        secret.as_ref().map(Secret::reveal).transpose().map_err(|source| StorageError::Secret { target: target.clone(), source })
    };

    let client = client::options(target, options.allow_http, options.ca_file.as_deref())?
        .with_allow_invalid_certificates(options.insecure_skip_verify);

    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_client_options(client.clone())
        .with_retry(retry::config())
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_allow_http(options.allow_http);
    let virtual_hosted = match options.addressing {
        Addressing::Auto => options.endpoint.is_none(),
        Addressing::Path => false,
        Addressing::Virtual => true,
    };
    builder = builder.with_virtual_hosted_style_request(virtual_hosted);
    if let Some(endpoint) = &options.endpoint {
        let endpoint = if virtual_hosted { with_bucket(endpoint, bucket) } else { endpoint.clone() };
        // object_store takes anything, and panics at the first request
        if let Err(why) = endpoint.parse::<Url>() {
            return Err(setup(
                format!("the endpoint `{endpoint}` is not a URL with a host ({why}); virtual addressing needs a name").into(),
            ));
        }
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some(id) = reveal(&options.access_key_id)? {
        builder = builder.with_access_key_id(id.expose());
    }
    if let Some(key) = reveal(&options.secret_access_key)? {
        builder = builder.with_secret_access_key(key.expose());
    }
    if let Some(token) = reveal(&options.session_token)? {
        builder = builder.with_token(token.expose());
    }
    let giver = match (&options.web_identity, &options.profile) {
        (Some(web), _) => Some(Giver::Web(Box::new(Web::new(web.as_ref().clone()).map_err(|e| setup(Arc::new(e).into()))?))),
        (None, Some(profile)) => Some(Giver::Profile(profile.clone())),
        (None, None) => None,
    };
    let identity = giver.map(|giver| Arc::new(Identity::new(giver)));
    if let Some(identity) = &identity {
        builder = builder.with_credentials(identity.clone());
    }
    let algorithm = match options.checksum {
        Checksum::None => None,
        Checksum::Sha256 => Some(object_store::aws::Checksum::SHA256),
        Checksum::Crc64Nvme => Some(object_store::aws::Checksum::CRC64NVME),
    };
    if let Some(algorithm) = algorithm {
        builder = builder.with_checksum_algorithm(algorithm);
    }
    let customer_key = match &options.sse {
        Sse::Customer(key) => match reveal(&Some(key.clone()))? {
            Some(key) => CustomerKey::new(key.expose()).map_err(|why| setup(why.into()))?,
            None => CustomerKey::default(),
        },
        _ => CustomerKey::default(),
    };
    builder = sse::apply(builder, &options.sse, &customer_key);
    // as the builder has it
    let region = builder.get_config_value(&AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
    let connector = S3Connector { identity, region };
    let store = builder.with_http_connector(connector.clone()).build().map_err(|e| setup(e.into()))?;
    Ok(Bucket::new(store, bucket, connector, client).with_customer_key(customer_key))
}

/// object_store wants the bucket's name in the endpoint when requests are virtual-hosted.
fn with_bucket(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
        None => format!("https://{bucket}.{endpoint}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_is_no_url_is_refused() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let open = |endpoint: &str, addressing| {
            let options = S3Options { endpoint: Some(endpoint.into()), addressing, allow_http: true, ..S3Options::default() };
            super::open(&"offsite".parse().expect("a name"), "bucket", &options).map(drop)
        };
        assert!(open("http://127.0.0.1:9000", Addressing::Path).is_ok());
        assert!(open("http://localhost:9000", Addressing::Virtual).is_ok());
        assert!(open("http://127.0.0.1:9000", Addressing::Virtual).is_err());
        for bad in ["nonsense", "http://", "http://host:99999", "http://[::"] {
            assert!(open(bad, Addressing::Path).is_err(), "{bad}");
        }
    }
}
