//! Tests of the rights: tables of decisions, a naive evaluator beside the compiled one, laws, and the tables of
//! `docs/access.md`.

mod ceiling;
mod decisions;
mod inclusion;
mod laws;
mod oracle;
mod page;
mod world;
