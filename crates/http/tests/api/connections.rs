//! Connections without a request under way: how long they stay open, and which is closed when there are too many.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use pilothouse_http::HttpSettings;

use crate::socket::{Running, eventually};

const HEAD: &[u8] = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
const HOUR: Duration = Duration::from_secs(3600);

fn settings() -> HttpSettings {
    HttpSettings { head_time: Duration::from_secs(1), keep_alive: HOUR, ..HttpSettings::default() }
}

/// Sends a request and reads its answer to the end of the body; false when the server has closed the connection.
fn is_answered(stream: &mut TcpStream) -> bool {
    let mut answer = Vec::new();
    let mut byte = [0];
    if stream.write_all(HEAD).is_err() {
        return false;
    }
    while !answer.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => answer.push(byte[0]),
            _ if answer.is_empty() => return false,
            ended => panic!("{ended:?} after {answer:?}"),
        }
    }
    let head = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    stream.read_exact(&mut vec![0; length.parse().unwrap()]).unwrap();
    true
}

/// Waits until the server closes the connection.
fn closes(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
}

/// A connection with one answered request.
fn answered(running: &Running) -> TcpStream {
    let mut stream = running.connect();
    assert!(is_answered(&mut stream));
    stream
}

#[test]
fn an_idle_connection_outlives_one_that_never_sent_a_whole_head() {
    let running = Running::start(settings());
    let mut idle = answered(&running);
    let mut silent = running.connect();
    let mut half = running.connect();
    half.write_all(&HEAD[..20]).unwrap();
    closes(&mut silent);
    closes(&mut half);
    assert!(is_answered(&mut idle));
}

#[test]
fn half_of_a_later_head_ends_in_the_time_of_a_head() {
    let running = Running::start(settings());
    let mut stream = answered(&running);
    assert!(is_answered(&mut stream));
    stream.write_all(&HEAD[..20]).unwrap();
    closes(&mut stream);

    // whoever sends a byte now and then has no more time
    let mut dripping = answered(&running);
    let mut sent = 0;
    let ended = loop {
        let Some(byte) = HEAD[..20].get(sent) else { break false };
        if dripping.write_all(&[*byte]).is_err() {
            break true;
        }
        sent += 1;
        std::thread::sleep(Duration::from_millis(200));
    };
    if !ended {
        closes(&mut dripping);
    }
}

#[test]
fn an_idle_connection_ends_after_the_keep_alive_time() {
    let running = Running::start(HttpSettings { keep_alive: Duration::from_secs(1), ..settings() });
    closes(&mut answered(&running));
}

#[test]
fn of_too_many_that_wait_the_one_that_waited_longest_is_closed() {
    let running = Running::start(HttpSettings { waiting_connections: 2, ..settings() });
    let log = running.fake.clusters.next_log();
    let mut followed = running.follow();
    let [mut first, mut second, mut third] = std::array::from_fn(|_| answered(&running));
    closes(&mut first);
    assert!(is_answered(&mut second));
    // now the third one has waited longest
    let mut fourth = answered(&running);
    closes(&mut third);
    for stream in [&mut second, &mut fourth] {
        assert!(is_answered(stream));
    }
    // an answer under way is not cut, and does not count
    log.unbounded_send(Ok(b"2026-01-01T00:00:00Z still here\n".to_vec())).unwrap();
    let mut text = Vec::new();
    let mut some = [0; 1024];
    while !String::from_utf8_lossy(&text).contains("still here") {
        let read = followed.read(&mut some).unwrap();
        assert!(read > 0, "the stream is cut: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&some[..read]);
    }
}

#[test]
fn hundreds_that_wait_keep_nobody_out() {
    let running =
        Running::start(HttpSettings { waiting_connections: 50, max_connections: 100, ..settings() });
    let held: Vec<_> = (0..300).map(|_| answered(&running)).collect();
    let silent: Vec<_> = (0..300).map(|_| running.connect()).collect();
    drop(answered(&running));
    drop((held, silent));
}

#[test]
fn a_graceful_stop_waits_for_no_idle_connection() {
    let mut running = Running::start(HttpSettings { shutdown_time: HOUR, ..settings() });
    let mut idle: Vec<_> = (0..20).map(|_| answered(&running)).collect();
    let mut half = answered(&running);
    half.write_all(&HEAD[..20]).unwrap();
    drop(running.handle.stop(true));
    eventually("the server's end", || running.has_ended());
    for stream in idle.iter_mut().chain([&mut half]) {
        closes(stream);
    }
}
