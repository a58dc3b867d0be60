//! What asks this process to do something.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

pub(crate) fn listen_for(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::failed(format!("cannot listen for signals: {error:#}")))
}

/// What asks this process to stop.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Those that would end the process if nobody waited for them.
    _ignored: [Signal; 3],
}

impl Signals {
    pub(crate) fn install() -> Result<Self, Failure> {
        Ok(Self {
            terminate: listen_for(SignalKind::terminate())?,
            interrupt: listen_for(SignalKind::interrupt())?,
            _ignored: [
                listen_for(SignalKind::hangup())?,
                listen_for(SignalKind::user_defined1())?,
                listen_for(SignalKind::user_defined2())?,
            ],
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
