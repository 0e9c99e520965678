//! Small REST client of an API server with cluster-admin rights. Tests compare its reads with Pilothouse's responses.

use std::time::Duration;

use reqwest::{
    Certificate, Client, Identity, Method, RequestBuilder,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    control_plane::START_TIMEOUT,
    error::{Error, Result},
    kubeconfig::{Access, Credential},
};

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Client of one API server. The connections belong to the async runtime of the first use, so create one client per
/// test.
#[derive(Clone, Debug)]
pub struct Admin {
    server: String,
    token: Option<String>,
    client: Client,
}

impl Admin {
    pub(crate) fn new(access: &Access) -> Result<Self> {
        Self::build(access, Client::builder().tls_certs_only([Self::authority(access)?]))
    }

    /// A client of the API server at this URL, with a bearer token.
    pub fn with_token(server: &str, ca_pem: &str, token: &str) -> Result<Self> {
        let credential = Credential::Token(token.to_owned());
        Self::new(&Access { server: server.to_owned(), ca_pem: ca_pem.to_owned(), credential })
    }

    /// A client that accepts any certificate. For readiness checks only, because a test may configure the server with
    /// an invalid certificate.
    pub(crate) fn accepting_any_certificate(access: &Access) -> Result<Self> {
        Self::build(access, Client::builder().tls_danger_accept_invalid_certs(true))
    }

    fn authority(access: &Access) -> Result<Certificate> {
        Certificate::from_pem(access.ca_pem.as_bytes())
            .map_err(|e| Error::Kubeconfig(format!("certificate authority: {e}")))
    }

    fn build(access: &Access, builder: reqwest::ClientBuilder) -> Result<Self> {
        let unusable = |e: reqwest::Error| Error::Kubeconfig(format!("credential: {e}"));
        let mut builder = builder.no_proxy().timeout(Duration::from_secs(30));
        let mut token = None;
        match &access.credential {
            Credential::Token(text) => token = Some(text.clone()),
            Credential::Certificate(pair) => {
                let pem = format!("{}\n{}", pair.certificate, pair.key);
                builder = builder.identity(Identity::from_pem(pem.as_bytes()).map_err(unusable)?);
            }
        }
        Ok(Self { server: access.server.clone(), token, client: builder.build().map_err(unusable)? })
    }

    /// A request builder with only the bearer token set, for custom headers and bodies. `path` starts with a slash.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.server));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// GET; returns the body as JSON.
    pub async fn get(&self, path: &str) -> Result<Value> {
        json_of(&self.text(path).await?)
    }

