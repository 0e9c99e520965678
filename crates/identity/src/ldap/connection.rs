//! Connections to an LDAP server: guarded dialer, TLS or StartTLS, and a check of every message before the library
//! reads it. The library talks to one end of a socket pair.

use std::os::unix::net::UnixStream as StdUnixStream;

use http::Uri;
use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, StdStream};
use pilothouse_core::Result;
use pilothouse_dial::dial::{EgressGuard, dial};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy, split},
    net::{TcpStream, UnixStream},
    task::JoinSet,
};

use super::ber;
use crate::{is_loopback, tls::Tls, unavailable};

/// Most bytes that a server may send over one connection.
const MAX_BYTES: usize = 4 << 20;

/// How a connection is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Security {
    Tls,
    StartTls,
    /// To loopback only.
    None,
}

/// Address of a server.
pub(super) struct Address {
    host: String,
    port: u16,
    security: Security,
}

impl Address {
    /// Reads `ldaps://host`, or `ldap://host` with StartTLS or on loopback.
    pub(super) fn parse(url: &str, start_tls: bool) -> Option<Self> {
        let uri = Uri::try_from(url).ok()?;
        let host = uri.host().filter(|host| !host.is_empty())?.to_owned();
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let has_user = uri.authority().is_none_or(|authority| authority.as_str().contains('@'));
        let (security, port) = match uri.scheme_str()? {
            "ldaps" if !start_tls => (Security::Tls, 636),
            "ldap" if start_tls => (Security::StartTls, 389),
            "ldap" if is_loopback(&host) => (Security::None, 389),
            _ => return None,
        };
        (is_bare && !has_user).then(|| Self { port: uri.port_u16().unwrap_or(port), host, security })
    }
}

/// An open connection. It ends when it is dropped.
pub(super) struct Connection {
    pub(super) ldap: Ldap,
    _tasks: JoinSet<()>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Connects to a server.
///
/// # Errors
/// `ProviderUnavailable`.
pub(super) async fn connect(address: &Address, guard: &EgressGuard, tls: &Tls) -> Result<Connection> {
    let Address { host, port, security } = address;
    let uri = Uri::try_from(format!("ldap://{host}:{port}"));
    let uri = uri.map_err(|_| unavailable("the address of the directory is malformed"))?;
    let connected = dial(uri, guard).await.map_err(|_| {
        unavailable("cannot connect to the directory, or the egress rules refuse its address")
    })?;
    let mut stream: TcpStream = connected.into_inner();
    if *security == Security::StartTls {
        start_tls(&mut stream).await.ok_or_else(|| unavailable("the directory refuses StartTLS"))?;
    }
    let stream: Box<dyn Stream> = match security {
        Security::None => Box::new(stream),
        Security::Tls | Security::StartTls => Box::new(
            tls.connect(host, stream)
                .await
                .ok_or_else(|| unavailable("the certificate of the directory is not trusted"))?,
        ),
    };
    let failed = |_: std::io::Error| unavailable("cannot talk to the directory");
    let (ours, theirs) = StdUnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    let ours = UnixStream::from_std(ours).map_err(failed)?;
    let settings = LdapConnSettings::new().set_std_stream(StdStream::Unix(theirs));
    let opened = LdapConnAsync::with_settings(settings, "ldapi:///").await;
    let (connection, ldap) = opened.map_err(|_| unavailable("cannot talk to the directory"))?;
    let mut tasks = JoinSet::new();
    tasks.spawn(pass(stream, ours));
    tasks.spawn(async move {
        // the operations end when the connection ends
        let _ = connection.drive().await;
    });
    Ok(Connection { ldap, _tasks: tasks })
}

/// Requests StartTLS. `None` if the server refuses.
async fn start_tls(stream: &mut TcpStream) -> Option<()> {
    stream.write_all(ber::START_TLS).await.ok()?;
    // reads no byte beyond the answer: bytes that an attacker appends are read as TLS, and the handshake fails
    let mut answer = Vec::new();
    let length = loop {
        answer.push(stream.read_u8().await.ok()?);
        if let Some(length) = ber::message_length(&answer).ok()? {
            break length;
        }
    };
    let read = answer.len();
    answer.resize(length, 0);
    stream.read_exact(&mut answer[read..]).await.ok()?;
    ber::is_start_tls_success(&answer).then_some(())
}

/// Passes bytes between server and library until one of them ends, or the server sends a malformed message or too many
/// bytes.
async fn pass(server: Box<dyn Stream>, library: UnixStream) {
    let (mut from_server, mut to_server) = split(server);
    let (mut from_library, mut to_library) = library.into_split();
    tokio::select! {
        _ = copy(&mut from_library, &mut to_server) => {}
        _ = pass_checked(&mut from_server, &mut to_library) => {}
    }
}

/// Passes whole messages. `None` when the server has ended, or sent a malformed message or too many bytes.
async fn pass_checked(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> Option<()> {
    let mut received = Vec::new();
    let mut total = 0;
    loop {
        while let Some(length) =
            ber::message_length(&received).ok()?.filter(|length| *length <= received.len())
        {
            ber::check(&received[..length]).ok()?;
            to.write_all(&received[..length]).await.ok()?;
            received.drain(..length);
        }
        let read = from.read_buf(&mut received).await.ok()?;
        total += read;
        if read == 0 || total > MAX_BYTES {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_go_over_tls_only_but_to_loopback() {
        let security = |url: &str, start_tls| Address::parse(url, start_tls).map(|address| address.security);
        assert_eq!(security("ldaps://ad.example.com", false), Some(Security::Tls));
        assert_eq!(security("ldap://ad.example.com", true), Some(Security::StartTls));
        assert_eq!(security("ldap://127.0.0.1:1389", false), Some(Security::None));
        assert_eq!(security("ldap://[::1]:1389", false), Some(Security::None));
        for (url, start_tls) in [
            ("ldap://ad.example.com", false),
            ("ldap://127.0.0.1.example.com", false),
            ("ldap://10.0.0.1", false),
            ("ldaps://ad.example.com", true),
            ("ldapi:///run/slapd", false),
            ("http://ad.example.com", false),
            ("ldaps://user:secret@ad.example.com", false),
            ("ldaps://ad.example.com/dc=example", false),
            ("ldaps://", false),
            ("ad.example.com", false),
        ] {
            assert_eq!(security(url, start_tls), None, "{url}");
        }
        let address = Address::parse("ldaps://ad.example.com", false).unwrap();
        assert_eq!((&*address.host, address.port), ("ad.example.com", 636));
    }

    #[tokio::test]
    async fn only_whole_and_checked_messages_pass() {
        const BIND: &[u8] = b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00";
        let passed = async |bytes: &[u8]| {
            let mut passed = Vec::new();
            pass_checked(&mut &*bytes, &mut passed).await;
            passed
        };
        assert_eq!(passed(&[BIND, BIND, &BIND[..5]].concat()).await, [BIND, BIND].concat());
        assert_eq!(passed(&[BIND, b"HTTP/1.1 400 Bad Request\r\n"].concat()).await, BIND);
        let flood = passed(&BIND.repeat(2 * MAX_BYTES / BIND.len())).await.len();
        assert!((MAX_BYTES / 2..=MAX_BYTES).contains(&flood), "{flood} bytes");
    }
}
