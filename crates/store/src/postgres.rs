//! Where a PostgreSQL is and how it is reached: an address as libpq reads it, and TLS by rustls.
//!
//! It departs from libpq in one default: without `sslmode` a server on another machine is verified in full, where
//! libpq would take what it gets (docs/decisions/0011-postgres-tls.md).

use std::{fmt, net::IpAddr, time::Duration};

use diesel::{ConnectionError, ConnectionResult};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _};
use percent_encoding::percent_decode_str;
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{OpenError, in_one_line};

mod tls;

use tls::{Trust, roots, system_roots};

/// How long a connection may take to come about, TLS and password included.
const CONNECT: Duration = Duration::from_secs(10);

/// Where a PostgreSQL listens when its address does not say.
const DEFAULT_PORT: u16 = 5432;

/// What every session is told. A replica that vanishes in a transaction must not hold its locks for hours, nor one
/// that vanishes in a migration the lock on those.
const SESSION: &str = "SET idle_in_transaction_session_timeout = '10s'; SET tcp_keepalives_idle = 15; \
    SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;";

/// The parameters that an address may have besides `sslmode` and `sslrootcert`; others are refused.
const PARAMETERS: [&str; 17] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "options",
    "password",
    "port",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// The address of a PostgreSQL database. Neither its `Debug` nor its `Display` shows user, password or parameters.
#[derive(Clone)]
pub struct PostgresAddress {
    config: Config,
    tls: MakeRustlsConnect,
}

impl PostgresAddress {
    /// Reads `postgres://user:password@host:port/database?parameter=value&…`, and the certificates it names.
    ///
    /// # Errors
    /// [`OpenError::Address`], which shows nothing of it.
    pub(crate) fn parse(url: &str) -> Result<Self, OpenError> {
        let (address, query) = split(url);
        let (mut mode, mut root, mut rest) = (None, None, Vec::new());
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "sslmode" => mode = Some(Mode::parse(value)?),
                "sslrootcert" => {
                    let path = percent_decode_str(value).decode_utf8();
                    root = Some(path.map_err(|_| bad("has an sslrootcert that is not UTF-8"))?);
                }
                name if PARAMETERS.contains(&name) => rest.push(parameter),
                _ => return Err(unknown_parameter()),
            }
        }
        // what the parser says of a bad one may quote a part of the password
        let mut config: Config = format!("{address}?{}", rest.join("&")).parse().map_err(|_| {
            bad("is malformed; characters such as @ / ? in a password are written %40 %2F %3F")
        })?;
        check_hosts(&config)?;
        set_timeouts(&mut config);

        let mode = mode.unwrap_or_else(|| Mode::default_for(&config, root.is_some()));
        let only_sockets = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        config.ssl_mode(match mode {
            _ if only_sockets => SslMode::Disable,
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        });
        let trust = match (mode, root.as_deref()) {
            (Mode::VerifyFull, None | Some("system")) => Trust::Host(system_roots()?),
            (Mode::VerifyFull, Some(file)) => Trust::Host(roots(file)?),
            (Mode::Disable, _) => Trust::Anyone,
            (Mode::VerifyCa, None) | (_, Some("system")) => {
                return Err(bad("trusts the system's certificates for any host: use sslmode=verify-full"));
            }
            (_, Some(file)) => Trust::Chain(roots(file)?),
            (_, None) => Trust::Anyone,
        };
        Ok(Self { config, tls: MakeRustlsConnect::new(tls::config(trust)?) })
    }

    /// Hosts and, where they are named beside these, their addresses, each with its port.
    pub(crate) fn sockets(&self) -> Vec<(String, u16)> {
        let ports = self.config.get_ports();
        let socket = |(n, host)| (host, *ports.get(n).or(ports.first()).unwrap_or(&DEFAULT_PORT));
        let names = self.config.get_hosts().iter().enumerate().filter_map(|(n, host)| match host {
            Host::Tcp(name) => Some((n, name.clone())),
            Host::Unix(_) => None,
        });
        let addresses = self.config.get_hostaddrs().iter().map(ToString::to_string).enumerate();
        names.chain(addresses).map(socket).collect()
    }

    /// A new connection, driven by the runtime of the caller.
    pub(crate) async fn connect(&self) -> ConnectionResult<AsyncPgConnection> {
        let refused = |error: tokio_postgres::Error| ConnectionError::BadConnection(in_one_line(&error));
        let connecting = async {
            let (client, connection) = self.config.connect(self.tls.clone()).await.map_err(refused)?;
            let mut connection =
                AsyncPgConnection::try_from_client_and_connection(client, connection).await?;
            connection.batch_execute(SESSION).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
            Ok(connection)
        };
        let late = |_| ConnectionError::BadConnection("no answer".to_owned());
        tokio::time::timeout(CONNECT, connecting).await.map_err(late)?
    }
}

