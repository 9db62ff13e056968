#![no_main]
//! See [`vms_fuzz::configuration`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| vms_fuzz::configuration(data));
