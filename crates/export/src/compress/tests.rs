use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn what_was_encoded_is_decoded_and_follows_what_stood_before(body: Vec<u8>) {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let encoded = encode_body(compression, &body, b"head".to_vec()).unwrap();
            prop_assert_eq!(&encoded[..4], b"head");
            prop_assert_eq!(encoded.capacity(), encoded.len());
            let name = encoding_name(compression).unwrap_or("identity");
            let plain = decode_body(name, &Bytes::copy_from_slice(&encoded[4..]), body.len()).unwrap();
            prop_assert_eq!(&plain[..], &body[..]);
        }
    }

    #[test]
    fn bodies_that_were_encoded_before_change_nothing(bodies: Vec<Vec<u8>>) {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut compressor = Compressor::new(compression);
            for body in &bodies {
                let alone = encode_body(compression, body, Vec::new()).unwrap();
                prop_assert_eq!(compressor.encode(body, Vec::new()).unwrap(), alone);
            }
        }
    }

    #[test]
    fn every_truncation_errs(body in proptest::collection::vec(any::<u8>(), 1..200), cut in 1usize..50) {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let mut encoded = encode_body(compression, &body, Vec::new()).unwrap();
            encoded.truncate(encoded.len().saturating_sub(cut).max(1));
            prop_assert!(decode_body(encoding_name(compression).unwrap(), &encoded.into(), 1000).is_err());
        }
    }

    #[test]
    fn garbage_never_panics(body: Vec<u8>) {
        let body = Bytes::from(body);
        for encoding in ["gzip", "zstd", "br"] {
            prop_assert!(decode_body(encoding, &body, 100).is_err() || body.is_empty());
        }
    }
}

#[test]
fn bodies_go_through_the_same_zstd_context() {
    let body: Vec<u8> = (0..20_000_u32).flat_map(|number| (number * number % 251).to_le_bytes()).collect();
    let mut compressor = Compressor::new(Compression::Zstd);
    let ordinary = compressor.encode(&body, Vec::new()).unwrap();
    // Another level, which no new one would have, shows that it is the one of before.
    compressor.zstd.as_mut().unwrap().set_compression_level(19).unwrap();
    assert_ne!(compressor.encode(&body, Vec::new()).unwrap(), ordinary);
}

#[test]
fn a_small_body_that_unpacks_to_a_large_one_is_refused() {
    let bomb = vec![0; 10 << 20];
    for compression in [Compression::Gzip, Compression::Zstd] {
        let encoded = encode_body(compression, &bomb, Vec::new()).unwrap();
        assert!(encoded.len() < 20_000);
        // Without its end, which whoever unpacks no more than the limit never comes to.
        let cut = encoded.get(..encoded.len() - 5).unwrap().to_vec();
        for body in [encoded, cut] {
            let error = decode_body(encoding_name(compression).unwrap(), &body.into(), 64 << 10).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{compression:?}");
        }
    }
}
