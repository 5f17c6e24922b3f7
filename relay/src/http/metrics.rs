//! `GET /metrics`, with the host's token: what the relay holds and has done, as Prometheus text
//! (<https://prometheus.io/docs/instrumenting/exposition_formats>). Numbers only: no device, no file,
//! no address.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use lanyard_protocol::limits::MAX_PENDING;
use lanyard_protocol::master_proof::metrics_token;
use lanyard_protocol::{CloseCode, FailureCode};

use crate::error::ApiError;
use crate::state::RelayState;
use crate::stats::BrokerStats;

/// Text format 0.0.4.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) async fn get(
    State(state): State<Arc<RelayState>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if !shows_token(&state, &headers) {
        return Err(FailureCode::NotFound.into());
    }
    let standing = state.broker_stats().await.ok_or(FailureCode::ServerNotReady)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text(&state, &standing)).into_response())
}

/// Whether the request has the token that the hub keeps in a file of its owner's. Who has none
/// learns nothing, wherever it comes from: not even that there is such a page. Compares in constant
/// time.
fn shows_token(state: &RelayState, headers: &HeaderMap) -> bool {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = value.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let hash = |token: &str| blake3::hash(token.as_bytes());
    hash(shown) == hash(&metrics_token(&state.config.master_secret))
}

fn text(state: &RelayState, standing: &BrokerStats) -> String {
    let BrokerStats { counts, tally, reserved_bytes } = standing;
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let mut page = MetricsPage::default();
    page.counter(
        "received_bytes_total",
        "Bytes of bodies from owners.",
        &[("", load(&state.carried.received))],
    );
    page.counter(
        "delivered_bytes_total",
        "Bytes of bodies to askers.",
        &[
            ("to=\"device\"", load(&state.carried.to_devices)),
            ("to=\"link\"", load(&state.carried.to_links)),
        ],
    );
    page.counter(
        "asked_bytes_total",
        "Bytes asked for, by where they came from: the owner was asked, they were on their way, or they were there.",
        &[
            ("source=\"owner\"", tally.opened_bytes),
            ("source=\"shared\"", tally.joined_bytes),
            ("source=\"cache\"", tally.cached_bytes),
        ],
    );
    page.counter("runs_total", "Runs that owners were asked for.", &[("", tally.opened_runs)]);
    page.counter(
        "failed_runs_total",
        "Runs that broke off: owner away, slow, cut.",
        &[("", tally.failed_runs)],
    );
    page.counter(
        "bad_bodies_total",
        "Bodies whose groups were not what they had to be.",
        &[("", tally.bad_bodies)],
    );
    page.counter(
        "changed_files_total",
        "Files that turned out to be others than listed.",
        &[("", tally.changed_files)],
    );
    let rejections = state.rejections.counts();
    let refused = labelled("code", FailureCode::as_str, &rejections.refused);
    page.counter("refused_total", "Requests that were answered with a no, by code.", &refused);
    let closed = labelled("reason", CloseCode::reason, &rejections.closed);
    page.counter("closed_total", "Sockets that the relay closed, by reason.", &closed);
    page.gauge("hub_ready", "Whether a master is there.", u64::from(counts.hub_ready));
    page.gauge("sessions", "Sessions that are open.", counts.sessions as u64);
    page.gauge("sessions_approved", "Sessions of approved devices.", counts.approved_online as u64);
    page.gauge("sessions_pending", "Sessions that wait for the host.", counts.pending as u64);
    page.gauge(
        "sessions_asleep",
        "Approved sessions that answer pings and take no requests.",
        counts.asleep as u64,
    );
    page.gauge("pending_limit", "Sessions that may wait for the host.", MAX_PENDING as u64);
    page.gauge("slots", "Runs in memory or on their way here.", counts.slots as u64);
    page.gauge("slots_filling", "Of these, on their way here.", counts.filling as u64);
    page.gauge("slot_bytes", "Bytes that slots have reserved.", *reserved_bytes);
    page.gauge("slot_budget_bytes", "Bytes that slots may reserve.", state.config.budget_bytes);
    page.gauge(
        "group_hash_bytes",
        "Bytes that tables of group hashes take.",
        state.hashes.bytes() as u64,
    );
    page.gauge(
        "group_hash_limit_bytes",
        "Bytes that they may take.",
        state.config.budget_bytes / 4,
    );
    let window = load(&state.carried.archive_window);
    page.gauge(
        "archive_window_bytes",
        "The most that one response held of an archive's members.",
        window,
    );
    page.gauge("readers", "Askers that read or may read a slot now.", counts.readers as u64);
    page.gauge(
        "waiting_asks",
        "Runs that wait for room, an owner or the master.",
        counts.asks as u64,
    );
    page.text
}

fn labelled<C: Copy>(
    label: &str,
    name: fn(C) -> &'static str,
    counts: &BTreeMap<C, u64>,
) -> Vec<(String, u64)> {
    counts.iter().map(|(code, count)| (format!("{label}=\"{}\"", name(*code)), *count)).collect()
}

#[derive(Default)]
struct MetricsPage {
    text: String,
}

impl MetricsPage {
    fn counter(&mut self, name: &str, help: &str, values: &[(impl AsRef<str>, u64)]) {
        self.head(name, help, "counter");
        for (labels, value) in values {
            let labels = labels.as_ref();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            let _ = writeln!(self.text, "lanyard_{name}{labels} {value}"); // a String takes everything
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "gauge");
        let _ = writeln!(self.text, "lanyard_{name} {value}");
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.text, "# HELP lanyard_{name} {help}\n# TYPE lanyard_{name} {kind}");
    }
}
