#![no_main]
//! See [`vms_fuzz::configuration_texts`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| vms_fuzz::configuration_texts(data));
