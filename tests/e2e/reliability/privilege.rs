//! The rights that the documentation asks for are enough, and what happens without them is said.

use object_store::signer::Method;
use serde_json::{Value, json};

use crate::support::{Backstay, Fault, Major, Postgres, Proxy, Row, Scratch, Seaweed, Tree, assert_same_tree, toml};

/// What the documentation tells operators to use.
const DOCUMENTED: &str = include_str!("../../../deploy/s3-policy.json");

/// What of it no backup can do without.
const WRITE: [&str; 4] = ["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"];

const READ: [&str; 2] = ["s3:ListBucket", "s3:GetObject"];

fn policy(actions: &[&str]) -> Value {
    let statement = |actions: Vec<&&str>, resource: &str| json!({"Effect": "Allow", "Action": actions, "Resource": [resource]});
    let (bucket, object): (Vec<&&str>, Vec<&&str>) = actions.iter().partition(|action| action.starts_with("s3:List"));
    json!({"Version": "2012-10-17", "Statement": [
        statement(bucket, &format!("arn:aws:s3:::{}", Seaweed::BUCKET)),
        statement(object, &format!("arn:aws:s3:::{}/*", Seaweed::BUCKET)),
    ]})
}

/// A tree, and the bucket that it goes to.
struct House {
    server: Seaweed,
    tree: Scratch,
}

fn documented() -> Value {
    serde_json::from_str(&DOCUMENTED.replace("BUCKET", Seaweed::BUCKET)).expect("a policy")
}

impl House {
    fn new(identities: &[(&str, Value)]) -> Self {
        let tree = Scratch::new();
        // more than one part
        tree.write("media/large", blake3_noise(12 << 20));
        tree.write("media/small", "small");
        Self { server: Seaweed::start_with(identities), tree }
    }

    /// The program with the rights of that identity.
    fn program(&self, identity: &str, job: &str) -> Backstay {
        let target = toml::s3_target_as("s3", &self.server, Seaweed::BUCKET, identity, &self.server.secret_key);
        let media = toml::directory("media", &self.tree.join("media"));
        Backstay::new(&format!("{target}part_size = \"5MiB\"\n{media}[jobs.default]\ncomponents = [\"media\"]\n{job}"))
    }

    fn names(&self) -> Vec<String> {
        let list = self.program(&self.server.access_key, "").succeed(&["listbackups", "--json"]).json();
        list.as_array().expect("a list").iter().map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
    }
}

fn blake3_noise(len: usize) -> Vec<u8> {
    let mut noise = vec![0; len];
    blake3::Hasher::new_keyed(&[3; 32]).finalize_xof().fill(&mut noise);
    noise
}

#[test]
fn the_documented_policy_is_enough_for_everything() {
    let house = House::new(&[("backup", documented())]);
    let program = house.program("backup", "keep_last = 1\n");
    let first = program.backup();
    house.tree.write("media/small", "changed");
    let second = program.backup();
    assert_eq!(house.names(), [second.as_str()], "{first} is gone by retention");
    program.succeed(&["verify", &second]);
    house.tree.write("media/small", "small");
    let before = Tree::of(&house.tree.join("media"));
    let third = program.backup();
    house.tree.write("media/small", "lost");
    program.succeed(&["restore", &third, "--yes"]).expect_message("was backed up as");
    assert_same_tree(&before, &Tree::of(&house.tree.join("media")));
    program.succeed(&["prune"]);
    assert_eq!(house.server.unfinished_uploads(Seaweed::BUCKET), [""; 0]);
    Row { scenario: "S3 with the documented policy, enforced", faults: "no right beyond it: backup, retention, verify, restore", runs: 1 }
        .print();
}

#[test]
fn a_credential_that_may_not_delete_backs_up_and_another_retains() {
    let house = House::new(&[("writer", policy(&WRITE)), ("keeper", documented())]);
    let writer = house.program("writer", "keep_last = 1000\n");
    // one after the other: the lease of the first is given back without being deleted
    let names = [(); 3].map(|()| {
        let done = writer.succeed(&["backup", "--json"]);
        // if it uploads in pieces, one line says that they stay for a day
        let complaints: Vec<&str> = done.stderr.lines().filter(|line| line.contains("could not")).collect();
        assert!(complaints.len() <= 1 && complaints.iter().all(|line| line.contains(".backstay/parts/")), "{}", done.stderr);
        done.json()["name"].as_str().expect("a name").to_owned()
    });
    assert_eq!(house.names(), names);
    // what was asked for and cannot be done is no success
    let refused = house.program("writer", "keep_last = 1\n").run(&["backup"]).expect_code(3);
    assert!(refused.stderr.contains("AccessDenied") || refused.stderr.contains("403"), "{}", refused.stderr);
    assert!(refused.stderr.contains("DeleteObject") && refused.stderr.contains("Object Lock"), "{}", refused.stderr);
    assert_eq!(house.names().len(), 4, "nothing is lost by it");
    house.program("keeper", "keep_last = 2\n").succeed(&["prune"]);
    assert_eq!(house.names().len(), 2);
    Row { scenario: "S3 with a credential that may not delete, and another for retention", faults: "403 to every deletion", runs: 5 }
        .print();
}

