//! What only a socket shows: bodies that are refused while they arrive, and how the server stops.

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
fn whoever_sends_first_and_reads_later_sees_the_refusal() {
    let running = Running::start(HttpSettings::default());
    let body = vec![b'x'; 3 << 20];
    for (path, status, code) in [
        ("/api/auth/login", "413", "PAYLOAD_TOO_LARGE"),
        ("/api/k8s/clusters", "401", "AUTHENTICATION_ERROR"),
        ("/nope", "404", "RESOURCE_NOT_FOUND"),
        ("/livez", "405", "METHOD_NOT_ALLOWED"),
    ] {
        let answer = running.exchange(&post(path, body.len()), &body);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(code),
            "{path}: {answer}"
        );
    }
}

#[test]
fn a_chunked_body_is_counted_too() {
    let running = Running::start(HttpSettings::default());
    let head = "POST /api/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let chunk = format!("2000\r\n{}\r\n0\r\n\r\n", "x".repeat(0x2000));
    assert!(running.exchange(head, chunk.as_bytes()).starts_with("HTTP/1.1 413 "));
    assert!(running.exchange(head, b"0\r\n\r\n").contains(r#"{"name":"username","reason":"required"}"#));
}

#[test]
fn a_body_that_never_arrives_is_cut() {
    let running =
        Running::start(HttpSettings { body_time: Duration::from_millis(200), ..HttpSettings::default() });
    for path in ["/api/auth/login", "/nope"] {
        let mut stream = running.connect();
        let head = post(path, 100).replace("connection: close\r\n", "");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(b"{").unwrap();
        let answer = read(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{path}: {answer}");
        let slow = r#"{"name":"body","reason":"too_slow"}"#;
        assert_eq!(answer.contains(slow), path == "/api/auth/login", "{path}: {answer}");
    }
}

/// What follows such a head has no end but the connection's: a client that waits for the answer first sends none.
#[test]
fn a_tunnel_is_refused_at_once_and_nothing_after_its_head_is_read() {
    let hour = Duration::from_secs(3600);
    let running = Running::start(HttpSettings { body_time: hour, ..HttpSettings::default() });
    for head in [
        "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n",
        "CONNECT /api/k8s/clusters HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /nope HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "POST /api/auth/logout HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\r\n",
    ] {
        let answer = running.exchange(head, b"");
        assert!(answer.starts_with("HTTP/1.1 4"), "{head}: {answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{head}: {answer}");
        assert!(answer.contains("\"success\":false"), "{head}: {answer}");
    }
}

#[test]
fn a_connection_is_used_again_after_a_refusal() {
    let running = Running::start(HttpSettings::default());
    let mut stream = running.connect();
    let refused = post("/nope", 5).replace("connection: close\r\n", "");
    stream.write_all(format!("{refused}12345").as_bytes()).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let answers = read(&mut stream);
    assert_eq!(answers.matches("HTTP/1.1 404 ").count(), 1, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 1, "{answers}");
}

#[test]
fn what_is_no_http_request_is_answered_without_an_envelope_and_closed() {
    let running = Running::start(HttpSettings::default());
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(200 << 10));
    for (head, status) in [
        ("GET / HTTP/1.1\r\nbad header: x\r\n\r\n", "400"),
        ("nonsense\r\n\r\n", "400"),
        (long.as_str(), "431"),
    ] {
        let mut stream = running.connect();
        // it may hang up before all of it is written
        let _ = stream.write_all(head.as_bytes());
        let mut answer = [0; 512];
        let read = stream.read(&mut answer).unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..read]);
        assert!(
            answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{status}: {answer}"
        );
    }
    assert!(
        running
            .exchange("GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"")
            .contains("200 OK")
    );
}
