//! Redis backed up and restored, on real servers of every version.

mod common;
mod damage;
mod fingerprint;
mod refusal;
mod round_trip;
