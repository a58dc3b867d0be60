//! Settings that are read again while a server runs, because an administrator asks for it.

use tokio::sync::{mpsc, oneshot};

/// Asks whoever made the server to read its settings again.
#[derive(Clone, Debug)]
pub struct Reloads(mpsc::Sender<ReloadRequest>);

/// What came of it: the settings that changed and hold from the next start on alone, or why none is taken up.
pub type Reloaded = Result<Vec<String>, String>;

/// One request, to be answered when the settings have been read.
#[derive(Debug)]
pub struct ReloadRequest(oneshot::Sender<Reloaded>);

impl Reloads {
    /// Requests go to the receiver. One that is not read yet is all that is kept waiting.
    pub fn new() -> (Self, mpsc::Receiver<ReloadRequest>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    /// Asks, and waits for what came of it.
    ///
    /// # Errors
    /// Why nothing is taken up.
    pub async fn ask(&self) -> Reloaded {
        let (sender, answer) = oneshot::channel();
        let stopped = || "the server is stopping".to_owned();
        self.0.send(ReloadRequest(sender)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl ReloadRequest {
    /// Tells whoever asked.
    pub fn answer(self, reloaded: Reloaded) {
        // They may have gone.
        let _ = self.0.send(reloaded);
    }
}
