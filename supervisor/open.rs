//! What is opened on every cpu or on none.

use std::future::Future;

use tokio::sync::oneshot;
use virtroupe_actors::LocalStack;

use crate::stack::{NotRunning, Stack};

/// Why something was not opened on every cpu.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError<E> {
    /// The stack is not running.
    #[error(transparent)]
    NotRunning(#[from] NotRunning),
    /// One cpu could not open it; on the others it is closed again.
    #[error("cpu {cpu} could not open it, so it is open on none: {error}")]
    Cpu {
        /// Which.
        cpu: u16,
        /// Why.
        error: E,
    },
}

/// What was opened on one cpu, waiting for all others.
struct Opened {
    /// Has it served; dropped, it is closed.
    serve: oneshot::Sender<()>,
    /// Ends when it is closed.
    closed: oneshot::Receiver<()>,
}

impl Stack {
    /// Opens something on every cpu or on none: runs `open` on the arbiter of each, and then
    /// `serve` with what it has returned. If it fails on one cpu, what the others have opened is
    /// dropped before this returns, and served nowhere. What each cpu opens stays there, so it need
    /// not be `Send`. A caller that stops waiting for this opens nothing: what was opened by then is
    /// dropped, too.
    ///
    /// This is for listeners and sockets of which each cpu has one: a server that listens on some
    /// cpus only would go unnoticed, since those get all connections.
    ///
    /// ```no_run
    /// # use virtroupe::{BindError, ListenOptions, LocalStack, OpenError, Stack, TcpListener};
    /// # async fn start(stack: &Stack) -> Result<(), OpenError<BindError>> {
    /// let open = |local: LocalStack| async move {
    ///     let any = ([0, 0, 0, 0], 7).into();
    ///     local.listen_tcp_per_cpu(any, ListenOptions::default()).await
    /// };
    /// let serve = |_: LocalStack, listener: TcpListener| {
    ///     actix::spawn(async move {
    ///         while let Ok(stream) = listener.accept().await {
    ///             drop(stream);
    ///         }
    ///     });
    /// };
    /// stack.open_on_each(open, serve).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// What `open` returned on the first cpu on which it failed; or when the stack is not running,
    /// or `open` panicked.
    pub async fn open_on_each<T, E, F, Fut, S>(&self, open: F, serve: S) -> Result<(), OpenError<E>>
    where
        T: 'static,
        E: Send + 'static,
        F: Fn(LocalStack) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<T, E>> + 'static,
        S: FnOnce(LocalStack, T) + Clone + Send + 'static,
    {
        let mut opened = Vec::new();
        let mut failure = None;
        for cpu in 0..self.cpus() {
            match self.open_on(cpu, open.clone(), serve.clone()).await {
                Ok(on_cpu) => opened.push(on_cpu),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let Some(error) = failure else {
            // Fails only where the cpu has ended since, which closes everything there.
            for Opened { serve, .. } in opened {
                let _ = serve.send(());
            }
            return Ok(());
        };
        for Opened { serve, closed } in opened {
            drop(serve);
            // An end without a word is one, too.
            let _ = closed.await;
        }
        Err(error)
    }

    async fn open_on<T, E, F, Fut, S>(
        &self,
        cpu: u16,
        open: F,
        serve: S,
    ) -> Result<Opened, OpenError<E>>
    where
        T: 'static,
        E: Send + 'static,
        F: FnOnce(LocalStack) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + 'static,
        S: FnOnce(LocalStack, T) + Send + 'static,
    {
        let (go, goes) = oneshot::channel::<()>();
        let (closes, closed) = oneshot::channel::<()>();
        let opening = self.run_on(cpu, |local| async move {
            let opened = open(local.clone()).await?;
            actix::spawn(async move {
                match goes.await {
                    Ok(()) => serve(local, opened),
                    Err(_) => drop(opened),
                }
                // In this order: it is closed when this is told.
                drop(closes);
            });
            Ok(())
        });
        let outcome = opening.await?;
        outcome.map_err(|error| OpenError::Cpu { cpu, error })?;
        Ok(Opened { serve: go, closed })
    }
}
