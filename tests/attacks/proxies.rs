//! Somebody on this machine passes connections on to the hub, so that strangers seem to come from
//! the loopback: nothing is granted for that.

use std::net::SocketAddr;

use lanyard_device::connection::{HubUrl, ReceivedFrame, RelayConnection};
use lanyard_device::{DeviceEvent, EndReason, HostSecret, MembershipPhase};
use lanyard_protocol::master_proof::{MasterTranscript, host_proof, metrics_token};
use lanyard_protocol::message::*;
use lanyard_protocol::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use lanyard_tests::harness::native_device::{Native, config};
use lanyard_tests::harness::raw_client::*;
use lanyard_tests::harness::*;

/// How a connection is passed on.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ProxyWay {
    /// As `ssh -R`, socat or a port forwarded by a router do: bytes.
    Tunnel,
    /// As nginx does with `proxy_pass` and nothing else: `Host` is the upstream's, the connection
    /// ends with the answer, and no header tells of the stranger.
    Proxy,
    /// The same with the three lines that let WebSockets through.
    ProxyOfSockets,
}

/// Listens on this machine for strangers, and passes them on to the hub from the loopback.
async fn passes_on(to: SocketAddr, way: ProxyWay) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stranger, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut there = TcpStream::connect(to).await?;
                if way != ProxyWay::Tunnel {
                    let head = rewritten(&head_of(&mut stranger).await?, to, way);
                    there.write_all(head.as_bytes()).await?;
                }
                copy_bidirectional(&mut stranger, &mut there).await
            });
        }
    });
    at
}

