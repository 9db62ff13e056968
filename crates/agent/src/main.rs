//! `vms-agent`: tells over OTLP whether the links between services are alive.

fn main() {}
