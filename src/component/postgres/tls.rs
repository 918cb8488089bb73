//! libpq's six sslmodes on rustls. tokio-postgres knows three of them, and rustls verifies by default where libpq does not.
//!
//! | mode | encrypted | verified |
//! |---|---|---|
//! | disable | no | |
//! | allow, prefer | if the server wants or can | the chain, if a root certificate is there |
//! | require | yes | the chain, if a root certificate is there |
//! | verify-ca | yes | the chain |
//! | verify-full | yes | the chain and the host's name |
//!
//! Rules: PostgreSQL's `src/interfaces/libpq/fe-secure-openssl.c` (`initialize_SSL`).

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use thiserror::Error;

/// How a connection is encrypted and whom it trusts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl FromStr for SslMode {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull]
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| format!("`{}` is not an sslmode (disable, allow, prefer, require, verify-ca, verify-full)", text.escape_debug()))
    }
}

/// Whom a connection trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// The operating system's certificates.
    System,
    /// PEM.
    File(PathBuf),
}

/// The ssl parameters of a connection. The files need not exist until a connection is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    pub mode: SslMode,
    pub root: Option<Root>,
    /// Certificate chain and key that prove who we are; PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why TLS cannot be set up. Never shows a key.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("read certificates of {}", path.display())]
    Certificates {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{} holds no certificate", .0.display())]
    Empty(PathBuf),
    #[error("read private key {} (an encrypted key cannot be used)", path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("certificate and key do not fit")]
    Identity(#[source] rustls::Error),
    #[error("the system has no root certificates")]
    NoSystemRoots,
    #[error("sslmode {} needs a root certificate (`sslrootcert`)", .0.as_str())]
    NoRoot(SslMode),
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
}

/// The client side of TLS for a connection that is to be encrypted.
///
/// # Errors
/// [`TlsError`] when a file is missing or not what it should be.
pub fn client_config(options: &TlsOptions) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let trust = match (&options.root, options.mode) {
        (None, SslMode::VerifyCa | SslMode::VerifyFull) => return Err(TlsError::NoRoot(options.mode)),
        (None, _) => Trust::Anyone,
        (Some(root), mode) => Trust::chain(root, mode == SslMode::VerifyFull)?,
    };
    let verifier = Arc::new(Verifier { trust, provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = read_certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Key { path: key.clone(), source })?;
            builder.with_client_auth_cert(chain, key).map_err(TlsError::Identity)?
        }
    };
    // Required by sslnegotiation=direct, ignored otherwise.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(config)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |source| TlsError::Certificates { path: path.to_owned(), source };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path).map_err(fault)?.collect::<Result<_, _>>().map_err(fault)?;
    if certificates.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(certificates) }
}

#[derive(Debug)]
enum Trust {
    Anyone,
    Chain {
        roots: RootCertStore,
        /// A server's own certificate in the root file is trusted as it is: `openssl req -x509` makes such, and OpenSSL accepts it.
        pinned: Vec<CertificateDer<'static>>,
        check_name: bool,
    },
}

impl Trust {
    fn chain(root: &Root, check_name: bool) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        let pinned = match root {
            Root::System => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(TlsError::NoSystemRoots);
                }
                Vec::new()
            }
            Root::File(path) => {
                let certificates = read_certificates(path)?;
                roots.add_parsable_certificates(certificates.iter().cloned());
                certificates
            }
        };
        Ok(Self::Chain { roots, pinned, check_name })
    }
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Trust::Chain { roots, pinned, check_name } = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms) {
            Ok(()) => {}
            // webpki looks at the dates before it looks for an issuer, so that an expired one does not get here.
            Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_)))
                if pinned.iter().any(|p| p == end_entity) => {}
            Err(error) => return Err(error),
        }
        if *check_name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
