//! What has expired.

use super::Service;
use crate::state::{Answer, Command, Query};

/// How many expired sessions, or named requests, one command looks at.
const EXPIRE_AT_ONCE: usize = 16;

impl Service<'_> {
    /// Commands that end sessions and named requests that are due to be forgotten, which are looked for now and
    /// then while there are requests.
    pub(super) async fn expiries(&mut self) -> Vec<Command> {
        let now = self.shared.clock.now();
        if now.boot < self.expire_at || !self.is_lively(now) {
            return vec![];
        }
        self.expire_at = now.boot + self.shared.options.expiry();
        let queries = [
            Query::Counts,
            Query::Expired { limit: EXPIRE_AT_ONCE },
            Query::ExpiredNames { limit: EXPIRE_AT_ONCE },
        ];
        let mut commands = vec![];
        for query in queries {
            // The renewal does not wait for a driver that is slow to answer, or never does.
            let limit = self.shared.options.lease / 10;
            let (command, found) = match self.shared.ask(self.reign.epoch, &query, limit).await {
                Ok(Answer::Expired(sessions)) => {
                    let found = sessions.len();
                    (Command::Expire { sessions }, found)
                }
                Ok(Answer::ExpiredNames(names)) => {
                    let found = names.len();
                    (Command::ExpireNames { names }, found)
                }
                Ok(Answer::Counts(used, rules)) => {
                    self.planner.shares.count(used, rules);
                    continue;
                }
                // Other answers do not come through.
                Ok(_) => continue,
                Err(error) => {
                    tracing::debug!(error = %format_args!("{error:#}"), "cannot look for what has expired now");
                    break;
                }
            };
            if found > 0 {
                commands.push(command);
            }
            if found == EXPIRE_AT_ONCE {
                self.expire_at = now.boot;
            }
        }
        commands
    }
}
