//! Checks of the other side's certificate.
//! Rules: a certificate that itself stands in the file of authorities is trusted as it is, within its dates: self-signed certificates of devices often
//! call themselves authorities, which a chain check alone would refuse. Signatures of the handshake are always checked, even with `verify = "none"`.
//! Errors: those of rustls.

use super::TlsError;
use super::files::validity;
use crate::config::Verify;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// Certificates that are trusted as they are.
#[derive(Debug)]
struct Pinned(Vec<CertificateDer<'static>>);

impl Pinned {
    /// `None`: it is not among them.
    fn check(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Option<Result<(), Error>> {
        if !self.0.iter().any(|own| own.as_ref() == certificate.as_ref()) {
            return None;
        }
        let now = UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
        Some(match validity(certificate) {
            Err(_) => Err(CertificateError::BadEncoding.into()),
            Ok((begin, _)) if now < begin => Err(CertificateError::NotValidYet.into()),
            Ok((_, end)) if now > end => Err(CertificateError::Expired.into()),
            Ok(_) => Ok(()),
        })
    }
}

fn roots(authorities: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|error| {
            TlsError::new(format!("a certificate among the authorities cannot be used: {error}"), "replace it with an X.509 version 3 certificate")
        })?;
    }
    Ok(Arc::new(roots))
}

/// The check of a server's certificate.
#[derive(Debug)]
pub(super) struct ServerCheck {
    /// `None`: nothing is checked but signatures.
    chain: Option<Arc<WebPkiServerVerifier>>,
    pinned: Pinned,
    verify: Verify,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCheck {
    pub(super) fn new(authorities: Option<Vec<CertificateDer<'static>>>, verify: Verify, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let algorithms = provider.signature_verification_algorithms;
        let Some(authorities) = authorities else { return Ok(Self { chain: None, pinned: Pinned(Vec::new()), verify, algorithms }) };
        let chain = WebPkiServerVerifier::builder_with_provider(roots(&authorities)?, provider.clone()).build();
        let chain = chain.map_err(|error| TlsError::new(format!("the authorities cannot be used: {error}"), "replace the file"))?;
        Ok(Self { chain: Some(chain), pinned: Pinned(authorities), verify, algorithms })
    }
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        if let Some(pinned) = self.pinned.check(end_entity, now) {
            pinned?;
            if self.verify == Verify::Full {
                rustls::client::verify_server_name(&end_entity.try_into()?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, when everything else was found good.
            Err(Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }))
                if self.verify == Verify::Ca =>
            {
                Ok(ServerCertVerified::assertion())
            }
            checked => checked,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The check of a client's certificate, which is required.
#[derive(Debug)]
pub(super) struct ClientCheck {
    chain: Arc<dyn ClientCertVerifier>,
    pinned: Pinned,
}

impl ClientCheck {
    pub(super) fn new(authorities: Vec<CertificateDer<'static>>, provider: &Arc<CryptoProvider>) -> Result<Arc<Self>, TlsError> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots(&authorities)?, provider.clone()).build();
        let chain = chain.map_err(|error| TlsError::new(format!("`client_ca` cannot be used: {error}"), "replace the file"))?;
        Ok(Arc::new(Self { chain, pinned: Pinned(authorities) }))
    }
}

impl ClientCertVerifier for ClientCheck {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.pinned.check(end_entity, now) {
            Some(pinned) => pinned.map(|()| ClientCertVerified::assertion()),
            None => self.chain.verify_client_cert(end_entity, intermediates, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
