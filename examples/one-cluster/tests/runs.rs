//! Runs the example against a real control plane, and checks its output, and the state and audit log of the cluster.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test starts the example")]

use std::process::{Command, Output};

use pilothouse_testbed::{ControlPlane, workloads};

fn run(plane: &ControlPlane, arguments: [&str; 3]) -> Output {
    let kubeconfig = plane.dir().unwrap().join("admin.kubeconfig");
    Command::new(env!("CARGO_BIN_EXE_example-one-cluster")).arg(kubeconfig).args(arguments).output().unwrap()
}

#[tokio::test]
async fn example_lists_scales_and_records() {
    // without controllers, so that only the example changes objects
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
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let version = admin.get("/version").await.unwrap()["gitVersion"].as_str().unwrap().to_owned();
    let lines: Vec<_> = stdout.lines().collect();
    let [cluster, db, web, scaled, scale, create] = &lines[..] else { panic!("{stdout}") };
    assert_eq!(*cluster, format!("cluster mine {version}"));
    assert_eq!(*db, r#""statefulset" db: 1 wanted, "progressing""#);
    assert_eq!(*web, r#""deployment" web: 2 wanted, "progressing""#);
    assert_eq!(*scaled, "web scaled to 5");
    assert!(create.ends_with(" cli:example: create mine, success"), "{create}");
    let (id, rest) = scale.split_once(' ').unwrap();
    assert_eq!(rest, "cli:example: scale web, success");

    let web = admin.get("/apis/apps/v1/namespaces/shop/deployments/web").await.unwrap();
    assert_eq!(web["spec"]["replicas"], 5);
    let events = plane.audit_events().unwrap();
    assert!(events.iter().any(|event| event.audit_id == id && event.verb == "patch"), "{id} is its Audit-ID");

    // the cluster refuses a deployment that does not exist, and the refusal is recorded
    let output = run(&plane, ["shop", "nowhere", "1"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert!(stdout.contains("not scaled: RESOURCE_NOT_FOUND"), "{stdout}");
    assert!(stdout.contains("cli:example: scale nowhere, failed"), "{stdout}");
}
