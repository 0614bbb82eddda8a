//! TCP with Linux as the peer, over TAP.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use virtroupe::{Keepalive, ListenOptions, TcpOptions};

use super::family::Family;
use super::host::Host;
use super::stream::{self, Content, content};
use crate::support::requirement::{IP, Requirement};
use crate::support::{Outcome, Suite};

/// Where the stack and the kernel listen.
const PORT: u16 = 5001;
/// Whoever has not answered by then will not.
const LIMIT: Duration = Duration::from_secs(60);

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    use Requirement::{Namespaces, Tun};
    let test = |name, body: fn(Family) -> Outcome<()>| {
        Family::tests(suite, name, &[Namespaces, Tun, IP], body)
    };
    let tests = [
        test("tcp::bulk_each_way_as_server", bulk_each_way_as_server),
        test("tcp::bulk_each_way_as_client", bulk_each_way_as_client),
        test(
            "tcp::half_closed_by_either_side",
            half_closed_by_either_side,
        ),
        test("tcp::reset_by_either_side", reset_by_either_side),
        test("tcp::refused_by_either_side", refused_by_either_side),
        test(
            "tcp::connecting_to_nobody_times_out",
            connecting_to_nobody_times_out,
        ),
        test(
            "tcp::keepalive_finds_a_dead_peer",
            keepalive_finds_a_dead_peer,
        ),
        test(
            "tcp::a_window_is_closed_for_ten_seconds",
            a_window_is_closed_for_ten_seconds,
        ),
    ];
    tests.into_iter().flatten().collect()
}

fn bulk_each_way_as_server(family: Family) -> Outcome<()> {
    let (host, length) = (family.start()?, family.bulk());
    let ours = serve(&host, family, move |mut stream| async move {
        both_ways(&mut stream, length).await
    })?;
    let kernel = connect(&host, family)?;
    let theirs = kernel_both_ways(kernel, length);
    check(ours.recv_timeout(LIMIT)?, theirs, length)
}

fn bulk_each_way_as_client(family: Family) -> Outcome<()> {
    let (host, length) = (family.start()?, family.bulk());
    let listener = host.listen(family.kernel(PORT))?;
    let theirs = thread::spawn(move || -> io::Result<Content> {
        let (kernel, _) = listener.accept()?;
        kernel_both_ways(kernel, length)
    });
    let ours = host.run(move |local| async move {
        let peer = family.kernel(PORT);
        let mut stream = local.connect_tcp(peer, TcpOptions::default()).await?;
        both_ways(&mut stream, length).await
    })?;
    let theirs = theirs.join().expect("it does not panic");
    check(ours, theirs, length)
}

/// Writes and reads `length` bytes of a stream of ours at the same time.
async fn both_ways(stream: &mut virtroupe::TcpStream, length: u64) -> io::Result<Content> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        stream::write_async(&mut writer, length).await?;
        writer.shutdown().await
    };
    let (written, read) = tokio::join!(write, stream::read_async(&mut reader));
    written.and(read)
}

/// As [`both_ways`], on a stream of the kernel.
fn kernel_both_ways(kernel: TcpStream, length: u64) -> io::Result<Content> {
    let mut reader = kernel.try_clone()?;
    let read = thread::spawn(move || stream::read(&mut reader));
    let mut writer = &kernel;
    let written =
        stream::write(&mut writer, length).and_then(|()| kernel.shutdown(Shutdown::Write));
    let read = read.join().expect("it does not panic");
    written.and(read)
}

fn check(ours: io::Result<Content>, theirs: io::Result<Content>, length: u64) -> Outcome<()> {
    let expected = content(length);
    assert_eq!(ours.map_err(|error| format!("ours: {error}"))?, expected);
    assert_eq!(
        theirs.map_err(|error| format!("the kernel's: {error}"))?,
        expected
    );
    Ok(())
}

fn half_closed_by_either_side(family: Family) -> Outcome<()> {
    let host = family.start()?;
    // The kernel ends first, and gets its answer after that.
    let ours = serve(&host, family, |mut stream| async move {
        let heard = stream::read_async(&mut stream).await?;
        stream::write_async(&mut stream, 1_000_000).await?;
        stream.shutdown().await?;
        Ok::<_, io::Error>(heard)
    })?;
    let mut kernel = connect(&host, family)?;
    stream::write(&mut kernel, 100_000)?;
    kernel.shutdown(Shutdown::Write)?;
    assert_eq!(stream::read(&mut kernel)?, content(1_000_000));
    assert_eq!(ours.recv_timeout(LIMIT)??, content(100_000));

    // We end first.
    let listener = host.listen(family.kernel(PORT))?;
    let theirs = thread::spawn(move || -> io::Result<Content> {
        let (mut kernel, _) = listener.accept()?;
        let heard = stream::read(&mut kernel)?;
        stream::write(&mut kernel, 1_000_000)?;
        Ok(heard)
    });
    let ours = host.run(move |local| async move {
        let peer = family.kernel(PORT);
        let mut stream = local.connect_tcp(peer, TcpOptions::default()).await?;
        stream::write_async(&mut stream, 100_000).await?;
        stream.shutdown().await?;
        stream::read_async(&mut stream).await
    })?;
    assert_eq!(ours?, content(1_000_000));
    assert_eq!(theirs.join().expect("it does not panic")?, content(100_000));
    Ok(())
}

