#![no_main]
//! See [`vms_fuzz::netlink_replies`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| vms_fuzz::netlink_replies(data));
