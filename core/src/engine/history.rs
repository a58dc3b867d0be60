//! Who has led lately, and why that changed, as one node has seen it.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Ended, Phase};
use crate::{BootTime, Epoch, Now};

/// How many changes are remembered.
const REMEMBERED: usize = 16;

/// A change of leadership.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// When, by the wall clock of this node, in milliseconds since 1970.
    pub at_ms: u64,
    /// When, by its boot clock.
    pub at: BootTime,
    /// Whose epoch it is about, if that is known.
    pub epoch: Option<Epoch>,
    /// What has changed: `this node serves`.
    pub what: String,
    /// Why.
    pub cause: String,
}

/// The last changes, and since when things are as they are.
#[derive(Default, Debug)]
pub(crate) struct History(Mutex<State>);

#[derive(Default, Debug)]
struct State {
    changes: VecDeque<Change>,
    phase: Option<Phase>,
    phase_since: BootTime,
    /// The epoch under which this node serves, or has served last.
    serving: Option<Epoch>,
    /// Where the leader was that this node followed last.
    followed: Option<String>,
    /// The last epoch that became known.
    seen: Option<Epoch>,
}

impl History {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The changes, the last one first.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.state().changes.iter().rev().cloned().collect()
    }

    /// Since when this node has been in its phase, whatever more has become known of that.
    pub(crate) fn phase_since(&self) -> BootTime {
        self.state().phase_since
    }

    /// Something has changed.
    pub(crate) fn add(
        &self,
        now: Now,
        epoch: Option<Epoch>,
        what: impl Into<String>,
        cause: impl Into<String>,
    ) {
        let (what, cause) = (what.into(), cause.into());
        let mut state = self.state();
        if state.changes.len() >= REMEMBERED {
            state.changes.pop_front();
        }
        state.changes.push_back(Change { at_ms: now.wall_ms, at: now.boot, epoch, what, cause });
    }

    /// The reign of this node has ended, if there was one; `moved` says that others are to lead.
    pub(crate) fn end_reign(&self, now: Now, ended: &Ended, moved: bool) {
        let Some(epoch) = self.state().serving.take() else { return };
        let cause = match ended {
            Ended::Stopped => "it stops, and has released its lease".into(),
            Ended::HandedOver => "leadership is transferred, and its lease was released".into(),
            Ended::Fenced if moved => {
                "the other nodes have it lead no more, or it gave way to them".into()
            }
            Ended::Fenced => "another node has taken over".into(),
            Ended::Failed(error) => format!("it has failed: {error:#}"),
        };
        self.add(now, Some(epoch), "this node serves no more", cause);
    }

    /// This node is in that phase from now on, or still.
    pub(crate) fn enter(&self, now: Now, phase: &Phase) {
        let mut state = self.state();
        let is_same =
            |before: &Phase| std::mem::discriminant(before) == std::mem::discriminant(phase);
        if !state.phase.as_ref().is_some_and(is_same) {
            state.phase_since = now.boot;
        }
        state.phase = Some(phase.clone());
        match phase {
            Phase::Following(Some(leader)) => {
                // Until the leader has fenced, what is known is the epoch of the one before.
                let epoch =
                    leader.epoch.filter(|epoch| state.seen.is_none_or(|seen| *epoch > seen));
                state.seen = epoch.or(state.seen);
                let is_known = state.followed.as_ref() == Some(&leader.endpoint);
                let last = state.changes.back_mut().filter(|_| is_known);
                let cause = match (last, epoch) {
                    (Some(_), None) => return,
                    (Some(last), Some(_)) if last.epoch.is_none() => {
                        last.epoch = epoch;
                        return;
                    }
                    (Some(_), Some(_)) => "it has taken over again".into(),
                    (None, _) => match state.followed.replace(leader.endpoint.clone()) {
                        Some(before) => format!("{before} leads no more"),
                        None => "it was found to lead".into(),
                    },
                };
                drop(state);
                self.add(now, epoch, format!("{} leads", leader.endpoint), cause);
            }
            Phase::Serving { epoch } => {
                (state.followed, state.serving, state.seen) = (None, Some(*epoch), Some(*epoch));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LeaderHint;

    fn at(ms: u64) -> Now {
        Now { wall_ms: 1_000_000 + ms, boot: BootTime::from_nanos(ms * 1_000_000) }
    }

    fn following(endpoint: &str, epoch: Option<u128>) -> Phase {
        let epoch = epoch.map(Epoch);
        Phase::Following(Some(LeaderHint { endpoint: endpoint.into(), epoch }))
    }

    #[test]
    fn each_leader_is_remembered_once_with_its_epoch() {
        let history = History::default();
        history.enter(at(1), &following("a:1", None));
        history.enter(at(2), &following("a:1", Some(4)));
        history.enter(at(3), &Phase::Electing);
        history.enter(at(4), &Phase::Electing);
        assert_eq!(history.phase_since(), at(3).boot);
        history.enter(at(5), &following("a:1", None));
        history.enter(at(6), &following("b:1", Some(5)));
        let changes = history.changes();
        let told: Vec<_> = changes.iter().map(|change| (&*change.what, change.epoch)).collect();
        assert_eq!(told, [("b:1 leads", Some(Epoch(5))), ("a:1 leads", Some(Epoch(4)))]);
        assert_eq!(changes[0].cause, "a:1 leads no more");
        assert_eq!(changes[0].at_ms, 1_000_006);
    }

    #[test]
    fn a_leader_has_no_epoch_of_the_one_before() {
        let history = History::default();
        for (ms, endpoint, epoch) in
            [(1, "a:1", 1), (2, "b:1", 1), (3, "b:1", 2), (4, "b:1", 2), (5, "b:1", 3)]
        {
            history.enter(at(ms), &following(endpoint, Some(epoch)));
        }
        let changes = history.changes();
        let told: Vec<_> = changes
            .iter()
            .map(|change| (&*change.what, change.epoch.unwrap().0, &*change.cause))
            .collect();
        let expected = [
            ("b:1 leads", 3, "it has taken over again"),
            ("b:1 leads", 2, "a:1 leads no more"),
            ("a:1 leads", 1, "it was found to lead"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_leader_that_this_node_has_followed_before_it_led_is_told_again() {
        let history = History::default();
        history.enter(at(1), &following("a:1", Some(1)));
        history.enter(at(2), &Phase::Serving { epoch: Epoch(2) });
        history.enter(at(3), &following("a:1", Some(3)));
        let changes = history.changes();
        let told: Vec<_> = changes.iter().map(|change| (&*change.what, change.epoch)).collect();
        assert_eq!(told, [("a:1 leads", Some(Epoch(3))), ("a:1 leads", Some(Epoch(1)))]);
        assert_eq!(changes[0].cause, "it was found to lead");
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let history = History::default();
        for number in 0..40 {
            history.add(at(number), None, number.to_string(), "");
        }
        let changes = history.changes();
        assert_eq!((changes.len(), &*changes[0].what, &*changes[15].what), (16, "39", "24"));
    }
}
