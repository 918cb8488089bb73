//! Encryption by the server: what asks for it, and what a copy within the bucket needs of it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use object_store::aws::AmazonS3Builder;

use crate::secret::Secret;

/// Who encrypts what is stored, besides the store's own habit.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/serv-side-encryption.html>
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sse {
    #[default]
    None,
    /// With keys of the store: SSE-S3.
    Store,
    /// With a key of the key service, or the bucket's default one; twice with `dual`.
    Kms { key: Option<String>, dual: bool },
    /// With a key that each request brings along, and the store forgets: SSE-C. The base64 of 32 bytes.
    Customer(Secret),
}

/// The headers by which a request brings the key along; nothing otherwise. Never printed.
#[derive(Clone, Default)]
pub(super) struct CustomerKey(Option<[String; 2]>);

impl fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "***" } else { "no key" })
    }
}

/// object_store's names of what it has no methods for.
const KIND: &str = "aws_server_side_encryption";
const KMS_KEY: &str = "aws_sse_kms_key_id";

const OWN: &str = "x-amz-server-side-encryption-customer-";
const SOURCE: &str = "x-amz-copy-source-server-side-encryption-customer-";

impl CustomerKey {
    /// Of the base64 of a key.
    ///
    /// # Errors
    /// When it is no such thing; without saying what it is.
    pub(super) fn new(key: &str) -> Result<Self, &'static str> {
        let bytes = STANDARD.decode(key.trim()).ok().filter(|bytes| bytes.len() == 32);
        let bytes = bytes.ok_or("`sse_customer_key` is not the base64 of 32 bytes (`openssl rand -base64 32` makes one)")?;
        Ok(Self(Some([key.trim().to_owned(), STANDARD.encode(Md5::digest(bytes))])))
    }

    /// What a copy of an object of the same key into one of the same key needs besides.
    pub(super) fn of_copy(&self) -> impl Iterator<Item = (String, String)> {
        let parts = self.0.iter().flat_map(|[key, md5]| [("algorithm", "AES256"), ("key", key), ("key-MD5", md5)]);
        parts.flat_map(|(name, value)| [OWN, SOURCE].map(|prefix| (format!("{prefix}{name}"), value.to_owned())))
    }
}

/// Sets the store up.
pub(super) fn apply(builder: AmazonS3Builder, sse: &Sse, customer: &CustomerKey) -> AmazonS3Builder {
    let set = |builder: AmazonS3Builder, name: &str, value: &str| match name.parse() {
        Ok(key) => builder.with_config(key, value),
        Err(_) => builder,
    };
    match sse {
        Sse::None => builder,
        Sse::Store => set(builder, KIND, "AES256"),
        Sse::Kms { key, dual } => {
            let builder = set(builder, KIND, if *dual { "aws:kms:dsse" } else { "aws:kms" });
            key.iter().fold(builder, |builder, key| set(builder, KMS_KEY, key))
        }
        Sse::Customer(_) => builder.with_ssec_encryption(customer.0.as_ref().map_or("", |[key, _]| key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As AWS's own clients compute it: `echo -n KEY | base64 -d | md5sum | xxd -r -p | base64`.
    #[test]
    fn a_key_is_brought_along_with_its_digest_on_both_sides_of_a_copy() {
        let key = CustomerKey::new("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n").expect("a key");
        let headers: Vec<_> = key.of_copy().collect();
        assert_eq!(headers.len(), 6);
        let of = |name: &str| headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
        assert_eq!(of(&format!("{OWN}key-MD5")), Some("KYvwGXoFFJ42a2u2GDWhwQ=="));
        assert_eq!(of(&format!("{SOURCE}key")), Some("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="));
        assert_eq!(format!("{key:?}"), "***");
        for wrong in ["", "MDEyMzQ1", "not base64", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEy"] {
            assert!(CustomerKey::new(wrong).is_err(), "{wrong}");
        }
    }
}
