//! Counts the keys of an RDB while it passes: per database, and the libraries of functions.
//!
//! Nothing is decoded. Every value is passed over by the lengths in it, after a table of what each type is made of (Redis' rdb.c,
//! `rdbLoadObject`, of versions 1 to 14; Valkey's own from version 80 on), in constant memory and in pieces of any size. What the table does
//! not know ends the count, as do numbers that do not agree with each other: the RDB itself says how many keys each database should have,
//! and where it ends. A count is right, or there is none.

use std::collections::BTreeMap;

/// Databases that are told apart.
const DATABASES: usize = 1 << 16;
/// `REDIS0011`, `VALKEY080`.
const MAGIC: u64 = 9;
/// Bytes of the checksum after the end mark.
const TRAILER: u64 = 8;
/// Values inside one another; the table needs five.
const DEPTH: usize = 16;

/// What an RDB holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// By number of the database; those without keys are left out.
    pub keys: BTreeMap<u32, u64>,
    /// Libraries of functions.
    pub libraries: u64,
}

impl Keys {
    /// `7 keys in 2 databases, 1 library of functions`
    pub fn sentence(&self) -> String {
        let number = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        let keys = number(self.keys.values().sum(), "key", "keys");
        let databases = number(self.keys.len() as u64, "database", "databases");
        let libraries = match self.libraries {
            0 => String::new(),
            n => format!(", {}", number(n, "library of functions", "libraries of functions")),
        };
        format!("{keys} in {databases}{libraries}")
    }
}

/// What values are made of.
#[derive(Debug, Clone, Copy)]
enum Op {
    /// A number of one to nine bytes.
    Number,
    /// A length and as many bytes, or an integer, or a compressed string.
    Text,
    Bytes(u64),
    /// A length of one byte and as many digits, or one of three special lengths.
    Digits,
    /// A number, and that often what follows.
    Many(&'static [Op]),
    /// What a module wrote: pieces that say their type, up to an end mark.
    Module,
}

use Op::{Bytes, Digits, Many, Module, Number, Text};

/// Id, entries of a radix tree; length and last id.
macro_rules! stream {
    ([$($before:expr),*], [$($offset:expr),*], [$($active:expr),*], [$($nacks:expr),*], [$($after:expr),*]) => {
        &[
            Many(&[Text, Text]), Number, Number, Number, $($before,)*
            // groups: name, id, offset; what is pending: id, time, count; consumers: name, times, ids
            Many(&[
                Text, Number, Number, $($offset,)*
                Many(&[Bytes(16), Bytes(8), Number]),
                Many(&[Text, Bytes(8), $($active,)* Many(&[Bytes(16)])]),
                $($nacks,)*
            ]),
            $($after,)*
        ]
    };
}

const STREAM: &[Op] = stream!([], [], [], [], []);
const STREAM_2: &[Op] = stream!([Number, Number, Number, Number, Number], [Number], [], [], []);
const STREAM_3: &[Op] = stream!([Number, Number, Number, Number, Number], [Number], [Bytes(8)], [], []);
/// With producers, whose messages are taken once only: duration, most entries, producers with their ids, two counters.
const STREAM_4: &[Op] = stream!(
    [Number, Number, Number, Number, Number],
    [Number],
    [Bytes(8)],
    [],
    [Number, Number, Many(&[Text, Many(&[Text, Number, Number])]), Number, Number]
);
const STREAM_5: &[Op] = stream!(
    [Number, Number, Number, Number, Number],
    [Number],
    [Bytes(8)],
    [Many(&[Bytes(16)])],
    [Number, Number, Many(&[Text, Many(&[Text, Number, Number])]), Number, Number]
);

/// The value of a key, by its type. From 22 on the families differ.
fn value(kind: u8, valkey: bool) -> Option<&'static [Op]> {
    Some(match kind {
        0 | 9..=13 | 16 | 17 | 20 => &[Text],
        1 | 2 | 14 => &[Many(&[Text])],
        3 => &[Many(&[Text, Digits])],
        4 => &[Many(&[Text, Text])],
        5 => &[Many(&[Text, Bytes(8)])],
        7 => &[Number, Module],
        15 => STREAM,
        18 => &[Many(&[Number, Text])],
        19 => STREAM_2,
        21 => STREAM_3,
        // hashes whose fields expire
        22 if valkey => &[Many(&[Text, Text, Bytes(8)])],
        22 => &[Many(&[Number, Text, Text])],
        23 if !valkey => &[Text],
        24 if !valkey => &[Bytes(8), Many(&[Number, Text, Text])],
        25 if !valkey => &[Bytes(8), Text],
        26 if !valkey => STREAM_4,
        27 if !valkey => STREAM_5,
        _ => return None,
    })
}

