//! Credentials that a store gives for the token of an identity provider, against SeaweedFS's STS and a provider of the tests' own.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use backstay::chain::describe;
use backstay::secret::Secret;
use backstay::storage::{Access, Location, S3Options, Target, TargetOptions, TokenChoice, TokenProvider, TokenSource, WebIdentity};
use object_store::path::Path;

use crate::support::issuer::Behaviour;
use crate::support::proxy::Request;
use crate::support::sample::dense_media;
use crate::support::{Authority, Backstay, Fault, Issuer, Outcome, Proxy, Scratch, Seaweed, Tree, assert_same_tree, toml};

/// A provider, a store that trusts it, and a directory to back up.
struct Site {
    issuer: Issuer,
    store: Seaweed,
    source: Scratch,
}

impl Site {
    fn new() -> Self {
        let issuer = Issuer::start();
        let store = Seaweed::start_trusting(&issuer, None);
        Self { issuer, store, source: dense_media() }
    }

    /// With credentials that live so long.
    fn for_seconds(seconds: u64) -> Self {
        let issuer = Issuer::start();
        let store = Seaweed::start_trusting_for(&issuer, Duration::from_secs(seconds));
        Self { issuer, store, source: dense_media() }
    }

    /// The keys of a section in the store.
    fn section(&self, kind: &str, endpoint: &str, table: &str) -> String {
        format!(
            "[{kind}]\nurl = \"s3://{}\"\nendpoint = {}\nallow_http = true\n[{kind}.web_identity]\n{table}",
            Seaweed::BUCKET,
            toml::quoted(endpoint)
        )
    }

    fn program(&self, table: &str) -> Backstay {
        self.program_by(&self.store.endpoint(), table)
    }

    fn program_by(&self, endpoint: &str, table: &str) -> Backstay {
        let media = toml::directory("media", &self.source.join("media"));
        Backstay::new(&[job(), media, self.section("targets.minio", endpoint, table)].concat())
    }

    /// By the client's secret.
    fn table(&self) -> String {
        table_of(&self.issuer, Issuer::SECRET)
    }
}

/// The store as a target, without the program.
fn target(site: &Site) -> Target {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let provider = TokenProvider {
        url: site.issuer.token_url(),
        client_id: Issuer::CLIENT.into(),
        client_secret: Some(Secret::parse(Issuer::SECRET)),
        account: None,
        scope: "openid minio".into(),
        choice: TokenChoice::Auto,
    };
    let web_identity = WebIdentity {
        token: TokenSource::Provider(provider),
        sts_endpoint: site.store.endpoint(),
        role_arn: None,
        role_session_name: "backstay".into(),
        duration: Duration::from_secs(900),
        ca_file: None,
        allow_http: true,
    };
    let s3 = S3Options {
        endpoint: Some(site.store.endpoint()),
        allow_http: true,
        max_parts: 10_000,
        web_identity: Some(Box::new(web_identity)),
        ..S3Options::default()
    };
    let location = Location::S3 { bucket: Seaweed::BUCKET.into(), prefix: String::new(), options: Box::new(s3) };
    let options = TargetOptions { name: "minio".parse().expect("a name"), location, limit: None };
    Target::open(&options, Access::Write).expect("a target")
}

async fn write(target: &Target, key: &str) -> Result<(), String> {
    let written = target.write(&Path::from(key), "content".into(), "text/plain").await;
    written.map_err(|error| format!("{} {}", describe(&error), error.advice().unwrap_or_default()))
}

fn job() -> String {
    "[jobs.default]\ncomponents = [\"media\"]\n".to_owned()
}

fn table_of(issuer: &Issuer, secret: &str) -> String {
    format!(
        "token_url = {}\nclient_id = \"{}\"\nclient_secret = {}\n",
        toml::quoted(issuer.token_url()),
        Issuer::CLIENT,
        toml::quoted(secret)
    )
}

