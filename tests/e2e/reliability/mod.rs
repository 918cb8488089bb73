//! Nothing is lost: faults, crashes, clocks, concurrency. Each test prints a row of docs/reliability.md.

mod lease;
mod privilege;
mod secrets;
