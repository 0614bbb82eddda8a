//! HTTP and HTTPS with the clients that people use.

use std::fs;
use std::io::{self, Write};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Trial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use virtroupe::ListenOptions;

use super::family::Family;
use super::host::INTERFACE;
use super::stream::{self, content};
use crate::support::namespace::Namespace;
use crate::support::process::{Process, TemporaryPath, example};
use crate::support::requirement::{CURL, IP, Requirement, WRK};
use crate::support::{Outcome, Suite};

/// A program that has not done it by then hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// The tests of this module.
pub fn tests(suite: &Suite) -> Vec<Trial> {
    use Requirement::{Namespaces, Tun};
    let test = |name, program, body: fn(Family) -> Outcome<()>| {
        Family::tests(suite, name, &[Namespaces, Tun, IP, program], body)
    };
    let tests = [
        test("http::curl_gets_a_long_file", CURL, curl_gets_a_long_file),
        test(
            "http::wrk_sees_no_error_on_256_connections",
            WRK,
            wrk_sees_no_error_on_256_connections,
        ),
        test(
            "http::curl_speaks_tls_through_rustls",
            CURL,
            curl_speaks_tls_through_rustls,
        ),
    ];
    tests.into_iter().flatten().collect()
}

/// The example, on a TAP interface of a kernel.
fn http_server(family: Family) -> Outcome<(Namespace, Process)> {
    let kernel = Namespace::new()?;
    kernel.ip(&format!("tuntap add dev {INTERFACE} mode tap vnet_hdr"))?;
    family.add_kernel(&kernel)?;
    let mut command = Command::new(example("http_server")?);
    command.args(family.arguments());
    let server = Process::start(command, Some(&kernel))?;
    family.wait_for_kernel(&kernel)?;
    // Until it listens. A question for its Ethernet address that nobody has answered for three seconds
    // fails the attempt that is under way then.
    let retry = "--retry 20 --retry-all-errors --retry-delay 1 --connect-timeout 2";
    let arguments = format!("-sS {retry} http://{}/", family.stack(80));
    let said = kernel.run("curl", &arguments.split(' ').collect::<Vec<_>>())?;
    assert_eq!(said, "hello from Virtroupe\n");
    Ok((kernel, server))
}

fn curl_gets_a_long_file(family: Family) -> Outcome<()> {
    let (kernel, server) = http_server(family)?;
    let (at, length) = (family.stack(80), family.bulk());
    let script = format!("curl -sS --max-time 120 'http://{at}/bytes/{length}' | sha256sum");
    let printed = kernel.run("sh", &["-c", &script])?;
    let sha256 = printed.split(' ').next().unwrap_or_default();
    assert_eq!(sha256, content(length).sha256);
    server.interrupt()?;
    let (status, printed) = server.wait(LIMIT)?;
    assert!(status.success(), "{status}: {printed}");
    Ok(())
}

fn wrk_sees_no_error_on_256_connections(family: Family) -> Outcome<()> {
    let (kernel, server) = http_server(family)?;
    let url = format!("http://{}/", family.stack(80));
    let arguments = ["-t", "2", "-c", "256", "-d", "10s", &url];
    let printed = kernel.run("wrk", &arguments)?;
    // It prints a line of socket errors, or of answers that are not 2xx, only if there are any.
    let is_clean = !printed.contains("Socket errors") && !printed.contains("Non-2xx");
    assert!(is_clean && printed.contains("requests in"), "{printed}");
    server.interrupt()?;
    let (status, printed) = server.wait(LIMIT)?;
    assert!(status.success(), "{status}: {printed}");
    Ok(())
}

fn curl_speaks_tls_through_rustls(family: Family) -> Outcome<()> {
    const LENGTH: u64 = 10_000_000;
    let host = family.start()?;
    let stack = family.stack(443);
    let certified = rcgen::generate_simple_self_signed([stack.ip().to_string()])?;
    let certificate = TemporaryPath::new(family.choose("certificate4", "certificate6"));
    fs::File::create(&*certificate)?.write_all(certified.cert.pem().as_bytes())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(
        certified.signing_key.serialize_der(),
    ));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    host.run(move |local| async move {
        let any = family.any(443);
        let listener = local.listen_tcp(any, ListenOptions::default()).await?;
        actix::spawn(async move {
            while let Ok(stream) = listener.accept().await {
                actix::spawn(serve_tls(acceptor.clone(), stream, LENGTH));
            }
        });
        Ok::<_, virtroupe::BindError>(())
    })??;
    let script = format!(
        "curl -sS --max-time 60 --cacert {} 'https://{stack}/' | sha256sum",
        certificate.display()
    );
    let printed = host.kernel.run("sh", &["-c", &script])?;
    let sha256 = printed.split(' ').next().unwrap_or_default();
    assert_eq!(sha256, content(LENGTH).sha256);
    Ok(())
}

/// Answers one request over TLS with known content.
async fn serve_tls(
    acceptor: TlsAcceptor,
    stream: virtroupe::TcpStream,
    length: u64,
) -> io::Result<()> {
    let mut tls = acceptor.accept(stream).await?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(tls.read_u8().await?);
    }
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    tls.write_all(head.as_bytes()).await?;
    stream::write_async(&mut tls, length).await?;
    tls.shutdown().await
}
