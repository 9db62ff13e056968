#![no_main]
//! See [`vms_fuzz::proc_files`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| vms_fuzz::proc_files(data));
