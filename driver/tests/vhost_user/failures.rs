//! Backends that are silent, close, answer nonsense, refuse, or are not there.

use std::os::unix::net::UnixListener;

use proptest::prelude::{ProptestConfig, any, prop, prop_assert, proptest};
use virtroupe_driver::transport::{Transport, TransportError};
use virtroupe_driver::vhost_user::{VhostUser, VhostUserConfig};

use crate::backend::{
    self, Backend, Fault, Folder, GET_FEATURES, GET_PROTOCOL_FEATURES, GET_STATUS, GET_VRING_BASE,
    SET_MEM_TABLE, SET_VRING_CALL,
};
use crate::{LONG, SHORT, faulty, memory, start, start_error, transport, whole_sequence};

#[test]
fn a_silent_backend_times_out() {
    for request in [
        GET_FEATURES,
        GET_PROTOCOL_FEATURES,
        SET_MEM_TABLE,
        SET_VRING_CALL,
    ] {
        let mut backend = Backend::start(faulty(request, Fault::Silence));
        let mut transport = transport(&backend, SHORT);
        let error = start_error(&mut transport);
        assert!(
            matches!(error, TransportError::TimedOut { .. }),
            "{request}: {error}"
        );
        backend.release();
    }
}

#[test]
fn a_backend_that_never_accepts_times_out() {
    let folder = Folder::new();
    let path = folder.file("socket");
    let _listener = UnixListener::bind(&path).expect("a socket");
    let config = VhostUserConfig {
        timeout: SHORT,
        ..VhostUserConfig::new(&path)
    };
    let error = VhostUser::new(config)
        .offered_features()
        .expect_err("nobody answers");
    let expected = format!(
        "vhost-user:{} did not answer GET_FEATURES within 30 ms; is the backend running and not \
         stopped?",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
}

/// What is said of a backend that has `fault` at `request`.
fn error_of(request: u32, fault: Fault) -> TransportError {
    let backend = Backend::start(faulty(request, fault));
    let error = start_error(&mut transport(&backend, LONG));
    backend.finish();
    error
}

#[test]
fn a_backend_that_closes_midway_is_named() {
    let mut requests = whole_sequence();
    requests.retain(|request| *request != GET_VRING_BASE);
    for request in requests {
        let error = error_of(request, Fault::Close);
        assert!(
            matches!(error, TransportError::Closed { .. }),
            "{request}: {error}"
        );
    }
}

#[test]
fn malformed_answers_are_blamed_on_the_device() {
    let header = |words: [u32; 3]| words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let faults = [
        ("another request", Fault::Raw(header([2, 5, 8]))),
        ("version 2", Fault::Raw(header([1, 6, 8]))),
        ("not a reply", Fault::Raw(header([1, 1, 8]))),
        ("too short", Fault::Raw(header([1, 5, 4]))),
        ("huge", Fault::Raw(header([1, 5, u32::MAX]))),
        ("with a file", Fault::File),
    ];
    for (name, fault) in faults {
        let error = error_of(GET_FEATURES, fault);
        assert!(
            matches!(error, TransportError::Device { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_refused_request_is_named() {
    let error = error_of(SET_MEM_TABLE, Fault::Answer(1)).to_string();
    assert!(
        error.ends_with("refused SET_MEM_TABLE (code 1); its log may say why"),
        "{error}"
    );
}

#[test]
fn a_backend_that_clears_features_ok_refuses_the_features() {
    let error = error_of(GET_STATUS, Fault::Answer(3)).to_string();
    assert!(
        error.contains("refused the features MTU VERSION_1 IN_ORDER"),
        "{error}"
    );
}

#[test]
fn a_connection_that_cannot_be_made_says_what_to_do() {
    let folder = Folder::new();
    let file = folder.file("file");
    std::fs::write(&file, "").expect("written");
    let stale = folder.file("stale");
    backend::stale_socket(&stale);
    let cases = [
        (
            folder.file("none"),
            "start the backend first or check the path",
        ),
        (file, "it is not a socket: check the path"),
        (stale, "nobody listens on it: start the backend again"),
        (
            folder.file(&"x".repeat(120)),
            "use a path of at most 107 bytes",
        ),
    ];
    for (path, advice) in cases {
        let error = VhostUser::new(VhostUserConfig::new(&path)).offered_features();
        let message = error.expect_err("no backend").to_string();
        let context = format!("cannot connect to vhost-user socket {}: ", path.display());
        assert!(
            message.starts_with(&context) && message.contains(advice),
            "{message}"
        );
    }
}

#[test]
fn a_backend_that_comes_later_is_waited_for() {
    let folder = Folder::new();
    let path = folder.file("socket");
    let config = VhostUserConfig {
        wait_for_socket: LONG,
        timeout: LONG,
        ..VhostUserConfig::new(&path)
    };
    let transport = std::thread::spawn(move || VhostUser::new(config).offered_features());
    let listener = UnixListener::bind(&path).expect("a socket");
    drop(listener.accept().expect("a connection"));
    let error = transport
        .join()
        .expect("no panic")
        .expect_err("it closes at once");
    assert!(matches!(error, TransportError::Closed { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever bytes answer whichever request: an error or a value, within the time, no panic.
    #[test]
    fn arbitrary_answers_never_panic(
        request in prop::sample::select(whole_sequence()),
        well_formed: bool,
        bytes in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let bytes = if well_formed { backend::reply(request, &bytes) } else { bytes };
        let backend = Backend::start(faulty(request, Fault::Raw(bytes)));
        let mut transport = transport(&backend, LONG);
        let started = start(&mut transport, &memory());
        prop_assert!(started.is_err() || request == GET_VRING_BASE);
        prop_assert!(transport.reset().is_ok(), "the backend has closed");
        backend.finish();
    }
}
