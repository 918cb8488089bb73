//! Azurite: Microsoft's own stand-in for Azure Blob Storage.

use std::fmt::Write as _;
use std::net::TcpStream;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use object_store::ClientOptions;
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::client::{HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::signer::{HeaderValue, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ring::hmac;
use rustix::process::Signal;

use super::ports::Port;
use super::process::{Process, bound_to_test};
use super::scratch::Scratch;
use super::tools;

/// A running Azurite with one account, and the container [`Azurite::CONTAINER`]. It checks signatures and the rights of tokens.
#[derive(Debug)]
pub struct Azurite {
    pub key: String,
    process: Process,
    port: Port,
    _scratch: Scratch,
}

impl Azurite {
    pub const ACCOUNT: &str = "canaryaccount";
    pub const CONTAINER: &str = "backups";

    pub fn start() -> Self {
        let (scratch, port) = (Scratch::new(), Port::free());
        let key = BASE64.encode("azure+secret/canary=4711");
        let mut command = Command::new("node");
        command.arg(tools::installed("azurite/node_modules/azurite/dist/src/blob/main.js")).current_dir(scratch.path());
        command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.number().to_string(), "--location", "data"]);
        // object_store may speak a later version of the protocol than Azurite knows
        command.args(["--silent", "--disableTelemetry", "--skipApiVersionCheck"]);
        command.env("AZURITE_ACCOUNTS", format!("{}:{key}", Self::ACCOUNT));
        std::fs::create_dir(scratch.join("data")).expect("create a folder");
        let mut process = Process::spawn("Azurite", bound_to_test(command, "KILL"), &scratch.join("log"), Signal::KILL);
        process.wait_until(|| TcpStream::connect(("127.0.0.1", port.number())).is_ok());
        Self { key, process, port, _scratch: scratch }
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Of the account's blob service.
    pub fn endpoint(&self) -> String {
        Self::endpoint_by(&format!("http://127.0.0.1:{}", self.port()))
    }

    /// Likewise, by way of something that listens at `base`.
    pub fn endpoint_by(base: &str) -> String {
        format!("{base}/{}", Self::ACCOUNT)
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub async fn create_container(&self) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).expect("a client");
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = Method::PUT;
        *request.uri_mut() = format!("{}/{}?restype=container", self.endpoint(), Self::CONTAINER).parse().expect("a URI");
        request.headers_mut().insert("content-length", HeaderValue::from_static("0"));
        let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(&self.key).expect("a key"));
        AzureAuthorizer::new(&credential, Self::ACCOUNT).try_authorize(&mut request).expect("signed");
        let response = client.execute(request).await.expect("an answer");
        assert!(response.status().is_success(), "create the container: {}", response.status());
    }

    /// A client of the container, to look at what the program stored.
    pub fn container(&self) -> MicrosoftAzure {
        let _ = rustls::crypto::ring::default_provider().install_default();
        MicrosoftAzureBuilder::new()
            .with_account(Self::ACCOUNT)
            .with_access_key(&self.key)
            .with_container_name(Self::CONTAINER)
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .build()
            .expect("a valid client")
    }

    /// A shared access signature for the container, with these rights, such as `racwdl`, until `expiry`.
    /// <https://learn.microsoft.com/en-us/rest/api/storageservices/create-service-sas>
    pub fn sas(&self, rights: &str, expiry: &str) -> String {
        const VERSION: &str = "2020-10-02";
        let resource = format!("/blob/{}/{}", Self::ACCOUNT, Self::CONTAINER);
        // rights, start, expiry, resource, identifier, address, protocol, version, kind, snapshot, and five headers
        let text = format!("{rights}\n\n{expiry}\n{resource}\n\n\n\n{VERSION}\nc\n\n\n\n\n\n");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64.decode(&self.key).expect("base64"));
        let signature = BASE64.encode(hmac::sign(&key, text.as_bytes()));
        let mut query = String::new();
        for (name, value) in [("sv", VERSION), ("sr", "c"), ("sp", rights), ("se", expiry), ("sig", &signature)] {
            write!(query, "&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)).expect("a string takes all");
        }
        query.trim_start_matches('&').to_owned()
    }
}
