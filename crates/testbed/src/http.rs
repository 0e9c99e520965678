//! Minimal HTTP/1.1 of the test bed's own servers: reads a request, writes a response.

use std::io::{ErrorKind, Result};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Maximum length of a request's head in bytes, and of its body.
const MAX_HEAD: usize = 64 << 10;
const MAX_BODY: usize = 8 << 20;

/// A request with its complete body.
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// Reads the next request of a connection. The end of the connection is the error `UnexpectedEof`.
    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
            if head.len() > MAX_HEAD {
                return Err(ErrorKind::InvalidData.into());
            }
        }
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.lines();
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(ErrorKind::InvalidData.into());
        };
        let length = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let mut body = vec![0; length.unwrap_or(0).min(MAX_BODY)];
        stream.read_exact(&mut body).await?;
        Ok(Self { method: method.to_owned(), target: target.to_owned(), body })
    }

    /// Writes a JSON response with additional headers. The response to a HEAD request has no body.
    pub(crate) async fn respond(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        status: u16,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<()> {
        let mut response = format!(
            "HTTP/1.1 {status} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
            reason(status),
            body.len()
        );
        for (name, value) in headers {
            response.push_str(&format!("{name}: {value}\r\n"));
        }
        response.push_str("\r\n");
        if self.method != "HEAD" {
            response.push_str(body);
        }
        stream.write_all(response.as_bytes()).await?;
        stream.flush().await
    }
}

/// The reason phrase of a status; clients print it in their messages.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_of_one_connection_are_read_in_order() {
        let mut stream: &[u8] =
            b"POST /a?b=c HTTP/1.1\r\nContent-Length: 4\r\n\r\nbodyHEAD /d HTTP/1.1\r\n\r\n";
        let first = Request::read(&mut stream).await.expect("the first request");
        assert_eq!((&*first.method, &*first.target, &*first.body), ("POST", "/a?b=c", &b"body"[..]));
        let second = Request::read(&mut stream).await.expect("the second request");
        assert_eq!((&*second.method, &*second.target, second.body.len()), ("HEAD", "/d", 0));
        let end = Request::read(&mut stream).await.err().expect("no third request");
        assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn response_to_head_has_the_length_but_no_body() {
        let respond = async |method: &str| {
            let request = Request { method: method.into(), target: "/".into(), body: Vec::new() };
            let mut output = Vec::new();
            request.respond(&mut output, 404, &[("x", "y")], "{}").await.expect("a response");
            String::from_utf8(output).expect("UTF-8")
        };
        let head =
            "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 2\r\nx: y\r\n\r\n";
        assert_eq!(respond("HEAD").await, head);
        assert_eq!(respond("GET").await, format!("{head}{{}}"));
    }
}
