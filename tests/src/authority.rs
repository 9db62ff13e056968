//! An authority that issues certificates for any time, as they expire and are renewed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::collector::Protocol;
use crate::deadline::unix_nanoseconds;

/// An authority.
pub struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate, for servers as `localhost` and for clients, and its key.
pub struct Issued {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

/// For how long a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    /// From 2020 for a hundred years.
    Long,
    /// In 2020 and no longer.
    In2020,
    /// From 2020, for so long from now on; in whole seconds.
    For(Duration),
    /// From 2119 on.
    Later,
}

impl Authority {
    /// A new one, under a name of its own.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names to be wrong");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, key.public_key_pem());
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Its own certificate.
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Issues a certificate.
    #[must_use]
    #[track_caller]
    pub fn issue(&self, valid: Valid) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
        let mut params = CertificateParams::new(names).expect("valid names");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(if valid == Valid::Later { 2119 } else { 2020 }, 1, 1);
        params.not_after = match valid {
            Valid::Long | Valid::Later => date_time_ymd(2120, 1, 1),
            Valid::In2020 => date_time_ymd(2021, 1, 1),
            Valid::For(lasts) => {
                date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_nanoseconds() / 1_000_000_000) + lasts
            }
        };
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { certificate, key }
    }

    /// A server that shows a certificate; with `mutual` it asks its clients for one of this authority's.
    #[must_use]
    #[track_caller]
    pub fn server(&self, protocol: Protocol, shown: &Issued, mutual: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let versions = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions");
        let verified = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate.der().clone()).expect("a valid certificate");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            versions.with_client_cert_verifier(verifier.build().expect("one root"))
        } else {
            versions.with_no_client_auth()
        };
        let chain: Vec<CertificateDer<'static>> = vec![shown.certificate.der().clone()];
        let key = PrivateKeyDer::try_from(shown.key.serialize_der()).expect("a valid key");
        let mut config = verified.with_single_cert(chain, key).expect("the key is the certificate's");
        config.alpn_protocols = match protocol {
            Protocol::Grpc => vec![b"h2".to_vec()],
            Protocol::Http => vec![b"http/1.1".to_vec()],
        };
        Arc::new(config)
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Issued {
    /// The certificate as a file has it.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// The key as a file has it.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The certificate as it goes over the wire.
    #[must_use]
    pub fn der(&self) -> Vec<u8> {
        self.certificate.der().to_vec()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Issued").finish_non_exhaustive()
    }
}
