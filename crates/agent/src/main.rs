//! `vms-agent`: tells over OTLP whether the links between services are alive.

mod console;
mod resource;
mod sink;
mod terminal;
#[expect(dead_code, reason = "wired by the commands")]
mod config;
#[expect(dead_code, reason = "wired by the commands")]
mod environment;
#[expect(dead_code, reason = "wired by the commands")]
mod validate;

fn main() {}
