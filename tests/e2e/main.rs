//! End-to-end tests against real servers. One binary, so that it is linked once; each test runs in a process of its own under nextest.

#[path = "../support/mod.rs"]
mod support;

mod authentik;
mod bucket;
mod cli;
mod clouds;
mod copy;
mod damage;
mod directory;
mod drill;
mod encryption;
mod identity;
mod identity_profile;
mod legacy;
mod partial;
mod postgres_restore;
mod postgres_source;
#[path = "redis/mod.rs"]
mod redis_component;
mod reliability;
mod restore;
mod resume;
mod round_trip;
mod run;
mod servers;
mod site;
mod sse;
mod store;
mod supabase;
mod targets;
mod verify;
mod worker;
mod worker_process;