#[test]
fn a_credential_that_may_only_read_restores() {
    let house = House::new(&[("reader", policy(&READ))]);
    let name = house.program(&house.server.access_key, "").backup();
    let before = Tree::of(&house.tree.join("media"));
    house.tree.write("media/small", "lost");
    let reader = house.program("reader", "");
    reader.succeed(&["restore", &name, "--yes", "--no-safety-backup"]).expect_message("only this host finds it");
    assert_same_tree(&before, &Tree::of(&house.tree.join("media")));
    reader.run(&["backup"]).expect_code(3).expect_message("Grant");
    assert_eq!(house.names(), [name]);
    Row { scenario: "S3 with a credential that may only read", faults: "403 to every write: a restore, and a backup that fails", runs: 2 }
        .print();
}

const LOCK: &str = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode>\
    <Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";

/// Retention leaves a mark on what it removes, and the bucket keeps the data.
#[tokio::test]
async fn a_bucket_with_object_lock_is_backed_up_to_and_keeps_what_retention_removed() {
    let house = House::new(&[]);
    house.server.create_locked_bucket("locked");
    house.server.ask(Method::PUT, "/locked?object-lock=", LOCK).await;
    // as AWS has it: nothing that is written comes without a checksum
    let proxy = Proxy::new(house.server.port(), |request| {
        let writes = request.bytes() > 0 && (request.method == "PUT" || request.target.contains("?delete"));
        let sound = request.holds("x-amz-checksum-sha256: ") || request.holds("content-md5: ") || request.target.contains("uploadId=");
        let sound = sound && (request.method != "PUT" || request.holds("x-amz-checksum-sha256: "));
        (writes && !sound).then_some(Fault::Answer(400, ""))
    });
    let program = |keys: &str| {
        let target = toml::s3_target_by("s3", &proxy.endpoint(), &house.server, "locked");
        let media = toml::directory("media", &house.tree.join("media"));
        Backstay::new(&format!("{target}part_size = \"5MiB\"\n{keys}{media}[jobs.default]\ncomponents = [\"media\"]\nkeep_last = 1\n"))
    };
    program("").run(&["backup"]).expect_code(3).expect_message("400");
    let program = program("checksum = \"sha256\"\n");
    program.succeed(&["check"]);
    let before = Tree::of(&house.tree.join("media"));
    let first = program.backup();
    let second = program.backup();
    let list = program.succeed(&["listbackups", "--json"]).json();
    assert_eq!(list.as_array().expect("a list").iter().map(|row| row["name"].as_str()).collect::<Vec<_>>(), [Some(second.as_str())]);
    program.succeed(&["verify", &second]);
    house.tree.write("media/small", "lost");
    program.succeed(&["restore", &second, "--yes", "--no-safety-backup"]);
    assert_same_tree(&before, &Tree::of(&house.tree.join("media")));
    let versions = house.server.ask(Method::GET, &format!("/locked?prefix={first}&versions="), "").await;
    let kept = |key: &str| versions.split("<Version>").skip(1).any(|version| version.contains(&format!("<Key>{first}/{key}</Key>")));
    assert!(kept("manifest.json") && kept("media/media.tar.gz") && versions.contains("<DeleteMarker>"), "{versions}");
    Row {
        scenario: "S3 with Object Lock, checksums required",
        faults: "nothing can be deleted for a day: backup, retention, verify, restore",
        runs: 2,
    }
    .print();
}

/// It sees all that there is, but for rows that are hidden from it: then there is no dump rather than one that lacks them.
#[test]
fn a_role_that_may_only_read_data_backs_up_everything_or_fails() {
    let (server, store) = (Postgres::start(Major::V15), Scratch::new());
    server.create_database("app");
    server.psql("CREATE ROLE backup LOGIN PASSWORD 'b' IN ROLE pg_read_all_data; CREATE ROLE owner; REVOKE ALL ON DATABASE app FROM public; GRANT CONNECT ON DATABASE app TO backup");
    server.psql_in(
        "app",
        "CREATE SCHEMA s AUTHORIZATION owner; SET ROLE owner; CREATE TABLE s.t AS SELECT i FROM generate_series(1, 1000) i",
    );
    let url = server.url_as("backup", "b", "app");
    let config = format!("{}[postgres.postgres]\nurl = \"{url}\"\ndatabases = [\"app\"]\n", toml::file_target("local", store.path()));
    let program = Backstay::new(&config);
    let name = program.backup();
    server.psql_in("app", "ALTER TABLE s.t ENABLE ROW LEVEL SECURITY");
    program.run(&["backup"]).expect_code(3).expect_message("row-level security");
    let target = Postgres::start(Major::V15);
    target.psql("CREATE ROLE owner");
    let into = format!("postgres={}", target.url("app"));
    program.succeed(&["restore", &name, "--yes", "--into", &into]);
    assert_eq!(target.psql_in("app", "SELECT count(*), min(i), max(i) FROM s.t"), "1000|1|1000");
    Row { scenario: "PostgreSQL with a role that has pg_read_all_data only", faults: "rows that are hidden from it", runs: 2 }.print();
}
