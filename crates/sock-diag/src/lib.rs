//! The netlink `sock_diag` codec and client: implements `vms_core::ConnAdapter`.
