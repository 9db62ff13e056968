use super::*;

const ID: &str = "e72f453320124d18eb835d05a10d393b95dd584ed6d1bea161717a290a357aa6";
const OTHER: &str = "52fe35b6596081ccbe93ef248665cbb97e869f53838191741458455d10d1e0be";
const UID: &str = "8c1b3f6e-7d52-4c1c-9f0e-3f2b7a9d5e10";

fn id_by_cgroup(text: &str) -> Option<String> {
    match_container_id(&parse_cgroup_paths(&text.replace("ID", ID)), &[], false)
}

#[test]
fn every_engine_names_a_cgroup_after_its_container() {
    for text in [
        // Docker: v1 with cgroupfs, v2 with systemd in the host's cgroup namespace.
        "12:pids:/docker/ID\n11:cpu,cpuacct:/docker/ID\n1:name=systemd:/docker/ID\n",
        "0::/system.slice/docker-ID.scope\n",
        // systemd within a Docker container.
        "1:name=systemd:/docker/ID/system.slice/vms-agent.service\n",
        // containerd under Kubernetes: cgroupfs, systemd, and the two mixed up.
        "4:memory:/kubepods/burstable/pod8c1b3f6e-7d52-4c1c-9f0e-3f2b7a9d5e10/ID\n",
        "0::/kubepods.slice/kubepods-pod8c1b3f6e_7d52_4c1c_9f0e_3f2b7a9d5e10.slice/cri-containerd-ID.scope\n",
        "1:name=systemd:/system.slice/containerd.service/kubepods-pod8c1b3f6e_7d52_4c1c_9f0e_3f2b7a9d5e10.slice:cri-containerd:ID\n",
        // CRI-O.
        "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod8c1b3f6e_7d52_4c1c_9f0e_3f2b7a9d5e10.slice/crio-ID.scope/container\n",
        // Podman: cgroupfs, and systemd with the container's own part of the scope.
        "9:name=systemd:/libpod_parent/libpod-ID\n8:pids:/libpod_parent/libpod-ID\n0::/libpod_parent/libpod-ID\n",
        "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container\n",
    ] {
        assert_eq!(id_by_cgroup(text).as_deref(), Some(ID), "{text}");
    }
}

#[test]
fn a_cgroup_that_is_no_container_is_none() {
    for text in [
        "",
        "0::/\n",
        "0::/../../..\n",
        "0::/system.slice/vms-agent.service\n",
        "0::/user.slice/user-1000.slice/session-3.scope\n",
        "4:memory:/process_api/bec470b15a842a52cf573c2fa8bd93da\n",
        "0::/machine.slice/libpod-conmon-ID.scope\n",
        "0::/docker/IDIDID\n",
        "no cgroup file",
    ] {
        assert_eq!(id_by_cgroup(text), None, "{text}");
    }
}

#[test]
fn the_innermost_of_nested_containers_is_the_own_one() {
    assert_eq!(id_by_cgroup(&format!("0::/docker/{OTHER}/docker/ID\n")).as_deref(), Some(ID));
}

/// As Podman 4.3 mounts them into a container that shares the network of another.
fn podman_mounts() -> String {
    let directory = "/run/containers/storage/overlay-containers";
    format!(
        "77 50 0:40 / / rw,nodev,relatime - overlay overlay rw,lowerdir=/,upperdir={directory}/{OTHER}/rootfs/upper\n\
         78 77 0:43 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n\
         83 77 254:0 {directory}/{OTHER}/userdata/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/vda rw\n\
         84 77 254:0 {directory}/{OTHER}/userdata/hosts /etc/hosts rw,relatime - ext4 /dev/vda rw\n\
         86 77 254:0 {directory}/{ID}/userdata/.containerenv /run/.containerenv rw,relatime - ext4 /dev/vda rw\n\
         87 77 254:0 {directory}/{ID}/userdata/hostname /etc/hostname rw,relatime - ext4 /dev/vda rw\n"
    )
}

/// As Docker mounts them with the overlay2 driver, whose layers have names that look like ids.
fn docker_mounts() -> String {
    format!(
        "711 574 0:54 / / rw,relatime master:199 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A,upperdir=/var/lib/docker/overlay2/{OTHER}/diff\n\
         720 711 8:1 /var/lib/docker/containers/{OTHER}/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/sda1 rw\n\
         721 711 8:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw,relatime - ext4 /dev/sda1 rw\n\
         722 711 8:1 /var/lib/docker/containers/{OTHER}/hosts /etc/hosts rw,relatime - ext4 /dev/sda1 rw\n"
    )
}

/// As containerd and CRI-O mount them under Kubernetes: the sandbox's, and the kubelet's.
fn kubernetes_mounts(sandbox_directory: &str, kubelet_directory: &str) -> String {
    format!(
        "1 0 0:1 / / rw,relatime - overlay overlay rw,lowerdir=/snapshots/12/fs,upperdir=/snapshots/34/fs\n\
         2 1 8:1 {kubelet_directory}/pods/{UID}/etc-hosts /etc/hosts rw,relatime - ext4 /dev/sda1 rw\n\
         3 1 8:1 {kubelet_directory}/pods/{UID}/containers/agent/5e8d1c0f /dev/termination-log rw,relatime - ext4 /dev/sda1 rw\n\
         4 1 8:1 {sandbox_directory}/{OTHER}/hostname /etc/hostname rw,relatime - ext4 /dev/sda1 rw\n\
         5 1 8:1 {sandbox_directory}/{OTHER}/userdata/.containerenv /run/.containerenv rw,relatime - ext4 /dev/sda1 rw\n"
    )
}

