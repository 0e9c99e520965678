//! Tests of the HTTP API over core's in-memory ports.

#![allow(clippy::unwrap_used, reason = "an unwrap fails the test")]

mod access;
mod advisories;
mod advisories_data;
mod annotations;
mod bad_input;
mod browser_sessions;
mod compare;
mod connections;
mod cross_site;
mod diagnosis;
mod document;
mod envelope;
mod existing;
mod faults;
mod grants;
mod idempotency;
mod large;
mod lists;
mod live;
mod logs;
mod non_interference;
mod objects;
mod observer;
mod paths;
mod providers;
mod refusals;
mod resources;
mod rights;
mod rights_matrix;
mod rollouts;
mod rows;
mod second_factors;
mod small_changes;
mod socket;
mod stream;
mod swagger;
mod table;
mod test_app;
mod tokens;
mod usage;
mod users;
mod wire;
mod worlds;
