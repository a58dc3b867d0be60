//! The register of the model is the one in the code: both plan the same records on the same bases, and
//! store the same commits. Without this the model would prove something about itself alone.

use proptest::prelude::*;
use stateright::Model as _;
use tsoracle_core::{
    CommitLimits, Epoch, MemoryStore, NodeId, Outcome, SeqStore as _, Version as CodeVersion,
    state::{self, Answer, Command, Plan, Query, REIGN, ReignRecord, Reply, Stage, WorkingSet},
};

use crate::{
    clauses::Rules,
    model::Takeover,
    node::Commit,
    record::{Author, Kind, Record, Version},
    scenario::Scenario,
};

/// The longest lease that any node is configured with.
const LONGEST: u16 = 4;

const LIMITS: CommitLimits = CommitLimits { writes: 1_024, bytes: 1 << 20 };

#[derive(Clone, Copy, Debug)]
enum Change {
    Fence {
        now: u8,
        headroom: u8,
    },
    Open,
    Extend {
        high_water: u8,
    },
    Release,
    Settle,
    /// A backup takes the place of the state, and is adopted.
    Adopt,
}

impl Change {
    /// The kind of commit; an adoption is none that a node makes.
    fn kind(self) -> Kind {
        match self {
            Self::Fence { .. } | Self::Adopt => Kind::Fence,
            Self::Open => Kind::Open,
            Self::Extend { .. } => Kind::Extend,
            Self::Release => Kind::Release,
            Self::Settle => Kind::Settle,
        }
    }
}

/// A change, who makes it, and how many versions its base is older than the present state.
#[derive(Clone, Copy, Debug)]
struct Step {
    author: Author,
    change: Change,
    behind: usize,
}

fn steps() -> impl Strategy<Value = Step> {
    let change = prop_oneof![
        4 => (1..9u8, 0..3u8).prop_map(|(now, headroom)| Change::Fence { now, headroom }),
        4 => Just(Change::Open),
        4 => (0..40u8).prop_map(|high_water| Change::Extend { high_water }),
        2 => Just(Change::Release),
        1 => Just(Change::Settle),
        1 => Just(Change::Adopt),
    ];
    let author = (0..3u8, 1..LONGEST).prop_map(|(id, lease)| Author { id, lease });
    let behind = prop_oneof![5 => Just(0), 1 => 1..4usize];
    (author, change, behind).prop_map(|(author, change, behind)| Step { author, change, behind })
}

/// The state after one commit: in the model, and in the code.
#[derive(Clone)]
struct Moment {
    version: Version,
    record: Record,
    store: MemoryStore,
    /// What the last change of the record makes of it; the model's nodes know by themselves.
    stage: Option<Stage>,
    adoptions: u64,
    /// Whether the present era has an epoch of its own already.
    is_fenced: bool,
}

impl Moment {
    fn first() -> Self {
        let (version, record, store) = (Version::FIRST, Record::fresh(), MemoryStore::default());
        Self { version, record, store, stage: None, adoptions: 0, is_fenced: true }
    }

    /// Whether another step could exceed the bytes in which the model counts.
    fn is_at_its_end(&self) -> bool {
        self.record.high_water > 200 || self.record.epoch % 16 > 13 || self.version.era > 13
    }

    /// What the model writes, if a node of it would; and the floor that a fence has.
    fn modelled(&self, Step { author, change, .. }: Step, lost: Record) -> Option<(Record, u8)> {
        let (rules, record) = (Rules::default(), self.record);
        let is_open = self.stage == Some(Stage::Open);
        let next = match change {
            Change::Fence { now, headroom } => {
                return Some(record.fenced(rules, author, now, headroom));
            }
            Change::Open if is_open || self.stage == Some(Stage::Fenced) => {
                record.opened(rules, author)
            }
            Change::Extend { high_water } if is_open => record.extended(high_water),
            Change::Release if is_open => record.released(),
            Change::Settle => record,
            Change::Adopt => record.adopted(rules, self.version.era + 1, lost, LONGEST),
            _ => return None,
        };
        Some((next, 0))
    }