/// What follows an opcode that is no type.
fn opcode(code: u8, valkey: bool) -> Option<&'static [Op]> {
    Some(match code {
        // state of a cluster's slots; metadata of modules
        243 if valkey => &[Text, Many(&[Number, Number])],
        243 => &[Many(&[Bytes(4), Module])],
        // slot; library of functions; a module's own data; idle time; frequency; a note; expiries
        244 => &[Number, Number, Number],
        245 => &[Text],
        247 => &[Number, Number, Number, Module],
        248 => &[Number],
        249 => &[Bytes(1)],
        250 => &[Text, Text],
        252 => &[Bytes(8)],
        253 => &[Bytes(4)],
        _ => return None,
    })
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy)]
enum Next {
    Opcode,
    /// Whatever follows what is being passed over.
    Part,
    /// The length of [`Op::Digits`].
    Digits,
    Number(For),
}

/// What a number is for.
#[derive(Debug, Clone, Copy)]
enum For {
    Nothing,
    Text,
    /// The compressed length of a string, before the other one.
    Packed,
    /// The other one; so many bytes follow.
    Unpacked(u64),
    Many(&'static [Op]),
    Module,
    Database,
    /// How many keys the database has.
    Size,
}

/// A list of parts, to be passed over again and again.
#[derive(Debug)]
struct Frame {
    ops: &'static [Op],
    at: usize,
    left: u64,
}

/// Takes an RDB in pieces of any size.
#[derive(Debug)]
pub struct KeyCounter {
    /// The first byte tells the families apart.
    valkey: Option<bool>,
    next: Next,
    number: [u8; 9],
    have: usize,
    /// Bytes to pass over.
    skip: u64,
    stack: Vec<Frame>,
    database: u32,
    counts: Keys,
    /// Keys that each database should have, as the RDB has it.
    sizes: BTreeMap<u32, u64>,
    ended: bool,
    lost: Option<String>,
}

impl Default for KeyCounter {
    fn default() -> Self {
        Self {
            valkey: None,
            next: Next::Opcode,
            number: [0; 9],
            have: 0,
            skip: MAGIC,
            stack: Vec::with_capacity(DEPTH),
            database: 0,
            counts: Keys::default(),
            sizes: BTreeMap::new(),
            ended: false,
            lost: None,
        }
    }
}

impl KeyCounter {
    pub fn update(&mut self, mut bytes: &[u8]) {
        if let (None, Some(first)) = (self.valkey, bytes.first()) {
            self.valkey = Some(*first == b'V');
        }
        while self.lost.is_none() && !bytes.is_empty() {
            if self.skip > 0 {
                let length = usize::try_from(self.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
                self.skip -= length as u64;
                bytes = &bytes[length..];
            } else if matches!(self.next, Next::Part) {
                self.advance();
            } else if self.ended {
                self.lose("something follows its end");
            } else {
                self.byte(bytes[0]);
                bytes = &bytes[1..];
            }
        }
    }

    /// The stream has ended, and was whole.
    ///
    /// # Errors
    /// Why the keys could not be counted.
    pub fn finish(self) -> Result<Keys, String> {
        if let Some(reason) = self.lost {
            return Err(reason);
        }
        if !self.ended || self.skip > 0 {
            return Err("its end is not where it should be".to_owned());
        }
        let other = self.sizes.iter().find(|(database, size)| self.counts.keys.get(database).copied().unwrap_or_default() != **size);
        if let Some((database, size)) = other {
            let counted = self.counts.keys.get(database).copied().unwrap_or_default();
            return Err(format!("database {database} should have {size} keys, and {counted} were found"));
        }
        Ok(self.counts)
    }

    fn lose(&mut self, reason: impl Into<String>) {
        self.lost = Some(reason.into());
    }

    fn byte(&mut self, byte: u8) {
        match self.next {
            Next::Opcode | Next::Part => self.opcode(byte),
            Next::Digits => {
                // not a number, and both infinities
                self.skip = if byte >= 253 { 0 } else { u64::from(byte) };
                self.advance();
            }
            Next::Number(purpose) => {
                self.number[self.have] = byte;
                self.have += 1;
                if let Some(number) = number(&self.number[..self.have]) {
                    self.have = 0;
                    match number {
                        Ok(number) => self.number(number, purpose),
                        Err(encoding) => self.encoded(encoding, purpose),
                    }
                }
            }
        }
    }

    fn opcode(&mut self, code: u8) {
        let valkey = self.valkey.unwrap_or(false);
        match code {
            255 => {
                self.ended = true;
                self.skip = TRAILER;
            }
            254 => self.next = Next::Number(For::Database),
            251 => self.next = Next::Number(For::Size),
            _ => match (opcode(code, valkey), value(code, valkey)) {
                (Some(ops), _) => {
                    self.counts.libraries += u64::from(code == 245);
                    self.run(ops, 1);
                    self.advance();
                }
                (None, Some(ops)) => {
                    *self.counts.keys.entry(self.database).or_default() += 1;
                    self.run(ops, 1);
                    self.run(&[Text], 1);
                    self.advance();
                }
                (None, None) => self.lose(format!("it has something of the unknown type {code}")),
            },
        }
    }

    fn number(&mut self, number: u64, purpose: For) {
        match purpose {
            For::Nothing => {}
            For::Text => self.skip = number,
            For::Packed => {
                self.next = Next::Number(For::Unpacked(number));
                return;
            }
            For::Unpacked(packed) => self.skip = packed,
            For::Many(ops) => self.run(ops, number),
            For::Module => match number {
                0 => {}
                // numbers, with and without sign; two kinds of floating point; a string; each is followed by the next
                1..=5 => {
                    let part: &'static [Op] = match number {
                        3 => &[Bytes(4), Module],
                        4 => &[Bytes(8), Module],
                        5 => &[Text, Module],
                        _ => &[Number, Module],
                    };
                    self.run(part, 1);
                }
                other => return self.lose(format!("a module wrote something of the unknown type {other}")),
            },
            For::Database => match u32::try_from(number) {
                Ok(database) if self.sizes.len() < DATABASES && self.counts.keys.len() < DATABASES => self.database = database,
                _ => return self.lose("it has too many databases"),
            },
            For::Size => {
                self.sizes.insert(self.database, number);
                self.run(&[Number], 1);
            }
        }
        self.advance();
    }

