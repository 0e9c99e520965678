//! Admission webhook that denies every new pod of one namespace.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

use crate::{
    ControlPlane, ServingCertificate,
    error::{Result, io},
    fault_proxy::acceptor,
    http::Request,
};

/// Name of the webhook in the API server's messages.
const NAME: &str = "deny.testbed.example";

/// An admission webhook. Its tasks run on the runtime that started it and stop when this value is dropped. Its
/// registration remains, with the failure policy `Fail`: then the API server refuses new pods of the namespace because
/// the webhook does not respond.
pub struct DenyingWebhook {
    task: JoinHandle<()>,
}

impl DenyingWebhook {
    /// Starts the webhook and registers it for new pods of this namespace. The API server denies them with
    /// `admission webhook "deny.testbed.example" denied the request: <message>`.
    pub async fn start(plane: &ControlPlane, namespace: &str, message: &str) -> Result<Self> {
        let pair =
            plane.owned("start an admission webhook for it")?.authority.serving(ServingCertificate::Valid)?;
        let acceptor = acceptor(&pair.certificate, &pair.key)?;
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(io("listening"))?;
        let address = listener.local_addr().map_err(io("listening"))?;
        let message: Arc<str> = message.into();
        let task = tokio::spawn(async move {
            // the end of this task ends those of the connections
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, message) = (acceptor.clone(), message.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(client).await else { return };
                    // an error means that the client disconnected
                    let _ = serve(stream, &message).await;
                });
            }
        });
        let webhook = Self { task };
        let url = format!("https://{address}/");
        plane.client().apply(&registration(namespace, &url, plane.ca_pem())).await?;
        Ok(webhook)
    }
}

impl Drop for DenyingWebhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn registration(namespace: &str, url: &str, ca_pem: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": format!("deny-{namespace}")},
        "webhooks": [{
            "name": NAME, "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
            "timeoutSeconds": 5, "clientConfig": {"url": url, "caBundle": BASE64.encode(ca_pem)},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        }],
    })
}

/// Serves the requests of one connection.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, message: &str) -> std::io::Result<()> {
    loop {
        let request = Request::read(&mut stream).await?;
        let review: Value = serde_json::from_slice(&request.body)?;
        request.respond(&mut stream, 200, &[], &denial(&review, message).to_string()).await?;
    }
}

/// The response to an `AdmissionReview`.
fn denial(review: &Value, message: &str) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {
            "uid": review["request"]["uid"], "allowed": false, "status": {"code": 403, "message": message},
        },
    })
}
