//! One reign: the take-over, then serving.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::{
    Ended, Phase, Reign, Shared,
    follow::Rests,
    reign::Queues,
    service::{Arrivals, Service},
    takeover::Takeover,
};

/// Takes over under `claim`, then serves until stopped, fenced or failed. Dropping it ends the
/// reign at once.
pub(super) async fn lead(
    shared: &Arc<Shared>,
    claim: u64,
    rests: &mut Rests,
    mut stop: watch::Receiver<bool>,
) -> Ended {
    let (requests, requested) = mpsc::unbounded_channel();
    let (handover_queue, handovers) = mpsc::unbounded_channel();
    let (tap_queue, taps) = mpsc::unbounded_channel();
    let queues = Queues { requests, handovers: handover_queue, taps: tap_queue };
    let arrivals = Arrivals { requests: requested, handovers, taps };
    let mut takeover = Takeover::new(shared, claim);
    let fenced = tokio::select! {
        biased;
        fenced = takeover.fence_and_wait() => fenced,
        _ = stop.wait_for(|stop| *stop) => return Ended::Stopped,
    };
    let fenced = match fenced {
        Ok(fenced) => fenced,
        Err(ended) => return ended,
    };
    let cause = fenced.cause.clone();
    let opening = async { takeover.open(fenced, queues).await };
    // A stop waits for an open that may take effect, so that it can be released: a successor would
    // have to wait for as long as the lease otherwise.
    let given_up = async {
        // The sender is dropped with this node, which is a stop as well.
        let _ = stop.wait_for(|stop| *stop).await;
        shared.clock.sleep(shared.options.lease).await;
    };
    let (reign, known) = tokio::select! {
        biased;
        opened = opening => match opened {
            Ok((reign, known)) => (Arc::new(reign), known),
            Err(ended) => return ended,
        },
        () = given_up => return Ended::Stopped,
    };
    let epoch = reign.epoch;
    let _closing = Closing { shared, reign: &reign };
    shared.history.add(shared.clock.now(), Some(epoch), "this node serves", cause);
    shared.reign.store(Some(reign.clone()));
    shared.enter(Phase::Serving { epoch });
    shared.meters.reigns.increment(1);
    // The node that serves may come back soon, so that the others give way to it.
    *rests = Rests::default();
    tracing::info!(%epoch, "serving");
    let serving = Service::new(shared, takeover.into_struggle(), &reign, known, arrivals);
    serving.run(&mut stop).await
}

/// Ends the reign in memory, however its leading ends.
struct Closing<'a> {
    shared: &'a Shared,
    reign: &'a Reign,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.reign.close();
        self.shared.reign.store(None);
        self.shared.meters.lease_left.set(0.0);
        self.shared.meters.used.iter().for_each(|gauge| gauge.set(0.0));
        self.shared.used.clear();
    }
}
