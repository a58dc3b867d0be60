//! Finds out whether a peer that does not answer has been replaced.
//!
//! A node that is stopped, or that its peers do not reach any more, keeps its callers waiting until their
//! attempts end, though another one leads meanwhile. So while a peer does not answer, the others are probed.
//! Only a leader of the highest known epoch ends the wait: a leader that is merely slow is waited for, since
//! no other node leads in its epoch or above.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout};
use tsoracle_proto::v1::GetCurrentMaxSafeRequest;
use tsoracle_proto::v1::tso_service_client::TsoServiceClient;
use tsoracle_types::Epoch;

use super::dialer::Connection;
use super::state::PeerState;
use tsoracle_proto::Address;

/// How long a peer may leave callers without an answer before it is suspected. Most commits take a fraction
/// of it.
pub(crate) const SUSPECT_AFTER: Duration = Duration::from_millis(300);

/// How long other peers are probed, unless a caller still waits then.
const PROBE_FOR: Duration = Duration::from_secs(1);

/// The pause between two rounds of probes.
const PROBE_PAUSE: Duration = Duration::from_millis(50);

/// How long each peer may take to answer whether it leads.
const PROBE_TIMEOUT: Duration = Duration::from_millis(250);

/// Awaits `answer`, for which a peer is asked. Nothing if another one leads meanwhile.
pub(crate) async fn unless_superseded<T>(
    state: &Arc<PeerState>,
    answer: impl Future<Output = T>,
) -> Option<T> {
    let (mut answer, mut superseded) = (pin!(answer), pin!(state.superseded()));
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return Some(answer),
            () = &mut superseded => return None,
            () = sleep_until(Instant::now() + SUSPECT_AFTER) => state.suspect(),
        }
    }
}

impl PeerState {
    /// The peer does not answer. The others are probed, once for all callers that wait.
    pub(crate) fn suspect(self: &Arc<Self>) {
        if self.is_suspected.swap(true, Ordering::Relaxed) {
            return;
        }
        let state = self.clone();
        tokio::spawn(async move {
            probe_other_peers(&state).await;
            state.is_suspected.store(false, Ordering::Relaxed);
        });
    }
}

/// Asks the other peers whether they lead, and if so ends the wait for this one.
async fn probe_other_peers(state: &PeerState) {
    let until = Instant::now() + PROBE_FOR;
    while Instant::now() < until {
        let mut probes: FuturesUnordered<_> = state.others().into_iter().map(probe).collect();
        while let Some(found) = probes.next().await {
            if let Some((address, epoch)) = found
                && state.is_superseded_by(&address, epoch)
            {
                return;
            }
        }
        sleep_until(Instant::now() + PROBE_PAUSE).await;
    }
}

/// The epoch that a peer leads in, if it leads.
async fn probe(peer: Connection) -> Option<(Address, Epoch)> {
    let ask = async {
        let mut client = TsoServiceClient::new(peer.channel().await.ok()?);
        let answer = client.get_current_max_safe(GetCurrentMaxSafeRequest {}).await.ok()?;
        let answer = answer.into_inner();
        let epoch = Epoch::from_parts(answer.epoch_hi, answer.epoch_lo);
        (answer.max_safe_physical_ms > 0).then_some(epoch)
    };
    let epoch = timeout(PROBE_TIMEOUT, ask).await.ok()??;
    Some((peer.address, epoch))
}
