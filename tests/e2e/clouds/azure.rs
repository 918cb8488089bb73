//! Azure Blob Storage, by Azurite.

use backstay::secret::Secret;
use backstay::storage::{AzureCredentials, AzureOptions, Location, TargetOptions};
use object_store::{Attribute, ObjectStore, ObjectStoreExt};

use super::{House, assert_leases_hold, keys, lives_through_kills, sweep_the_dead};
use crate::support::{Azurite, Relay, toml};

const LATER: &str = "2099-01-01T00:00:00Z";

fn by_key(server: &Azurite) -> String {
    target(&server.endpoint(), &format!("account_key = {}", toml::quoted(&server.key)))
}

fn by_token(server: &Azurite, token: &str) -> String {
    target(&server.endpoint(), &format!("sas_token = {}", toml::quoted(token)))
}

fn target(endpoint: &str, credential: &str) -> String {
    toml::azure_target("cloud", endpoint, &format!("{}/some/prefix", Azurite::CONTAINER), credential)
}

/// As `by_key`.
fn options(server: &Azurite) -> TargetOptions {
    let options = AzureOptions {
        account: Azurite::ACCOUNT.into(),
        credentials: AzureCredentials::Key(Secret::parse(&server.key)),
        endpoint: Some(server.endpoint()),
        allow_http: true,
        ..AzureOptions::default()
    };
    let location = Location::Azure { container: Azurite::CONTAINER.into(), prefix: "some/prefix".into(), options: Box::new(options) };
    TargetOptions { name: "cloud".parse().expect("a name"), location, limit: None }
}

async fn started() -> Azurite {
    let server = Azurite::start();
    server.create_container().await;
    server
}

#[tokio::test]
async fn backups_live_in_a_container_by_account_key_and_by_signature() {
    let server = started().await;
    let house = House::new(20, &by_key(&server));
    let name = house.lives_through_two_backups();
    let found = keys(&server.container()).await;
    let of = |file: &str| format!("some/prefix/{name}/{file}");
    assert_eq!(found, [of("SHA256SUMS"), of("manifest.json"), of("media/media.tar")], "nothing is left of the first");
    let artifact = server.container().get_opts(&of("media/media.tar").into(), object_store::GetOptions::new().with_head(true)).await;
    let artifact = artifact.expect("stored");
    assert_eq!(artifact.attributes.get(&Attribute::ContentType).map(AsRef::as_ref), Some("application/x-tar"));
    assert_eq!(artifact.attributes.get(&Attribute::ContentEncoding), None);

    house.configure(&by_token(&server, &format!("?{}", server.sas("racwdl", LATER))));
    house.assert_restores("latest");
    house.lives_through_two_backups();
}

#[tokio::test]
async fn a_lease_in_a_container_is_held_by_one() {
    let server = started().await;
    let house = House::new(0, &by_key(&server));
    assert_leases_hold(&house, &options(&server)).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_container_is_said_and_no_secret_is() {
    let server = started().await;
    let house = House::new(0, &by_key(&server));
    let wrong = "canary-wrong-secret=";
    let cases = [
        (by_key(&server).replace(&server.key, &base64_of(wrong)), "AuthorizationFailure", "account_key"),
        (by_key(&server).replace("az://backups", "az://nowhere"), "ContainerNotFound", "Create the container"),
        (by_token(&server, &server.sas("racwdl", "2020-01-01T00:00:00Z")), "AuthorizationFailure", "until when"),
        (by_token(&server, &server.sas("rl", LATER)), "AuthorizationPermissionMismatch", "write"),
        (by_token(&server, "canary-no-query"), "sas_token", "sas_token"),
        (by_key(&server).replace(&server.key, "canary not base64!"), "set up target", "account_key"),
        (target("http://127.0.0.1:9", &format!("account_key = {}", toml::quoted(&server.key))), "Connection refused", "endpoint"),
    ];
    for (target, message, advice) in cases {
        house.configure(&target);
        let outcome = house.backstay.run(&["backup"]).expect_code(3).expect_message(message).expect_message(advice);
        let said = [outcome.stdout, outcome.stderr].concat();
        let secret = [server.key.as_str(), "sig=", "canary-wrong", &base64_of(wrong), "canary-no-query", "canary not"];
        assert!(secret.iter().all(|secret| !said.contains(secret)), "{said}");
    }
    assert_eq!(keys(&server.container()).await, [""; 0]);
}

#[tokio::test]
async fn a_token_that_may_not_delete_backs_up_and_says_what_stays() {
    let server = started().await;
    let house = House::new(0, &by_token(&server, &server.sas("racwl", LATER)));
    let first = house.backstay.backup();
    house.backstay.run(&["backup"]).expect_code(3).expect_message("delete").expect_message("right");
    assert!(house.listed().contains(&first));
    house.assert_restores(&first);
}

#[tokio::test]
async fn an_upload_that_breaks_leaves_nothing_that_counts() {
    let server = started().await;
    for mark in ["comp=blocklist", "comp=block&blockid"] {
        let relay = Relay::cutting(server.port(), mark);
        let endpoint = Azurite::endpoint_by(&relay.endpoint());
        let house = House::new(20, &target(&endpoint, &format!("account_key = {}", toml::quoted(&server.key))));
        house.backstay.run(&["backup"]).expect_code(3).expect_message("cloud");
        assert!(relay.marked() > 1, "it was tried again");
        assert_eq!(house.listed(), [""; 0]);
        assert_eq!(keys(&server.container()).await, [""; 0], "{mark}");
        // and the next one succeeds
        house.configure(&by_key(&server));
        let name = house.backstay.backup();
        house.assert_restores(&name);
        for key in keys(&server.container()).await {
            server.container().delete(&key.into()).await.expect("removed");
        }
    }
}

/// Blocks that were not joined are seen by nobody, and the service removes them after a week.
#[tokio::test]
async fn a_backup_to_a_container_killed_at_its_requests_costs_nothing() {
    let server = started().await;
    let house = House::new(9, &by_key(&server));
    lives_through_kills(&house, server.port(), 9, |base| {
        let credential = format!("account_key = {}\npart_size = \"5MiB\"", toml::quoted(&server.key));
        target(&Azurite::endpoint_by(base), &credential)
    });
    sweep_the_dead(&options(&server)).await;
    let [name] = &house.listed()[..] else { panic!("one is kept") };
    let left = keys(&server.container()).await;
    assert!(left.iter().all(|key| key.contains(name)), "{left:?}");
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