    /// What the code writes, with its reply, unless it refuses.
    fn planned(
        &self,
        Step { author, change, .. }: Step,
        lost: Record,
    ) -> Option<(Plan, Option<Reply>)> {
        let (base, lease_ms) = (in_code(self.version), u64::from(author.lease));
        let command = match change {
            Change::Fence { now, headroom } => {
                let (now_ms, headroom_ms) = (now.into(), headroom.into());
                Command::Fence { base, now_ms, headroom_ms, lease_ms }
            }
            Change::Open => Command::Open { node: node(author.id), lease_ms },
            Change::Extend { high_water } => {
                Command::Extend { high_water_ms: high_water.into(), elapsed_ms: 0 }
            }
            Change::Release => Command::Release,
            Change::Settle => return Some((Plan::default(), None)),
            Change::Adopt => {
                let high_water_ms = lost.high_water.into();
                Command::Adopt { high_water_ms, lease_ms: LONGEST.into(), now_ms: None }
            }
        };
        let epoch = self.stored().map_or_else(Epoch::default, |record| record.epoch);
        let mut plan = Plan::default();
        let planned = plan.add(&self.known(&command), epoch, &command, LIMITS);
        let reply = planned.expect("all was read").expect("it fits").ok()?;
        Some((plan, Some(reply)))
    }

    fn known(&self, command: &Command) -> WorkingSet {
        let mut known = WorkingSet::at(in_code(self.version));
        let reads = command.reads();
        let snapshot = reads.read_from(&self.store).expect("memory does not fail");
        known.learn(reads, snapshot).expect("the records are sound");
        known
    }

    fn stored(&self) -> Option<ReignRecord> {
        let known = self.known(&Command::Release);
        match state::answer(&known, &Query::Reign).expect("the record was read") {
            Answer::Reign(record) => record,
            other => panic!("the query of the reign was answered {other:?}"),
        }
    }

    /// The state after a commit that made `version`.
    fn after(&self, change: Change, version: Version, record: Record, plan: Plan) -> Self {
        let mut next = Self { version, record, ..self.clone() };
        next.store.commit(plan.finish(in_code(version)).0).expect("memory does not fail");
        match change {
            Change::Settle => return next,
            Change::Fence { .. } => (next.stage, next.is_fenced) = (Some(Stage::Fenced), true),
            Change::Open | Change::Extend { .. } => next.stage = Some(Stage::Open),
            Change::Release => next.stage = Some(Stage::Released),
            Change::Adopt => {
                next.stage = Some(Stage::Released);
                next.adoptions += 1;
                next.is_fenced = false;
            }
        }
        next.record.version = version;
        next
    }

    fn assert_same(&self) {
        let Some(stored) = self.stored() else {
            assert_eq!((self.record, &self.stage), (Record::fresh(), &None));
            return;
        };
        let Record { epoch, high_water, lease, opened_by, released, version } = self.record;
        assert_eq!(Some(&stored.stage), self.stage.as_ref());
        assert_eq!(stored.high_water_ms, u64::from(high_water));
        assert_eq!(stored.lease_ms, u64::from(lease));
        assert_eq!(stored.version, in_code(version));
        // In the code a record that was never opened is not waited for, as if it were released; and one
        // that was adopted was opened by a node that exists nowhere.
        assert_eq!(stored.released || stored.opened_by.is_none(), released);
        let elsewhere = (!released).then_some(NodeId(u128::MAX));
        assert_eq!(stored.opened_by, opened_by.map(node).or(elsewhere));
        // The model counts an adoption in its epoch, the code raises only the era, and that at the fence.
        let (era, counter) = (u64::from(epoch / 16), u64::from(epoch % 16));
        assert_eq!(stored.epoch.lo() + self.adoptions, counter);
        assert!(if self.is_fenced { stored.epoch.hi() == era } else { stored.epoch.hi() < era });
    }
}

fn in_code(version: Version) -> CodeVersion {
    let Version { era, number, name } = version;
    CodeVersion { era: era.into(), number: number.into(), name: name.into() }
}

fn node(id: u8) -> NodeId {
    NodeId(id.into())
}

