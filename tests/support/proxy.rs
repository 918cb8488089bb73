//! An HTTP proxy in front of a store, which sees whole requests and may do to each of them what happens on the way.
//!
//! It speaks HTTP/1.1, and holds a request and its answer in memory: for objects of a few megabytes.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::gate::Hold;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// Counted over all connections, from 1.
    pub number: usize,
    pub method: String,
    /// Path and query.
    pub target: String,
    /// When its last byte came.
    pub at: Instant,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Request {
    pub fn reads(&self) -> bool {
        self.method == "GET" || self.method == "HEAD"
    }

    /// A list of objects.
    pub fn lists(&self) -> bool {
        self.method == "GET" && self.target.contains("list-type=2")
    }

    /// The content of an object whose key ends so.
    pub fn gets(&self, end: &str) -> bool {
        self.method == "GET" && self.path().ends_with(end)
    }

    /// An object, or a part of one, whose key ends so.
    pub fn puts(&self, end: &str) -> bool {
        self.method == "PUT" && self.path().ends_with(end)
    }

    /// Of its body.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Whether its head or its body holds `text`.
    pub fn holds(&self, text: &str) -> bool {
        let within = |bytes: &[u8]| text.is_empty() || bytes.windows(text.len()).any(|window| window == text.as_bytes());
        within(&self.head) || within(&self.body)
    }
}

/// What happens to a request on its way, or to its answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The server never hears of it, and the connection is reset.
    Cut,
    /// The server has done it; the connection ends without an answer.
    Lost,
    /// The proxy answers in the server's place: status and more headers, each with its line end.
    Answer(u16, &'static str),
    /// Likewise with an error of S3: status and code. An answer to HEAD says the status only.
    Refused(u16, &'static str),
    /// The server has done it, and the proxy answers that it has not.
    Denied(u16),
    /// The connection ends when that many bytes of the answer's body were sent.
    Truncated(usize),
    /// The answer's body comes in that many pieces, with a pause before each.
    Slow(usize, Duration),
    /// A byte of the answer's body is another, counted from its middle.
    Wrong,
    /// Likewise of the request's body.
    Garbled,
    /// A list lacks every object whose key holds this.
    Stale(String),
    /// No answer, for ever.
    Silent,
    /// The server has done it, and its answer takes so long.
    Delayed(Duration),
    /// As [`Fault::Lost`], but the server hears of it only when [`Proxy::deliver`] is called.
    Late,
    /// The world stands still before the server hears of it.
    HeldBefore(Arc<Hold>),
    /// The world stands still before its answer is heard.
    HeldAfter(Arc<Hold>),
}

type Rule = dyn Fn(&Request) -> Option<Fault> + Send + Sync;

/// Listens on a loopback port until the process ends.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    to: u16,
    rule: Box<Rule>,
    seen: AtomicUsize,
    faults: AtomicUsize,
    late: Mutex<Vec<Request>>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Proxy {
    /// In front of the server at port `to`; `rule` says what happens to each request.
    pub fn new(to: u16, rule: impl Fn(&Request) -> Option<Fault> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("an address").port();
        let (seen, faults, late) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::default());
        let shared = Arc::new(Shared { to, rule: Box::new(rule), seen, faults, late });
        let proxy = Self { port, shared: shared.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = shared.clone();
                // a connection that breaks is what this is for
                std::thread::spawn(move || shared.serve(&client).map_err(|_| client.shutdown(Shutdown::Both)));
            }
        });
        proxy
    }

    /// Only the first `times` requests for which `which` says so have this fault.
    pub fn first(to: u16, times: usize, fault: Fault, which: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        let left = AtomicUsize::new(times);
        Self::new(to, move |request| {
            let hit = which(request) && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
            hit.then(|| fault.clone())
        })
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Requests so far.
    pub fn seen(&self) -> usize {
        self.shared.seen.load(Ordering::SeqCst)
    }

    /// Those to which something happened.
    pub fn faults(&self) -> usize {
        self.shared.faults.load(Ordering::SeqCst)
    }

    /// Brings the server what was [`Fault::Late`], in the order in which it was sent.
    pub fn deliver(&self) -> usize {
        let late = std::mem::take(&mut *self.shared.late.lock().expect("no panic holds it"));
        for request in &late {
            let server = TcpStream::connect(("127.0.0.1", self.shared.to)).expect("connect to the server");
            exchange(&mut BufReader::new(server), request).expect("the server answers");
        }
        late.len()
    }
}

