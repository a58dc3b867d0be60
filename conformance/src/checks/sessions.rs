//! Exactly once.

use anyhow::{Result, bail, ensure};
use tsoracle_core::{
    Reject, RequestId, Session,
    state::{Advance, Answer, Command, Limits, Query, RETENTION, Reply},
};

use crate::rig::{Leader, NOON_MS, Rig, advance_as, id, request, start};

checks!("sessions":
    the_same_request_gets_the_same_block,
    a_repeated_request_spends_nothing,
    a_duplicate_in_the_same_batch_sees_the_earlier_one,
    a_request_is_known_after_a_reopen [Reopen],
    a_request_is_known_after_a_crash [Crash],
    a_request_is_known_to_another_leader [Contend],
    the_same_number_for_another_request_is_refused,
    a_number_below_the_first_incomplete_is_refused,
    the_first_incomplete_number_never_falls,
    forgotten_numbers_stay_forgotten_within_a_batch,
    a_retry_on_an_unknown_session_is_never_executed,
    a_closed_session_is_forgotten,
    the_cap_of_sessions_is_kept,
    the_cap_of_sessions_is_kept_across_a_reopen [Reopen],
    the_cap_of_open_requests_is_kept,
    a_request_refused_at_a_cap_may_be_sent_again,
    an_unused_session_is_kept_for_its_retention,
    an_unused_session_is_named_and_forgotten_after_its_retention,
    a_session_in_use_does_not_expire,
    session_time_goes_on_where_the_reign_before_left_it [Reopen],
    answers_to_many_open_requests_are_all_kept,
);

const RETENTION_MS: u64 = RETENTION.as_millis() as u64;

fn retry(id: RequestId) -> RequestId {
    RequestId { retry: true, ..id }
}

async fn same(leader: &Leader, id: RequestId, expected: u64) -> Result<()> {
    let found = start(&leader.one(advance_as(id, &[("orders", 5)])).await?)?;
    ensure!(found == expected, "request {} got {expected}, and then {found}", id.number);
    Ok(())
}

async fn the_same_request_gets_the_same_block(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    same(&leader, id("s", 1, 1), 0).await?;
    same(&leader, id("s", 2, 1), 5).await?;
    same(&leader, id("s", 1, 1), 0).await?;
    same(&leader, retry(id("s", 2, 1)), 5).await?;
    same(&leader, id("t", 1, 1), 10).await?;
    same(&leader, retry(id("s", 1, 1)), 0).await
}

async fn a_repeated_request_spends_nothing(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for _ in 0..5 {
        same(&leader, id("s", 1, 1), 0).await?;
    }
    let next = leader.next("orders").await?;
    ensure!(next == 5, "one block of 5 was spent five times over: {next}");
    Ok(())
}

async fn a_duplicate_in_the_same_batch_sees_the_earlier_one(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let ask = |number| advance_as(id("s", number, 1), &[("orders", 5)]);
    let results = leader.commit(vec![ask(1), ask(2), ask(1), ask(2), ask(1)]).await?;
    let starts = results.iter().map(start).collect::<Result<Vec<_>>>()?;
    ensure!(starts == [0, 5, 0, 5, 0], "{starts:?}");
    ensure!(leader.next("orders").await? == 10);
    Ok(())
}

async fn a_request_is_known_after_a_reopen(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    same(&leader, id("s", 1, 1), 0).await?;
    let leader = rig.reign_again(leader).await?;
    same(&leader, id("s", 2, 1), 5).await?;
    let leader = rig.reign_again(leader).await?;
    same(&leader, retry(id("s", 1, 1)), 0).await?;
    same(&leader, retry(id("s", 2, 1)), 5).await
}

async fn a_request_is_known_after_a_crash(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    same(&leader, id("s", 1, 1), 0).await?;
    let leader = rig.reign_after_crash().await?;
    same(&leader, retry(id("s", 1, 1)), 0).await
}

async fn a_request_is_known_to_another_leader(mut rig: Rig) -> Result<()> {
    let first = rig.reign().await?;
    same(&first, id("s", 1, 1), 0).await?;
    let other = rig.commanded().await?;
    first.driver.shutdown().await?;
    let second = Leader::of(other).await?;
    second.reign().await?;
    same(&second, retry(id("s", 1, 1)), 0).await?;
    same(&second, id("s", 2, 1), 5).await
}

async fn the_same_number_for_another_request_is_refused(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    same(&leader, id("s", 1, 1), 0).await?;
    for entries in [&[("orders", 4)][..], &[("others", 5)], &[("orders", 5), ("others", 5)]] {
        let outcome = leader.one(advance_as(id("s", 1, 1), entries)).await?;
        ensure!(outcome == Err(Reject::IdReused { number: 1 }), "{entries:?}: {outcome:?}");
    }
    same(&leader, id("s", 1, 1), 0).await
}

