use std::{error, fmt};

/// A value that must not be: what is wrong with it, in a sentence in lower case that names the value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Invalid(String);

impl Invalid {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl error::Error for Invalid {}

/// An error and its causes on one line, each cause once.
pub fn on_one_line(error: &(dyn error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug)]
    struct Outer(&'static str, io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl error::Error for Outer {
        fn source(&self) -> Option<&(dyn error::Error + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn each_cause_appears_once() {
        let line = |outer, inner| on_one_line(&Outer(outer, io::Error::other(inner)));
        assert_eq!(
            line("no connection", "connection refused"),
            "no connection: connection refused"
        );
        assert_eq!(line("connection refused", "refused"), "connection refused");
    }
}
