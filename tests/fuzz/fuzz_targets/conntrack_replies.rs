#![no_main]
//! See [`vms_fuzz::conntrack_replies`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| vms_fuzz::conntrack_replies(data));
