//! Diagnosis over the fakes: the corpus of objects of several versions of Kubernetes, and the rights of the caller.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod corpus;
mod rights;