/// Nothing that opens a door is told.
#[track_caller]
fn assert_no_secrets(outcome: &Outcome) {
    for secret in ["canary", "eyJ", "SessionToken"] {
        assert!(!outcome.stderr.contains(secret) && !outcome.stdout.contains(secret), "`{secret}` is in:\n{}", outcome.stderr);
    }
}

#[test]
fn a_backup_goes_there_and_back_by_the_identity_provider() {
    let site = Site::new();
    let proxy = Proxy::new(site.store.port(), |_| None);
    let backstay = site.program_by(&proxy.endpoint(), &site.table());
    let outcome = backstay.succeed(&["-vvv", "backup", "--json"]);
    assert_no_secrets(&outcome);
    let name = outcome.json()["name"].as_str().expect("a name").to_owned();
    let form = &site.issuer.asked()[0];
    assert_eq!((form["grant_type"].as_str(), form["scope"].as_str()), ("client_credentials", "openid minio"));
    assert_eq!(site.issuer.asked().len(), 1, "one token for a whole run");
    let list = backstay.succeed(&["listbackups", "--json"]).json();
    assert_eq!(list[0]["name"], name);
    let out = Scratch::new();
    backstay.succeed(&["restore", &name, "--yes", "--into", &format!("media={}", out.join("media").display())]);
    assert_same_tree(&Tree::of(&site.source.join("media")), &Tree::of(&out.join("media")));
    backstay.succeed(&["check"]);
    let shown = backstay.succeed(&["config", "show"]);
    assert!(shown.stdout.contains("targets.minio.web_identity.client_id") && !shown.stdout.contains("canary"), "{}", shown.stdout);
}

#[test]
fn a_role_is_taken_where_one_is_named() {
    let site = Site::new();
    site.issuer.behave(Behaviour { policy: None, ..Behaviour::default() });
    let without = site.program(&site.table()).run(&["backup"]).expect_code(3);
    let without = without.expect_message("gives no credentials for the token").expect_message("Set `role_arn`");
    assert_no_secrets(&without);
    let role = format!("{}role_arn = \"{}\"\nrole_session_name = \"night\"\nduration = \"15m\"\n", site.table(), Seaweed::ROLE);
    site.program(&role).backup();
    let other = role.replace("Backup", "Nobody");
    site.program(&other).run(&["backup"]).expect_code(3).expect_message("AccessDenied").expect_message("what the role trusts");
}

#[test]
fn a_service_account_stands_in_for_the_client_secret() {
    let site = Site::new();
    let (name, password) = Issuer::ACCOUNT;
    let table = format!(
        "token_url = {}\nclient_id = \"{}\"\nusername = \"{name}\"\npassword = \"env://APP_PASSWORD\"\n",
        toml::quoted(site.issuer.token_url()),
        Issuer::CLIENT
    );
    site.program(&table).env("APP_PASSWORD", password).backup();
    assert!(!site.issuer.asked()[0].contains_key("client_secret"));
    site.program(&table).run(&["backup"]).expect_code(3).expect_message("read `password` of `web_identity`").expect_message("APP_PASSWORD");
}

#[test]
fn a_bucket_is_read_and_written_by_the_identity_provider() {
    let site = Site::new();
    site.store.create_bucket("media");
    let store = Scratch::new();
    let bucket = site.section("bucket.files", &site.store.endpoint(), &site.table()).replace("s3://backups", "s3://media");
    let backstay = Backstay::new(
        &["[jobs.default]\ncomponents = [\"files\"]\n".to_owned(), bucket, toml::file_target("local", &store.join("backups"))].concat(),
    );
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let put = |key: &str, content: &'static [u8]| {
        let (bucket, key) = (site.store.bucket("media"), object_store::path::Path::from(key));
        runtime.block_on(object_store::ObjectStoreExt::put(&bucket, &key, content.into())).expect("stored");
    };
    put("a/1.png", b"one");
    let name = backstay.backup();
    put("a/1.png", b"two");
    backstay.succeed(&["restore", &name, "--yes"]);
    let restored = async {
        let got = object_store::ObjectStoreExt::get(&site.store.bucket("media"), &"a/1.png".into()).await.expect("there");
        got.bytes().await.expect("its bytes")
    };
    assert_eq!(runtime.block_on(restored), "one");
    assert!(site.issuer.asked().len() >= 2);
}

