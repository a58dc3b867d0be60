//! Whether a node that says nothing has been replaced.
//!
//! A node that stands still, or that its peers do not reach any more, keeps its callers waiting until
//! their attempts end, though another one leads meanwhile. So while a node is silent, the others are
//! asked whether they lead. Only a leader of the highest epoch that is known ends the wait: a leader that
//! is merely slow is waited for, since nobody else leads in its epoch or above.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout};
use tsoracle_proto::v1::GetCurrentMaxSafeRequest;
use tsoracle_proto::v1::tso_service_client::TsoServiceClient;
use tsoracle_types::Epoch;

use crate::pool::{Learner, Peer};

/// How long a node may be silent before others are asked. Most commits take a fraction of it.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// How long others are asked, unless somebody still waits then.
const LOOKING: Duration = Duration::from_secs(1);

/// How often.
const PAUSE: Duration = Duration::from_millis(50);

/// How long each may take to say whether it leads.
const PATIENCE: Duration = Duration::from_millis(250);

/// Does `work`, which waits for a node. Nothing if another one leads meanwhile.
pub(crate) async fn unless_superseded<T>(
    learner: &Learner,
    work: impl Future<Output = T>,
) -> Option<T> {
    let (mut work, mut superseded) = (pin!(work), pin!(learner.superseded()));
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            () = &mut superseded => return None,
            () = sleep_until(Instant::now() + SILENCE) => learner.suspect(),
        }
    }
}

/// Asks the others whether they lead, and tells those who wait for this one if so.
pub(crate) async fn look_around(learner: &Learner) {
    let until = Instant::now() + LOOKING;
    while Instant::now() < until {
        let mut asked: FuturesUnordered<_> = learner.others().into_iter().map(leads).collect();
        while let Some(found) = asked.next().await {
            if let Some((peer, epoch)) = found
                && learner.is_superseded_by(&peer, epoch)
            {
                return;
            }
        }
        sleep_until(Instant::now() + PAUSE).await;
    }
}

/// The epoch that a node leads, if it does.
async fn leads(peer: Arc<Peer>) -> Option<(Arc<Peer>, Epoch)> {
    let ask = async {
        let mut client = TsoServiceClient::new(peer.channel().await.ok()?);
        let answer = client.get_current_max_safe(GetCurrentMaxSafeRequest {}).await.ok()?;
        let answer = answer.into_inner();
        let epoch = Epoch::from_parts(answer.epoch_hi, answer.epoch_lo);
        (answer.max_safe_physical_ms > 0).then_some(epoch)
    };
    let epoch = timeout(PATIENCE, ask).await.ok()??;
    Some((peer, epoch))
}
