//! What is opened on every cpu or on none.

use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;
use virtroupe::driver::embedded::{Link, LinkConfig};
use virtroupe::{BindError, ListenOptions, LocalStack, OpenError, TcpListener, TcpOptions};

use crate::stack::support::{address, config, start, within};

async fn listen(local: LocalStack) -> Result<TcpListener, BindError> {
    let at = address("0.0.0.0:7");
    local.listen_tcp_per_cpu(at, ListenOptions::default()).await
}

#[actix::test]
async fn where_one_cpu_can_not_listen_none_does_and_nothing_is_left_behind() {
    let (left, right) = Link::pair(LinkConfig::default());
    let (client, _) = start(config(1), left).await;
    let (server, _) = start(config(2).cpus(3), right).await;
    let (close, closes) = oneshot::channel::<()>();
    let in_the_way = server.run_on(2, |local| async move {
        let listener = listen(local).await?;
        actix::spawn(async move {
            let _ = closes.await;
            drop(listener);
        });
        Ok::<_, BindError>(())
    });
    within(in_the_way).await.expect("it runs").expect("free");

    let (served, mut is_served) = unbounded_channel();
    let serve = move |local: LocalStack, listener: TcpListener| {
        let _ = served.send(local.cpu());
        actix::spawn(async move { while listener.accept().await.is_ok() {} });
    };
    let error = within(server.open_on_each(listen, serve.clone())).await;
    let error = error.expect_err("one cpu listens already");
    assert!(
        matches!(
            error,
            OpenError::Cpu {
                cpu: 2,
                error: BindError::Listen(_)
            }
        ),
        "{error}"
    );
    assert!(is_served.try_recv().is_err(), "it serves nowhere");
    // Nobody but the one in the way is bound any more: it can be had alone when that is gone.
    let _ = close.send(());
    let alone = server.run_on(1, |local| async move {
        let at = address("0.0.0.0:7");
        loop {
            match local.listen_tcp(at, ListenOptions::default()).await {
                Ok(listener) => return drop(listener),
                Err(BindError::InUseOnOtherCpu { cpu: 2, .. }) => {
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
    within(alone).await.expect("it runs");

    within(server.open_on_each(listen, serve))
        .await
        .expect("it is free now");
    let mut cpus = Vec::new();
    for _ in 0..3 {
        cpus.extend(within(is_served.recv()).await);
    }
    cpus.sort_unstable();
    assert_eq!(cpus, [0, 1, 2]);
    let end = client.run_on(0, |local| async move {
        let connecting = local.connect_tcp(address("10.0.0.2:7"), TcpOptions::default());
        connecting.await.expect("somebody listens").read_u8().await
    });
    within(end)
        .await
        .expect("it runs")
        .expect_err("the server closes");
    within(server.shutdown()).await;
    within(client.shutdown()).await;
    let error = within(server.open_on_each(listen, |_, _| ())).await;
    assert!(matches!(error, Err(OpenError::NotRunning(_))), "{error:?}");
}

#[actix::test]
async fn who_stops_waiting_opens_nothing() {
    let (_client, right) = Link::pair(LinkConfig::default());
    let (server, _) = start(config(2).cpus(3), right).await;
    let (begun, mut has_begun) = unbounded_channel();
    let open = move |local: LocalStack| {
        let begun = begun.clone();
        async move {
            let is_last = local.cpu() == 2;
            let listener = listen(local).await;
            if is_last {
                let _ = begun.send(());
                std::future::pending::<()>().await;
            }
            listener
        }
    };
    let (served, mut is_served) = unbounded_channel();
    let serve = move |local: LocalStack, _: TcpListener| {
        let _ = served.send(local.cpu());
    };
    tokio::select! {
        _ = server.open_on_each(open, serve) => panic!("the last one does not come to an end"),
        begun = within(has_begun.recv()) => begun.expect("the last one begins"),
    }
    // Only the last cpu is left, whose work goes on.
    for cpu in [0, 1] {
        let closed = server.run_on(cpu, |local| async move {
            let at = address("0.0.0.0:7");
            loop {
                match local.listen_tcp(at, ListenOptions::default()).await {
                    Err(BindError::InUseOnOtherCpu { .. }) => return,
                    Err(BindError::Listen(_)) => tokio::task::yield_now().await,
                    outcome => panic!("{outcome:?}"),
                }
            }
        });
        within(closed).await.expect("it runs");
    }
    assert!(is_served.try_recv().is_err(), "it serves nowhere");
    within(server.shutdown()).await;
}
