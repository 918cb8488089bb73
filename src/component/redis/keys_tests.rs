//! Tests of [`super`]: counting the keys of an RDB.

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
