//! Records of a pax extension header: `<length> <key>=<value>\n`, the length counting itself (POSIX.1-2001, pax, "pax Extended Header").

use super::Time;

/// Appends a record. The value may hold any bytes.
pub fn put(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while digits(length) + rest != length {
        length = digits(length) + rest;
    }
    put_number(out, length);
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn put_number(out: &mut Vec<u8>, number: usize) {
    let start = out.len();
    let mut left = number;
    while left > 0 || out.len() == start {
        out.push(b'0' + u8::try_from(left % 10).unwrap_or(0));
        left /= 10;
    }
    out[start..].reverse();
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Splits the first record off: its key, its value and what follows.
pub fn split_first(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&records[..space])?).ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

/// A number without sign.
pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds as a decimal fraction: `-1.5` is half a second before -1.
pub fn put_time(time: Time) -> String {
    if time.nanos == 0 {
        return time.seconds.to_string();
    }
    let (sign, whole, nanos) = if time.seconds < 0 {
        ("-", (time.seconds + 1).unsigned_abs(), 1_000_000_000 - time.nanos)
    } else {
        ("", time.seconds.unsigned_abs(), time.nanos)
    };
    let text = format!("{sign}{whole}.{nanos:09}");
    text.trim_end_matches('0').to_owned()
}

/// Reads what [`put_time`] writes; digits past the ninth are dropped.
pub fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let whole = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0, |sum, at| sum * 10 + u32::from(fraction.get(at).map_or(0, |b| b - b'0')));
    Some(match (negative, nanos) {
        (false, _) => Time { seconds: whole, nanos },
        (true, 0) => Time { seconds: -whole, nanos: 0 },
        (true, _) => Time { seconds: -whole - 1, nanos: 1_000_000_000 - nanos },
    })
}

/// An attribute's name as it stands in a key: `=` would end it (GNU tar's xheader.c, `xattr_encode_keyword`).
pub fn attribute_key(name: &[u8]) -> Vec<u8> {
    let mut key = b"SCHILY.xattr.".to_vec();
    for byte in name {
        match byte {
            b'%' => key.extend_from_slice(b"%25"),
            b'=' => key.extend_from_slice(b"%3D"),
            _ => key.push(*byte),
        }
    }
    key
}

/// The name of an attribute, from the part of its key after `SCHILY.xattr.`.
pub fn attribute_name(mut key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    while let Some((first, rest)) = key.split_first() {
        let (byte, rest) = if let Some(rest) = key.strip_prefix(b"%25") {
            (b'%', rest)
        } else if let Some(rest) = key.strip_prefix(b"%3D") {
            (b'=', rest)
        } else {
            (*first, rest)
        };
        name.push(byte);
        key = rest;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for length in [0, 1, 80, 87, 88, 89, 90, 91, 980, 985, 990, 9980, 9990] {
            let value = vec![b'\n'; length];
            let mut out = Vec::new();
            put(&mut out, b"key", &value);
            out.extend_from_slice(b"rest");
            assert_eq!(split_first(&out), Some((&b"key"[..], &value[..], &b"rest"[..])), "{length}");
        }
    }

    #[test]
    fn what_is_not_a_record_is_refused() {
        for bad in [&b""[..], b"5", b"5 a=b\n", b"99 a=b\n", b"6 a=bc\n", b"5 ab\n", b"-6 a=b\n", b"0 a=b\n", b"99999999999999999999 a=b\n"]
        {
            assert_eq!(split_first(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times_survive_before_1970_too() {
        for (seconds, nanos, text) in [
            (0, 0, "0"),
            (1, 500_000_000, "1.5"),
            (-2, 500_000_000, "-1.5"),
            (-1, 1, "-0.999999999"),
            (-1, 0, "-1"),
            (9_223_372_036, 1, "9223372036.000000001"),
        ] {
            let written = Time { seconds, nanos };
            assert_eq!(put_time(written), text);
            assert_eq!(time(text.as_bytes()), Some(written));
        }
        for bad in ["", "-", "1.x", "+1", "1 ", "99999999999999999999"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn attribute_names_survive() {
        for name in [&b"user.a"[..], b"user.a=b%c", b"user.%3D", b"user.\xff"] {
            let key = attribute_key(name);
            assert!(!key.contains(&b'='));
            assert_eq!(attribute_name(&key[b"SCHILY.xattr.".len()..]), name);
        }
    }
}
