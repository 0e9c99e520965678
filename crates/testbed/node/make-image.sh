#!/bin/bash
# Builds container images without a registry or Docker, as one archive for `ctr -n k8s.io images import`.
# usage: make-image.sh OUT.tar [NAME:TAG ...]
# Every NAME:TAG (default busybox:1) is a busybox shell image. localhost/pause:1, the pod sandbox, is always added.
# All images share one layer: the static busybox of Debian's package busybox-static (BUSYBOX=path selects another one).
# Use a fixed tag, not "latest": the kubelet always pulls "latest", and there is no registry to pull from.
set -euo pipefail
OUT=$(realpath -m "${1:?usage: make-image.sh OUT.tar [NAME:TAG ...]}"); shift
[ $# -gt 0 ] || set -- busybox:1
BUSYBOX=${BUSYBOX:-/bin/busybox}
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT

mkdir -p "$T"/root/{bin,dev,etc,proc,sys,tmp,root,var/log,www}
cp "$BUSYBOX" "$T/root/bin/busybox"
"$BUSYBOX" --list | grep -vx busybox | while read -r a; do ln -s busybox "$T/root/bin/$a"; done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' > "$T/root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' > "$T/root/etc/group"
chmod 1777 "$T/root/tmp"

# Fixed times, owners and order: the same busybox gives the same image digest.
tarball() { tar -C "$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$2" "${@:3}"; }
mkdir "$T/img"; tarball "$T/root" "$T/img/layer.tar" .
DIFF=$(sha256sum "$T/img/layer.tar" | cut -d' ' -f1)
case $(uname -m) in x86_64) ARCH=amd64 ;; aarch64) ARCH=arm64 ;; *) ARCH=$(uname -m) ;; esac

entries=()
image() { # FILE JSON_CMD NAME:TAG...
  local file=$1 cmd=$2; shift 2
  printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":{"Env":["PATH=/bin"],"Cmd":%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$ARCH" "$cmd" "$DIFF" > "$T/img/$file"
  entries+=("{\"Config\":\"$file\",\"RepoTags\":[$(printf '"%s"\n' "$@" | paste -sd,)],\"Layers\":[\"layer.tar\"]}")
}
image busybox.json '["sh"]' "$@"
image pause.json '["sleep","2147483647"]' localhost/pause:1
(IFS=,; echo "[${entries[*]}]") > "$T/img/manifest.json"
mkdir -p "$(dirname "$OUT")"; tarball "$T/img" "$OUT" manifest.json busybox.json pause.json layer.tar
