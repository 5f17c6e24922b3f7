//! Pages of other sites: they neither open sockets, nor are answered under a name that is not the
//! hub's, nor change anything.

use lanyard_device::connection::RelayConnection;

use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

/// Origins of pages that are not ours, for a hub at 127.0.0.1:`port`.
fn foreign(port: u16) -> Vec<String> {
    let own = format!("127.0.0.1:{port}");
    let other = if port == 65_535 { 1 } else { port + 1 };
    let mut origins: Vec<String> = [
        "null",
        "",
        " ",
        "*",
        "http://",
        "https://",
        "http://evil.example",
        "https://evil.example",
        "file://",
        "data:",
        "http://127.0.0.1",
        "https://127.0.0.1",
        "http://localhost",
        "http://0.0.0.0",
        "http://[::1]",
        "blob:null",
        "chrome-extension://abcdefghijklmnop",
        "moz-extension://0000",
        "about:blank",
    ]
    .map(str::to_owned)
    .into();
    origins.extend([
        format!("https://{own}"),
        format!("ws://{own}"),
        format!("wss://{own}"),
        format!("ftp://{own}"),
        format!("http://127.0.0.1:{other}"),
        format!("http://{own}.evil.example"),
        format!("http://{own}0"),
        format!("http://evil{own}"),
        format!("http://evil.{own}"),
        format!("http://{own}@evil.example"),
        format!("http://evil.example@{own}"),
        format!("http://evil.example/{own}"),
        format!("http://evil.example?http://{own}"),
        format!("http://evil.example#http://{own}"),
        format!("http://{own}/"),
        format!("http://{own} http://evil.example"),
        format!("http://{own},http://evil.example"),
        format!("http://localhost:{port}"),
        format!("http://[::ffff:127.0.0.1]:{port}"),
        format!("http://2130706433:{port}"),
        format!("http://0x7f.0.0.1:{port}"),
        format!("http://127.1:{port}"),
        format!("http://127.0.0.1.:{port}"),
        own.clone(),
        format!("//{own}"),
        format!("http:{own}"),
    ]);
    origins
}

/// A01, A02. A page of another site opens a socket, with a cookie for good measure, or calls what
/// changes something: 403 each, no upgrade, for more than forty origins that look like ours.
#[tokio::test]
async fn a01_a02_no_foreign_page_opens_a_socket_or_calls_anything() {
    let hub = TestHub::start().await;
    let at = hub.address.to_string();
    let origins = foreign(hub.address.port());
    assert!(origins.len() >= 40, "{}", origins.len());
    for origin in &origins {
        let headers = format!("Origin: {origin}\r\nCookie: session=0123456789abcdef\r\n");
        for path in ["/ws/device", "/ws/master"] {
            let (_, answer) = head(hub.address, &upgrade(path, &at, &headers)).await;
            assert_eq!(status(&answer), 403, "{path} from {origin:?}: {answer}");
        }
        let post = format!(
            "PUT /chunks/00000000000000000000000000000000 HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n"
        );
        assert_eq!(status(&raw(hub.address, post.as_bytes()).await), 403, "POST from {origin:?}");
    }
    let twice = format!("Origin: http://{at}\r\nOrigin: http://{at}\r\n");
    assert_eq!(
        status(&head(hub.address, &upgrade("/ws/device", &at, &twice)).await.1),
        403,
        "two origins"
    );
    let own = format!("Origin: http://{at}\r\n");
    assert_eq!(
        status(&head(hub.address, &upgrade("/ws/device", &at, &own)).await.1),
        101,
        "our own page"
    );
    assert_eq!(
        status(&head(hub.address, &upgrade("/ws/master", &at, &own)).await.1),
        403,
        "no page is a master"
    );
    assert!(
        RelayConnection::open(&hub.url, "/ws/device", Some("http://evil.example")).await.is_err()
    );
}

/// A03. A program sends no Origin but a cookie: nothing counts but a proof in its own header, which
/// stands there once.
#[tokio::test]
async fn a03_a_cookie_is_no_proof() {
    let hub = TestHub::start().await;
    let ana = hub.approved(1).await;
    let zeros = "0".repeat(32);
    for (method, path) in [("PUT", format!("/chunks/{zeros}")), ("GET", format!("/chunks/{zeros}"))]
    {
        let target = format!("{path}?x");
        let proof = ana.signer.authorize(method, &target).to_string();
        let bare = proof.trim_start_matches("Lanyard ");
        for carrier in [
            format!("Cookie: token={bare}; Authorization={proof}"),
            format!("Authorization: Basic {bare}"),
            format!("Authorization: Bearer {bare}"),
            format!("X-Authorization: {proof}"),
            format!("Authorization: {proof}\r\nAuthorization: {proof}"),
        ] {
            let request = format!(
                "{method} {target} HTTP/1.1\r\nHost: {}\r\n{carrier}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                hub.address
            );
            assert_eq!(
                status(&raw(hub.address, request.as_bytes()).await),
                401,
                "{method} {path} with {carrier}"
            );
        }
    }
}

