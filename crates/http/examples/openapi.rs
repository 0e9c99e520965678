//! Writes the OpenAPI document: `cargo run -p pilothouse-http --example openapi > docs/openapi.json`.

#![allow(clippy::print_stdout, reason = "printing the document is all it does")]

fn main() {
    println!("{:#}", pilothouse_http::document());
}
