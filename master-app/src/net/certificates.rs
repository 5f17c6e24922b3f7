//! The hub's own certificate authority, and the certificate that it gives this machine.
//!
//! Nobody else vouches for a hub on a local network. Who installs this authority lets it vouch for
//! little: web servers only (RFC 5280, 4.2.1.12), with names below `.local` and `.home.arpa`, this
//! machine's names and addresses, and those of private networks, and for no mail address and no URI
//! (4.2.1.10). Its key lies in the data directory, for its owner only. The machine's certificate is
//! made anew when its names or addresses change.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use lanyard_relay::{TlsIdentities, TlsIdentity};
use lanyard_system::private_file;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::net::addresses;

const DAY: u64 = 24 * 60 * 60;
/// What systems take for an authority that a person installed, and no more than a person can forget
/// about.
const AUTHORITY_DAYS: u64 = 730;
const LEAF_DAYS: u64 = 90;
/// Certificates are made anew when this is left of them.
const RENEW_DAYS: u64 = 30;
/// Clocks differ.
const BACKDATED: u64 = DAY;
/// How often the machine's addresses are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Names that belong to no one on the internet (RFC 6762, RFC 8375).
const LOCAL_ZONES: [&str; 2] = ["local", "home.arpa"];

/// Changes with what an authority may vouch for: an older one is replaced.
const FORM: u32 = 2;
/// A host that is nobody's (RFC 2606): names of a kind that is permitted there only are permitted
/// nowhere.
const NOWHERE: &str = "invalid";

/// What lies in the data directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredCertificates {
    authority: LocalCa,
    leaf: Option<LeafCertificate>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct LocalCa {
    /// Absent in the first.
    #[serde(default)]
    form: u32,
    /// PKCS #8, PEM.
    key: String,
    /// DER, hex.
    certificate: String,
    /// Names of this machine, and its addresses outside of private networks, that it may vouch for.
    names: Vec<String>,
    /// Seconds since 1970.
    until: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct LeafCertificate {
    key: String,
    certificate: String,
    /// Names and addresses in it.
    names: Vec<String>,
    until: u64,
}

/// The certificates of one hub.
#[derive(Debug)]
pub(crate) struct Certificates {
    path: PathBuf,
    /// Of the hub's key: part of the authority's name, so that two hubs can be told apart in a
    /// list.
    fingerprint: String,
    /// Names by which this machine may be addressed.
    names: Vec<String>,
    kept: Option<StoredCertificates>,
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn date(seconds: u64) -> anyhow::Result<OffsetDateTime> {
    Ok(OffsetDateTime::from_unix_timestamp(i64::try_from(seconds)?)?)
}

/// Addresses that the authority may vouch for: of private networks, of carriers' and VPNs' inner
/// ones, of the machine itself.
fn networks() -> Vec<(IpAddr, u8)> {
    let v4 = |a, b, prefix| (IpAddr::from(Ipv4Addr::new(a, b, 0, 0)), prefix);
    let v6 = |first, prefix| (IpAddr::from(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0)), prefix);
    let mut networks = vec![
        v4(10, 0, 8),
        v4(172, 16, 12),
        v4(192, 168, 16),
        v4(169, 254, 16),
        v4(100, 64, 10),
        v4(127, 0, 8),
    ];
    networks.extend([v6(0xfc00, 7), v6(0xfe80, 10), (Ipv6Addr::LOCALHOST.into(), 128)]);
    networks
}

fn is_inside(ip: IpAddr, (network, prefix): (IpAddr, u8)) -> bool {
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            (ip.to_bits() ^ network.to_bits()).leading_zeros() >= u32::from(prefix)
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => {
            (ip.to_bits() ^ network.to_bits()).leading_zeros() >= u32::from(prefix)
        }
        _ => false,
    }
}

impl LocalCa {
    fn new(fingerprint: &str, names: &[String]) -> anyhow::Result<Self> {
        let (key, until) = (KeyPair::generate()?, now() + AUTHORITY_DAYS * DAY);
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(fingerprint);
        params.not_before = date(now() - BACKDATED)?;
        params.not_after = date(until)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.custom_extensions = vec![name_constraints(names)];
        let certificate = hex::encode(params.self_signed(&key)?.der());
        Ok(Self { form: FORM, key: key.serialize_pem(), certificate, names: names.to_vec(), until })
    }

