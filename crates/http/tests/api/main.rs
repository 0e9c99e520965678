//! The HTTP API over core's in-memory ports.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod access;
mod document;
mod envelope;
mod house;
mod observed;
mod once;
mod people;
mod refusals;
mod resources;
mod stream;
mod wire;