async fn is_forgotten(leader: &Leader, number: u64, below: u64) -> Result<()> {
    let outcome = leader.one(advance_as(id("s", number, 1), &[("orders", 5)])).await?;
    let forgotten = Reject::Forgotten { number, first_incomplete: below };
    ensure!(outcome == Err(forgotten), "request {number}, of those from {below} on: {outcome:?}");
    Ok(())
}

async fn a_number_below_the_first_incomplete_is_refused(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for number in 1..=3 {
        same(&leader, id("s", number, 1), (number - 1) * 5).await?;
    }
    same(&leader, id("s", 4, 3), 15).await?;
    is_forgotten(&leader, 1, 3).await?;
    is_forgotten(&leader, 2, 3).await?;
    same(&leader, id("s", 3, 3), 10).await?;
    ensure!(leader.next("orders").await? == 20, "what is forgotten was executed");
    Ok(())
}

async fn the_first_incomplete_number_never_falls(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    same(&leader, id("s", 1, 1), 0).await?;
    same(&leader, id("s", 5, 5), 5).await?;
    same(&leader, id("s", 6, 1), 10).await?;
    is_forgotten(&leader, 4, 5).await
}

async fn forgotten_numbers_stay_forgotten_within_a_batch(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let ask = |number, first| advance_as(id("s", number, first), &[("orders", 5)]);
    let close = RequestId { close: true, ..id("s", 4, 3) };
    let batch = vec![
        ask(1, 1),
        ask(2, 1),
        ask(3, 3),
        ask(1, 1),
        ask(3, 3),
        advance_as(close, &[]),
        advance_as(retry(id("s", 3, 3)), &[("orders", 5)]),
    ];
    let results = leader.commit(batch).await?;
    let starts = [0, 1, 2, 4].map(|index: usize| start(&results[index]).ok());
    ensure!(starts == [Some(0), Some(5), Some(10), Some(10)], "{results:?}");
    let forgotten = Err(Reject::Forgotten { number: 1, first_incomplete: 3 });
    ensure!(results[3] == forgotten, "{:?}", results[3]);
    ensure!(results[6] == Err(Reject::SessionUnknown), "{:?}", results[6]);
    ensure!(leader.next("orders").await? == 15);
    Ok(())
}

async fn a_retry_on_an_unknown_session_is_never_executed(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let outcome = leader.one(advance_as(retry(id("s", 1, 1)), &[("orders", 5)])).await?;
    ensure!(outcome == Err(Reject::SessionUnknown), "{outcome:?}");
    ensure!(leader.sequence("orders").await?.is_none());
    Ok(())
}

async fn a_closed_session_is_forgotten(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for number in 1..=5 {
        same(&leader, id("s", number, 1), (number - 1) * 5).await?;
    }
    let close = RequestId { close: true, ..id("s", 6, 1) };
    leader.done(advance_as(close, &[])).await?;
    let outcome = leader.one(advance_as(retry(id("s", 1, 1)), &[("orders", 5)])).await?;
    ensure!(outcome == Err(Reject::SessionUnknown), "{outcome:?}");
    ensure!(leader.next("orders").await? == 25);
    // Its place under the cap is free again.
    ensure!(leader.one(capped("t", 1, 1, 9)).await?.is_ok());
    Ok(())
}

/// A request under caps on sessions and on open requests.
fn capped(session: &str, number: u64, sessions: u64, open_requests: u64) -> Command {
    let limits = Limits { sessions, open_requests, ..Limits::default() };
    let advance = request(&[("orders", 5)], Some(id(session, number, 1)));
    Command::Advance(Advance { limits, ..advance })
}

async fn the_cap_of_sessions_is_kept(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for session in ["s", "t"] {
        ensure!(leader.one(capped(session, 1, 2, 9)).await?.is_ok());
    }
    let outcome = leader.one(capped("u", 1, 2, 9)).await?;
    ensure!(outcome == Err(Reject::TooManySessions { limit: 2 }), "{outcome:?}");
    ensure!(leader.one(capped("s", 2, 2, 9)).await?.is_ok(), "a known session is refused");
    ensure!(leader.next("orders").await? == 15);
    Ok(())
}

async fn the_cap_of_sessions_is_kept_across_a_reopen(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    ensure!(leader.one(capped("s", 1, 1, 9)).await?.is_ok());
    let leader = rig.reign_again(leader).await?;
    let outcome = leader.one(capped("t", 1, 1, 9)).await?;
    ensure!(outcome == Err(Reject::TooManySessions { limit: 1 }), "{outcome:?}");
    Ok(())
}

