//! The binary `vms-agent`; all of it is in the library of that name.

use std::process::ExitCode;

fn main() -> ExitCode {
    vms_agent::main()
}
