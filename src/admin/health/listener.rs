//! A TCP listener that a hostile LAN cannot make eat file descriptors or memory: so many connections
//! at once, and each for so long.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Sleep, sleep};

/// How long a connection lives. It carries one request.
const LONGEST_LIFE: Duration = Duration::from_secs(5);

pub(super) struct BoundedListener {
    listener: TcpListener,
    places: Arc<Semaphore>,
    /// Places that it shares with others.
    shared: Option<Arc<Semaphore>>,
    /// Dropped with the socket.
    _open: Option<oneshot::Sender<Infallible>>,
}

impl BoundedListener {
    /// For so many connections at once; more wait in the kernel's queue.
    pub(super) fn new(listener: TcpListener, most: usize) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(most)),
            shared: None,
            _open: None,
        }
    }

    /// And for no more than there are places here, with all others that share them.
    pub(super) fn sharing(self, places: Arc<Semaphore>) -> Self {
        Self {
            shared: Some(places),
            ..self
        }
    }

    /// The receiver learns when the socket is closed.
    pub(super) fn telling(self, open: oneshot::Sender<Infallible>) -> Self {
        Self {
            _open: Some(open),
            ..self
        }
    }
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphores are never closed, so there always is a place in the end.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Taken last: a listener that nobody asks must not keep a place from the others.
        let shared = match &self.shared {
            Some(places) => Arc::clone(places).acquire_owned().await.ok(),
            None => None,
        };
        let bounded = BoundedStream {
            stream,
            end: Box::pin(sleep(LONGEST_LIFE)),
            _places: [place, shared],
        };
        (bounded, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that fails at the end of its time.
pub(super) struct BoundedStream {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _places: [Option<OwnedSemaphorePermit>; 2],
}

impl BoundedStream {
    fn in_time(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.in_time(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.in_time(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