/// The first head of a connection, up to its empty line.
async fn head_of(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn rewritten(head: &str, to: SocketAddr, way: ProxyWay) -> String {
    let mut lines = head.trim_end().lines();
    let line = lines.next().unwrap();
    let kept: Vec<&str> = lines
        .filter(|line| {
            let name = line.split(':').next().unwrap().to_lowercase();
            !["host", "connection"].contains(&name.as_str())
                && (way == ProxyWay::ProxyOfSockets || name != "upgrade")
        })
        .collect();
    let is_socket =
        way == ProxyWay::ProxyOfSockets && head.to_lowercase().contains("upgrade: websocket");
    let connection = if is_socket { "upgrade" } else { "close" };
    format!("{line}\r\nHost: {to}\r\nConnection: {connection}\r\n{}\r\n\r\n", kept.join("\r\n"))
}

const WAYS: [ProxyWay; 3] = [ProxyWay::Tunnel, ProxyWay::Proxy, ProxyWay::ProxyOfSockets];

/// Returns the status of a plain request that names this host.
async fn asked(at: SocketAddr, host: &str, line: &str, more: &str) -> u16 {
    let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n");
    status(&head(at, &request).await.1)
}

/// A67. The numbers of the relay are for who has the host's token, and for nobody who comes from
/// the loopback without it.
#[tokio::test]
async fn a67_coming_from_the_loopback_shows_no_metrics() {
    let hub = TestHub::start().await;
    let token = format!("Authorization: Bearer {}\r\n", metrics_token(&SECRET));
    let wrong = format!("Authorization: Bearer {}\r\n", metrics_token(&[4; 32]));
    let mut ways = vec![(hub.address, None)];
    for way in WAYS {
        ways.push((passes_on(hub.address, way).await, Some(way)));
    }
    for (at, way) in ways {
        for no in ["", &wrong, "Authorization: Bearer \r\n", "Cookie: token=x\r\n"] {
            assert_eq!(
                asked(at, &hub.address.to_string(), "GET /metrics", no).await,
                404,
                "{way:?} with {no:?}"
            );
        }
        assert_eq!(
            asked(at, &hub.address.to_string(), "GET /metrics", &token).await,
            200,
            "{way:?}"
        );
    }
}

/// A67. A hub that takes https only serves plain http nothing, also where somebody on its machine
/// passes it on.
#[tokio::test]
async fn a67_coming_from_the_loopback_is_no_way_around_https() {
    let hub = TestHub::with_tls_only().await;
    for way in WAYS {
        let at = passes_on(hub.address, way).await;
        for host in [at.to_string(), hub.address.to_string()] {
            for line in [
                "GET /healthz",
                "GET /index.html",
                "POST /",
                "GET /metrics",
                "GET /d/00/x",
                "PUT /chunks/00",
            ] {
                assert_eq!(asked(at, &host, line, "").await, 426, "{way:?} {line}");
            }
            for path in ["/ws/device", "/ws/master"] {
                let answer = head(at, &upgrade(path, &host, "")).await.1;
                assert_eq!(status(&answer), 426, "{way:?} {path}");
            }
        }
    }
}

/// A67. Nobody is locked out by that: devices of ours on the hub's own machine, its own one, and
/// its master go on by https.
#[tokio::test]
async fn a67_on_a_hub_of_https_only_its_own_machine_speaks_https() {
    let hub = TestHub::with_tls_only().await;
    let plain: HubUrl = format!("http://{}", hub.address).parse().unwrap();
    let mut ana = Native::inside_as(
        &hub,
        lanyard_device::DeviceConfig { hub: plain.clone(), ..config(&hub, 1) },
    )
    .await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.bin"), content(300_000)).unwrap();
    ana.shares(&dir.path().join("a.bin")).await;
    let mut bo =
        Native::inside_as(&hub, lanyard_device::DeviceConfig { hub: plain, ..config(&hub, 2) })
            .await;
    let wanted = bo.sees(1).await;
    let to = tempfile::tempdir().unwrap();
    assert_eq!(bo.fetches(wanted, to.path()).await.0.len(), 1);
}

/// A67. The kind of the host's own device is proved and not believed, wherever it comes from.
#[tokio::test]
async fn a67_the_hosts_own_device_proves_that_it_is() {
    let hub = TestHub::start().await;
    let tunnel =
        format!("http://{}", passes_on(hub.address, ProxyWay::Tunnel).await).parse().unwrap();
    for url in [&hub.url, &tunnel] {
        let says = async |kind: DeviceKind, secret: Option<[u8; 32]>| {
            let (_link, first) = registers(url, 1, |register, transcript| {
                (register.kind, register.host_proof) =
                    (kind, secret.map(|secret| host_proof(&secret, transcript)));
            })
            .await;
            matches!(first, ReceivedFrame::Text(text) if text.contains("CLIENT_REGISTER_ACK"))
        };
        assert!(!says(DeviceKind::Master, None).await, "a claim by {url}");
        assert!(!says(DeviceKind::Master, Some([9; 32])).await, "another secret by {url}");
        assert!(!says(DeviceKind::Native, Some(SECRET)).await, "a proof of what it does not claim");
        assert!(says(DeviceKind::Native, None).await);
        assert!(says(DeviceKind::Master, Some(SECRET)).await);
    }
    // A proof is good for its own registration only.
    let mut recorded = None;
    registers(&hub.url, 1, |_, transcript| recorded = Some(host_proof(&SECRET, transcript))).await;
    let (_link, first) = registers(&hub.url, 1, |register, _| {
        (register.kind, register.host_proof) = (DeviceKind::Master, recorded);
    })
    .await;
    assert_eq!(first, ReceivedFrame::Closed(Some(4401)));
}

/// A67. The native device proves itself so, by plain http and by https.
#[tokio::test]
async fn a67_a_device_with_the_hosts_secret_is_taken_as_the_hosts() {
    let hub = TestHub::with_tls().await;
    for (seed, secret, url) in [
        (1, SECRET, hub.url.clone()),
        (2, SECRET, hub.url.secured()),
        (3, [9; 32], hub.url.clone()),
    ] {
        let host_secret = Some(HostSecret(secret));
        let own = lanyard_device::DeviceConfig {
            kind: DeviceKind::Master,
            host_secret,
            hub: url,
            ..config(&hub, seed)
        };
        let mut own = Native::start(own);
        let is_in = own
            .until(|event| match event {
                DeviceEvent::Phase(MembershipPhase::Waiting { .. }) => Some(true),
                DeviceEvent::Phase(MembershipPhase::Ended { reason: EndReason::Rejected }) => {
                    Some(false)
                }
                _ => None,
            })
            .await;
        assert_eq!(is_in, secret == SECRET, "{seed}");
    }
}

/// A67. The master's socket by plain http is for a master that means its own machine and proves
/// that it does. A true master whose words a proxy or a tunnel carries over the network is refused
/// before it says more than its proof.
#[tokio::test]
async fn a67_a_plain_master_proves_that_it_means_its_own_machine() {
    let relay = TestRelay::start().await;
    let at = relay.address.to_string();
    for elsewhere in ["hub.example", "192.168.1.9:7070", "localhost.evil.example"] {
        let answer = head(relay.address, &upgrade("/ws/master", elsewhere, "")).await.1;
        assert!([421, 426].contains(&status(&answer)), "{elsewhere}: {answer}");
    }
    let answer = head(relay.address, &upgrade("/ws/master", "192.168.1.9:7070", "")).await.1;
    assert_eq!(status(&answer), 426, "a tunnel leaves the name that was meant");
    // A proxy writes its own: the proof is over the name that was meant.
    let mut link = RelayConnection::open(&relay.url, "/ws/master", None).await.unwrap();
    let ReceivedFrame::Text(text) = within(link.receive()).await.unwrap() else {
        panic!("no challenge")
    };
    let frame: MasterFrame<RelayToMaster> = codec::decode_master(&text).unwrap();
    let RelayToMaster::Relay(RelayMessage::MasterChallenge(challenge)) = frame.message else {
        panic!("{text}")
    };
    let transcript = MasterTranscript {
        boot_id: challenge.boot_id,
        relay_nonce: challenge.nonce,
        master_nonce: Nonce([4; 32]),
        term: 5,
        authority: "192.168.1.9:7070".into(),
        channel: Channel::PLAIN,
    };
    let register = MasterAppRegister {
        protocol: PROTOCOL_VERSION,
        nonce: transcript.master_nonce,
        term: 5,
        mac: transcript.master_mac(&SECRET),
    };
    let said = MasterToRelay::MasterAppRegister(register);
    link.send(codec::encode_master(&MasterFrame::plain(said))).await.unwrap();
    assert_eq!(within(link.receive()).await.unwrap(), ReceivedFrame::Closed(Some(4401)), "{at}");
    RawMaster::register(&relay.url, 1, vec![], vec![]).await;
}
