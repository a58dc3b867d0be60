//! A secret that the nodes of a cluster share, proven when a connection begins and never sent.
//!
//! Before HTTP/2 begins, the node that calls says who it is and whom it calls, with a nonce; the one that is called
//! answers with another nonce. Then each proves that it knows the secret, by an HMAC over all of that, the caller
//! first: one that does not know it learns nothing by calling. Neither proof is of use on another connection, for
//! other nodes, or in the other direction.

use std::{fmt, fs, path::Path};

use ring::{
    hmac::{self, Context, HMAC_SHA256, Key},
    rand::{SecureRandom as _, SystemRandom},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tsoracle_core::{Error, ErrorKind, Result};

/// What a caller that has a secret begins with, in the place of HTTP/2. It names the format.
pub(super) const MAGIC: [u8; 8] = *b"tsoauth1";

/// Bytes of a secret, at least and at most: 32 that were drawn at random, in hexadecimal or base64, are well within.
const MIN_BYTES: usize = 32;
const MAX_BYTES: usize = 4_096;

const NONCE_BYTES: usize = 32;
const PROOF_BYTES: usize = 32;

type Nonce = [u8; NONCE_BYTES];

/// See the module.
#[derive(Clone)]
pub struct Secret(Key);

impl Secret {
    /// Reads the secret in a file, without white space around it.
    ///
    /// # Errors
    /// `Config` if it cannot be read, is too short or too long, or can be read by every user of the machine.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let refused = |how: String| {
            Error::new(ErrorKind::Config, format!("peer_secret_file {} {how}", path.display()))
        };
        let bytes = fs::read(path)
            .map_err(|source| refused("cannot be read".into()).with_source(source))?;
        if is_readable_by_all(path) {
            let how =
                "can be read by every user of this machine: take that right away (chmod o= FILE)";
            return Err(refused(how.into()));
        }
        Self::new(bytes.trim_ascii()).ok_or_else(|| {
            refused(format!(
                "has {} bytes; a secret has {MIN_BYTES} to {MAX_BYTES}, as from `openssl rand -hex 32`",
                bytes.trim_ascii().len()
            ))
        })
    }

    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        let fits = (MIN_BYTES..=MAX_BYTES).contains(&bytes.len());
        fits.then(|| Self(Key::new(HMAC_SHA256, bytes)))
    }
}

/// It never shows.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(unix)]
fn is_readable_by_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0)
}

#[cfg(not(unix))]
fn is_readable_by_all(_: &Path) -> bool {
    false
}

/// What both sides prove to know the secret for.
struct Claim<'a> {
    cluster: &'a str,
    /// Who calls, and who is called.
    nodes: (u32, u32),
    nonces: (Nonce, Nonce),
}

/// Which side proves.
#[derive(Clone, Copy)]
enum Side {
    Caller,
    Called,
}

impl Claim<'_> {
    fn bytes(&self, side: Side) -> Vec<u8> {
        let side: &[u8] = match side {
            Side::Caller => b"caller",
            Side::Called => b"called",
        };
        let (from, to) = (self.nodes.0.to_be_bytes(), self.nodes.1.to_be_bytes());
        // Only the last part may have any length.
        let parts: [&[u8]; 7] =
            [&MAGIC, side, &from, &to, &self.nonces.0, &self.nonces.1, self.cluster.as_bytes()];
        parts.concat()
    }

    fn prove(&self, secret: &Secret, side: Side) -> [u8; PROOF_BYTES] {
        let mut context = Context::with_key(&secret.0);
        context.update(&self.bytes(side));
        let mut proof = [0; PROOF_BYTES];
        proof.copy_from_slice(context.sign().as_ref());
        proof
    }

    /// Takes the same time whatever is wrong.
    fn is_proven(&self, secret: &Secret, side: Side, proof: &[u8; PROOF_BYTES]) -> bool {
        hmac::verify(&secret.0, &self.bytes(side), proof).is_ok()
    }
}