    /// Whether it may vouch for a name or an address.
    fn covers(&self, name: &str) -> bool {
        let is_local = match name.parse::<IpAddr>() {
            Ok(ip) => networks().into_iter().any(|network| is_inside(ip, network)),
            Err(_) => LOCAL_ZONES
                .iter()
                .any(|zone| name.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'))),
        };
        is_local || self.names.iter().any(|known| known == name)
    }

    fn sign(&self, fingerprint: &str, names: Vec<String>) -> anyhow::Result<LeafCertificate> {
        let (key, until) = (KeyPair::generate()?, (now() + LEAF_DAYS * DAY).min(self.until));
        let mut issuer = CertificateParams::default();
        issuer.distinguished_name = subject(fingerprint);
        issuer.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = Issuer::new(issuer, KeyPair::from_pem(&self.key)?);
        let mut params = CertificateParams::new(names.clone())?;
        let mut serial = [0; 16];
        getrandom::fill(&mut serial)?;
        serial[0] &= 0x7f; // positive
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Lanyard hub");
        params.not_before = date(now() - BACKDATED)?;
        params.not_after = date(until)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = hex::encode(params.signed_by(&key, &issuer)?.der());
        Ok(LeafCertificate { key: key.serialize_pem(), certificate, names, until })
    }
}

/// The extension that says for which names an authority may vouch: those of [`LOCAL_ZONES`] and
/// [`networks`], and `names`.
///
/// Mail addresses and URIs are permitted at [`NOWHERE`] only. Directory names are left out: rustls
/// and Go refuse every certificate below an authority that has a word on them, and for a web server
/// they mean nothing.
fn name_constraints(names: &[String]) -> CustomExtension {
    let (ips, hosts): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|name| name.parse::<IpAddr>().is_ok());
    let zones = LOCAL_ZONES.iter().copied().chain(hosts.iter().map(|host| host.as_str()));
    let single = ips
        .iter()
        .filter_map(|name| name.parse().ok())
        .map(|ip: IpAddr| (ip, if ip.is_ipv4() { 32 } else { 128 }));
    let mut permitted: Vec<u8> =
        zones.flat_map(|zone| subtree(DNS_NAME, zone.as_bytes())).collect();
    permitted.extend(
        networks()
            .into_iter()
            .chain(single)
            .flat_map(|network| subtree(IP_ADDRESS, &range(network))),
    );
    permitted
        .extend([MAIL_ADDRESS, URI].into_iter().flat_map(|kind| subtree(kind, NOWHERE.as_bytes())));
    let mut extension = CustomExtension::from_oid_content(
        NAME_CONSTRAINTS,
        tlv(SEQUENCE, &tlv(PERMITTED, &permitted)),
    );
    extension.set_criticality(true);
    extension
}

/// RFC 5280, 4.2.1.10, and the kinds of names of 4.2.1.6.
const NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];
const SEQUENCE: u8 = 0x30;
const PERMITTED: u8 = 0xa0;
const MAIL_ADDRESS: u8 = 0x81;
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;
const IP_ADDRESS: u8 = 0x87;

fn subtree(kind: u8, base: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &tlv(kind, base))
}

/// Address and mask.
fn range((network, prefix): (IpAddr, u8)) -> Vec<u8> {
    match network {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            [ip.octets(), mask.to_be_bytes()].concat()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            [ip.octets(), mask.to_be_bytes()].concat()
        }
    }
}

/// One value of DER.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut der = vec![tag];
    if length < 0x80 {
        der.push(length as u8);
    } else {
        let bytes: Vec<u8> =
            length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        der.push(0x80 | bytes.len() as u8);
        der.extend(bytes);
    }
    der.extend(content);
    der
}

fn subject(fingerprint: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    let short = fingerprint.get(..8).unwrap_or(fingerprint);
    name.push(DnType::CommonName, format!("Lanyard hub {short} (this network only)"));
    name
}

