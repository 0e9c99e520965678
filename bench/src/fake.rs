//! Fake API servers over TLS on loopback, in threads of this process: healthy ones that respond to probes, with pods, a
//! long and a slow log, and one that accepts connections and never responds.

use std::{net::TcpListener, thread, time::Duration};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    web::{self, Bytes, Data},
};
use futures_util::stream;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};

use crate::error::Result;

mod lists;
mod pods;
mod problems;

pub(crate) use pods::{FakePods, NAMESPACES, namespace};
pub(crate) use problems::ProblemCluster;

use lists::Lists;

/// Name in the certificate.
const CERTIFICATE_NAME: &str = "127.0.0.1";
/// Length of a log line in bytes, with timestamp and line feed.
pub(crate) const LINE_BYTES: usize = 128;
/// Lines per chunk of the long log.
const LINES_PER_CHUNK: usize = 256;
/// Interval between lines of the slow log.
const SLOW_LINE_INTERVAL: Duration = Duration::from_millis(500);

/// A fake API server.
pub(crate) struct Fake {
    pub(crate) url: String,
    pub(crate) ca_pem: String,
}

impl Fake {
    /// Starts a server whose long log has this many bytes. Its lists are empty.
    pub(crate) fn start(log_bytes: usize) -> Result<Self> {
        Self::start_with(log_bytes, Lists::empty())
    }

    /// Starts a server with pods, which only watches of all pods return, and with their usage.
    pub(crate) fn with_pods(pods: FakePods) -> Result<Self> {
        Self::start_with(0, pods.lists())
    }

    /// Starts a server with nodes, Deployments and pods, of which one in a hundred does not work.
    pub(crate) fn with_problems(cluster: ProblemCluster) -> Result<Self> {
        Self::start_with(0, cluster.lists())
    }

    fn start_with(log_bytes: usize, lists: Lists) -> Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([CERTIFICATE_NAME.to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config = ServerConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)?;
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let url = format!("https://{}", listener.local_addr()?);
        // the thread runs until the process ends
        thread::spawn(move || serve(listener, config, log_bytes, lists));
        Ok(Self { url, ca_pem: cert.pem() })
    }

    /// Request body that registers a cluster with the URL `url`, of this server or another address.
    pub(crate) fn cluster(&self, name: &str, url: &str) -> Value {
        json!({
            "name": name, "auth_type": "token", "token": "of-nobody", "api_server": url,
            "ca_certificate": self.ca_pem, "skip_test": true,
        })
    }
}

fn serve(listener: TcpListener, config: ServerConfig, log_bytes: usize, lists: Lists) -> std::io::Result<()> {
    let application = move || {
        App::new()
            .app_data(Data::new(lists.clone()))
            .route("/api/v1/namespaces/{namespace}/pods/{name}", web::get().to(pod))
            .route(
                "/api/v1/namespaces/{namespace}/pods/{name}/log",
                web::get().to(move |request| log(request, log_bytes)),
            )
            .default_service(web::to(lists::respond))
    };
    let server = HttpServer::new(application).workers(1).disable_signals();
    actix_web::rt::System::new().block_on(server.listen_rustls_0_23(listener, config)?.run())
}

/// URL of a listener whose connections the kernel accepts, and that never responds.
pub(crate) fn hanging() -> Result<(TcpListener, String)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let url = format!("https://{}", listener.local_addr()?);
    Ok((listener, url))
}

/// URL of a port without a listener.
pub(crate) fn without_listener() -> Result<String> {
    let (listener, url) = hanging()?;
    drop(listener);
    Ok(url)
}

async fn respond(request: HttpRequest) -> HttpResponse {
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
    // the container of the long log has ended; that of the slow log runs
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
    let chunk = |n: usize, lines: usize| -> Bytes {
        let line = |line: usize| {
            let n = n * LINES_PER_CHUNK + line;
            let (seconds, nanos) = (n / 1_000 % 60, n % 1_000 * 1_000_000);
            let start = format!(
                "2026-01-01T{:02}:{:02}:{seconds:02}.{nanos:09}Z line {n} ",
                n / 3_600_000 % 24,
                n / 60_000 % 60
            );
            format!("{start:.<width$}\n", width = LINE_BYTES - 1)
        };
        (0..lines).map(line).collect::<String>().into()
    };
    if request.path().contains("/long/") {
        let chunks = log_bytes / (LINE_BYTES * LINES_PER_CHUNK);
        let bytes =
            stream::iter((0..chunks).map(move |n| Ok::<_, actix_web::Error>(chunk(n, LINES_PER_CHUNK))));
        return HttpResponse::Ok().content_type("text/plain").streaming(bytes);
    }
    let lines = stream::unfold(0, move |n| async move {
        actix_web::rt::time::sleep(SLOW_LINE_INTERVAL).await;
        Some((Ok::<_, actix_web::Error>(chunk(n, 1)), n + 1))
    });
    HttpResponse::Ok().content_type("text/plain").streaming(Box::pin(lines))
}
