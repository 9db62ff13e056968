#![no_main]
//! See [`vms_fuzz::configuration_documents`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| vms_fuzz::configuration_documents(data));
