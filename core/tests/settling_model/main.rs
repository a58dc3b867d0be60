//! A model of what becomes of commits, and of what is told about it: the working set, replies, refusals,
//! conflicts and settling.
//!
//! Two nodes hand out blocks of one sequence from a versioned state. [`Clause`](clauses::Clause) lists
//! the rules and what goes wrong without each. In every state
//!
//! * **exactly once**: a request that was answered has that block, and no other one, in every later
//!   state and every later answer;
//! * **gapless**: the blocks of the state are disjoint, and none belongs to a request that was told to be
//!   not stored;
//! * **settling is final**: a commit that was told to be not stored never is, and one that was told to be
//!   stored is;
//! * **reads** show all that was answered before, and nothing that is not stored.
//!
//! Commits land at any time, in one or two copies, or never. Replicas are behind by any number of commits.
//! Answers come late, or are uncertain, or never arrive. Nodes claim at any time, read what is stale, and
//! crash. Taking over is one step here, the fence, and leases are a flag that lapses at any time: that two
//! nodes do not hold one at a time is what the model of taking over shows.

mod clauses;
mod driver;
mod engine;
mod model;
mod tests;
