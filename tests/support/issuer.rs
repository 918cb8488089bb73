//! An OpenID Connect provider: discovery, keys, and a token endpoint for the client-credentials grant. Its tokens are signed (ES256), so that a
//! server takes them for what they are.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use super::Seaweed;

/// Listens on a loopback port until the process ends.
#[derive(Debug)]
pub struct Issuer {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    url: String,
    key: EcdsaKeyPair,
    behaviour: Mutex<Behaviour>,
    asked: Mutex<Vec<BTreeMap<String, String>>>,
}

/// What the tokens of the token endpoint are like.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// Seconds.
    pub lifetime: u64,
    pub audience: &'static str,
    /// What the store's policy is called in the token.
    pub policy: Option<&'static str>,
    /// The client is not known any more: an error of RFC 6749.
    pub refusal: Option<&'static str>,
    /// Answers so many requests with 503 first.
    pub down: usize,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { lifetime: 3600, audience: Issuer::CLIENT, policy: Some(Seaweed::POLICY), refusal: None, down: 0 }
    }
}

impl Issuer {
    pub const CLIENT: &str = "backstay-client";
    pub const SECRET: &str = "issuer+secret/canary=815";
    /// A service account that may be named in place of the secret.
    pub const ACCOUNT: (&str, &str) = ("backup", "app password canary & 815");

    pub fn start() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).expect("a key");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(true).expect("set");
        let url = format!("http://127.0.0.1:{}/application/o/minio/", listener.local_addr().expect("an address").port());
        let shared = Arc::new(Shared { url: url.clone(), key, behaviour: Mutex::default(), asked: Mutex::default() });
        let served = shared.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                axum::serve(listener, routes(served)).await.expect("served");
            });
        });
        Self { url, shared }
    }

    /// What it calls itself in tokens.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn keys_url(&self) -> String {
        format!("{}jwks/", self.url)
    }

    pub fn token_url(&self) -> String {
        format!("{}token/", self.url)
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().expect("no panic holds it") = behaviour;
    }

    /// The forms that the token endpoint was sent, in their order.
    pub fn asked(&self) -> Vec<BTreeMap<String, String>> {
        self.shared.asked.lock().expect("no panic holds it").clone()
    }

    /// A token for whoever puts it into a file. `lifetime`: seconds from now, or before.
    pub fn token(&self, audience: &str, lifetime: i64) -> String {
        self.shared.token(audience, Some(Seaweed::POLICY), lifetime)
    }
}

fn routes(shared: Arc<Shared>) -> Router {
    let (keys, discovery, granting) = (shared.keys().to_string(), shared.discovery().to_string(), shared);
    Router::new()
        .route("/application/o/minio/jwks/", get(async || keys))
        .route("/application/o/minio/.well-known/openid-configuration", get(async || discovery))
        .route("/application/o/minio/token/", post(async move |body: String| granting.grant(&body)))
}

impl Shared {
    fn discovery(&self) -> Value {
        json!({"issuer": self.url, "jwks_uri": format!("{}jwks/", self.url), "token_endpoint": format!("{}token/", self.url)})
    }

    fn keys(&self) -> Value {
        // uncompressed: 4, x, y
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        json!({"keys": [{
            "kty": "EC", "kid": "1", "use": "sig", "alg": "ES256", "crv": "P-256", "x": BASE64.encode(x), "y": BASE64.encode(y),
        }]})
    }

    fn token(&self, audience: &str, policy: Option<&str>, lifetime: i64) -> String {
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()).expect("not so late");
        let mut claims = json!({
            "iss": self.url, "sub": "ak-minio-client_credentials", "aud": audience, "iat": now.min(now + lifetime) - 1, "exp": now + lifetime,
        });
        if let Some(policy) = policy {
            claims["policy"] = policy.into();
        }
        let part = |value: &Value| BASE64.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": "1", "typ": "JWT"})), part(&claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("signed");
        format!("{signed}.{}", BASE64.encode(signature))
    }

    fn grant(&self, body: &str) -> (StatusCode, String) {
        let form: BTreeMap<String, String> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        self.asked.lock().expect("no panic holds it").push(form.clone());
        let mut behaviour = self.behaviour.lock().expect("no panic holds it");
        if behaviour.down > 0 {
            behaviour.down -= 1;
            return (StatusCode::SERVICE_UNAVAILABLE, String::new());
        }
        let is = |key: &str, value: &str| form.get(key).is_some_and(|given| given == value);
        let refuse = |code: &str, why: &str| (StatusCode::BAD_REQUEST, json!({"error": code, "error_description": why}).to_string());
        if let Some(code) = behaviour.refusal {
            return refuse(code, "it was revoked");
        }
        if !is("grant_type", "client_credentials") {
            return refuse("unsupported_grant_type", "only client_credentials");
        }
        let (name, password) = Self::account(&form);
        if !is("client_id", Issuer::CLIENT) || !(is("client_secret", Issuer::SECRET) || (name, password) == Issuer::ACCOUNT) {
            return refuse("invalid_client", "Client authentication failed");
        }
        let lifetime = i64::try_from(behaviour.lifetime).expect("short");
        let mut answer = json!({
            "token_type": "Bearer", "expires_in": lifetime,
            // what another service would take
            "access_token": self.token("another-service", None, lifetime),
        });
        if form.get("scope").is_some_and(|scope| scope.split(' ').any(|s| s == "openid")) {
            let policy = behaviour.policy.filter(|_| form["scope"].split(' ').any(|s| s == "minio"));
            answer["id_token"] = self.token(behaviour.audience, policy, lifetime).into();
        }
        (StatusCode::OK, answer.to_string())
    }

    fn account(form: &BTreeMap<String, String>) -> (&str, &str) {
        let of = |key: &str| form.get(key).map_or("", String::as_str);
        (of("username"), of("password"))
    }
}