/// Proves the secret to the node that is called, and has it prove it, too. Returns why not.
pub(super) async fn call<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    secret: &Secret,
    cluster: &str,
    nodes: (u32, u32),
) -> Result<(), String> {
    let own = nonce()?;
    let hello = [&MAGIC[..], &nodes.0.to_be_bytes(), &nodes.1.to_be_bytes(), &own].concat();
    let asks_none = |_| {
        "it does not ask for the secret of this node; give it the same `peer_secret_file`"
            .to_owned()
    };
    stream.write_all(&hello).await.map_err(asks_none)?;
    let mut magic = MAGIC;
    stream.read_exact(&mut magic).await.map_err(asks_none)?;
    if magic != MAGIC {
        return Err("it speaks another format of secrets, or is no node of ours".into());
    }
    let nonces = (own, read(stream).await.map_err(asks_none)?);
    let claim = Claim { cluster, nodes, nonces };
    let refuses = |_| {
        "it refuses this node, and its log has the reason; `peer_secret_file`, `cluster` and `peers` have to be the \
         same for all nodes"
            .to_owned()
    };
    stream.write_all(&claim.prove(secret, Side::Caller)).await.map_err(refuses)?;
    let proof = read(stream).await.map_err(refuses)?;
    match claim.is_proven(secret, Side::Called, &proof) {
        true => Ok(()),
        false => {
            Err("it does not know the secret of this node: another process is at its address"
                .into())
        }
    }
}

/// Has the caller, whose [`MAGIC`] was read, prove the secret to node `own`, and proves it then. Returns which node
/// the caller is, or why it is refused.
pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    secret: &Secret,
    cluster: &str,
    own: u32,
) -> Result<u32, String> {
    let ended = |_| "a caller ended before it had proven the secret".to_owned();
    let from = stream.read_u32().await.map_err(ended)?;
    let to = stream.read_u32().await.map_err(ended)?;
    let theirs = read(stream).await.map_err(ended)?;
    let nonces = (theirs, nonce()?);
    let challenge = [&MAGIC[..], &nonces.1].concat();
    stream.write_all(&challenge).await.map_err(ended)?;
    let proof = read(stream).await.map_err(ended)?;
    let claim = Claim { cluster, nodes: (from, to), nonces };
    if !claim.is_proven(secret, Side::Caller, &proof) {
        return Err(format!(
            "a caller that calls itself node {from} has another secret, or is of another cluster; \
             `peer_secret_file` and `cluster` have to be the same for all nodes"
        ));
    }
    if to != own {
        return Err(format!("node {from} takes this for node {to}; the peer lists differ"));
    }
    stream.write_all(&claim.prove(secret, Side::Called)).await.map_err(ended)?;
    Ok(from)
}

