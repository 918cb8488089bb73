//! Backstay: backups of PostgreSQL, Redis and directories, streamed to object stores, restorable with stock tools.
//!
//! Data flows one way:
//!
//! ```text
//! config → schedule → job → component (source) → pipeline → storage → catalog → retention
//! cli    → catalog  → restore plan → storage → pipeline → component (restorer)
//! ```

pub mod assembly;
pub mod catalog;
pub mod chain;
pub mod cli;
pub mod clock;
pub mod component;
pub mod config;
pub mod copy;
pub mod drill;
pub mod encryption;
pub mod error;
pub mod export;
pub mod fetch;
pub mod job;
pub mod legacy;
pub mod manifest;
pub mod mirror;
pub mod name;
pub mod pipeline;
pub mod process;
pub mod restore;
pub mod retention;
pub mod schedule;
pub mod secret;
pub mod signature;
pub mod storage;
pub mod verdict;
pub mod verify;
pub mod worker;
