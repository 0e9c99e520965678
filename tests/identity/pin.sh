#!/usr/bin/env bash
# Pins the parts of the identity servers: writes package-lock.json for the version in package.json, with a digest and
# without a download address per package, and the digest of Keycloak in `digests`. Needs npm, Maven and the network.
# Run it after a change of a version, compare the result with what the projects publish, and commit it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# in another folder and without a cache: npm leaves out the digest of a package that is installed already
cp package.json "$scratch"
(cd "$scratch" && npm install --cache "$scratch/cache" --package-lock-only --omit-lockfile-registry-resolved \
    --ignore-scripts --no-audit --no-fund)
[[ $(jq '[.packages | to_entries[] | select(.key != "" and (.value.integrity | not))] | length' \
    "$scratch/package-lock.json") == 0 ]] || { echo 'npm wrote a package without a digest' >&2; exit 1; }
cp "$scratch/package-lock.json" .

file=$(sed -n 's/^[^#]*  \(keycloak-.*\.zip\)$/\1/p' digests)
version=${file#keycloak-quarkus-dist-}
mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy -DoutputDirectory="$scratch" \
    -Dartifact="org.keycloak:keycloak-quarkus-dist:${version%.zip}:zip"
digest=$(sha256sum "$scratch/$file" | cut -d ' ' -f 1)
sed -i "s|^[^# ]*  $file\$|$digest  $file|" digests
git --no-pager diff --stat -- .
