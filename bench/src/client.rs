//! Low-overhead blocking HTTP/1.1 client over one keep-alive connection, with only the required headers. The
//! client runs on another core than the measured process, and costs the same for every subject.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;

use crate::error::{BenchError, Result};

/// Timeout of connects and reads, longer than any measured duration.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A server and the headers of every request to it.
#[derive(Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    headers: String,
}

impl Target {
    /// The server at `http://address:port` or `https://address:port`. `ca_pem` is the certificate of the trusted
    /// authority.
    pub(crate) fn new(url: &str, ca_pem: Option<&str>) -> Result<Self> {
        let (scheme, authority) =
            url.split_once("://").ok_or_else(|| BenchError::because(format!("not a URL: {url}")))?;
        let tls = match (scheme, ca_pem) {
            ("https", Some(pem)) => Some(Arc::new(tls_config(pem)?)),
            _ => None,
        };
        Ok(Self { address: authority.parse()?, tls, headers: format!("Host: {authority}\r\n") })
    }

    /// Adds a header to every request.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// The bytes of a GET request.
    pub(crate) fn get(&self, path: &str) -> Vec<u8> {
        format!("GET {path} HTTP/1.1\r\n{}\r\n", self.headers).into_bytes()
    }

    /// The bytes of a request with a body.
    pub(crate) fn with_body(&self, method: &str, path: &str, kind: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        let headers = &self.headers;
        format!("{method} {path} HTTP/1.1\r\n{headers}Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    }

    /// The bytes of a POST request with a JSON body.
    pub(crate) fn post(&self, path: &str, body: &str) -> Vec<u8> {
        self.with_body("POST", path, "application/json", body)
    }

    /// Opens a connection.
    pub(crate) fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect_timeout(&self.address, TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let stream = match &self.tls {
            None => Stream::Plain(stream),
            Some(config) => {
                let name = ServerName::IpAddress(self.address.ip().into());
                Stream::Tls(Box::new(StreamOwned::new(ClientConnection::new(config.clone(), name)?, stream)))
            }
        };
        Ok(Connection {
            stream: BufReader::with_capacity(64 << 10, stream),
            line: Vec::new(),
            body: Vec::new(),
        })
    }

    /// GET on a new connection; returns the body of a successful response.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>> {
        self.connect()?.expect_success(&self.get(path)).map(<[u8]>::to_vec)
    }

    /// As [`read`](Self::read), of a Pilothouse server: returns `data` of the response.
    pub(crate) fn data(&self, path: &str) -> Result<Value> {
        let mut body: Value = serde_json::from_slice(&self.read(path)?)?;
        Ok(body["data"].take())
    }
}

fn tls_config(pem: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(
            certificate.map_err(|error| BenchError::because(format!("invalid CA certificate: {error}")))?,
        )?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Framing of a body.
enum Length {
    Bytes(usize),
    Chunks,
}

/// A keep-alive connection.
pub(crate) struct Connection {
    stream: BufReader<Stream>,
    line: Vec<u8>,
    body: Vec<u8>,
}

impl Connection {
    /// Sends a request. Returns the status and the complete body of the response.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Result<(u16, &[u8])> {
        let (status, length, _) = self.send_request(request)?;
        self.body.clear();
        match length {
            Length::Bytes(bytes) => {
                self.body.resize(bytes, 0);
                self.stream.read_exact(&mut self.body)?;
            }
            Length::Chunks => {
                while let Some(size) = self.chunk()? {
                    let filled = self.body.len();
                    self.body.resize(filled + size, 0);
                    self.stream.read_exact(&mut self.body[filled..])?;
                    self.read_line()?;
                }
            }
        }
        Ok((status, &self.body))
    }

    /// As [`exchange`](Self::exchange), but a status other than 2xx is an error.
    pub(crate) fn expect_success(&mut self, request: &[u8]) -> Result<&[u8]> {
        let request_line =
            String::from_utf8_lossy(&request[..request.len().min(120)]).lines().next().map(str::to_owned);
        let (status, body) = self.exchange(request)?;
        if !(200..300).contains(&status) {
            let body = String::from_utf8_lossy(&body[..body.len().min(400)]).into_owned();
            return Err(BenchError::because(format!(
                "{}: status {status}: {body}",
                request_line.unwrap_or_default()
            )));
        }
        Ok(&self.body)
    }

    /// Sends a request. Returns the header lines of the response; the body is discarded.
    pub(crate) fn headers(&mut self, request: &[u8]) -> Result<Vec<String>> {
        let (_, length, headers) = self.send_request(request)?;
        if let Length::Bytes(bytes) = length {
            self.body.resize(bytes, 0);
            self.stream.read_exact(&mut self.body)?;
        }
        Ok(headers)
    }

    /// Sends a request with a streaming response.
    pub(crate) fn stream(mut self, request: &[u8]) -> Result<Chunks> {
        match self.send_request(request)? {
            (200, Length::Chunks, _) => Ok(Chunks { connection: self, remaining: 0, ended: false }),
            (status, Length::Bytes(bytes), _) => {
                self.body.resize(bytes, 0);
                self.stream.read_exact(&mut self.body)?;
                let body = String::from_utf8_lossy(&self.body);
                Err(BenchError::because(format!("status of a stream: {status}: {body}")))
            }
            (status, ..) => Err(BenchError::because(format!("status of a stream: {status}"))),
        }
    }

    fn send_request(&mut self, request: &[u8]) -> Result<(u16, Length, Vec<String>)> {
        let stream = self.stream.get_mut();
        stream.write_all(request)?;
        stream.flush()?;
        self.read_line()?;
        let status = self.line.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
        let status = status.ok_or_else(|| BenchError::because("response without a status"))?;
        let (mut length, mut headers) = (Length::Bytes(0), Vec::new());
        loop {
            self.read_line()?;
            if self.line.is_empty() {
                return Ok((status, length, headers));
            }
            if starts_with_ignore_case(&self.line, b"content-length:") {
                let text = String::from_utf8_lossy(&self.line[15..]);
                length = Length::Bytes(text.trim().parse()?);
            } else if starts_with_ignore_case(&self.line, b"transfer-encoding:") {
                length = Length::Chunks;
            } else {
                headers.push(String::from_utf8_lossy(&self.line).into_owned());
            }
        }
    }

    /// The size of the next chunk; `None` after the last one.
    fn chunk(&mut self) -> Result<Option<usize>> {
        self.read_line()?;
        let size = usize::from_str_radix(String::from_utf8_lossy(&self.line).trim(), 16)?;
        if size == 0 {
            self.read_line()?;
        }
        Ok((size > 0).then_some(size))
    }

    fn read_line(&mut self) -> Result<()> {
        self.line.clear();
        if self.stream.read_until(b'\n', &mut self.line)? == 0 {
            return Err(BenchError::because("the server closed the connection"));
        }
        while self.line.last().is_some_and(u8::is_ascii_whitespace) {
            self.line.pop();
        }
        Ok(())
    }
}

fn starts_with_ignore_case(line: &[u8], with: &[u8]) -> bool {
    line.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with))
}

/// Reader of a chunked response body.
pub(crate) struct Chunks {
    connection: Connection,
    remaining: usize,
    ended: bool,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let failed = |error: BenchError| std::io::Error::other(error.to_string());
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        if self.remaining == 0 {
            if let Some(size) = self.connection.chunk().map_err(failed)? {
                self.remaining = size;
            } else {
                self.ended = true;
                return Ok(0);
            }
        }
        let max = self.remaining.min(buffer.len());
        let read = self.connection.stream.read(&mut buffer[..max])?;
        if read == 0 {
            self.ended = true;
            return Ok(0);
        }
        self.remaining -= read;
        if self.remaining == 0 {
            self.connection.read_line().map_err(failed)?;
        }
        Ok(read)
    }
}