/// A04. A name of the attacker's that resolves to the hub (DNS rebinding): 421 on every route,
/// static and unknown ones too, by http and by https, also with a proof; a person who navigates is
/// told how the host may allow it.
#[tokio::test]
async fn a04_a_name_that_is_not_the_hubs_is_answered_nowhere() {
    let hub = TestHub::with_tls().await;
    let ana = hub.approved(1).await;
    let client = http_client();
    let port = hub.address.port();
    for host in [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.localhost",
        "xn--lcalhost-3o4c",
    ] {
        for path in paths() {
            for scheme in ["http", "https"] {
                let url = format!("{scheme}://{}{path}", hub.address);
                for method in [reqwest::Method::GET, reqwest::Method::POST] {
                    let request = client
                        .request(method.clone(), &url)
                        .header("host", format!("{host}:{port}"));
                    let answer = request
                        .header(
                            "authorization",
                            ana.signer.authorize(method.as_str(), path.as_str()).to_string(),
                        )
                        .send()
                        .await
                        .unwrap();
                    assert_eq!(answer.status(), 421, "{method} {url} as {host}");
                }
            }
        }
        let (_, answer) = head(hub.address, &upgrade("/ws/device", host, "")).await;
        assert_eq!(status(&answer), 421, "{answer}");
    }
    let navigates = client
        .get(hub.http("/"))
        .header("host", "evil.example")
        .header("sec-fetch-mode", "navigate");
    assert!(navigates.send().await.unwrap().text().await.unwrap().contains("lanyard --host NAME"));
}

/// A05. Two Hosts, a target in absolute form that says another, no Host, odd spellings: only what
/// means the hub is answered.
#[tokio::test]
async fn a05_only_one_host_that_means_the_hub_is_answered() {
    let hub = TestHub::start().await;
    let at = hub.address;
    let port = at.port();
    let hosts = [
        (format!("Host: {at}"), 200),
        (format!("Host:    {at}   "), 200),
        ("Host: LOCALHOST".into(), 200),
        (format!("Host: [::1]:{port}"), 200),
        ("Host: [::1]".into(), 200),
        (format!("Host: [::FFFF:127.0.0.1]:{port}"), 200),
        (format!("Host: {at}\r\nHost: {at}"), 400),
        (format!("Host: {at}\r\nHost: evil.example"), 400),
        (format!("Host: evil.example\r\nHost: {at}"), 400),
        (format!("Host: {at}\r\nhost: {at}"), 400),
        ("X: y".into(), 400),
        ("Host:".into(), 400),
        ("Host: ::1".into(), 400),
        ("Host: [::1".into(), 400),
        ("Host: ::1]".into(), 400),
        ("Host: localhost:1x".into(), 400),
        ("Host: localhost:65536".into(), 400),
        ("Host: localhost:-1".into(), 400),
        ("Host: a:b:c".into(), 400),
        ("Host: localhost.".into(), 421),
        ("Host: 127.0.0.1.".into(), 421),
        ("Host: 127.1".into(), 421),
        ("Host: 2130706433".into(), 421),
        ("Host: 0x7f.0.0.1".into(), 421),
        ("Host: 0177.0.0.1".into(), 421),
        ("Host: [::1%25lo]".into(), 421),
        ("Host: 127.0.0.1, evil.example".into(), 421),
        ("Host: evil.example, 127.0.0.1".into(), 421),
        ("Host: evil.example/127.0.0.1".into(), 421),
        ("Host: evil.example#@127.0.0.1".into(), 421),
        ("Host: user@127.0.0.1".into(), 421),
        ("Host: http://127.0.0.1".into(), 400),
    ];
    for (headers, expected) in hosts {
        for path in ["/", "/healthz"] {
            let request = format!("GET {path} HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n");
            let answer = raw(at, request.as_bytes()).await;
            assert_eq!(statuses(&answer), [expected], "{path} with {headers:?}: {answer:.200}");
        }
    }
    for (target, expected) in [
        (format!("http://{at}/healthz"), 200),
        ("http://evil.example/healthz".into(), 400),
        (format!("http://evil.example:{port}/healthz"), 400),
        (format!("http://{at}@evil.example/healthz"), 400),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&raw(at, request.as_bytes()).await), expected, "{target}");
    }
    let old = raw(at, b"GET /healthz HTTP/1.0\r\n\r\n").await;
    assert!(!old.contains(" 200 "), "{old}");
}