impl Certificates {
    /// Those of the hub in `dir`, which answers to `names`; they are made when they are asked for.
    pub(crate) fn open(
        dir: &Path,
        fingerprint: String,
        names: Vec<String>,
    ) -> anyhow::Result<Self> {
        let path = dir.join("tls.json");
        let kept = match private_file::read(&path)? {
            Some(bytes) => Some(serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "{} cannot be understood; move it away, and a new authority is made",
                    path.display()
                )
            })?),
            None => None,
        };
        Ok(Self { path, fingerprint, names, kept })
    }

    /// A certificate for all that this machine is called now; the same one as long as that stays
    /// and it is valid.
    pub(crate) fn identity(&mut self) -> anyhow::Result<TlsIdentity> {
        self.identity_for(addresses::all())
    }

    fn identity_for(&mut self, addresses: Vec<IpAddr>) -> anyhow::Result<TlsIdentity> {
        let soon = now() + RENEW_DAYS * DAY;
        let before = self.kept.take();
        let had_one = before.is_some();
        let fits =
            |kept: &StoredCertificates| kept.authority.until > soon && kept.authority.form == FORM;
        let (authority, leaf) = match before.filter(fits) {
            Some(StoredCertificates { authority, leaf }) => (authority, leaf),
            None => {
                let outside = addresses
                    .iter()
                    .filter(|ip| !networks().into_iter().any(|network| is_inside(**ip, network)));
                let mut names: Vec<String> =
                    self.names.iter().cloned().chain(outside.map(IpAddr::to_string)).collect();
                names.sort();
                names.dedup();
                if had_one {
                    tracing::warn!(
                        "the hub has a new certificate authority: the old one was too old, or may vouch for more than it needs; \
                         whoever installed it removes it and installs the new one from /ca.crt"
                    );
                }
                (LocalCa::new(&self.fingerprint, &names)?, None)
            }
        };
        let called = self.names.iter().cloned().chain(addresses.iter().map(IpAddr::to_string));
        let (mut names, foreign): (Vec<String>, Vec<String>) =
            called.partition(|name| authority.covers(name));
        names.sort();
        names.dedup();
        if !foreign.is_empty() {
            tracing::debug!(?foreign, "no certificate is made for names outside of this network");
        }
        let fits = |leaf: &LeafCertificate| leaf.names == names && leaf.until > soon;
        let is_new = !leaf.as_ref().is_some_and(fits);
        let leaf = match leaf.filter(fits) {
            Some(leaf) => leaf,
            None => authority.sign(&self.fingerprint, names)?,
        };
        let kept = StoredCertificates { authority, leaf: Some(leaf) };
        if is_new {
            private_file::write(&self.path, &serde_json::to_vec_pretty(&kept)?)?;
        }
        let identity = kept.identity();
        self.kept = Some(kept);
        identity
    }

    /// SHA-256 of the authority, as browsers and systems show it; empty before the first
    /// certificate.
    pub(crate) fn authority_sha256(&self) -> String {
        let der = self.kept.as_ref().and_then(|kept| hex::decode(&kept.authority.certificate).ok());
        let pairs = |der: Vec<u8>| {
            Sha256::digest(&der).iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>()
        };
        der.map(|der| pairs(der).join(":")).unwrap_or_default()
    }

    /// Gives the certificate to a relay, and a new one whenever the machine is called otherwise,
    /// until `stop`.
    pub(crate) fn keep(mut self, stop: CancellationToken) -> anyhow::Result<TlsIdentities> {
        let (sender, identities) = watch::channel(self.identity()?);
        tokio::spawn(async move {
            while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
                let before = self.leaf();
                match self.identity() {
                    Ok(_) if self.leaf() == before => {}
                    Ok(identity) => {
                        tracing::info!(
                            "the machine's names or addresses changed: it has a new certificate"
                        );
                        sender.send_replace(identity);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no new certificate could be made; the old one stays")
                    }
                }
            }
        });
        Ok(identities)
    }

    fn leaf(&self) -> Option<String> {
        Some(self.kept.as_ref()?.leaf.as_ref()?.certificate.clone())
    }
}

