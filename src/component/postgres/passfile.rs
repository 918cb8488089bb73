//! libpq's password file (`~/.pgpass`), as pure functions. Grammar: `passwordFromFile` in PostgreSQL's
//! `src/interfaces/libpq/fe-connect.c`.

use crate::secret::Revealed;

/// The password that a password file (`~/.pgpass`) holds for a connection. A Unix socket in the default directory, whatever it is called,
/// counts as `localhost`.
pub fn find_password(file: &str, host: &str, port: u16, database: &str, user: &str) -> Option<Revealed> {
    let port = port.to_string();
    file.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for wanted in [host, &port, database, user] {
            rest = after_field(rest, wanted)?;
        }
        let mut password = String::new();
        let mut chars = rest.trim_end_matches('\r').chars();
        while let Some(c) = chars.next() {
            match c {
                ':' => break,
                '\\' => password.extend(chars.next()),
                c => password.push(c),
            }
        }
        Some(Revealed::new(password))
    })
}

/// What follows the first field of `line`, if that field is `*` or `wanted`.
fn after_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut wanted = wanted.chars();
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        let c = match c {
            ':' => return wanted.next().is_none().then(|| &line[at + 1..]),
            '\\' => chars.next()?.1,
            c => c,
        };
        if wanted.next() != Some(c) {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_line_of_a_password_file_wins() {
        let file = "#h:1:d:u:comment\nh:1:other:u:no\nh:1:d:u:a\\:b\\\\c:rest\n*:*:*:*:any\n";
        let find = |host, port, user| find_password(file, host, port, "d", user).map(|p| p.expose().to_owned());
        assert_eq!(find("h", 1, "u").as_deref(), Some("a:b\\c"));
        assert_eq!(find("h", 2, "u").as_deref(), Some("any"));
        assert_eq!(find("hh", 1, "u").as_deref(), Some("any"));
        assert_eq!(find_password("h\\:x:1:d:u:p\r\n", "h:x", 1, "d", "u").expect("escaped").expose(), "p");
        assert!(find_password("h:1:d:u:p", "h", 1, "d", "").is_none());
    }
}
