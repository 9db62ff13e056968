use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::*;

fn certificate(from: (i32, u8, u8), to: (i32, u8, u8)) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["agent.example".to_owned()]).unwrap();
    params.not_before = date_time_ymd(from.0, from.1, from.2);
    params.not_after = date_time_ymd(to.0, to.1, to.2);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

#[test]
fn both_ends_are_read_in_either_form_of_a_time() {
    for (from, to, not_before, not_after) in [
        ((1970, 1, 1), (2024, 2, 29), 0, 1_709_164_800),
        ((2000, 3, 1), (2024, 3, 1), 951_868_800, 1_709_251_200),
        ((2026, 12, 31), (2049, 12, 31), 1_798_675_200, 2_524_521_600),
        // From 2050 on the form with four digits is used.
        ((2050, 1, 1), (2100, 3, 1), 2_524_608_000, 4_107_542_400),
        ((1960, 1, 1), (9999, 12, 31), 0, 253_402_214_400),
    ] {
        let read = Validity::read(&certificate(from, to)).unwrap();
        assert_eq!(read, Validity { not_before, not_after }, "{from:?} to {to:?}");
    }
    assert_eq!(shown_time(1_709_164_800), "Thu, 29 Feb 2024 00:00:00 GMT");
    assert_eq!(shown_time(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
}

#[test]
fn no_beginning_of_a_certificate_is_taken_for_a_whole_one() {
    let whole = certificate((2026, 1, 1), (2027, 1, 1));
    for length in 0..whole.len() {
        assert_eq!(Validity::read(&whole[..length]), None, "{length} bytes");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(place in 0..400_usize, byte: u8, noise: Vec<u8>) {
        let mut bytes = certificate((2026, 1, 1), (2050, 1, 1));
        if let Some(changed) = bytes.get_mut(place) {
            *changed = byte;
        }
        if let Some(validity) = Validity::read(&bytes) {
            shown_time(validity.not_after);
        }
        Validity::read(&noise);
    }
}
