# Commands of the project. The steps of CI are defined in .ci/run; some recipes call them by name.

# List all recipes
default:
    @just --list

# Run all CI steps, or some: `just ci fmt clippy`
ci *steps:
    .ci/run {{ steps }}

# Format the source code
fmt:
    cargo fmt --all

# Run Clippy; warnings are errors
clippy: (ci "clippy")

# Check licences, sources, advisories and allowed dependencies between crates (cargo-deny)
deny: (ci "deny")

# Build all binaries, tests and examples, with the features that every step of CI uses
build: (ci "build")

# Build the documentation of every crate; warnings are errors
doc: (ci "doc")

# Check each crate that a program may link, and the shipped binary, separately
alone: (ci "alone")

# Run all tests, including those with a real cluster, or some: `just test -p pilothouse-core gate`
test *arguments="--workspace":
    cargo test {{ arguments }}

# Kill the server N times under load, and compare its audit trail with the cluster's audit log: `just kills 1000`
kills times="50":
    PILOTHOUSE_TEST_KILLS={{ times }} cargo test --workspace --test blackbox crash -- --nocapture

# Simulate N power losses under load, by copies of a suspended server's files and by replay of traced syncs
power-loss times="200":
    PILOTHOUSE_TEST_POWER_LOSSES={{ times }} cargo test --workspace --test blackbox power_loss -- --nocapture

# Crash PostgreSQL N times, and replace it with a standby that lacks the last commits
failover times="20":
    PILOTHOUSE_TEST_FAILOVERS={{ times }} cargo test --workspace --test blackbox failover -- --nocapture

# Kill or stop one of three replicas N times under load
replica-ends times="100":
    PILOTHOUSE_TEST_REPLICA_ENDS={{ times }} cargo test --workspace --test blackbox three_replicas -- --nocapture

# Run the black-box tests with PostgreSQL as the server's database
test-postgres: (ci "postgres")

# Run PostgreSQL with an empty database until Ctrl-C; prints its URL
postgres:
    cargo run -p pilothouse-testbed -- postgres

# Build another Kubernetes version (takes minutes) and run the cluster tests on it: `just older v1.34.4 /tmp/kubernetes`
older version folder:
    crates/testbed/controlplane/older.sh {{ version }} {{ folder }}
    KUBEBUILDER_ASSETS={{ folder }} cargo test -p pilothouse-kube --test cluster

# Test third-party clients: one generated from docs/openapi.json, and Schemathesis in each role
clients: (ci "clients")

# Run a real cluster and the server until Ctrl-C; prints curl commands to paste; or `just demo --kubeconfig FILE`
demo *arguments:
    cargo demo -- {{ arguments }}

# Run a real cluster without the server until Ctrl-C; with a node: `just cluster --node`
cluster *arguments:
    cargo run -p pilothouse-testbed -- up {{ arguments }}

# Run a release build of the server
serve *arguments:
    cargo run --release -p pilothouse -- serve {{ arguments }}

# Regenerate docs/openapi.json, after a change of a row type, a route or a parameter
openapi:
    cargo run -p pilothouse-http --example openapi > docs/openapi.json

# Regenerate docs/rbac, after a change of a list or of the table of features (crates/kube/src/permissions.rs)
rbac:
    cargo run -p pilothouse-kube --example rbac

# Regenerate all documents that tests compare with the code
generate: openapi rbac

# Fuzz a parser with generated input for a number of seconds: `just fuzz kubeconfig 3600`; the targets are tests/corpus/*
fuzz target seconds="60":
    PILOTHOUSE_TEST_FUZZ_SECONDS={{ seconds }} cargo test --workspace fuzz_{{ target }} -- --nocapture

# Write the SBOM of the binary as CycloneDX (names, versions, hashes, licences): target/pilothouse.cdx.json
sbom:
    cargo cyclonedx --version || cargo install --locked cargo-cyclonedx@0.5.9
    cargo cyclonedx --manifest-path crates/server/Cargo.toml --format json --spec-version 1.5 --no-build-deps
    mv crates/server/pilothouse.cdx.json target/
    git clean --force --quiet '*.cdx.json'  # files of the other crates

# Run the benchmarks and update docs/benchmarks.md, all rows or some: `just bench b1 b10`
bench *rows:
    cargo run --release -p pilothouse-bench -- run {{ rows }}

# Compare two builds, alternating per row: `just bench-compare BEFORE AFTER 10000 b1 b4`; does not update the report
bench-compare before after pods *rows:
    cargo build --release -p pilothouse-bench
    for row in {{ rows }}; do for turn in 1 2; do for binary in {{ before }} {{ after }}; do \
        echo "=== $row, turn $turn: $binary"; \
        target/release/bench run --dry --binary "$binary" --pods {{ pods }} "$row" || exit 1; \
    done; done; done

# Fill clusters with up to 100,000 pods of both sizes for `just bench`, and save them in the cache folder
bench-load:
    cargo run --release -p pilothouse-bench -- load 1000
    cargo run --release -p pilothouse-bench -- load 10000
    cargo run --release -p pilothouse-bench -- load 100000
    cargo run --release -p pilothouse-bench -- load 100000 --large

# Run all benchmark rows once with small sizes: checks that they work and that responses are correct
bench-smoke: (ci "bench")

# Count the instructions of a page request under valgrind, compare with the reference; --keep writes a new reference
instructions *arguments:
    @command -v valgrind >/dev/null || { echo 'valgrind is required: apt-get install valgrind' >&2; exit 1; }
    cargo build --profile symbols -p pilothouse
    cargo run --release -p pilothouse-bench -- instructions {{ arguments }} target/symbols/pilothouse

# Measure how a fault of one cluster affects requests to another, all faults or some: `just faults hanging bodies`
faults *names:
    cargo run --release -p pilothouse-testbed --bin faults -- {{ names }}
