//! Quoting. Names and texts of a manifest or of a catalog are data, whoever wrote them.

/// `name` as an identifier, as PostgreSQL's `quote_identifier` with `quote_all_identifiers` writes it.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `text` as a string constant that means the same whatever `standard_conforming_strings` is, as libpq's `PQescapeLiteral` writes it.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(ident("we\"ird; --"), "\"we\"\"ird; --\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'; --"), " E'a\\\\''; --'");
    }
}
