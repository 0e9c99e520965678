//! Limits of idle connections: the timeouts, and the maximum number, above which the longest idle one is closed.

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

/// Sends a request and reads its complete response; false when the server has closed the connection.
fn exchange(stream: &mut TcpStream) -> bool {
    let mut response = Vec::new();
    let mut byte = [0];
    if stream.write_all(HEAD).is_err() {
        return false;
    }
    while !response.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => response.push(byte[0]),
            _ if response.is_empty() => return false,
            ended => panic!("{ended:?} after {response:?}"),
        }
    }
    let head = String::from_utf8(response).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    stream.read_exact(&mut vec![0; length.parse().unwrap()]).unwrap();
    true
}

/// Waits until the server closes the connection.
fn wait_for_close(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
}

/// A connection that is idle after one request.
fn idle_connection(running: &Running) -> TcpStream {
    let mut stream = running.connect();
    assert!(exchange(&mut stream));
    stream
}

#[test]
fn idle_connection_stays_open_after_the_head_timeout() {
    let running = Running::start(settings());
    let mut idle = idle_connection(&running);
    let mut silent = running.connect();
    let mut half = running.connect();
    half.write_all(&HEAD[..20]).unwrap();
    wait_for_close(&mut silent);
    wait_for_close(&mut half);
    assert!(exchange(&mut idle));
}

#[test]
fn incomplete_later_head_times_out() {
    let running = Running::start(settings());
    let mut stream = idle_connection(&running);
    assert!(exchange(&mut stream));
    stream.write_all(&HEAD[..20]).unwrap();
    wait_for_close(&mut stream);

    // sending single bytes does not extend the timeout
    let mut dripping = idle_connection(&running);
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
        wait_for_close(&mut dripping);
    }
}

#[test]
fn idle_connection_ends_after_the_keep_alive_time() {
    let running = Running::start(HttpSettings { keep_alive: Duration::from_secs(1), ..settings() });
    wait_for_close(&mut idle_connection(&running));
}

#[test]
fn connection_idle_longest_is_closed_above_the_limit() {
    let running = Running::start(HttpSettings { max_idle_connections: 2, ..settings() });
    let log = running.fake.clusters.next_log();
    let mut followed = running.follow();
    let [mut first, mut second, mut third] = std::array::from_fn(|_| idle_connection(&running));
    wait_for_close(&mut first);
    assert!(exchange(&mut second));
    // the third connection has now been idle longest
    let mut fourth = idle_connection(&running);
    wait_for_close(&mut third);
    for stream in [&mut second, &mut fourth] {
        assert!(exchange(stream));
    }
    // a connection with an active request is neither closed nor counted
    log.unbounded_send(Ok(b"2026-01-01T00:00:00Z still here\n".to_vec())).unwrap();
    let mut text = Vec::new();
    let mut some = [0; 1024];
    while !String::from_utf8_lossy(&text).contains("still here") {
        let read = followed.read(&mut some).unwrap();
        assert!(read > 0, "the stream was closed: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&some[..read]);
    }
}

#[test]
fn idle_connections_do_not_block_new_ones() {
    let running =
        Running::start(HttpSettings { max_idle_connections: 50, max_connections: 100, ..settings() });
    let held: Vec<_> = (0..300).map(|_| idle_connection(&running)).collect();
    let silent: Vec<_> = (0..300).map(|_| running.connect()).collect();
    drop(idle_connection(&running));
    drop((held, silent));
}

#[test]
fn graceful_stop_does_not_wait_for_idle_connections() {
    let mut running = Running::start(HttpSettings { shutdown_time: HOUR, ..settings() });
    let mut idle: Vec<_> = (0..20).map(|_| idle_connection(&running)).collect();
    let mut half = idle_connection(&running);
    half.write_all(&HEAD[..20]).unwrap();
    drop(running.handle.stop(true));
    eventually("the server stops", || running.has_ended());
    for stream in idle.iter_mut().chain([&mut half]) {
        wait_for_close(stream);
    }
}
