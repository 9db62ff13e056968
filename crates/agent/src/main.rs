//! `vms-agent`: tells over OTLP whether the links between services are alive.

mod console;
mod resource;
mod sink;
mod terminal;

fn main() {}
