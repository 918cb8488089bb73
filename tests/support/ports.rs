//! Free loopback ports that no other test takes between their choice and their use.

use std::fs::File;
use std::net::TcpListener;

use rand::Rng;

/// Below the ephemeral ports, and so that 10,000 more is still a free port: SeaweedFS puts its gRPC ports there.
const RANGE: std::ops::Range<u16> = 12_000..22_000;

/// A port that is this process's as long as this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Locked against other test processes.
    _lock: File,
}

impl Port {
    pub fn free() -> Self {
        let folder = std::env::temp_dir().join(format!("backstay-test-ports-{}", rustix::process::geteuid().as_raw()));
        std::fs::create_dir_all(&folder).expect("create the folder of port locks");
        for _ in 0..1000 {
            let number = rand::rng().random_range(RANGE);
            let lock = File::create(folder.join(number.to_string())).expect("create a port lock");
            let unused = |number| TcpListener::bind(("127.0.0.1", number)).is_ok();
            if lock.try_lock().is_ok() && unused(number) && unused(number + 10_000) {
                return Self { number, _lock: lock };
            }
        }
        panic!("no free port in {RANGE:?}");
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}
