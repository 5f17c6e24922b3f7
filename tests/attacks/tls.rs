//! https on the same port: who is in the middle with a certificate of his own gets nothing, and
//! bodies go to the certificate of the proof only.

use lanyard_device::connection::{HubUrl, ReceivedFrame, RelayConnection};
use lanyard_device::{DeviceEvent, EndReason, MembershipPhase};
use lanyard_protocol::identity::Keypair;
use lanyard_protocol::*;
use rustls::ClientConfig;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use lanyard_tests::harness::native_device::{Native, config};
use lanyard_tests::harness::*;

#[tokio::test]
async fn one_port_speaks_both() {
    let hub = TestHub::with_tls().await;
    for scheme in ["http", "https"] {
        let answer =
            http_client().get(format!("{scheme}://{}/healthz", hub.address)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{scheme}");
    }
    let ca = http_client().get(hub.http("/ca.crt")).send().await.unwrap();
    assert_eq!(ca.headers()["content-type"], "application/x-x509-ca-cert");
    assert!(!ca.bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_hub_without_a_certificate_speaks_plain_http_only() {
    let hub = TestHub::start().await;
    assert!(http_client().get(format!("https://{}/healthz", hub.address)).send().await.is_err());
    assert_eq!(http_client().get(hub.http("/ca.crt")).send().await.unwrap().status(), 404);
    assert_eq!(http_client().get(hub.http("/secure")).send().await.unwrap().status(), 404);
}

/// Both by https: joining, the list, bodies up and down.
#[tokio::test]
async fn files_travel_encrypted_between_devices_that_know_the_hub() {
    let hub = TestHub::with_tls().await;
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(3_000_000);
    std::fs::write(dir.path().join("film.mov"), &bytes).unwrap();
    let secured =
        |seed| lanyard_device::DeviceConfig { hub: hub.url.secured(), ..config(&hub, seed) };
    let mut ana = Native::inside_as(&hub, secured(1)).await;
    let mut ben = Native::inside_as(&hub, secured(2)).await;
    ana.shares(&dir.path().join("film.mov")).await;
    let wanted = ben.sees(1).await;
    let (saved, failed) = ben.fetches(wanted, &dir.path().join("out")).await;
    assert_eq!((saved.len(), failed), (1, vec![]));
    assert_eq!(std::fs::read(dir.path().join("out/film.mov")).unwrap(), bytes);
}

/// Somebody between device and hub who holds another certificate, and passes everything on.
async fn middle(hub: &TestHub) -> HubUrl {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let chain = vec![cert.der().clone()];
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    http_client(); // the provider
    let server =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let accept = TlsAcceptor::from(std::sync::Arc::new(server));
    let connect = TlsConnector::from(std::sync::Arc::new(anything()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, to) = (format!("https://{}", listener.local_addr().unwrap()), hub.address);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (accept, connect) = (accept.clone(), connect.clone());
            tokio::spawn(async move {
                let mut here = accept.accept(stream).await.ok()?;
                let name = rustls::pki_types::ServerName::try_from("localhost").ok()?;
                let mut there =
                    connect.connect(name, TcpStream::connect(to).await.ok()?).await.ok()?;
                copy_bidirectional(&mut here, &mut there).await.ok()
            });
        }
    });
    url.parse().unwrap()
}

/// A client of TLS that believes everybody.
pub(crate) fn anything() -> ClientConfig {
    #[derive(Debug)]
    struct Everybody;
    impl rustls::client::danger::ServerCertVerifier for Everybody {
        fn verify_server_cert(
            &self,
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &[rustls::pki_types::CertificateDer<'_>],
            _: &rustls::pki_types::ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }
    let verifier = std::sync::Arc::new(Everybody);
    ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth()
}

/// A54. The relay finds a proof over another certificate than its own: no session comes to be.
#[tokio::test]
async fn a54_a_machine_in_the_middle_with_its_own_certificate_gets_no_session() {
    let hub = TestHub::with_tls().await;
    let url = middle(&hub).await;
    // What the middle passes on is signed for the middle's own address; make even that right.
    let mut link = RelayConnection::open(&url, "/ws/device", None).await.unwrap();
    let ReceivedFrame::Text(text) = link.receive().await.unwrap() else { panic!("no challenge") };
    let frame: Frame<RelayToDevice> = codec::decode(&text).unwrap();
    let RelayToDevice::Challenge(challenge) = frame.message else { panic!("{text}") };
    let key = Keypair::from_seed(&[7; 32]);
    let reveal = Reveal([7; 32]);
    for (channel, is_heard) in [(link.channel, false), (direct_channel(&hub).await, true)] {
        let mut link = RelayConnection::open(&url, "/ws/device", None).await.unwrap();
        let ReceivedFrame::Text(text) = link.receive().await.unwrap() else {
            panic!("no challenge")
        };
        let frame: Frame<RelayToDevice> = codec::decode(&text).unwrap();
        let RelayToDevice::Challenge(fresh) = frame.message else { panic!("{text}") };
        let (mut register, mut transcript) =
            registration(&url.authority(), &fresh, &key, reveal, Instance([7; 16]));
        transcript.channel = channel;
        register.signature = transcript.sign_as_device(&key);
        link.send(codec::encode(&DeviceToRelay::ClientRegister(register), None)).await.unwrap();
        match link.receive().await.unwrap() {
            // Only who signs what he did not see is heard; a device of ours signs what it saw.
            ReceivedFrame::Text(text) => assert!(is_heard, "{text}"),
            ReceivedFrame::Closed(code) => assert_eq!((is_heard, code), (false, Some(4401))),
        }
    }
    assert_ne!(challenge.nonce, Nonce([0; 32]));
}

async fn direct_channel(hub: &TestHub) -> Channel {
    RelayConnection::open(&hub.url.secured(), "/ws/device", None).await.unwrap().channel
}

/// A53, A54. The device of ours ends, in words, and does not go on by itself.
#[tokio::test]
async fn a54_our_device_refuses_a_certificate_that_the_hub_did_not_prove() {
    let hub = TestHub::with_tls().await;
    let url = middle(&hub).await;
    let mut device = Native::start(lanyard_device::DeviceConfig { hub: url, ..config(&hub, 7) });
    let reason = device
        .until(|event| match event {
            DeviceEvent::Phase(MembershipPhase::Ended { reason }) => Some(reason),
            _ => None,
        })
        .await;
    assert_eq!(reason, EndReason::Rejected);
}

/// A53. Another hub at a known address, with any certificate and the same name.
#[tokio::test]
async fn a53_another_hub_under_a_known_name_is_refused() {
    let hub = TestHub::with_tls().await;
    let known = Some(Keypair::from_seed(&[201; 32]).public());
    let (url, pinned_hub) = (hub.url.secured(), known);
    let mut device =
        Native::start(lanyard_device::DeviceConfig { hub: url, pinned_hub, ..config(&hub, 7) });
    let reason = device
        .until(|event| match event {
            DeviceEvent::Phase(MembershipPhase::Ended { reason }) => Some(reason),
            _ => None,
        })
        .await;
    assert_eq!(reason, EndReason::UntrustedHub);
}
