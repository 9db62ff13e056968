#![no_main]
//! See [`vms_fuzz::otlp_http_answers`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| vms_fuzz::otlp_http_answers(data));
