//! Data to compress, the same at every run: text as `pg_dump` writes it for authentik's tables, and bytes as of photographs.

use std::fmt::Write;

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn uuid(&mut self) -> String {
        let (a, b) = (self.next(), self.next());
        format!("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", a >> 32, (a >> 16) & 0xffff, a & 0xffff, b >> 48, b & 0xffff_ffff_ffff)
    }

    fn moment(&mut self) -> String {
        let t = self.next();
        format!(
            "2026-{:02}-{:02} {:02}:{:02}:{:02}.{:06}+00",
            t % 12 + 1,
            (t >> 8) % 28 + 1,
            (t >> 16) % 24,
            (t >> 24) % 60,
            (t >> 32) % 60,
            (t >> 40) % 1_000_000
        )
    }
}

const ACTIONS: &[&str] =
    &["login", "logout", "login_failed", "authorize_application", "model_updated", "model_created", "policy_exception"];
const PATHS: &[&str] = &[
    "/api/v3/flows/executor/default-authentication-flow/",
    "/application/o/authorize/",
    "/api/v3/core/users/me/",
    "/api/v3/events/events/",
    "/if/user/",
];
const AGENTS: &[&str] = &[
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:127.0) Gecko/20100101 Firefox/127.0",
    "curl/7.88.1",
];
const CITIES: &[&str] = &["Berlin", "Hamburg", "Oslo", "Lisbon", "Graz", "Turin", "Leeds", "Gdansk"];

/// Lines of `COPY`: events with JSON, users, tokens.
pub fn dump(len: usize) -> Vec<u8> {
    let mut random = Random(1);
    let mut text = String::with_capacity(len + 4096);
    let mut line = 0;
    while text.len() < len {
        line += 1;
        let written = match line % 10 {
            0 => {
                let user = random.below(90_000);
                writeln!(
                    text,
                    "{line}\t{}\tuser{user}\tuser{user}@example.com\t{}\t{{\"settings\": {{\"locale\": \"en\"}}, \"department\": \
                     \"dept {}\"}}\tt",
                    random.uuid(),
                    random.moment(),
                    user % 40
                )
            }
            1 => writeln!(text, "{}\t{:016x}{:016x}\t{}\tapi\t{}\tt", random.uuid(), random.next(), random.next(), random.moment(), line),
            _ => {
                let user = random.below(90_000);
                writeln!(
                    text,
                    "{}\t{}\tauthentik.events.middleware\t{}\t{{\"http_request\": {{\"path\": \"{}\", \"method\": \"GET\", \"args\": \
                     {{\"next\": \"/\"}}, \"request_id\": \"{:016x}{:016x}\", \"user_agent\": \"{}\"}}, \"geo\": {{\"city\": \"{}\", \
                     \"lat\": {}.{}, \"long\": {}.{}}}, \"auth_method\": \"password\"}}\t10.{}.{}.{}\t{{\"pk\": {user}, \"email\": \
                     \"user{user}@example.com\", \"username\": \"user{user}\"}}",
                    random.uuid(),
                    random.pick(ACTIONS),
                    random.moment(),
                    random.pick(PATHS),
                    random.next(),
                    random.next(),
                    random.pick(AGENTS),
                    random.pick(CITIES),
                    random.below(60),
                    random.below(10_000),
                    random.below(30),
                    random.below(10_000),
                    random.below(256),
                    random.below(256),
                    random.below(256)
                )
            }
        };
        written.expect("a string takes everything");
    }
    text.truncate(len);
    text.into_bytes()
}

/// What is compressed already.
pub fn random(len: usize) -> Vec<u8> {
    let mut random = Random(2);
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| random.next().to_le_bytes()).take(len.div_ceil(8)).flatten().collect();
    bytes.truncate(len);
    bytes
}

/// A media folder in an archive: pieces of 1 to 400 KiB by turns, six tenths of the bytes random, the rest text.
pub fn mixed(len: usize) -> Vec<u8> {
    let (text, noise) = (dump(len), random(len));
    let mut sizes = Random(3);
    let mut mixed = Vec::with_capacity(len);
    let (mut text_at, mut noise_at) = (0, 0);
    while mixed.len() < len {
        let size = (1 + sizes.below(400)) << 10;
        let noisy = noise_at * 4 <= text_at * 6;
        let (from, at) = if noisy { (&noise, &mut noise_at) } else { (&text, &mut text_at) };
        let end = (*at + size).min(from.len());
        mixed.extend_from_slice(&from[*at..end]);
        *at = end;
    }
    mixed.truncate(len);
    mixed
}
