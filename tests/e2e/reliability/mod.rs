//! Nothing is lost: faults, crashes, clocks, concurrency. Each test prints a row of docs/reliability.md.

mod clock;
mod flight;
mod hung;
mod inputs;
mod kill;
mod lease;
mod model;
mod power;
mod privilege;
mod resume;
mod secrets;
mod space;
mod stall;
mod standstill;
mod store_calls;
