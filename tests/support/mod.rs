//! Real servers, independent comparers and the program itself, for the tests.
//!
//! A server is a struct: it starts on a free loopback port in a temporary directory, waits until it answers, and is gone when it is
//! dropped. The binaries are those that `scripts/install-test-servers` installed; where one is missing the test fails and says so.
//! Everything here panics on failure: a test that cannot have its server has failed.

#![allow(dead_code, unused_imports, reason = "shared by several test binaries, none of which needs all of it")]

pub mod apache;
pub mod azurite;
pub mod fuse;
pub mod gate;
pub mod google;
pub mod issuer;
pub mod moto;
pub mod mount;
pub mod pg_compare;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod program;
pub mod proxy;
pub mod rclone;
pub mod redis;
pub mod redis_compare;
pub mod relay;
pub mod report;
pub mod sample;
pub mod scratch;
pub mod seaweed;
pub mod sshd;
pub mod tls;
pub mod toml;
pub mod tools;
pub mod tree;

pub use apache::Apache;
pub use azurite::Azurite;
pub use fuse::Fuse;
pub use gate::{Gate, Side};
pub use google::Google;
pub use issuer::Issuer;
pub use moto::Moto;
pub use mount::Mount;
pub use pg_compare::{Fingerprint, assert_same_database};
pub use postgres::{Major, Postgres};
pub use program::{Backstay, Outcome};
pub use proxy::{Fault, Proxy};
pub use rclone::Rclone;
pub use redis::{Redis, Version};
pub use redis_compare::{Keyspace, assert_same_keys};
pub use relay::Relay;
pub use report::Row;
pub use scratch::Scratch;
pub use seaweed::Seaweed;
pub use sshd::Sshd;
pub use tls::Authority;
pub use tree::{Tree, assert_same_tree};
