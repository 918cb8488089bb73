//! Errors as one sentence: every cause once, and a cause found by its type.

use std::error::Error;
use std::io;

/// `error: cause: cause of the cause`; a cause that the text before it already contains is not said twice.
pub fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text.replace(['\n', '\r'], " ")
}

/// [`describe`], and the advice that goes with the error as a sentence of its own.
pub fn explain(error: &(dyn Error + 'static), advice: Option<String>) -> String {
    match advice {
        Some(advice) => format!("{}. {advice}", describe(error)),
        None => describe(error),
    }
}

/// The first error of type `T` in the chain, also inside an [`io::Error`], whose `source` passes over what it wraps.
pub fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && let Some(found) = find::<T>(inner)
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("inner")]
    struct Inner;

    #[test]
    fn a_cause_inside_an_io_error_is_found_and_said_once() {
        let error = Outer(io::Error::other(Inner));
        assert!(find::<Inner>(&error).is_some());
        assert!(find::<Outer>(&error).is_some());
        assert!(find::<std::fmt::Error>(&error).is_none());
        assert_eq!(describe(&error), "outer: inner");
    }
}
