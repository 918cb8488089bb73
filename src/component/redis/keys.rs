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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A text of that many bytes, as an RDB has it.
    fn text(bytes: &[u8]) -> Vec<u8> {
        [&[u8::try_from(bytes.len()).expect("short")][..], bytes].concat()
    }

    fn rdb(magic: &str, parts: &[&[u8]]) -> Vec<u8> {
        [magic.as_bytes(), &parts.concat(), &[255], &[0; 8]].concat()
    }

    fn count(rdb: &[u8], piece: usize) -> Result<Keys, String> {
        let mut counter = KeyCounter::default();
        for piece in rdb.chunks(piece) {
            counter.update(piece);
            assert!(counter.stack.len() <= DEPTH && counter.stack.capacity() <= 2 * DEPTH);
        }
        counter.finish()
    }

    fn keys(counts: &[(u32, u64)], libraries: u64) -> Result<Keys, String> {
        Ok(Keys { keys: counts.iter().copied().collect(), libraries })
    }

    /// A key of that type, with another one after it to see whether its end was found.
    fn check_value(magic: &str, kind: u8, value: &[u8]) {
        let rdb = rdb(magic, &[&[254, 3], &[kind], &text(b"key"), value, &[0], &text(b"next"), &text(b"x")]);
        for piece in [1, 2, 3, 7, rdb.len()] {
            assert_eq!(count(&rdb, piece), keys(&[(3, 2)], 0), "type {kind}, pieces of {piece}");
        }
    }

    #[test]
    fn strings_of_every_form_are_passed_over() {
        let long = [&[0x40 | 1, 0x2c][..], &[b'x'; 300]].concat();
        let longer = [&[0x80, 0, 1, 0, 0][..], &vec![255; 65536]].concat();
        let longest = [&[0x81, 0, 0, 0, 0, 0, 0, 0, 2][..], b"ab"].concat();
        let packed = [&[0xc3, 4, 0x80, 0, 0, 0, 200][..], &[1, 2, 3, 4]].concat();
        let forms =
            [text(b""), text(b"abc"), long, longer, longest, vec![0xc0, 255], vec![0xc1, 255, 255], vec![0xc2, 255, 255, 255, 255], packed];
        for form in forms {
            check_value("REDIS0011", 0, &form);
        }
    }

    #[test]
    fn values_of_every_type_are_passed_over() {
        let (a, id) = (text(b"a"), [7; 16]);
        let two = |parts: &[&[u8]]| [&[2][..], &parts.concat(), &parts.concat()].concat();
        check_value("REDIS0003", 1, &two(&[&a]));
        check_value("REDIS0003", 3, &[&[4][..], &a, &text(b"1.5"), &a, &[253], &a, &[254], &a, &[255]].concat());
        check_value("REDIS0009", 4, &two(&[&a, &a]));
        check_value("REDIS0009", 5, &two(&[&a, &[0; 8]]));
        check_value(
            "REDIS0009",
            7,
            &[&[0x81, 1, 2, 3, 4, 5, 6, 7, 8, 1, 5, 2, 0x40, 9, 3, 0, 0, 0, 0, 4][..], &[0; 8], &[5], &a, &[0]].concat(),
        );
        check_value("REDIS0011", 18, &two(&[&[2], &a]));
        for (valkey, kind, value) in [
            (true, 22, two(&[&a, &a, &[255; 8]])),
            (false, 22, two(&[&[5], &a, &a])),
            (false, 23, a.clone()),
            (false, 24, [&[0; 8][..], &two(&[&[5], &a, &a])].concat()),
            (false, 25, [&[0; 8][..], &a].concat()),
        ] {
            check_value(if valkey { "VALKEY080" } else { "REDIS0012" }, kind, &value);
        }
        let pending = two(&[&id, &[0; 8], &[1]]);
        for (kind, more, active, nacks, producers) in
            [(15, 0, 0, false, false), (19, 5, 0, false, false), (21, 5, 8, false, false), (26, 5, 8, false, true), (27, 5, 8, true, true)]
        {
            let nodes = two(&[&text(&id), &a]);
            let consumers = two(&[&a, &[0; 8], &vec![0; active], &two(&[&id])]);
            let offset = vec![1; usize::from(more > 0)];
            let nacks = if nacks { two(&[&id]) } else { Vec::new() };
            let groups = two(&[&a, &[1, 2], &offset, &pending, &consumers, &nacks]);
            let entries = two(&[&a, &[1, 2]]);
            let after = if producers { [&[60, 61][..], &two(&[&a, &entries]), &[3, 4]].concat() } else { Vec::new() };
            check_value("REDIS0014", kind, &[&nodes[..], &[2, 1, 1], &vec![1; more], &groups, &after].concat());
        }
    }

    #[test]
    fn what_is_no_key_is_passed_over_and_libraries_are_counted() {
        let (a, pair) = (text(b"a"), [text(b"a"), text(b"b")].concat());
        let module = [&[2, 5, 5][..], &a, &[0]].concat();
        let parts: Vec<Vec<u8>> = vec![
            [&[250][..], &pair].concat(),
            [&[245][..], &a].concat(),
            [&[245][..], &a].concat(),
            [&[247, 9, 2, 1][..], &module].concat(),
            vec![254, 0, 251, 2, 1],
            [&[252][..], &[9; 8], &[249, 7], &[0], &pair].concat(),
            [&[253][..], &[9; 4], &[248, 7], &[0], &pair].concat(),
            [&[254, 0x40, 0xff, 251, 1, 0][..], &[244, 1, 2, 3], &[0], &pair].concat(),
        ];
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        for piece in [1, 5, 1000] {
            assert_eq!(count(&rdb("REDIS0012", &parts), piece), keys(&[(0, 2), (255, 1)], 2));
        }
        let metadata = [&[243, 1, 0, 0, 0, 1][..], &module].concat();
        assert_eq!(count(&rdb("REDIS0013", &[&metadata, &[0], &pair]), 3), keys(&[(0, 1)], 0));
        assert_eq!(count(&rdb("VALKEY080", &[&[243], &a, &[1, 2, 3], &[0], &pair]), 3), keys(&[(0, 1)], 0));
    }

    #[test]
    fn what_is_not_known_ends_the_count() {
        let pair = [text(b"a"), text(b"b")].concat();
        for (parts, reason) in [
            (vec![&[28][..], &pair], "unknown type 28"),
            (vec![&[8][..], &pair], "unknown type 8"),
            (vec![&[246][..], &pair], "unknown type 246"),
            (vec![&[7, 1, b'k', 1, 6][..]], "a module wrote something"),
            (vec![&[0xc4][..]], "unknown type 196"),
            (vec![&[0, 0xc4][..]], "a length in it is none"),
            (vec![&[0, 0x85][..]], "a length in it is none"),
            (vec![&[254, 0x81, 0, 0, 0, 1, 0, 0, 0, 0][..]], "too many databases"),
            (vec![&[251, 3, 0, 0][..], &pair], "database 0 should have 3 keys, and 1 were found"),
            (vec![&[0, 1, b'k', 60][..]], "its end is not where it should be"),
            (vec![&[255][..]], "something follows its end"),
        ] {
            let told = count(&rdb("REDIS0014", &parts), 2).expect_err(reason);
            assert!(told.contains(reason), "{told}");
        }
        assert!(count(&rdb("VALKEY080", &[&[24], &pair]), 2).expect_err("a type of Redis").contains("unknown type 24"));
    }

    #[test]
    fn no_flipped_bit_does_any_harm() {
        let (a, most) = (text(b"a"), [0x81, 255, 255, 255, 255, 255, 255, 255, 255]);
        let stream = [&[21][..], &a, &[1], &a, &a, &[1; 8], &[1], &a, &[1; 3], &[0], &[1], &a, &[0; 16], &[0]].concat();
        let hash = [&[24][..], &a, &[0; 8], &[1, 5], &a, &a].concat();
        let module = [&[7][..], &a, &most, &[1, 1, 5], &a, &[0]].concat();
        let whole = rdb("REDIS0012", &[&[254, 0, 251, 3, 0], &stream, &hash, &module, &[245], &a]);
        assert_eq!(count(&whole, 7), keys(&[(0, 3)], 1));
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // whatever comes of it comes of it in any pieces
            assert_eq!(count(&flipped, 1), count(&flipped, whole.len()), "bit {bit}");
        }
    }

    #[test]
    fn a_hostile_number_costs_neither_time_nor_memory() {
        let most = [0x81, 255, 255, 255, 255, 255, 255, 255, 255];
        let stream = [&[15, 1, b'k', 0, 1, 1, 1, 1, 1, b'g', 1, 1][..], &most].concat();
        for value in [[&[1, 1, b'k'][..], &most].concat(), stream, [&[0, 1, b'k'][..], &most].concat()] {
            count(&rdb("REDIS0011", &[&value, &vec![0; 100_000]]), 4096).expect_err("it does not end");
        }
        let nested = [&[7, 1, b'k', 1][..], &[1, 1].repeat(100_000), &[0]].concat();
        assert_eq!(count(&rdb("REDIS0011", &[&nested]), 4096), keys(&[(0, 1)], 0), "a long value of a module");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_in_and_pieces_do_not_matter(body in prop::collection::vec(any::<u8>(), 0..400), piece in 1usize..50) {
            let rdb = rdb("REDIS0012", &[&body]);
            prop_assert_eq!(count(&rdb, piece), count(&rdb, rdb.len()));
        }

        /// As above, of what looks more like an RDB.
        #[test]
        fn any_likely_bytes_too(
            parts in prop::collection::vec(prop::sample::select(vec![
                &[254u8, 1][..], &[251, 1, 1], &[245, 1, b'f'], &[0, 1, b'k', 1, b'v'], &[15, 1, b'k'], &[21, 1, b'k', 2], &[7, 1, b'k'],
                &[1, 2, 3], &[0; 16], &[0xc3, 2, 2, 1, 1], &[252, 0, 0, 0, 0, 0, 0, 0, 0], &[0x81, 255, 255, 255, 255, 255, 255, 255, 255],
            ]), 0..40),
            piece in 1usize..50
        ) {
            let rdb = rdb("REDIS0012", &parts);
            prop_assert_eq!(count(&rdb, piece), count(&rdb, rdb.len()));
        }
    }
}
