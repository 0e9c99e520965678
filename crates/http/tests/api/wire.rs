//! Behaviour at the socket: bodies that are refused while they arrive, and tunnels. Connection limits are in
//! `connections.rs`.

use std::{
    io::{Read, Write},
    time::Duration,
};

use pilothouse_http::HttpSettings;

use crate::socket::{Running, read};

fn post(path: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    )
}

#[test]
fn early_error_response_arrives_although_the_body_is_not_read() {
    let running = Running::start(HttpSettings::default());
    let body = vec![b'x'; 3 << 20];
    for (path, status, code) in [
        ("/api/auth/login", "413", "PAYLOAD_TOO_LARGE"),
        ("/api/k8s/clusters", "401", "AUTHENTICATION_ERROR"),
        ("/nope", "404", "RESOURCE_NOT_FOUND"),
        ("/livez", "405", "METHOD_NOT_ALLOWED"),
    ] {
        let response = running.exchange(&post(path, body.len()), &body);
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")) && response.contains(code),
            "{path}: {response}"
        );
    }
}

#[test]
fn chunked_body_is_subject_to_the_size_limit() {
    let running = Running::start(HttpSettings::default());
    let head = "POST /api/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let chunk = format!("2000\r\n{}\r\n0\r\n\r\n", "x".repeat(0x2000));
    assert!(running.exchange(head, chunk.as_bytes()).starts_with("HTTP/1.1 413 "));
    assert!(running.exchange(head, b"0\r\n\r\n").contains(r#"{"name":"username","reason":"required"}"#));
}

#[test]
fn body_that_never_arrives_is_refused_and_the_connection_closed() {
    let running =
        Running::start(HttpSettings { body_time: Duration::from_millis(200), ..HttpSettings::default() });
    for path in ["/api/auth/login", "/nope"] {
        let mut stream = running.connect();
        let head = post(path, 100).replace("connection: close\r\n", "");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(b"{").unwrap();
        let response = read(&mut stream);
        assert!(response.starts_with("HTTP/1.1 4"), "{path}: {response}");
        assert!(response.to_lowercase().contains("connection: close"), "{path}: {response}");
        let slow = r#"{"name":"body","reason":"too_slow"}"#;
        assert_eq!(response.contains(slow), path == "/api/auth/login", "{path}: {response}");
    }
}

/// The bytes after the head of a tunnel end only with the connection, and a client that waits for the response sends
/// none.
#[test]
fn tunnel_is_refused_at_once_without_reading_a_body() {
    let hour = Duration::from_secs(3600);
    let running = Running::start(HttpSettings { body_time: hour, ..HttpSettings::default() });
    for head in [
        "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n",
        "CONNECT /api/k8s/clusters HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /nope HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "POST /api/auth/logout HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\r\n",
    ] {
        let response = running.exchange(head, b"");
        assert!(response.starts_with("HTTP/1.1 4"), "{head}: {response}");
        assert!(response.to_lowercase().contains("connection: close"), "{head}: {response}");
        assert!(response.contains("\"success\":false"), "{head}: {response}");
    }
}

#[test]
fn connection_is_reused_after_an_error() {
    let running = Running::start(HttpSettings::default());
    let mut stream = running.connect();
    let refused = post("/nope", 5).replace("connection: close\r\n", "");
    stream.write_all(format!("{refused}12345").as_bytes()).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let responses = read(&mut stream);
    assert_eq!(responses.matches("HTTP/1.1 404 ").count(), 1, "{responses}");
    assert_eq!(responses.matches("HTTP/1.1 200 ").count(), 1, "{responses}");
}

#[test]
fn malformed_http_request_gets_no_envelope_and_is_closed() {
    let running = Running::start(HttpSettings::default());
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(200 << 10));
    for (head, status) in [
        ("GET / HTTP/1.1\r\nbad header: x\r\n\r\n", "400"),
        ("nonsense\r\n\r\n", "400"),
        (long.as_str(), "431"),
    ] {
        let mut stream = running.connect();
        // the server may close the connection before all bytes are written
        let _ = stream.write_all(head.as_bytes());
        let mut response = [0; 512];
        let read = stream.read(&mut response).unwrap_or(0);
        let response = String::from_utf8_lossy(&response[..read]);
        assert!(
            response.is_empty() || response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{status}: {response}"
        );
    }
    assert!(
        running
            .exchange("GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"")
            .contains("200 OK")
    );
}
