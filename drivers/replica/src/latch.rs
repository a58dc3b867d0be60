use std::panic::{AssertUnwindSafe, catch_unwind};

use tsoracle_core::{Error, ErrorKind, Result};

/// The first error, or panic, of what must not be used any more after one.
#[derive(Default, Debug)]
pub struct Latch(Option<Error>);

impl Latch {
    /// The error, once there was one.
    pub fn error(&self) -> Option<&Error> {
        self.0.as_ref()
    }

    /// Does `work` unless something failed before, and keeps its error or panic for good.
    ///
    /// # Errors
    /// That of `work`, or the one that is kept, which is `Corrupt` or `Fatal`.
    pub fn guard<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(error) = &self.0 {
            return Err(error.clone());
        }
        let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Fatal, "the store or the consensus library panicked"))
        });
        outcome.inspect_err(|error| {
            tracing::error!(error = %format_args!("{error:#}"), "this node has failed, and serves no more");
            let kind = match error.kind() {
                ErrorKind::Corrupt => ErrorKind::Corrupt,
                ErrorKind::Excluded => ErrorKind::Excluded,
                _ => ErrorKind::Fatal,
            };
            let context = format!("this node has failed, which is not tried again: {error:#}");
            self.0 = Some(Error::new(kind, context));
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_or_panic_is_final() {
        for fail in [|| Err(Error::new(ErrorKind::Corrupt, "first")), || panic!("first")] {
            let mut latch = Latch::default();
            latch.guard(|| Ok(())).unwrap();
            let fail: fn() -> Result<()> = fail;
            latch.guard(fail).unwrap_err();
            let error = latch.guard(|| Ok(())).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Fatal));
            assert!(error.to_string().contains("not tried again"), "{error}");
        }
    }
}