fn reset_by_either_side(family: Family) -> Outcome<()> {
    let host = family.start()?;
    let ours = serve(&host, family, |mut stream| async move {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        if byte[0] == b'w' {
            // It is the kernel that resets.
            return stream.read_exact(&mut byte).await.map(drop);
        }
        stream.abort();
        Ok::<_, io::Error>(())
    })?;
    let mut kernel = connect(&host, family)?;
    kernel.write_all(b"w")?;
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&kernel, sockopt::Linger, &linger)?;
    drop(kernel);
    let error = ours.recv_timeout(LIMIT)?.expect_err("it was reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");

    let mut kernel = connect(&host, family)?;
    kernel.write_all(b"r")?;
    ours.recv_timeout(LIMIT)??;
    let error = kernel.read(&mut [0]).expect_err("it was reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    Ok(())
}

fn refused_by_either_side(family: Family) -> Outcome<()> {
    let host = family.start()?;
    let error = connect(&host, family).expect_err("nobody listens");
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    assert_eq!(kind, Some(ErrorKind::ConnectionRefused), "{error}");
    let error = connect_ours(&host, family.kernel(PORT), TcpOptions::default())?;
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    Ok(())
}

fn connecting_to_nobody_times_out(family: Family) -> Outcome<()> {
    // There is no such station, but we do not ask.
    let nobody = family.neighbor(9);
    let host = family.start_with(|config| config.host.neighbors.push(nobody))?;
    let options = TcpOptions {
        connect_timeout: Duration::from_secs(2),
        ..TcpOptions::default()
    };
    let error = connect_ours(&host, (nobody.address, PORT).into(), options)?;
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    // Nobody answers when we ask for this one.
    let error = connect_ours(&host, (family.host(77), PORT).into(), TcpOptions::default())?;
    assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{error}");
    Ok(())
}

/// The error of an attempt to connect.
fn connect_ours(host: &Host, peer: SocketAddr, options: TcpOptions) -> Outcome<io::Error> {
    let error = host.run(move |local| async move {
        let outcome = local.connect_tcp(peer, options).await;
        outcome.err().map(io::Error::from)
    })?;
    Ok(error.ok_or("it was connected")?)
}

fn keepalive_finds_a_dead_peer(family: Family) -> Outcome<()> {
    let host = family.start()?;
    let options = TcpOptions {
        keepalive: Some(Keepalive {
            idle: Duration::from_secs(1),
            interval: Duration::from_millis(500),
            probes: 3,
        }),
        ..TcpOptions::default()
    };
    let ours = serve_with(&host, family, options, |mut stream| async move {
        stream.write_all(b"x").await?;
        stream.read(&mut [0]).await
    })?;
    let mut kernel = connect(&host, family)?;
    kernel.read_exact(&mut [0])?;
    // The peer dies without a word.
    family.delete_kernel(&host.kernel)?;
    let error = ours.recv_timeout(LIMIT)?.expect_err("it is dead");
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    Ok(())
}

fn a_window_is_closed_for_ten_seconds(family: Family) -> Outcome<()> {
    const LENGTH: u64 = 32 << 20; // more than both ends have room for
    const PAUSE: Duration = Duration::from_secs(10);
    let host = family.start()?;
    // Neither side reads for a while, and each writes.
    let ours = serve(&host, family, |stream| async move {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let read = async {
            tokio::time::sleep(PAUSE).await;
            stream::read_async(&mut reader).await
        };
        let write = async {
            stream::write_async(&mut writer, LENGTH).await?;
            writer.shutdown().await
        };
        let (written, read) = tokio::join!(write, read);
        written.and(read)
    })?;
    let kernel = connect(&host, family)?;
    let mut reader = kernel.try_clone()?;
    let theirs = thread::spawn(move || {
        thread::sleep(PAUSE);
        stream::read(&mut reader)
    });
    stream::write(&mut &kernel, LENGTH)?;
    kernel.shutdown(Shutdown::Write)?;
    let theirs = theirs.join().expect("it does not panic");
    check(ours.recv_timeout(LIMIT)?, theirs, LENGTH)
}

/// Has the stack listen, and do `work` with each connection; gives the results.
fn serve<T, F>(
    host: &Host,
    family: Family,
    work: impl Fn(virtroupe::TcpStream) -> F + Send + 'static,
) -> Outcome<Receiver<T>>
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    serve_with(host, family, TcpOptions::default(), work)
}

fn serve_with<T, F>(
    host: &Host,
    family: Family,
    connection: TcpOptions,
    work: impl Fn(virtroupe::TcpStream) -> F + Send + 'static,
) -> Outcome<Receiver<T>>
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let (results, received) = channel();
    let options = ListenOptions {
        connection,
        ..ListenOptions::default()
    };
    host.run(move |local| async move {
        let listener = local.listen_tcp(family.stack(PORT), options).await?;
        actix::spawn(async move {
            while let Ok(stream) = listener.accept().await {
                let (work, results) = (work(stream), results.clone());
                actix::spawn(async move {
                    let _ = results.send(work.await);
                });
            }
        });
        Ok::<_, virtroupe::BindError>(())
    })??;
    Ok(received)
}

/// A connection of the kernel to the stack.
fn connect(host: &Host, family: Family) -> Outcome<TcpStream> {
    let stream = host
        .kernel
        .enter(|| TcpStream::connect(family.stack(PORT)))??;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}
