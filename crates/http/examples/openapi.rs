//! Writes the OpenAPI document: `cargo run -p pilothouse-http --example openapi > docs/openapi.json`.

#![allow(clippy::print_stdout, reason = "the program prints the document")]

fn main() {
    println!("{:#}", pilothouse_http::document());
}
