#!/bin/bash
# Runs one node (containerd, runc, kubelet, bridge CNI) until the standard input of this script closes.
# usage: node-up.sh DIR NAME KUBELET [ARG ...] < a pipe that the owner holds        (root)
#
#   DIR      the control plane's directory, with ca.crt, images.tar (from make-image.sh) and NAME/kubelet.kubeconfig.
#            The API server needs --kubelet-preferred-address-types=InternalIP, or logs and exec try to resolve NAME.
#   NAME     the node's name in its cluster.
#   KUBELET  the kubelet's command.
#
# Debian packages: containerd runc containernetworking-plugins iptables iproute2 busybox-static.
# Environment: CNI_BIN (where the CNI plugins are).
#
# The node runs in its own mount and pid namespaces, with /run, /var/lib and /var/log bound to DIR/NAME. Killing its pid 1
# is therefore a power cut: the kernel ends the kubelet, containerd, the shims and the containers, and removes every mount.
# This script runs outside the namespaces and then cleans up what a namespace does not contain: cgroups, bridge, iptables
# chains, sysctls. The owner creates DIR/NAME/running before the start; the script removes it when the cleanup is complete.
# After a restart the node boots with its existing disk.
#
# A slot N that is free on this machine determines the node's pod subnet (10.213.N.0/24), address (10.213.N.1), bridge
# (phN) and cgroup (/pilothouse-N), so that several nodes, of one cluster or of several, can run at the same time.
set -euo pipefail
D=$1; NAME=$2; shift 2; W=$D/$NAME
SELF=$(realpath "$0")
SHARED=/run/pilothouse-nodes   # shared by all nodes of this machine: locks, and the sysctls from before the first node
case $D/ in /run/*|/var/lib/*|/var/log/*) echo "the node mounts other directories over $D: choose a directory outside /run, /var/lib and /var/log" >&2; exit 1 ;; esac

# ---- inside the namespaces: pid 1 of the node --------------------------------------------------------------------
keep_running() { local log=$1; shift; while :; do "$@" >>"$log" 2>&1 || true; sleep 1; done; }   # restarts a program, like a service manager
init() {
  trap 'exit 0' TERM
  mount --make-rshared /          # the kubelet and the runtime need shared mounts; the machine's own mounts are not affected
  local d; for d in /run /var/lib /var/log; do mount --bind "$W$d" $d; done
  keep_running "$W/containerd.log" containerd --config "$W/containerd.toml" &
  until ctr version >/dev/null 2>&1; do sleep 0.1; done
  ctr -n k8s.io images import "$D/images.tar"
  keep_running "$W/kubelet.log" "$@" --config="$W/kubelet.yaml" --kubeconfig="$W/kubelet.kubeconfig" \
    --hostname-override="$NAME" --node-ip="$IP" &
  wait
}
if [ -n "${NODE_IP:-}" ]; then IP=$NODE_IP; unset NODE_IP; init "$@"; exit; fi

# ---- outside: resources that the namespaces do not contain -------------------------------------------------------
SYSCTLS=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys
  kernel/keys/root_maxbytes net/ipv4/ip_forward)   # every machine-wide sysctl that the kubelet and the bridge plugin set

claim() { # claims a slot by a lock for the lifetime of the node: that of the last boot if it is free
  mkdir -p $SHARED "$W"
  for N in $(cat "$W/slot" 2>/dev/null) $(seq 0 250); do
    exec 9>"$SHARED/$N.lock"
    if flock -n 9; then echo "$N" > "$W/slot"; IP=10.213.$N.1; BR=ph$N; CG=pilothouse-$N; return; fi
  done
  echo "no slot is free: this machine already runs the maximum of 251 nodes" >&2; exit 1
}

set_up() {
  [ -f $SHARED/sysctls ] || for s in "${SYSCTLS[@]}"; do echo "$s $(cat "/proc/sys/$s")"; done > $SHARED/sysctls
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then        # cgroup v2
    local c; for c in cpu cpuset memory pids io hugetlb; do echo "+$c" > /sys/fs/cgroup/cgroup.subtree_control || true; done 2>/dev/null
    mkdir -p "/sys/fs/cgroup/$CG"
  else
    for c in cpu cpuacct cpuset memory devices freezer blkio pids hugetlb systemd; do
      [ ! -d /sys/fs/cgroup/$c ] || mkdir -p "/sys/fs/cgroup/$c/$CG"
    done
    # a new cpuset group has no cpus and no memory nodes, so it cannot contain a process
    for c in cpus mems; do cat /sys/fs/cgroup/cpuset/cpuset.$c > "/sys/fs/cgroup/cpuset/$CG/cpuset.$c"; done
  fi
  ip link add "$BR" type bridge; ip addr add "$IP/24" dev "$BR"; ip link set "$BR" up   # the kubelet listens on it
}

clean_up() {
  ip link del "$BR" 2>/dev/null || true
  find /sys/fs/cgroup/"$CG" /sys/fs/cgroup/*/"$CG" -depth -type d -exec rmdir {} + 2>/dev/null || true
  if ! ls -d /sys/class/net/ph[0-9]* >/dev/null 2>&1; then   # last node: rules of hostPorts remain after a power cut
    ! iptables-save -t nat 2>/dev/null | grep -q CNI- || iptables-save -t nat | grep -v CNI- | iptables-restore -T nat
    [ ! -f $SHARED/sysctls ] || while read -r s value; do echo "$value" > "/proc/sys/$s"; done < $SHARED/sysctls
    rm -f $SHARED/sysctls
  fi
  rm -rf "$W/run" "$W/var/lib/cni"        # a boot starts with an empty /run and without pod addresses
}

