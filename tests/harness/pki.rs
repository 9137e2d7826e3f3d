//! A hospital's certificate authority, made for one test.
//! Rules: EC keys, names `localhost` and 127.0.0.1, PEM files in the test's folder.
//! Errors: panics.

use crate::world::World;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use std::path::PathBuf;

/// An authority.
pub struct Authority {
    /// Its certificate.
    pub ca: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one; its certificate is `NAME.pem`.
    #[must_use]
    pub fn new(world: &World, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key).expect("a certificate");
        let ca = world.write(&format!("{name}.pem"), cert.pem());
        Self { ca, issuer: Issuer::new(params, key) }
    }

    /// Issues a certificate for `localhost` and 127.0.0.1 (or another host name), good for both roles.
    #[must_use]
    pub fn issue(&self, world: &World, name: &str, host: &str) -> Identity {
        self.sign(world, name, host, |_| ())
    }

    /// One whose time is over.
    #[must_use]
    pub fn issue_expired(&self, world: &World, name: &str, host: &str) -> Identity {
        self.sign(world, name, host, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        })
    }

    fn sign(&self, world: &World, name: &str, host: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a host name");
        if host == "localhost" {
            params.subject_alt_names.push(SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
        }
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity { cert: world.write(&format!("{name}.crt"), cert.pem()), key: world.write(&format!("{name}.key"), key.serialize_pem()) }
    }
}

impl Identity {
    /// Puts another identity's files in the place of this one's.
    pub fn become_like(&self, other: &Identity) {
        std::fs::copy(&other.cert, &self.cert).and_then(|_| std::fs::copy(&other.key, &self.key)).expect("certificate files");
    }
}
