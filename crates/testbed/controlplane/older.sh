#!/usr/bin/env bash
# Builds the binaries of a control plane of another Kubernetes version than the one pinned by go.mod, and prints the test
# command that uses them. Takes minutes and is not part of CI: `older.sh v1.34.4 FOLDER`. Without metrics-server, whose
# version does not compile with an older Kubernetes.
set -euo pipefail

version=${1:?a Kubernetes version, as v1.34.4}
folder=${2:?a folder for the programs}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
staging=v0.${version#v1.}

mkdir -p "$folder/source"
folder=$(cd "$folder" && pwd)
cd "$folder/source"
cp "$here/main.go" .
rm -f go.sum
# Kubernetes' own modules are released together, so each is replaced by its release for this version.
{
    printf 'module controlplane\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes %s\n\n' "$version"
    sed -n '/^replace (/,$p' "$here/go.mod" | sed -E "s/ v[0-9.]+$/ $staging/"
} >go.mod
# The etcd server version that matches the etcd client of this Kubernetes version.
etcd=$(go list -mod=mod -m -f '{{.Version}}' go.etcd.io/etcd/client/v3)
go mod edit -require "go.etcd.io/etcd/server/v3@$etcd"
go mod tidy

stamp='-X k8s.io/component-base/version'
minor=${version#v1.}
go build -buildvcs=false -ldflags "-s -w $stamp.gitVersion=$version $stamp.gitMajor=1 $stamp.gitMinor=${minor%%.*}" \
    -o "$folder/controlplane" .

for program in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl; do
    printf '#!/bin/sh\nexec "%s/controlplane" %s "$@"\n' "$folder" "$program" >"$folder/$program"
    chmod +x "$folder/$program"
done
echo "KUBEBUILDER_ASSETS=$folder cargo test -p pilothouse-kube --test cluster"
