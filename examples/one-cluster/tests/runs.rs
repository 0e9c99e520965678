//! The example against a real control plane: what it prints, and what the cluster says of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "a test starts the example")]

use std::process::{Command, Output};

use pilothouse_testbed::{ControlPlane, workloads};

fn run(plane: &ControlPlane, arguments: [&str; 3]) -> Output {
    let kubeconfig = plane.dir().unwrap().join("admin.kubeconfig");
    Command::new(env!("CARGO_BIN_EXE_example-one-cluster")).arg(kubeconfig).args(arguments).output().unwrap()
}

#[tokio::test]
async fn it_lists_scales_and_records() {
    // without controllers nothing else acts on what it does
    let plane = ControlPlane::builder().controllers(false).start().await.unwrap();
    let admin = plane.client();
    for object in [
        workloads::namespace("shop"),
        workloads::deployment("shop", "web", 2),
        workloads::stateful_set("shop", "db", 1),
    ] {
        admin.apply(&object).await.unwrap();
    }

    let output = run(&plane, ["shop", "web", "5"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let version = admin.get("/version").await.unwrap()["gitVersion"].as_str().unwrap().to_owned();
    let lines: Vec<_> = said.lines().collect();
    let [cluster, db, web, scaled, scale, create] = &lines[..] else { panic!("{said}") };
    assert_eq!(*cluster, format!("cluster mine {version}"));
    assert_eq!(*db, r#""statefulset" db: 1 wanted, "progressing""#);
    assert_eq!(*web, r#""deployment" web: 2 wanted, "progressing""#);
    assert_eq!(*scaled, "web now wants 5");
    assert!(create.ends_with(" cli:example: create mine, success"), "{create}");
    let (id, rest) = scale.split_once(' ').unwrap();
    assert_eq!(rest, "cli:example: scale web, success");

    let web = admin.get("/apis/apps/v1/namespaces/shop/deployments/web").await.unwrap();
    assert_eq!(web["spec"]["replicas"], 5);
    let events = plane.audit_events().unwrap();
    assert!(events.iter().any(|event| event.audit_id == id && event.verb == "patch"), "{id} is its Audit-ID");

    // what is not there is refused by the cluster, and recorded all the same
    let output = run(&plane, ["shop", "nowhere", "1"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("not scaled: RESOURCE_NOT_FOUND"), "{said}");
    assert!(said.contains("cli:example: scale nowhere, failed"), "{said}");
}
