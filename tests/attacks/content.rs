//! Shared bytes as a page: nothing of them runs in the hub's name, whatever type and name they
//! claim.

use lanyard_protocol::message::*;
use lanyard_protocol::*;

use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

/// Lists an empty file of this name and type.
async fn offers(
    device: &mut TestDevice,
    path: &str,
    media_type: &str,
) -> Result<FileEntry, FailureCode> {
    let file_id: FileId =
        format!("20000000-0000-4000-8000-{:012x}", device.files.len()).parse().unwrap();
    device.files.insert(file_id, Default::default());
    let file = NewFile {
        file_id,
        path: path.into(),
        size: 0,
        modified_ms: 1,
        media_type: media_type.into(),
        kind: EntryKind::File,
        root: None,
    };
    let reference = device.say(DeviceToRelay::AddFiles(AddFiles { files: vec![file] })).await;
    match device.answer(&reference).await {
        RelayToDevice::FilesAdded(mut added) => Ok(added.files.remove(0)),
        RelayToDevice::RequestFailed(no) => Err(no.code),
        other => panic!("{other:?}"),
    }
}

/// A37. HTML, SVG, XML, scripts and what only claims to be something else: saved and never shown,
/// sandboxed, typed as bytes. What cannot script keeps its type, and its headers are the same.
#[tokio::test]
async fn a37_nothing_that_is_shared_runs_in_the_hubs_name() {
    let hub = TestHub::start().await;
    let mut eve = hub.approved(1).await;
    let bytes = "application/octet-stream";
    let types = [
        ("a.html", "text/html", bytes),
        ("a.html", "TEXT/HTML; charset=utf-8", bytes),
        ("a.xhtml", "application/xhtml+xml", bytes),
        ("a.svg", "image/svg+xml", bytes),
        ("a.svg", "IMAGE/SVG+XML ;charset=x", bytes),
        ("a.svg", "image/svg", bytes),
        ("a.xml", "text/xml", bytes),
        ("a.xml", "application/xml", bytes),
        ("a.xml", "image/x+xml", bytes),
        ("a.xml", "video/mp4+xml", bytes),
        ("a.mathml", "application/mathml+xml", bytes),
        ("a.mht", "multipart/related", bytes),
        ("a.mht", "message/rfc822", bytes),
        ("a.js", "text/javascript", bytes),
        ("a.js", "application/javascript", bytes),
        ("a.css", "text/css", bytes),
        ("a.wasm", "application/wasm", bytes),
        ("a.swf", "application/x-shockwave-flash", bytes),
        ("a.hta", "application/hta", bytes),
        ("a.txt", "text/plain", bytes),
        ("a.json", "application/json", bytes),
        ("a", "", bytes),
        ("a", "video/mp4, text/html", bytes),
        ("a", "image/png,text/html", bytes),
        ("a", "image/", bytes),
        ("a", "audio/x y", bytes),
        ("a", "video/<html>", bytes),
        ("a", "video/mp4\u{e9}", bytes),
        ("a.mp4", "video/mp4; codecs=\"text/html\"", "video/mp4"),
        ("a.html", "image/png", "image/png"),
        ("a.ogg", "audio/ogg", "audio/ogg"),
        ("a.pdf", "application/pdf", "application/pdf"),
    ];
    for (path, media_type, served) in types {
        let entry = offers(&mut eve, path, media_type).await.unwrap();
        let made = eve.link(&[&entry]).await;
        for method in [reqwest::Method::GET, reqwest::Method::HEAD] {
            let answer = eve.http.request(method, hub.http(&made.url)).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let headers = answer.headers();
            assert_eq!(headers["content-type"], served, "{path} as {media_type:?}");
            assert!(headers["content-disposition"].to_str().unwrap().starts_with("attachment; "));
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert_eq!(headers["content-security-policy"], "sandbox; default-src 'none'");
            assert_eq!(headers["cross-origin-resource-policy"], "same-origin");
            assert_eq!(headers["referrer-policy"], "no-referrer");
        }
    }
    let (a, b) = (
        offers(&mut eve, "x/a.html", "text/html").await.unwrap(),
        offers(&mut eve, "x/b", "").await.unwrap(),
    );
    let made = eve.link(&[&a, &b]).await;
    let archive = eve.http.get(hub.http(&made.url)).send().await.unwrap();
    assert_eq!(archive.headers()["content-type"], "application/zip");
    assert_eq!(archive.headers()["content-security-policy"], "sandbox; default-src 'none'");
    for media_type in ["text/html\r\nX-Evil: 1", "image/png\n", "a\0b"] {
        assert_eq!(
            offers(&mut eve, "a", media_type).await,
            Err(FailureCode::BadMessage),
            "{media_type:?}"
        );
    }
}

