# Every command of the project. What CI runs is in .ci/run, step by step; here it has names.

# What there is
default:
    @just --list

# Everything CI checks, or only some steps: `just ci fmt clippy`
ci *steps:
    .ci/run {{ steps }}

# Formats
fmt:
    cargo fmt --all

# Clippy, where a warning is an error
clippy: (ci "clippy")

# Licences, sources, advisories, and who may depend on whom
deny: (ci "deny")

# The documentation of every crate, where a warning is an error
doc: (ci "doc")

# Each crate by itself
alone: (ci "alone")

# Every test, real cluster included; only some: `just test -p pilothouse-core gate`
test *arguments="--workspace":
    cargo test {{ arguments }}

# Kills the server so many times under load, and holds its trail against the cluster's own: `just kills 1000`
kills times="50":
    PILOTHOUSE_TEST_KILLS={{ times }} cargo test -p pilothouse --test blackbox crash -- --nocapture

# Loses power so many times under load: files copied while the server stands still, and rebuilt from what a trace says was synced
power-loss times="200":
    PILOTHOUSE_TEST_POWER_LOSSES={{ times }} cargo test -p pilothouse --test blackbox power_loss -- --nocapture

# Crashes a PostgreSQL so many times, and replaces it by a standby that lacks the last commits
failover times="20":
    PILOTHOUSE_TEST_FAILOVERS={{ times }} cargo test -p pilothouse --test blackbox failover -- --nocapture

# Kills or stops one of three replicas so many times under load
replica-ends times="100":
    PILOTHOUSE_TEST_REPLICA_ENDS={{ times }} cargo test -p pilothouse --test blackbox three_replicas -- --nocapture

# The black-box tests with the server's data in PostgreSQL
test-postgres: (ci "postgres")

# A PostgreSQL with an empty database, until Ctrl-C; prints its address
postgres:
    cargo run -p pilothouse-testbed -- postgres

# The tests of the way to clusters on another Kubernetes, built first (minutes): `just older v1.34.4 /tmp/kubernetes`
older version folder:
    crates/testbed/controlplane/older.sh {{ version }} {{ folder }}
    KUBEBUILDER_ASSETS={{ folder }} cargo test -p pilothouse-kube --test cluster

# Clients of other people's making: one generated from docs/openapi.json, and Schemathesis in each role
clients: (ci "clients")

# A real cluster, the server, and curl lines to paste; Ctrl-C ends it
demo:
    cargo demo

# A real cluster alone, until Ctrl-C; with a node: `just cluster --node`
cluster *arguments:
    cargo run -p pilothouse-testbed -- up {{ arguments }}

# The server as a user runs it
serve *arguments:
    cargo run --release -p pilothouse -- serve {{ arguments }}

# Writes docs/openapi.json anew, after a change of a row, a route or a parameter
openapi:
    cargo run -p pilothouse-http --example openapi > docs/openapi.json

# Tries a reader with inputs that nobody wrote, for so long: `just fuzz kubeconfig 3600`; the targets are tests/corpus/*
fuzz target seconds="60":
    PILOTHOUSE_TEST_FUZZ_SECONDS={{ seconds }} cargo test -p pilothouse-core -p pilothouse-crypto -p pilothouse-http \
        -p pilothouse-kube fuzz_{{ target }} -- --nocapture

# What the binary is made of, as CycloneDX (names, versions, hashes, licences): target/pilothouse.cdx.json
sbom:
    cargo cyclonedx --version || cargo install --locked cargo-cyclonedx@0.5.9
    cargo cyclonedx --manifest-path crates/server/Cargo.toml --format json --spec-version 1.5 --no-build-deps
    mv crates/server/pilothouse.cdx.json target/
    git clean --force --quiet '*.cdx.json'  # those of the other crates

# Measures, and writes docs/benchmarks.md: all rows of the plan, or some: `just bench b1 b10`
bench *rows:
    cargo run --release -p pilothouse-bench -- run {{ rows }}

# Measures two builds in turns, a row at a time: `just bench-compare BEFORE AFTER 10000 b1 b4`; writes no report
bench-compare before after pods *rows:
    cargo build --release -p pilothouse-bench
    for row in {{ rows }}; do for turn in 1 2; do for binary in {{ before }} {{ after }}; do \
        echo "=== $row, turn $turn: $binary"; \
        target/release/bench run --dry --binary "$binary" --pods {{ pods }} "$row" || exit 1; \
    done; done; done

# Fills clusters with 100,000 pods of both sizes for `just bench`, and keeps them in the cache folder
bench-load:
    cargo run --release -p pilothouse-bench -- load 1000
    cargo run --release -p pilothouse-bench -- load 10000
    cargo run --release -p pilothouse-bench -- load 100000
    cargo run --release -p pilothouse-bench -- load 100000 --large

# Every row once, small: whether the benchmark works and the answers are right
bench-smoke: (ci "bench")

# Counts the instructions of a page under valgrind, and compares with what is kept; `just instructions --keep` keeps
instructions *arguments:
    @command -v valgrind >/dev/null || { echo 'this takes valgrind: apt-get install valgrind' >&2; exit 1; }
    cargo build --profile symbols -p pilothouse
    cargo run --release -p pilothouse-bench -- instructions {{ arguments }} target/symbols/pilothouse

# What a fault costs whoever uses another cluster; prints a table: all faults, or some: `just faults hanging bodies`
faults *names:
    cargo run --release -p pilothouse-testbed --bin faults -- {{ names }}
