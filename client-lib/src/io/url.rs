//! Addresses of peers as people write them: `mllp://host:port`, `mllps://host:port`, `dicom://AE@host:port`, `dicoms://AE@host:port`.
//! Rules: the port may be left out where the protocol has one of its own (DICOM 104, secure 2762, PS3.8 9.1; MLLP 2575, secure 2575: IANA's for HL7);
//! the AE title of a DICOM peer may be left out and is then ANY-SCP; IPv6 addresses stand in brackets.
//! Errors: `UrlError`, with what was expected.

use crate::dicom::negotiate::is_ae_title;
use crate::keys::Protocol;
use std::fmt;
use std::str::FromStr;

/// The called AE title of a URL that names none.
pub const ANY_SCP: &str = "ANY-SCP";

/// A peer's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// What it speaks.
    pub protocol: Protocol,
    /// With TLS.
    pub tls: bool,
    /// Called AE title; empty for MLLP.
    pub ae_title: String,
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Not an address of a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address of a peer: {what}; write mllp://host:port, mllps://host:port, dicom://AE@host:port or dicoms://AE@host:port")]
pub struct UrlError {
    text: String,
    what: &'static str,
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let bad = |what| UrlError { text: text.to_owned(), what };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
        let (protocol, tls, usual_port) = match scheme.to_ascii_lowercase().as_str() {
            "mllp" => (Protocol::Mllp, false, 2575),
            "mllps" => (Protocol::Mllp, true, 2575),
            "dicom" => (Protocol::Dicom, false, 104),
            "dicoms" => (Protocol::Dicom, true, 2762),
            _ => return Err(bad("its scheme is unknown")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (ae_title, address) = match (protocol, rest.rsplit_once('@')) {
            (Protocol::Dicom, Some((ae, address))) if is_ae_title(ae) => (ae, address),
            (Protocol::Dicom, Some(_)) => return Err(bad("its AE title is none (1 to 16 characters, no backslash)")),
            (Protocol::Dicom, None) => (ANY_SCP, rest),
            (Protocol::Mllp, Some(_)) => return Err(bad("MLLP knows no AE titles")),
            (Protocol::Mllp, None) => ("", rest),
        };
        let (host, port) = match address.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, tail)) => (host, Some(tail.strip_prefix(':').ok_or_else(|| bad("something stands behind the bracket"))?)),
            None => match address.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => return Err(bad("an IPv6 address stands in brackets")),
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        if host.is_empty() || host.contains(['/', ' ', '?', '#']) {
            return Err(bad("its host is none"));
        }
        let port = port.map_or(Ok(usual_port), str::parse).ok().filter(|port| *port != 0).ok_or_else(|| bad("its port is none"))?;
        Ok(Url { protocol, tls, ae_title: ae_title.to_owned(), host: host.to_owned(), port })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.protocol, self.tls) {
            (Protocol::Mllp, false) => "mllp",
            (Protocol::Mllp, true) => "mllps",
            (Protocol::Dicom, false) => "dicom",
            (Protocol::Dicom, true) => "dicoms",
        };
        let at = if self.ae_title.is_empty() { "" } else { "@" };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{}{at}{open}{}{close}:{}", self.ae_title, self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_people_write_is_understood() {
        for (text, whole) in [
            ("mllp://ris:2575", "mllp://ris:2575"),
            ("mllps://ris.example.org", "mllps://ris.example.org:2575"),
            ("dicom://PACS@[::1]:11112", "dicom://PACS@[::1]:11112"),
            ("dicom://10.0.0.1", "dicom://ANY-SCP@10.0.0.1:104"),
            ("DICOMS://MY PACS@pacs/", "dicoms://MY PACS@pacs:2762"),
        ] {
            assert_eq!(text.parse::<Url>().unwrap().to_string(), whole);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "ris:2575",
            "http://ris",
            "mllp://A@ris:1",
            "dicom://SEVENTEEN-LETTERS@p:1",
            "dicom://p:0",
            "dicom://p:99999",
            "dicom://::1",
            "mllp://",
            "mllp://[::1]2575",
        ] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }
}
