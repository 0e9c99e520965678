//! Guarded connections: resolves a host name, checks every address against the egress rules, and connects to a checked
//! address ([`dial::dial`]). The adapters for clusters and for identity providers connect through this crate.

pub mod dial;
pub mod dns;
pub mod egress;
pub mod single_flight;
pub mod tls;
