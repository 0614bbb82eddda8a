//! Many bytes, each verified.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use virtroupe::driver::embedded::LinkConfig;

use super::super::support::{address, pair, within};
use super::support::{bytes, connect, echo_server};

#[actix::test]
async fn what_is_sent_comes_back_from_an_echo() {
    let (client, server, _) = pair(LinkConfig::default()).await;
    echo_server(&server, "10.0.0.2:7").await;
    let checked = client.run_on(0, |local| async move {
        let stream = connect(&local, address("10.0.0.2:7")).await;
        let (mut reader, mut writer) = stream.into_split();
        let sent = bytes(1, 8 << 20);
        let expected = sent.clone();
        actix::spawn(async move {
            writer.write_all(&sent).await.expect("taken");
            writer.shutdown();
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.expect("no error");
        received == expected
    });
    let (c, s) = (client.clone(), server.clone());
    actix::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        for x in [c, s] { 
        let st = x.stats().await.unwrap();
        eprintln!("{:?}\n{:?}\n{}", st.cpus[0].shard.tcp, st.cpus[0].shard.host, st);
        }
    });
    assert!(within(checked).await.expect("it runs"));
    let stats = client.stats().await.expect("it runs");
    eprintln!("{:#?}", stats.cpus[0].shard.tcp);
    server.shutdown().await;
    client.shutdown().await;
}
