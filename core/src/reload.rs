use std::future::pending;

use tokio::sync::watch;

/// Asks whoever has read files, certificates for example, to read them again: a program does so on SIGHUP.
#[derive(Clone, Default, Debug)]
pub struct Reloader(watch::Sender<u64>);

impl Reloader {
    /// Asks all that were subscribed.
    pub fn request(&self) {
        self.0.send_modify(|requests| *requests += 1);
    }

    /// What is told of each request from now on.
    pub fn subscribe(&self) -> Reload {
        Reload(Some(self.0.subscribe()))
    }
}

/// Is told when files are to be read again. The default one never is.
#[derive(Clone, Default, Debug)]
pub struct Reload(Option<watch::Receiver<u64>>);

impl Reload {
    /// Returns once there was a request since the last time; several may be one. Never, once there can be none.
    pub async fn requested(&mut self) {
        if let Some(requests) = &mut self.0
            && requests.changed().await.is_ok()
        {
            return;
        }
        pending().await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn each_subscriber_is_told_once() {
        let reloader = Reloader::default();
        let (mut one, mut other) = (reloader.subscribe(), reloader.subscribe());
        assert!(one.requested().now_or_never().is_none());
        reloader.request();
        reloader.request();
        one.requested().await;
        assert!(one.requested().now_or_never().is_none());
        other.requested().await;
        reloader.request();
        drop(reloader);
        one.requested().await;
        assert!(one.requested().now_or_never().is_none());
        assert!(Reload::default().requested().now_or_never().is_none());
    }
}
