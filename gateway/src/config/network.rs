//! Networks of peers, as `10.1.0.0/16` or a single address.
//! Rules: IPv4 addresses mapped into IPv6 (a listener on `[::]` sees them so) count as IPv4.
//! Errors: `None` for what is neither.

use std::net::IpAddr;

/// A network, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// Any address of it.
    address: IpAddr,
    /// Leading bits that count.
    prefix: u8,
}

impl Network {
    /// Reads `address` or `address/bits`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Network> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok().filter(|prefix| *prefix <= bits)?,
            Some(_) => return None,
        };
        Some(Network { address, prefix })
    }

    /// Whether an address belongs to it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let prefix = u32::from(self.prefix);
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()).checked_shr(32 - prefix).unwrap_or(0) == 0,
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()).checked_shr(128 - prefix).unwrap_or(0) == 0,
            _ => false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_belong_to_networks() {
        let cases = [
            ("10.1.0.0/16", "10.1.255.255", true),
            ("10.1.0.0/16", "10.2.0.0", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("10.1.0.0/16", "::ffff:10.1.2.3", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db9::1", true),
            ("10.1.2.129/25", "10.1.2.200", true),
            ("10.1.2.129/25", "10.1.2.100", false),
        ];
        for (network, address, belongs) in cases {
            assert_eq!(Network::parse(network).unwrap().contains(address.parse().unwrap()), belongs, "{address} in {network}");
        }
        for bad in ["", "10.1", "10.1.0.0/33", "2001:db8::/129", "10.1.0.0/", "10.1.0.0/+8", "host.example.org", "10.1.0.0/16/8"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
