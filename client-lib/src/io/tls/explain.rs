//! What a failed TLS connection means, and what to do.
//! Rules: texts name the fault and the remedy, never the content of certificates.
//! Errors: none.

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use std::io;

/// A sentence for people about an error of a connection; errors that are not of TLS are told as they are.
#[must_use]
pub fn explain(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(tls) => of_tls(tls),
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof => "the peer closed the connection during the TLS handshake; does it expect a plain connection?".to_owned(),
            io::ErrorKind::ConnectionReset => {
                "the peer reset the connection during TLS; does it expect a plain connection, or refuse our certificate?".to_owned()
            }
            _ => error.to_string(),
        },
    }
}

/// Whether the peer ended TLS because of our certificate. In TLS 1.3 a client learns that only after it began to send; a server looks at the certificate
/// before it takes a byte (RFC 8446 section 4.4), so on a fresh connection nothing was delivered.
#[must_use]
pub fn refused(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(tls, Some(Error::AlertReceived(alert)) if is_about_certificates(*alert))
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

fn of_tls(error: &Error) -> String {
    let said = match error {
        Error::InvalidMessage(_) => "what the peer sent is not TLS; it speaks plainly: switch TLS on there, or off here",
        Error::InvalidCertificate(certificate) => return of_certificate(certificate),
        Error::NoCertificatesPresented => "the peer showed no certificate; give it one, or remove `client_ca` here",
        Error::AlertReceived(alert) => return of_alert(*alert),
        Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered | PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
            "the peer has only TLS below 1.2, which is not secure; update it, or put a TLS proxy beside it"
        }
        Error::PeerIncompatible(_) => "the peer and this gateway have no TLS parameters in common (RFC 9325 suites are needed here); update the peer",
        _ => return format!("TLS failed: {error}"),
    };
    said.to_owned()
}

fn of_certificate(certificate: &CertificateError) -> String {
    let said = match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the peer's certificate has expired; renew it there, and check the clock here"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the peer's certificate is not valid yet; check the clocks of both machines"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the peer's certificate is for another name; set `server_name` to a name that is in it, or `verify = \"ca\"` if it names none"
        }
        CertificateError::UnknownIssuer => {
            "the peer's certificate is not from an authority in our file; put its authority, or the certificate itself, there"
        }
        CertificateError::Revoked => "the peer's certificate was revoked; it needs a new one",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the peer's certificate is not made for this use; it needs the extended key usage of its side (serverAuth, clientAuth)"
        }
        // A self-signed certificate that calls itself an authority, for one: trusted only if it stands in the file itself.
        other => return format!("the peer's certificate is not acceptable ({other}); if it is the right one, put it into our file of authorities"),
    };
    said.to_owned()
}

fn of_alert(alert: AlertDescription) -> String {
    let said = match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => "the peer asks for a certificate of ours; set `cert` and `key`",
        AlertDescription::UnknownCA => "the peer does not know the authority of our certificate; have it trusted there",
        AlertDescription::CertificateExpired => "the peer says that our certificate has expired; renew it",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRevoked
        | AlertDescription::AccessDenied => "the peer refuses our certificate; look at its log",
        AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity | AlertDescription::HandshakeFailure => {
            "the peer and this gateway have no TLS version or parameters in common (TLS 1.2 or 1.3 with RFC 9325 suites are needed here)"
        }
        AlertDescription::UnrecognisedName => "the peer does not know the name we asked for; set `server_name`",
        _ => return format!("the peer ended TLS: {alert:?}"),
    };
    format!("{said} (alert {})", u8::from(alert))
}
