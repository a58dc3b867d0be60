use super::*;
use crate::Unreached;

fn at(seconds: u64) -> BootTime {
    BootTime::from_nanos(seconds * 1_000_000_000)
}

/// Members of whom these are not reached since then, and these have no vote.
fn members(count: u64, unreached: &[(u64, u64)], learners: &[u64]) -> Vec<MemberReport> {
    let member = |id| MemberReport {
        id,
        peer: format!("n{id}:1"),
        service: format!("n{id}:2"),
        votes: !learners.contains(&id),
        is_own: id == 1,
        leads: false,
        unreached: unreached
            .iter()
            .find(|(gone, _)| *gone == id)
            .map(|(_, since)| Unreached { since: at(*since), reason: Some("refused".into()) }),
        lag: None,
    };
    (1..=count).map(member).collect()
}

fn kind_of(members: &[MemberReport]) -> Option<&'static str> {
    majority(members, false, at(100)).map(|found| found.kind)
}

#[test]
fn a_majority_is_of_those_with_a_vote() {
    assert_eq!(kind_of(&members(3, &[], &[])), None);
    assert_eq!(kind_of(&members(3, &[(2, 10)], &[])), Some("node_unreached"));
    assert_eq!(kind_of(&members(3, &[(2, 10), (3, 20)], &[])), Some("majority_lost"));
    assert_eq!(kind_of(&members(4, &[(2, 10), (3, 20)], &[])), Some("majority_lost"));
    assert_eq!(kind_of(&members(5, &[(2, 10), (3, 20)], &[])), Some("node_unreached"));
    assert_eq!(kind_of(&members(3, &[(2, 10), (3, 20)], &[2, 3])), Some("node_unreached"));
    assert_eq!(kind_of(&members(2, &[(2, 10)], &[])), Some("majority_lost"));
    assert_eq!(kind_of(&[]), None);
    // It may have been restarted just now.
    assert_eq!(kind_of(&members(3, &[(2, 99), (3, 99)], &[])), None);
}

#[test]
fn who_is_missing_is_named_with_the_reason_and_what_to_do() {
    let found = majority(&members(3, &[(2, 10), (3, 20)], &[]), false, at(100)).unwrap();
    for part in ["1 of 3", "2 are needed", "node 2 at n2:1 (refused)", "node 3 at n3:1"] {
        assert!(found.what.contains(part), "{}", found.what);
    }
    assert!(found.remedy.contains("start node 2 or 3 again"), "{}", found.remedy);
    assert_eq!(found.since, Some(at(20)), "until then one of them was there");
}

/// Nodes can be reached one way only, as where a firewall, or a certificate, stops the connections of one side.
#[test]
fn a_node_that_hears_a_leader_has_lost_no_majority() {
    let found = majority(&members(3, &[(2, 10), (3, 20)], &[]), true, at(100)).unwrap();
    assert_eq!(found.kind, "node_unreached");
    assert!(found.what.contains("the others are enough to serve"), "{}", found.what);
}

#[test]
fn a_reason_is_told_before_what_it_leads_to_and_what_can_wait_last() {
    let kinds = [
        ["lease_lapsed", "log_lines_lost", "disk_slow"],
        ["majority_lost", "certificate_expiring", "certificate_expired"],
        ["cannot_take_over", "node_unreached", "clock_wrong"],
    ];
    for kinds in kinds {
        let [result, minor, reason] = kinds;
        let mut found: Vec<_> = kinds.iter().map(|kind| Finding::new(kind, "", "")).collect();
        sort(&mut found);
        let sorted: Vec<_> = found.iter().map(|found| found.kind).collect();
        assert_eq!(sorted, [reason, result, minor]);
    }
}

fn latency(recent: usize, median_ms: u64, under_way_ms: Option<u64>) -> LatencySummary {
    let (median, under_way) =
        (Duration::from_millis(median_ms), under_way_ms.map(Duration::from_millis));
    LatencySummary { recent, median, max: median * 2, under_way, ..LatencySummary::default() }
}

#[test]
fn a_disk_is_slow_if_a_write_hangs_or_most_take_long() {
    let slow = |latency| disk(&latency, Duration::from_millis(250), at(100));
    assert_eq!(slow(latency(10, 5, Some(900))), None);
    assert_eq!(slow(latency(2, 900, None)), None, "two tell nothing");
    assert_eq!(slow(latency(10, 249, None)), None);
    let hangs = slow(latency(0, 0, Some(12_000))).unwrap();
    assert!(hangs.what.contains("has been under way for 12 s"), "{}", hangs.what);
    assert_eq!((hangs.kind, hangs.since), ("disk_slow", Some(at(88))));
    let slow = slow(latency(3, 300, None)).unwrap();
    assert!(slow.what.contains("half of the last 3 took 300 ms or more"), "{}", slow.what);
}

#[test]
fn what_lasts_is_known_since_it_was_first_found() {
    let problems = Problems::default();
    let found = |about: &str, what: &str| Finding::new("a", what, "do").about(about);
    let lasts = |noted: Vec<Problem>| noted.iter().map(|p| p.lasts.as_secs()).collect::<Vec<_>>();
    assert_eq!(lasts(problems.note(vec![found("x", "1 left")], at(10))), [0]);
    let both = vec![found("x", "0 left"), found("y", "")];
    assert_eq!(lasts(problems.note(both, at(15))), [5, 0], "other words for the same thing");
    assert_eq!(lasts(problems.note(vec![found("y", "").since(at(2))], at(20))), [18]);
    assert_eq!(lasts(problems.note(vec![found("x", "")], at(21))), [0], "it was over");
}

#[test]
fn times_are_told_as_people_tell_them() {
    let told = |seconds| in_words(Duration::from_secs_f64(seconds));
    assert_eq!(told(1.25), "1.2 s");
    assert_eq!(told(59.9), "59 s");
    assert_eq!(told(600.0), "10 min");
    assert_eq!(told(10_000.0), "2 h");
    assert_eq!(told(500_000.0), "5 days");
}
