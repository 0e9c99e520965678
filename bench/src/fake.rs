//! API servers that are none: over TLS, on loopback, in threads of this process. Healthy ones that answer what the prober
//! asks, one whose log is long, one whose log is slow, one that takes connections and never answers.

use std::{net::TcpListener, thread, time::Duration};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    web::{self, Bytes},
};
use futures_util::stream;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};

use crate::error::Result;

/// The certificate's name, whatever the address.
const NAME: &str = "127.0.0.1";
/// A line of a long log, with its time and its end, in bytes.
pub(crate) const LINE: usize = 128;
/// Lines in a piece of it.
const PIECE: usize = 256;
/// How often a slow log has a line.
const SLOW: Duration = Duration::from_millis(500);

/// Answers as an API server would.
pub(crate) struct Fake {
    pub(crate) url: String,
    pub(crate) ca_pem: String,
}

impl Fake {
    /// One that listens, with a log of this many bytes.
    pub(crate) fn start(log_bytes: usize) -> Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config = ServerConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)?;
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let url = format!("https://{}", listener.local_addr()?);
        // it ends with the process
        thread::spawn(move || serve(listener, config, log_bytes));
        Ok(Self { url, ca_pem: cert.pem() })
    }

    /// A cluster as it is registered: here, or at another address.
    pub(crate) fn cluster(&self, name: &str, url: &str) -> Value {
        json!({
            "name": name, "auth_type": "token", "token": "of-nobody", "api_server": url,
            "ca_certificate": self.ca_pem, "skip_test": true,
        })
    }
}

fn serve(listener: TcpListener, config: ServerConfig, log_bytes: usize) -> std::io::Result<()> {
    let application = move || {
        App::new()
            .route("/api/v1/namespaces/{namespace}/pods/{name}", web::get().to(pod))
            .route(
                "/api/v1/namespaces/{namespace}/pods/{name}/log",
                web::get().to(move |request| log(request, log_bytes)),
            )
            .default_service(web::to(answer))
    };
    let server = HttpServer::new(application).workers(1).disable_signals();
    actix_web::rt::System::new().block_on(server.listen_rustls_0_23(listener, config)?.run())
}

/// The address of one that takes connections, as far as the kernel does, and never says a word.
pub(crate) fn hanging() -> Result<(TcpListener, String)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let url = format!("https://{}", listener.local_addr()?);
    Ok((listener, url))
}

/// An address at which nobody is.
pub(crate) fn dead() -> Result<String> {
    let (listener, url) = hanging()?;
    drop(listener);
    Ok(url)
}

async fn answer(request: HttpRequest) -> HttpResponse {
    let body = match request.path() {
        "/version" => json!({"major": "1", "minor": "37", "gitVersion": "v1.37.2"}),
        path if path.ends_with("selfsubjectreviews") => json!({
            "kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1",
            "status": {"userInfo": {"username": "bench"}},
        }),
        path => {
            let kind = match path.rsplit('/').next() {
                Some("nodes") => "NodeList",
                Some("namespaces") => "NamespaceList",
                _ => "PodList",
            };
            json!({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []})
        }
    };
    HttpResponse::Ok().json(body)
}

async fn pod(path: web::Path<(String, String)>) -> HttpResponse {
    let (namespace, name) = path.into_inner();
    // of the long log the container has ended; the slow one goes on
    let state = if name == "long" {
        json!({"terminated": {"exitCode": 0, "reason": "Completed"}})
    } else {
        json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})
    };
    HttpResponse::Ok().json(json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace, "uid": "00000000-0000-4000-8000-000000000001"},
        "spec": {"nodeName": "node", "containers": [{"name": "app", "image": "app:1"}]},
        "status": {"phase": "Running", "containerStatuses": [{
            "name": "app", "image": "app:1", "restartCount": 0, "ready": true, "state": state,
        }]},
    }))
}

async fn log(request: HttpRequest, log_bytes: usize) -> HttpResponse {
    let piece = |n: usize, lines: usize| -> Bytes {
        let line = |line: usize| {
            let n = n * PIECE + line;
            let (seconds, nanos) = (n / 1_000 % 60, n % 1_000 * 1_000_000);
            let start = format!(
                "2026-01-01T{:02}:{:02}:{seconds:02}.{nanos:09}Z line {n} ",
                n / 3_600_000 % 24,
                n / 60_000 % 60
            );
            format!("{start:.<width$}\n", width = LINE - 1)
        };
        (0..lines).map(line).collect::<String>().into()
    };
    if request.path().contains("/long/") {
        let pieces = log_bytes / (LINE * PIECE);
        let bytes = stream::iter((0..pieces).map(move |n| Ok::<_, actix_web::Error>(piece(n, PIECE))));
        return HttpResponse::Ok().content_type("text/plain").streaming(bytes);
    }
    let lines = stream::unfold(0, move |n| async move {
        actix_web::rt::time::sleep(SLOW).await;
        Some((Ok::<_, actix_web::Error>(piece(n, 1)), n + 1))
    });
    HttpResponse::Ok().content_type("text/plain").streaming(Box::pin(lines))
}
