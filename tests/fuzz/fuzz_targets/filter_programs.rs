#![no_main]
//! See [`vms_fuzz::filter_programs`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| vms_fuzz::filter_programs(data));
