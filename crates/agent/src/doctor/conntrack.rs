//! The judgment of whether translations (NAT) can be told, where that is configured.

use std::path::Path;

use rustix::io::Errno;

use super::evaluate::{lack, ok, quote};
use super::facts::{Credentials, Facts, Refusal, Setting};
use super::{Area, Finding, Level};

const UNSEEN: &str = "links to addresses that are translated on this host are not seen at the server's end";

/// Judges what came of reading it here, and then each running agent; nothing where it is not configured.
pub(super) fn evaluate(facts: &Facts) -> Vec<Finding> {
    let Some(read) = &facts.conntrack else { return Vec::new() };
    let mut findings = Vec::new();
    match read {
        Ok(()) => findings.push(ok(
            Area::Network,
            "conntrack can be read: links to addresses that are translated on this host are seen at both ends",
        )),
        Err(refusal) if is_permission(refusal) && !facts.agents.is_empty() => findings.push(ok(
            Area::Privileges,
            "this process may not read conntrack, which does not matter to the running agent",
        )),
        Err(refusal) if is_permission(refusal) => findings.push(lack(
            Area::Privileges,
            Level::Warn,
            format!("`conntrack: auto`, and it may not be read ({}): {UNSEEN}", refusal.text),
            fix_permission(refusal, facts),
        )),
        Err(refusal) => findings.push(lack(
            Area::Kernel,
            Level::Warn,
            format!("`conntrack: auto`, and it cannot be read ({}): {UNSEEN}", refusal.text),
            fix_kernel(refusal, &facts.setting),
        )),
    }
    for agent in facts.agents.iter().filter(|agent| !agent.credentials.effective.has_net_admin()) {
        let (pid, uid) = (agent.pid, agent.credentials.uid);
        findings.push(lack(
            Area::Privileges,
            Level::Warn,
            format!("the running agent (PID {pid}, uid {uid}) lacks CAP_NET_ADMIN, or was started before `conntrack: auto`: {UNSEEN}"),
            grant(&agent.credentials, &agent.setting, &facts.executable),
        ));
    }
    findings
}

fn is_permission(refusal: &Refusal) -> bool {
    let errno = refusal.errno.map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::PERM | Errno::ACCESS | Errno::AFNOSUPPORT))
}

fn fix_permission(refusal: &Refusal, facts: &Facts) -> Option<String> {
    match Errno::from_raw_os_error(refusal.errno?) {
        // What keeps netlink away keeps sockets away as well, and there the fix is told.
        Errno::AFNOSUPPORT => None,
        Errno::ACCESS => {
            Some("allow netlink_netfilter_socket in the policy of the security module".to_owned())
        }
        _ => Some(grant(&facts.own, &facts.setting, &facts.executable)),
    }
}

fn grant(credentials: &Credentials, setting: &Setting, executable: &Path) -> String {
    let unbounded = credentials.bounding.has_net_admin();
    match setting {
        Setting::Service(unit) => {
            let also = if unbounded { "" } else { " and CapabilityBoundingSet=CAP_NET_ADMIN" };
            format!("sudo systemctl edit {unit}, under [Service]: AmbientCapabilities=CAP_NET_ADMIN{also}")
        }
        // An engine gives added capabilities to root only.
        Setting::Container => {
            format!("--cap-add=NET_ADMIN{}", if credentials.uid == 0 { "" } else { " --user=0" })
        }
        Setting::Kubernetes => format!(
            "securityContext.capabilities.add: [NET_ADMIN]{}",
            if credentials.uid == 0 { "" } else { " and runAsUser: 0" }
        ),
        // setcap(8) replaces what the file had.
        Setting::Plain if unbounded && !credentials.no_new_privs => {
            format!("sudo setcap cap_sys_ptrace,cap_dac_read_search,cap_net_admin=ep {}", quote(executable))
        }
        Setting::Plain => format!(
            "start it from systemd, free of what restricts this shell: sudo systemd-run --pty --uid={} \
             --property=AmbientCapabilities=\"CAP_SYS_PTRACE CAP_DAC_READ_SEARCH CAP_NET_ADMIN\" {}",
            credentials.uid,
            quote(executable)
        ),
    }
}

fn fix_kernel(refusal: &Refusal, setting: &Setting) -> Option<String> {
    let absent = matches!(
        Errno::from_raw_os_error(refusal.errno?),
        Errno::INVAL | Errno::PROTONOSUPPORT | Errno::OPNOTSUPP | Errno::NOENT
    );
    let on_host = if setting.is_contained() { "on the host: " } else { "" };
    absent.then(|| format!("{on_host}sudo modprobe nf_conntrack_netlink"))
}
