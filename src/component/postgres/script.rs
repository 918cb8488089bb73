//! Splits what `pg_dumpall --globals-only` writes into statements.
//!
//! Follows the lexical rules of PostgreSQL's `src/fe_utils/psqlscan.l` as far as such a script uses them: strings with doubled quotes, `E''`
//! strings with backslashes, quoted identifiers, dollar quotes, both kinds of comments. Lines that begin with a backslash outside of a
//! statement (`\restrict`, `\unrestrict`, since CVE-2025-8714) speak to psql and are dropped.

use std::ops::Range;

use thiserror::Error;

/// Why bytes are no such script.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ScriptError {
    #[error("the script ends within a {0}")]
    Unterminated(&'static str),
    #[error("the script ends within a statement")]
    NoSemicolon,
}

/// One statement, without its semicolon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub text: String,
    /// False if the script's bytes were no UTF-8 here; then `text` only resembles them.
    pub exact: bool,
    /// What `text` consists of, comments left out, each with its place in `text`.
    pub tokens: Vec<(Token, Range<usize>)>,
}

/// What PostgreSQL's scanner would see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A keyword or an unquoted identifier, in lower case.
    Word(String),
    /// A quoted identifier, its quotes resolved.
    Name(String),
    /// A string, its quotes resolved (backslashes of `E''` are left as they are).
    Text(String),
    Symbol(char),
}

impl Token {
    pub fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(w) if w == word)
    }

    /// As the name of something.
    pub fn ident(&self) -> Option<&str> {
        match self {
            Self::Word(name) | Self::Name(name) => Some(name),
            Self::Text(_) | Self::Symbol(_) => None,
        }
    }
}

impl Statement {
    pub fn token(&self, at: usize) -> Option<&Token> {
        self.tokens.get(at).map(|(token, _)| token)
    }

    /// Whether the statement begins with these keywords.
    pub fn begins(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(at, word)| self.token(at).is_some_and(|t| t.is(word)))
    }

    /// Index of the token after the first run of these keywords.
    pub fn after(&self, words: &[&str]) -> Option<usize> {
        let run = |from: usize| words.iter().enumerate().all(|(at, word)| self.token(from + at).is_some_and(|t| t.is(word)));
        (0..self.tokens.len()).find(|from| run(*from)).map(|from| from + words.len())
    }

    /// The statement's text without the tokens that `drop` picks.
    pub fn without(&self, mut drop: impl FnMut(usize, &Token) -> bool) -> String {
        let mut text = String::new();
        let mut from = 0;
        for (at, (token, range)) in self.tokens.iter().enumerate() {
            if drop(at, token) {
                text.push_str(&self.text[from..range.start]);
                from = range.end;
            }
        }
        text.push_str(&self.text[from..]);
        text
    }
}

/// The statements of a script, in their order.
///
/// # Errors
/// [`ScriptError`] when it ends in the middle of something.
pub fn statements(script: &[u8]) -> Result<Vec<Statement>, ScriptError> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        at = skip_blank(script, at)?;
        if at == script.len() {
            return Ok(found);
        }
        if script[at] == b'\\' {
            at = line_end(script, at);
            continue;
        }
        let end = statement_end(script, at)?;
        if end > at {
            found.push(statement(&script[at..end])?);
        }
        at = end + 1;
    }
}

fn statement(bytes: &[u8]) -> Result<Statement, ScriptError> {
    let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
    let exact = std::str::from_utf8(bytes).is_ok();
    let mut tokens = Vec::new();
    let mut at = skip_blank(text.as_bytes(), 0)?;
    while at < text.len() {
        let end = piece_end(text.as_bytes(), at)?;
        tokens.push((token(&text[at..end]), at..end));
        at = skip_blank(text.as_bytes(), end)?;
    }
    Ok(Statement { text, exact, tokens })
}

