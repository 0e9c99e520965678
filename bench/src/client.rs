//! A client that costs little: HTTP/1.1 over one connection that is kept, no headers but those needed, blocking. What it
//! spends is on its own core, and the same for whatever is measured.

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

use crate::error::{Failed, Result};

/// Longer than anything measured: who hangs is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server, and what every request to it bears.
#[derive(Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    headers: String,
}

impl Target {
    /// The server of `http://host:port` or `https://host:port`, trusting this authority.
    pub(crate) fn new(url: &str, ca_pem: Option<&str>) -> Result<Self> {
        let (scheme, authority) =
            url.split_once("://").ok_or_else(|| Failed::because(format!("no address: {url}")))?;
        let tls = match (scheme, ca_pem) {
            ("https", Some(pem)) => Some(Arc::new(trusting(pem)?)),
            _ => None,
        };
        Ok(Self { address: authority.parse()?, tls, headers: format!("Host: {authority}\r\n") })
    }

    /// With one more header in each request.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// A GET, as it goes over the wire.
    pub(crate) fn get(&self, path: &str) -> Vec<u8> {
        format!("GET {path} HTTP/1.1\r\n{}\r\n", self.headers).into_bytes()
    }

    /// A request with a body.
    pub(crate) fn with_body(&self, method: &str, path: &str, kind: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        let headers = &self.headers;
        format!("{method} {path} HTTP/1.1\r\n{headers}Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    }

    /// A POST of JSON.
    pub(crate) fn post(&self, path: &str, body: &str) -> Vec<u8> {
        self.with_body("POST", path, "application/json", body)
    }

    /// A connection to it.
    pub(crate) fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
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

    /// The body of a good answer to a GET, on a connection of its own.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>> {
        self.connect()?.good(&self.get(path)).map(<[u8]>::to_vec)
    }
}

fn trusting(pem: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(|error| Failed::because(format!("an authority: {error}")))?)?;
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

/// How a body says where it ends.
enum Length {
    Bytes(usize),
    Chunks,
}

/// A connection that is kept.
pub(crate) struct Connection {
    stream: BufReader<Stream>,
    line: Vec<u8>,
    body: Vec<u8>,
}

impl Connection {
    /// Sends a request; the status and the whole body of its answer.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Result<(u16, &[u8])> {
        let (status, length, _) = self.begin(request)?;
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

    /// As [`exchange`](Self::exchange), where all but success is a failure.
    pub(crate) fn good(&mut self, request: &[u8]) -> Result<&[u8]> {
        let what =
            String::from_utf8_lossy(&request[..request.len().min(120)]).lines().next().map(str::to_owned);
        let (status, body) = self.exchange(request)?;
        if !(200..300).contains(&status) {
            let body = String::from_utf8_lossy(&body[..body.len().min(400)]).into_owned();
            return Err(Failed::because(format!(
                "{} was answered {status}: {body}",
                what.unwrap_or_default()
            )));
        }
        Ok(&self.body)
    }

    /// Sends a request; the headers of its answer, as lines, whose body is read and forgotten.
    pub(crate) fn headers(&mut self, request: &[u8]) -> Result<Vec<String>> {
        let (_, length, headers) = self.begin(request)?;
        if let Length::Bytes(bytes) = length {
            self.body.resize(bytes, 0);
            self.stream.read_exact(&mut self.body)?;
        }
        Ok(headers)
    }

    /// Sends a request whose answer has no end in sight.
    pub(crate) fn stream(mut self, request: &[u8]) -> Result<Chunks> {
        match self.begin(request)? {
            (200, Length::Chunks, _) => Ok(Chunks { connection: self, left: 0, ended: false }),
            (status, Length::Bytes(bytes), _) => {
                self.body.resize(bytes, 0);
                self.stream.read_exact(&mut self.body)?;
                let body = String::from_utf8_lossy(&self.body);
                Err(Failed::because(format!("a stream was answered {status}: {body}")))
            }
            (status, ..) => Err(Failed::because(format!("a stream was answered {status}"))),
        }
    }

    fn begin(&mut self, request: &[u8]) -> Result<(u16, Length, Vec<String>)> {
        let stream = self.stream.get_mut();
        stream.write_all(request)?;
        stream.flush()?;
        self.read_line()?;
        let status = self.line.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
        let status = status.ok_or_else(|| Failed::because("an answer without a status"))?;
        let (mut length, mut headers) = (Length::Bytes(0), Vec::new());
        loop {
            self.read_line()?;
            if self.line.is_empty() {
                return Ok((status, length, headers));
            }
            if starts(&self.line, b"content-length:") {
                let text = String::from_utf8_lossy(&self.line[15..]);
                length = Length::Bytes(text.trim().parse()?);
            } else if starts(&self.line, b"transfer-encoding:") {
                length = Length::Chunks;
            } else {
                headers.push(String::from_utf8_lossy(&self.line).into_owned());
            }
        }
    }

    /// The size of the next chunk; none after the last.
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
            return Err(Failed::because("the server closed the connection"));
        }
        while self.line.last().is_some_and(u8::is_ascii_whitespace) {
            self.line.pop();
        }
        Ok(())
    }
}

fn starts(line: &[u8], with: &[u8]) -> bool {
    line.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with))
}

/// The body of an answer, as it comes.
pub(crate) struct Chunks {
    connection: Connection,
    left: usize,
    ended: bool,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let failed = |error: Failed| std::io::Error::other(error.to_string());
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            match self.connection.chunk().map_err(failed)? {
                Some(size) => self.left = size,
                None => {
                    self.ended = true;
                    return Ok(0);
                }
            }
        }
        let most = self.left.min(buffer.len());
        let read = self.connection.stream.read(&mut buffer[..most])?;
        if read == 0 {
            self.ended = true;
            return Ok(0);
        }
        self.left -= read;
        if self.left == 0 {
            self.connection.read_line().map_err(failed)?;
        }
        Ok(read)
    }
}
