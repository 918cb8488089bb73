//! Who made a backup: Ed25519 signatures (RFC 8032) of manifests, which name the hash of everything else.
//!
//! Encryption does not tell: whoever knows a public key can encrypt to it. A public key is written `ed25519:` and 64 hex digits, the secret
//! one `backstay-signing-key:` and the 64 hex digits of its seed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

use crate::secret::Revealed;

/// Begins what is signed, so that a signature made for something else is none of a manifest.
const CONTEXT: &[u8] = b"backstay manifest signature v1\n";

const PUBLIC: &str = "ed25519:";
const SECRET: &str = "backstay-signing-key:";

/// Bytes of a key, and of a seed.
const KEY: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE: usize = 64;

/// What signs. Never printed.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// A new one, and its text.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<(Self, Revealed), String> {
        let mut seed = Zeroizing::new([0; KEY]);
        SystemRandom::new().fill(&mut *seed).map_err(|_| "the system gives no random numbers".to_owned())?;
        let text = Revealed::new(format!("{SECRET}{}", Zeroizing::new(hex(&*seed)).as_str()));
        Self::parse(&text).map(|key| (key, text))
    }

    /// Lines that begin with `#`, and empty ones, are comments.
    ///
    /// # Errors
    /// A sentence that does not hold the text.
    pub fn parse(text: &Revealed) -> Result<Self, String> {
        let mut lines = text.expose().lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let seed = match (lines.next().and_then(|line| line.strip_prefix(SECRET)), lines.next()) {
            (Some(digits), None) => Zeroizing::new(unhex::<KEY>(digits).ok_or(NO_KEY)?),
            _ => return Err(NO_KEY.to_owned()),
        };
        Ed25519KeyPair::from_seed_unchecked(&*seed).map(Self).map_err(|_| NO_KEY.to_owned())
    }

    pub fn public(&self) -> VerifyingKey {
        let mut key = [0; KEY];
        key.copy_from_slice(self.0.public_key().as_ref());
        VerifyingKey(key)
    }

    /// The signature of `bytes`, in lower-case hex.
    pub fn sign(&self, bytes: &[u8]) -> String {
        hex(self.0.sign(&[CONTEXT, bytes].concat()).as_ref())
    }
}

const NO_KEY: &str = "it is no signing key, as `backstay keygen --signing` makes one";

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "*** ({})", self.public())
    }
}

/// What a signature is judged by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VerifyingKey([u8; KEY]);

impl VerifyingKey {
    /// Whether `signature`, in hex, is one of `bytes` by this key.
    pub fn verifies(&self, bytes: &[u8], signature: &str) -> bool {
        unhex::<SIGNATURE>(signature)
            .is_some_and(|signature| UnparsedPublicKey::new(&ED25519, &self.0).verify(&[CONTEXT, bytes].concat(), &signature).is_ok())
    }
}

impl FromStr for VerifyingKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        // the text may be the secret itself: it is not repeated
        if text.contains(SECRET.trim_end_matches(':')) {
            return Err("this is a secret signing key: whoever reads this file can forge backups; put the `ed25519:…` that belongs to it \
                        here, and make a new key"
                .into());
        }
        let digits = text.strip_prefix(PUBLIC).and_then(unhex::<KEY>);
        digits
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no signer (`ed25519:` and 64 hex digits); `backstay keygen --signing` prints one"))
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", hex(&self.0))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// By whom manifests are signed, and whose are believed.
#[derive(Debug, Clone)]
pub struct Authenticity {
    pub signer: Option<Arc<SigningKey>>,
    /// None: a manifest needs no signature.
    pub trusted: Arc<[VerifyingKey]>,
}

impl Default for Authenticity {
    fn default() -> Self {
        Self { signer: None, trusted: Arc::from([]) }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Of lower-case digits only: one value has one spelling.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_that_signed_verifies_and_only_what_it_signed() {
        let (key, text) = SigningKey::generate().expect("a key");
        let (other, _) = SigningKey::generate().expect("a key");
        let signature = SigningKey::parse(&text).expect("the same").sign(b"bytes");
        assert!(key.public().verifies(b"bytes", &signature));
        assert!(!other.public().verifies(b"bytes", &signature) && !key.public().verifies(b"bytes.", &signature));
        for wrong in ["", "00", &signature.to_uppercase(), &signature.replace(['0', '1'], "2"), &"0".repeat(128)] {
            assert!(!key.public().verifies(b"bytes", wrong), "{wrong}");
        }
        assert_eq!(key.public().to_string().parse::<VerifyingKey>().expect("a key"), key.public());
        let commented = Revealed::new(format!("# public key: {}\n\n{}\n", key.public(), text.expose()));
        assert_eq!(SigningKey::parse(&commented).expect("a key").public(), key.public());
    }

    /// The first test vector of RFC 8032 section 7.1, but for the context that begins what is signed here.
    #[test]
    fn keys_are_those_of_the_standard() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let key = SigningKey::parse(&Revealed::new(format!("{SECRET}{seed}"))).expect("a key");
        assert_eq!(key.public().to_string(), "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    }

    #[test]
    fn a_secret_is_never_repeated() {
        let (key, text) = SigningKey::generate().expect("a key");
        let digits = text.expose().strip_prefix(SECRET).expect("its mark").to_owned();
        assert!(!format!("{key:?}").contains(&digits));
        let error = text.expose().parse::<VerifyingKey>().expect_err("refused");
        assert!(error.contains("secret signing key") && !error.contains(&digits), "{error}");
        for wrong in ["", "x", &digits, &format!("{SECRET}{}", &digits[1..]), &format!("{0}\n{0}", text.expose())] {
            let error = SigningKey::parse(&Revealed::new(wrong)).expect_err("refused");
            assert!(!error.contains(&digits[..8]), "{error}");
        }
    }
}
