//! Who can read a backup. Artifacts are age files (age-encryption.org/v1), so that stock `age -d` reads them.
//!
//! Everything about ciphers is the crate `age`. What is settled here is what may be a recipient (X25519 keys, or one passphrase) and how
//! much memory a passphrase may cost.

use std::io::{self, Cursor, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::{fmt, fs};

use age::secrecy::{ExposeSecret, SecretString};
use age::stream::StreamReader;
use age::{DecryptError, Decryptor, Encryptor, scrypt, x25519};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::secret::{Revealed, Secret, SecretError};
use crate::signature::{Authenticity, SigningKey, VerifyingKey};

/// log2 of the work that a guess of a passphrase takes. age's own choice, 18, takes 256 MiB for each artifact.
const WORK_FACTOR: u8 = 15;

/// Most work that is done for a file that says how much it takes: 64 MiB.
const MOST_WORK: u8 = 16;

/// Most recipients: the header of an artifact has about 100 bytes for each.
pub const MOST_RECIPIENTS: usize = 64;

/// Longest header that is read, in bytes.
pub const HEADER: usize = 16 << 10;

/// Largest identity file that is read, in bytes.
const IDENTITY_FILE: u64 = 1 << 20;

/// Why nothing can be encrypted, or decrypted. Names keys and files, never a secret.
#[derive(Debug, Error)]
pub enum EncryptionError {
    #[error("read the passphrase of `encryption.passphrase`")]
    Passphrase(#[source] SecretError),
    #[error("`encryption.passphrase` is empty")]
    Empty,
    #[error("read identity file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("identity file {}: {problem}", path.display())]
    Identity { path: PathBuf, problem: String },
    /// There is nothing to decrypt it with.
    #[error("it is encrypted {to}, and there is nothing here to decrypt it with")]
    NoIdentity { to: String },
    #[error("it is encrypted {to}, and none of the keys here is one of these")]
    WrongIdentity { to: String },
    #[error("read the key of `encryption.signing_key`")]
    SigningKey(#[source] SecretError),
    #[error("`encryption.signing_key`: {0}")]
    NoSigningKey(String),
    #[error("make an age header")]
    Header(#[source] age::EncryptError),
}

impl EncryptionError {
    /// What the operator can do about it, as a sentence.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::NoIdentity { .. } => Some(
                "Set `encryption.identity_file` to the file with the age identity, or `encryption.passphrase`. Nothing was changed.".into(),
            ),
            Self::WrongIdentity { .. } => Some(
                "`encryption.identity_file` may hold several identities, one a line: add the one of that key. Nothing was changed.".into(),
            ),
            Self::Identity { .. } => Some("It holds lines that begin with AGE-SECRET-KEY-1, as `backstay keygen` writes them.".into()),
            _ => None,
        }
    }
}

/// An X25519 public key, `age1…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(x25519::Recipient);

impl FromStr for Recipient {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let kind = match text {
            // the text may be the secret itself: it is not repeated
            _ if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") => {
                return Err("this is a secret identity, not a public key: whoever reads this file reads all backups; put the `age1…` \
                            that belongs to it here, and make a new key"
                    .into());
            }
            _ if text.starts_with("ssh-") => "is an SSH key",
            _ if text.starts_with("age1pq1") || text.starts_with("age1tag") => "is of another kind than X25519",
            _ => "is not an age public key",
        };
        text.parse().map(Self).map_err(|_| format!("`{text}` {kind}; `backstay keygen` prints one (`age1…`, X25519)"))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `[encryption]`.
#[derive(Debug, Clone, Default)]
pub struct EncryptionOptions {
    pub to: To,
    pub identity_file: Option<PathBuf>,
    /// What manifests are signed with.
    pub signing_key: Option<Secret>,
    /// Whose manifests are believed; none: everybody's.
    pub trusted_signers: Vec<VerifyingKey>,
}

/// To whom artifacts are to be encrypted.
#[derive(Debug, Clone, Default)]
pub enum To {
    /// To nobody: they are stored as they are.
    #[default]
    Nobody,
    Recipients(Vec<Recipient>),
    Passphrase(Secret),
}

impl EncryptionOptions {
    pub fn is_on(&self) -> bool {
        !matches!(self.to, To::Nobody)
    }

    /// What to encrypt with; `None`: nothing is to be encrypted. Secrets are read now.
    ///
    /// # Errors
    /// For a passphrase that cannot be read.
    pub fn lock(&self) -> Result<Option<Lock>, EncryptionError> {
        Ok(match &self.to {
            To::Nobody => None,
            To::Recipients(recipients) => Some(Lock::Recipients(recipients.clone().into())),
            To::Passphrase(secret) => Some(Lock::Passphrase(passphrase(secret)?)),
        })
    }

    /// Whose manifests are believed, and by whom they are signed. Secrets are read now.
    ///
    /// # Errors
    /// For a key that cannot be read, or is none.
    pub fn authenticity(&self) -> Result<Authenticity, EncryptionError> {
        let signer = match &self.signing_key {
            Some(secret) => {
                let text = secret.reveal().map_err(EncryptionError::SigningKey)?;
                Some(Arc::new(SigningKey::parse(&text).map_err(EncryptionError::NoSigningKey)?))
            }
            None => None,
        };
        Ok(Authenticity { signer, ..self.trust() })
    }

    /// Whose manifests are believed, for those who read them only.
    pub fn trust(&self) -> Authenticity {
        Authenticity { signer: None, trusted: self.trusted_signers.clone().into() }
    }

    /// What there is to decrypt with, perhaps nothing. Read now.
    ///
    /// # Errors
    /// For a file or a passphrase that is configured and cannot be read.
    pub fn identities(&self) -> Result<Identities, EncryptionError> {
        let mut identities = match &self.identity_file {
            Some(path) => read(path)?,
            None => Vec::new(),
        };
        if let To::Passphrase(secret) = &self.to {
            identities.push(Identity::Passphrase(passphrase(secret)?));
        }
        Ok(Identities(identities.into()))
    }
}

#[cfg(test)]
impl EncryptionOptions {
    /// By that passphrase, for the tests of others.
    pub fn by_passphrase(text: &str) -> Self {
        Self { to: To::Passphrase(Secret::parse(text)), ..Self::default() }
    }
}

fn passphrase(secret: &Secret) -> Result<Revealed, EncryptionError> {
    let text = secret.reveal().map_err(EncryptionError::Passphrase)?;
    if text.expose().is_empty() { Err(EncryptionError::Empty) } else { Ok(text) }
}

/// What artifacts of one run are encrypted with.
#[derive(Debug, Clone)]
pub enum Lock {
    Recipients(Arc<[Recipient]>),
    Passphrase(Revealed),
}

impl Lock {
    /// Bytes of memory that [`Lock::seal`] takes for a moment: 128 · r · N with r = 8 (RFC 7914 section 5).
    pub fn memory(&self) -> usize {
        match self {
            Self::Recipients(_) => 0,
            Self::Passphrase(_) => (128 * 8) << WORK_FACTOR,
        }
    }

    /// The public keys; none for a passphrase.
    pub fn recipients(&self) -> Vec<String> {
        match self {
            Self::Recipients(recipients) => recipients.iter().map(Recipient::to_string).collect(),
            Self::Passphrase(_) => Vec::new(),
        }
    }

    /// A key for one artifact, and the header that tells it to those who may read it. With a passphrase this takes a tenth of a second.
    ///
    /// # Errors
    /// Those of the library.
    pub fn seal(&self) -> Result<Seal, EncryptionError> {
        let sealed = match self {
            Self::Recipients(recipients) => Encryptor::with_recipients(recipients.iter().map(|r| &r.0 as &dyn age::Recipient)),
            Self::Passphrase(text) => {
                let mut recipient = scrypt::Recipient::new(SecretString::from(text.expose().to_owned()));
                recipient.set_work_factor(WORK_FACTOR);
                Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            }
        };
        sealed.map(Seal).map_err(EncryptionError::Header)
    }
}

/// For one artifact.
pub struct Seal(pub(crate) Encryptor);

/// Bytes that a plain stream of `bytes` takes at most once it is encrypted to `recipients`.
pub fn sealed_bytes(bytes: u64, recipients: usize) -> u64 {
    // a tag for each 64 KiB, the last of which may be empty; and a header
    let header = 1024 + 128 * recipients as u64;
    bytes.saturating_add((bytes / (64 << 10) + 1) * 16).saturating_add(header)
}

enum Identity {
    Key(x25519::Identity),
    Passphrase(Revealed),
}

/// What there is to decrypt with. Clones share.
#[derive(Clone)]
pub struct Identities(Arc<[Identity]>);

impl Default for Identities {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} identities", self.0.len())
    }
}