/// Place of the semicolon that ends the statement which begins at `at`.
fn statement_end(script: &[u8], mut at: usize) -> Result<usize, ScriptError> {
    while at < script.len() {
        if script[at] == b';' {
            return Ok(at);
        }
        at = skip_blank(script, piece_end(script, at)?)?;
    }
    Err(ScriptError::NoSemicolon)
}

/// End of the token at `at`, which is neither blank nor a comment.
fn piece_end(text: &[u8], at: usize) -> Result<usize, ScriptError> {
    let next = text.get(at + 1).copied();
    match text[at] {
        b'\'' => quoted_end(text, at, b'\'', false).ok_or(ScriptError::Unterminated("string")),
        b'e' | b'E' if next == Some(b'\'') => quoted_end(text, at + 1, b'\'', true).ok_or(ScriptError::Unterminated("string")),
        b'"' => quoted_end(text, at, b'"', false).ok_or(ScriptError::Unterminated("quoted name")),
        b'$' => match dollar_tag(&text[at..]) {
            Some(tag) => {
                let body = at + tag.len();
                let close = text[body..].windows(tag.len()).position(|w| w == tag);
                close.map(|c| body + c + tag.len()).ok_or(ScriptError::Unterminated("dollar-quoted string"))
            }
            None => Ok(at + 1),
        },
        byte if is_word(byte) => Ok(at + text[at..].iter().take_while(|b| is_word(**b) || **b == b'$').count()),
        _ => Ok(at + 1),
    }
}

/// End of the quoted piece that begins at `at`.
fn quoted_end(text: &[u8], at: usize, quote: u8, backslashes: bool) -> Option<usize> {
    let mut i = at + 1;
    loop {
        match *text.get(i)? {
            b'\\' if backslashes => i += 2,
            b if b == quote && text.get(i + 1) == Some(&quote) => i += 2,
            b if b == quote => return Some(i + 1),
            _ => i += 1,
        }
    }
}

