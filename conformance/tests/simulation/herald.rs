//! Telling the engine who leads: late, and not of every change.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tsoracle_core::Leadership;

use crate::{clock::pass, world::World};

pub(crate) struct Herald {
    news: mpsc::UnboundedSender<Leadership>,
    last: Leadership,
}

impl Herald {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Leadership>) {
        let (news, told) = mpsc::unbounded_channel();
        (Self { news, last: Leadership::Unknown }, told)
    }

    pub(crate) fn tell(&mut self, news: Leadership) {
        if news != self.last {
            self.last = news.clone();
            // The task that tells ends with the process.
            let _ = self.news.send(news);
        }
    }
}

/// Passes on the news, each time only the latest.
pub(crate) async fn spread(
    world: Arc<World>,
    mut told: mpsc::UnboundedReceiver<Leadership>,
    known: watch::Sender<Leadership>,
) {
    while let Some(mut latest) = told.recv().await {
        let leads = matches!(*known.borrow(), Leadership::Leader { .. });
        pass(world.rumour_time(leads)).await;
        while let Ok(newer) = told.try_recv() {
            latest = newer;
        }
        known.send_replace(latest);
    }
}
