//! The web client, embedded: two pages and what they load.
//!
//! `respond` serves devices (`/` is the shelf), `respond_console` serves the host's own screen
//! (`/` is the console). Both answer with the headers that keep the pages honest: nothing but this
//! origin's own scripts, styles, fonts and sockets. This crate knows no routes beside its files, no
//! sockets and no state.

#![forbid(unsafe_code)]

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use http::{Response, StatusCode};

/// Headers of every answer, for the page of a device and for the console.
pub const APP_HEADERS: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; font-src 'self'; \
         img-src 'self' blob:; media-src 'self' blob:; manifest-src 'self'; connect-src 'self'; frame-src 'self'; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'",
    ),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
];

const DEVICE_PAGE: &str = "index.html";
const CONSOLE_PAGE: &str = "console.html";

/// Path, bytes, content type, quoted entity tag, and whether the name holds a hash of the bytes.
type AssetRow = (&'static str, &'static [u8], &'static str, &'static str, bool);

static TABLE: &[AssetRow] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// One file of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    pub bytes: Cow<'static, [u8]>,
    pub content_type: &'static str,
    /// With its quotes, as the header carries it.
    pub etag: String,
    /// The name changes whenever the bytes do, so a browser may keep it for good.
    pub immutable: bool,
}

/// A file of the bundle by its path, with or without the leading `/`.
#[must_use]
pub fn asset(path: &str) -> Option<Asset> {
    row(path.strip_prefix('/').unwrap_or(path)).map(|&(_, bytes, content_type, etag, immutable)| {
        Asset { bytes: Cow::Borrowed(bytes), content_type, etag: etag.to_owned(), immutable }
    })
}

/// Returns the files for a device's browser: `/` is the shelf, without the console's page.
#[must_use]
pub fn respond(path: &str, if_none_match: Option<&str>) -> Response<Bytes> {
    serve(path, DEVICE_PAGE, CONSOLE_PAGE, if_none_match)
}

/// Returns the files for the host's browser: `/` is the console, without the devices' page.
#[must_use]
pub fn respond_console(path: &str, if_none_match: Option<&str>) -> Response<Bytes> {
    serve(path, CONSOLE_PAGE, DEVICE_PAGE, if_none_match)
}

fn serve(path: &str, home: &str, absent: &str, if_none_match: Option<&str>) -> Response<Bytes> {
    let name = match path.strip_prefix('/') {
        Some("") => home,
        Some(name) => name,
        None => path,
    };
    let found = if name == absent { None } else { row(name) };
    let Some(&(_, bytes, content_type, etag, immutable)) = found else {
        let body =
            Bytes::from_static(br#"{"code":"NOT_FOUND","message":"There is nothing here."}"#);
        return answer(
            StatusCode::NOT_FOUND,
            body,
            &[(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")],
        );
    };
    let keep = if immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = [(CONTENT_TYPE, content_type), (ETAG, etag), (CACHE_CONTROL, keep)];
    if if_none_match.is_some_and(|known| names(known, etag)) {
        return answer(StatusCode::NOT_MODIFIED, Bytes::new(), &headers);
    }
    answer(StatusCode::OK, Bytes::from_static(bytes), &headers)
}

fn row(name: &str) -> Option<&'static AssetRow> {
    TABLE.iter().find(|(path, ..)| *path == name)
}

/// If-None-Match is a list, compared weakly.
fn names(known: &str, etag: &str) -> bool {
    known
        .split(',')
        .map(str::trim)
        .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
}

fn answer(
    status: StatusCode,
    body: Bytes,
    headers: &[(HeaderName, &'static str)],
) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let all = response.headers_mut();
    for (name, value) in APP_HEADERS {
        all.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    for (name, value) in headers {
        all.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    //! Promise: the bundle is served whole, cacheable, under the strict policy, and never anything
    //! else.
    use super::*;

    fn header<'a>(response: &'a Response<Bytes>, name: &str) -> &'a str {
        response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    #[test]
    fn root_is_the_page_of_its_reader() {
        let (device, console) = (respond("/", None), respond_console("/", None));
        assert_eq!((device.status(), console.status()), (StatusCode::OK, StatusCode::OK));
        assert_eq!(
            device.body().as_ref(),
            asset("index.html").map(|a| a.bytes.into_owned()).unwrap_or_default()
        );
        assert_eq!(
            console.body().as_ref(),
            asset("/console.html").map(|a| a.bytes.into_owned()).unwrap_or_default()
        );
        assert_eq!(header(&device, "content-type"), "text/html; charset=utf-8");
        assert_eq!(header(&device, "cache-control"), "no-cache");
    }

    #[test]
    fn each_reader_sees_only_its_own_page() {
        assert_eq!(respond("/console.html", None).status(), StatusCode::NOT_FOUND);
        assert_eq!(respond_console("/index.html", None).status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn every_answer_carries_the_policy() {
        for response in
            [respond("/", None), respond("/no/such/file", None), respond_console("/", None)]
        {
            for (name, value) in APP_HEADERS {
                assert_eq!(header(&response, name), *value);
            }
        }
    }

    #[test]
    fn unknown_and_hostile_paths_are_not_found() {
        for path in [
            "/nothing",
            "/../Cargo.toml",
            "//index.html",
            "",
            "/assets",
            "/assets/../index.html",
            "/%2e%2e",
        ] {
            assert_eq!(respond(path, None).status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[test]
    fn a_known_tag_is_not_sent_again() {
        let etag = asset("index.html").map(|asset| asset.etag).unwrap_or_default();
        for known in
            [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()]
        {
            let response = respond("/", Some(&known));
            assert_eq!((response.status(), response.body().len()), (StatusCode::NOT_MODIFIED, 0));
            assert_eq!(header(&response, "etag"), etag);
        }
        assert_eq!(respond("/", Some("\"other\"")).status(), StatusCode::OK);
    }

    #[test]
    fn hashed_names_are_kept_for_good_and_only_those() {
        for &(path, _, _, _, immutable) in TABLE {
            assert_eq!(immutable, path.starts_with("assets/"), "{path}");
            let response = respond_console(&format!("/{path}"), None);
            if immutable {
                assert!(header(&response, "cache-control").contains("immutable"), "{path}");
            }
        }
    }

    #[test]
    fn pages_hold_no_inline_script_or_style() {
        for page in ["index.html", "console.html"] {
            let text = asset(page)
                .map(|a| String::from_utf8_lossy(&a.bytes).into_owned())
                .unwrap_or_default();
            assert!(
                !text.contains("<style") && !text.contains(" style=") && !text.contains(" onload="),
                "{page}"
            );
            for script in text.split("<script").skip(1) {
                let tag = script.split('>').next().unwrap_or_default();
                assert!(tag.contains(" src="), "{page}: {tag}");
            }
        }
    }
}
