//! HTTPS, as the server speaks it itself.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};

use crate::{
    start::refused_in_one_sentence,
    support::{Install, PASSWORD, Server, eventually},
};

/// A certificate for this machine, and its key.
fn pair() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap()
}

/// An install whose files are to be written.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn of(install: Install) -> (Install, Self) {
        let place = |name| install.data_dir().with_file_name(name);
        let files = Self { certificate: place("tls.crt"), key: place("tls.key") };
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

async fn served(pair: &CertifiedKey<KeyPair>) -> (Server, Files) {
    let (install, files) = Files::of(Install::new());
    files.write(pair);
    (install.start().await, files)
}

#[tokio::test]
async fn https_is_served_and_its_cookie_is_secure_on_loopback_too() {
    let pair = pair();
    let (server, _files) = served(&pair).await;
    assert!(server.address.starts_with("https://127.0.0.1:"), "{}", server.address);
    let client = server.client().trusting(&pair.cert.pem());
    let login = client.try_sign_in("admin", PASSWORD).await;
    assert!(login.header("set-cookie").contains("; Secure"), "{}", login.header("set-cookie"));
    let admin = client.sign_in("admin", PASSWORD).await;
    assert_eq!(admin.get("/api/auth/me").await.data()["user"]["username"], "admin");
    server.stop().await;
}

#[tokio::test]
async fn whoever_speaks_http_gets_no_answer_and_disturbs_nobody() {
    let pair = pair();
    let (server, _files) = served(&pair).await;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address.strip_prefix("https://").unwrap()).unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        // it may be cut off
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
    }
    assert!(server.client().trusting(&pair.cert.pem()).reaches().await);
    let log = server.stop().await.log();
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn a_renewed_certificate_is_served_without_a_restart_and_a_broken_one_is_not() {
    let (first, second, third) = (pair(), pair(), pair());
    let (server, files) = served(&first).await;
    let trusting = |pair: &CertifiedKey<KeyPair>| server.client().trusting(&pair.cert.pem());
    assert!(trusting(&first).reaches().await);
    assert!(!trusting(&second).reaches().await);
    let kept = trusting(&first).sign_in("admin", PASSWORD).await;

    files.write(&second);
    eventually("the second certificate", async || trusting(&second).reaches().await.then_some(())).await;
    assert!(!trusting(&first).reaches().await);
    // a connection that there was goes on
    assert_eq!(kept.get("/api/auth/me").await.status, 200);

    let warnings = || server.install.log().matches("still serving the old TLS certificate").count();
    let before = warnings(); // there may be one of the moment between the two files
    fs::write(&files.certificate, third.cert.pem()).unwrap();
    eventually("a warning", async || (warnings() > before).then_some(())).await;
    assert!(trusting(&second).reaches().await, "the old pair still is");
    files.write_key(&third.signing_key.serialize_pem(), 0o644);
    eventually("another", async || server.install.log().contains("chmod 600").then_some(())).await;
    assert!(trusting(&second).reaches().await);
    files.write_key(&third.signing_key.serialize_pem(), 0o600);
    eventually("the third certificate", async || trusting(&third).reaches().await.then_some(())).await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_pair_is_refused_in_one_sentence() {
    let (one, other) = (pair(), pair());
    let (install, files) = Files::of(Install::new());
    let refused = |said: &str| {
        for command in [&["serve"][..], &["config", "check"]] {
            let sentence = refused_in_one_sentence(&install, command);
            assert!(sentence.contains(said), "{said}: {sentence}");
            assert!(!sentence.contains("PRIVATE KEY") && !sentence.contains("panicked"), "{sentence}");
        }
    };
    refused("cannot be read");
    files.write(&one);
    files.write_key(&other.signing_key.serialize_pem(), 0o600);
    refused("do not belong together");
    files.write_key(&one.signing_key.serialize_pem(), 0o640);
    refused("chmod 600");
    files.write_key("nothing", 0o600);
    refused("no unencrypted private key");
    files.write(&one);
    fs::write(&files.certificate, one.signing_key.serialize_pem()).unwrap();
    refused("no certificate");
    files.write(&one);
    let output = install.run(&["config", "check"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