/// What the engine waits for after a fence that replaced this record: a lease, since the commit of that
/// version.
fn wait_in_code(replaced: Option<&ReignRecord>, node: NodeId) -> Option<(u64, CodeVersion)> {
    let replaced =
        replaced.filter(|old| !old.released && old.opened_by.is_some_and(|by| by != node));
    replaced.map(|old| (old.lease_ms, old.version))
}

fn assert_fenced_alike(base: &Moment, author: Author, floor: u8, reply: &Reply, after: &Moment) {
    let Reply::Fenced { floor_ms, high_water_ms, ref replaced, .. } = *reply else {
        panic!("a fence was answered with {reply:?}");
    };
    assert_eq!(floor_ms, u64::from(floor));
    assert_eq!(high_water_ms, u64::from(after.record.high_water));
    let wait = base.record.wait(Rules::default(), author);
    let wait = wait.map(|wait| (u64::from(wait.lease), in_code(wait.replaced)));
    assert_eq!(wait_in_code(replaced.as_deref(), node(author.id)), wait);
    let stored = after.stored().expect("a fence writes the record");
    assert_eq!(stored.fenced_on, in_code(base.version));
    assert!(base.stored().is_none_or(|old| old.epoch < stored.epoch));
}

/// Whether the model lets a commit on a base land on a state.
fn may_land(at: &Moment, base: Version, version: Version, step: Step, stored: bool) -> bool {
    let model = Takeover { rules: Rules::default(), scenario: Scenario::two_nodes() };
    let mut state = model.init_states().remove(0);
    (state.version, state.record) = (at.version, at.record);
    let commit = Commit {
        node: step.author.id.into(),
        epoch: at.record.epoch,
        kind: step.change.kind(),
        base,
        version,
        record: at.record,
        floor: 0,
        wait: None,
        start: 0,
        awaited: true,
        stored,
    };
    model.may_land(&state, &commit)
}

/// Whether a driver makes the writes of a commit: not a second time, if they are there already.
fn is_written(at: &Moment, base: Version, version: Version) -> bool {
    let (current, next) = (in_code(at.version), in_code(version));
    current != next && in_code(base).admits(next, current) == Some(Outcome::Stored)
}

/// Takes the same steps in the model and in the code.
fn compare(steps: Vec<Step>) {
    let (mut history, mut made) = (vec![Moment::first()], vec![]);
    for (index, step) in steps.into_iter().enumerate() {
        let present = history[history.len() - 1].clone();
        if present.is_at_its_end() {
            return;
        }
        let base = history[history.len() - 1 - step.behind.min(history.len() - 1)].clone();
        let is_adoption = matches!(step.change, Change::Adopt);
        if is_adoption && base.version.era != present.version.era {
            continue;
        }
        let (modelled, planned) =
            (base.modelled(step, present.record), base.planned(step, present.record));
        assert_eq!(modelled.is_some(), planned.is_some(), "{step:?}");
        let (Some((record, floor)), Some((plan, reply))) = (modelled, planned) else { continue };
        let era = base.version.era + u8::from(is_adoption);
        let version = Version { era, number: base.version.number + 1, name: index as u8 + 1 };
        let after = base.after(step.change, version, record, plan);
        after.assert_same();
        match (step.change, &reply) {
            (Change::Fence { .. }, Some(reply)) => {
                assert_fenced_alike(&base, step.author, floor, reply, &after);
            }
            (Change::Settle, _) => {
                let bytes =
                    |moment: &Moment| moment.store.get(REIGN).expect("memory does not fail");
                assert_eq!(bytes(&after), bytes(&base));
            }
            _ => {}
        }
        // A restored state is the backup, whatever the state was before.
        let at = if is_adoption { base.clone() } else { present };
        let lands = may_land(&at, base.version, version, step, false);
        assert_eq!(lands, is_written(&at, base.version, version), "{step:?}");
        if lands {
            made.push((base.version, version, step));
            // No second copy of a commit lands.
            for &(base, version, step) in &made {
                assert!(!may_land(&after, base, version, step, true), "{step:?}");
                assert!(!is_written(&after, base, version), "{step:?}");
            }
            history.push(after);
        }
    }
}

proptest! {
    #[test]
    fn the_code_does_what_the_model_does(steps in prop::collection::vec(steps(), 1..60)) {
        compare(steps);
    }
}
