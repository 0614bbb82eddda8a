use virtroupe_driver::DeviceOptions;
use virtroupe_driver::embedded::{EmbeddedConfig, EmbeddedTransport, Link, LinkConfig};
use virtroupe_driver::memory::HugePages;
use virtroupe_wire::host::HostConfig;

use super::*;
use crate::cpu::{CpuSetup, start_stack};
use crate::device::{DeviceActor, DeviceChanged, Initialize, ResetDevice};
use crate::plan::CpuPlan;
use crate::registry::PortRegistry;
use crate::tcp::TcpSettings;

/// Takes what a supervisor would.
struct Sink;

impl Actor for Sink {
    type Context = Context<Self>;
}

impl Handler<DeviceChanged> for Sink {
    type Result = ();

    fn handle(&mut self, _: DeviceChanged, _: &mut Self::Context) {}
}

impl Handler<QueueEnded> for Sink {
    type Result = ();

    fn handle(&mut self, _: QueueEnded, _: &mut Self::Context) {}
}

/// As after a start-up that failed at its last stage.
#[actix::test]
async fn a_queue_that_never_received_stops_and_releases_its_memory() {
    let (end, _other) = Link::pair(LinkConfig::default());
    let (transport, _, _) =
        EmbeddedTransport::inline(EmbeddedConfig::default(), end).expect("a device");
    let sink = Sink.start();
    let device = DeviceActor::new(sink.clone().recipient()).start();
    let options = DeviceOptions {
        huge_pages: HugePages::Never,
        ..DeviceOptions::default()
    };
    let initialize = Initialize {
        transport: Box::new(transport),
        options,
        cpus: CpuPlan::single(),
    };
    let ready = device.send(initialize).await.expect("alive");
    ready.expect("a device");
    let setup = CpuSetup {
        cpu: 0,
        device: device.clone(),
        host: HostConfig {
            addresses: vec!["10.0.0.1/24".parse().expect("an address")],
            ..HostConfig::default()
        },
        tcp: TcpSettings::default(),
        poll: PollSettings::default(),
        registry: PortRegistry::default(),
        clock: Clock::new(),
        seed: 1,
        tcp_seed: 2,
        watcher: sink.recipient(),
    };
    let actors = start_stack(setup).await.expect("a stack");
    let [queue] = &actors[..] else {
        panic!("one queue, one actor");
    };
    let stop = queue.send(StopQueue {
        drain: Duration::ZERO,
        reason: CloseReason::Shutdown,
    });
    let stopped = tokio::time::timeout(Duration::from_secs(60), stop).await;
    stopped.expect("it answers").expect("alive");
    let reset = device.send(ResetDevice).await.expect("alive");
    reset.expect("the device answers");
    assert_eq!(queue.send(ReleaseQueue).await.expect("alive"), 0);
}