impl Shared {
    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        let mut from = BufReader::new(client);
        let mut to = client;
        let mut server = BufReader::new(TcpStream::connect(("127.0.0.1", self.to))?);
        client.set_nodelay(true)?;
        server.get_ref().set_nodelay(true)?;
        while let Some(mut request) = self.read_request(&mut from)? {
            let fault = (self.rule)(&request);
            if fault.is_some() {
                self.faults.fetch_add(1, Ordering::SeqCst);
            }
            match &fault {
                Some(Fault::Cut) => return Err(io::ErrorKind::ConnectionReset.into()),
                Some(Fault::Silent) => loop {
                    std::thread::park();
                },
                Some(Fault::Late) => {
                    self.late.lock().expect("no panic holds it").push(request);
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Some(Fault::Answer(status, headers)) => {
                    write!(to, "HTTP/1.1 {status} Fault\r\n{headers}content-length: 0\r\n\r\n")?;
                    continue;
                }
                Some(Fault::Refused(status, code)) => {
                    let error = format!("<Error><Code>{code}</Code><Message>refused</Message></Error>");
                    let body = if request.method == "HEAD" { "" } else { error.as_str() };
                    write!(to, "HTTP/1.1 {status} Fault\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
                    continue;
                }
                Some(Fault::HeldBefore(hold)) => hold.stop(),
                Some(Fault::Garbled) => flip(&mut request.body),
                _ => {}
            }
            let mut answer = exchange(&mut server, &request)?;
            match &fault {
                Some(Fault::Lost) => return Err(io::ErrorKind::ConnectionReset.into()),
                Some(Fault::Denied(status)) => {
                    write!(to, "HTTP/1.1 {status} Fault\r\ncontent-length: 0\r\n\r\n")?;
                    continue;
                }
                Some(Fault::HeldAfter(hold)) => hold.stop(),
                Some(Fault::Delayed(time)) => std::thread::sleep(*time),
                Some(Fault::Wrong) => flip(&mut answer.body),
                Some(Fault::Stale(text)) => answer.forget(text),
                _ => {}
            }
            to.write_all(&answer.head(request.method == "HEAD"))?;
            match fault {
                Some(Fault::Truncated(bytes)) => {
                    to.write_all(&answer.body[..bytes.min(answer.body.len().saturating_sub(1))])?;
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Some(Fault::Slow(pieces, pause)) => {
                    for piece in answer.body.chunks(answer.body.len().div_ceil(pieces).max(1)) {
                        std::thread::sleep(pause);
                        to.write_all(piece)?;
                    }
                }
                _ => to.write_all(&answer.body)?,
            }
        }
        client.shutdown(Shutdown::Both)
    }

    fn read_request(&self, from: &mut impl BufRead) -> io::Result<Option<Request>> {
        let head = read_head(from)?;
        if head.is_empty() {
            return Ok(None);
        }
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line).into_owned();
        let mut words = line.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let body = read_request_body(from, &head)?;
        let number = self.seen.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(Some(Request { number, method, target, at: Instant::now(), head, body }))
    }
}

/// What the server said.
struct Answer {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Answer {
    /// With the length of the body as it is now; that of an answer to HEAD tells of a body that is not there.
    fn head(&self, of_head: bool) -> Vec<u8> {
        let text = String::from_utf8_lossy(&self.head).into_owned();
        let framing = |line: &&str| {
            let line = line.to_ascii_lowercase();
            line.starts_with("transfer-encoding:") || line.starts_with("content-length:")
        };
        let lines = text.trim_end().split("\r\n");
        let mut head: Vec<String> = lines.filter(|line| of_head || !framing(line)).map(str::to_owned).collect();
        if !of_head {
            head.push(format!("content-length: {}", self.body.len()));
        }
        format!("{}\r\n\r\n", head.join("\r\n")).into_bytes()
    }

    /// Takes the objects out of a list whose keys hold `text`.
    fn forget(&mut self, text: &str) {
        let list = String::from_utf8_lossy(&self.body).into_owned();
        let mut kept = String::new();
        for (at, part) in list.split("<Contents>").enumerate() {
            let (entry, rest) = part.split_once("</Contents>").unwrap_or(("", part));
            match at {
                0 => kept.push_str(part),
                _ if entry.contains(text) => kept.push_str(rest),
                _ => kept.push_str(&format!("<Contents>{part}")),
            }
        }
        let mut without = String::new();
        for (at, part) in kept.split("<CommonPrefixes>").enumerate() {
            let (entry, rest) = part.split_once("</CommonPrefixes>").unwrap_or(("", part));
            match at {
                0 => without.push_str(part),
                _ if entry.contains(text) => without.push_str(rest),
                _ => without.push_str(&format!("<CommonPrefixes>{part}")),
            }
        }
        self.body = without.into_bytes();
    }
}

fn exchange(server: &mut BufReader<TcpStream>, request: &Request) -> io::Result<Answer> {
    server.get_mut().write_all(&[request.head.as_slice(), &request.body].concat())?;
    let head = read_head(server)?;
    let status = String::from_utf8_lossy(head.split(|byte| *byte == b' ').nth(1).unwrap_or_default()).into_owned();
    let mut body = Vec::new();
    if request.method == "HEAD" || matches!(status.as_str(), "204" | "304") {
        return Ok(Answer { head, body });
    }
    if header(&head, "transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        loop {
            let mut line = String::new();
            server.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; length + 2];
            server.read_exact(&mut chunk)?;
            body.extend_from_slice(&chunk[..length]);
            if length == 0 {
                break;
            }
        }
    } else {
        body.resize(header(&head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0), 0);
        server.read_exact(&mut body)?;
    }
    Ok(Answer { head, body })
}

/// Up to the empty line, with it; nothing at the end of the connection.
fn read_head(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if from.read_until(b'\n', &mut head)? == 0 {
            return if head.is_empty() { Ok(head) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    }
    Ok(head)
}

/// As it came, to be sent on: in chunks, if those who sent it did not know its length.
fn read_request_body(from: &mut impl BufRead, head: &[u8]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if !header(head, "transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        body.resize(header(head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0), 0);
        from.read_exact(&mut body)?;
        return Ok(body);
    }
    loop {
        let at = body.len();
        from.read_until(b'\n', &mut body)?;
        let length = usize::from_str_radix(String::from_utf8_lossy(&body[at..]).trim(), 16).map_err(io::Error::other)?;
        let at = body.len();
        body.resize(at + length + 2, 0);
        from.read_exact(&mut body[at..])?;
        if length == 0 {
            return Ok(body);
        }
    }
}

fn header(head: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(head).into_owned();
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

fn flip(body: &mut [u8]) {
    let middle = body.len() / 2;
    if let Some(byte) = body.get_mut(middle) {
        *byte ^= 1;
    }
}
