//! SeaweedFS: a complete S3 server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::signer::Method;
use rustix::process::Signal;

use super::issuer::Issuer;
use super::ports::Port;
use super::process::{Process, bound_to_test};
use super::scratch::Scratch;
use super::tls::Authority;
use super::tools;

/// A running SeaweedFS with one identity, which may do everything, and the bucket [`Seaweed::BUCKET`].
///
/// It checks signatures, but takes any region.
#[derive(Debug)]
pub struct Seaweed {
    pub access_key: String,
    pub secret_key: String,
    process: Process,
    master: Port,
    filer: Port,
    s3: Port,
    tls: bool,
    _others: [Port; 2],
    _scratch: Scratch,
}

impl Seaweed {
    pub const BUCKET: &str = "backups";
    pub const ROLE: &str = "arn:aws:iam::role/Backup";
    pub const POLICY: &str = "everything";

    pub fn start() -> Self {
        Self::launch(None, &[], None, false)
    }

    /// Likewise, and whoever gives no credentials may do everything too.
    pub fn start_open() -> Self {
        Self::launch(None, &[], None, true)
    }

    /// With more identities: of each a name, which is its access key too (the secret key is the server's), and its policy, in the language of
    /// IAM, which the server enforces.
    pub fn start_with(identities: &[(&str, serde_json::Value)]) -> Self {
        Self::launch(None, identities, None, false)
    }

    /// S3 over https, with a certificate of `authority`.
    pub fn start_tls(authority: &Authority) -> Self {
        Self::launch(Some(authority), &[], None, false)
    }

    /// Which gives credentials for the tokens of `issuer`: with [`Self::ROLE`], or without a role by the policies that the claim `policy` names, as
    /// MinIO does. Its policy [`Self::POLICY`] allows everything.
    pub fn start_trusting(issuer: &Issuer, authority: Option<&Authority>) -> Self {
        Self::launch(authority, &[], Some((issuer, Duration::from_secs(43_200))), false)
    }

    /// Likewise, for so long at most.
    pub fn start_trusting_for(issuer: &Issuer, session: Duration) -> Self {
        Self::launch(None, &[], Some((issuer, session)), false)
    }

