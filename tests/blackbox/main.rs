//! The built binary against real clusters, seen from outside: by HTTP, by its files, by its log, and by what the
//! clusters themselves say.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "a test starts the binary, and gives it its environment")]

mod across;
mod advisories;
mod audit;
mod changes;
mod clusters;
mod command_line;
mod configuration;
mod dns;
mod egress;
mod ends;
mod evidence;
mod failover;
mod faults;
mod follow;
mod keys;
mod kills;
mod lists;
mod logins;
mod logs;
mod metrics;
mod mounted;
mod once;
mod operations;
mod power_loss;
mod rbac;
mod readme;
mod replicas;
mod retention;
mod room;
mod secrecy;
mod start;
mod support;
mod three_replicas;
mod tls;
mod webhook;