configure() {
  mkdir -p "$W"/run "$W"/var/lib "$W"/var/log "$W"/cni
  cat > "$W/containerd.toml" <<Y
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true   # without CAP_SYS_RESOURCE no score can be lowered, and runc fails: "can't get final child's PID from pipe: EOF"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${CNI_BIN:-/usr/lib/cni}"
    conf_dir = "$W/cni"
Y
  cat > "$W/cni/10-bridge.conflist" <<Y
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "$BR", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.213.$N.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
Y
  cat > "$W/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $IP
healthzPort: 0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $D/ca.crt}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failCgroupV1: false          # default true since 1.35: without this line the kubelet refuses a cgroup v1 machine
cgroupDriver: cgroupfs
cgroupRoot: /$CG             # must exist before the kubelet starts; all pods are below it
enforceNodeAllocatable: [pods]
failSwapOn: false
makeIPTablesUtilChains: false
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerLogMaxSize: 1Gi                    # no log is rotated while a test or benchmark reads it
imageGCHighThresholdPercent: 100            # images cannot be pulled again, so they are never removed
evictionHard: {memory.available: 100Mi}     # no rule for disk space: a full disk of the machine does not taint the node
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s
shutdownGracePeriod: 0s
Y
}

finish() { # cleanup at every exit of this script
  [ -z "${INIT:-}" ] || kill -9 "$INIT" 2>/dev/null || true
  if [ -n "${CG:-}" ]; then flock 8; clean_up; flock -u 8; fi
  rm -f "$W/running"
}

trap finish EXIT
mkdir -p $SHARED
exec 7<&0 8>$SHARED/lock      # 7: the owner's pipe (bash gives a background job /dev/null); 8: lock, so that only one node at a time runs set_up or clean_up
claim
flock 8; clean_up; configure; set_up; flock -u 8
NODE_IP=$IP unshare --mount --pid --fork --kill-child --mount-proc --propagation private \
  "$SELF" "$D" "$NAME" "$@" </dev/null 7<&- 8>&- 9>&- &
U=$!
until read -r INIT < <(cat "/proc/$U/task/$U/children"; echo) && [ -n "$INIT" ]; do kill -0 $U; sleep 0.05; done
{ read -r -u 7 _ || true; kill -9 "$INIT"; } 8>&- 9>&- &
WATCH=$!
wait $U || true
kill $WATCH 2>/dev/null || true