    fn launch(
        authority: Option<&Authority>,
        others: &[(&str, serde_json::Value)],
        issuer: Option<(&Issuer, Duration)>,
        open: bool,
    ) -> Self {
        let scratch = Scratch::new();
        let (access_key, secret_key) = ("AKTESTSEAWEED".to_owned(), "s3+secret/canary=4711".to_owned());
        let mut identities = vec![serde_json::json!({
            "name": "test",
            "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        })];
        if open {
            identities.push(serde_json::json!({"name": "anonymous", "actions": ["Admin", "Read", "Write", "List"]}));
        }
        identities.extend(others.iter().map(
            |(name, _)| serde_json::json!({"name": name, "credentials": [{"accessKey": name, "secretKey": secret_key}], "policyNames": [name]}),
        ));
        let policies: Vec<_> =
            others.iter().map(|(name, policy)| serde_json::json!({"name": name, "content": policy.to_string()})).collect();
        let config = scratch.write("s3.json", serde_json::json!({"identities": identities, "policies": policies}).to_string());
        std::fs::create_dir(scratch.join("data")).expect("create a folder");
        let (master, volume, filer, s3, spare) = (Port::free(), Port::free(), Port::free(), Port::free(), Port::free());

        let mut command = Command::new(tools::installed("bin/weed"));
        // otherwise it keeps to the proxies of the environment, even for its own ports
        command.env_remove("http_proxy").env_remove("HTTP_PROXY").env("NO_PROXY", "*").current_dir(scratch.path());
        command.args(["-logtostderr=true", "mini", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-metricsPort=0"]);
        command.args([
            "-admin.ui=false",
            "-webdav=false",
            "-master.telemetry=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
        ]);
        command.args(["-s3.autoCreateBucket=false", &format!("-bucket={}", Self::BUCKET), &format!("-s3.config={}", config.display())]);
        for (option, port) in [("master", &master), ("volume", &volume), ("filer", &filer), ("admin", &spare)] {
            command.arg(format!("-{option}.port={}", port.number()));
        }
        if let Some((issuer, session)) = issuer {
            let trust = scratch.write("iam.json", trust(issuer, session).to_string());
            command.arg(format!("-s3.iam.config={}", trust.display()));
        }
        if let Some(authority) = authority {
            authority.install(scratch.path());
            // with a certificate the s3 port itself speaks TLS
            command.args(["-s3.cert.file=server.pem", "-s3.key.file=server.key"]);
        }
        command.arg(format!("-s3.port={}", s3.number()));

        let mut process = Process::spawn("SeaweedFS", bound_to_test(command, "KILL"), &scratch.join("log"), Signal::KILL);
        let bucket = format!("/buckets/{}/", Self::BUCKET);
        process.wait_until(|| {
            TcpStream::connect(("127.0.0.1", s3.number())).is_ok()
                && get(filer.number(), &bucket).is_some_and(|reply| reply.starts_with("HTTP/1.1 200"))
                && get(master.number(), "/dir/assign").is_some_and(|reply| reply.contains("\"fid\""))
        });
        let tls = authority.is_some();
        Self { access_key, secret_key, process, master, filer, s3, tls, _others: [volume, spare], _scratch: scratch }
    }

    /// `http://127.0.0.1:PORT`, or `https://localhost:PORT` with TLS.
    pub fn endpoint(&self) -> String {
        if self.tls { format!("https://localhost:{}", self.s3.number()) } else { format!("http://127.0.0.1:{}", self.s3.number()) }
    }

    pub fn port(&self) -> u16 {
        self.s3.number()
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn create_bucket(&self, name: &str) {
        self.create(name, "");
    }

    /// With Object Lock, and with it versions.
    pub fn create_locked_bucket(&self, name: &str) {
        self.create(name, "-withLock");
    }

    fn create(&self, name: &str, options: &str) {
        let mut shell = Command::new(tools::installed("bin/weed"));
        shell.args(["shell", &format!("-master=127.0.0.1:{}", self.master.number()), &format!("-filer=127.0.0.1:{}", self.filer.number())]);
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start weed shell");
        writeln!(child.stdin.take().expect("stdin was piped"), "s3.bucket.create -name {name} {options}\nexit")
            .expect("write to weed shell");
        let output = child.wait_with_output().expect("wait for weed shell");
        let reply = get(self.filer.number(), &format!("/buckets/{name}/")).unwrap_or_default();
        assert!(reply.starts_with("HTTP/1.1 200"), "create bucket {name}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Keys of uploads that were neither completed nor aborted, as the server itself keeps them.
    pub fn unfinished_uploads(&self, bucket: &str) -> Vec<String> {
        let reply = get(self.filer.number(), &format!("/buckets/{bucket}/.uploads/?limit=1000")).unwrap_or_default();
        if reply.starts_with("HTTP/1.1 404") {
            return Vec::new();
        }
        // one chunk, or none
        let body = reply.find('{').zip(reply.rfind('}')).map_or("", |(from, to)| &reply[from..=to]);
        let listing: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("not JSON ({e}): {reply}"));
        let entries = listing["Entries"].as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["FullPath"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// A request to S3 that no client of ours makes, and its answer. `target`: path and query.
    pub async fn ask(&self, method: Method, target: &str, body: &str) -> String {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).expect("a client");
        let mut request = HttpRequest::new(HttpRequestBody::from(body.to_owned()));
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{target}", self.endpoint()).parse().expect("a URI");
        let credential = AwsCredential { key_id: self.access_key.clone(), secret_key: self.secret_key.clone(), token: None };
        AwsAuthorizer::new(&credential, "s3", "us-east-1").try_authorize(&mut request, None).expect("signed");
        let response = client.execute(request).await.expect("an answer");
        let status = response.status();
        let answer = response.into_body().bytes().await.expect("its whole");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(status.is_success(), "{target}: {status}: {answer}");
        answer
    }

    /// A client of a bucket, to look at what the program stored.
    pub fn bucket(&self, name: &str) -> object_store::aws::AmazonS3 {
        let _ = rustls::crypto::ring::default_provider().install_default();
        object_store::aws::AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .with_bucket_name(name)
            .with_region("us-east-1")
            .with_access_key_id(&self.access_key)
            .with_secret_access_key(&self.secret_key)
            .build()
            .expect("a valid S3 client")
    }

    /// Stops answering, without closing its ports, until [`Self::thaw`].
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    pub fn stop(&mut self) {
        self.process.stop();
    }
}

/// The configuration of its STS. <https://github.com/seaweedfs/seaweedfs/tree/master/test/s3/iam>
fn trust(issuer: &Issuer, session: Duration) -> serde_json::Value {
    let allow = |action: &str, more: serde_json::Value| {
        let mut statement = serde_json::json!({"Effect": "Allow", "Action": [action]});
        statement.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        statement
    };
    serde_json::json!({
        "sts": {
            "tokenDuration": "1h", "maxSessionLength": format!("{}s", session.as_secs()), "issuer": "seaweedfs-sts",
            "signingKey": "dGVzdC1zaWduaW5nLWtleS0zMi1jaGFyYWN0ZXJzLWxvbmc=",
        },
        "providers": [{"name": "issuer", "type": "oidc", "enabled": true, "config": {
            "issuer": issuer.url(), "clientId": Issuer::CLIENT, "jwksUri": issuer.keys_url(), "policyClaim": "policy",
        }}],
        "policy": {"defaultEffect": "Deny"},
        "roles": [{
            "roleName": "Backup", "roleArn": Seaweed::ROLE, "attachedPolicies": [Seaweed::POLICY],
            "trustPolicy": {"Version": "2012-10-17", "Statement": [
                allow("sts:AssumeRoleWithWebIdentity", serde_json::json!({"Principal": {"Federated": "issuer"}})),
            ]},
        }],
        "policies": [{"name": Seaweed::POLICY, "document": {"Version": "2012-10-17", "Statement": [
            allow("s3:*", serde_json::json!({"Resource": ["*"]})),
            allow("sts:ValidateSession", serde_json::json!({"Resource": ["*"]})),
        ]}}],
    })
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\nConnection: close\r\n\r\n").ok()?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).ok()?;
    Some(String::from_utf8_lossy(&reply).into_owned())
}