/// `postgres://host:port/database`
impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        let ports = self.config.get_ports();
        for (n, host) in self.config.get_hosts().iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            match host {
                Host::Tcp(host) if host.contains(':') => write!(f, "{comma}[{host}]")?,
                Host::Tcp(host) => write!(f, "{comma}{host}")?,
                Host::Unix(folder) => write!(f, "{comma}{}", folder.display())?,
            }
            if let Some(port) = ports.get(n).or(ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

/// What libpq calls `sslmode`.
#[derive(Clone, Copy)]
enum Mode {
    /// In the clear.
    Disable,
    /// TLS when the server has it; anybody's, unless `sslrootcert` says whose.
    Prefer,
    /// TLS; anybody's, unless `sslrootcert` says whose.
    Require,
    /// TLS, with a certificate from `sslrootcert`, whatever host it is for.
    VerifyCa,
    /// TLS, with a certificate from `sslrootcert`, else from a root of the system, for this host.
    VerifyFull,
}

impl Mode {
    fn parse(value: &str) -> Result<Self, OpenError> {
        Ok(match value {
            "disable" => Self::Disable,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => {
                return Err(bad(
                    "has an sslmode other than disable, prefer, require, verify-ca, verify-full",
                ));
            }
        })
    }

    /// Nobody listens in within a machine; between machines, whoever can may also answer in the server's place.
    fn default_for(config: &Config, with_roots: bool) -> Self {
        let loopback = |host: &Host| match host {
            Host::Tcp(name) if name == "localhost" => true,
            Host::Tcp(name) => name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
            Host::Unix(_) => true,
        };
        let here = match config.get_hostaddrs() {
            [] => config.get_hosts().iter().all(loopback),
            addresses => addresses.iter().all(IpAddr::is_loopback),
        };
        if here && !with_roots { Self::Prefer } else { Self::VerifyFull }
    }
}

fn bad(what: impl Into<String>) -> OpenError {
    OpenError::Address(what.into())
}

fn unknown_parameter() -> OpenError {
    bad(format!("has a parameter other than sslmode, sslrootcert, {}", PARAMETERS.join(", ")))
}

/// The address without its parameters, and these. A `?` before the `@` belongs to the password.
fn split(url: &str) -> (&str, &str) {
    let start = url.find('@').unwrap_or(0);
    let (before, after) = url.split_at(start);
    after.split_once('?').map_or((url, ""), |(host, query)| (&url[..before.len() + host.len()], query))
}

fn check_hosts(config: &Config) -> Result<(), OpenError> {
    let hosts = config.get_hosts();
    if hosts.is_empty() {
        return Err(bad("has no host"));
    }
    // the end of a password with an unescaped @
    if hosts.iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
        return Err(bad("has an @ in its password: write it %40"));
    }
    Ok(())
}

/// A server that is gone without a word is noticed in seconds, where the system would wait for hours.
fn set_timeouts(config: &mut Config) {
    if config.get_application_name().is_none() {
        config.application_name("pilothouse");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(Duration::from_secs(5));
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(Duration::from_secs(10));
    }
    if config.get_keepalives_idle() == Config::new().get_keepalives_idle() {
        config.keepalives_idle(Duration::from_secs(15));
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(Duration::from_secs(5));
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(3);
    }
}