    /// GET; returns the body as JSON, or `None` for status 404.
    pub async fn try_get(&self, path: &str) -> Result<Option<Value>> {
        match self.get(path).await {
            Ok(value) => Ok(Some(value)),
            Err(Error::Status { code: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// GET; returns the body as text: logs, `/readyz`, `/metrics`.
    pub async fn text(&self, path: &str) -> Result<String> {
        self.send(Method::GET, path, self.request(Method::GET, path)).await
    }

    /// GET with this `Accept` header; returns the body as text.
    pub async fn text_as(&self, accept: &str, path: &str) -> Result<String> {
        self.send(Method::GET, path, self.request(Method::GET, path).header(ACCEPT, accept)).await
    }

    /// POST of an object.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        json_of(&self.send(Method::POST, path, self.request(Method::POST, path).json(body)).await?)
    }

    /// PUT of an object.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        json_of(&self.send(Method::PUT, path, self.request(Method::PUT, path).json(body)).await?)
    }

    /// PATCH with a JSON merge patch.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        self.patch_as("application/merge-patch+json", path, body).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Result<Value> {
        json_of(&self.send(Method::DELETE, path, self.request(Method::DELETE, path)).await?)
    }

    /// Creates or updates an object, like `kubectl apply --server-side`.
    pub async fn apply(&self, object: &Value) -> Result<Value> {
        let path = format!("{}?fieldManager=pilothouse-testbed&force=true", path_of(object));
        self.patch_as("application/apply-patch+yaml", &path, object).await
    }

    /// Polls `path` until `condition` returns true for its body. Errors, such as status 404, count as false.
    pub async fn wait_until(
        &self,
        path: &str,
        condition: impl Fn(&Value) -> bool,
        deadline: Duration,
    ) -> Result<Value> {
        let end = Instant::now() + deadline;
        let mut last = "nothing".to_owned();
        loop {
            match timeout_at(end, self.get(path)).await {
                Ok(Ok(value)) if condition(&value) => return Ok(value),
                Ok(Ok(value)) => last = value.to_string(),
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => {}
            }
            if Instant::now() + POLL_INTERVAL >= end {
                return Err(Error::Deadline {
                    what: format!("the expected state of {path}"),
                    waited: deadline,
                    last,
                });
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until a new namespace has its service account `default`, without which no pod can be created in it. Only with
    /// controllers.
    pub async fn wait_for_default_account(&self, namespace: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
        self.wait_until(&path, |_| true, START_TIMEOUT).await.map(drop)
    }

    /// Creates or updates a namespace and in it a service account with the cluster-wide RBAC policy rules `rules`, for
    /// instance `json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}])`. Returns a token that is valid
    /// for one day.
    pub async fn service_account_token(&self, namespace: &str, name: &str, rules: Value) -> Result<String> {
        let role = format!("{namespace}:{name}");
        let metadata = |name: &str| json!({"name": name});
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata(namespace)}))
            .await?;
        self.apply(&json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace},
        }))
        .await?;
        self.apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata(&role),
            "rules": rules,
        }))
        .await?;
        self.apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata(&role),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }))
        .await?;
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86_400},
        });
        let response = self.post(&path, &request).await?;
        Ok(response["status"]["token"].as_str().unwrap_or_default().to_owned())
    }

    async fn patch_as(&self, content_type: &str, path: &str, body: &Value) -> Result<Value> {
        let request =
            self.request(Method::PATCH, path).header(CONTENT_TYPE, content_type).body(body.to_string());
        json_of(&self.send(Method::PATCH, path, request).await?)
    }

    async fn send(&self, method: Method, path: &str, request: RequestBuilder) -> Result<String> {
        let method = method.to_string();
        let result = async {
            let response = request.send().await?;
            Ok((response.status(), response.text().await?))
        };
        match result.await {
            Ok((status, body)) if status.is_success() => Ok(body),
            Ok((status, body)) => {
                let object = serde_json::from_str::<Value>(&body).ok();
                let message =
                    object.and_then(|object| object["message"].as_str().map(str::to_owned)).unwrap_or(body);
                Err(Error::Status { method, path: path.into(), code: status.as_u16(), message })
            }
            Err(source) => Err(Error::NoAnswer { method, path: path.into(), source }),
        }
    }
}

fn json_of(text: &str) -> Result<Value> {
    serde_json::from_str(text)
        .map_err(|e| Error::Program(format!("the API server's response is not JSON: {e}")))
}

/// The API path of an object, from its `apiVersion`, `kind` and `metadata`.
pub fn path_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]).to_lowercase());
    let root = if version.contains('/') { "apis" } else { "api" };
    let plural = match kind.as_str() {
        "endpoints" => kind.clone(),
        _ if ["ay", "ey", "oy"].iter().any(|end| kind.ends_with(end)) => format!("{kind}s"),
        _ if kind.ends_with('y') => format!("{}ies", &kind[..kind.len() - 1]),
        _ if kind.ends_with('s') => format!("{kind}es"),
        _ => format!("{kind}s"),
    };
    let name = text(&object["metadata"]["name"]);
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("/{root}/{version}/{plural}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_path_is_derived_from_its_fields() {
        let path = |version: &str, kind: &str, namespace: Option<&str>| {
            path_of(
                &json!({"apiVersion": version, "kind": kind, "metadata": {"name": "n", "namespace": namespace}}),
            )
        };
        assert_eq!(path("v1", "Namespace", None), "/api/v1/namespaces/n");
        assert_eq!(path("v1", "Pod", Some("a")), "/api/v1/namespaces/a/pods/n");
        assert_eq!(path("apps/v1", "Deployment", Some("a")), "/apis/apps/v1/namespaces/a/deployments/n");
        assert_eq!(
            path("networking.k8s.io/v1", "Ingress", Some("a")),
            "/apis/networking.k8s.io/v1/namespaces/a/ingresses/n"
        );
        assert_eq!(
            path("networking.k8s.io/v1", "NetworkPolicy", Some("a")),
            "/apis/networking.k8s.io/v1/namespaces/a/networkpolicies/n"
        );
        assert_eq!(
            path("gateway.networking.k8s.io/v1", "Gateway", Some("a")),
            "/apis/gateway.networking.k8s.io/v1/namespaces/a/gateways/n"
        );
    }
}