/// The credentials live for six seconds; the upload takes longer.
#[test]
fn credentials_are_renewed_while_an_upload_goes_on() {
    let site = Site::for_seconds(6);
    let endpoint = site.store.endpoint();
    let media = toml::directory("media", &site.source.join("media"));
    let target = site.section("targets.minio", &endpoint, &site.table()).replace("allow_http", "limit = \"800KiB/s\"\nallow_http");
    let backstay = Backstay::new(&[job(), media, target].concat());
    let began = Instant::now();
    let outcome = backstay.succeed(&["backup", "--json"]);
    assert!(began.elapsed() > Duration::from_secs(7), "over before the credentials were");
    assert!(site.issuer.asked().len() >= 2, "asked {} times", site.issuer.asked().len());
    assert_eq!(outcome.json()["status"], "complete");
    site.program(&site.table()).succeed(&["verify", "latest"]);
}

#[tokio::test]
async fn requests_that_come_at_once_ask_once_whatever_comes_of_it() {
    let site = Site::new();
    let target = target(&site);
    site.issuer.behave(Behaviour { refusal: Some("invalid_client"), ..Behaviour::default() });
    let keys: Vec<String> = (0..20).map(|i| i.to_string()).collect();
    let all = || futures_util::future::join_all(keys.iter().map(|key| write(&target, key)));
    assert!(all().await.iter().all(|r| r.as_ref().is_err_and(|e| e.contains("invalid_client"))));
    assert_eq!(site.issuer.asked().len(), 1);
    site.issuer.behave(Behaviour::default());
    assert!(all().await.iter().all(Result::is_ok));
    assert_eq!(site.issuer.asked().len(), 2);
}

/// What a request asks for, but for whose sake: keys and numbers left out.
fn kind(request: &Request) -> String {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let keys: Vec<&str> = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default()).collect();
    let name = path.rsplit('/').next().unwrap_or_default();
    let name = if name.starts_with("0000") { "lease" } else { name };
    format!("{} {name} {}", request.method, keys.join("&"))
}

#[test]
fn credentials_that_the_store_takes_no_more_are_replaced_at_each_kind_of_request() {
    let site = Site::new();
    let seen = Mutex::new(BTreeSet::new());
    let proxy = Proxy::new(site.store.port(), move |request| {
        let first = request.holds("Credential=") && seen.lock().expect("no panic holds it").insert(kind(request));
        let code = if request.lists() { "InvalidAccessKeyId" } else { "ExpiredToken" };
        first.then_some(Fault::Refused(400, code))
    });
    // the tokens come by the proxy, too
    let target = site.section("targets.minio", &proxy.endpoint(), &site.table()).replace("allow_http", "part_size = \"5MiB\"\nallow_http");
    let media = toml::directory("media", &site.source.join("media"));
    let backstay = Backstay::new(&[job(), "compression = \"none\"\nkeep_last = 1\n".to_owned(), media, target].concat());
    for _ in 0..2 {
        let outcome = backstay.succeed(&["backup", "--json"]);
        assert_no_secrets(&outcome);
        assert_eq!(outcome.json()["status"], "complete");
    }
    let by_refusal = proxy.faults();
    // a list, leases, what only S3 has, the parts and the rest of an upload, checksums and manifest, reads, and deletions
    assert!(by_refusal >= 10, "{by_refusal}");
    assert!(site.issuer.asked().len() > 2, "{:?}", site.issuer.asked().len());
    let out = Scratch::new();
    backstay.succeed(&["restore", "latest", "--yes", "--into", &format!("media={}", out.join("media").display())]);
    assert_same_tree(&Tree::of(&site.source.join("media")), &Tree::of(&out.join("media")));
    assert!(proxy.faults() > by_refusal, "the archive was read");
}

