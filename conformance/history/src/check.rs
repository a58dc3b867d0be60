use super::{Operation, Report, epochs, lives, sequences, timestamps};

/// Decides whether what callers saw keeps the promises.
///
/// Exact: a violation is reported only if no order of carrying the calls out, in which none takes
/// effect before it began or after it was answered, explains the history; and if there is none, one
/// is reported. Takes two or three sorts; only requests of uncertain outcome need a search, which is
/// bounded. When the bound is reached, that is reported as a violation too. A key is not judged from a deletion on
/// that is uncertain, or that other calls for it overlap.
pub fn check(operations: &[Operation]) -> Report {
    let operations = &*lives::separated(operations);
    let mut checks = Vec::new();
    checks.extend(timestamps::check(operations));
    checks.extend(sequences::check(operations));
    checks.extend(epochs::check(operations));
    Report { checks }
}
