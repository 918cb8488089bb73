//! End-to-end tests against real servers. One binary, so that it is linked once; each test runs in a process of its own under nextest.

#[path = "../support/mod.rs"]
mod support;

mod directory;
mod postgres_restore;
mod postgres_source;
#[path = "redis/mod.rs"]
mod redis_component;
mod run;
mod servers;
mod worker;
mod worker_process;
