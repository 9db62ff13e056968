//! Certificates made for one test: an authority, what it issued, and the files that hold them.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// A directory with PEM files, gone when dropped.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) ca_pem: String,
    directory: tempfile::TempDir,
}

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Two authorities of one name would be told apart by a bad signature rather than as strangers.
        params.distinguished_name.push(DnType::CommonName, key.public_key_pem());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), ca_pem, directory: tempfile::tempdir().unwrap() }
    }

    /// A certificate for this name, good for servers and clients.
    pub(crate) fn issue(&self, name: &str) -> Issued {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate_pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { certificate_pem, key_pem: key.serialize_pem() }
    }

    /// The same, valid from one day to another (year, month, day).
    pub(crate) fn issue_for(&self, name: &str, from: (i32, u8, u8), to: (i32, u8, u8)) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(to.0, to.1, to.2);
        let certificate_pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { certificate_pem, key_pem: key.serialize_pem() }
    }

    /// Writes a file into the directory.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The file with the authority's own certificate.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.write("ca.pem", &self.ca_pem)
    }
}