/// Why a stream cannot be decrypted from its beginning.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("none of the identities here is one that it is encrypted to")]
    Locked,
    #[error("its passphrase takes 2^{0} of work, more than is done for any")]
    Work(u8),
    #[error("it is no age file, or its header is damaged")]
    NotAge,
    #[error("read it")]
    Read(#[source] io::Error),
}

impl Identities {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The public keys; none for a passphrase.
    pub fn recipients(&self) -> Vec<String> {
        let public = |identity: &Identity| match identity {
            Identity::Key(key) => Some(key.to_public().to_string()),
            Identity::Passphrase(_) => None,
        };
        self.0.iter().filter_map(public).collect()
    }

    /// The plain stream of an age file.
    ///
    /// # Errors
    /// [`OpenError`] at once; the stream fails with [`Tampered`] in an [`io::Error`].
    pub fn open<R: Read>(&self, mut stored: R) -> Result<Plain<R>, OpenError> {
        let header = header(&mut stored)?;
        let decryptor = Decryptor::new(Cursor::new(header).chain(stored)).map_err(refusal)?;
        let identities: Vec<Box<dyn age::Identity>> = self.0.iter().map(Identity::boxed).collect();
        decryptor.decrypt(identities.iter().map(|i| &**i)).map(Plain).map_err(refusal)
    }
}

