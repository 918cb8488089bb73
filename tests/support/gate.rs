//! A TCP relay in front of an S3 server that stops the world at one request: before the server hears of it, or before its answer is heard.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Of the request that is stopped at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The server never hears of it.
    Before,
    /// The server has done it, and nobody hears of that.
    After,
    /// It is answered with 403, and so is every later one.
    Refused,
}

/// Listens on a loopback port until the process ends.
#[derive(Debug)]
pub struct Gate {
    port: u16,
    shared: Arc<Shared>,
    reached: Receiver<()>,
}

#[derive(Debug)]
struct Shared {
    to: u16,
    /// What a request that changes something holds, if it is of the kind.
    mark: &'static str,
    /// The number of the request to stop at, from 1.
    at: usize,
    side: Side,
    seen: AtomicUsize,
    reached: Mutex<Sender<()>>,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub fn new(to: u16, mark: &'static str, at: usize, side: Side) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("an address").port();
        let (sender, reached) = channel();
        let shared = Arc::new(Shared {
            to,
            mark,
            at,
            side,
            seen: AtomicUsize::new(0),
            reached: Mutex::new(sender),
            open: Mutex::new(false),
            opened: Condvar::new(),
        });
        let gate = Self { port, shared: shared.clone(), reached };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = shared.clone();
                std::thread::spawn(move || serve(&shared, client));
            }
        });
        gate
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Requests of the kind so far.
    pub fn seen(&self) -> usize {
        self.shared.seen.load(Ordering::SeqCst)
    }

    /// Waits until the world stands still; false if `child` ended before.
    pub fn reached(&self, child: &mut Child) -> bool {
        loop {
            match self.reached.recv_timeout(Duration::from_millis(20)) {
                Ok(()) => return true,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            if child.try_wait().expect("look at the child").is_some() {
                return self.reached.try_recv().is_ok();
            }
        }
    }

    /// Lets the world go on.
    pub fn open(&self) {
        *self.shared.open.lock().expect("no panic holds it") = true;
        self.shared.opened.notify_all();
    }
}

impl Shared {
    fn is_marked(&self, bytes: &[u8]) -> bool {
        let reads = bytes.starts_with(b"GET ") || bytes.starts_with(b"HEAD ");
        !reads && bytes.windows(self.mark.len()).any(|window| window == self.mark.as_bytes())
    }

    fn stop(&self) {
        let _ = self.reached.lock().expect("no panic holds it").send(());
        let mut open = self.open.lock().expect("no panic holds it");
        while !*open {
            open = self.opened.wait(open).expect("no panic holds it");
        }
    }
}

fn serve(shared: &Arc<Shared>, mut client: TcpStream) {
    let mut server = TcpStream::connect(("127.0.0.1", shared.to)).expect("connect to the server");
    let (mut back, mut to_client) = (server.try_clone().expect("a second handle"), client.try_clone().expect("a second handle"));
    let muted = Arc::new(AtomicBool::new(false));
    let (mute, world) = (muted.clone(), shared.clone());
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = back.read(&mut buffer) {
            if mute.swap(false, Ordering::SeqCst) {
                world.stop();
            }
            if to_client.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = client.read(&mut buffer) {
        if shared.is_marked(&buffer[..n]) {
            let number = shared.seen.fetch_add(1, Ordering::SeqCst) + 1;
            match shared.side {
                Side::Refused if number >= shared.at => {
                    let _ = client.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    break;
                }
                Side::Before if number == shared.at => shared.stop(),
                Side::After if number == shared.at => muted.store(true, Ordering::SeqCst),
                _ => {}
            }
        }
        if server.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
}
