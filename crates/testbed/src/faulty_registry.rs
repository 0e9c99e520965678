//! Container registry that refuses every image, each in the way that the first part of its name states. A node pulls from
//! it without TLS, because its address is a loopback address.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

use crate::{
    error::{Result, io},
    http::Request,
};

/// How the registry refuses an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryFault {
    /// 401 that asks for a password, of which the node has none.
    Unauthorized,
    /// 401 although the node presents the token that the registry asks for: a private image.
    Denied,
    /// 404: no such image or tag.
    NotFound,
    /// 429: too many requests.
    RateLimited,
}

impl RegistryFault {
    /// Every fault.
    pub const ALL: [Self; 4] = [Self::Unauthorized, Self::Denied, Self::NotFound, Self::RateLimited];

    /// The first part of the image's name.
    fn path(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Denied => "denied",
            Self::NotFound => "missing",
            Self::RateLimited => "rate-limited",
        }
    }

    /// Status, code and message of the response.
    fn response(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Unauthorized | Self::Denied => (401, "UNAUTHORIZED", "authentication required"),
            Self::NotFound => (404, "MANIFEST_UNKNOWN", "manifest unknown"),
            Self::RateLimited => {
                (429, "TOOMANYREQUESTS", "You have reached your unauthenticated pull rate limit.")
            }
        }
    }
}

/// A registry without images. Its tasks run on the runtime that started it and stop when this value is dropped.
pub struct FaultyRegistry {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl FaultyRegistry {
    /// Starts the registry on a port of 127.0.0.1 chosen by the system.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(io("listening"))?;
        let address = listener.local_addr().map_err(io("listening"))?;
        let task = tokio::spawn(async move {
            // the end of this task ends those of the connections
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(async move {
                    // an error means that the client disconnected
                    let _ = serve(client, address).await;
                });
            }
        });
        Ok(Self { address, task })
    }

    /// The registry in the name of an image, for instance `127.0.0.1:41234`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An image that the registry refuses in this way, for instance `127.0.0.1:41234/rate-limited/app:1`.
    pub fn image(&self, fault: RegistryFault) -> String {
        format!("{}/{}/app:1", self.address, fault.path())
    }
}

impl Drop for FaultyRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves the requests of one connection.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, address: SocketAddr) -> std::io::Result<()> {
    loop {
        let request = Request::read(&mut stream).await?;
        if request.target.starts_with("/token") {
            request.respond(&mut stream, 200, &[], r#"{"token":"of-nobody","expires_in":300}"#).await?;
            continue;
        }
        let path = request.target.trim_start_matches("/v2/");
        let of_image = |fault: &RegistryFault| path.split('/').next() == Some(fault.path());
        let Some(fault) = RegistryFault::ALL.into_iter().find(of_image) else {
            request.respond(&mut stream, 404, &[], "{}").await?;
            continue;
        };
        let (status, code, message) = fault.response();
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#);
        let challenge = match fault {
            RegistryFault::Unauthorized => Some(r#"Basic realm="test bed""#.to_owned()),
            RegistryFault::Denied => Some(format!(
                r#"Bearer realm="http://{address}/token",service="{address}",scope="repository:denied/app:pull",error="insufficient_scope""#
            )),
            _ => None,
        };
        let headers: Vec<_> = challenge.iter().map(|value| ("www-authenticate", value.as_str())).collect();
        request.respond(&mut stream, status, &headers, &body).await?;
    }
}

#[cfg(test)]
mod tests {
    use reqwest::Client;

    use super::*;

    #[tokio::test]
    async fn each_image_is_refused_with_its_status() {
        let registry = FaultyRegistry::start().await.expect("a registry");
        let client = Client::builder().no_proxy().build().expect("a client");
        for fault in RegistryFault::ALL {
            let image = registry.image(fault);
            let repository = image.trim_end_matches(":1").split_once('/').expect("registry and repository").1;
            let url = format!("http://{}/v2/{repository}/manifests/1", registry.address());
            let (status, code, _) = fault.response();
            assert_eq!(client.head(&url).send().await.expect("a response").status(), status);
            let response = client.get(&url).send().await.expect("a response");
            assert_eq!(response.headers().contains_key("www-authenticate"), status == 401);
            assert!(response.text().await.expect("a body").contains(code));
        }
    }
}