#[test]
fn a_store_that_takes_no_credentials_at_all_is_not_asked_for_ever() {
    let site = Site::new();
    let proxy = Proxy::new(site.store.port(), |request| request.holds("Credential=").then_some(Fault::Refused(403, "InvalidAccessKeyId")));
    let outcome = site.program_by(&proxy.endpoint(), &site.table()).run(&["backup"]).expect_code(3).expect_message("InvalidAccessKeyId");
    assert_no_secrets(&outcome);
    assert!(site.issuer.asked().len() <= 2 * proxy.faults() && proxy.faults() <= 12, "{} {}", site.issuer.asked().len(), proxy.faults());
}

/// New ones are asked for after 10 of 15 seconds.
#[tokio::test]
async fn old_credentials_are_used_to_their_end_when_there_are_no_new_ones() {
    let site = Site::for_seconds(15);
    let target = target(&site);
    let began = Instant::now();
    assert_eq!(write(&target, "a").await, Ok(()));
    site.issuer.behave(Behaviour { refusal: Some("invalid_client"), ..Behaviour::default() });
    tokio::time::sleep_until((began + Duration::from_secs(11)).into()).await;
    assert_eq!(write(&target, "b").await, Ok(()));
    assert_eq!(site.issuer.asked().len(), 2, "new ones were asked for");
    tokio::time::sleep_until((began + Duration::from_secs(16)).into()).await;
    let refused = write(&target, "c").await;
    assert!(refused.as_ref().is_err_and(|e| e.contains("invalid_client") && e.contains("Check `client_id`")), "{refused:?}");
    site.issuer.behave(Behaviour::default());
    assert_eq!(write(&target, "d").await, Ok(()));
}

#[test]
fn a_provider_that_is_down_for_a_moment_fails_nothing() {
    let site = Site::new();
    site.issuer.behave(Behaviour { down: 3, ..Behaviour::default() });
    let assumes = |request: &Request| request.holds("AssumeRoleWithWebIdentity");
    let proxy = Proxy::first(site.store.port(), 2, Fault::Answer(503, ""), assumes);
    site.program_by(&proxy.endpoint(), &site.table()).backup();
    assert_eq!((site.issuer.asked().len(), proxy.faults()), (6, 2));
}

#[test]
fn a_token_from_a_file_is_read_again_each_time() {
    let site = Site::new();
    let folder = Scratch::new();
    let backstay = site.program(&format!("token_file = {}\n", toml::quoted(folder.join("token").display().to_string())));
    backstay.run(&["backup"]).expect_code(3).expect_message("read the token file").expect_message("Check `token_file`");
    folder.write("token", format!("{}\n", site.issuer.token(Issuer::CLIENT, 600)));
    backstay.backup();
    assert_eq!(site.issuer.asked().len(), 0);

    folder.write("token", site.issuer.token(Issuer::CLIENT, -60));
    for args in [&["backup"][..], &["check"]] {
        let outcome = backstay.run(args).expect_code(3);
        assert_no_secrets(&outcome);
        let told = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(told.contains("expired") && told.contains("Let `token_file` be renewed"), "{told}");
        assert!(told.contains(&format!("issuer {}, audience {}", site.issuer.url(), Issuer::CLIENT)), "{told}");
    }
    assert_ne!(backstay.run(&["listbackups"]).code, Some(0));
    folder.write("token", "no token at all");
    assert_no_secrets(&backstay.run(&["backup"]).expect_code(3).expect_message("gives no credentials for the token"));
}

