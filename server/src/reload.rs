//! Settings that are read again while a server runs, because an administrator asks for it.

use tokio::sync::{mpsc, oneshot};

/// Asks whoever made the server to read its settings again.
#[derive(Clone, Debug)]
pub struct Reloads(mpsc::Sender<ReloadRequest>);

/// What came of it: the settings that changed and hold from the next start on alone, or why none is taken up.
pub type Reloaded = Result<Vec<String>, String>;

/// One request, to be answered when the settings have been read.
#[derive(Debug)]
pub struct ReloadRequest(Option<oneshot::Sender<Reloaded>>);

impl Reloads {
    /// Requests go to the receiver. One that is not read yet is all that is kept waiting.
    pub fn new() -> (Self, mpsc::Receiver<ReloadRequest>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    /// Asks, and does not wait. If another request waits to be read already, that is enough.
    pub fn request(&self) {
        let _ = self.0.try_send(ReloadRequest(None));
    }

    /// Asks, and waits for what came of it.
    pub(crate) async fn ask(&self) -> Reloaded {
        let (sender, answer) = oneshot::channel();
        let stopped = || "the server is stopping".to_owned();
        self.0.send(ReloadRequest(Some(sender))).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl ReloadRequest {
    /// Tells whoever asked.
    pub fn answer(self, reloaded: Reloaded) {
        if let Some(waiting) = self.0 {
            let _ = waiting.send(reloaded);
        }
    }
}
