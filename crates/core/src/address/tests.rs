use super::*;
use proptest::prelude::*;

fn ip(text: &str) -> ServiceIp {
    text.parse().unwrap()
}

#[test]
fn addresses_compare_as_addresses_not_as_text() {
    assert_eq!(ip("::ffff:10.0.0.1"), ip("10.0.0.1"));
    assert_eq!(ip("0:0::1"), ip("::1"));
    assert_eq!(ip("FE80::1%eth0"), ip("fe80:0::1%eth0"));
    assert_ne!(ip("fe80::1%eth0"), ip("fe80::1%eth1"));
    assert_ne!(ip("::10.0.0.1"), ip("10.0.0.1"), "an IPv4-compatible address is not an IPv4-mapped one");
}

#[test]
fn a_mapped_endpoint_is_its_ipv4_endpoint() {
    let mapped = Endpoint::new("::ffff:192.0.2.7".parse().unwrap(), 443);
    assert_eq!(mapped, Endpoint::new("192.0.2.7".parse().unwrap(), 443));
    assert_eq!(mapped.to_string(), "192.0.2.7:443");
}

#[test]
fn what_no_connection_can_have_is_refused_with_its_reason() {
    for (text, reason) in [
        ("db.example", ServiceIpError::NotAnAddress),
        ("10.0.0.256", ServiceIpError::NotAnAddress),
        ("010.0.0.1", ServiceIpError::NotAnAddress),
        ("10.0.0.1:80", ServiceIpError::NotAnAddress),
        ("", ServiceIpError::NotAnAddress),
        ("0.0.0.0", ServiceIpError::Unspecified),
        ("::", ServiceIpError::Unspecified),
        ("::ffff:0.0.0.0", ServiceIpError::Unspecified),
        ("224.0.0.1", ServiceIpError::NotUnicast),
        ("255.255.255.255", ServiceIpError::NotUnicast),
        ("ff02::1%eth0", ServiceIpError::NotUnicast),
        ("10.0.0.1%eth0", ServiceIpError::Zone),
        ("::ffff:10.0.0.1%eth0", ServiceIpError::Zone),
        ("fe80::1%", ServiceIpError::Zone),
        ("fe80::1%0", ServiceIpError::Zone),
        ("fe80::1%a-name-of-16-chr", ServiceIpError::Zone),
    ] {
        assert_eq!(text.parse::<ServiceIp>(), Err(reason), "{text}");
    }
}

proptest! {
    #[test]
    fn every_address_survives_being_printed_and_read(bits in any::<u128>(), zone in proptest::option::of("[a-z]{1,8}")) {
        let address = std::net::Ipv6Addr::from(bits);
        let text = match zone { Some(zone) => format!("{address}%{zone}"), None => address.to_string() };
        if let Ok(parsed) = text.parse::<ServiceIp>() {
            prop_assert_eq!(parsed.to_string().parse::<ServiceIp>().unwrap(), parsed);
        }
    }

    #[test]
    fn no_text_panics(text in ".*") {
        drop(text.parse::<ServiceIp>());
    }
}
