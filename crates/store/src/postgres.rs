//! PostgreSQL address: connection URL with the syntax of libpq, and TLS by rustls.
//!
//! One default differs from libpq: without `sslmode`, the certificate of a server on another machine is verified in
//! full, where libpq accepts any (docs/decisions/0011-postgres-tls.md).

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

/// Maximum duration of connecting, including TLS and authentication.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Default port of PostgreSQL.
const DEFAULT_PORT: u16 = 5432;

/// Settings of every session. If a replica disappears within a transaction or a migration, PostgreSQL must release its
/// locks within seconds instead of hours.
const SESSION_SETTINGS: &str = "SET idle_in_transaction_session_timeout = '10s'; SET tcp_keepalives_idle = 15; \
    SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;";

/// Parameters that an address may have besides `sslmode` and `sslrootcert`. Others are refused.
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

/// The address of a PostgreSQL database. `Debug` and `Display` show no user, password or parameters.
#[derive(Clone)]
pub struct PostgresAddress {
    config: Config,
    tls: MakeRustlsConnect,
}

impl PostgresAddress {
    /// Parses `postgres://user:password@host:port/database?parameter=value&…`, and loads the certificates it names.
    ///
    /// # Errors
    /// [`OpenError::Address`], which quotes nothing of the address.
    pub(crate) fn parse(url: &str) -> Result<Self, OpenError> {
        let (address, query) = split(url);
        let (mut mode, mut root, mut rest) = (None, None, Vec::new());
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "sslmode" => mode = Some(Mode::parse(value)?),
                "sslrootcert" => {
                    let path = percent_decode_str(value).decode_utf8();
                    root = Some(path.map_err(|_| address_error("has an sslrootcert that is not UTF-8"))?);
                }
                name if PARAMETERS.contains(&name) => rest.push(parameter),
                _ => return Err(unknown_parameter()),
            }
        }
        // the error of the parser may quote a part of the password
        let mut config: Config = format!("{address}?{}", rest.join("&")).parse().map_err(|_| {
            address_error("is malformed; characters such as @ / ? in a password are written %40 %2F %3F")
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
            (Mode::Disable, _) => Trust::Any,
            (Mode::VerifyCa, None) | (_, Some("system")) => {
                return Err(address_error(
                    "trusts the system's certificates for any host: use sslmode=verify-full",
                ));
            }
            (_, Some(file)) => Trust::Chain(roots(file)?),
            (_, None) => Trust::Any,
        };
        Ok(Self { config, tls: MakeRustlsConnect::new(tls::config(trust)?) })
    }

    /// Hosts and, where `hostaddr` names them, their addresses, each with its port.
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

    /// Opens a connection, driven by the caller's runtime.
    pub(crate) async fn connect(&self) -> ConnectionResult<AsyncPgConnection> {
        let refused = |error: tokio_postgres::Error| ConnectionError::BadConnection(in_one_line(&error));
        let connecting = async {
            let (client, connection) = self.config.connect(self.tls.clone()).await.map_err(refused)?;
            let mut connection =
                AsyncPgConnection::try_from_client_and_connection(client, connection).await?;
            connection
                .batch_execute(SESSION_SETTINGS)
                .await
                .map_err(ConnectionError::CouldntSetupConfiguration)?;
            Ok(connection)
        };
        let timed_out = |_| ConnectionError::BadConnection("no response".to_owned());
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(timed_out)?
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
                Host::Unix(directory) => write!(f, "{comma}{}", directory.display())?,
            }
            if let Some(port) = ports.get(n).or(ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

/// The `sslmode` of libpq.
#[derive(Clone, Copy)]
enum Mode {
    /// No TLS.
    Disable,
    /// TLS if the server supports it, with any certificate, unless `sslrootcert` is set.
    Prefer,
    /// TLS with any certificate, unless `sslrootcert` is set.
    Require,
    /// TLS with a certificate from `sslrootcert`, for any host.
    VerifyCa,
    /// TLS with a certificate from `sslrootcert`, or else from a root of the system, for this host.
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
                return Err(address_error(
                    "has an sslmode other than disable, prefer, require, verify-ca, verify-full",
                ));
            }
        })
    }

    /// The default mode. Connections within a machine cannot be intercepted. Between machines, an attacker who can
    /// intercept can also impersonate the server, so the certificate is verified.
    fn default_for(config: &Config, with_roots: bool) -> Self {
        let loopback = |host: &Host| match host {
            Host::Tcp(name) if name == "localhost" => true,
            Host::Tcp(name) => name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
            Host::Unix(_) => true,
        };
        let is_local = match config.get_hostaddrs() {
            [] => config.get_hosts().iter().all(loopback),
            addresses => addresses.iter().all(IpAddr::is_loopback),
        };
        if is_local && !with_roots { Self::Prefer } else { Self::VerifyFull }
    }
}

fn address_error(what: impl Into<String>) -> OpenError {
    OpenError::Address(what.into())
}

fn unknown_parameter() -> OpenError {
    address_error(format!("has a parameter other than sslmode, sslrootcert, {}", PARAMETERS.join(", ")))
}

/// Splits an address into the part before the parameters, and the parameters. A `?` before the `@` belongs to the
/// password.
fn split(url: &str) -> (&str, &str) {
    let start = url.find('@').unwrap_or(0);
    let (before, after) = url.split_at(start);
    after.split_once('?').map_or((url, ""), |(host, query)| (&url[..before.len() + host.len()], query))
}

fn check_hosts(config: &Config) -> Result<(), OpenError> {
    let hosts = config.get_hosts();
    if hosts.is_empty() {
        return Err(address_error("has no host"));
    }
    // the host contains the end of a password with an unescaped @
    if hosts.iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
        return Err(address_error("has an @ in its password: write it %40"));
    }
    Ok(())
}

/// Sets timeouts, so that a server that disappeared is detected in seconds instead of hours.
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
