//! Leadership passes to another node without a pause.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use tokio::time::timeout;
use tsoracle_core::{BootTime, Clock, Error, ErrorKind, Result};

/// How long a successor has to catch up.
const CATCH_UP: Duration = Duration::from_millis(500);

/// How often to look whether something has happened.
const LOOK: Duration = Duration::from_millis(2);

/// What handing over needs of a driver whose node leads.
#[async_trait]
pub trait Handover: Send + Sync {
    /// The other voters, with how much of the log each is known to hold; and how much of it there is.
    fn progress(&self) -> (BTreeMap<u32, u64>, u64);

    /// The other node that leads by now, if one does.
    fn successor(&self) -> Option<u32>;

    /// Has a node campaign at once. This node MUST NOT keep others from voting for it meanwhile.
    ///
    /// # Errors
    /// Those of the call.
    async fn campaign(&self, node: u32) -> Result<()>;
}

/// Has voter `to` lead, or the one that is furthest ahead, within `deadline` from when it has caught up.
/// Returns which node leads.
///
/// # Errors
/// `Unavailable` if there is no other voter, if `to` does not catch up, or if no other node was elected.
pub async fn hand_over(
    driver: &impl Handover,
    clock: &dyn Clock,
    to: Option<u32>,
    deadline: Duration,
) -> Result<u32> {
    let mut passing = Passing::begin(to, deadline, clock.now().boot);
    loop {
        let (progress, end) = driver.progress();
        match passing.step(&progress, end, driver.successor(), clock.now().boot)? {
            Step::Wait => clock.sleep(LOOK).await,
            Step::Campaign(node) => {
                let late = |_| passing.late(node);
                timeout(deadline, driver.campaign(node)).await.map_err(late)??;
            }
            Step::Passed(node) => return Ok(node),
        }
    }
}

/// The rules of [`hand_over`], for a driver that looks at its node whenever something has happened.
#[derive(Debug)]
pub struct Passing {
    to: Option<u32>,
    deadline: Duration,
    /// Since when the successor is waited for: until it has caught up, or until it leads.
    since: BootTime,
    chosen: Option<u32>,
}

/// What is to be done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Look again later.
    Wait,
    /// Have this node campaign. This one MUST NOT keep others from voting for it meanwhile.
    Campaign(u32),
    /// This node leads now.
    Passed(u32),
}

impl Passing {
    /// As for [`hand_over`].
    pub fn begin(to: Option<u32>, deadline: Duration, now: BootTime) -> Self {
        Self { to, deadline, since: now, chosen: None }
    }

    /// What is to be done, given the other voters with how much of the log each is known to hold, how much
    /// there is, and the other node that leads by now.
    ///
    /// # Errors
    /// As for [`hand_over`]. Then it is over.
    pub fn step(
        &mut self,
        progress: &BTreeMap<u32, u64>,
        end: u64,
        successor: Option<u32>,
        now: BootTime,
    ) -> Result<Step> {
        let waited = now.since(self.since);
        let Some(chosen) = self.chosen else { return self.choose(progress, end, now) };
        match successor {
            Some(elected) if self.to.is_some_and(|to| to != elected) => {
                Err(unavailable(format!("node {elected} was elected instead of node {chosen}")))
            }
            Some(elected) => Ok(Step::Passed(elected)),
            None if waited < self.deadline => Ok(Step::Wait),
            None => Err(self.late(chosen)),
        }
    }

    /// Chooses one that holds the whole log, or after a while the one that holds most of it: that may be
    /// elected by the others all the same.
    fn choose(&mut self, progress: &BTreeMap<u32, u64>, end: u64, now: BootTime) -> Result<Step> {
        let candidates = progress.iter().filter(|(node, _)| self.to.is_none_or(|to| to == **node));
        let Some((&chosen, held)) = candidates.max_by_key(|(_, held)| **held) else {
            return Err(unavailable("there is no other node that votes".into()));
        };
        if *held < end {
            if now.since(self.since) < CATCH_UP {
                return Ok(Step::Wait);
            }
            if self.to.is_some() {
                let context = "the node that should lead does not have the whole log";
                return Err(unavailable(context.into()));
            }
        }
        tracing::info!(successor = chosen, "handing leadership over");
        (self.chosen, self.since) = (Some(chosen), now);
        Ok(Step::Campaign(chosen))
    }

    fn late(&self, chosen: u32) -> Error {
        unavailable(format!("node {chosen} was not elected within {:?}", self.deadline))
    }
}

fn unavailable(context: String) -> Error {
    Error::new(ErrorKind::Unavailable, context)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tsoracle_core::SystemClock;

    use super::*;

    /// Elects the node that is asked to campaign, or another one.
    struct Driver {
        progress: BTreeMap<u32, u64>,
        elects: Option<u32>,
        asked: Mutex<Option<u32>>,
    }

    #[async_trait]
    impl Handover for Driver {
        fn progress(&self) -> (BTreeMap<u32, u64>, u64) {
            (self.progress.clone(), 7)
        }

        fn successor(&self) -> Option<u32> {
            self.asked.lock().unwrap().and(self.elects)
        }

        async fn campaign(&self, node: u32) -> Result<()> {
            *self.asked.lock().unwrap() = Some(node);
            Ok(())
        }
    }

    async fn hand(progress: &[(u32, u64)], elects: Option<u32>, to: Option<u32>) -> Result<u32> {
        let progress = progress.iter().copied().collect();
        let driver = Driver { progress, elects, asked: Mutex::default() };
        let elected = hand_over(&driver, &SystemClock, to, Duration::from_millis(20)).await?;
        assert_eq!(*driver.asked.lock().unwrap(), Some(to.unwrap_or(2)));
        Ok(elected)
    }

    #[tokio::test]
    async fn the_voter_that_is_furthest_ahead_leads() {
        assert_eq!(hand(&[(2, 7), (3, 5)], Some(2), None).await.unwrap(), 2);
        assert_eq!(hand(&[(2, 6), (3, 5)], Some(2), None).await.unwrap(), 2);
        assert_eq!(hand(&[(2, 7), (3, 7)], Some(3), Some(3)).await.unwrap(), 3);
        let refused = [
            hand(&[], None, None).await,
            hand(&[(2, 7)], None, None).await,
            hand(&[(2, 7), (3, 6)], Some(3), Some(3)).await,
            hand(&[(2, 7), (3, 7)], Some(2), Some(3)).await,
        ];
        for refused in refused {
            assert_eq!(*refused.unwrap_err().kind(), ErrorKind::Unavailable);
        }
    }
}