impl Identity {
    fn boxed(&self) -> Box<dyn age::Identity> {
        match self {
            Self::Key(key) => Box::new(key.clone()),
            Self::Passphrase(text) => {
                let mut identity = scrypt::Identity::new(SecretString::from(text.expose().to_owned()));
                identity.set_max_work_factor(MOST_WORK);
                Box::new(identity)
            }
        }
    }
}

fn refusal(error: DecryptError) -> OpenError {
    match error {
        DecryptError::NoMatchingKeys | DecryptError::KeyDecryptionFailed | DecryptError::DecryptionFailed => OpenError::Locked,
        DecryptError::ExcessiveWork { required, .. } => OpenError::Work(required),
        DecryptError::Io(source) if source.kind() != io::ErrorKind::UnexpectedEof => OpenError::Read(source),
        _ => OpenError::NotAge,
    }
}

/// Up to the end of the line that begins with `---`; not more than a header may have, however long a hostile one is.
fn header(stored: &mut impl Read) -> Result<Vec<u8>, OpenError> {
    let (mut header, mut line, mut byte) = (Vec::new(), 0, [0]);
    while header.len() < HEADER {
        if stored.read(&mut byte).map_err(OpenError::Read)? == 0 {
            return Err(OpenError::NotAge);
        }
        header.push(byte[0]);
        if byte[0] == b'\n' {
            if header[line..].starts_with(b"---") {
                return Ok(header);
            }
            line = header.len();
        }
    }
    Err(OpenError::NotAge)
}

/// The ciphertext is not what was written.
#[derive(Debug, Error)]
#[error("a piece of it was changed, moved or cut off")]
pub struct Tampered(#[source] io::Error);

/// What an age file holds. Its end comes only after the file's own end: one that was cut at any place is an error.
pub struct Plain<R>(StreamReader<io::Chain<Cursor<Vec<u8>>, R>>);

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, Tampered(error)))
    }
}

fn read(path: &Path) -> Result<Vec<Identity>, EncryptionError> {
    let failed = |source| EncryptionError::Read { path: path.to_owned(), source };
    let wrong = |problem: &str| EncryptionError::Identity { path: path.to_owned(), problem: problem.to_owned() };
    let mut file = fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!("identity file {} can be read by others (mode {:o}): chmod 600", path.display(), mode & 0o777);
    }
    let mut text = Zeroizing::new(String::new());
    if file.by_ref().take(IDENTITY_FILE).read_to_string(&mut text).map_err(failed)? as u64 == IDENTITY_FILE {
        return Err(wrong("is too large"));
    }
    if text.starts_with("age-encryption.org/") || text.starts_with("-----BEGIN AGE ENCRYPTED FILE") {
        return Err(wrong("is itself protected by a passphrase; decrypt it first (`age -d`), to a place that only you can read"));
    }
    if text.starts_with("-----BEGIN") {
        return Err(wrong("is no age identity; SSH keys are not supported"));
    }
    let mut identities = Vec::new();
    for (at, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with("AGE-PLUGIN-") {
            return Err(wrong(&format!("line {at} is for a plugin; plugins are not supported")));
        }
        // the line itself may be a secret
        identities.push(Identity::Key(line.parse().map_err(|_| wrong(&format!("line {at} is no age identity")))?));
    }
    if identities.is_empty() { Err(wrong("holds no identity")) } else { Ok(identities) }
}

/// A new key pair.
pub struct KeyPair(x25519::Identity);

impl KeyPair {
    pub fn generate() -> Self {
        Self(x25519::Identity::generate())
    }

    /// The public key.
    pub fn recipient(&self) -> String {
        self.0.to_public().to_string()
    }

    /// The secret one, as an identity file has it.
    pub fn identity(&self) -> Revealed {
        Revealed::new(self.0.to_string().expose_secret())
    }
}

#[cfg(test)]
mod tests;
