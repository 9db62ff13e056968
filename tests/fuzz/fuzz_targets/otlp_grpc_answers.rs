#![no_main]
//! See [`vms_fuzz::otlp_grpc_answers`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| vms_fuzz::otlp_grpc_answers(data));
