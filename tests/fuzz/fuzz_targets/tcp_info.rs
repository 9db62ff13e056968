#![no_main]
//! See [`vms_fuzz::tcp_info`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| vms_fuzz::tcp_info(data));
