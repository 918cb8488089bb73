//! Nothing is lost: faults, crashes, clocks, concurrency. Each test prints a row of docs/reliability.md.

mod clock;
mod flight;
mod kill;
mod lease;
mod privilege;
mod secrets;
mod stall;
mod store_calls;
