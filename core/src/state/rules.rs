use super::record::{
    ANSWER_RULES, FIRST_RULES, LEASE_RULES, NAMED_RULES, OWNER_RULES, RESTORED_RULES, RULES,
};

/// The highest version of the rules that the release before knows.
const RULES_BEFORE: u32 = OWNER_RULES;

/// The version of the rules that a state is under: what is new in a release raises it when it is used for the first time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules(u32);

impl Rules {
    /// The highest version that this release knows, and may raise a state to.
    pub const NEWEST: Self = Self(RULES);

    pub(crate) fn new(version: u32) -> Self {
        Self(version)
    }

    /// Its number.
    pub fn version(self) -> u32 {
        self.0
    }

    /// What the release before does not know of what was used, so that it would not lead over the state; nothing if that
    /// release can be put back.
    pub fn kept_from_release_before(self) -> Option<&'static str> {
        (self.0 > RULES_BEFORE).then(|| self.raised_by())
    }

    /// What raises a state to this version.
    fn raised_by(self) -> &'static str {
        match self.0 {
            FIRST_RULES => "it was begun",
            LEASE_RULES => "stamping leases were acquired",
            ANSWER_RULES => "answers were kept in pages",
            NAMED_RULES => "requests were named",
            OWNER_RULES => "stamping leases have owners",
            RESTORED_RULES => "sequences were restored",
            _ => "something was used that a newer release has brought",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_raises_a_state_is_said_of_each_version() {
        let newer = Rules(RULES + 1).raised_by();
        for version in FIRST_RULES..=RULES {
            assert_ne!(Rules(version).raised_by(), newer, "{version}");
        }
    }

    #[test]
    fn the_release_before_can_be_put_back_until_something_new_was_used() {
        for version in FIRST_RULES..=RULES_BEFORE {
            assert_eq!(Rules(version).kept_from_release_before(), None);
        }
        let kept = Rules(RESTORED_RULES).kept_from_release_before();
        assert_eq!(kept, Some("sequences were restored"));
    }
}
