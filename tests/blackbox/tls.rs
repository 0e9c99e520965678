//! HTTPS served by the server itself, without a proxy.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};

use crate::{
    start::refused_with_one_message,
    support::{Install, PASSWORD, Server, eventually},
};

/// A self-signed certificate for this machine, and its key.
fn pair() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap()
}

/// The paths of certificate and key that an install is configured with.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn of(install: Install) -> (Install, Self) {
        let path_of = |name| install.data_dir().with_file_name(name);
        let files = Self { certificate: path_of("tls.crt"), key: path_of("tls.key") };
        let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
        let (certificate, key) = (path(&files.certificate), path(&files.key));
        (install.set("TLS_CERTIFICATE", certificate).set("TLS_KEY", key), files)
    }

    fn write_key(&self, key: &str, mode: u32) {
        fs::write(&self.key, key).unwrap();
        fs::set_permissions(&self.key, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn write(&self, pair: &CertifiedKey<KeyPair>) {
        fs::write(&self.certificate, pair.cert.pem()).unwrap();
        self.write_key(&pair.signing_key.serialize_pem(), 0o600);
    }
}

async fn serve_with(pair: &CertifiedKey<KeyPair>) -> (Server, Files) {
    let (install, files) = Files::of(Install::new());
    files.write(pair);
    (install.start().await, files)
}

#[tokio::test]
async fn https_sets_a_secure_cookie_even_on_loopback() {
    let pair = pair();
    let (server, _files) = serve_with(&pair).await;
    assert!(server.address.starts_with("https://127.0.0.1:"), "{}", server.address);
    let client = server.client().trusting(&pair.cert.pem());
    let login = client.try_sign_in("admin", PASSWORD).await;
    assert!(login.header("set-cookie").contains("; Secure"), "{}", login.header("set-cookie"));
    let admin = client.sign_in("admin", PASSWORD).await;
    assert_eq!(admin.get("/api/auth/me").await.data()["user"]["username"], "admin");
    server.stop().await;
}

#[tokio::test]
async fn plain_http_gets_no_response_and_does_not_affect_others() {
    let pair = pair();
    let (server, _files) = serve_with(&pair).await;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address.strip_prefix("https://").unwrap()).unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut response = Vec::new();
        // the connection may be reset
        let _ = stream.read_to_end(&mut response);
        assert!(!response.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&response));
    }
    assert!(server.client().trusting(&pair.cert.pem()).is_reachable().await);
    let log = server.stop().await.log();
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn renewed_certificate_is_loaded_without_restart_and_invalid_one_is_not() {
    let (first, second, third) = (pair(), pair(), pair());
    let (server, files) = serve_with(&first).await;
    let trusting = |pair: &CertifiedKey<KeyPair>| server.client().trusting(&pair.cert.pem());
    assert!(trusting(&first).is_reachable().await);
    assert!(!trusting(&second).is_reachable().await);
    let first_client = trusting(&first).sign_in("admin", PASSWORD).await;

    files.write(&second);
    eventually("the second certificate", async || trusting(&second).is_reachable().await.then_some(())).await;
    assert!(!trusting(&first).is_reachable().await);
    // an open connection continues
    assert_eq!(first_client.get("/api/auth/me").await.status, 200);

    let warnings = || server.install.log().matches("still serving the old TLS certificate").count();
    let before = warnings(); // a reload between the two writes may have logged one
    fs::write(&files.certificate, third.cert.pem()).unwrap();
    eventually("a warning about the pair", async || (warnings() > before).then_some(())).await;
    assert!(trusting(&second).is_reachable().await, "the old pair is still served");
    files.write_key(&third.signing_key.serialize_pem(), 0o644);
    eventually("a warning about the file mode", async || {
        server.install.log().contains("chmod 600").then_some(())
    })
    .await;
    assert!(trusting(&second).is_reachable().await);
    files.write_key(&third.signing_key.serialize_pem(), 0o600);
    eventually("the third certificate", async || trusting(&third).is_reachable().await.then_some(())).await;
    server.stop().await;
}

#[tokio::test]
async fn certificate_and_key_that_do_not_match_are_refused() {
    let (one, other) = (pair(), pair());
    let (install, files) = Files::of(Install::new());
    let refused = |expected: &str| {
        for command in [&["serve"][..], &["config", "check"]] {
            let sentence = refused_with_one_message(&install, command);
            assert!(sentence.contains(expected), "{expected}: {sentence}");
            assert!(!sentence.contains("PRIVATE KEY") && !sentence.contains("panicked"), "{sentence}");
        }
    };
    let [certificate, key] = [&files.certificate, &files.key].map(|path| path.to_str().unwrap());
    refused(certificate);
    files.write(&one);
    files.write_key(&other.signing_key.serialize_pem(), 0o600);
    refused(key);
    files.write_key(&one.signing_key.serialize_pem(), 0o640);
    refused("chmod 600");
    files.write_key("nothing", 0o600);
    refused(key);
    files.write(&one);
    fs::write(&files.certificate, one.signing_key.serialize_pem()).unwrap();
    refused(certificate);
    files.write(&one);
    let output = install.run(&["config", "check"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
