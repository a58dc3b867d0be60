use super::{
    Command, Effect, REIGN, Reject, Reply, View, import, lease, reign, sequence, session,
    view::Overlay,
};
use crate::{Epoch, Result};

/// What one command comes to: its reply with the writes to make, or a refusal.
pub type Planned = Result<(Reply, Effect), Reject>;

/// Works out what `command` of `epoch` does to the state behind `view`.
///
/// # Errors
/// Only those of `view`, and `Corrupt` for a stored value that cannot be read. A refusal is part of
/// the answer, and comes without writes.
pub fn plan(view: &dyn View, epoch: Epoch, command: &Command) -> Result<Planned> {
    match *command {
        Command::Fence { now_ms, headroom_ms, lease_ms } => {
            reign::fence(view, epoch, now_ms, headroom_ms, lease_ms)
        }
        Command::Open { node, lease_ms } => reign::open(view, epoch, node, lease_ms),
        Command::Extend { high_water_ms, elapsed_ms } => {
            reign::extend(view, epoch, high_water_ms, elapsed_ms)
        }
        Command::Release => reign::release(view, epoch),
        Command::Advance(ref advance) => sequence::advance(view, epoch, advance),
        Command::Expire { ref sessions } => session::expire(view, epoch, sessions),
        Command::Seed(ref seed) => sequence::seed(view, epoch, seed),
        Command::Lease { ref ask, at } => lease::lease(view, epoch, ask, at),
        Command::Import(ref step) => import::import(view, epoch, step),
        Command::Init { high_water_ms } => reign::init(view, epoch, high_water_ms),
    }
}

/// Works out a batch: each command sees what those before it wrote, and succeeds or is refused on
/// its own. The effect holds the writes of all that succeeded, to be committed at once.
///
/// # Errors
/// As [`plan`].
pub fn apply(
    view: &dyn View,
    epoch: Epoch,
    commands: &[Command],
) -> Result<(Vec<Result<Reply, Reject>>, Effect)> {
    let mut overlay = Overlay::new(view);
    let (results, _) = apply_over(&mut overlay, epoch, commands)?;
    Ok((results, overlay.into_effect()))
}

/// As [`apply`], with the writes added to `overlay`, for a driver that commits several batches at
/// once. Tells as well whether the reign record was written.
///
/// # Errors
/// As [`plan`]. The overlay must not be used any more then.
pub fn apply_over(
    overlay: &mut Overlay<'_>,
    epoch: Epoch,
    commands: &[Command],
) -> Result<(Vec<Result<Reply, Reject>>, bool)> {
    let mut results = Vec::with_capacity(commands.len());
    let mut wrote_reign = false;
    for command in commands {
        results.push(plan(overlay, epoch, command)?.map(|(reply, effect)| {
            wrote_reign |= effect.touches(REIGN);
            overlay.merge(effect);
            reply
        }));
    }
    Ok((results, wrote_reign))
}
