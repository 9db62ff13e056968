//! Hosts on which destinations are translated, by nftables.

use std::net::{IpAddr, SocketAddr};

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketType};

use crate::namespace::Namespace;
use crate::program;

/// A service's IPv4 address that no host has, like a Kubernetes `ClusterIP`.
pub const CLUSTER_IPV4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 10));
/// The same for IPv6.
pub const CLUSTER_IPV6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0xa));
/// The port of the service.
pub const SERVICE_PORT: u16 = 80;
/// The port at which its back ends listen.
pub const BACKEND_PORT: u16 = 8080;

/// The service of the address family.
#[must_use]
pub fn cluster_service(family_of: IpAddr) -> SocketAddr {
    SocketAddr::new(if family_of.is_ipv4() { CLUSTER_IPV4 } else { CLUSTER_IPV6 }, SERVICE_PORT)
}

/// Three hosts in a row.
#[derive(Debug)]
pub struct Routed {
    /// At one end.
    pub client: Namespace,
    /// In between.
    pub router: Namespace,
    /// At the other end.
    pub server: Namespace,
}

impl Routed {
    /// Joins them: whatever the client has no better route for goes to the router, and back.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        let hosts = Self { client: Namespace::new(), router: Namespace::new(), server: Namespace::new() };
        join(&hosts.client, &hosts.router, "east", 21);
        join(&hosts.server, &hosts.router, "west", 22);
        hosts.router.set_parameter("net/ipv4/ip_forward", "1");
        hosts.router.set_parameter("net/ipv6/conf/all/forwarding", "1");
        hosts
    }

    /// The server's IPv4 address.
    #[must_use]
    pub fn server_ip(&self) -> IpAddr {
        IpAddr::from([10, 22, 0, 2])
    }
}

impl Default for Routed {
    fn default() -> Self {
        Self::new()
    }
}

/// A cable from `eth0` of a host to the router, which is where all goes.
#[track_caller]
fn join(host: &Namespace, router: &Namespace, port: &str, network: u8) {
    let (host, router) = (host.name(), router.name());
    let steps = [
        format!("-n {host} link add eth0 type veth peer name {port} netns {router}"),
        format!("-n {host} link set eth0 up"),
        format!("-n {router} link set {port} up"),
        format!("-n {host} address add 10.{network}.0.2/24 dev eth0"),
        format!("-n {router} address add 10.{network}.0.1/24 dev {port}"),
        format!("-n {host} route add default via 10.{network}.0.1"),
    ];
    for step in steps {
        ip(&step);
    }
}

/// Sends what goes to either service from one host to another, which has to make something of it.
#[track_caller]
pub fn route_services(from: &Namespace, to: &Namespace) {
    for (service, via) in [(CLUSTER_IPV4, to.ipv4()), (CLUSTER_IPV6, to.ipv6())] {
        ip(&format!("-n {} route add {service} via {via} dev eth0", from.name()));
    }
}

/// Lets a host translate: rules in a chain of nft's language, such as `ip daddr 10.96.0.10 tcp dport 80 dnat to 10.0.0.1:80`.
#[track_caller]
pub fn translate(host: &Namespace, hook: &str, rules: &[String]) {
    // NF_IP_PRI_NAT_DST and NF_IP_PRI_NAT_SRC.
    let priority = if hook == "input" || hook == "postrouting" { 100 } else { -100 };
    let rules = rules.join("\n");
    host.run(program::command("nft").arg(format!(
        "table inet vmst_nat {{\n chain {hook} {{\n type nat hook {hook} priority {priority}\n {rules}\n }}\n}}\n"
    )));
}

/// The rule by which a service is served by a back end.
#[must_use]
pub fn to_backend(service: SocketAddr, backend: SocketAddr) -> String {
    let (protocol, target) = match service.ip() {
        IpAddr::V4(_) => ("ip", "dnat ip to"),
        IpAddr::V6(_) => ("ip6", "dnat ip6 to"),
    };
    format!("{protocol} daddr {} tcp dport {} {target} {backend}", service.ip(), service.port())
}

/// Lets a host forget every connection that it tracks.
#[track_caller]
pub fn forget_connections(host: &Namespace) {
    // struct nlmsghdr: NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK; and struct nfgenmsg.
    let words: [&[u8]; 6] = [
        &20_u32.to_ne_bytes(),
        &0x0102_u16.to_ne_bytes(),
        &0x0005_u16.to_ne_bytes(),
        &1_u32.to_ne_bytes(),
        &0_u32.to_ne_bytes(),
        &[0; 4],
    ];
    let mut answer = [0; 64];
    host.inside(|| {
        let socket = net::socket(AddressFamily::NETLINK, SocketType::RAW, Some(NETFILTER)).expect("netlink");
        let kernel = SocketAddrNetlink::new(0, 0);
        net::sendto(&socket, &words.concat(), SendFlags::empty(), &kernel).expect("the kernel takes it");
        net::recv(&socket, &mut answer, RecvFlags::empty()).expect("the kernel answers");
    });
    assert_eq!(answer[16..20], [0; 4], "it was refused");
}

#[track_caller]
fn ip(words: &str) {
    program::run(program::command("ip").args(words.split(' ')));
}
