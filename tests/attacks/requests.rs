//! Requests that two servers would read as two things, and another version of HTTP than the one
//! that is spoken.

use std::sync::Arc;

use tokio::net::TcpStream;

use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

/// What is smuggled: answered, it would be seen by its status.
const SMUGGLED: &str = "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

/// A49. Lengths that contradict each other, lines that are folded or end otherwise, chunks that are
/// none: one answer, and what was hidden behind is not read as a request.
#[tokio::test]
async fn a49_one_request_is_one_request() {
    let hub = TestHub::start().await;
    let host = format!("Host: {}\r\n", hub.address);
    let hidden = SMUGGLED.len();
    let requests = [
        (
            "CL.TE",
            format!(
                "PUT {CHUNK} HTTP/1.1\r\n{host}Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}",
                hidden + 5
            ),
        ),
        (
            "TE.CL",
            format!(
                "PUT {CHUNK} HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{hidden:x}\r\n{SMUGGLED}\r\n0\r\n\r\n"
            ),
        ),
        (
            "TE.TE",
            format!(
                "PUT {CHUNK} HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
        ),
        (
            "TE identity",
            format!(
                "PUT {CHUNK} HTTP/1.1\r\n{host}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
        ),
        (
            "TE spelled",
            format!(
                "PUT {CHUNK} HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
        ),
        (
            "TE on GET of 1.0",
            format!(
                "GET / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
        ),
        (
            "TE before a space",
            format!(
                "PUT {CHUNK} HTTP/1.1\r\n{host}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
        ),
        (
            "two lengths",
            format!(
                "PUT {CHUNK} HTTP/1.1\r\n{host}Content-Length: 0\r\nContent-Length: {hidden}\r\n\r\n{SMUGGLED}"
            ),
        ),
        (
            "a list of lengths",
            format!("PUT {CHUNK} HTTP/1.1\r\n{host}Content-Length: 0, {hidden}\r\n\r\n{SMUGGLED}"),
        ),
        (
            "a signed length",
            format!("PUT {CHUNK} HTTP/1.1\r\n{host}Content-Length: +0\r\n\r\n{SMUGGLED}"),
        ),
        (
            "a negative length",
            format!("PUT {CHUNK} HTTP/1.1\r\n{host}Content-Length: -1\r\n\r\n{SMUGGLED}"),
        ),
        (
            "a folded line",
            format!(
                "PUT {CHUNK} HTTP/1.1\r\n{host}X: a\r\n Content-Length: {hidden}\r\n\r\n{SMUGGLED}"
            ),
        ),
        (
            "a folded TE",
            format!(
                "PUT {CHUNK} HTTP/1.1\r\n{host}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
        ),
        ("NUL in a value", format!("PUT {CHUNK} HTTP/1.1\r\n{host}X: a\0b\r\n\r\n{SMUGGLED}")),
        (
            "CR alone in a value",
            format!("PUT {CHUNK} HTTP/1.1\r\n{host}X: a\rContent-Length: 9\r\n\r\n{SMUGGLED}"),
        ),
        (
            "a length of a chunk beyond all",
            format!(
                "PUT {CHUNK} HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{SMUGGLED}"
            ),
        ),
        (
            "a chunk that is no number",
            format!(
                "PUT {CHUNK} HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n{SMUGGLED}"
            ),
        ),
        (
            "an endless chunk-ext",
            format!(
                "PUT {CHUNK} HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n1;{}\r\nA\r\n",
                "x".repeat(100_000)
            ),
        ),
        (
            "a line without its CR in a chunk",
            format!(
                "PUT {CHUNK} HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\n\n{SMUGGLED}"
            ),
        ),
        (
            "a socket with a body",
            format!("{}{SMUGGLED}", upgrade("/ws/device", "evil.example", "Content-Length: 5\r\n")),
        ),
    ];
    for (kind, request) in requests {
        let answer =
            raw_then_close(TcpStream::connect(hub.address).await.unwrap(), request.as_bytes())
                .await;
        let statuses = statuses(&answer);
        assert!(
            !statuses.contains(&200) || kind.contains("1.0"),
            "{kind}: the hidden request was answered: {answer}"
        );
        assert!(statuses.len() <= 1 || statuses[1..] == [400], "{kind}: {answer}");
    }
    // The control: two honest requests on one connection are two.
    let honest = format!("PUT {CHUNK} HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n{SMUGGLED}");
    assert_eq!(
        statuses(
            &raw_then_close(TcpStream::connect(hub.address).await.unwrap(), honest.as_bytes())
                .await
        ),
        [401, 200]
    );
}

/// A route that takes a body.
const CHUNK: &str = "/chunks/00000000000000000000000000000000";

/// A49. A head that never ends, a thousand headers, a target longer than any: refused, and not
/// kept.
#[tokio::test]
async fn a49_heads_have_a_bound() {
    let hub = TestHub::start().await;
    let host = format!("Host: {}\r\n", hub.address);
    for (kind, request) in [
        (
            "a long value",
            format!("GET /healthz HTTP/1.1\r\n{host}X: {}\r\n\r\n", "x".repeat(2 << 20)),
        ),
        (
            "many headers",
            format!("GET /healthz HTTP/1.1\r\n{host}{}\r\n", "X: y\r\n".repeat(1_000)),
        ),
        ("a long target", format!("GET /{} HTTP/1.1\r\n{host}\r\n", "x".repeat(100_000))),
    ] {
        let answer = raw(hub.address, request.as_bytes()).await;
        assert!(
            statuses(&answer).iter().all(|status| matches!(status, 400 | 414 | 431)),
            "{kind}: {answer:.200}"
        );
    }
}

/// A50. HTTP/2: its preface on the port is no request, TLS does not agree to it, and who offers
/// both gets HTTP/1.1.
#[tokio::test]
async fn a50_http_2_is_not_spoken() {
    let hub = TestHub::with_tls().await;
    let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    preface.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let answer = raw_then_close(TcpStream::connect(hub.address).await.unwrap(), &preface).await;
    assert!(answer.is_empty() || statuses(&answer) == [400], "{answer:?}");
    let asked = format!(
        "GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        hub.address
    );
    assert_eq!(
        statuses(&raw(hub.address, asked.as_bytes()).await),
        [200],
        "h2c is not switched to"
    );
    for (offered, agreed) in [(vec!["h2"], None), (vec!["h2", "http/1.1"], Some("http/1.1"))] {
        let mut config = crate::tls::anything();
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let stream = TcpStream::connect(hub.address).await.unwrap();
        let shaken = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        match agreed {
            None => assert!(shaken.is_err(), "no version in common"),
            Some(agreed) => {
                let stream = shaken.unwrap();
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(agreed.as_bytes()));
            }
        }
    }
}
