//! Leadership passes to another node without a pause.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use tokio::time::timeout;
use tsoracle_core::{Clock as _, Error, ErrorKind, Result, SystemClock};

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
pub async fn hand_over(driver: &impl Handover, to: Option<u32>, deadline: Duration) -> Result<u32> {
    let caught_up = timeout(CATCH_UP, caught_up(driver, to)).await;
    let chosen = match caught_up {
        Ok(chosen) => chosen?,
        // One that lacks something may be elected by the others all the same.
        Err(_) => furthest(driver, to).filter(|_| to.is_none()).map(|(node, _)| node).ok_or_else(
            || unavailable("the node that should lead does not have the whole log".into()),
        )?,
    };
    tracing::info!(successor = chosen, "handing leadership over");
    let elected = timeout(deadline, async {
        driver.campaign(chosen).await?;
        loop {
            match driver.successor() {
                Some(elected) => return Ok::<_, Error>(elected),
                None => SystemClock.sleep(LOOK).await,
            }
        }
    });
    let late = |_| unavailable(format!("node {chosen} was not elected within {deadline:?}"));
    match elected.await.map_err(late)?? {
        elected if to.is_some_and(|to| to != elected) => {
            Err(unavailable(format!("node {elected} was elected instead of node {chosen}")))
        }
        elected => Ok(elected),
    }
}

/// Waits until `to`, or any other voter, holds the whole log.
async fn caught_up(driver: &impl Handover, to: Option<u32>) -> Result<u32> {
    loop {
        match furthest(driver, to) {
            None => return Err(unavailable("there is no other node that votes".into())),
            Some((node, true)) => return Ok(node),
            Some(_) => SystemClock.sleep(LOOK).await,
        }
    }
}

/// Of the voters, or of `to` alone, the one that holds most of the log, and whether that is all of it.
fn furthest(driver: &impl Handover, to: Option<u32>) -> Option<(u32, bool)> {
    let (progress, end) = driver.progress();
    let candidates = progress.into_iter().filter(|(node, _)| to.is_none_or(|to| to == *node));
    let furthest = candidates.max_by_key(|(_, held)| *held);
    furthest.map(|(node, held)| (node, held >= end))
}

fn unavailable(context: String) -> Error {
    Error::new(ErrorKind::Unavailable, context)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

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
        let elected = hand_over(&driver, to, Duration::from_millis(20)).await?;
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
