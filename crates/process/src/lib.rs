//! Which process holds a socket, from /proc: implements `vms_core::ProcessAdapter`.
