//! The 512-byte ustar header (POSIX.1-1988), both ways. Reading also accepts GNU tar's base-256 numbers.

use super::BLOCK;

const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..265;
const USER: std::ops::Range<usize> = 265..297;
const GROUP: std::ops::Range<usize> = 297..329;
const MAJOR: std::ops::Range<usize> = 329..337;
const MINOR: std::ops::Range<usize> = 337..345;
const PREFIX: std::ops::Range<usize> = 345..500;

/// Longest name and link target that a header holds, in bytes.
pub const MAX_NAME: usize = 100;
/// Longest name of an owner or a group, in bytes; its field ends in NUL.
pub const MAX_USER: usize = 31;
/// Largest id: 7 octal digits.
pub const MAX_ID: u64 = 0o7_777_777;
/// Largest size and time: 11 octal digits.
pub const MAX_SIZE: u64 = 0o77_777_777_777;

/// The fields of a header, as numbers and without padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    pub name: Vec<u8>,
    pub mode: u64,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    pub mtime: i64,
    pub kind: u8,
    pub link: Vec<u8>,
    pub user: Vec<u8>,
    pub group: Vec<u8>,
    pub major: u64,
    pub minor: u64,
}

/// Writes a header. What does not fit its field is cut (texts) or written as zero (numbers): the caller adds a pax record for it.
pub fn encode(fields: &Fields) -> [u8; BLOCK] {
    let mut block = [0u8; BLOCK];
    put_text(&mut block[NAME], &fields.name);
    put_octal(&mut block[MODE], fields.mode);
    put_octal(&mut block[UID], fields.uid);
    put_octal(&mut block[GID], fields.gid);
    put_octal(&mut block[SIZE], fields.size);
    put_octal(&mut block[MTIME], u64::try_from(fields.mtime).unwrap_or(0));
    block[TYPE] = fields.kind;
    put_text(&mut block[LINK], &fields.link);
    block[MAGIC].copy_from_slice(b"ustar\x0000");
    put_text(&mut block[USER], &fields.user);
    put_text(&mut block[GROUP], &fields.group);
    put_octal(&mut block[MAJOR], fields.major);
    put_octal(&mut block[MINOR], fields.minor);
    let sum = checksum(&block);
    put_octal(&mut block[CHECKSUM.start..CHECKSUM.end - 1], u64::from(sum));
    block[CHECKSUM.end - 1] = b' ';
    block
}

/// Reads a header.
///
/// # Errors
/// The reason, when the checksum or a number does not hold.
pub fn decode(block: &[u8; BLOCK]) -> Result<Fields, &'static str> {
    let sum = number(&block[CHECKSUM]).ok_or("its checksum is not a number")?;
    if u64::from(checksum(block)) != sum {
        return Err("its checksum does not match");
    }
    let unsigned = |range: std::ops::Range<usize>, problem| number(&block[range]).ok_or(problem);
    let mut name = text(&block[NAME]);
    // the prefix belongs to ustar; GNU tar's own old format keeps other things there
    if &block[MAGIC] == b"ustar\x0000" && block[PREFIX.start] != 0 {
        let mut path = text(&block[PREFIX]);
        path.push(b'/');
        path.append(&mut name);
        name = path;
    }
    Ok(Fields {
        name,
        mode: unsigned(MODE, "its mode is not a number")?,
        uid: unsigned(UID, "its owner is not a number")?,
        gid: unsigned(GID, "its group is not a number")?,
        size: unsigned(SIZE, "its size is not a number")?,
        mtime: i64::try_from(unsigned(MTIME, "its time is not a number")?).map_err(|_| "its time is out of range")?,
        kind: block[TYPE],
        link: text(&block[LINK]),
        user: text(&block[USER]),
        group: text(&block[GROUP]),
        major: unsigned(MAJOR, "its device number is not a number")?,
        minor: unsigned(MINOR, "its device number is not a number")?,
    })
}

/// The sum of all bytes, those of the checksum itself taken as spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let all: u32 = block.iter().map(|b| u32::from(*b)).sum();
    let own: u32 = block[CHECKSUM].iter().map(|b| u32::from(*b)).sum();
    all - own + 8 * u32::from(b' ')
}

fn put_text(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// Octal digits and a NUL; zero when the number does not fit.
fn put_octal(field: &mut [u8], number: u64) {
    let digits = field.len() - 1;
    let number = if digits < 21 && number >> (3 * digits) != 0 { 0 } else { number };
    for (at, byte) in field[..digits].iter_mut().rev().enumerate() {
        *byte = b'0' + u8::try_from((number >> (3 * at)) & 7).unwrap_or(0);
    }
}

fn text(field: &[u8]) -> Vec<u8> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    field[..end].to_vec()
}

/// Octal, or base 256 when the first bit is set; empty is zero. Negative and oversized numbers are refused.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        return field.iter().enumerate().try_fold(0u64, |sum, (at, byte)| {
            let digit = if at == 0 { byte & 0x7f } else { *byte };
            sum.checked_mul(256)?.checked_add(u64::from(digit))
        });
    }
    let trimmed = text(field);
    let trimmed = trimmed.trim_ascii();
    trimmed.iter().try_fold(0u64, |sum, byte| match byte {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_survive() {
        let fields = Fields {
            name: b"./a/b".to_vec(),
            mode: 0o7777,
            uid: MAX_ID,
            gid: 1,
            size: MAX_SIZE,
            mtime: 1_700_000_000,
            kind: b'0',
            link: vec![0xff; 100],
            user: b"root".to_vec(),
            group: b"adm".to_vec(),
            major: 259,
            minor: 0xfffff,
        };
        assert_eq!(decode(&encode(&fields)), Ok(fields));
    }

    #[test]
    fn a_changed_bit_is_found() {
        let mut block = encode(&Fields { name: b"a".to_vec(), ..Fields::default() });
        block[3] ^= 4;
        assert!(decode(&block).is_err());
    }

    #[test]
    fn base_256_is_read_and_overflow_refused() {
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), None);
        assert_eq!(number(b"00000x0\0"), None);
    }
}
