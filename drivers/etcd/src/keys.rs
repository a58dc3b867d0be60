use etcd_client::{DeleteOptions, TxnOp};

use crate::snapshot::Write;

/// Where things lie in etcd: all below one prefix.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) prefix: String,
    /// The election key. Whoever has created it leads for as long as it is there.
    pub(crate) leader: String,
    /// The version of the state, which every commit writes.
    pub(crate) version: String,
    state: Vec<u8>,
}

impl Keys {
    pub(crate) fn new(prefix: String) -> Self {
        Self {
            leader: format!("{prefix}leader"),
            version: format!("{prefix}version"),
            // No prefix has a colon, so that none lies within the state of another.
            state: format!("{prefix}state:").into_bytes(),
            prefix,
        }
    }

    /// Where a key of the state lies.
    pub(crate) fn state(&self, key: &[u8]) -> Vec<u8> {
        [&self.state, key].concat()
    }

    /// The key of the state that lies here.
    pub(crate) fn inner(&self, key: &[u8]) -> Vec<u8> {
        key.strip_prefix(self.state.as_slice()).unwrap_or(key).to_vec()
    }

    pub(crate) fn operation(&self, write: &Write) -> TxnOp {
        match write {
            Write::Put(key, value) => TxnOp::put(self.state(key), value.as_slice(), None),
            Write::Delete(key) => TxnOp::delete(self.state(key), None),
            Write::DeleteRange(first, last) => {
                let mut end = self.state(last);
                end.push(0);
                TxnOp::delete(self.state(first), Some(DeleteOptions::new().with_range(end)))
            }
        }
    }
}