/// A40. Names that would end the header they stand in, or the line: one header, whose name is the
/// file's, and no other header.
#[tokio::test]
async fn a40_a_name_cannot_leave_its_header() {
    let hub = TestHub::start().await;
    let mut eve = hub.approved(1).await;
    for name in [
        "a\"; filename=\"evil.exe",
        "a%0d%0aSet-Cookie: x=y",
        "a;b=c",
        "a'b''c",
        "Küche 📁",
        "a\u{2028}b",
        "a\u{202e}gpj.exe",
        "%",
        "%%%",
        "a,b",
        "=?utf-8?q?evil?=",
        "x\u{e9}\u{301}",
        "a\u{feff}b",
        "*",
        "..a",
        "a b.",
    ] {
        let entry = offers(&mut eve, name, "").await.unwrap();
        let made = eve.link(&[&entry]).await;
        let answer = eve.http.get(hub.http(&made.url)).send().await.unwrap();
        let said: Vec<_> = answer.headers().get_all("content-disposition").iter().collect();
        let [said] = said[..] else { panic!("{said:?}") };
        let said = said.to_str().unwrap();
        let (plain, encoded) = said
            .strip_prefix("attachment; filename=\"")
            .and_then(|rest| rest.split_once("\"; filename*=UTF-8''"))
            .unwrap_or_else(|| panic!("{said}"));
        assert!(!plain.contains(['"', '\\', '%', '/', ';']) && plain.is_ascii(), "{plain}");
        let token = |b: u8| b.is_ascii_alphanumeric() || b"-._~%".contains(&b);
        assert!(encoded.bytes().all(token), "{encoded}");
        assert_eq!(decoded(encoded), name, "what is saved is what it is called");
        assert!(answer.headers().get("set-cookie").is_none());
    }
}

/// Percent-decoding.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        if *first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&more[..2]).unwrap(), 16).unwrap());
            rest = &more[2..];
        } else {
            bytes.push(*first);
            rest = more;
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// A52. Whatever is asked, by whatever name, nothing but `/secure` sends anybody elsewhere, and
/// that only to the hub itself.
#[tokio::test]
async fn a52_no_answer_leads_to_another_host() {
    let hub = TestHub::with_tls().await;
    let at = hub.address;
    let mut targets = paths();
    targets.extend(
        [
            "//evil.example/",
            "/\\evil.example/",
            "/secure?to=https://evil.example/",
            "/?next=//evil.example",
            "/%2f%2fevil.example",
        ]
        .map(str::to_owned),
    );
    for target in targets {
        for more in [
            "",
            "X-Forwarded-Host: evil.example\r\nForwarded: host=evil.example\r\nX-Original-URL: //evil.example/\r\n",
        ] {
            let request =
                format!("GET {target} HTTP/1.1\r\nHost: {at}\r\n{more}Connection: close\r\n\r\n");
            let answer = raw(at, request.as_bytes()).await;
            let location = answer.lines().find(|line| line.to_lowercase().starts_with("location:"));
            match target.starts_with("/secure") {
                true => assert_eq!(location, Some(format!("location: https://{at}/").as_str())),
                false => assert_eq!(location, None, "{target}"),
            }
        }
    }
}
