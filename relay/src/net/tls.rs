//! TLS on the same port as plain HTTP: the first byte of a connection tells which it is.
//! Certificates come from outside and may change while the relay runs.

use std::sync::Arc;

use lanyard_protocol::Channel;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// What a TLS client says first: a handshake record (RFC 8446, 5.1). No method of HTTP begins so.
pub(crate) const FIRST_BYTE: u8 = 0x16;

/// A certificate and what a client needs to know of it.
#[derive(Clone)]
pub struct TlsIdentity {
    pub(crate) config: Arc<ServerConfig>,
    /// SHA-256 of the leaf's SubjectPublicKeyInfo (PROTOCOL.md 2.2).
    pub(crate) channel: Channel,
    /// The authority's certificate as DER, for who wants to install it.
    pub(crate) authority: Arc<[u8]>,
}

/// The certificate in use.
pub type TlsIdentities = watch::Receiver<TlsIdentity>;

/// How a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Plain,
    Tls { channel: Channel },
}

impl Transport {
    pub(crate) fn is_secure(self) -> bool {
        matches!(self, Self::Tls { .. })
    }

    /// Certificate that proofs over this connection are bound to.
    pub(crate) fn channel(self) -> Channel {
        match self {
            Self::Plain => Channel::PLAIN,
            Self::Tls { channel } => channel,
        }
    }

    /// The scheme of its addresses, and the port that is left out in them.
    pub(crate) fn scheme(self) -> (&'static str, u16) {
        if self.is_secure() { ("https", 443) } else { ("http", 80) }
    }
}

impl TlsIdentity {
    /// From the leaf and its PKCS #8 key, the leaf's SubjectPublicKeyInfo, and the authority that
    /// signed it, all DER.
    pub fn new(
        leaf: Vec<u8>,
        key: Vec<u8>,
        public_key: &[u8],
        authority: Vec<u8>,
    ) -> Result<Self, rustls::Error> {
        let chain = vec![CertificateDer::from(leaf), CertificateDer::from(authority.clone())];
        let key = PrivateKeyDer::try_from(key).map_err(|why| rustls::Error::General(why.into()))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        // HTTP/1.1 carries bytes faster than HTTP/2 here (measured: 0.80 of it), and has fewer ways
        // to be abused.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            channel: channel_of(public_key),
            authority: authority.into(),
        })
    }
}

/// What binds a native device's proof to the certificate that it saw.
pub fn channel_of(public_key: &[u8]) -> Channel {
    Channel(Sha256::digest(public_key).into())
}
