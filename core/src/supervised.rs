use std::panic::AssertUnwindSafe;

use futures::FutureExt;

use crate::{Error, ErrorKind, Result};

/// Runs a task that others count on, to its end.
///
/// # Errors
/// `Fatal`, naming the task, if it panics: who runs it must not go on as if it still worked.
pub async fn supervised<T>(task: &str, work: impl Future<Output = T>) -> Result<T> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|_| {
        let context = format!("the task for {task} has panicked; the log has the reason");
        Error::new(ErrorKind::Fatal, context)
    })
}

/// As [`supervised`], of one that is not to end.
///
/// # Errors
/// `Fatal`, naming the task, whichever way it ends.
pub async fn endless(task: &str, work: impl Future<Output = ()>) -> Error {
    match supervised(task, work).await {
        Ok(()) => Error::new(ErrorKind::Fatal, format!("the task for {task} has ended")),
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_or_ends_is_named() {
        assert_eq!(supervised("sums", async { 2 + 2 }).await.unwrap(), 4);
        let panics = async { panic!("in a test") };
        let error = supervised("sums", panics).await.unwrap_err();
        assert!(error.to_string().contains("the task for sums has panicked"), "{error}");
        let error = endless("sums", async {}).await;
        assert!(error.to_string().contains("the task for sums has ended"), "{error}");
    }
}
