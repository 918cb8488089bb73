//! Encryption by the server, and the checksums that it looks at.

use object_store::ObjectStoreExt;
use object_store::path::Path;

use crate::support::{Backstay, Moto, Scratch, Seaweed, Tree, assert_same_tree, toml};

const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const OTHER: &str = "OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1Njc4OTA=";

/// A tree of so many bytes that gzip cannot make smaller.
fn tree(bytes: usize) -> Scratch {
    let place = Scratch::new();
    let mut noise = vec![0; bytes];
    blake3::Hasher::new_keyed(&[9; 32]).finalize_xof().fill(&mut noise);
    place.write("media/large", noise);
    place.write("media/small", "small");
    place
}

/// A program that writes to the bucket, with more keys of the target.
fn program(place: &Scratch, target: &str, keys: &str) -> Backstay {
    let job = "[jobs.default]\ncomponents = [\"media\"]\n";
    Backstay::new(&[target, keys, "\n", &toml::directory("media", &place.join("media")), job].concat())
}

/// Backs up, reads back, restores and compares.
#[track_caller]
fn there_and_back(place: &Scratch, backstay: &Backstay) -> String {
    let name = backstay.backup();
    backstay.succeed(&["verify", &name]);
    let before = Tree::of(&place.join("media"));
    std::fs::remove_dir_all(place.join("media")).expect("removed");
    backstay.succeed(&["restore", &name, "--yes"]);
    assert_same_tree(&before, &Tree::of(&place.join("media")));
    name
}

/// Parts that the server joins out of pieces are the hard case: the key is needed on both sides of each copy.
#[tokio::test]
async fn a_key_that_each_request_brings_along_encrypts_and_decrypts() {
    let (server, place) = (Seaweed::start(), tree(70 << 20));
    let target = toml::s3_target("offsite", &server, "backups/sse");
    let keys = |key: &str| format!("sse = \"customer\"\nsse_customer_key = \"{key}\"\npart_size = \"32MiB\"\n");
    let backstay = program(&place, &target, &keys(KEY));
    let name = there_and_back(&place, &backstay);

    let object = Path::from(format!("sse/{name}/media/media.tar.gz"));
    let error = server.bucket("backups").get(&object).await.expect_err("it is not to be had without the key");
    assert!(error.to_string().contains("400"), "{error}");
    let failed = program(&place, &target, &keys(OTHER)).run(&["verify", &name]);
    assert!(failed.code != Some(0) && !failed.stderr.contains(OTHER), "{}", failed.stderr);
    let failed = program(&place, &target, "").run(&["verify", &name]);
    assert!(failed.code != Some(0) && failed.stderr.contains("`sse_customer_key`"), "{}", failed.stderr);
    let failed = program(&place, &target, &keys("c2hvcnQ=")).run(&["backup"]).expect_code(3);
    assert!(failed.stderr.contains("openssl rand -base64 32") && !failed.stderr.contains("c2hvcnQ="), "{}", failed.stderr);
}

#[tokio::test]
async fn a_key_of_the_key_service_is_asked_for_by_its_name() {
    let (server, place) = (Moto::start(), tree(9 << 20));
    for (keys, kind, key) in [
        ("sse = \"aws:kms\"\nsse_kms_key_id = \"alias/backups\"\n", "aws:kms", "alias/backups"),
        ("sse = \"aws:kms\"\n", "aws:kms", ""),
        ("sse = \"aws:kms:dsse\"\n", "aws:kms:dsse", ""),
        ("sse = \"AES256\"\nchecksum = \"sha256\"\n", "AES256", ""),
    ] {
        let target = format!(
            "[targets.offsite]\nurl = \"s3://{}/sse\"\nendpoint = \"{}\"\nregion = \"us-east-1\"\nallow_http = true\naccess_key_id = \"id\"\n\
             secret_access_key = \"key\"\n",
            Moto::BUCKET,
            server.endpoint()
        );
        let name = there_and_back(&place, &program(&place, &target, keys));
        for object in ["media/media.tar.gz", "manifest.json", "SHA256SUMS"] {
            let head = server.object("HEAD", &format!("sse/{name}/{object}"), "", b"");
            assert_eq!(head.header("x-amz-server-side-encryption"), kind, "{object}: {}", head.headers);
            assert_eq!(head.header("x-amz-server-side-encryption-aws-kms-key-id"), key, "{object}: {}", head.headers);
        }
    }
}

#[tokio::test]
async fn each_checksum_and_the_keys_of_the_store_go_with_joined_parts() {
    let (server, place) = (Seaweed::start(), tree(70 << 20));
    for keys in ["checksum = \"sha256\"", "checksum = \"crc64nvme\"", "sse = \"AES256\""] {
        let target = toml::s3_target("offsite", &server, "backups/checked");
        there_and_back(&place, &program(&place, &target, &format!("{keys}\npart_size = \"32MiB\"\n")));
    }
}
