//! What the state of a stopped node holds.

use super::{Contents, contents::Inspector};
use crate::{
    Entry, Error, ErrorKind, Result, SeqKey, StoppedState,
    state::{BACKED_UP, META, REIGN, RULES, Record, Reject, Stage, name_of},
};

/// How many entries are read at once.
const PAGE: usize = 1_000;

/// All entries that a backup holds, in the order of their keys.
pub fn entries(state: &StoppedState) -> impl Iterator<Item = Result<Entry>> {
    BACKED_UP.iter().flat_map(|kind| of_kind(state, *kind))
}

/// All sequences, each with its next value.
pub fn sequences(state: &StoppedState) -> impl Iterator<Item = Result<(SeqKey, u64)>> {
    of_kind(state, b's').filter_map(|entry| {
        let read = |(key, value): Entry| {
            let name = name_of(&key);
            let Record::Next(next) = Record::decode(&key, value)? else { return Ok(None) };
            Ok(name.map(|name| (name, next)))
        };
        entry.and_then(read).transpose()
    })
}

/// What there is, and the version of the rules that it is under. Nothing if no node ever reigned there.
///
/// # Errors
/// `Config` if the state is of a newer release; `Corrupt` if it is damaged; those of the store.
pub fn contents(state: &StoppedState) -> Result<Option<(u32, Contents)>> {
    let Some(reign) = state.get(REIGN)? else { return Ok(None) };
    if matches!(Record::decode(REIGN, reign)?, Record::Reign(record) if record.stage == Stage::Importing)
    {
        return Err(Error::new(ErrorKind::Config, Reject::Importing.to_string()));
    }
    let rules = match state.get(META)?.map(|meta| Record::decode(META, meta)).transpose()? {
        Some(Record::Meta(meta)) => meta.rules,
        _ => 1,
    };
    if rules > RULES {
        let newer = Reject::NewerRules { rules };
        let context = format!("the state was made by a newer release: {newer}");
        return Err(Error::new(ErrorKind::Config, context));
    }
    let mut inspector = Inspector::new(rules);
    for entry in entries(state) {
        inspector.look_at(&entry?)?;
    }
    inspector.finish().map(|contents| Some((rules, contents)))
}

/// The entries of one kind, a page at a time.
fn of_kind(state: &StoppedState, kind: u8) -> impl Iterator<Item = Result<Entry>> {
    let mut from = Some(vec![kind]);
    let pages = std::iter::from_fn(move || {
        let page = match state.scan(from.as_ref()?, &[kind + 1], PAGE) {
            Ok(page) => page,
            Err(error) => {
                from = None;
                return Some(vec![Err(error)]);
            }
        };
        // Behind a key comes first the one that is a zero byte longer.
        let last = page.last().filter(|_| page.len() == PAGE);
        from = last.map(|(key, _)| [&key[..], &[0]].concat());
        Some(page.into_iter().map(Ok).collect())
    });
    pages.flatten()
}