#[test]
fn where_the_cgroup_is_private_the_mounts_tell() {
    for text in [podman_mounts(), docker_mounts()] {
        let mounts = parse_mounts(&text);
        assert_eq!(match_container_id(&["/"], &mounts, false).as_deref(), Some(ID), "{text}");
        assert_eq!(match_pod(&["/"], &mounts), None);
    }
}

#[test]
fn a_sandbox_is_not_taken_for_the_container() {
    for text in [
        kubernetes_mounts("/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes", "/var/lib/kubelet"),
        kubernetes_mounts("/run/containers/storage/overlay-containers", ""),
    ] {
        let mounts = parse_mounts(&text);
        let pod = Pod { uid: Some(UID.to_owned()), container_name: Some("agent".to_owned()) };
        assert_eq!(match_pod(&["/"], &mounts), Some(pod), "{text}");
        assert_eq!(match_container_id(&["/"], &mounts, true), None);
        assert_eq!(match_container_id(&[&format!("/kubepods/{ID}")], &mounts, true).as_deref(), Some(ID));
    }
}

#[test]
fn a_pod_is_told_by_its_cgroup_where_the_kubelet_mounts_nothing() {
    let uid = |path: &str| match_pod(&[path], &[]).and_then(|pod| pod.uid);
    let systemd = UID.replace('-', "_");
    let hash = "d4e5f60718293a4b5c6d7e8f90a1b2c3";
    assert_eq!(uid(&format!("/kubepods/pod{UID}/{ID}")).as_deref(), Some(UID));
    assert_eq!(
        uid(&format!("/kubepods.slice/kubepods-burstable-pod{systemd}.slice/crio-{ID}.scope")).as_deref(),
        Some(UID)
    );
    assert_eq!(
        uid(&format!("/system.slice/kubepods-pod{systemd}.slice:cri-containerd:{ID}")).as_deref(),
        Some(UID)
    );
    assert_eq!(uid(&format!("/kubepods/burstable/pod{hash}/{ID}")).as_deref(), Some(hash));
    assert_eq!(uid(&format!("/libpod_parent/libpod-{ID}")), None);
    assert_eq!(uid("/kubepods.slice/kubepods-burstable.slice"), None);
    assert_eq!(uid(&format!("/tripod{UID}")), None);
}

#[test]
fn lines_that_are_no_mounts_are_passed_over() {
    let text = "\n1 2 3\n77 50 0:40 /a\\040b /c rw - ext4 /dev/vda rw\n77 50 0:40 /";
    assert_eq!(parse_mounts(text), [Mount { root: "/a\\040b", point: "/c" }]);
}

#[test]
fn a_directory_of_logs_tells_whose_they_are() {
    let told = |directory: &str| {
        let (uid, pod) = parse_pod_directory(directory.as_bytes())?;
        Some((pod.namespace.to_string(), pod.name.to_string(), uid.to_owned()))
    };
    let pod = |namespace: &str, name: &str, uid: &str| Some((namespace.into(), name.into(), uid.into()));
    let longest = format!("{}.{}", "n".repeat(200), "m".repeat(52));
    let namespace = "s".repeat(63);
    // As the kubelet makes them, the second for a pod from a file on the node.
    let hash = "33d556edd3ae8ef21980288cef77ae8b";
    assert_eq!(told(&format!("shop_orders-0_{UID}")), pod("shop", "orders-0", UID));
    assert_eq!(
        told(&format!("kube-system_etcd-node-1.example.com_{hash}")),
        pod("kube-system", "etcd-node-1.example.com", hash)
    );
    assert_eq!(told(&format!("{namespace}_{longest}_{UID}")), pod(&namespace, &longest, UID));
    for other in [
        String::new(),
        "__".to_owned(),
        format!("shop_{UID}"),
        format!("shop_orders_0_{UID}"),
        format!("shop_orders_{UID}_"),
        format!("_orders_{UID}"),
        format!("shop__{UID}"),
        format!("shop_orders_{}", &UID[1..]),
        format!("shop_orders_{{{UID}}}"),
        format!("Shop_orders_{UID}"),
        format!("shop.eu_orders_{UID}"),
        format!("shop_-orders_{UID}"),
        format!("shop_orders-_{UID}"),
        format!("shop_orders..0_{UID}"),
        format!("shop_orders/0_{UID}"),
        format!("shop_orders\n_{UID}"),
        format!("shop_ordérs_{UID}"),
        format!("s{namespace}_orders_{UID}"),
        format!("shop_n{longest}_{UID}"),
    ] {
        assert_eq!(told(&other), None, "{other}");
    }
    assert_eq!(parse_pod_directory(&[b"shop_orders\xff_", UID.as_bytes()].concat()), None);
}
