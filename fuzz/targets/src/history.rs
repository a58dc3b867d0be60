use tsoracle_history::{check, read_lines, write_line};

/// More operations are not checked: some checks search.
const MOST_CHECKED: usize = 64;

pub(crate) fn lines(data: &[u8]) -> bool {
    let Ok(operations) = read_lines(data) else { return false };
    let mut written = vec![];
    for operation in &operations {
        write_line(&mut written, operation).expect("memory does not fail");
        assert!(!operation.to_string().is_empty());
    }
    assert_eq!(read_lines(&written[..]).expect("what was written can be read"), operations);
    if operations.len() <= MOST_CHECKED {
        assert!(!check(&operations).checks.is_empty());
    }
    !operations.is_empty()
}
