//! Promises: commands reach the running hub and nobody else's; a device is let in or turned away by
//! its name; what is not there is said with its own number.

use std::path::Path;

use lanyard_protocol::Membership;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio_util::sync::DropGuard;

use super::transport::ControlStream;
use super::*;
use crate::authority::driver::tests::DriverFixture;
use crate::cli::global::Global;
use crate::cli::hub::{approve, console, devices, files, forget, refuse, status};
use crate::operator::actions::DeviceRow;

fn global(dir: &Path) -> Global {
    Global {
        data_dir: dir.to_owned(),
        insecure_data: false,
        json: true,
        plain: false,
        log_format: crate::cli::global::LogFormat::Text,
    }
}

async fn serve(bench: &DriverFixture, listener: Listener) -> DropGuard {
    let stop = CancellationToken::new();
    let control = Control {
        driver: bench.driver.clone(),
        door: LoginLinks::new(([127, 0, 0, 1], 1234).into()),
        name: "Studio PC".into(),
        urls: vec!["http://192.168.1.2:7070".into()],
    };
    tokio::spawn(control.run(listener, stop.clone()));
    stop.drop_guard()
}

async fn raw(stream: ControlStream, line: &str) -> ControlResponse {
    let mut stream = BufReader::new(stream);
    stream.write_all(line.as_bytes()).await.unwrap();
    stream.write_all(b"\n").await.unwrap();
    let mut answer = String::new();
    stream.read_line(&mut answer).await.unwrap();
    serde_json::from_str(&answer).unwrap()
}

async fn say(dir: &Path, line: &str) -> ControlResponse {
    raw(transport::connect(dir, HUB).await.unwrap(), line).await
}

async fn rows(dir: &Path) -> Vec<DeviceRow> {
    match say(dir, r#"{"command":"devices"}"#).await {
        ControlResponse::Ok(value) => serde_json::from_value(value).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_knock_is_listed_with_its_digits_and_let_in_by_name() {
    let mut bench = DriverFixture::new().await;
    let dir = bench.dir.path().to_owned();
    let _serving = serve(&bench, Listener::open(&dir, HUB).await.unwrap()).await;
    let (request, code) = bench.knock(7, "Ana").await;
    let listed = rows(&dir).await;
    assert_eq!(
        (listed[0].membership, listed[0].code.clone()),
        (Membership::Pending, Some(code.clone()))
    );
    let wrong = if code == "000000" { "000001" } else { "000000" };
    let line = serde_json::json!({ "command": "approve", "id": "Ana", "code": wrong }).to_string();
    assert!(matches!(
        say(&dir, &line).await,
        ControlResponse::Failed(OperatorError { exit: 1, .. })
    ));
    let approving = tokio::spawn({
        let dir = dir.clone();
        let id = request.client.public_id.to_string();
        async move { approve(&global(&dir), id[..8].to_owned(), Some(code), None).await }
    });
    bench.ack_approval().await;
    approving.await.unwrap().unwrap();
    assert_eq!(rows(&dir).await[0].membership, Membership::Approved);
    refuse(&global(&dir), "ana".into()).await.unwrap();
    assert_eq!(rows(&dir).await[0].membership, Membership::Disapproved);
    assert_eq!(
        approve(&global(&dir), "Ana".into(), None, None).await.unwrap_err().exit,
        Exit::NotFound
    );
    forget(&global(&dir), "Ana".into()).await.unwrap();
    assert_eq!(rows(&dir).await, vec![]);
}

#[tokio::test]
async fn naming_a_device_is_enough_for_the_owner() {
    let mut bench = DriverFixture::new().await;
    let dir = bench.dir.path().to_owned();
    let _serving = serve(&bench, Listener::open(&dir, HUB).await.unwrap()).await;
    bench.knock(7, "Ana").await;
    let approving = tokio::spawn({
        let dir = dir.clone();
        async move { approve(&global(&dir), "Ana".into(), None, None).await }
    });
    bench.ack_approval().await;
    approving.await.unwrap().unwrap();
}

#[tokio::test]
async fn each_failure_has_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(status(&global(dir.path())).await.unwrap_err().exit, Exit::NotReachable);
    let bench = DriverFixture::new().await;
    let dir = bench.dir.path().to_owned();
    let serving = serve(&bench, Listener::open(&dir, HUB).await.unwrap()).await;
    assert_eq!(refuse(&global(&dir), "Nobody".into()).await.unwrap_err().exit, Exit::NotFound);
    assert!(matches!(
        say(&dir, "rubbish").await,
        ControlResponse::Failed(OperatorError { exit: 2, .. })
    ));
    status(&global(&dir)).await.unwrap();
    console(&global(&dir)).await.unwrap();
    files(&global(&dir)).await.unwrap();
    drop(serving);
    // A dead hub's socket is in nobody's way.
    let _serving = serve(&bench, Listener::open(&dir, HUB).await.unwrap()).await;
    devices(&global(&dir)).await.unwrap();
}

/// Connections that say nothing, or half a line, do not keep their places.
#[tokio::test]
async fn a_command_is_served_though_sixteen_others_say_nothing() {
    let bench = DriverFixture::new().await;
    let dir = bench.dir.path().to_owned();
    let _serving = serve(&bench, Listener::open(&dir, HUB).await.unwrap()).await;
    let mut silent = Vec::new();
    for n in 0..16 {
        let mut stream = transport::connect(&dir, HUB).await.unwrap();
        if n % 2 == 0 {
            stream.write_all(b"{\"command\":").await.unwrap();
        }
        silent.push(stream);
    }
    assert_eq!(rows(&dir).await, vec![]);
    for mut stream in silent {
        let mut rest = Vec::new();
        // The end may come as a reset: half a line was never read.
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
    }
}

#[cfg(unix)]
#[tokio::test]
async fn the_socket_is_private_and_its_path_may_be_long() {
    use std::os::unix::fs::PermissionsExt;
    let bench = DriverFixture::new().await;
    let dir = bench.dir.path().join("a-long-name".repeat(12));
    std::fs::create_dir(&dir).unwrap();
    let _serving = serve(&bench, Listener::open(&dir, HUB).await.unwrap()).await;
    assert_eq!(rows(&dir).await, vec![]);
    if cfg!(target_os = "linux") {
        let mode = std::fs::metadata(dir.join("control.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn over_tcp_only_who_reads_the_token_is_served() {
    let bench = DriverFixture::new().await;
    let dir = bench.dir.path().to_owned();
    let listener = Listener::open_tcp(&dir, HUB).await.unwrap();
    let Listener::Tcp { listener: ref tcp, .. } = listener else { panic!("it is the TCP one") };
    let address = tcp.local_addr().unwrap();
    let _serving = serve(&bench, listener).await;
    let mut stranger = tokio::net::TcpStream::connect(address).await.unwrap();
    stranger.write_all(b"wrong\n{\"command\":\"devices\"}\n").await.unwrap();
    let mut answer = Vec::new();
    // The connection may end by a reset: what matters is that nothing comes.
    let _ = stranger.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
    let stream = transport::connect_tcp(&dir, HUB).await.unwrap();
    assert!(matches!(raw(stream, r#"{"command":"status"}"#).await, ControlResponse::Ok(_)));
}
