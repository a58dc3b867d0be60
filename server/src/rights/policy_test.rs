use super::*;

fn policy(roles: &[(&str, &[&str])], identities: &[(&str, &[&str])]) -> Result<Policy> {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).into()).collect::<Vec<String>>();
    let roles = roles.iter().map(|(name, rights)| ((*name).into(), texts(rights))).collect();
    let identity = |(name, may): &(&str, &[&str])| {
        ((*name).into(), IdentityConfig { may: texts(may), ..IdentityConfig::default() })
    };
    let identities = identities.iter().map(identity).collect();
    Policy::new(&PolicyConfig { roles, identities })
}

fn policy_of(name: &str, may: &[&str]) -> Policy {
    policy(&[], &[(name, may)]).unwrap()
}

fn identity(name: &str) -> Option<Identity> {
    Some(Identity::new(name).unwrap())
}

#[test]
fn roles_and_rights_stand_in_one_list() {
    let policy = policy(
        &[("biller", &["seq:invoices/*", "ts"])],
        &[("billing", &["biller", "read"]), ("ops", &["admin"]), ("anonymous", &["status"])],
    );
    let policy = policy.unwrap();
    let billing = policy.of(identity("billing").as_ref());
    assert!(billing.has(Right::Ts) && billing.has(Right::Read));
    assert!(billing.has_for(Right::Seq, "invoices/1") && !billing.has_for(Right::Seq, "orders"));
    assert!(!billing.has_any(Right::Status), "one that is listed has what is listed");
    let ops = policy.of(identity("ops").as_ref());
    assert!(Right::ALL.into_iter().all(|right| ops.has(right)));
    for unlisted in [None, identity("stranger")] {
        let granted = policy.of(unlisted.as_ref());
        assert!(granted.has(Right::Status) && !granted.has_any(Right::Ts));
    }
    assert!(policy.has_admin() && policy.lets_anonymous_in() && policy.lists_identities());
    assert!(!policy.lets_anonymous_administrate());
}

#[test]
fn without_a_word_on_them_the_anonymous_may_do_nothing() {
    let policy = policy(&[], &[("billing", &["client"])]).unwrap();
    assert!(!policy.lets_anonymous_in() && !policy.has_admin());
    assert!(!Right::ALL.into_iter().any(|right| policy.of(None).has_any(right)));
}

#[test]
fn that_strangers_administrate_is_noticed() {
    for (rights, expected) in
        [(&["client", "reader"][..], false), (&["seed:a/*"], true), (&["admin"], true)]
    {
        let policy = policy_of("anonymous", rights);
        assert_eq!(policy.lets_anonymous_administrate(), expected, "{rights:?}");
        assert!(!policy.lists_identities());
    }
}

#[test]
fn what_is_wrong_is_named() {
    let table: [(&[&str], &str); 10] = [
        (&["writer"], "no right \"writer\""),
        (&["writer"], "the roles are admin, client, reader"),
        (&["ts:orders"], "not for single sequences"),
        (&["seq:a*b"], "a star stands at the end"),
        (&["seq:"], "names no sequence"),
        (&["list:orders"], "write \"list:orders*\""),
        (&["seq:a/*", "seq:a/b/*"], "seq:a/b/* is part of seq:a/*"),
        (&["seq:a/*", "seq"], "seq:a/* is part of seq"),
        (&["ts", "ts"], "ts is part of ts"),
        (&["seq:a", "read:a", "seq:a"], "seq:a is part of seq:a"),
    ];
    for (may, expected) in table {
        let error = policy(&[], &[("billing", may)]).unwrap_err();
        assert!(error.is_setting(), "{error}");
        assert!(error.to_string().contains("identity \"billing\""), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    for name in ["admin", "seq"] {
        assert!(policy(&[(name, &["ts"])], &[]).unwrap_err().to_string().contains("another name"));
    }
    let error = policy(&[("biller", &["seq:x*y"])], &[]).unwrap_err();
    assert!(error.to_string().contains("role \"biller\""), "{error}");
    let error = policy(&[("a", &["ts"]), ("b", &["a"])], &[]).unwrap_err();
    assert!(error.to_string().contains("no right \"a\""), "roles hold rights alone: {error}");
}

#[test]
fn a_role_and_a_right_of_ones_own_may_overlap() {
    assert!(policy(&[], &[("ops", &["admin", "seq:orders"])]).is_ok());
}

#[test]
fn an_identity_is_a_list_or_a_table() {
    let json = r#"{"identities": {
        "a": ["client"],
        "b": {"may": ["ts"], "rate": 100, "waiting": 5, "keys": 6, "sessions": 7, "leases": 8, "named": 9}
    }}"#;
    let config: PolicyConfig = serde_json::from_str(json).unwrap();
    assert_eq!(config.identities["a"].may, ["client"]);
    let policy = Policy::new(&config).unwrap();
    let limits = policy.of(identity("b").as_ref()).limits;
    let expected = CallerLimits { waiting: 5, keys: 6, sessions: 7, leases: 8, named: 9 };
    assert_eq!(limits, expected);
    for wrong in [
        r#"{"identities": {"a": "client"}}"#,
        r#"{"identities": {"a": {"may": ["ts"], "rat": 1}}}"#,
        r#"{"identities": {"a": {"rate": 1}}}"#,
        r#"{"identities": {"a": {"may": ["ts"], "rate": 0}}}"#,
        r#"{"rolls": {}}"#,
    ] {
        assert!(serde_json::from_str::<PolicyConfig>(wrong).is_err(), "{wrong}");
    }
}
