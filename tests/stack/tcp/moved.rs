//! A peer that uses a port again, while listeners move from cpu to cpu.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use virtroupe::driver::embedded::{Link, LinkConfig};
use virtroupe::{LocalStack, Stack, TcpConnectError, TcpError, TcpOptions, TcpStream};

use super::super::support::{address, config, start, within};
use super::support::wide;

const SERVER: &str = "10.0.0.2:7";

/// Listens on `cpu` for one connection, tells its cpu, and closes it when told; its listener
/// is closed before. Other than with an echo, TIME-WAIT is the server's.
async fn serve_one(server: &Stack, cpu: u16) -> oneshot::Sender<()> {
    let (close, closes) = oneshot::channel();
    let listening = server.run_on(cpu, move |local| async move {
        let at = address("0.0.0.0:7");
        let listening = local.listen_tcp_per_cpu(at, Default::default());
        let listener = listening.await.expect("free");
        actix::spawn(async move {
            let mut stream = listener.accept().await.expect("it listens");
            stream.write_u16(cpu).await.expect("taken");
            let _ = closes.await;
            drop(listener);
            drop(stream);
        });
    });
    within(listening).await.expect("it runs");
    close
}

/// Connects from the only port; while the other side holds that against the last connection it
/// is tried again.
async fn connect_again(local: &LocalStack) -> TcpStream {
    loop {
        match local
            .connect_tcp(address(SERVER), TcpOptions::default())
            .await
        {
            Ok(stream) => return stream,
            Err(TcpConnectError::Failed {
                error: TcpError::Refused,
                ..
            }) => {}
            // The last connection is not over yet.
            Err(TcpConnectError::Attempt(_)) => {}
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Until the cpus know that a connection is over, a new one may be refused; but not for a minute.
#[actix::test]
async fn a_peer_that_uses_its_port_again_reaches_who_listens_now() {
    let (left, right) = Link::pair(LinkConfig::default());
    let mut one_port = config(1);
    one_port.tcp.ephemeral_ports = (50_000, 50_000);
    let (client, _) = start(one_port, left).await;
    let (server, _) = start(wide(2, 2, 1), right).await;
    let first = serve_one(&server, 0).await;
    let (ready, is_ready) = oneshot::channel();
    let (proceed, proceeds) = oneshot::channel::<()>();
    let talking = client.run_on(0, |local| async move {
        let mut stream = connect_again(&local).await;
        let served_by = stream.read_u16().await.expect("served");
        let _ = ready.send(());
        let _ = proceeds.await;
        let end = stream
            .read_u16()
            .await
            .expect_err("the server closes")
            .kind();
        assert_eq!(end, std::io::ErrorKind::UnexpectedEof);
        drop(stream);
        let mut stream = connect_again(&local).await;
        (served_by, stream.read_u16().await.expect("served"))
    });
    let moving = async {
        is_ready.await.expect("connected");
        let second = serve_one(&server, 1).await;
        let _ = first.send(());
        let _ = proceed.send(());
        second
    };
    let (cpus, _second) = within(async { tokio::join!(talking, moving) }).await;
    assert_eq!(cpus.expect("it runs"), (0, 1));
    within(server.shutdown()).await;
    within(client.shutdown()).await;
}
