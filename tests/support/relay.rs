//! A TCP relay in front of a server: counts connections and requests of one kind, and may cut those.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Listens on a loopback port until the process ends.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: u16,
    /// What a request of the kind holds.
    mark: &'static str,
    cuts: bool,
    connections: AtomicUsize,
    marked: AtomicUsize,
}

impl Relay {
    /// Counts the requests that hold `mark`.
    pub fn counting(to: u16, mark: &'static str) -> Self {
        Self::start(to, mark, false)
    }

    /// Cuts each connection on which a request holds `mark`.
    pub fn cutting(to: u16, mark: &'static str) -> Self {
        Self::start(to, mark, true)
    }

    fn start(to: u16, mark: &'static str, cuts: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared { to, mark, cuts, connections: AtomicUsize::new(0), marked: AtomicUsize::new(0) });
        let relay = Self { port, shared: shared.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve(client));
            }
        });
        relay
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Requests that held the mark.
    pub fn marked(&self) -> usize {
        self.shared.marked.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) {
        let mut server = TcpStream::connect(("127.0.0.1", self.to)).expect("connect to the server");
        let (mut back, mut to_client) = (server.try_clone().expect("a second handle"), client.try_clone().expect("a second handle"));
        std::thread::spawn(move || {
            // whichever side has gone, both are done
            let _ = std::io::copy(&mut back, &mut to_client);
            let _ = to_client.shutdown(Shutdown::Both);
        });
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = client.read(&mut buffer) {
            if buffer[..n].windows(self.mark.len()).any(|window| window == self.mark.as_bytes()) {
                self.marked.fetch_add(1, Ordering::SeqCst);
                if self.cuts {
                    break;
                }
            }
            if server.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
    }
}
