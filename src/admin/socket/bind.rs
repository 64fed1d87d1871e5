//! Where the admin socket stands in the file system: for root and the group alone, in the place of a
//! dead daemon's socket, never in the place of a live one's or of anything that is no socket.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown,
};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Group;
use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;
use tokio::net::UnixListener;
use tracing::{info, warn};

/// The group whose members may read.
pub const ADMIN_GROUP: &str = "edgelb";

/// Clients that the kernel lets wait.
const BACKLOG: i32 = 64;

/// Why there is no admin socket.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another daemon has it.
    #[error("another edgelb daemon answers at {}: stop it first, or give this one its own node.runtime_dir", path.display())]
    InUse { path: PathBuf },
    /// Something else stands there.
    #[error("{} is there and is no socket: move it away", path.display())]
    NotASocket { path: PathBuf },
    /// The operating system refused a step.
    #[error("cannot {step} {}", path.display())]
    System {
        step: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// The bound socket. Dropping it takes the socket's file away.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, so that nobody else's is taken away.
    identity: (u64, u64),
    /// Held as long as this daemon lives: the kernel gives it back whatever way that ends.
    _lock: Flock<File>,
}

impl AdminSocket {
    /// Binds the socket at `path`, in a directory that is made where there is none. Must be called in
    /// a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |step, path: &Path| {
            let path = path.to_owned();
            move |cause| BindError::System { step, path, cause }
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        make_directory(directory).map_err(failed("make the directory", directory))?;
        let lock = lock(path)?;
        clear(path)?;

        let address = SockAddr::unix(path).map_err(failed("bind", path))?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)
            .map_err(failed("open a socket for", path))?;
        socket
            .set_nonblocking(true)
            .map_err(failed("set up", path))?;
        socket.bind(&address).map_err(failed("bind", path))?;
        // Nobody can connect before it listens, whatever mode the umask gave it.
        restrict(path).map_err(failed("restrict", path))?;
        let metadata = fs::symlink_metadata(path).map_err(failed("look at", path))?;
        socket.listen(BACKLOG).map_err(failed("listen on", path))?;
        let listener = UnixListener::from_std(socket.into()).map_err(failed("watch", path))?;
        info!(path = %path.display(), "admin socket listens");
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
            _lock: lock,
        })
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "cannot take the admin socket away");
        }
    }
}

/// Everybody may come in and see that the socket is there; the socket's own mode says who may ask.
fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)?;
    // The umask may have narrowed it.
    fs::set_permissions(directory, Permissions::from_mode(0o755))
}

/// Two daemons that start at once would each take the other's socket for a dead one's.
fn lock(path: &Path) -> Result<Flock<File>, BindError> {
    let lock_path = path.with_extension("lock");
    let failed = |cause| BindError::System {
        step: "lock",
        path: lock_path.clone(),
        cause,
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => BindError::InUse {
            path: path.to_owned(),
        },
        errno => failed(errno.into()),
    })
}

/// Takes a dead daemon's socket away.
fn clear(path: &Path) -> Result<(), BindError> {
    let failed = |step| {
        move |cause| BindError::System {
            step,
            path: path.to_owned(),
            cause,
        }
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        // unix(7): nobody listens on it.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("take away the dead socket"))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("look at")(error)),
        Ok(_) => Err(BindError::InUse {
            path: path.to_owned(),
        }),
    }
}

/// Root and the group may ask; where there is no such group, root alone.
fn restrict(path: &Path) -> io::Result<()> {
    let group = Group::from_name(ADMIN_GROUP).unwrap_or_else(|error| {
        warn!(group = ADMIN_GROUP, %error, "cannot look up the group of the admin socket");
        None
    });
    let mut mode = 0o600;
    if let Some(group) = group {
        match chown(path, None, Some(group.gid.as_raw())) {
            Ok(()) => mode = 0o660,
            // Outside of the initial user namespace the group may have no number.
            Err(error) => {
                warn!(group = ADMIN_GROUP, %error, "cannot give the admin socket to its group");
            }
        }
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}