async fn the_cap_of_open_requests_is_kept(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for number in 1..=3 {
        ensure!(leader.one(capped("s", number, 9, 4)).await?.is_ok());
    }
    let outcome = leader.one(capped("s", 5, 9, 4)).await?;
    ensure!(outcome == Err(Reject::TooManyOpenRequests { limit: 4 }), "{outcome:?}");
    ensure!(leader.one(capped("s", 4, 9, 4)).await?.is_ok());
    ensure!(leader.next("orders").await? == 20);
    Ok(())
}

async fn a_request_refused_at_a_cap_may_be_sent_again(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let limits = Limits { keys: 0, ..Limits::default() };
    let advance = request(&[("orders", 5)], Some(id("s", 1, 1)));
    let outcome = leader.one(Command::Advance(Advance { limits, ..advance })).await?;
    ensure!(outcome == Err(Reject::TooManyKeys { limit: 0 }), "{outcome:?}");
    same(&leader, id("s", 1, 1), 0).await
}

/// Lets session time pass, as a leader's renewals do.
async fn serve_for(leader: &Leader, elapsed_ms: u64) -> Result<()> {
    leader.done(Command::Extend { high_water_ms: NOON_MS, elapsed_ms }).await?;
    Ok(())
}

async fn expired(leader: &Leader) -> Result<Vec<Session>> {
    match leader.driver.read(Query::Expired { limit: 100 }).await? {
        Answer::Expired(sessions) => Ok(sessions),
        other => bail!("the query of expired sessions was answered {other:?}"),
    }
}

async fn an_unused_session_is_kept_for_its_retention(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    same(&leader, id("s", 1, 1), 0).await?;
    serve_for(&leader, RETENTION_MS).await?;
    let named = expired(&leader).await?;
    ensure!(named.is_empty(), "{named:?} is named as expired too early");
    let sessions = vec![Session::from_text("s")];
    let reply = leader.done(Command::Expire { sessions }).await?;
    ensure!(reply == Reply::Expired(0), "it was forgotten too early: {reply:?}");
    same(&leader, retry(id("s", 1, 1)), 0).await
}

async fn an_unused_session_is_named_and_forgotten_after_its_retention(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    same(&leader, id("s", 1, 1), 0).await?;
    serve_for(&leader, 2 * RETENTION_MS).await?;
    let named = expired(&leader).await?;
    ensure!(named == [Session::from_text("s")], "{named:?}");
    let reply = leader.done(Command::Expire { sessions: named }).await?;
    ensure!(reply == Reply::Expired(1), "{reply:?}");
    let outcome = leader.one(advance_as(retry(id("s", 1, 1)), &[("orders", 5)])).await?;
    ensure!(outcome == Err(Reject::SessionUnknown), "{outcome:?}");
    let named = expired(&leader).await?;
    ensure!(named.is_empty(), "{named:?} is still named");
    Ok(())
}

async fn a_session_in_use_does_not_expire(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for step in 1..=8 {
        let elapsed_ms = step * RETENTION_MS / 2;
        let advance = request(&[("orders", 5)], Some(id("s", step, 1)));
        leader.done(Command::Advance(Advance { elapsed_ms, ..advance })).await?;
        serve_for(&leader, elapsed_ms).await?;
        let named = expired(&leader).await?;
        ensure!(named.is_empty(), "a session in use is named as expired");
    }
    same(&leader, retry(id("s", 1, 1)), 0).await
}

async fn session_time_goes_on_where_the_reign_before_left_it(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    same(&leader, id("s", 1, 1), 0).await?;
    serve_for(&leader, RETENTION_MS).await?;
    let leader = rig.reign_again(leader).await?;
    let named = expired(&leader).await?;
    ensure!(named.is_empty(), "the time between two reigns was counted");
    serve_for(&leader, RETENTION_MS).await?;
    let named = expired(&leader).await?;
    ensure!(named == [Session::from_text("s")], "the reign before was not counted: {named:?}");
    Ok(())
}

async fn answers_to_many_open_requests_are_all_kept(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let ask = |number| advance_as(id("s", number, 1), &[("orders", 5)]);
    for first in [1, 101, 201] {
        leader.commit((first..first + 100).map(ask).collect()).await?;
    }
    let results = leader.commit((1..=300).map(ask).collect()).await?;
    for (number, result) in results.iter().enumerate() {
        let found = start(result)?;
        ensure!(found == number as u64 * 5, "request {} got {found}", number + 1);
    }
    same(&leader, id("s", 301, 300), 1_500).await?;
    is_forgotten(&leader, 299, 300).await?;
    same(&leader, id("s", 300, 300), 1_495).await
}
