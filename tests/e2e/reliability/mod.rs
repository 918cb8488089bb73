//! Nothing is lost: faults, crashes, clocks, concurrency. Each test prints a row of docs/reliability.md.

<<<<<<< HEAD
mod flight;
mod kill;
=======
mod clock;
>>>>>>> b71badf (Cut what stands still before its first byte and on the way back, and name who holds a lock up)
mod lease;
mod privilege;
mod secrets;
<<<<<<< HEAD
mod store_calls;
=======
mod stall;
>>>>>>> b71badf (Cut what stands still before its first byte and on the way back, and name who holds a lock up)
