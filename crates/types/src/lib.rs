//! Value types that the other crates of Pilothouse share: ids, roles, Kubernetes kinds, validated names, hexadecimal
//! text, errors, and the ports for time, tasks and randomness. The crate has no access rules and no
//! input or output.

pub mod change_reason;
pub mod clock;
pub mod dynamic_kind;
pub mod error;
pub mod hex;
pub mod ids;
pub mod kind;
pub mod name;
pub mod namespaces;
#[cfg(feature = "openapi")]
mod openapi;
pub mod rng;
pub mod role;
pub mod spawn;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::{Cause, Code, Error, Result};
