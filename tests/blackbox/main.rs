//! Black-box tests: the built binary against real clusters. They observe HTTP responses, files, the log, and the state
//! of the clusters.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
#![allow(clippy::disallowed_methods, reason = "tests start the binary and set its environment")]

mod advisories;
mod audit;
mod audit_verify;
mod changes;
mod clusters;
mod command_line;
mod compare;
mod configuration;
mod crash;
mod diagnosis;
mod disk_full;
mod dns;
mod egress;
mod failover;
mod faults;
mod fleet;
mod idempotency;
mod identity;
mod identity_settings;
mod lists;
mod live;
mod log_stream;
mod login_command;
mod logins;
mod logs;
mod metrics;
mod mounted;
mod operations;
mod power_loss;
mod problems;
mod rbac;
mod readme;
mod rekey;
mod replicas;
mod retention;
mod rights;
mod rollouts;
mod secrecy;
mod shutdown;
mod small_changes;
mod start;
mod support;
mod three_replicas;
mod tls;
mod usage;
mod webhook;
mod workload_logs;