    /// The special forms of a string: an integer of one, two or four bytes, or a compressed one.
    fn encoded(&mut self, encoding: u8, purpose: For) {
        match (purpose, encoding) {
            (For::Text, 0..=2) => {
                self.skip = 1 << encoding;
                self.advance();
            }
            (For::Text, 3) => self.next = Next::Number(For::Packed),
            _ => self.lose("a length in it is none"),
        }
    }

    fn run(&mut self, ops: &'static [Op], times: u64) {
        if times > 0 {
            // a list that is at its end is not needed any more: what modules write may be as long as it likes
            self.stack.pop_if(|frame| frame.at == frame.ops.len() && frame.left == 1);
            if self.stack.len() == DEPTH {
                return self.lose("it is nested too deeply");
            }
            self.stack.push(Frame { ops, at: 0, left: times });
        }
    }

    /// Looks for the next part.
    fn advance(&mut self) {
        self.next = loop {
            let Some(frame) = self.stack.last_mut() else { break Next::Opcode };
            let Some(op) = frame.ops.get(frame.at) else {
                frame.left -= 1;
                frame.at = 0;
                self.stack.pop_if(|frame| frame.left == 0);
                continue;
            };
            frame.at += 1;
            match *op {
                Bytes(length) => {
                    // on top of a string that was not passed over yet
                    self.skip = self.skip.saturating_add(length);
                    break Next::Part;
                }
                Number => break Next::Number(For::Nothing),
                Text => break Next::Number(For::Text),
                Digits => break Next::Digits,
                Many(ops) => break Next::Number(For::Many(ops)),
                Module => break Next::Number(For::Module),
            }
        };
    }
}

/// A number, most significant byte first, whose first two bits say how long it is; `Err`: the number of a special form. `None`: it is not
/// complete.
fn number(bytes: &[u8]) -> Option<Result<u64, u8>> {
    let whole = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let (first, rest) = bytes.split_first()?;
    match (first >> 6, *first) {
        (0, first) => Some(Ok(u64::from(first))),
        (1, first) => (rest.len() == 1).then(|| Ok(u64::from(first & 0x3f) << 8 | whole(rest))),
        (3, first) => Some(Err(first & 0x3f)),
        (_, 0x80) => (rest.len() == 4).then(|| Ok(whole(rest))),
        (_, 0x81) => (rest.len() == 8).then(|| Ok(whole(rest))),
        (_, other) => Some(Err(other)),
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