async fn read<S: AsyncRead + Unpin, const N: usize>(stream: &mut S) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn nonce() -> Result<Nonce, String> {
    let mut nonce = [0; NONCE_BYTES];
    SystemRandom::new().fill(&mut nonce).map_err(|_| "there is no randomness".to_owned())?;
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    fn secret(byte: u8) -> Secret {
        Secret::new(&[byte; MIN_BYTES]).unwrap()
    }

    async fn called(mut stream: DuplexStream, secret: Secret) -> Result<u32, String> {
        assert_eq!(read::<_, 8>(&mut stream).await.unwrap(), MAGIC);
        answer(&mut stream, &secret, "a", 2).await
    }

    async fn meet(
        caller: (Secret, &str, (u32, u32)),
        other: Secret,
    ) -> (Result<(), String>, Result<u32, String>) {
        let (mut near, far) = duplex(1_024);
        let (secret, cluster, nodes) = caller;
        let calling = async {
            let called = call(&mut near, &secret, cluster, nodes).await;
            drop(near);
            called
        };
        tokio::join!(calling, called(far, other))
    }

    #[tokio::test]
    async fn a_secret_is_proven_by_both_for_the_nodes_that_they_are() {
        assert_eq!(meet((secret(1), "a", (1, 2)), secret(1)).await, (Ok(()), Ok(1)));
        for (caller, reason) in [
            ((secret(9), "a", (1, 2)), "has another secret"),
            ((secret(1), "b", (1, 2)), "of another cluster"),
            ((secret(1), "a", (1, 3)), "takes this for node 3"),
        ] {
            let (caller, called) = meet(caller, secret(1)).await;
            assert!(caller.unwrap_err().contains("`peer_secret_file`"));
            let error = called.unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[tokio::test]
    async fn a_proof_is_of_no_use_elsewhere() {
        let nonces = ([1; NONCE_BYTES], [2; NONCE_BYTES]);
        let claim = |nodes, nonces| Claim { cluster: "a", nodes, nonces };
        let proof = claim((1, 2), nonces).prove(&secret(1), Side::Caller);
        let proves = |claim: Claim<'_>, side| claim.is_proven(&secret(1), side, &proof);
        assert!(proves(claim((1, 2), nonces), Side::Caller));
        assert!(!proves(claim((1, 2), nonces), Side::Called));
        assert!(!proves(claim((3, 2), nonces), Side::Caller));
        assert!(!proves(claim((1, 3), nonces), Side::Caller));
        assert!(!proves(claim((2, 1), (nonces.1, nonces.0)), Side::Called));
        assert!(!proves(claim((1, 2), (nonces.0, nonces.0)), Side::Caller));
        assert!(!proves(claim((1, 2), (nonces.1, nonces.1)), Side::Caller));
        // What a caller hears before it has proven anything is new each time, and no proof.
        let mut heard = vec![];
        for _ in 0..2 {
            let (mut near, far) = duplex(1_024);
            let called = tokio::spawn(called(far, secret(1)));
            near.write_all(&[&MAGIC[..], &[0, 0, 0, 1, 0, 0, 0, 2], &[7; 32]].concat())
                .await
                .unwrap();
            let mut answer = [0; 40];
            near.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer[..8], MAGIC);
            heard.push(answer);
            // It returns what it has heard.
            near.write_all(&answer[8..]).await.unwrap();
            let mut rest = vec![];
            near.read_to_end(&mut rest).await.unwrap();
            assert!(rest.is_empty() && called.await.unwrap().is_err());
        }
        assert_ne!(heard[0], heard[1]);
    }

    #[tokio::test]
    async fn a_node_that_does_not_know_the_secret_is_not_taken_for_the_one_that_is_called() {
        let (mut near, mut far) = duplex(1_024);
        let other = tokio::spawn(async move {
            let mut hello = [0; 48];
            far.read_exact(&mut hello).await.unwrap();
            // It returns what it has heard.
            far.write_all(&[&MAGIC[..], &hello[16..]].concat()).await.unwrap();
            let proof: [u8; PROOF_BYTES] = read(&mut far).await.unwrap();
            far.write_all(&proof).await.unwrap();
        });
        let error = call(&mut near, &secret(1), "a", (1, 2)).await.unwrap_err();
        assert!(error.contains("does not know the secret"), "{error}");
        other.await.unwrap();
    }

    #[tokio::test]
    async fn one_that_speaks_another_format_is_told_nothing() {
        let (mut near, mut far) = duplex(1_024);
        let other = tokio::spawn(async move {
            let mut hello = [0; 48];
            far.read_exact(&mut hello).await.unwrap();
            far.write_all(&[&b"tsoauth9"[..], &hello[16..]].concat()).await.unwrap();
            let mut rest = vec![];
            far.read_to_end(&mut rest).await.unwrap();
            rest
        });
        let error = call(&mut near, &secret(1), "a", (1, 2)).await.unwrap_err();
        assert!(error.contains("another format"), "{error}");
        drop(near);
        assert_eq!(other.await.unwrap(), b"", "it was given a proof");
    }

    #[test]
    fn a_secret_in_a_file_is_long_enough_and_for_few_eyes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let refused = |content: &str, text: &str| {
            fs::write(&path, content).unwrap();
            let error = Secret::read(&path).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(text), "{error}");
        };
        assert!(Secret::read(&path).unwrap_err().to_string().contains("cannot be read"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            fs::write(&path, "x".repeat(64)).unwrap();
            let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            for open in [0o644, 0o604, 0o602] {
                mode(open);
                refused(&"x".repeat(64), "every user");
            }
            mode(0o640);
            Secret::read(&path).unwrap();
        }
        refused("  short\n", "has 5 bytes");
        refused(&" ".repeat(64), "has 0 bytes");
        refused(&"x".repeat(MAX_BYTES + 1), "has 4097 bytes");
        // A line's end is none of it.
        fs::write(&path, format!("{}\n", "x".repeat(MIN_BYTES))).unwrap();
        let read = Secret::read(&path).unwrap();
        let claim =
            Claim { cluster: "a", nodes: (1, 2), nonces: ([1; NONCE_BYTES], [2; NONCE_BYTES]) };
        let proof = claim.prove(&secret(b'x'), Side::Called);
        assert!(claim.is_proven(&read, Side::Called, &proof));
    }
}
