//! What may become of a commit between the engine and what stores it: it is stored late, after its outcome
//! was said to be unknown; an error is answered for what was stored; it does not come back while commits
//! hang. And the sabotages of what is answered.

use std::sync::Arc;

use tsoracle_core::{Error, ErrorKind, Outcome, Result, Version};

use crate::{
    clock::pass,
    flaw::Flaw,
    gate::Gate,
    reached::Reached,
    world::{Point, World},
};

/// Carries out a commit of node `me`, and answers it, honestly unless the run is sabotaged.
pub(crate) async fn carry_out(
    world: &Arc<World>,
    me: usize,
    gate: &Gate,
    next: Version,
    committing: impl Future<Output = Result<Outcome>> + Send + 'static,
) -> Result<Outcome> {
    let answered = gate.run(honestly(world, me, gate, committing)).await;
    match answered {
        Err(error)
            if *error.kind() == ErrorKind::Uncertain && world.has(Flaw::UncertainIsRefused) =>
        {
            Err(Error::new(ErrorKind::Unavailable, "not stored, as it seems"))
        }
        Ok(Outcome::Conflict { .. }) if world.has(Flaw::ConflictIsStored) => Ok(Outcome::Stored),
        Ok(Outcome::Stored) if world.has(Flaw::StoredIsAConflict) && world.chance(20) => {
            let found = Version { name: world.draw(|rng| rng.next().into()), ..next };
            Ok(Outcome::Conflict { found })
        }
        answered => answered,
    }
}

async fn honestly(
    world: &Arc<World>,
    me: usize,
    gate: &Gate,
    committing: impl Future<Output = Result<Outcome>> + Send + 'static,
) -> Result<Outcome> {
    world.nodes[me].commits_go_on().await;
    if let Some(delay) = world.is_late() {
        world.reached(Reached::LateCommit);
        let late = gate.clone();
        tokio::spawn(async move {
            let waiting = async {
                pass(delay).await;
                // Its outcome was said to be unknown, and is not told any more.
                drop(committing.await);
            };
            late.run(waiting).await;
        });
        pass(world.draw(|rng| rng.millis(0..=300))).await;
        return Err(uncertain("the commit was not answered in time"));
    }
    world.hazard(me, Point::Submitted).await;
    let committed = committing.await;
    world.hazard(me, Point::Committed).await;
    match &committed {
        Err(error) if *error.kind() == ErrorKind::Uncertain => world.reached(Reached::Uncertain),
        Ok(Outcome::Stored) if world.answer_is_lost() => {
            world.reached(Reached::ErrorOfStored);
            return Err(uncertain("the answer was lost"));
        }
        _ => {}
    }
    committed
}

fn uncertain(context: &str) -> Error {
    Error::new(ErrorKind::Uncertain, context)
}