#[test]
fn a_token_for_somebody_else_is_refused_and_says_for_whom() {
    let site = Site::new();
    site.issuer.behave(Behaviour { audience: "grafana", ..Behaviour::default() });
    let outcome = site.program(&site.table()).run(&["backup"]).expect_code(3);
    let outcome = outcome.expect_message("audience").expect_message("set `client_id`").expect_message("audience grafana");
    assert_no_secrets(&outcome);
    // the access token of this provider is meant for another service
    site.issuer.behave(Behaviour::default());
    let access = format!("{}token = \"access_token\"\n", site.table());
    site.program(&access).run(&["backup"]).expect_code(3).expect_message("audience another-service");
    let no_id = format!("{}token = \"id_token\"\nscope = \"profile\"\n", site.table());
    site.program(&no_id).run(&["backup"]).expect_code(3).expect_message("holds no `id_token`").expect_message("Add `openid`");
}

#[test]
fn a_client_that_was_revoked_is_refused_from_then_on() {
    let site = Site::new();
    let backstay = site.program(&site.table());
    let name = backstay.backup();
    for (code, advice) in [("invalid_client", "Check `client_id`"), ("invalid_grant", "app password"), ("invalid_scope", "Set `scope`")] {
        site.issuer.behave(Behaviour { refusal: Some(code), ..Behaviour::default() });
        let before = site.issuer.asked().len();
        let outcome = backstay.run(&["backup"]).expect_code(3);
        assert_no_secrets(&outcome);
        outcome.expect_message(&format!("gives no token: {code}: it was revoked")).expect_message(advice);
        assert!(site.issuer.asked().len() - before <= 3, "a refusal is not repeated");
    }
    let restore = backstay.run(&["restore", &name, "--yes"]);
    assert!(restore.code != Some(0) && restore.stderr.contains("gives no token"), "{}", restore.stderr);
    backstay.configure(&[job(), site.section("targets.minio", &site.store.endpoint(), &table_of(&site.issuer, "wrong canary"))].concat());
    site.issuer.behave(Behaviour::default());
    let wrong = backstay.run(&["listbackups"]).expect_message("invalid_client: Client authentication failed");
    assert_no_secrets(&wrong);
}

#[test]
fn who_is_not_there_or_is_nobody_for_tokens_is_said() {
    let site = Site::new();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address");
    let gone = site.table().replace(&site.issuer.token_url(), &format!("http://{nobody}/token/"));
    site.program(&gone).run(&["backup"]).expect_code(3).expect_message("ask the identity provider at").expect_message("Check `token_url`");
    let lost = site.table().replace("/token/", "/tokens/");
    site.program(&lost).run(&["backup"]).expect_code(3).expect_message("it answers 404").expect_message("the token endpoint");
    let gone = format!("{}sts_endpoint = \"http://{nobody}\"\n", site.table());
    site.program(&gone).run(&["backup"]).expect_code(3).expect_message("for credentials").expect_message("Check `sts_endpoint`");
    let no_sts = format!("{}sts_endpoint = {}\n", site.table(), toml::quoted(site.issuer.keys_url()));
    site.program(&no_sts).run(&["backup"]).expect_code(3).expect_message("Set `sts_endpoint`");
}

#[test]
fn the_certificates_of_the_target_hold_for_its_credentials() {
    let (issuer, authority) = (Issuer::start(), Authority::new());
    let store = Seaweed::start_trusting(&issuer, Some(&authority));
    let site = Site { issuer, store, source: dense_media() };
    let backstay = site.program(&site.table());
    let outcome = backstay.run(&["backup"]).expect_code(3);
    outcome.expect_message("for credentials").expect_message("Set `ca_file`");
    let ca = format!("ca_file = {}\nallow_http", toml::quoted(authority.ca().display().to_string()));
    let media = toml::directory("media", &site.source.join("media"));
    let target = site.section("targets.minio", &site.store.endpoint(), &site.table()).replace("allow_http", &ca);
    backstay.configure(&[job(), media, target].concat());
    backstay.backup();
}