impl StoredCertificates {
    fn identity(&self) -> anyhow::Result<TlsIdentity> {
        let leaf = self.leaf.as_ref().context("no certificate")?;
        let key = KeyPair::from_pem(&leaf.key)?;
        let (certificate, authority) =
            (hex::decode(&leaf.certificate)?, hex::decode(&self.authority.certificate)?);
        Ok(TlsIdentity::new(
            certificate,
            key.serialize_der(),
            &key.subject_public_key_info(),
            authority,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Certificates {
        let names = ["localhost", "studio-pc", "studio-pc.local", "files.example"]
            .map(str::to_owned)
            .to_vec();
        Certificates::open(dir, "0123456789abcdef".into(), names).unwrap()
    }

    fn names(certificates: &Certificates) -> Vec<String> {
        certificates.kept.as_ref().unwrap().leaf.as_ref().unwrap().names.clone()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_certificate_stays_until_the_machine_is_called_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let mut hub = open(dir.path());
        hub.identity_for(ips(&["192.168.1.20", "127.0.0.1"])).unwrap();
        let (leaf, authority) = (hub.leaf(), hub.authority_sha256());
        assert_eq!(authority.len(), 32 * 3 - 1);

        let mut again = open(dir.path());
        again.identity_for(ips(&["127.0.0.1", "192.168.1.20"])).unwrap();
        assert_eq!(
            (again.leaf(), again.authority_sha256()),
            (leaf.clone(), authority.clone()),
            "a restart changes nothing"
        );

        again.identity_for(ips(&["10.0.0.7", "127.0.0.1"])).unwrap();
        assert_ne!(again.leaf(), leaf);
        assert_eq!(again.authority_sha256(), authority, "who installed it need not do so again");
        assert!(
            names(&again).contains(&"10.0.0.7".to_owned())
                && !names(&again).contains(&"192.168.1.20".to_owned())
        );
    }

    #[test]
    fn it_vouches_for_nothing_outside_of_private_networks_and_its_own_names() {
        let dir = tempfile::tempdir().unwrap();
        let mut hub = open(dir.path());
        hub.identity_for(ips(&["198.51.100.1"])).unwrap();
        assert!(
            names(&hub).contains(&"198.51.100.1".to_owned()),
            "where it was made, it may say so"
        );
        hub.identity_for(ips(&["203.0.113.9", "2001:db8::1", "fd00::9", "172.20.0.1"])).unwrap();
        let inside = names(&hub);
        assert_eq!(
            inside,
            ["172.20.0.1", "fd00::9", "files.example", "localhost", "studio-pc", "studio-pc.local"]
        );
        let authority = hub.kept.unwrap().authority;
        for foreign in [
            "bank.example",
            "evil.files.example.org",
            "172.32.0.1",
            "11.0.0.1",
            "home.arpa.evil.org",
            "xlocal",
        ] {
            assert!(!authority.covers(foreign), "{foreign}");
        }
    }

    /// A leaf as whoever has the authority's key could make it.
    fn forged(
        hub: &Certificates,
        usages: &[ExtendedKeyUsagePurpose],
        name: Option<rcgen::SanType>,
    ) -> rcgen::Certificate {
        let authority = &hub.kept.as_ref().unwrap().authority;
        let mut issuer = CertificateParams::default();
        issuer.distinguished_name = subject(&hub.fingerprint);
        issuer.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = Issuer::new(issuer, KeyPair::from_pem(&authority.key).unwrap());
        let mut params = CertificateParams::default();
        params.subject_alt_names = name.into_iter().collect();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "forged");
        (params.not_before, params.not_after) =
            (date(now() - DAY).unwrap(), date(now() + DAY).unwrap());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap()
    }

    fn der(hex: &str) -> Vec<u8> {
        hex::decode(hex).unwrap()
    }

    /// A73, F13. Whoever installs it lets it vouch for web servers of this network, and for nothing
    /// else.
    #[test]
    fn a73_the_authority_is_for_servers_alone_and_for_no_mail_address_or_uri() {
        use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
        let dir = tempfile::tempdir().unwrap();
        let mut hub = open(dir.path());
        hub.identity_for(ips(&["192.168.1.20", "203.0.113.9", "2001:db8::1"])).unwrap();
        let kept = hub.kept.as_ref().unwrap();
        let authority = der(&kept.authority.certificate);
        for certificate in [&authority, &der(&kept.leaf.as_ref().unwrap().certificate)] {
            let (_, parsed) = X509Certificate::from_der(certificate).unwrap();
            let usage = parsed.extended_key_usage().unwrap().expect("it says what it is for").value;
            assert!(usage.server_auth && usage.other.is_empty());
            let others = [
                usage.any,
                usage.client_auth,
                usage.code_signing,
                usage.email_protection,
                usage.time_stamping,
            ];
            assert_eq!((others, usage.ocsp_signing), ([false; 5], false));
        }
        let (_, parsed) = X509Certificate::from_der(&authority).unwrap();
        let extension = parsed.name_constraints().unwrap().expect("it says which names");
        assert!(extension.critical);
        let permitted: Vec<&GeneralName> = extension
            .value
            .permitted_subtrees
            .as_ref()
            .unwrap()
            .iter()
            .map(|subtree| &subtree.base)
            .collect();
        let dns = |name: &str| {
            permitted.iter().any(|base| matches!(base, GeneralName::DNSName(base) if *base == name))
        };
        assert!(dns("local") && dns("home.arpa") && dns("files.example") && !dns(""));
        let single = [[203, 0, 113, 9], [255; 4]].concat();
        let ip = |range: &[u8]| {
            permitted
                .iter()
                .any(|base| matches!(base, GeneralName::IPAddress(base) if *base == range))
        };
        assert!(
            ip(&single) && ip(&[10, 0, 0, 0, 255, 0, 0, 0]) && ip(&[172, 16, 0, 0, 255, 240, 0, 0])
        );
        let unique_local = range(("fc00::".parse().unwrap(), 7));
        assert!(unique_local.len() == 32 && unique_local[16..18] == [0xfe, 0] && ip(&unique_local));
        let has = |wanted: &GeneralName| permitted.contains(&wanted);
        assert!(has(&GeneralName::RFC822Name("invalid")) && has(&GeneralName::URI("invalid")));
    }

    /// The same, as another program judges it.
    #[test]
    fn a73_openssl_takes_it_for_servers_and_for_nothing_else() {
        use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, EmailProtection, ServerAuth};
        let dir = tempfile::tempdir().unwrap();
        if std::process::Command::new("openssl").arg("version").output().is_err() {
            eprintln!("there is no openssl here");
            return;
        }
        let mut hub = open(dir.path());
        hub.identity_for(ips(&["192.168.1.20"])).unwrap();
        let pem = |der: &[u8]| pem::encode(&pem::Pem::new("CERTIFICATE", der));
        let kept = hub.kept.as_ref().unwrap();
        let authority = dir.path().join("ca.pem");
        std::fs::write(&authority, pem(&der(&kept.authority.certificate))).unwrap();
        let verifies = |certificate: &[u8], purpose: &str| {
            let leaf = dir.path().join("leaf.pem");
            std::fs::write(&leaf, pem(certificate)).unwrap();
            let mut openssl = std::process::Command::new("openssl");
            openssl.args(["verify", "-purpose", purpose, "-CAfile"]).arg(&authority).arg(&leaf);
            openssl.output().unwrap().status.success()
        };
        let own = der(&kept.leaf.as_ref().unwrap().certificate);
        let purposes = ["sslserver", "sslclient", "smimesign", "timestampsign"];
        assert_eq!(purposes.map(|purpose| verifies(&own, purpose)), [true, false, false, false]);
        // Whoever stole its key can make no others, either. (For time stamps OpenSSL does not ask
        // what an authority is for.)
        for usages in [&[][..], &[ClientAuth, EmailProtection]] {
            let leaf = forged(&hub, usages, None);
            for purpose in ["sslclient", "smimesign"] {
                assert!(!verifies(leaf.der(), purpose), "{purpose} {usages:?}");
            }
        }
        let name = |text: &str| text.try_into().unwrap();
        for foreign in [
            rcgen::SanType::DnsName(name("bank.example")),
            rcgen::SanType::Rfc822Name(name("ana@bank.example")),
            rcgen::SanType::URI(name("https://bank.example/")),
            rcgen::SanType::IpAddress("198.51.100.7".parse().unwrap()),
        ] {
            let said = format!("{foreign:?}");
            assert!(
                !verifies(forged(&hub, &[ServerAuth], Some(foreign)).der(), "sslserver"),
                "{said}"
            );
        }
        let inside = rcgen::SanType::DnsName(name("tv.local"));
        assert!(verifies(forged(&hub, &[ServerAuth], Some(inside)).der(), "sslserver"));
    }

    #[test]
    fn an_authority_of_an_older_hub_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut hub = open(dir.path());
        hub.identity_for(Vec::new()).unwrap();
        let before = hub.authority_sha256();
        let path = dir.path().join("tls.json");
        let mut kept: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        kept["authority"].as_object_mut().unwrap().remove("form").expect("a new one has it");
        std::fs::write(&path, kept.to_string()).unwrap();
        let mut again = open(dir.path());
        again.identity_for(Vec::new()).unwrap();
        assert_ne!(again.authority_sha256(), before);
        let mut third = open(dir.path());
        third.identity_for(Vec::new()).unwrap();
        assert_eq!(third.authority_sha256(), again.authority_sha256(), "once");
    }

    #[cfg(unix)]
    #[test]
    fn its_key_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).identity_for(Vec::new()).unwrap();
        let mode = std::fs::metadata(dir.path().join("tls.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