/// A06. A form, a text/plain body, an image of another site towards everything that changes
/// something: refused before a proof is looked at, and nothing is changed by GET or HEAD.
#[tokio::test]
async fn a06_no_other_site_changes_anything_and_get_changes_nothing() {
    let hub = TestHub::start().await;
    let mut ana = hub.approved(1).await;
    let entry = ana.offers("a.mp4", 0).await;
    let made = ana.link(&[&entry]).await;
    let body = format!(
        r#"{{"files":[{{"public_id":"{}","file_id":"{}"}}]}}"#,
        entry.public_id, entry.file_id
    );
    let zeros = hub.http(&format!("/chunks/{}", "0".repeat(32)));
    for (method, url) in
        [("PUT", zeros), ("POST", hub.http(&made.url)), ("DELETE", hub.http(&made.url))]
    {
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "application/json",
        ] {
            let ask = || {
                let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
                ana.ask(method, &url).body(body.clone()).header("content-type", kind)
            };
            for (name, value) in [
                ("origin", "http://evil.example"),
                ("origin", "null"),
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-site", "same-site"),
            ] {
                let answer = ask().header(name, value).send().await.unwrap();
                assert_eq!(answer.status(), 403, "{method} {url} with {name}: {value}");
            }
            let followed =
                ask().header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "navigate");
            assert_eq!(followed.send().await.unwrap().status(), 403, "a form that navigates");
        }
    }
    assert_eq!(
        ana.http.get(hub.http(&made.url)).send().await.unwrap().status(),
        200,
        "the link is as it was"
    );
}

/// A02. A socket that does not offer our subprotocol, or another one, is opened by a client that is
/// not ours: 400, no upgrade.
#[tokio::test]
async fn a02_only_who_speaks_our_subprotocol_gets_a_socket() {
    let hub = TestHub::start().await;
    let ours = upgrade("/ws/device", &hub.address.to_string(), "");
    assert_eq!(status(&head(hub.address, &ours).await.1), 101);
    let line = "Sec-WebSocket-Protocol: lanyard.v2\r\n";
    for instead in
        ["", "Sec-WebSocket-Protocol: chat\r\n", "Sec-WebSocket-Protocol: lanyard.v, chat\r\n"]
    {
        for path in ["/ws/device", "/ws/master"] {
            let request = ours.replace(line, instead).replace("/ws/device", path);
            assert_eq!(
                status(&raw(hub.address, request.as_bytes()).await),
                400,
                "{path} with {instead:?}"
            );
        }
    }
}

/// A07. Another site fetches or asks for leave beforehand: 403, and no answer of any route, to whom
/// ever, has a CORS header.
#[tokio::test]
async fn a07_no_answer_opens_the_hub_to_other_sites() {
    let hub = TestHub::start().await;
    let client = http_client();
    let own = format!("http://{}", hub.address);
    for path in paths() {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            for (name, value) in [
                ("origin", "http://evil.example"),
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-site", "same-site"),
                ("origin", own.as_str()),
                ("x-nothing", "at all"),
            ] {
                let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
                let request = client.request(method.clone(), hub.http(&path)).header(name, value);
                let request = request.header("access-control-request-method", "PUT");
                let request = request.header("access-control-request-private-network", "true");
                let answer = request.send().await.unwrap();
                let opens = |name: &str| {
                    name.starts_with("access-control") || name == "timing-allow-origin"
                };
                assert!(
                    !answer.headers().keys().any(|name| opens(name.as_str())),
                    "{method} {path}: {answer:?}"
                );
                if value.contains("evil") || value.ends_with("-site") {
                    assert_eq!(answer.status(), 403, "{method} {path} with {name}: {value}");
                }
            }
        }
    }
    // Only a person who follows a link comes from elsewhere, and only to what is read.
    for (path, method, expected) in [
        ("/", "GET", 200),
        ("/healthz", "GET", 403),
        ("/chunks/00000000000000000000000000000000", "PUT", 403),
    ] {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = client.request(method, hub.http(path)).header("sec-fetch-site", "cross-site");
        assert_eq!(
            request.header("sec-fetch-mode", "navigate").send().await.unwrap().status(),
            expected,
            "{path}"
        );
    }
}

/// A08. A page of another site frames the app to have its buttons clicked: no answer may be framed.
#[tokio::test]
async fn a08_the_app_cannot_be_framed() {
    let hub = TestHub::start().await;
    for path in ["/", "/index.html"] {
        let answer = http_client().get(hub.http(path)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        for rule in [
            "default-src 'none'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers()["referrer-policy"], "no-referrer");
    }
}