/// `$tag$` at the beginning of `text`.
fn dollar_tag(text: &[u8]) -> Option<&[u8]> {
    let inner = text[1..].iter().take_while(|b| is_word(**b)).count();
    let digit_first = text.get(1).is_some_and(u8::is_ascii_digit);
    (text.get(1 + inner) == Some(&b'$') && !digit_first).then(|| &text[..inner + 2])
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

fn line_end(text: &[u8], at: usize) -> usize {
    text[at..].iter().position(|b| *b == b'\n').map_or(text.len(), |n| at + n)
}

/// First place from `at` on that is neither blank nor in a comment.
fn skip_blank(text: &[u8], mut at: usize) -> Result<usize, ScriptError> {
    loop {
        match (text.get(at), text.get(at + 1)) {
            (Some(b), _) if b.is_ascii_whitespace() || *b == 0x0b => at += 1,
            (Some(b'-'), Some(b'-')) => at = line_end(text, at),
            (Some(b'/'), Some(b'*')) => at = comment_end(text, at).ok_or(ScriptError::Unterminated("comment"))?,
            _ => return Ok(at),
        }
    }
}

/// End of the comment at `at`; such comments nest.
fn comment_end(text: &[u8], at: usize) -> Option<usize> {
    let (mut i, mut depth) = (at, 0_usize);
    loop {
        match (*text.get(i)?, text.get(i + 1)) {
            (b'/', Some(b'*')) => (i, depth) = (i + 2, depth + 1),
            (b'*', Some(b'/')) if depth == 1 => return Some(i + 2),
            (b'*', Some(b'/')) => (i, depth) = (i + 2, depth - 1),
            _ => i += 1,
        }
    }
}

fn token(text: &str) -> Token {
    let inside = |from: usize| text.get(from..text.len() - 1).unwrap_or_default();
    match text.as_bytes()[0] {
        b'"' => Token::Name(inside(1).replace("\"\"", "\"")),
        b'\'' => Token::Text(inside(1).replace("''", "'")),
        b'e' | b'E' if text[1..].starts_with('\'') => Token::Text(inside(2).replace("''", "'")),
        b'$' if text.len() > 1 => {
            let tag = text[1..].find('$').map_or(0, |n| n + 2);
            Token::Text(text.get(tag..text.len() - tag).unwrap_or_default().to_owned())
        }
        b if is_word(b) => Token::Word(text.to_ascii_lowercase()),
        _ => Token::Symbol(text.chars().next().unwrap_or('\0')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(script: &str) -> Vec<String> {
        statements(script.as_bytes()).expect("a script").into_iter().map(|s| s.text).collect()
    }

    #[test]
    fn quotes_and_comments_hide_semicolons() {
        for (script, split) in [
            ("", vec![]),
            ("-- only; a comment\n", vec![]),
            ("A; B ;", vec!["A", "B"]),
            ("CREATE ROLE \"a;\"\"b\"; X;", vec!["CREATE ROLE \"a;\"\"b\"", "X"]),
            ("COMMENT ON ROLE a IS 'it''s; -- no';X;", vec!["COMMENT ON ROLE a IS 'it''s; -- no'", "X"]),
            ("S E'a\\';b' ;X;", vec!["S E'a\\';b'", "X"]),
            ("S 'a\\';X;", vec!["S 'a\\'", "X"]),
            ("S $q$;$q$; X $1;", vec!["S $q$;$q$", "X $1"]),
            ("S /* ; /* ; */ ; */ T; X;", vec!["S /* ; /* ; */ ; */ T", "X"]),
            ("S 'a\n\\restrict x;\nb';", vec!["S 'a\n\\restrict x;\nb'"]),
            ("\\restrict a;b\n\nS;\n\n\\unrestrict a;b\n", vec!["S"]),
            (";;S;;", vec!["S"]),
        ] {
            assert_eq!(texts(script), split, "{script}");
        }
    }

    #[test]
    fn a_script_that_was_cut_is_an_error() {
        for cut in ["A", "A 'x;", "A \"x;", "A /* ;", "A $x$ ;", "/* ", "A E'\\'"] {
            assert!(statements(cut.as_bytes()).is_err(), "{cut}");
        }
    }

    #[test]
    fn tokens_are_what_the_server_would_see() {
        let script = "Create ROLE \"We\"\"ird\" -- c\n IN 'a''b' E'x\\n' $$t$$ (é);";
        let tokens: Vec<_> = statements(script.as_bytes()).expect("a script").remove(0).tokens.into_iter().map(|(t, _)| t).collect();
        let word = |w: &str| Token::Word(w.into());
        let text = |t: &str| Token::Text(t.into());
        let expected = [
            word("create"),
            word("role"),
            Token::Name("We\"ird".into()),
            word("in"),
            text("a'b"),
            text("x\\n"),
            text("t"),
            Token::Symbol('('),
            word("é"),
            Token::Symbol(')'),
        ];
        assert_eq!(tokens, expected);
    }

    #[test]
    fn tokens_can_be_taken_out() {
        let statement = statements(b"ALTER ROLE a WITH NOLOGIN PASSWORD 'NOLOGIN';").expect("a script").remove(0);
        assert_eq!(statement.without(|_, t| t.is("nologin")), "ALTER ROLE a WITH  PASSWORD 'NOLOGIN'");
    }

    #[test]
    fn bytes_that_are_no_text_mark_their_statement_only() {
        let found = statements(b"COMMENT ON ROLE a IS '\xe9'; CREATE ROLE b;").expect("a script");
        assert_eq!(found.iter().map(|s| s.exact).collect::<Vec<_>>(), [false, true]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_split_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = statements(&bytes);
        }

        #[test]
        fn quoted_text_is_one_token(name in "[^\u{0}]{1,20}") {
            let script = format!("A \"{}\" '{}';", name.replace('"', "\"\""), name.replace('\'', "''"));
            let found = statements(script.as_bytes()).expect("a script");
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].token(1), Some(&Token::Name(name.clone())));
            assert_eq!(found[0].token(2), Some(&Token::Text(name)));
        }
    }
}
