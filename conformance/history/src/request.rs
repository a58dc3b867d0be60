use std::collections::{HashMap, HashSet};

use super::{Ask, Blocks, Call, Operation, Outcome, order::Span};

/// All calls that are the same request.
pub(super) struct Request<'a> {
    pub(super) ask: &'a [Ask],
    pub(super) request_id: Option<&'a str>,
    /// When it was first sent.
    pub(super) start_ns: u64,
    /// The calls that were answered. The first one to end comes first.
    pub(super) answers: Vec<Answer<'a>>,
}

/// One answer to a request.
#[derive(Clone, Copy)]
pub(super) struct Answer<'a> {
    pub(super) operation: &'a Operation,
    pub(super) blocks: &'a Blocks,
}

impl<'a> Request<'a> {
    /// When it took effect, if it was answered: since it was first sent, by the first answer.
    pub(super) fn span(&self) -> Option<Span> {
        let first = self.answers.first()?;
        Some(Span { start_ns: self.start_ns, end_ns: first.operation.end_ns })
    }

    /// What was asked for, each with the first value granted. `None` if it was not answered, or not
    /// with a block for each.
    pub(super) fn granted(&self) -> Option<impl Iterator<Item = (&'a Ask, u64)> + use<'a>> {
        let blocks = &self.answers.first()?.blocks.blocks;
        let starts = blocks.iter().map(|block| block.start);
        (blocks.len() == self.ask.len()).then(|| self.ask.iter().zip(starts))
    }

    fn add(&mut self, operation: &'a Operation, outcome: &'a Outcome<Blocks>) {
        self.start_ns = operation.start_ns.min(self.start_ns);
        if let Outcome::Answered(blocks) = outcome {
            self.answers.push(Answer { operation, blocks });
        }
    }
}

/// The requests that were carried out or may have been. What was refused is not among them.
pub(super) fn requests(operations: &[Operation]) -> Vec<Request<'_>> {
    let mut requests: Vec<Request<'_>> = Vec::new();
    let mut by_id: HashMap<(&str, &[Ask]), usize> = HashMap::new();
    for operation in operations {
        let Call::GetSeq { ask, request_id, outcome } = &operation.call else { continue };
        if matches!(outcome, Outcome::Refused(_)) {
            continue;
        }
        let request_id = request_id.as_deref();
        let next = requests.len();
        let index = request_id.map_or(next, |id| *by_id.entry((id, ask)).or_insert(next));
        if index == next {
            let start_ns = operation.start_ns;
            requests.push(Request { ask, request_id, start_ns, answers: Vec::new() });
        }
        requests[index].add(operation, outcome);
    }
    for request in &mut requests {
        request.answers.sort_by_key(|answer| answer.operation.end_ns);
    }
    drop_what_another_excludes(&mut requests);
    requests
}

/// Where an id was used for several requests and one of them was answered, none of the others was
/// carried out.
fn drop_what_another_excludes(requests: &mut Vec<Request<'_>>) {
    let answered: HashSet<&str> = requests
        .iter()
        .filter(|request| !request.answers.is_empty())
        .filter_map(|request| request.request_id)
        .collect();
    requests.retain(|request| {
        !request.answers.is_empty() || request.request_id.is_none_or(|id| !answered.contains(id))
    });
}
