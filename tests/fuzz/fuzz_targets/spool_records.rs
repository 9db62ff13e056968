#![no_main]
//! See [`vms_fuzz::spool_records`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| vms_fuzz::spool_records(data));
