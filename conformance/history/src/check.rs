use super::{Operation, Report, epochs, sequences, timestamps};

/// Decides whether what callers saw keeps the promises.
///
/// Exact: a violation is reported only if no order of carrying the calls out, in which none takes
/// effect before it began or after it was answered, explains the history; and if there is none, one
/// is reported. Takes two or three sorts; only requests of uncertain outcome need a search, which is
/// bounded. When the bound is reached, that is reported as a violation too.
pub fn check(operations: &[Operation]) -> Report {
    let mut checks = Vec::new();
    checks.extend(timestamps::check(operations));
    checks.extend(sequences::check(operations));
    checks.extend(epochs::check(operations));
    Report { checks }
}
