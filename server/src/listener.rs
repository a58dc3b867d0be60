use std::{
    fmt,
    fs::{self, File, Permissions},
    io::{self, ErrorKind as Io},
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream as BlockingStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::Mode;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs, UnixListener, UnixSocket, UnixStream};
use tokio_util::either::Either;
use tsoracle_core::{Clock as _, Error, ErrorKind, Result, SystemClock};

use crate::peer::Peer;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1_024;

/// How long a start waits for others that begin to listen in the same directory: so often, each time so long.
const ATTEMPTS: usize = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// The longest path of a socket, in bytes.
const LONGEST: usize = 107;

/// Who may connect to a socket, unless that is said otherwise: its owner and its group.
pub const SOCKET_MODE: u32 = 0o660;

/// What is read from a client, and written to it.
pub(crate) type Stream = Either<TcpStream, UnixStream>;

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// On the network.
    Address(SocketAddr),
    /// At a socket in the file system, of which only this machine's programs know.
    Socket(PathBuf),
}

impl Place {
    /// The address, unless it is a socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Socket(_) => None,
        }
    }
}

/// As clients name it: `HOST:PORT` or `unix:PATH`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A socket that is bound, to serve on.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    place: Place,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "it is removed with this")] SocketFile),
}

impl TryFrom<TcpListener> for Listener {
    type Error = Error;

    fn try_from(listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr().map_err(|source| {
            Error::new(ErrorKind::Config, "the listener has no address").with_source(source)
        })?;
        Ok(Self { socket: Socket::Tcp(listener), place: Place::Address(address) })
    }
}

impl Listener {
    /// Where it listens.
    pub fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Either::Left(stream), Peer::Address(peer)))
            }
            Socket::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred()?.uid();
                Ok((Either::Right(stream), Peer::User(user)))
            }
        }
    }
}

/// Binds a listener, and says what to do if that fails.
///
/// # Errors
/// `Config`, naming the address.
pub async fn listen(address: &(impl ToSocketAddrs + fmt::Display)) -> Result<Listener> {
    let listener = TcpListener::bind(address).await.map_err(|source| {
        let hint = match source.kind() {
            Io::AddrInUse => "another program listens there; stop it, or choose another address",
            Io::AddrNotAvailable => "this machine does not have that address",
            Io::PermissionDenied => "that port needs privileges; choose one above 1023",
            _ => "the form is HOST:PORT",
        };
        let context = format!("cannot listen on {address}: {hint}");
        Error::new(ErrorKind::Config, context).with_source(source)
    })?;
    listener.try_into()
}

/// Listens at a socket in the file system, to which those may connect whom `mode` lets write. One that another program has
/// left behind is replaced. It is removed when the listener is dropped.
///
/// # Errors
/// `Config`, naming the path, if a program listens there already, or no socket can be there.
pub async fn listen_at(path: &Path, mode: u32) -> Result<Listener> {
    let failed = |hint: String, source: Option<io::Error>| {
        let error = Error::new(
            ErrorKind::Config,
            format!("cannot listen on {}: {hint}", Place::Socket(path.into())),
        );
        match source {
            Some(source) => error.with_source(source),
            None => error,
        }
    };
    let length = path.as_os_str().len();
    if length > LONGEST {
        let hint =
            format!("the path has {length} bytes, and may have {LONGEST}; choose a shorter one");
        return Err(failed(hint, None));
    }
    let because = |source: io::Error| {
        let hint = match source.kind() {
            Io::NotFound => "its directory is not there; create it",
            Io::NotADirectory => "its directory is not one; choose another path",
            Io::PermissionDenied => {
                "this user may not create files there; choose another path, or another user"
            }
            Io::WouldBlock => {
                "other programs have long been beginning to listen in its directory; start this one again"
            }
            _ => "no socket can be there",
        };
        failed(hint.into(), Some(source))
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(directory.unwrap_or(Path::new("."))).map_err(because)?;
    // Of two that find what a third one has left behind, one must not remove the other's.
    lock(&directory).await.map_err(because)?;
    if let Some(hint) = occupied(path).map_err(because)? {
        return Err(failed(hint.into(), None));
    }
    let socket = UnixSocket::new_stream().map_err(because)?;
    // The file gets no more than that, so that nobody else connects before its mode is set.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))
        .map_err(|error| because(error.into()))?;
    socket.bind(path).map_err(because)?;
    let file = SocketFile::of(path).map_err(because)?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(because)?;
    let listener = socket.listen(BACKLOG).map_err(because)?;
    Ok(Listener { socket: Socket::Unix(listener, file), place: Place::Socket(path.into()) })
}

/// Waits until no other program begins to listen in the directory.
async fn lock(directory: &File) -> io::Result<()> {
    let mut left = ATTEMPTS;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(()),
            Err(fs::TryLockError::WouldBlock) if left > 0 => left -= 1,
            Err(error) => return Err(error.into()),
        }
        SystemClock.sleep(PAUSE).await;
    }
}

/// Why nothing can listen there, if so; removes a socket that nobody listens at.
fn occupied(path: &Path) -> io::Result<Option<&'static str>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == Io::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Ok(Some("what is there is no socket, and is left alone; choose another path"));
        }
        Ok(_) => {}
    }
    match BlockingStream::connect(path) {
        Err(error) if error.kind() == Io::ConnectionRefused => fs::remove_file(path).map(|()| None),
        Err(error) if error.kind() == Io::NotFound => Ok(None),
        Err(error) if error.kind() == Io::PermissionDenied => Err(error),
        // One that is too busy to accept is there as well.
        _ => Ok(Some("another program listens there; stop it, or choose another path")),
    }
}

/// A socket's name in the file system, as long as it is of this process.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self { path: path.into(), device: found.dev(), inode: found.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours =
            |found: &fs::Metadata| (found.dev(), found.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).is_ok_and(|found| is_ours(&found)) {
            // If it stays, the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
#[path = "listener_test.rs"]
mod tests;
