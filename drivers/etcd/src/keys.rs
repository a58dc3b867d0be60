use etcd_client::TxnOp;
use tsoracle_core::{Error, ErrorKind, Result, VERSION};

/// How everything is laid out below the prefix. Anything else is refused.
const FORMAT: &str = "tsoracle-etcd/2";
const KNOWN: u64 = 2;

/// Where things are in etcd: all below one prefix.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) prefix: String,
    /// The election key. The node that created it should lead for as long as it exists.
    pub(crate) leader: String,
    /// The format, and the id of the etcd cluster that the state belongs to. Earlier releases kept
    /// another format here, so that neither takes a state of the other's for an empty one.
    pub(crate) format: String,
    /// The version of the state.
    pub(crate) version: Vec<u8>,
    state: Vec<u8>,
}

impl Keys {
    pub(crate) fn new(prefix: String) -> Self {
        // No prefix has a colon, so that none is within the state of another.
        let state = format!("{prefix}state:").into_bytes();
        Self {
            leader: format!("{prefix}leader"),
            format: format!("{prefix}version"),
            version: [&state, VERSION].concat(),
            state,
            prefix,
        }
    }

    /// Where a key of the state is in etcd.
    pub(crate) fn state(&self, key: &[u8]) -> Vec<u8> {
        [&self.state, key].concat()
    }

    /// The key of the state that is here in etcd.
    pub(crate) fn inner(&self, key: &[u8]) -> Vec<u8> {
        key.strip_prefix(self.state.as_slice()).unwrap_or(key).to_vec()
    }

    /// A write of an effect.
    pub(crate) fn write(&self, (key, value): (&[u8], Option<&[u8]>)) -> TxnOp {
        match value {
            Some(value) => TxnOp::put(self.state(key), value, None),
            None => TxnOp::delete(self.state(key), None),
        }
    }

    /// Notes that the state belongs to this cluster.
    pub(crate) fn write_format(&self, cluster: u64) -> TxnOp {
        TxnOp::put(self.format.as_str(), format!("{FORMAT} {cluster:x}"), None)
    }

    /// The cluster that the state belongs to.
    ///
    /// # Errors
    /// `Corrupt` for another format.
    pub(crate) fn read_format(&self, value: &[u8]) -> Result<u64> {
        let text = String::from_utf8_lossy(value);
        let cluster = text.strip_prefix(FORMAT).and_then(|rest| rest.strip_prefix(' '));
        let cluster = cluster.and_then(|cluster| u64::from_str_radix(cluster, 16).ok());
        cluster.ok_or_else(|| {
            let Self { prefix, format, .. } = self;
            let number =
                text.strip_prefix("tsoracle-etcd/").and_then(|rest| rest.split(' ').next());
            if let Some(found) =
                number.and_then(|number| number.parse().ok()).filter(|found| *found > KNOWN)
            {
                let what = format!("the state below {prefix}, by its key {format},");
                return Error::unknown_format(what, found, KNOWN);
            }
            let context = format!(
                "the state below {prefix} has format {text:?}, by its key {format}, and this \
                 release knows {FORMAT:?} only: have the release that wrote it migrate it to a \
                 file (`tsoracle migrate`), and this one from there to another prefix"
            );
            Error::new(ErrorKind::Corrupt, context)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_formats_and_damage_are_refused() {
        let keys = Keys::new("p/".into());
        assert_eq!(keys.read_format(b"tsoracle-etcd/2 ffffffffffffffff").unwrap(), u64::MAX);
        for text in ["tsoracle-etcd/1 1 0 1 a", "tsoracle-etcd/22 1", "tsoracle-etcd/2 x", ""] {
            let error = keys.read_format(text.as_bytes()).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Corrupt, "{text:?}: {error}");
            let is_newer = error.to_string().contains("made by a newer release");
            assert_eq!(is_newer, text.contains("/22"), "{error}");
        }
    }
}
